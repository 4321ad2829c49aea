"""Environment, radiographs, reference results and servers for the MONAI Label tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pydicom
import pytest
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from spider_bundle.cli import app as command
from spider_bundle.demo import write_demo_pair
from spider_bundle.phantom import HeadPhantom
from tests.environments import NoEnvironmentError
from tests.label.environment import label_python
from tests.label.server import LabelServer, running_server
from tests.outputs.programs import Orthanc, running_orthanc

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
GRID = {"spacing": 4.0, "shape": 64}
STOCK = "spider_bundle"
"""Name of the bundle's folder in the stock app, and so of its model."""


@pytest.fixture(scope="session")
def python() -> Path:
    """Python of MONAI Label's environment."""
    try:
        return label_python()
    except NoEnvironmentError as error:
        pytest.skip(f"the environment of MONAI Label cannot be built ({error})")


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Radiographs of a head that is turned, so that no axis can be mistaken for another."""
    folder = tmp_path_factory.mktemp("study")
    return write_demo_pair(folder, HeadPhantom.random(3), shape=(300, 300), pitch=0.96)


@pytest.fixture(scope="session")
def reference(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder as `spider infer` writes it."""
    out = tmp_path_factory.mktemp("reference")
    grid = ["--spacing", str(GRID["spacing"]), "--shape", str(GRID["shape"])]
    done = CliRunner().invoke(command, ["infer", *map(str, pair), "-o", str(out), *grid])
    assert done.exit_code == 0, done.output
    (label,) = out.glob("*/label.nii.gz")
    return label.parent


@pytest.fixture(scope="session")
def bundle(bundle_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as a local folder of its own, so that no result lands in the clone."""
    folder = tmp_path_factory.mktemp("bundle") / STOCK
    folder.mkdir()
    for name in ("configs", "models", "spider_bundle", "LICENSE"):
        (folder / name).symlink_to(bundle_root / name)
    return folder


@pytest.fixture(scope="session")
def stock_app(python: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MONAI Label's own app with the bundle in its model folder."""
    folder = tmp_path_factory.mktemp("stock") / "monaibundle"
    # what `monailabel apps --download` copies
    shutil.copytree(python.parents[1] / "monailabel" / "sample-apps" / folder.name, folder)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / STOCK).symlink_to(bundle)
    return folder


@pytest.fixture(scope="session")
def own_app(bundle_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's app, copied as its documentation says."""
    folder = tmp_path_factory.mktemp("own") / "spider_label"
    folder.mkdir()
    shutil.copy(bundle_root / "spider_bundle" / "label_app" / "main.py", folder)
    return folder


class StoredStudies(NamedTuple):
    """What an Orthanc holds.

    Attributes:
        address: Its DICOMweb service.
        one_series: SeriesInstanceUID of a study with both views in one series.
        two_series: SeriesInstanceUIDs of a study with a series for each view.
        study: StudyInstanceUID of the latter.
    """

    address: str
    one_series: str
    two_series: tuple[str, str]
    study: str


@pytest.fixture(scope="session")
def stored(
    pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StoredStudies]:
    """An Orthanc with two studies of the same head."""
    if not PLUGIN.is_file():
        pytest.skip("Orthanc's DICOMweb is not installed (Debian package orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("orthanc")
    settings = {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    with running_orthanc(folder, **settings) as orthanc:
        shared, study = generate_uid(), generate_uid()
        first, second = generate_uid(), generate_uid()
        _store(orthanc, folder, pair, generate_uid(), (shared, shared))
        _store(orthanc, folder, pair, study, (first, second))
        yield StoredStudies(f"{orthanc.url}/dicom-web", shared, (first, second), study)


def _store(
    orthanc: Orthanc, folder: Path, pair: tuple[Path, Path], study: str, series: tuple[str, str]
) -> None:
    for path, uid in zip(pair, series, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, uid
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        copy = folder / "copy.dcm"
        dataset.save_as(copy, enforce_file_format=True)
        orthanc.store(copy)


@pytest.fixture(scope="module")
def stock(
    python: Path, stock_app: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelServer]:
    """The stock app on an empty folder."""
    home = tmp_path_factory.mktemp("home")
    with running_server(
        python,
        stock_app,
        tmp_path_factory.mktemp("datastore"),
        home,
        {"models": STOCK, "sam2": "false"},
        {"MONAI_ZOO_SOURCE": "local"},
    ) as server:
        yield server


@pytest.fixture(scope="module")
def stock_on_orthanc(
    python: Path, stock_app: Path, stored: StoredStudies, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelServer]:
    """The stock app on an Orthanc."""
    variables = {
        "MONAI_ZOO_SOURCE": "local",
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": "DX"}),
        "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI": "false",
    }
    with running_server(
        python,
        stock_app,
        stored.address,
        tmp_path_factory.mktemp("home"),
        {"models": STOCK, "sam2": "false"},
        variables,
    ) as server:
        yield server


class OwnServer(NamedTuple):
    """The bundle's app on a folder, and where it keeps things; it runs in a folder of a study."""

    server: LabelServer
    home: Path
    temporary: Path
    training: Path


@pytest.fixture(scope="module")
def own(
    python: Path,
    own_app: Path,
    bundle: Path,
    pair: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OwnServer]:
    """The bundle's app on an empty folder."""
    home = tmp_path_factory.mktemp("home")
    temporary, training = home / "temporary", home / "training"
    temporary.mkdir()
    for path in pair:
        shutil.copy(path, home)
    images = tmp_path_factory.getbasetemp()
    conf = {"bundle": str(bundle), "training": str(training), "images": f"/nowhere:{images}"}
    variables = {"TMPDIR": str(temporary)}
    datastore = tmp_path_factory.mktemp("datastore")
    with running_server(python, own_app, datastore, home, conf, variables) as server:
        yield OwnServer(server, home, temporary, training)


@pytest.fixture(scope="module")
def own_on_orthanc(
    python: Path,
    own_app: Path,
    bundle: Path,
    stored: StoredStudies,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LabelServer]:
    """The bundle's app on an Orthanc; it keeps its results."""
    home = tmp_path_factory.mktemp("home")
    conf = {"bundle": str(bundle), "results": str(home / "results")}
    with running_server(python, own_app, stored.address, home, conf) as server:
        yield server
