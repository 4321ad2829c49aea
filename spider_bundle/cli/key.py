"""`spider key`: which study or scan a key stands for."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from spider_bundle.cli.ends import shown, without_traceback
from spider_bundle.cli.options import KeyFile
from spider_bundle.exit_status import EXIT_REFUSED


def key(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Input of infer, batch or prepare.", exists=True, metavar="PATH..."),
    ],
    key_file: KeyFile = None,
) -> None:
    """Print the key and the path of every study, scan and unreadable file below PATH.

    Results, logs and pages name studies by these keys only. Nothing is stored; give the key file of
    the run, or the same SPIDER_SITE_KEY.
    """
    from spider_bundle.batch.finder import StudyFinder
    from spider_bundle.batch.job import Job
    from spider_bundle.cases.folder import case_id
    from spider_bundle.cases.scan import find_scans
    from spider_bundle.dicom.studies import PUBLIC_KEY, Refusal
    from spider_bundle.pseudonym import read_key_file

    with shown():
        secret = read_key_file(key_file) if key_file else os.environ.get("SPIDER_SITE_KEY")
        secret = secret or PUBLIC_KEY
    rows: dict[tuple[str, Path], None] = {}
    with without_traceback(subject="the search"):
        for path in paths:
            with TemporaryDirectory(prefix="spider-") as workspace:
                finder = StudyFinder(path, Path(workspace), secret)
                try:
                    found = finder.find()
                finally:
                    finder.close()
            studies: list[Job | Refusal] = [*found.jobs, *found.refusals]
            for study in studies:
                rows |= {(study.study_key, finder.origin(file)): None for file in study.files}
            for source in find_scans(path) if path.is_dir() else ():
                rows[case_id(source, secret), path / source.name] = None
    for name, file in rows:
        typer.echo(f"{name}  {file}")
    if not rows:
        raise typer.Exit(EXIT_REFUSED)
