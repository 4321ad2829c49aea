"""Radiographs with planted identities, a listener for them, and an SCU that sends them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from spider_bundle.demo import write_demo_pair
from spider_bundle.pacs.listen import Listener, ListenOptions

KEY = "a key for tests only"
PLANTED = "ZEPPELIN"
TINY = {"shape": (64, 64), "pitch": 1.8}
#: Root of planted UIDs, to be found in what is written.
PLANTED_ROOT = "1.2.826.0.424242"


@pytest.fixture(autouse=True)
def no_site_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIDER_SITE_KEY", raising=False)


@pytest.fixture(scope="session")
def demo_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_demo_pair(tmp_path_factory.mktemp("demo"), **TINY)


@pytest.fixture
def pair(tmp_path: Path, demo_pair: tuple[Path, Path]) -> Callable[..., list[Path]]:
    """Writes a pair whose text attributes and UIDs all hold something to search for."""

    def make(name: str = "one") -> list[Path]:
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / path.name for path in demo_pair]
        number = sum(name.encode())
        for index, path in enumerate(paths):
            dataset = pydicom.dcmread(demo_pair[index])
            dataset.PatientName = f"{PLANTED}^{name}"
            dataset.PatientID = f"{PLANTED}-{number}"
            dataset.AccessionNumber = PLANTED
            dataset.StudyDescription = dataset.SeriesDescription = f"{PLANTED} skull"
            dataset.ReferringPhysicianName = dataset.InstitutionName = PLANTED
            dataset.StudyInstanceUID = f"{PLANTED_ROOT}.1.{number}"
            dataset.SeriesInstanceUID = f"{PLANTED_ROOT}.2.{number}.{index}"
            dataset.SOPInstanceUID = f"{PLANTED_ROOT}.3.{number}.{index}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(path, enforce_file_format=True)
        return paths

    return make


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def listening(spool: Path) -> Callable[..., Listener]:
    """Starts a listener on loopback that MODALITY may call."""

    def make(**options: Any) -> Listener:
        values = {"port": 0, "allow": ("MODALITY",), "min_free_gb": 0.0, "key": KEY, "grace": 5.0}
        return Listener(ListenOptions(spool=spool, **{**values, **options}))

    return make


@contextmanager
def associated(
    port: int,
    datasets: Sequence[pydicom.Dataset] = (),
    calling: str = "MODALITY",
    called: str = "SPIDER",
) -> Iterator[Association]:
    """An association, established or not, for these data sets and for C-ECHO."""
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.add_requested_context("1.2.840.10008.1.1")
    for kind in sorted({(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}):
        entity.add_requested_context(*kind)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def stored(spool: Path) -> list[Path]:
    """Radiographs in a spool, in the order of their names, hidden files too."""
    return sorted(spool.rglob("*.dcm"))


def audit_of(folder: Path) -> list[dict[str, Any]]:
    """Lines of all audit logs of a listener."""
    logs = sorted(folder.rglob("run-*.jsonl"))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]
