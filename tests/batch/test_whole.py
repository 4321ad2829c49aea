"""The command with a network: the same results as one by one, and nobody's name anywhere."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.datadict import DicomDictionary, keyword_for_tag
from typer.testing import CliRunner

from spider_bundle.batch.records import Manifest, State, read_lines
from spider_bundle.bundle import inference_workflow
from spider_bundle.cli import app
from spider_bundle.demo import write_demo_pair
from spider_bundle.labels import Label
from spider_bundle.networks import SPIDER
from tests.batch.conftest import contents, strays
from tests.tiny import TINY_NETWORK, UNTRAINED

PLANTED = "PLANTED"
BIRTH = "19370412"


@dataclass
class Night:
    """A batch that has been run.

    Attributes:
        root: Folder of everything.
        code: Exit code.
        said: What the command said and logged.
        before: Contents of the input before the run.
        secrets: What must not be found in anything written.
    """

    root: Path
    code: int
    said: str
    before: dict[str, Any]
    secrets: set[str]

    @property
    def arguments(self) -> list[str]:
        names = ("--weights", "weights.pt"), ("--config-file", "tiny.json"), ("--key-file", "key")
        files = [word for o, name in names for word in (o, str(self.root / name))]
        size = ["--spacing", "8", "--shape", "32", "--device", "cpu", "--precision", "float32"]
        return [
            "batch",
            str(self.root / "Doe_Jane"),
            str(self.root / "out"),
            *size,
            *files,
            *("--dicom", "--mesh", "--html"),
        ]


def plant(path: Path) -> set[str]:
    """Write an identity into every text attribute that the radiograph does not use."""
    dataset = pydicom.dcmread(path)
    secrets = {dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID}
    kinds = {"PN", "LO", "SH", "LT", "ST", "UT", "UC"}
    groups = {0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040}
    planted = 0
    for tag, (kind, number, _, _, keyword) in DicomDictionary.items():
        is_free = keyword and tag >> 16 in groups and number.startswith("1")
        if kind in kinds and is_free and keyword not in dataset:
            setattr(dataset, keyword_for_tag(tag), f"{PLANTED}{planted}")
            planted += 1
    assert planted > 300
    dataset.PatientName, dataset.PatientID = f"{PLANTED}^Jane", f"{PLANTED}-4711"
    dataset.PatientBirthDate = BIRTH
    dataset.AccessionNumber = f"{PLANTED}A"
    dataset.save_as(path)
    return secrets


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Two good studies, one in an archive, one without its lateral, and a damaged file."""
    root = tmp_path_factory.mktemp("night")
    source = root / "Doe_Jane"
    secrets: set[str] = {PLANTED, "Doe_", BIRTH, str(root)}
    for name in ("good", "packed", "half"):
        for path in write_demo_pair(source / f"Doe_{name}", name=name, shape=(160, 160), pitch=1.8):
            secrets |= plant(path)
    (source / "Doe_half" / "lateral.dcm").rename(source / "Doe_damaged")
    content = (source / "Doe_damaged").read_bytes()
    (source / "Doe_damaged").write_bytes(content[:132] + f"{PLANTED}^Jane".encode() * 9)
    shutil.make_archive(str(source / "Doe_night"), "zip", source / "Doe_packed")
    shutil.rmtree(source / "Doe_packed")
    torch.manual_seed(0)
    network = SPIDER(**{name.split("::")[1]: value for name, value in TINY_NETWORK.items()})
    with torch.no_grad():
        network.decoder.structure[-1].bias[Label.BONE] += 100.0  # so that a surface is written
    torch.save(network.state_dict(), root / "weights.pt")
    (root / "tiny.json").write_text(json.dumps(TINY_NETWORK | UNTRAINED))
    run = Night(root, 0, "", contents(source), secrets)
    # a process of its own, so that nothing its children print goes unseen
    command = [sys.executable, "-m", "spider_bundle.cli", *run.arguments, "--create-key-file"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    run.code, run.said = done.returncode, done.stdout + done.stderr
    return run


@pytest.mark.slow
def test_command_does_what_it_says(night: Night) -> None:
    assert night.code == 3, night.said
    assert "2 done, 2 refused" in night.said
    assert "E01" in night.said
    assert "E06" in night.said
    out = night.root / "out"
    assert strays(out) == []
    assert contents(night.root / "Doe_Jane") == night.before
    entries = Manifest(out).entries.values()
    assert sorted(entry.state.value for entry in entries) == ["done", "done", "refused", "refused"]
    assert (out / "index.html").is_file()
    for entry in entries:
        written = {path.suffix for path in (out / entry.study_key).rglob("*")}
        wanted = {".gz", ".json", ".png", ".html", ".dcm", ".stl"}
        assert wanted <= written or entry.state is State.REFUSED
    start = read_lines(out / "audit" / "run-000001.jsonl")[0][0]
    assert start["settings"]["key"] == "file"


@pytest.mark.slow
def test_nothing_written_names_anybody(night: Night) -> None:
    looked_at = 0
    for path in [*(night.root / "out").rglob("*")]:
        assert not any(secret in path.name for secret in night.secrets)
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".gz":
            assert content[3] == 0  # no name and no comment in the gzip header
            content = gzip.decompress(content)
        text = content.decode("latin-1") + content.replace(b"\x00", b"").decode("latin-1")
        found = [secret for secret in night.secrets if secret in text]
        assert not found, (path.name, found)
        looked_at += 1
    assert looked_at > 30
    said = night.said.replace(str(night.root / "out"), "OUT")  # which the person at it named
    assert not [secret for secret in night.secrets if secret in said]
    key = (night.root / "key").read_text().strip()
    for path in (night.root / "out").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()


@pytest.mark.slow
def test_results_are_those_of_infer(night: Night, tmp_path: Path) -> None:
    workflow = inference_workflow(
        {
            **TINY_NETWORK,
            **UNTRAINED,
            "dataset_dir": str(night.root / "Doe_Jane" / "Doe_good"),
            "output_dir": str(tmp_path / "one"),
            "weights": str(night.root / "weights.pt"),
            "site_key": (night.root / "key").read_text().strip(),
            **{"spacing": 8.0, "shape": 32, "device": "cpu", "precision": "float32"},
        }
    )
    workflow.run()
    (one,) = (path.parent for path in (tmp_path / "one").glob("*/report.json"))
    batch = night.root / "out" / one.name
    for name in ("ct.nii.gz", "label.nii.gz"):
        ours, theirs = nibabel.load(batch / name), nibabel.load(one / name)
        assert np.array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj))
        assert np.array_equal(ours.affine, theirs.affine)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (batch, one)]
    assert reports[0]["views"] == reports[1]["views"]
    assert reports[0]["weights_sha256"] == reports[1]["weights_sha256"]


@pytest.mark.slow
def test_dry_run_after_the_night(night: Night) -> None:
    before = contents(night.root / "out")
    result = CliRunner().invoke(app, [*night.arguments, "--dry-run"])
    assert result.exit_code == 3
    assert result.output.count("already done, would be skipped") == 2
    assert "refused: E06" in result.output
    assert contents(night.root / "out") == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--on-error", "panic"],
        ["--jobs", "0"],
        ["--device", "abacus"],
        ["--create-key-file"],
        ["--key-file", "absent"],
        ["--watch", "--dry-run"],
        ["--keep-identity"],
    ],
)
def test_bad_usage_is_told(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    given = ["batch", str(tmp_path / "in"), str(tmp_path / "out"), *arguments]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
