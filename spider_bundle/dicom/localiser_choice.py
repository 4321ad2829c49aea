"""Choose the two localisers of the head in a CT study, by headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from spider_bundle.dicom.film import Film
from spider_bundle.dicom.localiser import MINIMUM_OVERLAP
from spider_bundle.errors import Code, Finding, finding

# Words of BodyPartExamined (DICOM PS3.16 annex L) and codes of AnatomicRegionSequence.
_HEAD_WORDS = ("HEAD", "SKULL", "BRAIN", "CRANI", "FACE", "ORBIT", "SINUS", "SELLA")
_HEAD_CODES = ("89546000", "T-11100", "69536005", "T-D1100", "12738006", "T-A0100")
_WHOLE_BODY = ("WHOLEBODY", "WHOLE BODY", "38266002", "T-D0010")
#: Axial slices of the head that a localiser of the head must cover, mm.
_SHARED = 30.0

_PAIR = "pair"


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        pair: Frontal and lateral localiser; None if there is no pair, or no single one.
        found: Why there is none: E27 for a study that is none of the head, E28 for one in which
            several could be meant.
    """

    pair: tuple[Film, Film] | None
    found: Finding | None = None


@dataclass(frozen=True)
class _Series:
    """Axial slices of one series: where they lie, when they begin, what they say they show."""

    frame: str
    low: float
    high: float
    begun: datetime | None
    is_head: bool | None


def choose_pair(localisers: Iterable[Film], slices: Iterable[Film]) -> Choice:
    """Choose the latest complete pair of head localisers before the head's axial series.

    Args:
        localisers: All localisers of one study.
        slices: Its other CT images.
    """
    series = _axial_series(slices)
    by_plane: dict[str, list[Film]] = {"frontal": [], "lateral": []}
    others = 0
    for film in localisers:
        plane = film.ct.plane if film.ct else ""
        if plane in by_plane and len(film.pixel_spacing) == 2:
            if _shows_head(film, series) is not False:
                by_plane[plane].append(film)
            else:
                others += 1
    missing = " and no ".join(plane for plane, films in by_plane.items() if not films)
    if missing:
        message = f"no {missing} localiser of the head"
        if others:
            message += f"; {others} localisers of other body parts"
        return Choice(None, finding(Code.NO_HEAD_LOCALISERS, _PAIR, message))
    pairs = [pair for pair in product(*by_plane.values()) if _belong_together(*pair)]
    if not pairs:
        message = "no two localisers share a frame of reference and the same part of the patient"
        return Choice(None, finding(Code.NO_HEAD_LOCALISERS, _PAIR, message))
    pairs = _of_the_scan(pairs, series)
    if len(pairs) > 1 and (latest := _latest(pairs)) is not None:
        pairs = [latest]
    if len(pairs) == 1:
        return Choice((pairs[0][0], pairs[0][1]))
    described = "; ".join(_description(film) for films in by_plane.values() for film in films)
    return Choice(None, finding(Code.SEVERAL_LOCALISERS, _PAIR, f"{len(pairs)} pairs: {described}"))


def covers_head(pair: tuple[Film, Film], film: Film) -> bool:
    """Return whether an axial slice may be one of the head that a pair of localisers shows.

    It lies in their frame of reference and does not say that it shows another part.
    """
    frame = film.identifiers.frame_of_reference
    return frame == pair[0].identifiers.frame_of_reference and _is_head(film) is not False


def _axial_series(slices: Iterable[Film]) -> list[_Series]:
    """Return the axial series of a study."""
    groups: dict[tuple[str, str], list[Film]] = {}
    for film in slices:
        if film.ct is not None and film.ct.plane == "axial":
            groups.setdefault((film.ct.series, film.identifiers.frame_of_reference), []).append(
                film
            )
    series = []
    for (_, frame), films in groups.items():
        heights = [film.ct.position[2] for film in films if film.ct is not None]
        times = [film.identifiers.acquired for film in films if film.identifiers.acquired]
        begun = min(times) if times else None
        series.append(_Series(frame, min(heights), max(heights), begun, _is_head(films[0])))
    return series


def _is_head(film: Film) -> bool | None:
    """Return whether a film says that it shows a head; None if it says nothing."""
    words, codes = " ".join(film.body_parts), set(film.regions)
    if any(word in words for word in _HEAD_WORDS) or codes & set(_HEAD_CODES):
        return True
    is_open = not (words.strip() or codes) or bool({*film.body_parts, *codes} & set(_WHOLE_BODY))
    return None if is_open else False


def _shows_head(film: Film, series: Sequence[_Series]) -> bool | None:
    """Return whether a localiser shows the head, by itself and by the series that it covers."""
    said = _is_head(film)
    if said:
        return True
    assert film.ct is not None
    low, high = film.ct.extent(film.rows, film.pixel_spacing[0])
    covered = [
        one.is_head
        for one in series
        if one.frame == film.identifiers.frame_of_reference
        and min(high, one.high) - max(low, one.low) >= min(_SHARED, one.high - one.low)
    ]
    if True in covered:
        return True
    return False if said is False or (covered and None not in covered) else None


def _belong_together(frontal: Film, lateral: Film) -> bool:
    """Return whether two localisers share a frame of reference and a part of the patient."""
    frames = {frontal.identifiers.frame_of_reference, lateral.identifiers.frame_of_reference}
    if len(frames) != 1 or "" in frames or frontal.ct is None or lateral.ct is None:
        return False
    first = frontal.ct.extent(frontal.rows, frontal.pixel_spacing[0])
    second = lateral.ct.extent(lateral.rows, lateral.pixel_spacing[0])
    return min(first[1], second[1]) - max(first[0], second[0]) >= MINIMUM_OVERLAP


def _of_the_scan(
    pairs: Sequence[tuple[Film, ...]], series: Sequence[_Series]
) -> list[tuple[Film, ...]]:
    """Leave the pairs in the frame of the head's series and not taken after it began."""
    heads = [one for one in series if one.is_head] or [one for one in series if one.is_head is None]
    frames = {one.frame for one in heads}
    kept = [pair for pair in pairs if pair[0].identifiers.frame_of_reference in frames] or pairs
    begun = {
        frame: min((one.begun for one in heads if one.frame == frame and one.begun), default=None)
        for frame in frames
    }
    before = []
    for pair in kept:
        limit, taken = begun.get(pair[0].identifiers.frame_of_reference), _taken(pair)
        if limit is None or taken is None or taken[0] <= limit:
            before.append(pair)
    return before or list(kept)


def _taken(pair: Sequence[Film]) -> tuple[datetime, datetime] | None:
    """Return when a pair was complete and when it was begun; None if not known."""
    times = [film.identifiers.acquired for film in pair]
    known = sorted(time for time in times if time is not None)
    return (known[-1], known[0]) if len(known) == len(times) else None


def _latest(pairs: Sequence[tuple[Film, ...]]) -> tuple[Film, ...] | None:
    """Return the latest of pairs in one frame; None if that is not known."""
    frames = {pair[0].identifiers.frame_of_reference for pair in pairs}
    times = [_taken(pair) for pair in pairs]
    known = [time for time in times if time is not None]
    if len(frames) > 1 or len(known) < len(pairs) or times.count(max(known)) > 1:
        return None
    return pairs[times.index(max(known))]


def _description(film: Film) -> str:
    """Return safe words such as ``frontal 512x256, instance 1``."""
    plane = film.ct.plane if film.ct else ""
    number = "" if film.instance_number is None else f", instance {film.instance_number:.0f}"
    return f"{plane} {film.columns}x{film.rows}{number}"
