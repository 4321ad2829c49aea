"""From a radiograph pair to CT and labels: the only place where network, weights and device meet.

The module is not called ``reconstruct``, which is the name of the package's public function.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle import ConfigParser

from spider_bundle.bundle import bundle_root
from spider_bundle.dicom.overrides import ROLES, PairOverrides
from spider_bundle.dicom.pair import FilmPair
from spider_bundle.dicom.provenance import Provenance
from spider_bundle.dicom.transforms import BiplanarRadiographsd
from spider_bundle.errors import CODES, Code, SpiderError, finding, root_cause
from spider_bundle.files import file_sha256
from spider_bundle.geometry import Grid
from spider_bundle.inferers import ct_and_labels, predict
from spider_bundle.intensity import attenuation
from spider_bundle.networks import SPIDER
from spider_bundle.outputs.consistency import reprojection_consistency
from spider_bundle.outputs.dicom_ct import DicomIdentity
from spider_bundle.outputs.report import Report, build_report
from spider_bundle.outputs.study import check_formats
from spider_bundle.precision import autocast
from spider_bundle.projection import project_volume

PathLike = str | os.PathLike[str]
Source = PathLike | Sequence[PathLike] | Mapping[str, PathLike] | FilmPair
"""A folder with one study, two files in any order, a mapping of ``frontal`` and ``lateral``, or
films that are paired already."""


@dataclass(frozen=True, eq=False)
class Result:
    """One reconstructed study: what its files and its report are made of.

    Attributes:
        study_key: Keyed hash of the study.
        hu: HU, int16, shape ``(X, Y, Z)``.
        labels: Label map, uint8, of the same shape.
        grid: Grid of both (LPS mm, in the scanner's frame where the images carry one).
        image: Network images, shape ``(2, H, W)``: frontal, lateral; 0 outside the exposed field.
        mask: Their exposed fields, shape ``(2, H, W)``.
        reprojection: The reconstruction projected in the same views, shape ``(2, H, W)``.
        pixel_size: Pixel size of the network images at the isocentre, mm.
        consistency: Agreement of image and reprojection by view role, see
            :func:`~spider_bundle.outputs.consistency.reprojection_consistency`.
        provenance: Where the image came from.
        device: Device of the network.
        weights_sha256: Hash of the weights file; None for untrained weights.
        timings: Seconds by step: read, reconstruct, reproject.
    """

    study_key: str
    hu: npt.NDArray[np.int16] = field(repr=False)
    labels: npt.NDArray[np.uint8] = field(repr=False)
    grid: Grid
    image: npt.NDArray[np.float32] = field(repr=False)
    mask: npt.NDArray[np.bool_] = field(repr=False)
    reprojection: npt.NDArray[np.float32] = field(repr=False)
    pixel_size: float
    consistency: Mapping[str, Mapping[str, float]]
    provenance: Provenance
    device: str
    weights_sha256: str | None
    timings: Mapping[str, float]

    @classmethod
    def from_item(
        cls,
        item: Mapping[Hashable, Any],
        *,
        device: str,
        weights_sha256: str | None,
        pixel_size: float,
        minimum_agreement: float | None,
    ) -> Result:
        """Project the reconstruction back into its views and collect everything.

        Args:
            item: As :class:`~spider_bundle.dicom.transforms.BiplanarRadiographsd` and
                :class:`~spider_bundle.outputs.transforms.CTAndLabelsd` leave it.
            device: Device of the network.
            weights_sha256: Hash of the weights file; None for untrained weights.
            pixel_size: Pixel size of the network images at the isocentre, mm.
            minimum_agreement: Least rank correlation of a radiograph with its reprojection; None
                for a network that was not trained.

        Raises:
            SpiderError: E32, a reprojection does not agree: this is no head, or not these views.
        """
        start = time.perf_counter()
        meta = item["image"].meta
        provenance: Provenance = meta["provenance"]
        hu, labels, image = (
            torch.Tensor.as_subclass(item[name], torch.Tensor).cpu()
            for name in ("ct", "pred", "image")
        )
        grid = Grid.from_ras(np.asarray(meta["original_affine"]), hu.shape[1:])
        reprojection = project_volume(
            attenuation(hu.float()),
            torch.from_numpy(grid.moved(-_isocentre(meta)).affine)[None],
            torch.as_tensor(meta["projection"]).cpu()[None],
            (image.shape[-2], image.shape[-1]),
        )[0].numpy()
        mask = torch.as_tensor(item["mask"]).cpu().numpy()
        consistency = {
            role: reprojection_consistency(image[view].numpy(), reprojection[view], mask[view])
            for view, role in enumerate(ROLES)
        }
        disagreeing = [
            finding(Code.REPROJECTION_DISAGREES, role, _disagreement(agreement["spearman"]))
            for role, agreement in consistency.items()
            if minimum_agreement is not None and not agreement["spearman"] >= minimum_agreement
        ]
        if disagreeing:
            raise SpiderError([*provenance.findings, *disagreeing])
        timings = {"read": provenance.read_seconds}
        if "network_seconds" in meta:
            timings["reconstruct"] = meta["network_seconds"]
        timings["reproject"] = time.perf_counter() - start
        return cls(
            study_key=meta["study_key"],
            hu=hu[0].numpy(),
            labels=labels[0].numpy(),
            grid=grid,
            image=image.numpy(),
            mask=mask,
            reprojection=reprojection,
            pixel_size=pixel_size,
            consistency=consistency,
            provenance=provenance,
            device=device,
            weights_sha256=weights_sha256,
            timings=timings,
        )

    @property
    def identity(self) -> DicomIdentity:
        """Patient and study of the DICOM results; pseudonymous unless the reader kept them."""
        return DicomIdentity(
            self.study_key,
            self.provenance.source_identity,
            self.weights_sha256,
            in_scanner_frame=self.provenance.isocentre is not None,
        )

    @property
    def centred_grid(self) -> Grid:
        """The grid in the frame of the views, whose origin is the isocentre (LPS mm)."""
        return self.grid.moved(-np.array(self.provenance.isocentre or (0.0, 0.0, 0.0)))

    def report(self) -> Report:
        """Return the report, without the files."""
        return build_report(self)


class Reconstructor:
    """The network of ``configs/inference.json``, loaded once for any number of studies.

    Attributes:
        network: The network with its weights, on its device.
        device: That device.
        weights_sha256: Hash of the weights file.
        image_size: Rows and columns of the network's image.
        pixel_size: Its pixel size at the isocentre, mm.
        formats: Formats to write, see :func:`~spider_bundle.outputs.study.write_study`.
        overrides: Statements about the radiographs.
        keep_identity: Whether the reader keeps patient and study for the DICOM results.
        site_key: Secret of the site for study keys, if there is one.
    """

    def __init__(self, config: ConfigParser) -> None:
        """Load the network.

        Args:
            config: The inference config, see :func:`inference_config`.

        Raises:
            FileNotFoundError: There is no such weights file.
            RuntimeError: There is no such device.
            ValueError: A value is out of range.
            SpiderError: M01 to M03, the weights cannot be used; R03, a format needs packages that
                are not installed.
        """

        def parsed(name: str) -> Any:
            try:
                return config.get_parsed_content(name)
            except RuntimeError as error:  # MONAI wraps all errors
                raise root_cause(error) from None

        self.formats = check_formats(parsed("formats"))
        self.overrides = PairOverrides.from_mapping(parsed("overrides"))
        Grid.centred(parsed("spacing"), parsed("shape"))
        self.keep_identity: bool = parsed("keep_identity")
        self.site_key: str | None = parsed("site_key")
        self.image_size: int = parsed("image_size")
        self.pixel_size: float = parsed("pixel_size")
        self.device = torch.device(parsed("device"))
        autocast(self.device, parsed("precision"))
        self.network: SPIDER = parsed("network")
        self.weights_sha256 = file_sha256(parsed("weights"))
        self.network.eval()
        self._inferer = parsed("inferer")
        self._minimum_agreement: float | None = parsed("minimum_agreement")
        self._preprocessing = parsed("preprocessing").transforms

    @staticmethod
    def from_config(
        root: PathLike | None = None, config_files: Sequence[PathLike] = (), **values: Any
    ) -> Reconstructor:
        """Load the network of the inference config; see :func:`inference_config`."""
        return Reconstructor(inference_config(root, config_files, **values))

    def read(
        self, source: Source, overrides: PairOverrides | Mapping[str, Any] | None = None
    ) -> dict[Hashable, Any]:
        """Read one study as the network will see it.

        Args:
            source: The DICOM files.
            overrides: Statements about the radiographs in place of :attr:`overrides`.

        Returns:
            The item of :class:`~spider_bundle.dicom.transforms.BiplanarRadiographsd`.

        Raises:
            SpiderError: The radiographs cannot be used; its findings carry code and action.
            ValueError: The overrides are not valid, or not one folder or two files were named.
        """
        stated = self.overrides if overrides is None else PairOverrides.from_mapping(overrides)
        item: dict[Hashable, Any] = {"image": _plain_source(source)}
        for transform in self._preprocessing:
            if isinstance(transform, BiplanarRadiographsd):
                transform = copy(transform)
                transform.overrides = stated
            item = transform(item)
        return item

    def run(self, item: Mapping[Hashable, Any]) -> Result:
        """Reconstruct what :meth:`read` returned.

        Raises:
            SpiderError: E32, the reconstruction does not agree with the radiographs.
        """
        prediction = predict(item, self.network, self._inferer, self.device)
        hu, labels = (part.cpu() for part in ct_and_labels(prediction))
        return Result.from_item(
            {**item, "ct": hu, "pred": labels},
            device=str(self.device),
            weights_sha256=self.weights_sha256,
            pixel_size=self.pixel_size,
            minimum_agreement=self._minimum_agreement,
        )


def _disagreement(spearman: float) -> str:
    return f"{CODES[Code.REPROJECTION_DISAGREES].condition}: a rank correlation of {spearman:.2f}"


def _isocentre(meta: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return where the isocentre of the views lies in the frame of the grid, LPS mm, ``(3,)``."""
    return np.asarray(meta.get("isocentre", np.zeros(3)), dtype=np.float64).reshape(3)


def inference_config(
    root: PathLike | None = None, config_files: Sequence[PathLike] = (), **values: Any
) -> ConfigParser:
    """Read ``configs/inference.json``; nothing of it is instantiated.

    Args:
        root: See :func:`~spider_bundle.bundle.bundle_root`.
        config_files: Configs layered on top.
        values: Values by config id. They are never interpreted: a text that begins with ``$`` or
            ``@`` stays that text.

    Raises:
        FileNotFoundError: There is no bundle, or no such config.
    """
    folder = bundle_root(root)
    parser = ConfigParser()
    parser.read_config([str(folder / "configs" / "inference.json"), *map(str, config_files)])
    literals = {"bundle_root": str(folder), **values}
    for number, name in enumerate(literals):
        parser[name] = f"@literals::{number}"
    parser.parse(reset=True)
    for number, value in enumerate(literals.values()):
        parser.ref_resolver.resolved_content[f"literals::{number}"] = value
    return parser


def _plain_source(source: Source) -> str | list[str] | dict[str, str] | FilmPair:
    """Return the radiographs as the reading transform takes them.

    Raises:
        ValueError: They are not one folder or two files.
    """
    if isinstance(source, FilmPair):
        return source
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Mapping):
        if set(source) == {"frontal", "lateral"}:
            return {role: os.fspath(path) for role, path in source.items()}
    elif len(source) == 2:
        return [os.fspath(path) for path in source]
    raise ValueError("name one folder, two files, or the files frontal and lateral")
