"""How far a batch is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from spider_bundle.batch.records import Entry, State

_log = logging.getLogger(__name__)


class Progress:
    """Counts the studies that end.

    Args:
        bar: The bar; none where there is no terminal.
    """

    def __init__(self, bar: tqdm | None) -> None:
        self._bar = bar
        self._start = time.monotonic()
        self._ended = 0
        self._total = 0

    def expect(self, studies: int) -> None:
        """Let so many more studies be expected."""
        self._total += studies
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.refresh()

    def tell(self, entry: Entry) -> None:
        """Count a study that has ended."""
        self._ended += 1
        level = logging.INFO if entry.state is State.DONE else logging.ERROR
        codes = f" {' '.join(entry.codes)}" if entry.codes else ""
        times = ", ".join(f"{name} {value:.1f} s" for name, value in entry.seconds.items())
        left = (time.monotonic() - self._start) / self._ended * (self._total - self._ended)
        remaining = "" if self._bar is not None else f"; about {left / 60:.0f} min left"
        _log.log(
            level,
            "%d/%d study %s %s%s%s%s",
            self._ended,
            self._total,
            entry.study_key,
            entry.state.value,
            codes,
            f" ({times})" if times else "",
            remaining,
        )
        for fact in entry.findings:
            if fact["severity"] == "error":
                words = (entry.study_key, fact["code"], fact["role"], fact["message"])
                _log.error("study %s: %s (%s) %s. To do: %s", *words, fact["action"])
        if self._bar is not None:
            self._bar.update()


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress on the terminal if standard error is one, else in the log."""
    if not sys.stderr.isatty():
        yield Progress(None)
        return
    with tqdm(total=0, unit="study", dynamic_ncols=True) as bar, logging_redirect_tqdm():
        yield Progress(bar)
