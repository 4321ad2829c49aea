"""Every kind of study through every entry point: the codes, the geometry and the head, for ever.

What is expected stands in ``data/golden.json``. It changes only with the method: look at the
difference and write it anew with ``python -m tests.test_golden``. The network is small and its
weights are drawn from a seed, so no training changes anything here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch

from spider_bundle.api import Reconstructor
from spider_bundle.networks import SPIDER
from tests.golden_studies import GOOD, RECIPES, REFUSED, STATED, study_uid, write_study_of
from tests.tiny import TINY_NETWORK, UNTRAINED

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = Path(__file__).parent / "data" / "golden.json"
KEY = "golden"
#: Without those that have to be stated, and without archives, which only a batch opens.
PLAIN = [name for name in RECIPES if name not in STATED and name != "zip"]
#: HU that another machine may differ by.
TOLERANCE_HU = 2.0


def write_bundle(folder: Path) -> Path:
    """A bundle with a tiny network; write its folder."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, value in TINY_NETWORK.items():
        config["network_def"][name.split("::")[1]] = value
    config |= UNTRAINED
    path.write_text(json.dumps(config), encoding="utf-8")
    arguments = {name.split("::")[1]: value for name, value in TINY_NETWORK.items()}
    network = SPIDER(**arguments)
    generator = np.random.RandomState(0)  # its numbers are the same everywhere
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            if parameter.ndim > 1:
                width = np.sqrt(2.0 / parameter[0].numel())
                drawn = generator.standard_normal(parameter.shape) * width
                parameter.copy_(torch.from_numpy(drawn))
            else:  # of layers or norms
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        network.decoder.intensity[-1].weight.mul_(0.3)  # most values inside the window
        network.decoder.intensity[-1].bias.fill_(0.3)
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


class Place(NamedTuple):
    """Where everything is.

    Attributes:
        bundle: Folder of the tiny bundle.
        studies: Folder with a folder for each study.
        plain: Folder with links to those of :data:`PLAIN`.
    """

    bundle: Path
    studies: Path
    plain: Path


def prepare(folder: Path) -> Place:
    place = Place(write_bundle(folder / "bundle"), folder / "studies", folder / "plain")
    for name in RECIPES:
        target = place.plain if name in PLAIN else place.studies
        write_study_of(target / name.replace(" ", "_"), name)
    return place


def folder_of(place: Place, name: str) -> Path:
    return (place.plain if name in PLAIN else place.studies) / name.replace(" ", "_")


def key_of(name: str) -> str:
    """Study key, as the reference of errors defines it."""
    return hmac.new(KEY.encode(), study_uid(name).encode(), hashlib.sha256).hexdigest()[:16]


def told(findings: Any) -> list[list[str]]:
    """What of findings never changes, each once."""
    plain = {tuple(str(f[k]) for k in ("code", "severity", "role", "attribute")) for f in findings}
    return [list(values) for values in sorted(plain)]


