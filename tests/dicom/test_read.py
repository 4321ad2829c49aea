"""Every code of one file, exact round trips of values and geometry, and real files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from spider_bundle.dicom.field import _line_percentiles
from spider_bundle.dicom.film import describe
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.pair import judge_film
from spider_bundle.dicom.provenance import ProvenancedValue
from spider_bundle.dicom.write import log_scale
from spider_bundle.errors import Code, Severity, SpiderError
from spider_bundle.geometry import ViewPosition, positioner_rotation
from tests.films import read_pair, read_radiograph

from .conftest import MARKER, SDD, SOD, Writer, line_integrals, make_view

ORIENTATIONS = {
    "PA": [("L", "F"), ("R", "F"), ("F", "L"), ("H", "R"), ("R", "H")],
    "AP": [("L", "F"), ("R", "F"), ("F", "R")],
    "LL": [("P", "F"), ("A", "F"), ("F", "P"), ("H", "A")],
    "RL": [("P", "F"), ("A", "F"), ("F", "A")],
}


def errors(path: Path, overrides: Overrides | None = None) -> set[str]:
    with pytest.raises(SpiderError) as caught:
        read_radiograph(path, overrides)
    return {found.code.value for found in caught.value.errors}


def warnings(path: Path, overrides: Overrides | None = None) -> set[str]:
    read = read_radiograph(path, overrides)
    assert all(found.severity is Severity.WARNING for found in read.findings)
    return {found.code.value for found in read.findings}


# ---- values


@pytest.mark.parametrize(
    ("relationship", "sign", "photometric", "bits"),
    itertools.product(("LIN", "LOG"), (1, -1), ("MONOCHROME1", "MONOCHROME2"), (12, 16)),
)
def test_line_integrals_come_back(
    write: Writer, relationship: str, sign: int, photometric: str, bits: int
) -> None:
    options = {
        "relationship": relationship,
        "sign": sign,
        "photometric": photometric,
        "bits": bits,
    }
    path = write("PA", options=options)
    scale = log_scale(bits) if relationship == "LOG" else None
    read = read_radiograph(path, Overrides(log_scale=scale))
    truth = line_integrals(make_view("PA"))
    assert read.quantity == "line integral"
    assert read.pixels.dtype == np.float32
    if scale is not None:
        assert f"{scale:g} per unit: override" in read.provenance["quantity"].attribute
    # Half a quantisation step of the intensity, seen through the logarithm, and of the I0.
    step = 1.0 / (2**bits - 1) / 0.95
    tolerance = (
        0.5 * step * np.exp(truth) + step if relationship == "LIN" else 1.0 / log_scale(bits)
    )
    assert (np.abs(read.pixels - truth) <= 1.1 * tolerance + 2e-6 * 6).all()


def test_log_of_unknown_scale_is_a_tone_and_still_affine(write: Writer) -> None:
    read = read_radiograph(write("PA", options={"relationship": "LOG", "sign": 1}))
    assert read.quantity == "tone"
    truth = line_integrals(make_view("PA"))
    gain, offset = np.polyfit(truth.ravel(), read.pixels.ravel(), 1)
    assert gain > 0
    assert np.abs((read.pixels - offset) / gain - truth).max() < 1e-3


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_cr_is_a_tone_with_dense_high(write: Writer, photometric: str) -> None:
    read = read_radiograph(write("AP", cr=True, options={"photometric": photometric}))
    assert read.quantity == "tone"
    truth = line_integrals(make_view("AP"))
    assert np.corrcoef(read.pixels.ravel(), truth.ravel())[0, 1] > 0.9999
    assert read.provenance["polarity"].attribute == "PhotometricInterpretation"


def test_presentation_and_film_are_tones_whatever_they_claim(write: Writer) -> None:
    assert read_radiograph(write("PA", options={"for_processing": False})).quantity == "tone"
    film = read_radiograph(write("PA", DetectorType="FILM"))
    assert film.quantity == "tone"
    assert "film" in str(film.provenance["quantity"].attribute)


def test_overlay_bits_above_the_stored_ones_are_dropped(write: Writer) -> None:
    def add_overlay(dataset: Dataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<u2").copy()
        values[::7] |= 0x8000
        dataset.PixelData = values.tobytes()

    def declare_overlay(dataset: Dataset) -> None:
        add_overlay(dataset)
        dataset.add_new((0x6000, 0x0100), "US", 16)
        dataset.add_new((0x6000, 0x0102), "US", 15)

    clean = read_radiograph(write("PA", options={"bits": 12}))
    marked = read_radiograph(write("PA", options={"bits": 12}, edit=declare_overlay))
    assert np.array_equal(clean.pixels, marked.pixels)
    assert errors(write("PA", options={"bits": 12}, edit=add_overlay)) == {"E31"}


@pytest.mark.parametrize(
    ("vr", "order", "first"),
    [("OW", "<u2", 0), ("OW", ">u2", 0), ("US", "<u2", 0), ("OW", "<u2", -1)],
)
def test_modality_lut_wins_over_rescale_and_its_direction_counts(
    vr: str, order: str, first: int, write: Writer
) -> None:
    def add_lut(dataset: Dataset) -> None:
        item = Dataset()
        table = 4095 - np.arange(4096)
        if first:  # the same table for signed values, its descriptor written as US
            values = np.frombuffer(dataset.PixelData, "<u2").astype(int) - 2048
            dataset.PixelData, dataset.PixelRepresentation = values.astype("<i2").tobytes(), 1
        item.add_new("LUTDescriptor", "US", [4096, 65536 - 2048 if first else 0, 12])
        item.ModalityLUTType = "US"
        data = table.astype(order).tobytes() if vr == "OW" else table.tolist()
        item.add_new("LUTData", vr, data)
        dataset.ModalityLUTSequence = [item]
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "7"
        dataset.PhotometricInterpretation = "MONOCHROME2"

    plain = read_radiograph(write("PA", cr=True, options={"photometric": "MONOCHROME1"}))
    through = read_radiograph(
        write("PA", cr=True, options={"photometric": "MONOCHROME1"}, edit=add_lut)
    )
    assert np.ptp(plain.pixels - through.pixels) == 0


# ---- geometry


@pytest.mark.parametrize(
    ("position", "orientation"),
    [(position, o) for position, many in ORIENTATIONS.items() for o in many],
)
def test_the_marker_projects_onto_its_image(
    write: Writer, position: str, orientation: tuple[str, str]
) -> None:
    read = read_radiograph(write(position, orientation=orientation))
    head_only = line_integrals(make_view(position))
    assert read.position is ViewPosition(position)
    assert read.pixels.size == head_only.size
    expected = read.view.project(MARKER)
    # The marker is the only small thing: subtract the smooth head known from the mirrored point.
    truth = line_integrals(read.view)
    assert np.abs(read.pixels - truth).max() < 0.02
    column, row = np.round(expected).astype(int)
    window = np.s_[row - 8 : row + 9, column - 8 : column + 9]
    patch = read.pixels[window]
    bump = np.clip(patch - np.median(patch) - 0.3, 0, None)
    rows, columns = np.mgrid[window]
    centroid = [(columns * bump).sum() / bump.sum(), (rows * bump).sum() / bump.sum()]
    assert np.abs(np.array(centroid) - expected).max() < 0.35


def test_geometry_survives_the_file(write: Writer) -> None:
    read = read_radiograph(write("LL", orientation=("F", "P")))
    assert read.view.sdd == pytest.approx(SDD)
    assert read.view.sod == pytest.approx(SOD, rel=1e-7)
    assert read.provenance["sod"].attribute == "EstimatedRadiographicMagnificationFactor"
    assert read.provenance["sdd"].attribute == "DistanceSourceToDetector"
    assert np.allclose(read.view.project((0, 0, 0)), [(n - 1) / 2 for n in read.view.shape[::-1]])


@pytest.mark.parametrize(("position", "angles"), [("PA", (6.0, -3.0)), ("LL", (84.0, 4.0))])
def test_positioner_angles_turn_the_view(
    write: Writer, position: str, angles: tuple[float, float]
) -> None:
    nominal = {"PA": 0.0, "LL": 90.0}[position]
    rotation = positioner_rotation(*angles) @ positioner_rotation(nominal).T
    view = make_view(position, rotation=rotation)
    path = write(position, view=view, options={"positioner_angles": angles})
    read = read_radiograph(path)
    assert np.allclose(read.view.matrix, view.matrix, rtol=1e-6, atol=1e-6)
    assert read.provenance["positioner_angles"].value == list(angles)


def test_overrides_win_and_say_so(write: Writer) -> None:
    stated = Overrides(
        sod=900.0,
        sdd=1100.0,
        pitch=1.5,
        view=ViewPosition.AP,
        orientation=("R", "F"),
        mask_boxes=((0, 0, 20, 30),),
    )
    read = read_radiograph(write("PA"), stated)
    assert read.view.sod == pytest.approx(900)
    assert read.view.sdd == pytest.approx(1100)
    assert read.view.spacing == (1.5, 1.5)
    assert read.view.column_vector.tolist() == [-1, 0, 0]
    assert not read.mask[:20, :30].any()
    assert read.mask[20:, 30:].all()
    for name in ("sod", "sdd", "pitch", "view", "orientation", "mask_boxes"):
        assert read.provenance[name].source == "override"


def test_dx_distance_to_patient_is_never_sod(write: Writer) -> None:
    path = write("PA", EstimatedRadiographicMagnificationFactor=None, DistanceSourceToPatient="990")
    assert errors(path) == {"E14"}
    assert read_radiograph(path, Overrides(sod=1000.0)).view.sod == pytest.approx(1000)
    cr = read_radiograph(write("PA", cr=True))
    assert cr.provenance["sod"].value == SOD
    assert cr.provenance["sod"].attribute == "DistanceSourceToPatient"


def test_enhanced_xa_functional_groups(write: Writer) -> None:
    def enhance(dataset: Dataset) -> None:
        geometry, position, shared, frame, properties = (Dataset() for _ in range(5))
        geometry.DistanceSourceToIsocenter, geometry.DistanceSourceToDetector = 800.0, 1180.0
        position.PositionerPrimaryAngle, position.PositionerSecondaryAngle = 88.0, 1.0
        properties.PixelIntensityRelationship, properties.PixelIntensityRelationshipSign = "LIN", 1
        properties.ImagerPixelSpacing = ["1.8", "1.8"]
        shared.XRayGeometrySequence = [geometry]
        shared.FramePixelDataPropertiesSequence = [properties]
        frame.PositionerPositionSequence = [position]
        dataset.SharedFunctionalGroupsSequence = [shared]
        dataset.PerFrameFunctionalGroupsSequence = [frame, frame]
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.12.1.1"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.NumberOfFrames = 2
        dataset.PixelData = dataset.PixelData + dataset.PixelData[::-1]
        for keyword in (
            "PixelIntensityRelationship",
            "PixelIntensityRelationshipSign",
            "DistanceSourceToDetector",
            "ImagerPixelSpacing",
            "ViewCodeSequence",
            "ViewPosition",
        ):
            delattr(dataset, keyword)

    path = write("LL", edit=enhance)
    assert errors(path) == {"E04"}
    read = read_radiograph(path, Overrides(frame=0))
    assert describe(path).kind == "Enhanced XA"
    assert read.quantity == "line integral"
    assert read.position is ViewPosition.LL
    assert read.view.sod == pytest.approx(800)
    assert read.provenance["sod"].attribute == "DistanceSourceToIsocenter"
    expected = positioner_rotation(88.0, 1.0) @ np.array([0, -1, 0])
    assert np.allclose(read.view.beam, expected)
    assert np.abs(read.pixels - line_integrals(make_view("LL"))).max() < 0.02


# ---- codes


def test_e01(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "text"
    path.write_text("no DICOM")
    assert errors(path) == {"E01"}
    for absent in (tmp_path / "absent", "a\0b"):
        with pytest.raises(SpiderError, match="E01"):
            read_pair(absent, path)
    assert errors(write(SOPClassUID="1.2.840.10008.5.1.4.1.1.2")) == {"E01"}
    capture = write(cr=True, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    assert errors(capture) == {"E01"}
    read = read_radiograph(capture, Overrides(allow_secondary_capture=True))
    assert describe(capture).kind == "SC"
    assert read.provenance["secondary_capture"] == ProvenancedValue("accepted", "override")


@pytest.mark.parametrize("kept", [200, 700, 1200, 2000])
def test_truncated_files_are_refused_by_code(write: Writer, kept: int) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:kept])
    assert errors(path)


def test_e02_names_the_plugin(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def compress(dataset: Dataset) -> None:
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9" * 8])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"

    path = write(edit=compress)
    assert errors(path) == {"E02"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpiderError, match=r"needs a plugin. To do: install python-gdcm"):
        read_radiograph(path)


def test_e02_shows_no_uid(write: Writer) -> None:
    def unknown(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = "1.2.3.4.5.6"

    path = write(edit=unknown)
    assert errors(path) == {"E02"}
    with pytest.raises(SpiderError, match="unknown transfer syntax") as caught:
        read_radiograph(path)
    assert "1.2.3" not in str(caught.value)


def test_malformed_functional_group_is_absent(write: Writer) -> None:
    def group(dataset: Dataset) -> None:
        inner, shared = Dataset(), Dataset()
        inner.DistanceSourceToDetector = 1150.0
        shared.InstanceNumber = "4321"
        shared.XRayGeometrySequence = [inner]
        dataset.SharedFunctionalGroupsSequence = [shared]

    path = write(edit=group)
    raw = path.read_bytes()
    assert raw.count(b"IS\x04\x004321") == 1
    path.write_bytes(raw.replace(b"IS\x04\x004321", b"FD\x04\x004321"))  # four bytes of eight
    assert read_radiograph(path).view.sdd == pytest.approx(1150)


def test_a_frame_is_read_that_was_chosen(write: Writer) -> None:
    def double(dataset: Dataset) -> None:
        dataset.NumberOfFrames = 2
        dataset.PixelData = bytes(len(dataset.PixelData)) + dataset.PixelData

    path = write(edit=double)
    truth = line_integrals(make_view("PA"))
    assert np.abs(read_radiograph(path, Overrides(frame=1)).pixels - truth).max() < 0.02


def test_pitch_is_that_at_the_detector(write: Writer) -> None:
    path = write(PixelSpacing=["1.5", "1.5"], PixelSpacingCalibrationType="GEOMETRY")
    assert warnings(path) == {"E13"}
    assert read_radiograph(path).view.spacing == (1.8, 1.8)


@pytest.mark.parametrize("value", [0, 1000, 65535])
def test_e16_constant(write: Writer, value: int) -> None:
    def flatten(dataset: Dataset) -> None:
        dataset.PixelData = np.full(dataset.Rows * dataset.Columns, value, "<u2").tobytes()

    assert errors(write(edit=flatten)) == {"E16"}


def test_e16_saturated_and_few_values(write: Writer) -> None:
    def saturate(dataset: Dataset) -> None:
        values = np.random.default_rng(0).integers(0, 40, dataset.Rows * dataset.Columns)
        dataset.PixelData = np.where(values < 37, 0, values + 100).astype("<u2").tobytes()

    def binarise(dataset: Dataset) -> None:
        values = np.random.default_rng(0).integers(0, 5, dataset.Rows * dataset.Columns)
        dataset.PixelData = values.astype("<u2").tobytes()

    assert errors(write(edit=saturate)) == {"E16"}
    assert errors(write(edit=binarise)) == {"E16"}


def test_e16_absurd_size_is_refused_before_decoding(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("spider_bundle.dicom.decode._decode", decode)
    assert errors(write(Rows=60000, Columns=60000)) == {"E16"}
    assert errors(write(NumberOfFrames=2**31 - 1)) == {"E16"}


def test_e18_collimation(write: Writer) -> None:
    edges = {
        "CollimatorShape": "RECTANGULAR",
        "CollimatorLeftVerticalEdge": 61,
        "CollimatorRightVerticalEdge": 120,
        "CollimatorUpperHorizontalEdge": 1,
        "CollimatorLowerHorizontalEdge": 200,
    }
    read = read_radiograph(write(**edges))
    assert {f.code for f in read.findings} == {Code.FIELD_CUTS_HEAD}
    assert "left" in read.findings[0].message
    assert "right" in read.findings[0].message
    assert np.array_equal(np.flatnonzero(read.mask.any(axis=0)), np.arange(60, 120))
    edges.update(CollimatorLeftVerticalEdge=1, CollimatorRightVerticalEdge=70)
    assert "E18" in errors(write(**edges))
    # Millimetres about the middle in place of pixels, as a real system writes them.
    edges.update(CollimatorLeftVerticalEdge=-9, CollimatorRightVerticalEdge=5)
    assert read_radiograph(write(**edges)).mask.all()


def test_shutters_and_padding(write: Writer) -> None:
    circle = {
        "ShutterShape": "CIRCULAR",
        "CenterOfCircularShutter": [100, 90],
        "RadiusOfCircularShutter": 80,
    }
    rows, columns = np.mgrid[1:201, 1:181]
    mask = read_radiograph(write(**circle)).mask
    assert np.array_equal(mask, np.hypot(rows - 100, columns - 90) <= 80)
    triangle = {
        "ShutterShape": "POLYGONAL",
        "VerticesOfThePolygonalShutter": [1, 90, 199, 1, 199, 180],
    }
    mask = read_radiograph(write(**triangle)).mask
    assert mask[150, 90]
    assert not mask[20, 20]
    assert mask.mean() == pytest.approx(0.5, abs=0.02)

    def pad(dataset: Dataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<u2").reshape(200, 180).copy()
        values[:30, :40] = 3
        dataset.PixelData = values.tobytes()
        dataset.add_new("PixelPaddingValue", "US", 3)

    mask = read_radiograph(write(edit=pad)).mask
    assert not mask[:30, :40].any()
    assert mask[30:].all()


@pytest.mark.parametrize("stored", [12, 16])
@pytest.mark.parametrize(("vr", "value"), [("US", 33536), ("SS", -32000), ("UN", b"\x00\x83")])
def test_padding_is_what_its_bits_mean_whatever_its_vr(
    write: Writer, stored: int, vr: str, value: object
) -> None:
    def pad(dataset: Dataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<u2").reshape(200, 180).astype(int) - 2048
        rows, columns = np.mgrid[:200, :180]
        values[np.hypot(rows - 99.5, columns - 89.5) > 88] = -32000
        dataset.PixelData, dataset.PixelRepresentation = values.astype("<i2").tobytes(), 1
        dataset.BitsStored, dataset.HighBit = stored, stored - 1
        if isinstance(value, bytes):
            tag = Tag("PixelPaddingValue")
            dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        else:
            dataset.add_new("PixelPaddingValue", vr, value)

    plain, padded = (read_radiograph(write(cr=True, edit=edit)) for edit in (None, pad))
    assert padded.mask.mean() == pytest.approx(np.pi * 88**2 / 200 / 180, abs=0.01)
    assert np.ptp((plain.pixels - padded.pixels)[padded.mask]) == 0


def test_padding_may_lie_beyond_the_bits_stored(write: Writer) -> None:
    def pad(dataset: Dataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<u2").reshape(200, 180).copy()
        values[:, :9] = 65535
        dataset.PixelData = values.tobytes()
        dataset.add_new("PixelPaddingValue", "SS", -1)

    mask = read_radiograph(write(options={"bits": 12}, edit=pad)).mask
    assert not mask[:, :9].any()
    assert mask[:, 9:].all()


def test_blanked_margins_and_blades_are_masked_but_air_is_not(write: Writer) -> None:
    def blank(dataset: Dataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<u2").reshape(200, 180).copy()
        values[:12] = 0
        noise = np.random.default_rng(0).integers(10, 400, (200, 9))
        values[:, -9:] = noise
        dataset.PixelData = values.tobytes()

    assert read_radiograph(write()).mask.all()
    read = read_radiograph(write(edit=blank))
    assert not read.mask[:12].any()
    assert not read.mask[:, -9:].any()
    assert read.mask[12:, :-9].all()
    truth = line_integrals(make_view("PA"))
    assert np.abs(read.pixels - truth)[read.mask].max() < 0.02


def test_e24(write: Writer) -> None:
    wrong = write(PixelIntensityRelationshipSign=-1)
    assert errors(wrong) == {"E24"}
    assert errors(write(cr=True, PhotometricInterpretation="MONOCHROME2")) == {"E24"}
    read = read_radiograph(wrong, Overrides(dense_is_high=False))
    assert read.provenance["polarity"].source == "override"
    truth = line_integrals(make_view("PA"))
    assert np.corrcoef(read.pixels.ravel(), truth.ravel())[0, 1] > 0.999
    # A field inside the head has no air at its border: nothing can be said, only that it is cut.
    inside = write(view=make_view("PA", spacing=(0.5, 0.5)))
    assert warnings(inside) == {"E18"}
    # Then the header must not contradict itself.
    narrow = {"view": make_view("PA", spacing=(0.5, 0.5)), "cr": True}
    assert warnings(write(**narrow)) == {"E15", "E18"}
    assert errors(write(**narrow, PresentationLUTShape="IDENTITY")) == {"E24"}
    assert warnings(write(PresentationLUTShape="IDENTITY", cr=True)) == {"E15", "E24"}


def test_messages_show_nobody(write: Writer) -> None:
    secret = {
        "PatientName": "Doe^Jane",
        "PatientID": "ID4711",
        "AccessionNumber": "ACC0815",
        "StudyDescription": "Doe skull",
    }
    path = write("LL", name="Doe_Jane/skull", PatientOrientation=["L", "F"], **secret)
    with pytest.raises(SpiderError) as caught:
        read_radiograph(path)
    uid = pydicom.dcmread(path).StudyInstanceUID
    shown = f"{caught.value} {caught.value!r} {caught.value.findings}"
    sound = write("LL", **secret)
    film = describe(sound, keep_identity=True)
    shown += repr((read_radiograph(sound), film, judge_film(film, Overrides())))
    for hidden in ("Doe", "Jane", "4711", "0815", uid, str(path.parent)):
        assert hidden not in shown
    assert film.identifiers.patient == "ID4711"


def test_nothing_is_logged_or_warned(
    write: Writer, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    path = write(StudyInstanceUID="Doe.Jane", AccessionNumber="Doe" * 10, AcquisitionTime="Doe")
    caplog.clear()
    recwarn.clear()
    read_radiograph(path)
    assert caplog.text == ""
    assert [str(w.message) for w in recwarn] == []


# ---- real files


def test_bolton_geometry(shared_data: Path) -> None:
    folder = shared_data / "radiographs" / "bolton"
    frontal = read_radiograph(folder / "B1893F12.dcm")
    lateral = read_radiograph(folder / "B1893L12.dcm")
    assert (frontal.position, lateral.position) == (ViewPosition.PA, ViewPosition.LL)
    for read, sdd in ((frontal, 1642.3), (lateral, 1611.0)):
        assert read.view.sdd == pytest.approx(sdd)
        assert read.view.sod == pytest.approx(1524.0, abs=0.05)
        assert read.view.spacing[0] == pytest.approx(0.1984, abs=1e-4)
        assert read.quantity == "tone"
        assert {Code.BURNED_IN_TEXT, Code.LOSSY_COMPRESSION} <= {f.code for f in read.findings}
    assert lateral.view.column_vector.tolist() == [0, 0, -1]
    assert lateral.view.row_vector.tolist() == [0, 1, 0]
    cut = [f.message for f in lateral.findings if f.code is Code.FIELD_CUTS_HEAD]
    assert "superior" in cut[0]


REAL = {
    "RG1_J2KI.dcm": {"E12", "E14"},
    "RG1_UNCR.dcm": {"E12", "E14"},
    "RG2_jpeg_extended.dcm": {"E02", "E08", "E10", "E11", "E12", "E14"},
    "RG2_rle.dcm": {"E08", "E10", "E11", "E12", "E14"},
    "RG3_J2KR.dcm": {"E11", "E12", "E14"},
    "RG3_jpeg_lossless.dcm": {"E11", "E12", "E14"},
    "RG3_jpegls.dcm": {"E11", "E12", "E14"},
    "XA1_jpeg_lossless.dcm": {"E01"},
    "canon_dx_log_inverse.dcm": {"E14"},
    "canon_dx_truncated_j2k.dcm": {"E02", "E14"},
    "cr_modality_lut.dcm": {"E08", "E10", "E11", "E14"},
    "cr_mono1_chest_no_geometry.dcm": {"E10", "E11", "E12", "E14"},
    "cspine_study/6154": {"E09", "E11", "E12", "E14"},
    "cspine_study/6247": {"E11", "E12", "E14"},
    "mlut_18.dcm": {"E01"},
    "rentgenprom_dx_lin.dcm": {"E08", "E11", "E14"},
    "rtimage.dcm": {"E01"},
    "vlut_04.dcm": {"E01"},
    "xa_96_frames.dcm": {"E04"},
}
STATED = Overrides(
    sod=1300.0,
    sdd=1500.0,
    pitch=0.2,
    view=ViewPosition.PA,
    orientation=("L", "F"),
    allow_secondary_capture=True,
)


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_refused_for_the_right_reasons(shared_data: Path, name: str) -> None:
    if "jpeg" in name or "J2K" in name or name in ("cr_modality_lut.dcm",):
        pytest.importorskip("gdcm")
    assert errors(shared_data / "radiographs" / "other" / name) == REAL[name]


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG3_jpegls.dcm", "cr_modality_lut.dcm"])
def test_real_files_read_once_the_geometry_is_stated(shared_data: Path, name: str) -> None:
    pytest.importorskip("gdcm")
    read = read_radiograph(shared_data / "radiographs" / "other" / name, STATED)
    assert np.isfinite(read.pixels).all()
    if name == "RG3_jpegls.dcm":
        # Unexposed margins left and right of the field are masked, the forearm is not.
        assert not read.mask[:, :100].any()
        assert read.mask[500:1200, 600:900].all()


def test_one_frame_of_a_real_run(shared_data: Path) -> None:
    pytest.importorskip("gdcm")
    path = shared_data / "radiographs" / "other" / "xa_96_frames.dcm"
    assert "E08" in errors(path, Overrides(frame=3))
    stated = Overrides(
        frame=3, sod=750.0, sdd=1100.0, pitch=0.4, view=ViewPosition.PA, orientation=("L", "F")
    )
    assert read_radiograph(path, stated).quantity == "line integral"


def test_percentiles_of_lines_are_those_of_numpy() -> None:
    random = np.random.default_rng(0)
    lines = random.normal(size=(40, 33)).astype(np.float32)
    lines[random.random(lines.shape) < 0.3] = np.nan
    lines[3, 1:] = np.nan  # a line with one value
    lines[3, 0] = 2.0
    expected = np.nanpercentile(lines.astype(np.float64), (10.0, 50.0), axis=1)
    np.testing.assert_allclose(_line_percentiles(lines, (10.0, 50.0)), expected, rtol=1e-12)
