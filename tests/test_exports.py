"""Exported networks give the numbers of PyTorch, for any geometry and any points."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, run

from spider_bundle.api import Reconstructor
from spider_bundle.demo import write_demo_pair
from spider_bundle.errors import SpiderError
from spider_bundle.exports import TOLERANCE, Part, export_bundle, export_onnx
from spider_bundle.files import file_sha256
from spider_bundle.geometry import Grid, ViewPosition, isocentric_view
from spider_bundle.intensity import denormalise_hu
from spider_bundle.labels import LABEL_NAMES
from spider_bundle.networks import SPIDER
from spider_bundle.outputs import optional_dependencies
from spider_bundle.slot_view import slot_view
from tests.tiny import TINY_NETWORK

Session = Callable[..., npt.NDArray[np.float32]]

SIZE = 64


@pytest.fixture(scope="module")
def network() -> SPIDER:
    torch.manual_seed(0)
    options = {key.split("::")[1]: value for key, value in TINY_NETWORK.items()}
    return SPIDER(**options, image_size=SIZE, pixel_size=4.8).eval()


def inputs(batch: int, count: int) -> dict[str, torch.Tensor]:
    """Images, matrices that differ from case to case and from the nominal ones, and points.

    Every other case is a pair of slot scans, so that a batch holds both cameras.

    Some of the points lie outside the images, some behind a source.
    """
    generator = torch.Generator().manual_seed(batch)
    pitch = (6.0, 5.5)
    cameras = (isocentric_view, slot_view)
    matrices = [
        cameras[case % 2](
            position, sod=700.0 + 90 * case, sdd=1000.0, spacing=pitch, shape=(SIZE, SIZE)
        ).matrix
        for case in range(batch)
        for position in (ViewPosition.AP, ViewPosition.RL)
    ]
    points = 400 * (torch.rand(batch, count, 3, generator=generator) - 0.5)
    points[:, :5] *= 10
    return {
        "image": torch.rand(batch, 2, SIZE, SIZE, generator=generator),
        "projection": torch.from_numpy(np.stack(matrices)).float().reshape(batch, 2, 4, 4),
        "points": points,
    }


def session(path: Path) -> Session:
    """The file as a function of its inputs by name."""
    runtime = pytest.importorskip("onnxruntime")
    loaded = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def compute(**values: torch.Tensor) -> npt.NDArray[np.float32]:
        (output,) = loaded.run(None, {name: value.numpy() for name, value in values.items()})
        array: npt.NDArray[np.float32] = output
        return array

    return compute


@pytest.mark.slow
def test_onnx_network_agrees_for_other_geometries_and_sizes(
    network: SPIDER, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    export_onnx(network, tmp_path / "model.onnx", image_size=SIZE)
    compute = session(tmp_path / "model.onnx")
    for batch, count in ((1, 1), (3, 501)):
        given = inputs(batch, count)
        with torch.no_grad():
            wanted = network(**given).numpy()
            nominal = network(given["image"], points=given["points"]).numpy()
        got = compute(**given)
        assert got.shape == wanted.shape == (batch, count, 7)
        assert np.abs(got - wanted).max() < TOLERANCE
    # the tolerance would notice a geometry that is built in
    assert np.abs(nominal - wanted).max() > 10 * TOLERANCE


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's encoder and decoder."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("parts")
    for part in (Part.ENCODER, Part.DECODER):
        export_bundle(folder / f"{part}.onnx", part)
    return folder


@pytest.mark.slow
def test_onnx_parts_reconstruct_the_head_that_the_bundle_does(parts: Path, tmp_path: Path) -> None:
    frontal, lateral = write_demo_pair(tmp_path, shape=(240, 240), pitch=1.2)
    bundle = Reconstructor(spacing=8.0, shape=32, device="cpu", precision="float32")
    item = bundle.read([frontal, lateral])
    wanted = bundle.study(item)

    image = torch.as_tensor(item["image"])[None].float().contiguous()
    projection = torch.as_tensor(item["image"].meta["projection"])[None].float()
    points = torch.from_numpy(wanted.grid.points()).float().reshape(1, -1, 3)
    maps = torch.from_numpy(session(parts / "encoder.onnx")(image=image))
    decode = session(parts / "decoder.onnx")
    pred = np.concatenate(
        [decode(maps=maps, projection=projection, points=p) for p in points.split(10000, dim=1)],
        axis=1,
    )[0].reshape(*wanted.grid.shape, -1)

    hu = denormalise_hu(pred[..., -1])
    assert np.abs(hu - wanted.hu).max() < 0.5 + 3000 * TOLERANCE
    assert (pred[..., :-1].argmax(axis=-1) == wanted.labels).mean() > 0.9999


@pytest.mark.slow
def test_onnx_file_says_what_it_is(parts: Path, bundle_root: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(parts / "decoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["labels"]) == {str(v): name for v, name in LABEL_NAMES.items()}
    assert json.loads(said["hu_window"]) == [-1000.0, 2000.0]
    assert said["weights_sha256"] == file_sha256(bundle_root / "models" / "model.pt")
    assert "Research use only" in said["intended_use"]
    assert not list(parts.glob("*.data"))  # one file


def test_onnx_without_its_packages_is_refused_with_the_way_out(
    network: SPIDER, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str) -> str:
        raise optional_dependencies.PackageNotFoundError(package)

    monkeypatch.setattr(optional_dependencies, "version", absent)
    with pytest.raises(SpiderError, match=r"R03 .* needs onnx .*'\.\[onnx\]'"):
        export_onnx(network, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchscript_takes_geometry_and_points(
    network: SPIDER, bundle_root: Path, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        config_file=str(bundle_root / "configs" / "inference.json"),
        bundle_root=str(bundle_root),
        device="cpu",
        image_size=SIZE,
        pixel_size=4.8,
        **TINY_NETWORK,
    )
    exported = torch.jit.load(tmp_path / "model.ts")
    given = inputs(2, 300)
    image, projection, points = given.values()
    x, y, z = (torch.from_numpy(a).float() for a in Grid.centred((7.0, 5.0, 9.0), 20).axes())
    with torch.no_grad():
        assert torch.allclose(exported(**given), network(**given), atol=TOLERANCE)
        assert torch.allclose(
            exported(image, projection), network(image, projection), atol=TOLERANCE
        )
        maps = network.encode(image)
        assert torch.allclose(exported.encode(image), maps, atol=TOLERANCE)
        assert torch.allclose(
            exported.decode_grid(maps, projection, x, y, z),
            network.decode_grid(maps, projection, x, y, z),
            atol=TOLERANCE,
        )
        assert torch.allclose(
            exported.decode(maps, projection, points),
            network.decode(maps, projection, points),
            atol=TOLERANCE,
        )


def test_tensorrt_config_compiles_the_encoder_of_the_bundle(
    bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be said without a GPU: MONAI is asked to compile a module that exists."""
    calls: list[tuple[Any, str, dict[str, Any]]] = []

    def record(model: SPIDER, base_path: str, **options: Any) -> SPIDER:
        calls.append((model, base_path, options))
        return model

    monkeypatch.setattr("monai.networks.trt_compile", record)
    parser = ConfigParser()
    parser.read_config(
        [str(bundle_root / "configs" / f"{n}.json") for n in ("inference", "inference_trt")]
    )
    parser.update({**TINY_NETWORK, "bundle_root": str(bundle_root), "device": "cpu"})
    network = parser.get_parsed_content("network")
    ((model, base_path, options),) = calls
    assert model is network
    assert isinstance(model, SPIDER)
    assert base_path == str(bundle_root / "models" / "model.pt")
    assert isinstance(model.get_submodule(options["submodule"]), torch.nn.Module)
    assert options["args"]["precision"] == "fp16"
    # its engine must not be made under autocast
    assert parser.get_parsed_content("inferer").precision == "float32"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the layer does something")
def test_tensorrt_config_changes_nothing_without_a_gpu(bundle_root: Path, tmp_path: Path) -> None:
    write_demo_pair(tmp_path / "in", shape=(240, 240), pitch=1.2)
    written = []
    for names in (["inference"], ["inference", "inference_trt"]):
        out = tmp_path / names[-1]
        run(
            "inference",
            config_file=[str(bundle_root / "configs" / f"{name}.json") for name in names],
            meta_file=str(bundle_root / "configs" / "metadata.json"),
            bundle_root=str(bundle_root),
            logging_file=False,
            dataset_dir=str(tmp_path / "in"),
            output_dir=str(out),
            spacing=8.0,
            shape=32,
            precision="float32",
        )
        (ct,) = out.glob("*/ct.nii.gz")
        written.append(ct.read_bytes())
    assert written[0] == written[1]
