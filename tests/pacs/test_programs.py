"""Programs that hospitals run can send to the listener and receive what is sent."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from spider_bundle.pacs.listen import Listener
from spider_bundle.pacs.peer import Peer
from spider_bundle.pacs.store import RetryPolicy, send_results
from tests.outputs.programs import Orthanc, conformance_errors, free_port, program, running_orthanc
from tests.pacs.conftest import PLANTED, PLANTED_ROOT, audit_of, stored
from tests.pacs.results import write_results

pytestmark = pytest.mark.integration

Pair = Callable[..., list[Path]]
Listening = Callable[..., Listener]
QUICK = RetryPolicy(retries=1, pause=0.1, timeout=20.0)


def dcmtk(name: str, listener: Listener, *words: object, calling: str = "MODALITY") -> int:
    """Run a network program of DCMTK; its exit status."""
    command = [program(name, "dcmtk"), "-aet", calling, "-aec", "SPIDER"]
    command += ["127.0.0.1", str(listener.port), *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def same_pixels(path: Path, sources: list[Path]) -> bool:
    dataset = pydicom.dcmread(path)
    wanted = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, sources)}[dataset.SOPInstanceUID]
    return np.array_equal(dataset.pixel_array, wanted.pixel_array)


def test_storescu_and_echoscu(pair: Pair, listening: Listening, spool: Path) -> None:
    sources = pair("one") + pair("two")
    with listening() as listener:
        assert dcmtk("echoscu", listener) == 0
        assert dcmtk("storescu", listener, *sources) == 0
        assert dcmtk("storescu", listener, sources[0], calling="STRANGER") != 0
    assert len(stored(spool)) == 4
    assert all(same_pixels(path, sources) for path in stored(spool))
    program("dciodvfy", "dicom3tools")
    # files that dciodvfy finds wrong in a way that the sent ones were not would be our doing
    for path in stored(spool):
        uid = pydicom.dcmread(path).SOPInstanceUID
        (source,) = (s for s in sources if pydicom.dcmread(s).SOPInstanceUID == uid)
        assert conformance_errors(path) == conformance_errors(source)


@pytest.mark.parametrize(
    ("encoder", "options", "syntax"),
    [
        ("dcmcjpeg", ["--encode-lossless-sv1"], "1.2.840.10008.1.2.4.70"),
        ("dcmcrle", [], "1.2.840.10008.1.2.5"),
    ],
)
def test_compressed_images_of_dcmtk(
    encoder: str,
    options: list[str],
    syntax: str,
    pair: Pair,
    listening: Listening,
    spool: Path,
    tmp_path: Path,
) -> None:
    sources = pair()
    compressed = tmp_path / "compressed.dcm"
    subprocess.run(
        [program(encoder, "dcmtk"), *options, str(sources[0]), str(compressed)], check=True
    )
    propose = "--propose-lossless" if encoder == "dcmcjpeg" else "--propose-rle"
    with listening() as listener:
        assert dcmtk("storescu", listener, propose, compressed) == 0
    (path,) = stored(spool)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert same_pixels(path, sources)


def test_a_full_disk_is_told_to_storescu(pair: Pair, listening: Listening, spool: Path) -> None:
    with listening(min_free_gb=1e9) as listener:
        assert dcmtk("storescu", listener, pair()[0]) != 0
    assert stored(spool) == []
    assert [e["status"] for e in audit_of(spool) if e["event"] == "object"] == ["A700"]


def dicom_settings(port: int, listener_port: int | None = None) -> dict[str, object]:
    modalities = {"spider": ["SPIDER", "127.0.0.1", listener_port]} if listener_port else {}
    return {
        "DicomServerEnabled": True,
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "DicomModalities": modalities,
    }


def test_orthanc_sends_to_the_listener(
    pair: Pair, listening: Listening, spool: Path, tmp_path: Path
) -> None:
    sources = pair("one") + pair("two")
    with listening(allow=("ORTHANC",)) as listener:
        settings = dicom_settings(free_port(), listener.port)
        folder = tmp_path / "orthanc"
        folder.mkdir()
        with running_orthanc(folder, **settings) as orthanc:
            orthanc.request("/modalities/spider/echo", b"{}")
            names = [orthanc.store(path) for path in sources]
            answer = orthanc.request("/modalities/spider/store", json.dumps(names).encode())
            assert json.loads(answer)["FailedInstancesCount"] == 0
    assert len(stored(spool)) == 4
    assert all(same_pixels(path, sources) for path in stored(spool))
    text = str(audit_of(spool)) + "\n".join(str(p.relative_to(spool)) for p in spool.rglob("*"))
    assert PLANTED not in text
    assert PLANTED_ROOT not in text


def test_orthanc_routes_radiographs_as_contrib_has_it(
    tmp_path: Path, pair: Pair, listening: Listening, spool: Path
) -> None:
    contrib = Path(__file__).resolve().parents[2] / "contrib" / "container"
    title = json.loads((contrib / "orthanc.json").read_text(encoding="utf-8"))["DicomAet"]
    (tmp_path / "orthanc").mkdir()
    with listening(allow=(title,)) as listener:
        settings = {
            "DicomAet": title,
            "DicomModalities": {"SPIDER": ["SPIDER", "127.0.0.1", listener.port]},
            "LuaScripts": [str(contrib / "route.lua")],
        }
        with running_orthanc(tmp_path / "orthanc", **settings) as orthanc:
            (ct, *_) = write_results(tmp_path / "out", "a" * 16)
            for path in (ct, *(sources := pair("one"))):
                orthanc.store(path)
            for _ in range(200):
                if len(stored(spool)) == 2:
                    break
                time.sleep(0.1)
    assert len(stored(spool)) == 2
    assert all(same_pixels(path, sources) for path in stored(spool))
    # the CT was not sent, which the listener would have refused
    assert [entry["event"] for entry in audit_of(spool)].count("object") == 2


def test_orthanc_receives_results(tmp_path: Path) -> None:
    files = write_results(tmp_path / "out", "a" * 16) + write_results(tmp_path / "out", "b" * 16, 2)
    folder = tmp_path / "orthanc"
    folder.mkdir()
    port = free_port()
    with running_orthanc(folder, **dicom_settings(port)) as orthanc:
        peer = Peer("ORTHANC", "127.0.0.1", port)
        outcome = send_results(tmp_path / "out", peer, retry=QUICK)
        assert (outcome.stored, outcome.problems) == (len(files), [])
        assert send_results(tmp_path / "out", peer, retry=QUICK).skipped == len(files)
        received = instances(orthanc)
        sent = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, files)}
        assert set(received) == set(sent)
        for uid, dataset in received.items():
            assert dataset == sent[uid]
        assert len(orthanc.get("/studies")) == 2


def instances(orthanc: Orthanc) -> dict[str, pydicom.Dataset]:
    """Everything that Orthanc has, by SOPInstanceUID."""
    from io import BytesIO

    names = orthanc.get("/instances")
    found = (pydicom.dcmread(BytesIO(orthanc.request(f"/instances/{n}/file"))) for n in names)
    return {dataset.SOPInstanceUID: dataset for dataset in found}


@pytest.mark.slow
def test_from_the_pacs_to_the_pacs(
    pair: Pair, listening: Listening, spool: Path, tmp_path: Path
) -> None:
    """Received, reconstructed with the shipped weights and sent back."""
    from typer.testing import CliRunner

    from spider_bundle.cli import app

    output = tmp_path / "out"
    folder = tmp_path / "orthanc"
    folder.mkdir()
    with listening(allow=("ORTHANC",), key="spider-bundle") as listener:
        port = free_port()
        with running_orthanc(folder, **dicom_settings(port, listener.port)) as orthanc:
            names = [orthanc.store(path) for path in pair()]
            orthanc.request("/modalities/spider/store", json.dumps(names).encode())
            words = [spool, "-o", output, "--shape", 16, "--spacing", 16, "--device", "cpu"]
            done = CliRunner().invoke(app, ["infer", *map(str, words), "--dicom"])
            assert done.exit_code == 0, done.output
            sent = CliRunner().invoke(
                app, ["send", str(output), "--to", f"ORTHANC@127.0.0.1:{port}"]
            )
            assert sent.exit_code == 0, sent.output
            modalities = sorted(d.Modality for d in instances(orthanc).values())
    assert modalities == ["CT"] * 16 + ["DX"] * 2 + ["SEG"]
