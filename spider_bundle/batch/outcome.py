"""How a batch ended, or would end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path

from spider_bundle.batch.finder import FILE_SECONDS, StudyFinder
from spider_bundle.batch.job import Job
from spider_bundle.batch.options import (
    BatchOptions,
    profile_of,
    result_settings,
    sha256_of,
    site_key,
)
from spider_bundle.batch.profile import Profile
from spider_bundle.batch.records import Manifest, State
from spider_bundle.dicom.studies import Refusal
from spider_bundle.errors import Code
from spider_bundle.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_UNFINISHED
from spider_bundle.outputs.study import is_whole


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
        files: Files of the studies that were refused or failed, by key; only for who named them.
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
    stop_code: Code | None = None
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict, repr=False)

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
        """Return the plan in words."""
        for job in self.jobs:
            rule = f" (rule {job.rule} of the profile)" if job.rule else ""
            yield f"study {job.study_key}: would run{rule}"
        for job in self.skipped:
            yield f"study {job.study_key}: already done, would be skipped"
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
            planned=len(self.jobs),
            skipped=len(self.skipped),
            refused=len(self.refusals),
            files={refusal.study_key: refusal.files for refusal in self.refusals},
        )


def plan_batch(options: BatchOptions) -> Plan:
    """Find and check all studies by their headers; nothing is written to input or output.

    Arguments and errors are those of :func:`~spider_bundle.batch.runner.run_batch`.
    """
    key, profile = site_key(options), profile_of(options)
    settings = sha256_of(result_settings(options))
    output = options.output
    manifest = Manifest(output)
    with tempfile.TemporaryDirectory() as workspace:
        with closing(new_finder(options, Path(workspace), key, profile)) as finder:
            found = finder.find()
        skipped = [job for job in found.jobs if is_done(output, manifest, job, settings)]
        jobs = [job for job in found.jobs if job not in skipped][: options.limit]
    return Plan(jobs, skipped, found.refusals)


def is_done(output: Path, manifest: Manifest, job: Job, settings: str) -> bool:
    """Return whether a study is done under these settings, and its result is whole."""
    entry = manifest.entries.get(job.study_key)
    return (
        entry is not None
        and entry.state is State.DONE
        and entry.fingerprint == job.fingerprint(settings)
        and is_whole(output, job.study_key)
    )


def new_finder(
    options: BatchOptions,
    workspace: Path,
    key: str,
    profile: Profile,
    reserve: int = 0,
    stop: Callable[[], bool] | None = None,
) -> StudyFinder:
    """Return the finder of a batch; see :class:`StudyFinder`."""
    source = options.input
    if options.cluster is not None:  # nodes have another working directory
        source, workspace = source.absolute(), workspace.absolute()
    return StudyFinder(
        source,
        workspace,
        key,
        profile,
        excluded=options.output,
        seconds=min(options.time_limit, FILE_SECONDS),
        keep_identity=options.keep_identity,
        reserve=reserve,
        stop=stop,
    )
