"""Ask whether stored values are an image at all: neighbours in an image are alike.

A wrong number of bits, a wrong sign, swapped bytes or a wrong number of columns leave values that
look sound one by one. Each of them has another reading of the same data in which neighbours are
more alike; where there is one, it is the header that is wrong. ``benchmarks/likeness.py`` measures
the limits on simulated and real radiographs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spider_bundle.dicom.decode import StoredPixels, contradiction
from spider_bundle.errors import Code, SpiderError

Values = npt.NDArray[np.float64]

#: Least correlation of neighbours along rows and along columns.
MINIMUM_CORRELATION = 0.4
#: Another reading is meant where its neighbours differ by less than this share of the stated one's:
#: swapped bytes, swapped pairs of bytes, another number of columns.
SWAPPED_BYTES, SWAPPED_PAIRS, OTHER_COLUMNS = 0.5, 0.8, 0.95
#: Neighbours at the two ends of the range, as a share of the image's edge, of values that wrap
#: round; and what counts as the ends. Lettering and blanked parts jump between exact extremes.
WRAPPED, _TURN = 0.3, 0.8
#: Pixels that are looked at: whole rows from the middle of the image.
_PIXELS = 1 << 18


def check_likeness(stored: StoredPixels, role: str) -> None:
    """Refuse values that are no image.

    Args:
        stored: Stored values.
        role: Role for the finding.

    Raises:
        SpiderError: E31, another reading of the data is an image; E16, none is.
    """
    found = measures(stored)
    for name, limit, message, attribute in (
        ("bytes", SWAPPED_BYTES, "the bytes of the pixels are swapped", "TransferSyntaxUID"),
        ("pairs", SWAPPED_PAIRS, "the pixels of each pair are swapped", "TransferSyntaxUID"),
        ("columns", OTHER_COLUMNS, "the rows of the image have another length", "Columns"),
    ):
        if found[name] < limit:
            raise contradiction(role, message, attribute)
    if found["correlation"] < MINIMUM_CORRELATION:
        raise SpiderError(Code.INVALID_PIXEL_VALUES, "the pixels are noise, no image", role=role)
    if found["wrapped"] > WRAPPED:
        attribute = "PixelRepresentation" if stored.is_signed else "BitsStored"
        raise contradiction(role, "the values wrap round", attribute)


def measures(stored: StoredPixels) -> dict[str, float]:
    """Measure how alike neighbours are.

    Returns:
        ``correlation``, the lesser of the two directions; ``wrapped``, see :data:`WRAPPED`; and by
        how much the squared differences of neighbours shrink in other readings: ``bytes``,
        ``pairs``, ``columns``.
    """
    values = _middle(stored.values).astype(np.float64)
    across, down = _power(np.diff(values, axis=1)), _power(np.diff(values, axis=0))
    variance = max(float(values.var()), 1e-12)
    return {
        "correlation": 1 - max(across, down) / (2 * variance),
        "wrapped": _wrapped(stored),
        "bytes": _swapped_bytes(values, (across + down) / variance) if stored.width == 16 else 1.0,
        "pairs": _swapped_pairs(values, across) if stored.width == 8 else 1.0,
        "columns": _other_columns(values, stored.values.shape[0]),
    }


def _power(differences: Values) -> float:
    return float(np.square(differences).mean()) if differences.size else 0.0


def _wrapped(stored: StoredPixels) -> float:
    """Return the number of jumps between the ends of the range, relative to the image's edge."""
    values = stored.values
    low, high = int(values.min()), int(values.max())
    inside = (values > low) & (values < high)
    turn = min(1 << max(1, high - low).bit_length(), 1 << stored.bits)
    count = 0
    for axis in (0, 1):
        jumps = np.abs(np.diff(values, axis=axis)) > _TURN * turn
        inner = np.moveaxis(inside, axis, 0)
        count += int((np.moveaxis(jumps, axis, 0) & inner[1:] & inner[:-1]).sum())
    return count / values.size**0.5


def _swapped_bytes(values: Values, roughness: float) -> float:
    """Return the roughness with swapped bytes relative to that without."""
    words = values.astype(np.int64).astype(np.uint16)
    swapped = words.byteswap().astype(np.float64)
    variance = max(float(swapped.var()), 1e-12)
    rough = _power(np.diff(swapped, axis=1)) + _power(np.diff(swapped, axis=0))
    return rough / variance / max(roughness, 1e-12)


def _swapped_pairs(values: Values, across: float) -> float:
    """Return how much smoother rows are with the pixels of each pair swapped."""
    even = values[:, : values.shape[1] // 2 * 2]
    swapped = even.reshape(len(even), -1, 2)[..., ::-1].reshape(even.shape)
    return _power(np.diff(swapped, axis=1)) / max(across, 1e-12)


def _other_columns(values: Values, rows: int) -> float:
    """Return how alike pixels are at another distance than one row, relative to that of a row."""
    columns = values.shape[1]
    flat = values.ravel() - values.mean()
    lags = np.arange(max(2, min(columns, rows) // 2), min(2 * max(columns, rows), flat.size // 2))
    if not (lags == columns).any():
        return 1.0
    size = 1 << (2 * flat.size - 1).bit_length()
    products = np.fft.irfft(np.abs(np.fft.rfft(flat, size)) ** 2, size)[lags]
    energy = np.concatenate([[0.0], np.cumsum(np.square(flat))])
    heads, tails = energy[flat.size - lags], energy[-1] - energy[lags]
    power = (heads + tails - 2 * products) / (flat.size - lags)
    own = float(power[lags == columns][0])
    return float(power[lags != columns].min()) / max(own, 1e-12)


def _middle(values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    """Return whole rows from the middle of an image."""
    count = max(8, _PIXELS // values.shape[1])
    start = max(0, (len(values) - count) // 2)
    return values[start : start + count]
