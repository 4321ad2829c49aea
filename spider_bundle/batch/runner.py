"""A batch: find all studies, check them, and take them one after the other until the end.

Every study that is taken ends in one state in the manifest. A run that is cut, however hard, is
started again with the same command: studies that are done under the same settings, with their
results whole, are skipped.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spider_bundle.batch.audit import AuditLog
from spider_bundle.batch.cluster import ClusterBackend
from spider_bundle.batch.codes import BATCH_CODES, BatchCode, BatchError
from spider_bundle.batch.intake import FILE_SECONDS, PASSING, Found, Intake, Signature, is_zip
from spider_bundle.batch.job import Job, Refusal
from spider_bundle.batch.manifest import Entry, Manifest, State
from spider_bundle.batch.options import (
    BatchOptions,
    conduct_settings,
    device_of,
    profile_of,
    result_settings,
    sha256_of,
    site_key,
    worker_count,
    worker_settings,
)
from spider_bundle.batch.pool import Backend, LocalBackend, WorkerPool
from spider_bundle.batch.profile import Profile
from spider_bundle.batch.progress import Progress, progress
from spider_bundle.batch.worker import StudyDone
from spider_bundle.files import file_sha256
from spider_bundle.outputs.html_report import IndexEntry, write_index
from spider_bundle.outputs.refusals import write_refusals
from spider_bundle.outputs.study import REPORT_FILE, remove_partial_studies

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REFUSED = 3
EXIT_UNFINISHED = 4

WORKSPACE = ".unpacked"
_LOCK = ".locks/batch.lock"
_MEBIBYTE = 1 << 20
_SCAN_SECONDS = 5.0
_LEAST_SCAN_SECONDS = 0.2
_IDLE_SECONDS = 0.2

_log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a batch ended.

    Attributes:
        done: Studies done in this run.
        skipped: Studies done in an earlier run under the same settings.
        refused: Studies and archives that were refused.
        failed: Studies that failed.
        left: Studies that were not taken: the batch was stopped before, or ``limit`` reached.
        planned: Studies that a dry run would have taken.
        incomplete: Studies that still lacked a view when watching ended.
        is_stopped: Whether a signal, a failure or the disk ended the batch early.
        is_search_cut: Whether a signal ended it before all studies were found.
        stop_code: The code of a batch that stopped by itself.
    """

    done: int = 0
    skipped: int = 0
    refused: int = 0
    failed: int = 0
    left: int = 0
    planned: int = 0
    incomplete: int = 0
    is_stopped: bool = False
    is_search_cut: bool = False
    stop_code: BatchCode | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The numbers by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.type == "int"}

    @property
    def exit_code(self) -> int:
        """0 all done, 1 failures, 3 refusals or nothing found, 4 stopped with studies left.

        Failures come before the rest, then what was left, then refusals.
        """
        if self.failed or self.stop_code:
            return EXIT_FAILED
        if self.is_search_cut or (self.is_stopped and self.left):
            return EXIT_UNFINISHED
        nothing = not (self.done or self.skipped or self.planned or self.left)
        if self.refused or (nothing and not self.is_stopped):
            return EXIT_REFUSED
        return EXIT_DONE


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
        BatchError: K01, S01, R02, or R08 to R11.
        MissingExtraError: R03, a cluster is named and Ray is not installed.
        FileNotFoundError: There is no bundle, or there are no weights.
        OSError: The output folder cannot be written to.
    """
    if options.dry_run:
        plan = plan_batch(options)
        for line in plan.lines():
            _log.info("%s", line)
        return plan.outcome
    key, profile = site_key(options), profile_of(options)
    output = Path(options.output)
    (output / _LOCK).parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / _LOCK, timeout=0):
            return _Run(options, key, profile).run()
    except Timeout:
        raise BatchError(BatchCode.R08) from None


@dataclass(frozen=True)
class Plan:
    """What a batch would do.

    Attributes:
        jobs: Studies that it would take.
        skipped: Studies that are done.
        refusals: What it would refuse, and why.
    """

    jobs: Sequence[Job]
    skipped: Sequence[Job]
    refusals: Sequence[Refusal]

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        for job in self.jobs:
            rule = f" (rule {job.rule} of the profile)" if job.rule else ""
            yield f"study {job.study_key}: would run{rule}"
        for job in self.skipped:
            yield f"study {job.study_key}: done before, would be skipped"
        for refusal in self.refusals:
            for fact in refusal.findings:
                if fact["severity"] == "error":
                    yield (
                        f"study {refusal.study_key}: refused: {fact['code']} ({fact['role']}) "
                        f"{fact['message']}. To do: {fact['action']}"
                    )

    @property
    def outcome(self) -> Outcome:
        """The plan in numbers."""
        return Outcome(
            planned=len(self.jobs), skipped=len(self.skipped), refused=len(self.refusals)
        )


def plan_batch(options: BatchOptions) -> Plan:
    """Find and check all studies by their headers; nothing is written to input or output.

    Arguments and errors are those of :func:`run_batch`.
    """
    key, profile = site_key(options), profile_of(options)
    settings = sha256_of(result_settings(options))
    output = Path(options.output)
    manifest = Manifest(output)
    with tempfile.TemporaryDirectory() as workspace:
        with closing(_intake(options, Path(workspace), key, profile, reserve=0)) as intake:
            found = _found_in_turns(intake)
        skipped = [job for job in found.jobs if _is_done(output, manifest, job, settings)]
        jobs = [job for job in found.jobs if job not in skipped][: options.limit]
    return Plan(jobs, skipped, [*found.refusals, *found.deferred])


def _found_in_turns(intake: Intake) -> Found:
    """What an input holds, with archives that have no room unpacked after the others have gone."""
    jobs: dict[str, Job] = {}
    refusals: dict[str, Refusal] = {}
    without_room: set[Path] = set()
    while True:
        found = intake.find()
        jobs |= {job.study_key: job for job in found.jobs}
        refusals |= {refusal.study_key: refusal for refusal in found.refusals}
        before, without_room = without_room, {p for r in found.deferred for p in r.files}
        if not found.deferred or without_room == before:
            left = [refusal for key, refusal in refusals.items() if key not in jobs]
            return replace(found, jobs=tuple(jobs.values()), refusals=tuple(left))
        intake.release([])


def is_whole(output: Path, study_key: str) -> bool:
    """Whether a study's folder holds all that its report lists, byte for byte."""
    folder = output / study_key
    try:
        report = json.loads((folder / REPORT_FILE).read_bytes())
        return all(file_sha256(folder / f["name"]) == f["sha256"] for f in report["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


class _SearchCut(BaseException):
    """A signal came while the input was searched, which may take long."""


class _Stop:
    """Whether somebody wants the batch to end.

    Attributes:
        wanted: How often it was asked for.
    """

    def __init__(self) -> None:
        self.wanted = 0
        self._cuts = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear SIGTERM and SIGINT; the handlers of before are put back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._hear) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def cutting(self) -> Iterator[None]:
        """A signal is not waited for: it raises.

        Raises:
            _SearchCut: There was a signal.
        """
        self._cuts = True
        try:
            if self.wanted:
                raise _SearchCut
            yield
        finally:
            self._cuts = False

    def _hear(self, *_: Any) -> None:
        self.wanted += 1
        if self._cuts:
            self._cuts = False  # the next one must not disturb the end
            raise _SearchCut


class _Run:
    """One run of a batch; the caller holds the lock of the output folder."""

    def __init__(self, options: BatchOptions, key: str, profile: Profile) -> None:
        self._options = options
        self._output = Path(options.output)
        self._key = key
        self._profile = profile
        settings = result_settings(options)
        self._fingerprint = sha256_of(settings)
        self._manifest = Manifest(self._output)
        self._audit = AuditLog(self._output, settings | conduct_settings(options, key))
        self._outcome = Outcome()
        self._jobs: dict[str, Job] = {}
        self._at_hand: set[str] = set()
        self._skipped: dict[str, Job] = {}
        self._waiting: list[Path] = []
        self._awaited: set[str] = set()
        self._is_summary_due = False
        self._refused: dict[str, Refusal] = {}
        self._stop = _Stop()

    def run(self) -> Outcome:
        options, outcome = self._options, self._outcome
        if self._manifest.damaged:
            _log.warning("%d lines of the manifest are unreadable", self._manifest.damaged)
        self._clear()
        pool = WorkerPool(_backend(options), worker_count(options), options.time_limit)
        exit_code = EXIT_FAILED
        with ExitStack() as stack:
            stack.callback(self._clear)
            stack.enter_context(self._stop.listening())
            stack.callback(pool.kill)
            shown = stack.enter_context(progress())
            workspace = self._output / WORKSPACE
            workspace.mkdir(mode=0o700)
            # twice what must stay free for results, or unpacking would soon halt the batch (R06)
            reserve = int(2 * options.min_free_mib * _MEBIBYTE)
            self._intake = _intake(options, workspace, self._key, self._profile, reserve)
            stack.callback(self._intake.close)
            try:
                (self._watch if options.watch else self._take_all)(pool, shown)
                pool.close()
                outcome.refused = len(self._refused)
                outcome.skipped = len(self._skipped)
                self._write_summaries()
                exit_code = outcome.exit_code
            finally:
                self._audit.end(outcome.counts, exit_code)
        return outcome

    def _clear(self) -> None:
        """Remove what killed runs and workers left; this run has the output folder to itself."""
        remove_partial_studies(self._output)
        shutil.rmtree(self._output / WORKSPACE, ignore_errors=True)

    def _take_all(self, pool: WorkerPool, shown: Progress) -> None:
        """Take what the input holds; archives that have no room wait until others have gone."""
        without_room: set[Path] = set()
        while True:
            found = self._find()
            if found is None:
                self._outcome.is_search_cut = self._outcome.is_stopped = True
                return
            self._tell_found(found)
            before, without_room = without_room, {p for r in found.deferred for p in r.files}
            incomplete = [r for r in found.refusals if r.is_incomplete]
            if not found.deferred or (without_room == before and not self._waiting):
                break
            _log.info("%d archives wait for room on the disk", len(found.deferred))
            self._take(found.jobs, [r for r in found.refusals if not r.is_incomplete], pool, shown)
            # what they lack may be in the archives that wait, unless it is they that take the room
            lacking = incomplete if without_room != before else []
            self._waiting = [path for refusal in lacking for path in refusal.files]
            if not lacking:
                self._take([], incomplete, pool, shown)
            self._release()
            while self._step(pool, shown):
                pass
            if self._is_ending():
                self._outcome.left += len(found.deferred)
                self._outcome.is_stopped |= bool(self._stop.wanted)
                return
        self._intake.close()  # its process has nothing more to do
        self._take(found.jobs, [*found.refusals, *found.deferred], pool, shown)
        while self._step(pool, shown):
            pass

    def _find(self, signatures: Sequence[Signature] | None = None) -> Found | None:
        """Search the input; None if a signal came meanwhile."""
        try:
            with self._stop.cutting():
                return self._intake.find(signatures)
        except _SearchCut:
            self._intake.close()  # its process may still be at work
            return None

    def _watch(self, pool: WorkerPool, shown: Progress) -> None:
        """Take studies as they arrive, complete and quiet, until told to stop."""
        seen: dict[Signature, float] = {}
        looked_at: tuple[set[Signature], set[str]] | None = None
        pause = min(_SCAN_SECONDS, max(self._options.quiet_seconds / 2, _LEAST_SCAN_SECONDS))
        next_scan = 0.0
        while True:
            now = time.monotonic()
            if now >= next_scan and not self._is_ending():
                seen = {s: seen.get(s, now) for s in self._intake.signatures()}
                loud = {s for s, t in seen.items() if now - t < self._options.quiet_seconds}
                # an archive that still grows cannot be opened; of a study, every file counts
                readable = {s for s in seen if s not in loud or not is_zip(Path(s[0]))}
                overdue = {s[0] for s, t in seen.items() if now - t >= self._options.patience}
                # studies in loud files must be looked at again when they are quiet
                if (readable, overdue) != looked_at:
                    busy = {s[0] for s in loud}
                    is_over = self._scan(readable, busy, overdue, pool, shown)
                    looked_at = (readable, overdue) if is_over else None
                next_scan = now + pause
            if not self._step(pool, shown):
                if self._is_ending():
                    return
                if self._is_summary_due:
                    self._write_summaries()
                time.sleep(_IDLE_SECONDS)

    def _is_ending(self) -> bool:
        limit = self._options.limit
        is_full = limit is not None and len(self._jobs) >= limit
        return bool(self._stop.wanted or self._outcome.stop_code or is_full)

    def _scan(
        self,
        signatures: set[Signature],
        loud: set[str],
        overdue: set[str],
        pool: WorkerPool,
        shown: Progress,
    ) -> bool:
        """Take what is complete and quiet, and refuse what was waited for long enough.

        Args:
            signatures: Files to look at.
            loud: Those that changed a short time ago.
            overdue: Those that have not changed for so long that no other view will come.
            pool: Takes the studies.
            shown: Shows them.

        Returns:
            Whether everything else can be left alone until a file changes.
        """
        found = self._find(sorted(signatures))
        if found is None:
            return False

        def lies_in(study: Job | Refusal, files: set[str]) -> list[bool]:
            return [str(self._intake.origin(path)) in files for path in study.files]

        def is_ripe(study: Job | Refusal) -> bool:
            # files that are read now must not be exchanged under the same name in the manifest
            return not any(lies_in(study, loud)) and study.study_key not in self._at_hand

        incomplete = [r for r in found.refusals if r.is_incomplete and not all(lies_in(r, overdue))]
        self._await_files([r for r in incomplete if is_ripe(r)])
        self._outcome.incomplete = len(incomplete)
        told = [r for r in found.refusals if r not in incomplete]
        self._take(
            [j for j in found.jobs if is_ripe(j)], [r for r in told if is_ripe(r)], pool, shown
        )
        if not self._at_hand:  # nothing will make room for these archives
            self._take([], found.deferred, pool, shown)
        present = {refusal.study_key for refusal in (*found.refusals, *found.deferred)}
        for key, refusal in list(self._refused.items()):
            if key not in present and not PASSING.isdisjoint(refusal.codes):
                del self._refused[key]  # it can be read now
        every: list[Job | Refusal] = [*found.jobs, *told]
        unripe = [study for study in every if not self._is_taken(study)]
        self._waiting = [path for study in [*incomplete, *unripe] for path in study.files]
        self._release()
        return not unripe and not found.deferred and all(map(is_ripe, incomplete))

    def _is_taken(self, study: Job | Refusal) -> bool:
        """Whether a study as it is now waits for a worker or has ended."""
        key = study.study_key
        if isinstance(study, Refusal):
            return self._refused.get(key) == study
        return study in (self._jobs.get(key), self._skipped.get(key))

    def _await_files(self, refusals: Sequence[Refusal]) -> None:
        """Tell once which studies lack a view, and which DICOMDIRs a file."""
        for refusal in refusals:
            if refusal.study_key not in self._awaited:
                codes = ", ".join(refusal.codes)
                _log.warning("study %s is not complete (%s); waiting", refusal.study_key, codes)
        self._awaited = {refusal.study_key for refusal in refusals}

    def _tell_found(self, found: Found) -> None:
        self._audit.intake(found.counts)
        _log.info(
            "found %d studies, %d refused; left out: %d files that are not DICOM, %d DICOM objects "
            "that are not radiographs",
            *found.counts.values(),
        )

    def _take(
        self, jobs: Sequence[Job], refusals: Sequence[Refusal], pool: WorkerPool, shown: Progress
    ) -> None:
        """Let new studies wait for a worker; record the refusals."""
        for refusal in refusals:
            self._refuse(refusal, shown)
        new: list[Job] = []
        for job in jobs:
            if self._is_taken(job):
                continue
            if _is_done(self._output, self._manifest, job, self._fingerprint):
                self._skipped[job.study_key] = job
            else:
                self._skipped.pop(job.study_key, None)
                new.append(job)
        if self._options.limit is not None:
            room = max(self._options.limit - len(self._jobs), 0)
            self._outcome.left += len(new[room:])
            new = new[:room]
        for job in new:
            self._jobs[job.study_key] = job
            self._at_hand.add(job.study_key)
            self._refused.pop(job.study_key, None)
        shown.expect(len(new))
        for job in new:
            pool.submit(job)

    def _release(self) -> None:
        """Let unpacked archives go whose studies have all ended."""
        at_hand = [path for key in self._at_hand for path in self._jobs[key].files]
        self._intake.release([*self._waiting, *at_hand])

    def _step(self, pool: WorkerPool, shown: Progress) -> bool:
        """Go on with the studies that were taken; False when there are none."""
        if self._stop.wanted > 1:
            self._outcome.left += pool.waiting + pool.running
            pool.drop_waiting()
            pool.kill()
            self._outcome.is_stopped = True
            return False
        if pool.waiting and (self._outcome.stop_code or self._stop.wanted or self._is_disk_full()):
            self._outcome.left += pool.drop_waiting()
            self._outcome.is_stopped = True
        if not pool.waiting and not pool.running:
            return False
        for ended in pool.poll():
            self._end(ended, shown)
            self._release()
        return True

    def _is_disk_full(self) -> bool:
        if shutil.disk_usage(self._output).free >= self._options.min_free_mib * _MEBIBYTE:
            return False
        self._halt(BatchCode.R06)
        return True

    def _halt(self, code: BatchCode) -> None:
        self._outcome.stop_code = code
        info = BATCH_CODES[code]
        _log.error("%s %s. To do: %s", code.value, info.condition, info.action)
        self._audit.event(code.value)

    def _end(self, ended: StudyDone, shown: Progress) -> None:
        """Record how a study ended."""
        job = self._jobs[ended.study_key]
        self._at_hand.discard(ended.study_key)
        wanted = "warning" if ended.state is State.DONE else "error"
        entry = Entry(
            ended.study_key,
            ended.state,
            job.fingerprint(self._fingerprint),
            sorted({f["code"] for f in ended.findings if f["severity"] == wanted}),
            () if ended.state is State.DONE else ended.findings,
            ended.seconds,
            self._audit.run,
        )
        self._record(entry, shown, job.rule)
        if ended.state is State.DONE:
            self._outcome.done += 1
        elif ended.state is State.REFUSED:
            self._refused[ended.study_key] = Refusal(ended.study_key, ended.findings)
        else:
            self._outcome.failed += 1
            if ended.disk_full:
                self._halt(BatchCode.R06)
            elif self._options.stop_on_error:
                self._outcome.stop_code = BatchCode(entry.codes[0])

    def _refuse(self, refusal: Refusal, shown: Progress) -> None:
        if refusal == self._refused.get(refusal.study_key):
            return
        self._refused[refusal.study_key] = refusal
        shown.expect(1)
        self._record(
            Entry(
                refusal.study_key,
                State.REFUSED,
                self._fingerprint,
                refusal.codes,
                refusal.findings,
                run=self._audit.run,
            ),
            shown,
        )

    def _record(self, entry: Entry, shown: Progress, rule: int | None = None) -> None:
        # the audit log first: killed in between, the study is taken and told again
        self._audit.study(entry, rule)
        self._manifest.add(entry)
        self._is_summary_due = True
        shown.tell(entry)

    def _write_summaries(self) -> None:
        """Write ``refused.json`` of this run, and the index of all studies of the folder."""
        self._is_summary_due = False
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
            write_index(self._output, index)


def _is_done(output: Path, manifest: Manifest, job: Job, settings: str) -> bool:
    """Whether a study is done under these settings, and its result whole."""
    entry = manifest.entries.get(job.study_key)
    return (
        entry is not None
        and entry.state is State.DONE
        and entry.fingerprint == job.fingerprint(settings)
        and is_whole(output, job.study_key)
    )


def _intake(
    options: BatchOptions, workspace: Path, key: str, profile: Profile, reserve: int
) -> Intake:
    source, output = Path(options.input), Path(options.output)
    seconds = min(options.time_limit, FILE_SECONDS)
    return Intake(source, workspace, key, profile, output, reserve=reserve, seconds=seconds)


def _backend(options: BatchOptions) -> Backend:
    settings = worker_settings(options)
    if options.cluster is None:
        return LocalBackend(settings)
    return ClusterBackend(settings, options.cluster, device_of(options))
