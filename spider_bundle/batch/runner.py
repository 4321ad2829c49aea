"""A batch: find the studies, check them, reconstruct them, and record how each ended.

Every study ends in one state in the manifest. A run that was interrupted is resumed by the same
command: studies that are done under the same settings, with their results whole, are skipped.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from spider_bundle.batch.cluster import Cluster
from spider_bundle.batch.finder import (
    RETRYABLE_CODES,
    Signature,
    is_zip,
)
from spider_bundle.batch.job import Job
from spider_bundle.batch.options import (
    BatchOptions,
    device_of,
    profile_of,
    result_settings,
    run_settings,
    sha256_of,
    site_key,
    worker_count,
    worker_settings,
)
from spider_bundle.batch.outcome import Outcome, is_done, new_finder, plan_batch
from spider_bundle.batch.pool import WorkerPool
from spider_bundle.batch.profile import Profile
from spider_bundle.batch.progress import progress
from spider_bundle.batch.records import (
    MANIFEST_FILE,
    AuditLog,
    Entry,
    Manifest,
    State,
    log_damage,
)
from spider_bundle.batch.sandbox import CallStopped, Child
from spider_bundle.batch.stop import StopRequest
from spider_bundle.batch.worker import StudyDone, load
from spider_bundle.dicom.studies import Refusal
from spider_bundle.errors import Code, Severity, SpiderError, line
from spider_bundle.exit_status import EXIT_FAILED
from spider_bundle.outputs.html_report import IndexEntry, write_index
from spider_bundle.outputs.study import remove_partial_studies, write_refusals
from spider_bundle.pseudonym import write_map

WORKSPACE = ".unpacked"
_LOCK = ".locks/batch.lock"
_MEBIBYTE = 1 << 20
_SCAN_SECONDS = 5.0
_LEAST_SCAN_SECONDS = 0.2

_log = logging.getLogger(__name__)


def run_batch(options: BatchOptions) -> Outcome:
    """Run a batch.

    The first SIGTERM or SIGINT ends it after the studies at hand, the second at once; handlers are
    set in the main thread only. Worker processes are spawned, so a script that calls this needs the
    usual ``if __name__ == "__main__"``.

    Args:
        options: What to do.

    Returns:
        How it ended.

    Raises:
        SpiderError: K01, S01, R02, or R08 to R11.
        SpiderError: R03, a cluster is named and Ray is not installed.
        FileNotFoundError: There is no bundle, or there are no weights.
        OSError: The output folder cannot be written to.
    """
    if options.dry_run:
        plan = plan_batch(options)
        for line in plan.lines():
            _log.info("%s", line)
        return plan.outcome
    key, profile = site_key(options), profile_of(options)
    output = options.output
    (output / _LOCK).parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / _LOCK, timeout=0):
            return _Run(options, key, profile).run()
    except Timeout:
        raise SpiderError(Code.OUTPUT_IN_USE) from None


@dataclass
class _Study:
    """What this run has made of a study.

    Attributes:
        version: By which a change of its files is noticed.
        state: How it ended; None while it waits or is worked on.
        is_skipped: Whether an earlier run did it.
    """

    version: object
    state: State | None = None
    is_skipped: bool = False


class _Run:
    """One run of a batch; the caller holds the lock of the output folder.

    A run is one round over the input: find, check, reconstruct, record. Watching repeats it.
    """

    def __init__(self, options: BatchOptions, key: str, profile: Profile) -> None:
        self._options = options
        self._output = options.output
        settings = result_settings(options)
        self._fingerprint = sha256_of(settings)
        self._manifest = Manifest(self._output)
        self._audit = AuditLog(self._output, settings | run_settings(options, key))
        self._outcome = Outcome()
        self._stop = StopRequest()
        self._key, self._profile = key, profile
        self._studies: dict[str, _Study] = {}
        self._started = 0
        self._files: dict[str, Sequence[Path]] = {}
        self._awaited: set[str] = set()
        self._has_news = True

    def run(self) -> Outcome:
        log_damage(MANIFEST_FILE, self._manifest.damaged)
        exit_code = EXIT_FAILED
        with ExitStack() as stack:
            self._clean()
            stack.callback(self._clean)
            stack.enter_context(self._stop.listening())
            self._pool = stack.enter_context(_workers(self._options))
            self._progress = stack.enter_context(progress(self._options.watch))
            workspace = self._output / WORKSPACE
            workspace.mkdir(mode=0o700)
            # twice what must stay free for results, or unpacking would soon end the batch (R06)
            reserve = int(2 * self._options.min_free_mib * _MEBIBYTE)
            given = workspace, self._key, self._profile, reserve, self._stop.is_requested
            finder = new_finder(self._options, *given)
            self._finder = stack.enter_context(closing(finder))
            try:
                self._search()
                self._write_summaries()
                exit_code = self._count().exit_code
                bad = {
                    key for key, one in self._studies.items() if one.state not in (None, State.DONE)
                }
                self._outcome.files = {key: self._files[key] for key in bad & self._files.keys()}
            finally:
                self._count()
                self._audit.end(self._outcome.counts, exit_code)
        return self._outcome

    def _clean(self) -> None:
        """Remove what killed runs and workers left; this run has the output folder to itself."""
        remove_partial_studies(self._output)
        shutil.rmtree(self._output / WORKSPACE, ignore_errors=True)

    def _search(self) -> None:
        try:
            if self._options.watch:
                self._watch()
            else:
                self._round(dict.fromkeys(self._finder.signatures(), math.inf))
        except CallStopped:
            if not self._options.watch:
                self._outcome.is_stopped = self._outcome.is_search_cut = True

    def _watch(self) -> None:
        """Repeat rounds when files have come to rest, until asked to end."""
        quiet_seconds, patience = self._options.quiet_seconds, self._options.patience
        pause = min(_SCAN_SECONDS, max(quiet_seconds / 2, _LEAST_SCAN_SECONDS))
        seen: dict[Signature, float] = {}
        last: object = None
        while not self._must_end() and self._has_room():
            now = time.monotonic()
            seen = {file: seen.get(file, now) for file in self._finder.signatures()}
            ages = {file: now - since for file, since in seen.items()}
            quiet = {file for file, age in ages.items() if age >= quiet_seconds}
            state = quiet, {file for file, age in ages.items() if age >= patience}
            if state != last and (quiet or not seen):
                is_settled = self._round(ages)
                self._write_summaries()
                last = state if is_settled else None
            self._stop.sleep(pause)

    def _round(self, ages: Mapping[Signature, float]) -> bool:
        """Take every study that is ready.

        Args:
            ages: Seconds for which each file of the input is known not to have changed.

        Returns:
            Whether another round is of no use before a file changes.
        """
        options, age_of = self._options, {file[0]: age for file, age in ages.items()}

        def age(study: Job | Refusal) -> float:
            """Return the age of a study's last change; of a study, every file counts."""
            origins = {str(self._finder.origin(path)) for path in study.files}
            return min((age_of[origin] for origin in origins), default=math.inf)

        # an archive that still grows cannot be opened
        quiet = options.quiet_seconds
        files = [file for file, age in ages.items() if age >= quiet or not is_zip(Path(file[0]))]
        found = self._finder.find(files)
        if not options.watch:
            self._audit.intake(found.counts)
            _log.info(
                "found %d studies, %d refused; skipped: %d files that are not DICOM, %d DICOM "
                "objects that are not radiographs, %d CT studies without localisers of the head",
                *found.counts.values(),
            )
            self._finder.close()  # its process has nothing more to do
        every: list[Job | Refusal] = [*found.jobs, *found.refusals]
        origins = {s.study_key: [*dict.fromkeys(map(self._finder.origin, s.files))] for s in every}
        self._files |= origins
        if options.map_file is not None:
            write_map(options.map_file, origins)
        changing = [study for study in every if age(study) < quiet]
        awaited = [r for r in found.refusals if r.is_incomplete and age(r) < options.patience]
        self._log_awaited([refusal for refusal in awaited if refusal not in changing])
        self._forget_mended(found.refusals)
        jobs = self._not_done([job for job in found.jobs if job not in changing])
        refusals = [r for r in found.refusals if r not in changing and r not in awaited]
        refusals = [refusal for refusal in refusals if self._is_new(refusal)]
        self._progress.expect(len(jobs) + len(refusals))
        for refusal in refusals:
            self._studies[refusal.study_key] = _Study(refusal.findings, State.REFUSED)
            done = StudyDone(refusal.study_key, State.REFUSED, refusal.findings, {})
            self._record(done, self._fingerprint)
        self._reconstruct(jobs, [path for study in (*changing, *awaited) for path in study.files])
        self._outcome.incomplete = len(awaited)
        return RETRYABLE_CODES.isdisjoint(c for r in found.refusals for c in r.codes)

    def _not_done(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the studies to reconstruct; others are done, or were taken as they are."""
        new: list[Job] = []
        for job in jobs:
            known = self._studies.get(job.study_key)
            version = (job.fingerprint(self._fingerprint), job.stamps)
            if known is not None and known.version == version:
                continue
            if not is_done(self._output, self._manifest, job, self._fingerprint):
                if self._has_room(len(new)):
                    self._studies[job.study_key] = _Study(version)
                    new.append(job)
                else:
                    self._outcome.left += 1
            elif known is not None and known.state is State.DONE:
                known.version = version
            else:
                self._studies[job.study_key] = _Study(version, State.DONE, is_skipped=True)
        return new

    def _has_room(self, studies: int = 0) -> bool:
        """Return whether the limit leaves room for another study after so many."""
        limit = self._options.limit
        return limit is None or self._started + studies < limit

    def _reconstruct(self, jobs: Sequence[Job], needed: Sequence[Path]) -> None:
        """Reconstruct studies, and release archives when their studies have ended.

        Args:
            jobs: The studies.
            needed: Files of other studies that are still needed.
        """
        at_hand = {job.study_key: job for job in jobs}
        self._started += len(jobs)
        for job in jobs:
            self._pool.submit(job)
        self._release(at_hand.values(), needed)
        while self._pool.waiting or self._pool.running:
            if self._stop.requests > 1:
                self._outcome.left += self._pool.drop_waiting() + self._pool.running
                self._outcome.is_stopped = True
                return  # the workers are ended with the pool
            if self._pool.waiting and (self._must_end() or self._is_disk_full()):
                self._outcome.left += self._pool.drop_waiting()
                self._outcome.is_stopped = True
            elif done := self._pool.poll():
                self._finish(at_hand.pop(done.study_key), done)
                self._release(at_hand.values(), needed)

    def _release(self, jobs: Iterable[Job], needed: Sequence[Path]) -> None:
        self._finder.release([*needed, *(path for job in jobs for path in job.files)])

    def _must_end(self) -> bool:
        return bool(self._stop.requests or self._outcome.stop_code)

    def _is_disk_full(self) -> bool:
        if shutil.disk_usage(self._output).free >= self._options.min_free_mib * _MEBIBYTE:
            return False
        self._halt(Code.NO_DISK_SPACE)
        return True

    def _halt(self, code: Code) -> None:
        self._outcome.stop_code = code
        _log.error("%s", line(code))
        self._audit.event(code.value)

    def _finish(self, job: Job, done: StudyDone) -> None:
        self._studies[done.study_key].state = done.state
        fingerprint = job.fingerprint(self._fingerprint)
        self._record(done, fingerprint, job.rule)
        if done.disk_full:
            self._halt(Code.NO_DISK_SPACE)
        elif done.state is State.FAILED and self._options.stop_on_error:
            self._outcome.stop_code = Code(self._manifest.entries[done.study_key].codes[0])

    def _is_new(self, refusal: Refusal) -> bool:
        known = self._studies.get(refusal.study_key)
        return known is None or known.version != refusal.findings

    def _forget_mended(self, refusals: Sequence[Refusal]) -> None:
        """Forget refusals for a passing reason that are not repeated."""
        for key in self._studies.keys() - {refusal.study_key for refusal in refusals}:
            entry = self._manifest.entries.get(key)
            if entry is not None and not RETRYABLE_CODES.isdisjoint(entry.codes):
                del self._studies[key]

    def _log_awaited(self, refusals: Sequence[Refusal]) -> None:
        """Log once which studies lack a view."""
        for refusal in refusals:
            if refusal.study_key not in self._awaited:
                codes = ", ".join(refusal.codes)
                _log.warning("study %s is not complete (%s); waiting", refusal.study_key, codes)
        self._awaited = {refusal.study_key for refusal in refusals}

    def _record(self, done: StudyDone, fingerprint: str, rule: int | None = None) -> None:
        """Write down, log and count how a study ended."""
        is_done = done.state is State.DONE
        counted = Severity.WARNING if is_done else Severity.ERROR
        entry = Entry(
            done.study_key,
            done.state,
            fingerprint,
            sorted({f["code"] for f in done.findings if f["severity"] == counted.value}),
            () if is_done else done.findings,
            done.seconds,
            self._audit.run,
        )
        # the audit log first: killed in between, the study is taken and recorded again
        self._audit.study(entry, rule)
        self._manifest.add(entry)
        self._has_news = True
        self._progress.tell(entry)

    def _count(self) -> Outcome:
        counts = Counter((study.state, study.is_skipped) for study in self._studies.values())
        self._outcome.done = counts[State.DONE, False]
        self._outcome.skipped = counts[State.DONE, True]
        self._outcome.refused = counts[State.REFUSED, False]
        self._outcome.failed = counts[State.FAILED, False]
        return self._outcome

    def _write_summaries(self) -> None:
        """Write ``refused.json`` of this run, and the index of all studies of the folder."""
        if not self._has_news:
            return
        self._has_news = False
        entries = self._manifest.entries
        refused = [key for key, study in self._studies.items() if study.state is State.REFUSED]
        write_refusals(
            self._output,
            [{"study_key": key, "findings": list(entries[key].findings)} for key in refused],
        )
        if self._options.html:
            index = [
                IndexEntry(key, entry.state.value, entry.findings, sum(entry.seconds.values()))
                for key, entry in entries.items()
                if entry.state is not State.DONE or os.path.lexists(self._output / key)
            ]
            write_index(self._output, index, self._run_facts())

    def _run_facts(self) -> dict[str, str]:
        """Return what the index tells about this run."""
        options = self._options
        return {
            "Run of": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "Spacing": f"{options.spacing:g} mm",
            "Device": device_of(options),
            "Precision": options.precision,
        }


@contextmanager
def _workers(options: BatchOptions) -> Iterator[WorkerPool]:
    """Yield the pool of a batch, on this machine or on a cluster."""
    settings, size = worker_settings(options), worker_count(options)
    with ExitStack() as stack:
        if options.cluster is None:
            pool = WorkerPool(partial(Child, load, settings), size, options.time_limit)
        else:
            cluster = Cluster(settings, options.cluster, device_of(options))
            stack.callback(cluster.close)
            limits = options.time_limit, options.cluster.start_seconds
            pool = WorkerPool(cluster.new_worker, size, *limits, late=cluster.late)
        yield stack.enter_context(closing(pool))
