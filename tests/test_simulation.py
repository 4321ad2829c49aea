"""Simulated radiographs: assumed and actual geometry, realism, normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spider_bundle.cases.case import phantom_case
from spider_bundle.cases.transforms import RandHeadDeformd, RandHeadPosed, SamplePointsd
from spider_bundle.geometry import Grid, View, angle_between
from spider_bundle.labels import Label
from spider_bundle.simulation import (
    AcquisitionRanges,
    CaseSeededCompose,
    GeometryError,
    NormaliseRadiographsd,
    RandRadiographRealismd,
    SimulateRadiographsd,
    ToneCurved,
    case_rng,
)
from spider_bundle.slot_view import SlotView

FloatArray = npt.NDArray[np.float64]
GRID = Grid.centred(4.0, 64)
PLACES = ((32, 32, 32), (22, 38, 40), (40, 26, 24), (28, 20, 44), (38, 44, 20))


def draws(ranges: AcquisitionRanges, count: int = 60) -> list[list[tuple[View, View]]]:
    rng = np.random.RandomState(11)
    return [ranges.draw(rng, 64, 4.0) for _ in range(count)]


def case_with_ball(index: tuple[int, int, int], name: str = "ball") -> dict[str, Any]:
    """Air with a soft-edged dense ball around a voxel, labelled bone within 6 mm."""
    distance = np.linalg.norm(GRID.points() - GRID.points()[index], axis=-1)
    hu = -1000 + 4000 * np.exp(-0.5 * (distance / 5.0) ** 2)
    structure = np.where(distance < 6.0, Label.BONE, Label.BACKGROUND).astype(np.uint8)
    return {
        "case": name,
        "ct": torch.from_numpy(hu).float(),
        "structure": torch.from_numpy(structure),
        "ambiguous": torch.zeros(GRID.shape, dtype=torch.bool),
        "measured": torch.ones(GRID.shape, dtype=torch.bool),
        "affine": torch.from_numpy(GRID.affine),
        "pose": torch.eye(4, dtype=torch.float64),
    }


def shadow_centre(image: torch.Tensor) -> FloatArray:
    """(column, row) of the centroid of the shadow of a ball."""
    values = image.double().numpy()
    values = np.where(values > 0.02 * values.max(), values, 0.0)
    row, column = np.mgrid[: values.shape[0], : values.shape[1]]
    centre: FloatArray = np.array([(values * column).sum(), (values * row).sum()]) / values.sum()
    return centre


def projected(matrix: torch.Tensor, point: npt.ArrayLike) -> FloatArray:
    """(column, row) of a world point, spelled out and not by the code under test."""
    x, y, across, along = matrix.numpy() @ [*np.asarray(point), 1.0]
    return np.array([x / across, y / along])


@pytest.fixture(scope="module")
def head() -> dict[str, Any]:
    """A phantom head as a case dictionary."""
    case = phantom_case(3)
    return {
        "case": "phantom_3",
        "ct": torch.from_numpy(case.hu),
        "affine": torch.from_numpy(case.grid.affine),
        "pose": torch.eye(4, dtype=torch.float64),
    }


# Geometry that is drawn


def test_network_is_told_the_truth_unless_errors_are_asked_for() -> None:
    for pair in draws(AcquisitionRanges(tilt=3.0)):
        for assumed, real in pair:
            np.testing.assert_array_equal(assumed.matrix, real.matrix)


def test_drawn_geometry_stays_in_its_ranges_and_fills_them() -> None:
    ranges = AcquisitionRanges(
        sod=(800, 1200), detector_distance=(100, 200), rotation=5.0, tilt=0.0, offset=7.0
    )
    assumed = [[view for view, _ in pair] for pair in draws(ranges, 150)]
    beams = set()
    for column, nominal in ((0, np.array([0, 1, 0])), (1, np.array([1, 0, 0]))):
        views = [pair[column] for pair in assumed]
        signs = [round(float(v.beam @ nominal)) for v in views]
        beams |= {(column, sign) for sign in signs}
        turns = [
            math.degrees(math.asin(float(np.cross(nominal * s, v.beam)[2])))
            for v, s in zip(views, signs, strict=True)
        ]
        # where the central ray passes the isocentre, along the detector's axes
        misses = np.array(
            [
                (v.project(v.source + v.sdd * v.beam) - (v.shape[0] - 1) / 2)
                * v.spacing[0]
                / v.magnification
                for v in views
            ]
        )
        measured = {
            "sod": ([v.sod for v in views], 800, 1200),
            "distance": ([v.sdd - v.sod for v in views], 100, 200),
            "turn": (turns, -5, 5),
            "offset": (misses.ravel(), -7, 7),
        }
        for name, (values, low, high) in measured.items():
            assert min(values) >= low - 1e-6, name
            assert max(values) <= high + 1e-6, name
            assert np.ptp(values) > 0.85 * (high - low), name
        for view in views:
            np.testing.assert_allclose(view.project(np.zeros(3)), 31.5, atol=1e-6)
            assert view.spacing[0] / view.magnification == pytest.approx(4.0)
    assert beams == {(0, 1), (0, -1), (1, 1), (1, -1)}  # AP, PA, LL, RL all occur


@pytest.mark.parametrize("column", [0, 1], ids=["frontal", "lateral"])
def test_tilt_turns_the_beam_towards_head_or_feet(column: int) -> None:
    pairs = draws(AcquisitionRanges(rotation=0.0, tilt=4.0), 100)
    tilts = [math.degrees(math.asin(float(p[column][0].beam[2]))) for p in pairs]
    assert max(np.abs(tilts)) <= 4.0 + 1e-9
    assert np.ptp(tilts) > 0.85 * 8.0


def test_slot_scans_share_tube_and_axis() -> None:
    drawn = draws(AcquisitionRanges(slot=0.5), 80)
    scans = [pair for pair in drawn if isinstance(pair[0][0], SlotView)]
    assert 25 < len(scans) < 55
    for (frontal, real), (lateral, _) in scans:
        assert real is frontal
        assert isinstance(lateral, SlotView)
        # the axis is where the central rays cross; distances are measured from it
        axis = np.array([frontal.source[0], lateral.source[1], 0.0])
        assert np.abs(axis).max() <= 40
        for view in (frontal, lateral):
            assert 530 <= (axis - view.source) @ view.beam <= 650
            assert 940 <= view.sdd <= 1100
            assert view.row_vector @ [0, 0, -1] == pytest.approx(1)
    assert max(abs(pair[0][0].source[0]) for pair in scans) > 30


def test_common_turn_keeps_the_angle_between_the_views() -> None:
    apart = [
        angle_between(a, b) for (a, _), (b, _) in draws(AcquisitionRanges(rotation=0, common=9))
    ]
    assert apart == pytest.approx([90.0] * len(apart))
    beams = np.array([a.beam for (a, _), _ in draws(AcquisitionRanges(rotation=0, common=9))])
    assert np.abs(beams[:, 2]).max() > 0.1


@pytest.mark.parametrize("ranges", [AcquisitionRanges(), AcquisitionRanges(slot=1.0)])
def test_moved_world_shows_the_same_radiographs(ranges: AcquisitionRanges) -> None:
    case = case_with_ball(PLACES[1])
    still = SimulateRadiographsd(ranges, size=64, pixel_size=4.0, seed_by_case=True)(case)
    moved = SimulateRadiographsd(
        ranges, size=64, pixel_size=4.0, seed_by_case=True, world=(1.0, 20.0, 30.0)
    )(case)
    assert torch.equal(still["line_integrals"], moved["line_integrals"])
    assert not torch.allclose(moved["pose"], still["pose"], atol=1e-3)
    place = GRID.points()[PLACES[1]]
    at = [(out["pose"].numpy() @ [*place, 1.0])[:3] for out in (still, moved)]
    for view in range(2):
        there = [
            projected(out["projection"][view], p) for out, p in zip((still, moved), at, strict=True)
        ]
        np.testing.assert_allclose(there[1], there[0], atol=1e-6)


def test_bent_heads_are_a_share_and_go_far() -> None:
    bent = RandHeadPosed(
        prob=1.0, rotation=2.0, shift=3.0, scale=0.0, stretch=0.0, mirror=0.0, bent=0.3
    )
    bent.set_random_state(seed=5)
    poses = [bent({"pose": torch.eye(4, dtype=torch.float64)})["pose"].numpy() for _ in range(200)]
    far = [pose for pose in poses if np.abs(pose[:3, 3]).max() > 3.0]
    assert 35 < len(far) < 80
    flexion = [np.degrees(np.arcsin(np.clip(pose[2, 1], -1, 1))) for pose in far]
    assert 20 < np.abs(flexion).max() < 30


def test_unmodelled_offset_moves_source_and_detector_together() -> None:
    shifts = []
    for pair in draws(AcquisitionRanges(unmodelled_offset=2.0)):
        for assumed, real in pair:
            shift = real.source - assumed.source
            np.testing.assert_allclose(real.centre - assumed.centre, shift, atol=1e-9)
            np.testing.assert_allclose(real.beam, assumed.beam, atol=1e-12)
            shifts.append(shift)
    assert 1.7 < np.abs(shifts).max() <= 2.0
    assert (np.abs(shifts).max(axis=1) > 0).all()


def test_unmodelled_sod_moves_the_source_along_the_beam() -> None:
    errors = []
    for pair in draws(AcquisitionRanges(unmodelled_sod=0.03)):
        for assumed, real in pair:
            np.testing.assert_array_equal(real.centre, assumed.centre)
            np.testing.assert_allclose(
                np.cross(real.source - assumed.source, assumed.beam), 0, atol=1e-9
            )
            errors.append(real.sod / assumed.sod - 1)
    assert 0.025 < np.abs(errors).max() <= 0.03 + 1e-12
    assert min(np.abs(errors)) > 0


def test_unmodelled_rotation_turns_about_the_isocentre() -> None:
    turned = []
    for pair in draws(AcquisitionRanges(unmodelled_rotation=1.5)):
        for assumed, real in pair:
            assert np.linalg.norm(real.source) == pytest.approx(np.linalg.norm(assumed.source))
            assert real.sdd == pytest.approx(assumed.sdd)
            turned.append(angle_between(assumed, real))
    assert min(turned) > 0
    assert 1.0 < max(turned) <= math.sqrt(3) * 1.5


def test_radiograph_is_taken_where_the_network_is_not_told() -> None:
    data = case_with_ball((32, 32, 32))
    ranges = AcquisitionRanges(unmodelled_offset=6.0)
    misses = []
    for seed in range(6):
        transform = SimulateRadiographsd(ranges)
        transform.set_random_state(seed)
        out = transform(data)
        for image, matrix in zip(out["line_integrals"], out["projection"], strict=True):
            expected = projected(matrix, GRID.points()[32, 32, 32])
            misses.append(np.abs(shadow_centre(image) - expected).max())
    # up to 6 mm across the beam at 1.2 mm per pixel, and a little from the magnification
    assert 1.0 < max(misses) < 1.1 * 6.0 / 1.2 + 0.2


# The head in the radiograph


def test_ball_is_seen_where_its_posed_centre_projects() -> None:
    for seed, index in enumerate(PLACES):
        pose, simulate = RandHeadPosed(mirror=0.5), SimulateRadiographsd()
        pose.set_random_state(seed)
        simulate.set_random_state(seed)
        out = simulate(pose(case_with_ball(index)))
        place = (out["pose"].numpy() @ [*GRID.points()[index], 1.0])[:3]
        assert not np.allclose(place, GRID.points()[index], atol=1.0)
        for image, matrix in zip(out["line_integrals"], out["projection"], strict=True):
            np.testing.assert_allclose(shadow_centre(image), projected(matrix, place), atol=0.1)


def test_ball_is_seen_where_its_displaced_and_posed_centre_projects() -> None:
    """The radiograph shows the warped head; the point was moved. Both must meet in the pixel."""
    errors, against, moves = [], [], []
    for seed in range(3):
        for index in PLACES[:3]:
            deform, pose, simulate = RandHeadDeformd(1.0), RandHeadPosed(), SimulateRadiographsd()
            for number, transform in enumerate((deform, pose, simulate)):
                transform.set_random_state(10 * seed + number)
            out = simulate(pose(deform(case_with_ball(index))))
            move = out["displacement"][index].double().numpy()
            here = GRID.points()[index]
            for image, matrix in zip(out["line_integrals"], out["projection"], strict=True):
                centre = shadow_centre(image)
                right, wrong = (
                    projected(matrix, (out["pose"].numpy() @ [*(here + s * move), 1.0])[:3])
                    for s in (1, -1)
                )
                errors.append(np.linalg.norm(centre - right))
                against.append(np.linalg.norm(centre - wrong))
            moves.append(np.linalg.norm(move))
    assert np.mean(moves) > 2.5
    # a pixel is 1.2 mm; the ball itself is bent where the deformation's lattice has a kink
    assert np.median(errors) < 0.35
    assert max(errors) < 1.6
    assert np.mean(against) > 6 * np.mean(errors)


def test_supervised_bone_points_lie_on_their_shadow() -> None:
    for seed, index in enumerate(PLACES[:3]):
        steps = (
            RandHeadDeformd(1.0),
            RandHeadPosed(),
            SimulateRadiographsd(),
            SamplePointsd(4000, uniform=0.0, head=1.0),
        )
        out = case_with_ball(index)
        for number, transform in enumerate(steps):
            transform.set_random_state(50 + 10 * seed + number)
            out = transform(out)
        assert (out["label"][:, 2 + Label.BONE] == 1).all()
        middle = out["points"].double().mean(dim=0).numpy()
        for image, matrix in zip(out["line_integrals"], out["projection"], strict=True):
            miss = np.linalg.norm(shadow_centre(image) - projected(matrix, middle))
            assert miss < 1.2


def test_projecting_every_second_pixel_loses_next_to_nothing(head: dict[str, Any]) -> None:
    full, half = (
        SimulateRadiographsd(seed_by_case=True, stride=stride)(head)["line_integrals"]
        for stride in (1, 2)
    )
    error = half - full
    assert float(error.square().mean().sqrt() / full.max()) < 4e-3  # measured 2.4e-3
    assert float(error.abs().max() / full.max()) < 0.06  # measured 0.043, at metal and edges
    assert abs(float(half.mean() / full.mean()) - 1) < 1e-3  # edge to edge: no shift, no scale
    assert float(error.abs().max()) > 0


def test_acquisition_of_a_case_depends_on_its_name_alone() -> None:
    cases = [case_with_ball((32, 32, 32), name) for name in ("a", "b", "c")]
    first, second = SimulateRadiographsd(seed_by_case=True), SimulateRadiographsd(seed_by_case=True)
    second.set_random_state(99)
    forward = {c["case"]: first(c) for c in cases}
    backward = {c["case"]: second(c) for c in reversed(cases)}
    for name in "abc":
        for key in ("projection", "line_integrals"):
            assert torch.equal(forward[name][key], backward[name][key])
    assert not torch.equal(forward["a"]["projection"], forward["b"]["projection"])
    drawn = SimulateRadiographsd()
    drawn.set_random_state(1)
    assert not torch.equal(drawn(cases[0])["projection"], drawn(cases[0])["projection"])


def test_case_random_numbers_are_the_same_on_every_machine() -> None:
    # the check value of CRC-32; Python's own hash of a text would differ from run to run
    expected = np.random.RandomState(0xCBF43926).randint(0, 1000, 8)
    np.testing.assert_array_equal(case_rng("123456789").randint(0, 1000, 8), expected)


# Realism

EFFECTS = ("scatter", "noise", "hardening", "sharpness", "tone", "collimation", "stickers")


class OneEffect(RandRadiographRealismd):
    """Applies one of the effects, always."""

    def __init__(self, effect: str, **arguments: Any) -> None:
        super().__init__(prob=1.0, **arguments)
        self.wanted = EFFECTS.index(effect)
        self.asked = 0

    def _happens(self) -> bool:
        self.asked += 1
        return (self.asked - 1) % len(EFFECTS) == self.wanted


def realistic(
    transform: RandRadiographRealismd, image: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    transform.set_random_state(seed)
    out = transform({"line_integrals": image})
    return out["line_integrals"], out["field"]


@pytest.fixture(scope="module")
def radiographs(head: dict[str, Any]) -> torch.Tensor:
    """Line integrals of a head, shape ``(2, 128, 128)``."""
    simulate = SimulateRadiographsd(size=128, pixel_size=2.4, seed_by_case=True)
    integrals: torch.Tensor = simulate(head)["line_integrals"]
    return integrals


@pytest.mark.parametrize("seed", range(12))
def test_realistic_radiographs_are_finite_and_usable(radiographs: torch.Tensor, seed: int) -> None:
    before = radiographs.clone()
    with_metal = torch.where(radiographs > radiographs.max() * 0.9, 60.0, radiographs)
    for image in (radiographs, with_metal, torch.zeros_like(radiographs)):
        changed, field = realistic(RandRadiographRealismd(1.0, effect=1.0), image, seed)
        assert torch.isfinite(changed).all()
        assert changed.shape == field.shape == image.shape
        assert field.dtype == torch.bool
        assert (field.float().mean(dim=(1, 2)) > 0.4).all()
    assert torch.equal(radiographs, before)  # the caller's image is not changed


def test_nothing_happens_at_probability_zero(radiographs: torch.Tensor) -> None:
    out = RandRadiographRealismd(prob=0.0)({"line_integrals": radiographs})
    assert torch.equal(out["line_integrals"], radiographs)
    assert "field" not in out


def test_realism_repeats_with_its_seed(radiographs: torch.Tensor) -> None:
    first, second, other = (
        realistic(RandRadiographRealismd(1.0), radiographs, seed)[0] for seed in (4, 4, 5)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_scatter_adds_intensity_and_flattens_the_dense_parts(radiographs: torch.Tensor) -> None:
    for seed in range(5):
        changed, _ = realistic(OneEffect("scatter"), radiographs, seed)
        assert (changed <= radiographs + 1e-5).all()
        for before, after in zip(radiographs, changed, strict=True):
            loss = before - after
            dense = (before > 2.0) & (before < 3.0)
            thin = (before > 0.05) & (before < 1.0)
            assert loss[dense].mean() > 2 * loss[thin].mean() > 0


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0])
def test_noise_is_that_of_counted_photons(level: float) -> None:
    """With n counts behind the object, the line integral has the variance 1 / n."""
    count = 2e4
    image = torch.full((2, 128, 128), level)
    changed, _ = realistic(OneEffect("noise", counts=(count, count)), image, 0)
    expected = 1 / math.sqrt(count * math.exp(-level))
    assert float(changed.std()) == pytest.approx(expected, rel=0.03)
    assert float(changed.mean()) == pytest.approx(level, abs=4 * expected / 181)


@pytest.mark.parametrize("effect", ["hardening", "tone"])
def test_point_effects_keep_the_order_of_the_pixels(radiographs: torch.Tensor, effect: str) -> None:
    order = radiographs.flatten(1).argsort(dim=1)
    kinds = set()
    for seed in range(12):
        changed, field = realistic(OneEffect(effect), radiographs, seed)
        rising = changed.flatten(1).gather(1, order)
        assert (rising.diff(dim=1) >= -1e-6).all()
        # it is a curve that tells tissues apart, not a threshold
        assert len(rising[0].unique()) > 500
        assert field.all()
        kinds.add(round(float(changed[0].mean()), 3))
    assert len(kinds) > 6  # the curve is random


def test_hardening_takes_at_most_the_asked_part(radiographs: torch.Tensor) -> None:
    losses = []
    for seed in range(12):
        changed, _ = realistic(OneEffect("hardening", hardening=0.12), radiographs, seed)
        losses += (1 - changed.amax(dim=(1, 2)) / radiographs.amax(dim=(1, 2))).tolist()
    assert 0.08 < max(losses) <= 0.12 + 1e-5
    assert min(losses) >= -1e-6


def test_sharpness_keeps_the_mean(radiographs: torch.Tensor) -> None:
    roughness = []
    for seed in range(12):
        changed, _ = realistic(OneEffect("sharpness"), radiographs, seed)
        means = changed.mean(dim=(1, 2)) / radiographs.mean(dim=(1, 2))
        assert means.tolist() == pytest.approx([1, 1], abs=0.01)
        edges = changed.diff(dim=2).abs().mean(dim=(1, 2))
        roughness += (edges / radiographs.diff(dim=2).abs().mean(dim=(1, 2))).tolist()
    assert min(roughness) < 0.95  # some are blurred
    assert max(roughness) > 1.05  # some are sharpened


def test_collimators_leave_one_rectangle_of_the_asked_size(radiographs: torch.Tensor) -> None:
    covered = []
    for seed in range(12):
        changed, field = realistic(OneEffect("collimation", collimation=0.2), radiographs, seed)
        torch.testing.assert_close(changed, radiographs, atol=1e-5, rtol=1e-5)
        for opened in field:
            rows, columns = opened.any(dim=1), opened.any(dim=0)
            assert torch.equal(opened, rows[:, None] & columns)
            for line in (rows, columns):
                ends = torch.nonzero(line).flatten()[[0, -1]]
                assert line[ends[0] : ends[1] + 1].all()
                covered += [int(ends[0]) / 128, 1 - (int(ends[1]) + 1) / 128]
    assert 0.15 < max(covered) <= 0.2
    assert min(covered) == 0


def test_stickers_are_masked_or_unknown_but_never_elsewhere(radiographs: torch.Tensor) -> None:
    masked = unknown = 0
    for seed in range(12):
        changed, field = realistic(OneEffect("stickers"), radiographs, seed)
        touched = (changed - radiographs).abs() > 1e-4
        masked += int((~field).any())
        unknown += int(touched.any())
        for mark in (touched, ~field):
            assert float(mark.float().mean()) < 3 / 64  # three marks of an eighth by an eighth
    assert masked
    assert unknown


def test_no_stickers_can_be_asked_for(radiographs: torch.Tensor) -> None:
    changed, field = realistic(OneEffect("stickers", stickers=0), radiographs, 0)
    assert field.all()
    torch.testing.assert_close(changed, radiographs, atol=1e-5, rtol=1e-5)


# Normalisation


def normalised(
    head: dict[str, Any], integrals: torch.Tensor, field: torch.Tensor | None = None
) -> Any:
    data = {**head, "line_integrals": integrals, "projection": torch.rand(2, 3, 4)}
    if field is not None:
        data["field"] = field
    return NormaliseRadiographsd()(data)["image"]


def test_image_is_in_the_networks_range_and_outside_the_field_zero(
    head: dict[str, Any], radiographs: torch.Tensor
) -> None:
    for seed in range(6):
        changed, field = realistic(RandRadiographRealismd(1.0, effect=0.8), radiographs, seed)
        image = normalised(head, changed, field)
        assert image.dtype == torch.float32
        assert (image[~field] == 0).all()
        for one in image:
            assert float(one.min()) == 0
            assert float(one.max()) == 1


def test_hidden_pixels_do_not_change_the_scale(
    head: dict[str, Any], radiographs: torch.Tensor
) -> None:
    field = torch.ones_like(radiographs, dtype=torch.bool)
    field[:, :20, 30:] = False
    spoiled = torch.where(field, radiographs, 1e6)
    torch.testing.assert_close(
        normalised(head, spoiled, field), normalised(head, radiographs, field)
    )


@pytest.mark.parametrize(("gain", "offset"), [(3.0, 0.0), (0.2, 3.06), (1.0, -2.0)])
def test_gain_and_offset_of_a_radiograph_do_not_matter(
    head: dict[str, Any], radiographs: torch.Tensor, gain: float, offset: float
) -> None:
    scaled = normalised(head, gain * radiographs + offset)
    torch.testing.assert_close(scaled, normalised(head, radiographs), atol=1e-5, rtol=1e-4)


def test_image_carries_the_geometry_and_the_grid_of_its_case(
    head: dict[str, Any], radiographs: torch.Tensor
) -> None:
    grid = Grid.centred((4.0, 3.0, 2.0), (5, 6, 7))
    case = {"ct": torch.zeros(grid.shape), "affine": torch.from_numpy(grid.affine)}
    data = {**head, **case, "line_integrals": radiographs, "projection": torch.rand(2, 3, 4)}
    meta = NormaliseRadiographsd()(data)["image"].meta
    assert torch.equal(meta["projection"], data["projection"])
    assert meta["spatial_shape"].tolist() == [5, 6, 7]
    np.testing.assert_allclose(meta["original_affine"], grid.ras_affine)


# What an evaluation gets wrong on purpose


@pytest.mark.parametrize("error", [0.1, -0.05])
def test_a_wrong_sod_leaves_the_sdd_and_moves_source_and_detector(error: float) -> None:
    for assumed, _ in draws(AcquisitionRanges(), 3)[0]:
        real = GeometryError(sod=error).actual(assumed, lateral=False)
        assert assumed.sod == pytest.approx(real.sod * (1 + error))
        assert real.sdd == pytest.approx(assumed.sdd)
        np.testing.assert_allclose(real.beam, assumed.beam, atol=1e-12)


def test_a_wrong_sdd_leaves_the_source() -> None:
    for assumed, _ in draws(AcquisitionRanges(), 1)[0]:
        real = GeometryError(sdd=0.1).actual(assumed, lateral=True)
        assert assumed.sdd == pytest.approx(real.sdd * 1.1)
        np.testing.assert_array_equal(real.source, assumed.source)


def test_a_wrong_angle_turns_the_lateral_view_only() -> None:
    (frontal, _), (lateral, _) = draws(AcquisitionRanges(), 1)[0]
    error = GeometryError(angle=5.0)
    same = error.actual(frontal, lateral=False)
    np.testing.assert_allclose(same.matrix, frontal.matrix, rtol=1e-12, atol=1e-9)
    turned = error.actual(lateral, lateral=True)
    assert angle_between(turned, lateral) == pytest.approx(5.0)
    assert turned.sod == pytest.approx(lateral.sod)
    assert turned.source[2] == pytest.approx(lateral.source[2])  # about the vertical axis


def test_a_wrong_sod_magnifies_the_shadow_and_not_the_statement() -> None:
    case = case_with_ball((22, 38, 40))
    right, wrong = (
        SimulateRadiographsd(seed_by_case=True, size=128, pixel_size=2.4, error={"sod": e})(case)
        for e in (0.0, 0.2)
    )
    assert torch.equal(right["projection"], wrong["projection"])
    # a source that is nearer than assumed magnifies by 1.2 about the shadow of the isocentre
    for view in (0, 1):
        origin = projected(right["projection"][view], (0.0, 0.0, 0.0))
        grown = shadow_centre(wrong["line_integrals"][view]) - origin
        plain = shadow_centre(right["line_integrals"][view]) - origin
        np.testing.assert_allclose(grown, 1.2 * plain, atol=1.0)
        assert np.linalg.norm(grown - plain) > 2


def test_case_seeded_transforms_repeat_in_any_order_and_differ_between_cases() -> None:
    transforms = CaseSeededCompose(
        [
            RandHeadPosed(prob=1.0),
            SimulateRadiographsd(size=64, pixel_size=4.8),
            RandRadiographRealismd(prob=1.0, effect=1.0),
            NormaliseRadiographsd(),
        ]
    )
    first, second = case_with_ball(PLACES[0], "one"), case_with_ball(PLACES[0], "two")
    one, two, again = (transforms(case)["image"] for case in (first, second, first))
    assert torch.equal(one.as_tensor(), again.as_tensor())
    assert not torch.allclose(one.as_tensor(), two.as_tensor())


@pytest.mark.parametrize("tone", [{"gamma": 0.6}, {"gamma": 1.6}, {"slope": 6.0}])
def test_tone_curves_keep_the_order_of_the_pixels(
    radiographs: torch.Tensor, tone: dict[str, float]
) -> None:
    out = ToneCurved(**tone)({"line_integrals": radiographs})["line_integrals"]
    for before, after in zip(radiographs, out, strict=True):
        order = before.flatten().argsort()
        assert (after.flatten()[order].diff() >= 0).all()
    assert not torch.allclose(out, ToneCurved()({"line_integrals": radiographs})["line_integrals"])
