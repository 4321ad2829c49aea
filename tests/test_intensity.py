"""The scales of CT intensity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spider_bundle.intensity import (
    HU_FILE_RANGE,
    HU_WINDOW,
    MU_WATER,
    attenuation,
    denormalise_hu,
    normalise_hu,
)

AIR, WATER, DENSE = -1000.0, 0.0, 2000.0
hounsfield = st.floats(*map(float, HU_FILE_RANGE))


def test_window_is_a_contract_with_trained_weights() -> None:
    assert HU_WINDOW == (AIR, DENSE)
    np.testing.assert_allclose(normalise_hu(np.array([AIR, WATER, DENSE])), [0, 1 / 3, 1])
    np.testing.assert_allclose(denormalise_hu(np.array([0, 1 / 3, 1])), [AIR, 0, DENSE], atol=1e-9)


@given(hounsfield)
def test_round_trip_clips_to_the_window(hu: float) -> None:
    returned = denormalise_hu(normalise_hu(np.array(hu)))
    assert returned == pytest.approx(min(max(hu, AIR), DENSE), abs=1e-9)


@given(st.floats(-2, 3))
def test_network_output_never_leaves_the_window(intensity: float) -> None:
    hu = denormalise_hu(torch.tensor(intensity))
    assert AIR <= float(hu) <= DENSE
    back = float(normalise_hu(hu))
    assert back == pytest.approx(min(max(intensity, 0.0), 1.0), abs=1e-6)


def test_attenuation_follows_the_definition_of_hu() -> None:
    hu = np.array([-1024.0, AIR, -500.0, WATER, 1000.0, 3000.0])
    np.testing.assert_allclose(attenuation(hu), np.array([0, 0, 0.5, 1, 2, 4]) * MU_WATER)
    assert attenuation(np.array(WATER), mu_water=0.0184) == pytest.approx(0.0184)


@given(hounsfield)
def test_attenuation_is_never_negative_and_inverts(hu: float) -> None:
    mu = float(attenuation(np.array(hu)))
    assert mu >= 0
    assert (mu / MU_WATER - 1) * 1000 == pytest.approx(max(hu, AIR), abs=1e-9)


@pytest.mark.parametrize("function", [normalise_hu, attenuation])
def test_files_of_integers_give_the_same_in_numpy_and_torch(function) -> None:
    stored = np.array([-1024, -1000, -37, 0, 40, 1999, 2000, 3071], dtype=np.int16)
    exact = function(stored.astype(float))
    np.testing.assert_allclose(function(stored), exact, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(function(torch.from_numpy(stored)), exact, rtol=1e-6, atol=1e-7)
