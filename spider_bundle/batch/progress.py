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
from spider_bundle.batch.worker import StudyDone

_log = logging.getLogger(__name__)

_LEVELS = {State.DONE: logging.INFO, State.REFUSED: logging.WARNING, State.FAILED: logging.ERROR}


class Progress:
    """Counts the studies that end.

    Args:
        bar: The bar; none where there is no terminal.
    """

    def __init__(self, bar: tqdm | None) -> None:
        self._bar = bar
        self._start = time.monotonic()
        self._ended = 0
        self._done = 0
        self._total = 0

    def expect(self, studies: int) -> None:
        """Let so many more studies be expected."""
        self._total += studies
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.refresh()

    def stage(self, name: str) -> None:
        """Show what is done to a study: read, reconstruct or write it."""
        if self._bar is not None:
            self._bar.set_postfix_str(name)

    def tell(self, entry: Entry | StudyDone) -> None:
        """Count a study that has ended, and log how in one line."""
        self._ended += 1
        self._done += entry.state is State.DONE
        times = ", ".join(f"{name} {value:.1f} s" for name, value in entry.seconds.items())
        found = "; ".join(
            f"{fact['code']} ({fact['role']}) {fact['message']}. To do: {fact['action']}"
            for fact in entry.findings
            if fact["severity"] == "error" or entry.state is State.DONE
        )
        remaining = ""
        if self._bar is None and self._done and self._ended < self._total:
            each = (time.monotonic() - self._start) / self._done
            minutes = each * (self._total - self._ended) / 60
            remaining = f"; about {minutes:.0f} min left" if minutes >= 1 else ""
        _log.log(
            _LEVELS[entry.state],
            "%d/%d study %s %s%s%s%s",
            self._ended,
            self._total,
            entry.study_key or "-",
            entry.state.value,
            f": {found}" if found else "".join(f" {code}" for code in getattr(entry, "codes", ())),
            f" ({times})" if times else "",
            remaining,
        )
        if self._bar is not None:
            self._bar.update()


@contextmanager
def progress(is_endless: bool = False) -> Iterator[Progress]:
    """Progress on the terminal if standard error is one, else in the log.

    Args:
        is_endless: Whether nobody knows how many studies will come; then without a bar.
    """
    if is_endless or not sys.stderr.isatty():
        yield Progress(None)
        return
    with tqdm(total=0, unit="study", dynamic_ncols=True) as bar, logging_redirect_tqdm():
        yield Progress(bar)
