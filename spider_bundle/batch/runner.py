"""A batch: find the studies, check them, reconstruct them, and record how each ended.

Every study ends in one state in the manifest. A run that was interrupted is resumed by the same
command: studies that are done under the same settings, with their results whole, are skipped.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from spider_bundle.batch.cluster import ClusterBackend
from spider_bundle.batch.finder import (
    FILE_SECONDS,
    RETRYABLE_CODES,
    Found,
    Signature,
    StudyFinder,
    is_zip,
)
from spider_bundle.batch.job import Job, Refusal
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
from spider_bundle.batch.outcome import EXIT_FAILED, Outcome, Plan
from spider_bundle.batch.pool import Backend, LocalBackend, WorkerPool
from spider_bundle.batch.profile import Profile
from spider_bundle.batch.progress import progress
from spider_bundle.batch.records import AuditLog, Entry, Manifest, State
from spider_bundle.batch.sandbox import CallStopped
from spider_bundle.batch.stop import StopRequest
from spider_bundle.batch.worker import StudyDone
from spider_bundle.errors import Code, Severity, SpiderError, line
from spider_bundle.outputs.html_report import IndexEntry, write_index
from spider_bundle.outputs.study import is_whole, remove_partial_studies, write_refusals

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


def plan_batch(options: BatchOptions) -> Plan:
    """Find and check all studies by their headers; nothing is written to input or output.

    Arguments and errors are those of :func:`run_batch`.
    """
    key, profile = site_key(options), profile_of(options)
    settings = sha256_of(result_settings(options))
    output = options.output
    manifest = Manifest(output)
    with tempfile.TemporaryDirectory() as workspace:
        with closing(_finder(options, Path(workspace), key, profile)) as finder:
            found = finder.find()
        skipped = [job for job in found.jobs if _is_done(output, manifest, job, settings)]
        jobs = [job for job in found.jobs if job not in skipped][: options.limit]
    return Plan(jobs, skipped, found.refusals)


class _Run:
    """One run of a batch; the caller holds the lock of the output folder.

    A run is one round over the input: find, check, reconstruct, record. Watching repeats it.
    """

    def __init__(self, options: BatchOptions, key: str, profile: Profile) -> None:
        self._options = options
        self._output = options.output
        self._key = key
        self._profile = profile
        settings = result_settings(options)
        self._fingerprint = sha256_of(settings)
        self._manifest = Manifest(self._output)
        self._audit = AuditLog(self._output, settings | run_settings(options, key))
        self._pool = WorkerPool(_backend(options), worker_count(options), options.time_limit)
        self._outcome = Outcome()
        self._stop = StopRequest()
        self._taken: dict[str, Job] = {}
        self._skipped: dict[str, Job] = {}
        self._refused: dict[str, Refusal] = {}
        self._awaited: set[str] = set()
        self._has_news = False

    def run(self) -> Outcome:
        outcome = self._outcome
        if self._manifest.damaged:
            _log.warning("%d lines of the manifest are unreadable", self._manifest.damaged)
        self._clean()
        exit_code = EXIT_FAILED
        with ExitStack() as stack:
            stack.callback(self._clean)
            stack.enter_context(self._stop.listening())
            stack.callback(self._pool.close)
            self._progress = stack.enter_context(progress(self._options.watch))
            self._finder = stack.enter_context(closing(self._open_finder()))
            try:
                self._search()
                self._write_summaries()
                exit_code = outcome.exit_code
            finally:
                self._audit.end(outcome.counts, exit_code)
        return outcome

    def _clean(self) -> None:
        """Remove what killed runs and workers left; this run has the output folder to itself."""
        remove_partial_studies(self._output)
        shutil.rmtree(self._output / WORKSPACE, ignore_errors=True)

    def _open_finder(self) -> StudyFinder:
        workspace = self._output / WORKSPACE
        workspace.mkdir(mode=0o700)
        # twice what must stay free for results, or unpacking would soon end the batch (R06)
        reserve = int(2 * self._options.min_free_mib * _MEBIBYTE)
        stop = self._stop.is_requested
        return _finder(self._options, workspace, self._key, self._profile, reserve, stop)

    def _search(self) -> None:
        try:
            if self._options.watch:
                self._watch()
            else:
                self._round(self._finder.signatures())
        except CallStopped:
            if not self._options.watch:
                self._outcome.is_stopped = self._outcome.is_search_cut = True

    def _watch(self) -> None:
        """Repeat rounds over the files that are at rest, until asked to end."""
        quiet_seconds, patience = self._options.quiet_seconds, self._options.patience
        pause = min(_SCAN_SECONDS, max(quiet_seconds / 2, _LEAST_SCAN_SECONDS))
        seen: dict[Signature, float] = {}
        last: tuple[set[Signature], set[str]] | None = None
        while not self._is_ending():
            now = time.monotonic()
            seen = {file: seen.get(file, now) for file in self._finder.signatures()}
            changing = {file for file, since in seen.items() if now - since < quiet_seconds}
            recent = {file[0] for file, since in seen.items() if now - since < patience}
            state = seen.keys() - changing, recent
            if state != last and (state[0] or not seen):
                is_settled = self._round(seen, {file[0] for file in changing}, recent)
                last = state if is_settled else None
            self._stop.sleep(pause)

    def _round(
        self,
        files: Iterable[Signature],
        changing: Collection[str] = (),
        recent: Collection[str] = (),
    ) -> bool:
        """Take every study that is ready.

        Args:
            files: The files of the input.
            changing: Paths of files that may still grow; their studies are not ready.
            recent: Paths of files whose study may still get another film.

        Returns:
            Whether another round is of no use before a file changes.
        """
        # an archive that still grows cannot be opened; of a study, every file counts
        files = [file for file in files if file[0] not in changing or not is_zip(Path(file[0]))]
        found = self._finder.find(files)
        if not self._options.watch:
            self._log_found(found)
            self._finder.close()  # its process has nothing more to do

        def has_file_in(study: Job | Refusal, paths: Collection[str]) -> bool:
            return any(str(self._finder.origin(path)) in paths for path in study.files)

        every: list[Job | Refusal] = [*found.jobs, *found.refusals]
        changes = [study for study in every if has_file_in(study, changing)]
        awaited = [r for r in found.refusals if r.is_incomplete and has_file_in(r, recent)]
        self._log_awaited([refusal for refusal in awaited if refusal not in changes])
        self._forget_mended(found.refusals)
        jobs = self._not_done([job for job in found.jobs if job not in changes])
        refusals = [
            refusal
            for refusal in found.refusals
            if refusal not in changes
            and refusal not in awaited
            and refusal != self._refused.get(refusal.study_key)
        ]
        self._progress.expect(len(jobs) + len(refusals))
        for refusal in refusals:
            self._refuse(refusal)
        self._reconstruct(
            jobs,
            [path for study in (*changes, *awaited) for path in study.files],
        )
        self._outcome.incomplete = len(awaited)
        if self._has_news:
            self._write_summaries()
        return RETRYABLE_CODES.isdisjoint(c for r in found.refusals for c in r.codes)

    def _not_done(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the studies to reconstruct; others are done, or were taken as they are."""
        new: list[Job] = []
        for job in jobs:
            if job == self._skipped.get(job.study_key) or self._is_taken(job):
                continue
            if _is_done(self._output, self._manifest, job, self._fingerprint):
                self._skipped[job.study_key] = job
            else:
                self._skipped.pop(job.study_key, None)
                new.append(job)
        self._outcome.skipped = len(self._skipped)
        if self._options.limit is not None:
            room = max(self._options.limit - len(self._taken), 0)
            self._outcome.left += len(new[room:])
            new = new[:room]
        return new

    def _is_taken(self, job: Job) -> bool:
        """Return whether a study was taken as it is; one refused with older stamps may read now."""
        taken = self._taken.get(job.study_key)
        if taken is None or taken != job:
            return False
        return job.study_key not in self._refused or taken.stamps == job.stamps

    def _reconstruct(self, jobs: Sequence[Job], needed: Sequence[Path]) -> None:
        """Reconstruct studies, and release archives when their studies have ended.

        Args:
            jobs: The studies.
            needed: Files of other studies that are still needed.
        """
        at_hand = {job.study_key: job for job in jobs}
        self._taken |= at_hand
        for job in jobs:
            self._refused.pop(job.study_key, None)
            self._pool.submit(job)
        self._release(at_hand, needed)
        while self._pool.waiting or self._pool.running:
            if self._stop.requests > 1:
                self._outcome.left += self._pool.drop_waiting() + self._pool.running
                self._pool.close()
                self._outcome.is_stopped = True
            elif self._pool.waiting and (self._must_end() or self._is_disk_full()):
                self._outcome.left += self._pool.drop_waiting()
                self._outcome.is_stopped = True
            else:
                for done in self._pool.poll():
                    self._finish(at_hand.pop(done.study_key), done)
                    self._release(at_hand, needed)

    def _release(self, at_hand: Mapping[str, Job], needed: Sequence[Path]) -> None:
        self._finder.release([*needed, *(path for job in at_hand.values() for path in job.files)])

    def _must_end(self) -> bool:
        return bool(self._stop.requests or self._outcome.stop_code)

    def _is_ending(self) -> bool:
        limit = self._options.limit
        return self._must_end() or (limit is not None and len(self._taken) >= limit)

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
        """Record how a study ended."""
        is_done = done.state is State.DONE
        counted = Severity.WARNING if is_done else Severity.ERROR
        entry = Entry(
            done.study_key,
            done.state,
            job.fingerprint(self._fingerprint),
            sorted({f["code"] for f in done.findings if f["severity"] == counted.value}),
            () if is_done else done.findings,
            done.seconds,
            self._audit.run,
        )
        self._record(entry, job.rule)
        if is_done:
            self._outcome.done += 1
        elif done.state is State.REFUSED:
            self._refused[done.study_key] = Refusal(done.study_key, done.findings)
        else:
            self._outcome.failed += 1
            if done.disk_full:
                self._halt(Code.NO_DISK_SPACE)
            elif self._options.stop_on_error:
                self._outcome.stop_code = Code(entry.codes[0])

    def _refuse(self, refusal: Refusal) -> None:
        self._refused[refusal.study_key] = refusal
        entry = Entry(
            refusal.study_key,
            State.REFUSED,
            self._fingerprint,
            refusal.codes,
            refusal.findings,
            run=self._audit.run,
        )
        self._record(entry)

    def _forget_mended(self, refusals: Sequence[Refusal]) -> None:
        """Forget refusals for a passing reason that are not repeated."""
        present = {refusal.study_key for refusal in refusals}
        self._refused = {
            key: refusal
            for key, refusal in self._refused.items()
            if key in present or RETRYABLE_CODES.isdisjoint(refusal.codes)
        }

    def _log_awaited(self, refusals: Sequence[Refusal]) -> None:
        """Log once which studies lack a view."""
        for refusal in refusals:
            if refusal.study_key not in self._awaited:
                codes = ", ".join(refusal.codes)
                _log.warning("study %s is not complete (%s); waiting", refusal.study_key, codes)
        self._awaited = {refusal.study_key for refusal in refusals}

    def _log_found(self, found: Found) -> None:
        self._audit.intake(found.counts)
        _log.info(
            "found %d studies, %d refused; left out: %d files that are not DICOM, %d DICOM objects "
            "that are not radiographs",
            *found.counts.values(),
        )

    def _record(self, entry: Entry, rule: int | None = None) -> None:
        # the audit log first: killed in between, the study is taken and recorded again
        self._audit.study(entry, rule)
        self._manifest.add(entry)
        self._has_news = True
        self._progress.tell(entry)

    def _write_summaries(self) -> None:
        """Write ``refused.json`` of this run, and the index of all studies of the folder."""
        self._has_news = False
        self._outcome.refused = len(self._refused)
        refused = [
            {"study_key": key, "findings": list(refusal.findings)}
            for key, refusal in self._refused.items()
        ]
        write_refusals(self._output, refused)
        if self._options.html:
            index = [
                IndexEntry(key, entry.state.value, entry.findings, sum(entry.seconds.values()))
                for key, entry in self._manifest.entries.items()
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


def _is_done(output: Path, manifest: Manifest, job: Job, settings: str) -> bool:
    """Whether a study is done under these settings, and its result whole."""
    entry = manifest.entries.get(job.study_key)
    return (
        entry is not None
        and entry.state is State.DONE
        and entry.fingerprint == job.fingerprint(settings)
        and is_whole(output, job.study_key)
    )


def _finder(
    options: BatchOptions,
    workspace: Path,
    key: str,
    profile: Profile,
    reserve: int = 0,
    stop: Callable[[], bool] | None = None,
) -> StudyFinder:
    source = options.input
    if options.cluster is not None:  # nodes have another working directory
        source, workspace = source.absolute(), workspace.absolute()
    return StudyFinder(
        source,
        workspace,
        key,
        profile,
        excluded=options.output,
        reserve=reserve,
        seconds=min(options.time_limit, FILE_SECONDS),
        keep_identity=options.keep_identity,
        stop=stop,
    )


def _backend(options: BatchOptions) -> Backend:
    settings = worker_settings(options)
    if options.cluster is None:
        return LocalBackend(settings)
    return ClusterBackend(settings, options.cluster, device_of(options))
