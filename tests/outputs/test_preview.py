"""What the eye sees: sides, places, colours and size of the preview."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from spider_bundle.dicom.provenance import Provenance, ViewProvenance
from spider_bundle.errors import CODES, Code, finding
from spider_bundle.geometry import LPS_TO_RAS, Grid, rotation_about
from spider_bundle.labels import LABEL_COLOURS, Label
from spider_bundle.outputs import preview
from spider_bundle.outputs.consistency import reprojection_consistency
from spider_bundle.outputs.preview import (
    PLANES,
    panel_box,
    plane_frame,
    views_of_plane,
    write_preview,
)
from spider_bundle.reconstructor import Result

Array = np.ndarray[Any, Any]
PLANE_COLUMN = {plane.name: column for column, plane in enumerate(PLANES, start=2)}


def study(grid: Grid, hu: Array, labels: Array | None = None, **more: Any) -> Result:
    """A study; ``projections``, ``hidden`` and ``findings`` go to its provenance."""
    projections = more.pop("projections", (None, None))
    views = [
        ViewProvenance(role, position, {}, projection)
        for (role, position), projection in zip(
            (("frontal", "PA"), ("lateral", "LL")), projections, strict=True
        )
    ]
    image = np.asarray(more.pop("image", np.zeros((2, 32, 32), np.float32)))
    mask = np.ones(image.shape, bool)
    agreement = reprojection_consistency(image[0], image[0])
    return Result(
        study_key="0f3a9c",
        hu=hu,
        labels=np.zeros(grid.shape, np.uint8) if labels is None else labels,
        grid=grid,
        image=image,
        provenance=Provenance(
            views=(views[0], views[1]),
            isocentric_assumed=False,
            burned_in=more.pop("hidden", (False, False)),
            lossy=None,
            findings=tuple(more.pop("findings", ())),
            read_seconds=0.0,
        ),
        consistency={"frontal": agreement, "lateral": agreement},
        device="cpu",
        weights_sha256=None,
        timings={},
        **{"mask": mask, "reprojection": np.zeros_like(image), "pixel_size": 1.2, **more},
    )


def drawn(path: Path, *arguments: Any, **more: Any) -> Array:
    """The preview of a :func:`study`, 0 to 255."""
    result = study(*arguments, **more)
    write_preview(path, result, result.report())
    picture = imread(path)
    return np.rint(255 * picture[..., :3]).astype(int)


def panel(picture: Array, row: int, column: int) -> Array:
    box = panel_box(row, column)
    return picture[box.top : box.top + box.size, box.left : box.left + box.size]


def blob(picture: Array) -> tuple[float, float]:
    """(column, row) centre of the neutral grey marker of middle brightness in a panel."""
    spread = picture.max(axis=-1) - picture.min(axis=-1)
    near = (spread <= 2) & (abs(picture.mean(axis=-1) - 150) < 10)
    rows, columns = np.nonzero(near)
    # letters have antialiased grey pixels too; the marker is far larger
    middle = np.median(columns), np.median(rows)
    close = np.hypot(columns - middle[0], rows - middle[1]) < 15
    return float(columns[close].mean()), float(rows[close].mean())


@pytest.fixture(params=["aligned", "other axes"])
def placed(request: pytest.FixtureRequest) -> Grid:
    if request.param == "aligned":
        ras = np.diag([1.0, 2.0, 3.0, 1.0])
        ras[:3, 3] = (-70.0, -100.0, -60.0)
        return Grid((120, 90, 50), LPS_TO_RAS @ ras)
    # first index towards the feet, second to the left, third backwards
    affine = np.array([[0, 1.5, 0, -80.0], [0, 0, 2.0, -90.0], [-1.0, 0, 0, 70.0], [0, 0, 0, 1]])
    return Grid((150, 100, 80), affine)


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_marker_lies_on_the_radiological_side(tmp_path: Path, placed: Grid, plane: Any) -> None:
    """A ball left, in front and above the isocentre, cut through its middle by the plane."""
    middle = np.array([38.0, -44.0, 35.0])
    middle[plane.normal] = 0.0
    inside = np.linalg.norm(placed.points() - middle, axis=-1) < 12
    low, high = preview.DISPLAY_WINDOW
    hu = np.where(inside, low + (high - low) * 150 / 255, -1000).astype(np.int16)
    picture = drawn(tmp_path / "p.png", placed, hu)
    column, row = blob(panel(picture, 0, PLANE_COLUMN[plane.name]))
    half = panel_box(0, 2).size / 2
    # radiological: patient's left on the right, front up (axial) or on the left (sagittal)
    on_the_right, above = {
        "Axial": (True, True),
        "Coronal": (True, True),
        "Sagittal": (False, True),
    }[plane.name]
    assert (column > half) == on_the_right
    assert (row < half) == above
    centre, side = plane_frame(placed)
    scale = 2 * half / side
    across, up = {
        "Axial": (middle[0] - centre[0], middle[1] - centre[1]),
        "Coronal": (middle[0] - centre[0], centre[2] - middle[2]),
        "Sagittal": (middle[1] - centre[1], centre[2] - middle[2]),
    }[plane.name]
    assert column + 0.5 == pytest.approx(half + scale * across, abs=1.5)
    assert row + 0.5 == pytest.approx(half + scale * up, abs=1.5)


def test_letters_name_the_edges() -> None:
    letters = {plane.name: "".join(plane.letters) for plane in PLANES}
    assert letters == {"Axial": "RLAP", "Coronal": "RLSI", "Sagittal": "APSI"}
    vectors = {"R": (0, -1), "L": (0, 1), "A": (1, -1), "P": (1, 1), "S": (2, 1), "I": (2, -1)}
    for plane in PLANES:
        left, right, top, bottom = (vectors[letter] for letter in plane.letters)
        assert plane.right == right
        assert plane.down == bottom
        assert (left[0], -left[1]) == right
        assert (top[0], -top[1]) == bottom


def test_a_turned_grid_shows_the_same_head(tmp_path: Path) -> None:
    def volume(grid: Grid) -> Array:
        points = grid.points()
        radius = np.linalg.norm(points / (60, 80, 70), axis=-1)
        return (-1000 + 1800 / (1 + np.exp(20 * (radius - 1)))).astype(np.int16)

    straight = Grid.centred(2.0, 100)
    turn = np.eye(4)
    turn[:3, :3] = rotation_about(2, 25.0)
    turned = Grid(straight.shape, turn @ straight.affine)
    side = [plane_frame(grid)[1] for grid in (straight, turned)]
    found = []
    for grid in (straight, turned):
        picture = panel(drawn(tmp_path / "p.png", grid, volume(grid)), 0, 2)
        bright = (picture.min(axis=-1) > 60).sum()
        found.append(bright * (plane_frame(grid)[1] / picture.shape[0]) ** 2)
    assert side[1] > side[0]
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_label_colours_in_legend_and_overlay(tmp_path: Path) -> None:
    grid = Grid.centred(2.0, 100)
    x, y, _ = np.moveaxis(grid.points(), -1, 0)
    low, high = preview.DISPLAY_WINDOW
    hu = np.full(grid.shape, low + (high - low) * 0.5).astype(np.int16)
    labels = np.zeros(grid.shape, np.uint8)
    places = {}
    for number, label in enumerate(item for item in Label if item is not Label.BACKGROUND):
        middle = (-60.0 + 30 * number, 30.0)
        labels[(abs(x - middle[0]) < 11) & (abs(y - middle[1]) < 11)] = label
        places[label] = middle
    picture = drawn(tmp_path / "p.png", grid, hu, labels)
    legend = picture[panel_box(1, 0).top + panel_box(1, 0).size :]
    plain, overlaid = panel(picture, 0, 2), panel(picture, 1, 2)
    scale = plain.shape[0] / 200.0
    for label, (across, down) in places.items():
        colour = np.array(LABEL_COLOURS[label])
        opacity = (
            preview.SOFT_TISSUE_OPACITY if label == Label.SOFT_TISSUE else preview.OVERLAY_OPACITY
        )
        row, column = round(150 + scale * down), round(150 + scale * across)
        assert abs(plain[row, column] - 127.5).max() <= 2
        expected = (1 - opacity) * 127.5 + opacity * colour
        assert (abs(legend - expected).max(axis=-1) <= 2).sum() > 100
        assert abs(overlaid[row, column] - expected).max() <= 2
    assert abs(overlaid[60, 60] - 127.5).max() <= 2  # background is not tinted


def test_radiographs_are_neither_mirrored_nor_swapped(tmp_path: Path) -> None:
    grid = Grid.centred(4.0, 20)
    image, reprojection = np.zeros((2, 100, 100)), np.zeros((2, 100, 100))
    image[0, 10:20, 70:80] = 1.0
    image[1, 70:80, 20:30] = 1.0
    reprojection[0, 30:40, 60:70] = 1.0
    reprojection[1, 60:70, 60:70] = 1.0
    hu = np.full(grid.shape, -1000, np.int16)
    picture = drawn(tmp_path / "p.png", grid, hu, image=image, reprojection=reprojection)
    expected = {(0, 0): (15, 75), (1, 0): (75, 25), (0, 1): (35, 65), (1, 1): (65, 65)}
    for (row, column), (middle_row, middle_column) in expected.items():
        shown = panel(picture, row, column)
        at = shown[3 * middle_row - 8 : 3 * middle_row + 8, 3 * middle_column - 8 :][:, :16]
        assert at.min() > 250
        mirrored = shown[3 * middle_row - 8 : 3 * middle_row + 8, 300 - 3 * middle_column - 8 :]
        assert mirrored[:, :16].max() < 5


def test_size_speed_and_bytes(tmp_path: Path) -> None:
    grid = Grid.centred(2.0, 128)
    generator = np.random.default_rng(0)
    result = study(
        *(grid, generator.integers(-1000, 2000, grid.shape).astype(np.int16)),
        generator.integers(0, 6, grid.shape).astype(np.uint8),
        image=generator.random((2, 256, 256)).astype(np.float32),
        projections=(PARALLEL, PARALLEL),
        findings=[finding(code) for code in CODES],
    )
    report = result.report()
    start = time.process_time()
    write_preview(tmp_path / "a.png", result, report)
    assert time.process_time() - start < 2.0
    write_preview(tmp_path / "b.png", result, report)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = imread(tmp_path / "a.png")
    assert picture.shape[:2] == (preview.HEIGHT, preview.WIDTH) == (812, 1920)
    # a long list of warnings stays inside the margin
    margin = np.rint(255 * picture[760:, -20:, :3])
    assert (margin == margin[0, 0]).all()


def test_warnings_and_footer_are_visible(tmp_path: Path) -> None:
    grid = Grid.centred(4.0, 20)
    hu = np.full(grid.shape, -1000, np.int16)
    calm = drawn(tmp_path / "p.png", grid, hu)[760:]
    warned = drawn(tmp_path / "p.png", grid, hu, findings=[finding(Code.TIME_GAP)])[760:]
    amber = np.array([242, 184, 75])
    in_footer = (abs(calm - amber).max(axis=-1) < 30).sum()
    assert in_footer > 100
    assert (abs(warned - amber).max(axis=-1) < 30).sum() > in_footer + 100


def test_grid_without_the_isocentre_is_cut_through_its_middle(tmp_path: Path) -> None:
    grid = Grid.centred(2.0, 50)
    moved = np.eye(4)
    moved[:3, 3] = (300.0, 0.0, 0.0)
    away = Grid(grid.shape, moved @ grid.affine)
    hu = np.full(grid.shape, 800, np.int16)
    for column in PLANE_COLUMN.values():
        shown = panel(drawn(tmp_path / "p.png", away, hu), 0, column)
        assert (shown.min(axis=-1) > 100).mean() > 0.9


def test_shapes_must_fit(tmp_path: Path) -> None:
    grid = Grid.centred(4.0, 20)
    result = study(grid, np.zeros(grid.shape, np.int16))
    report = result.report()
    for wrong in ({"hu": np.zeros((20, 20, 21), np.int16)}, {"reprojection": np.zeros((2, 8, 9))}):
        with pytest.raises(ValueError, match=r"\(20, 20, 21\)|one shape"):
            write_preview(tmp_path / "p.png", replace(result, **wrong), report)
    assert list(tmp_path.iterdir()) == []


def test_hidden_radiograph_is_not_shown(tmp_path: Path, placed: Grid) -> None:
    hu = np.full(placed.shape, -1000, np.int16)
    image = np.zeros((2, 32, 32))
    image[:, 4:28, 4:28] = 1.0
    shown = drawn(tmp_path / "a.png", placed, hu, image=image)
    hidden = drawn(tmp_path / "b.png", placed, hu, image=image, hidden=(False, True))
    middle = slice(60, -60)
    assert panel(shown, 1, 0)[middle, middle].mean() > 100
    assert panel(hidden, 1, 0)[middle, middle].max() < 60
    assert np.array_equal(panel(hidden, 0, 0), panel(shown, 0, 0))


#: Pixels of 8 mm in parallel beams: columns along x and along y, rows downwards.
PARALLEL = ((0.125, 0, 0, 16), (0, 0, -0.125, 16), (0, 0, 0, 1))
FROM_THE_SIDE = ((0, 0.125, 0, 16), *PARALLEL[1:])


def test_what_the_radiographs_do_not_show_is_hatched(tmp_path: Path) -> None:
    grid = Grid.centred(2.0, 100)
    hu = np.full(grid.shape, -1000, np.int16)
    mask = np.ones((2, 32, 32), bool)
    mask[0, :, 16:] = False  # the patient's left
    mask[1, :, 16:] = False  # the back of the head
    where = {"projections": (PARALLEL, FROM_THE_SIDE)}
    assert views_of_plane(PLANES[0], study(grid, hu, **where)).min() == 2
    axial = views_of_plane(PLANES[0], study(grid, hu, mask=mask, **where))
    half = axial.shape[0] // 2
    quarters = [axial[:100, :100], axial[:100, -100:], axial[-100:, :100], axial[-100:, -100:]]
    assert [set(np.unique(part)) for part in quarters] == [{2}, {1}, {1}, {0}]
    picture = drawn(tmp_path / "p.png", grid, hu, mask=mask, **where)
    whole = drawn(tmp_path / "q.png", grid, hu, **where)
    for row in (0, 1):
        amber = abs(panel(picture, row, 2) - (121, 92, 37)).max(axis=-1) < 2
        one, none = amber[30:100, half + 50 : -30], amber[half + 50 : -30, half + 50 : -30]
        assert 0.08 < one.mean() < 0.12 < 0.16 < none.mean() < 0.2
        assert not amber[30:100, 30:100].any()
    assert not (abs(panel(whole, 0, 2)[30:-30, 30:-30] - (121, 92, 37)).max(axis=-1) < 2).any()


def test_bones_lie_where_the_planes_show_them(tmp_path: Path, placed: Grid) -> None:
    middle = np.array([30.0, -36.0, 28.0])
    ball = np.linalg.norm(placed.points() - middle, axis=-1) < 14
    picture = drawn(
        tmp_path / "p.png",
        placed,
        np.where(ball, 900, -1000),
        np.where(ball, 2, 0).astype(np.uint8),
    )
    centre, side = plane_frame(placed)
    for row, axis in enumerate((0, 1)):  # from in front, from the left
        shown = panel(picture, row, 5)[40:-40, 20:-20].sum(axis=-1) > 60
        rows, columns = np.nonzero(shown)
        scale = 300 / side
        assert 20 + columns.mean() == pytest.approx(
            150 + scale * (middle[axis] - centre[axis]), abs=3
        )
        assert 40 + rows.mean() == pytest.approx(150 - scale * (middle[2] - centre[2]), abs=3)
        assert shown.sum() == pytest.approx(np.pi * (14 * scale) ** 2, rel=0.25)