def head_of(ct: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, Any]:
    """Mean HU of the octants, which tell sides, and the share of each label."""
    halves = [(slice(0, n // 2), slice(n // 2, n)) for n in ct.shape]
    octants = [float(ct[i, j, k].mean()) for i in halves[0] for j in halves[1] for k in halves[2]]
    share = np.bincount(labels.ravel(), minlength=6) / labels.size
    return {"octants_hu": octants, "shares": share.tolist()}


def views_of(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        view["role"]: {
            "position": view["view_position"],
            **{
                name: [item["value"], item["source"], item.get("attribute")]
                for name, item in sorted(view["geometry"].items())
            },
        }
        for view in report["views"]
    }


def through_api(place: Place) -> dict[str, Any]:
    run = Reconstructor(root=place.bundle, spacing=16, shape=16, device="cpu", precision="float32")
    records: dict[str, Any] = {}
    for name, recipe in RECIPES.items():
        ways = [(name, None), (f"{name}, stated", recipe.overrides)][: 1 + bool(recipe.overrides)]
        for way, overrides in ways:
            try:
                found = run(folder_of(place, name), overrides)
            except Exception as error:
                findings = getattr(error, "findings", None)
                if findings is None:
                    raise
                facts = [
                    {k: getattr(f, k) for k in ("code", "severity", "role", "attribute")}
                    for f in findings
                ]
                records[way] = {"refused": told(facts)}
            else:
                records[way] = {
                    "findings": told(found.report["findings"]),
                    **head_of(found.ct, found.labels),
                    "views": views_of(found.report),
                }
    return records


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return prepare(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return dict(json.loads(EXPECTED.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def api(place: Place) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SPIDER_SITE_KEY", KEY)
        return through_api(place)


def differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    """Where two records differ; numbers may by a little."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        pairs = [(k, found.get(k, "absent"), wanted.get(k, "absent")) for k in found | wanted]
        return [d for k, a, b in pairs for d in differences(a, b, f"{where}/{k}")]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        return [d for a, b in zip(found, wanted, strict=True) for d in differences(a, b, where)]
    if isinstance(found, (int, float)) and isinstance(wanted, float):
        tolerance = TOLERANCE_HU if where.endswith("octants_hu") else 0.01
        same = abs(found - wanted) <= tolerance
    else:
        same = found == wanted
    return [] if same else [f"{where}: {found} instead of {wanted}"]


@pytest.mark.slow
def test_api_finds_what_it_always_found(api: dict[str, Any], expected: dict[str, Any]) -> None:
    assert differences(json.loads(json.dumps(api)), expected) == []


def test_way_of_storing_a_film_changes_nothing(expected: dict[str, Any]) -> None:
    same = ("mirrored", "jpeg-ls", "jpeg 2000", "duplicate", "laterality", "no distances, stated")
    for name in same:
        assert np.allclose(expected[name]["octants_hu"], expected["dx"]["octants_hu"], atol=0.1)
    octants = {tuple(np.round(r["octants_hu"])) for r in expected.values() if "octants_hu" in r}
    assert len(octants) >= 6  # but other views and tones do


def test_expected_record_is_what_the_studies_are_called(expected: dict[str, Any]) -> None:
    for name in RECIPES:
        should_read = name in GOOD and name != "zip"
        assert ("views" in expected[name]) == should_read, name
        assert ("refused" in expected[name]) == (not should_read), name
    for name in STATED:
        assert "views" in expected[f"{name}, stated"], name
    assert all(any(f[1] == "error" for f in expected[name]["refused"]) for name in REFUSED)


def run_module(*arguments: object, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SPIDER_SITE_KEY": KEY, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def agrees(output: Path, api: Mapping[str, Any], names: list[str]) -> None:
    """Check what was written for studies against the API's records."""
    refused = json.loads((output / "refused.json").read_text(encoding="utf-8"))["refused"]
    by_key = {entry["study_key"]: entry["findings"] for entry in refused}
    for name in names:
        folder, record = output / key_of(name), api[name]
        if "refused" in record:
            assert not folder.exists(), name
            assert told(by_key[key_of(name)]) == record["refused"], name
            continue
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert told(report["findings"]) == record["findings"], name
        assert views_of(report) == record["views"], name
        ct, labels = (
            np.asanyarray(nibabel.load(folder / f"{kind}.nii.gz").dataobj)
            for kind in ("ct", "label")
        )
        assert head_of(ct, labels) == {k: record[k] for k in ("octants_hu", "shares")}, name


GRID = ("--spacing", "16", "--shape", "16", "--precision", "float32")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["bundle", "infer", "batch"])
def test_commands_agree_with_the_api(
    way: str, place: Place, api: dict[str, Any], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    if way == "bundle":
        config = place.bundle / "configs" / "inference.json"
        inputs = ("--dataset_dir", place.plain, "--output_dir", output)
        where = ("--config_file", config, "--bundle_root", place.bundle)
        device = ("--device", "$torch.device('cpu')")
        code = run_module("monai.bundle", "run", "inference", *where, *inputs, *GRID, *device)
    elif way == "infer":
        where = ("--bundle-root", place.bundle, "--device", "cpu")
        code = run_module("spider_bundle.cli", "infer", place.plain, "-o", output, *GRID, *where)
    else:
        where = ("--bundle-root", place.bundle, "--device", "cpu", "--jobs", "1", "--min-free", "1")
        code = run_module("spider_bundle.cli", "batch", place.plain, output, *GRID, *where)
    assert code == 3  # some were refused
    agrees(output, api, PLAIN)


@pytest.mark.slow
def test_a_batch_opens_archives_and_states_what_a_profile_says(
    place: Place, api: dict[str, Any], tmp_path: Path
) -> None:
    profile = tmp_path / "profile.json"
    rules = [
        {"match": {"Modality": "XA"}, "overrides": {"frame": 1}},
        {"match": {"Modality": "DX"}, "overrides": STATED["no distances"].overrides},
    ]
    profile.write_text(json.dumps({"version": 1, "rules": rules}), encoding="utf-8")
    where = ("--bundle-root", place.bundle, "--device", "cpu", "--jobs", "1", "--min-free", "1")
    output = tmp_path / "out"
    command = ("batch", place.studies, output, *GRID, *where, "--profile", profile)
    assert run_module("spider_bundle.cli", *command) == 3
    lines = (output / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    states = {entry["study_key"]: entry["state"] for entry in map(json.loads, lines)}
    # a profile cannot let secondary captures in, and states no polarity here
    done = {key_of(name) for name in ("zip", "no distances", "run")}
    assert {key for key, state in states.items() if state == "done"} == done
    assert states[key_of("wrong sign")] == "refused"
    ct = np.asanyarray(nibabel.load(output / key_of("no distances") / "ct.nii.gz").dataobj)
    labels = np.asanyarray(nibabel.load(output / key_of("no distances") / "label.nii.gz").dataobj)
    record = api["no distances, stated"]
    assert head_of(ct, labels) == {k: record[k] for k in ("octants_hu", "shares")}


def main() -> None:
    """Write the expected record anew."""
    os.environ["SPIDER_SITE_KEY"] = KEY
    with tempfile.TemporaryDirectory() as folder:
        records = json.loads(json.dumps(through_api(prepare(Path(folder)))))
    lines = [
        f" {json.dumps(name)}: {json.dumps(_rounded(record), sort_keys=True)}"
        for name, record in records.items()
    ]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
