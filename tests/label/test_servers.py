"""Real MONAI Label servers give the label map of `spider infer`, in its place."""

from __future__ import annotations

import gzip
import io
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from spider_bundle.cases.case import phantom_case
from spider_bundle.labels import LABEL_NAMES
from tests.label.conftest import GRID, STOCK, OwnServer, StoredStudies
from tests.label.placement import assert_placed
from tests.label.server import LabelServer, ServerError, form

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MODEL = "spider"
OPTIONS = {"device": "cpu", **GRID}


def volume(content: bytes) -> Any:
    """A NIfTI image from its file's content, compressed or not."""
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return nibabel.Nifti1Image.from_bytes(plain)


def labels(study: Path) -> Any:
    return nibabel.load(study / "label.nii.gz")


def assert_same_ct(found: Any, reference: Path) -> None:
    wanted = nibabel.load(reference / "ct.nii.gz")
    assert np.allclose(found.affine, wanted.affine, atol=1e-3)
    assert np.abs(found.get_fdata() - wanted.get_fdata()).max() < 5.0  # HU


@pytest.fixture(scope="module")
def archive(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "study.zip"
    with zipfile.ZipFile(path, "w") as file:
        for radiograph in pair:
            file.write(radiograph, radiograph.name)
    return path


def test_stock_app_lists_labels_and_options(stock: LabelServer) -> None:
    model = stock.json("GET", "/info/")["models"][STOCK]
    assert model["labels"] == {name: value for value, name in LABEL_NAMES.items() if value}
    assert {"spacing": 2.0, "shape": None, "chunk": 65536}.items() <= model["config"].items()


def test_stock_app_reconstructs_a_folder(
    stock: LabelServer, pair: tuple[Path, Path], reference: Path
) -> None:
    content, answer = stock.infer(STOCK, OPTIONS, image=str(pair[0].parent))
    assert_placed(volume(content), labels(reference))
    assert answer["label_names"] == {name: value for value, name in LABEL_NAMES.items() if value}
    assert_same_ct(nibabel.load(Path(answer["study"], "ct.nii.gz")), reference)


def test_stock_app_reconstructs_uploads(
    stock: LabelServer, pair: tuple[Path, Path], archive: Path, reference: Path
) -> None:
    for session in (stock.upload(pair), stock.upload([archive], uncompress=True)):
        content, _ = stock.infer(STOCK, OPTIONS, session_id=session)
        assert_placed(volume(content), labels(reference))


def test_stock_app_obeys_the_options(stock: LabelServer, pair: tuple[Path, Path]) -> None:
    options = {**OPTIONS, "spacing": 8.0, "shape": 24}
    found = volume(stock.infer(STOCK, options, image=str(pair[0].parent))[0])
    assert found.shape == (24, 24, 24)
    assert np.allclose(found.affine[:3, :3], np.diag([8.0, 8.0, 8.0]))
    assert np.allclose(found.affine[:3, 3], -8.0 * 23 / 2)


def test_stock_app_reconstructs_a_series_of_a_dicomweb_server(
    stock_on_orthanc: LabelServer, stored: StoredStudies, reference: Path
) -> None:
    content, _ = stock_on_orthanc.infer(STOCK, OPTIONS, image=stored.one_series)
    assert_placed(volume(content), labels(reference))


def test_stock_app_sees_one_series_only(
    stock_on_orthanc: LabelServer, stored: StoredStudies
) -> None:
    """The limit for which the bundle has its own app; if this fails, MONAI Label has learnt it."""
    with pytest.raises(ServerError) as caught:
        stock_on_orthanc.infer(STOCK, OPTIONS, image=stored.two_series[0])
    assert caught.value.status == 500


def test_own_app_lists_labels_and_options(own: OwnServer) -> None:
    model = own.server.json("GET", "/info/")["models"][MODEL]
    assert model["labels"] == {name: value for value, name in LABEL_NAMES.items() if value}
    assert model["dimension"] == 3
    options = {"spacing": 2.0, "shape": None, "chunk": 65536}
    contents = {"result_content": ["label", "ct", "all"]}
    assert {**options, **contents}.items() <= model["config"].items()


def test_own_app_gives_labels_and_ct(
    own: OwnServer, pair: tuple[Path, Path], archive: Path, reference: Path
) -> None:
    folder = str(pair[0].parent)
    content, answer = own.server.infer(MODEL, OPTIONS, image=folder)
    assert_placed(volume(content), labels(reference))
    assert "study" not in answer
    content, _ = own.server.infer(
        MODEL, {**OPTIONS, "result_content": "ct"}, session_id=own.server.upload(pair)
    )
    assert_same_ct(volume(content), reference)
    content, _ = own.server.infer(
        MODEL,
        {**OPTIONS, "result_content": "all"},
        session_id=own.server.upload([archive], uncompress=True),
    )
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        assert {path.name for path in reference.iterdir()} == set(files.namelist())
        assert_placed(volume(files.read("label.nii.gz")), labels(reference))
        assert_same_ct(volume(files.read("ct.nii.gz")), reference)
    assert not list(own.temporary.glob("spider-*"))


def test_own_app_says_what_is_wrong(
    own: OwnServer, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    lone = tmp_path / pair[0].name
    lone.write_bytes(pair[0].read_bytes())
    with pytest.raises(ServerError, match=r"E06 .* To do: ") as caught:
        own.server.infer(MODEL, OPTIONS, image=str(tmp_path))
    assert caught.value.status == 422
    assert str(tmp_path) not in caught.value.text


WRONG: dict[str, list[Any]] = {
    "spacing": [-1, 0, 1e-300, 1e300, math.inf, -math.inf, math.nan, 10**400, "1e999", {}, [[]]],
    "shape": [-1, 5000, math.inf, math.nan, 10**400, "9" * 5000, {"a": 1}],
    "chunk": [0, -1, "many", math.inf, math.nan, 10**400, 1 << 40, []],
    "result_content": ["mesh", [], {}, 5],
    "result_extension": ["/../x.nii", ".exe", "nii", 5],
    "device": ["tpu", "cuda:x", "meta", 5],
}


def test_own_app_refuses_options_that_cannot_be(own: OwnServer, pair: tuple[Path, Path]) -> None:
    for name, values in WRONG.items():
        for value in values:
            with pytest.raises(ServerError) as caught:
                own.server.infer(MODEL, {**OPTIONS, name: value}, image=str(pair[0].parent))
            assert caught.value.status == 422, (name, value)


def test_own_app_finds_nothing_but_what_was_named(
    own: OwnServer, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Not the folder that it was started in, which holds a study, and nothing outside its roots."""
    folder = str(pair[0].parent)
    (tmp_path / "out").symlink_to("/usr/share")
    names = ["/data/patients/MUELLER_typo", f"{folder}_typo", "typo", " ", "\0", "/etc", "/"]
    names += [f"{folder}/../../../../..", f"{tmp_path}/out", "x" * 5000, f"file://{folder}"]
    for name in names:
        with pytest.raises(ServerError) as caught:
            own.server.infer(MODEL, OPTIONS, image=name)
        assert caught.value.status == 404, name
        assert "no such folder, image or session" in caught.value.text
    with pytest.raises(ServerError) as caught:
        own.server.infer(MODEL, OPTIONS, session_id="no-such-session")
    assert caught.value.status == 404
    for image in ("/etc", "", None, [folder], 5):
        with pytest.raises(ServerError) as caught:  # an option must not name another one either
            own.server.infer(MODEL, {**OPTIONS, "image": image}, image=folder)
        assert caught.value.status == 404, image


def test_own_app_leaves_nothing_behind(own: OwnServer, pair: tuple[Path, Path]) -> None:
    folder, wanted = str(pair[0].parent), {**OPTIONS, "result_content": "all"}
    own.server.infer(MODEL, wanted, image=folder)
    with pytest.raises(ServerError):
        own.server.infer(MODEL, wanted, image=str(own.training.parent / "temporary"))
    deadline = time.monotonic() + 10
    while results(own.temporary) and time.monotonic() < deadline:
        time.sleep(0.1)  # it deletes the file when the answer is sent
    assert not results(own.temporary)


def results(temporary: Path) -> list[Path]:
    patterns = ("*.zip", "*.nii*", "spider-*")  # what is PyTorch's stays
    return [path for pattern in patterns for path in temporary.glob(pattern)]


def test_own_app_reconstructs_studies_of_a_dicomweb_server(
    own_on_orthanc: LabelServer, stored: StoredStudies, reference: Path
) -> None:
    for uid in (stored.one_series, stored.two_series[1], stored.study):
        content, answer = own_on_orthanc.infer(MODEL, OPTIONS, image=uid)
        assert_placed(volume(content), labels(reference))
        assert_placed(labels(Path(answer["study"])), labels(reference))
        assert_same_ct(nibabel.load(answer["ct"]), reference)
    for unknown in ("1.2.3", "no/uid"):
        with pytest.raises(ServerError) as caught:
            own_on_orthanc.infer(MODEL, OPTIONS, image=unknown)
        assert caught.value.status == 404


def test_training_on_edited_labels_runs_one_epoch(
    own: OwnServer, bundle_root: Path, tmp_path: Path
) -> None:
    for seed in (1, 2, 3):
        case = phantom_case(seed, spacing=8.0, shape=32)
        for name, values in (("image", case.hu), ("label", case.structure)):
            nibabel.save(
                nibabel.Nifti1Image(values, case.grid.ras_affine), tmp_path / f"{name}.nii.gz"
            )
        where = f"/datastore/image?image=head_{seed}"
        upload(own.server, where, "file", tmp_path / "image.nii.gz")
        where = f"/datastore/label?image=head_{seed}&tag=final"
        upload(own.server, where, "label", tmp_path / "label.nii.gz")
    options = {"device": "cpu", "max_epochs": 1, "val_split": 0.34}
    options |= {"iterations_per_epoch": 2, "batch_size": 1}
    own.server.json("POST", f"/train/{MODEL}", options)
    task = wait_for_training(own.server)
    assert task["status"] == "DONE", task.get("details", [])[-30:]
    saved = torch.load(own.training / "checkpoint.pt", weights_only=True)
    assert (saved["epoch"], saved["iteration"]) == (1, 2)
    assert (own.training / "scores.json").is_file()  # it was validated
    before = torch.load(bundle_root / "models" / "model.pt", weights_only=True)
    after = torch.load(own.training / "model.pt", weights_only=True)
    name = "decoder.first.weight"
    moved = (after[name].float() - before[name].float()).abs().mean()
    # it started from the bundle's weights and learnt something
    assert 0 < moved < 0.1 * before[name].float().abs().mean()


def upload(server: LabelServer, where: str, field: str, path: Path) -> None:
    body, kind = form([(field, path.name, path.read_bytes())])
    server.request("PUT", where, body, kind)


def wait_for_training(server: LabelServer) -> Any:
    deadline = time.monotonic() + 1200
    while time.monotonic() < deadline:
        task = server.json("GET", "/train/")
        if task["status"] in ("DONE", "ERROR"):
            return task
        time.sleep(2)
    pytest.fail("the training does not end")
