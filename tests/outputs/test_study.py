"""A study is visible as a whole or not at all, whatever happens to the run."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest

from spider_bundle.outputs import study as study_module
from spider_bundle.outputs.report import Report, report_schema, write_report
from spider_bundle.outputs.study import (
    StudyError,
    check_formats,
    remove_partial_studies,
    study_folder,
    write_study,
)
from spider_bundle.reconstructor import Result

KEY = "0f3a9c"
FORMATS = {"nifti", "preview"}


def other(result: Result) -> Result:
    """Another reconstruction of the same study."""
    return replace(result, hu=result.hu // 2)


@pytest.fixture
def quick(result: Result, monkeypatch: pytest.MonkeyPatch) -> Result:
    """The study without the cost of drawing."""
    monkeypatch.setattr(study_module, "write_preview", lambda path, *_: path.write_bytes(b"png"))
    return result


def visible(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def leftovers(out: Path) -> list[str]:
    return [p.name for p in out.iterdir() if p.name.startswith(".") and p.name != ".locks"]


def test_whole_study(tmp_path: Path, result: Result, read_study: Any) -> None:
    out = tmp_path / "out"
    folder = write_study(out, result, FORMATS)
    assert folder == out / KEY
    names = ["ct.nii.gz", "label.nii.gz", "preview.png", "report.json"]
    assert sorted(os.listdir(folder)) == names
    report = read_study(folder).report
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    assert report["study_key"] == KEY
    assert report["reprojection"]["frontal"]["spearman"] == pytest.approx(1.0)
    ct = np.asanyarray(nibabel.load(folder / "ct.nii.gz").dataobj)
    np.testing.assert_array_equal(ct, result.hu)
    assert leftovers(out) == []


def test_same_input_same_bytes(tmp_path: Path, result: Result) -> None:
    folders = [write_study(tmp_path / name, result, FORMATS) for name in ("a", "b")]
    for name in os.listdir(folders[0]):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_report_is_written_last(
    tmp_path: Path, quick: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def look(path: Path, report: Report) -> None:
        seen.extend(os.listdir(path.parent))
        write_report(path, report)

    monkeypatch.setattr(study_module, "write_report", look)
    write_study(tmp_path, quick, FORMATS)
    assert sorted(seen) == ["ct.nii.gz", "label.nii.gz", "preview.png"]


@pytest.mark.parametrize("formats", [set(), {"nifti"}, {"preview"}, {"html"}])
def test_only_what_is_asked_for_is_written(
    tmp_path: Path, quick: Result, formats: set[str]
) -> None:
    folder = write_study(tmp_path, quick, formats)
    names = {
        "nifti": {"ct.nii.gz", "label.nii.gz"},
        "preview": {"preview.png"},
        "html": {"preview.png", "report.html"},
    }
    expected = {"report.json"}.union(*(names[wanted] for wanted in formats))
    assert set(os.listdir(folder)) == expected


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="formats are nifti"):
        check_formats({"nifti", "nrrd"})


@pytest.mark.parametrize("finished_before", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_exception_leaves_what_was_there(
    tmp_path: Path,
    quick: Result,
    read_study: Any,
    finished_before: bool,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(folder: Path, result: Result) -> None:
        (folder / "dicom").mkdir()
        raise error

    if finished_before:
        before = read_study(write_study(tmp_path, quick, FORMATS)).ct
    monkeypatch.setattr(study_module, "_write_dicom", fail)
    with pytest.raises(type(error)):
        write_study(tmp_path, other(quick), FORMATS | {"dicom"})
    assert leftovers(tmp_path) == []
    assert visible(tmp_path) == ([KEY] if finished_before else [])
    if finished_before:
        assert read_study(tmp_path / KEY).ct == before


def test_failed_rename_puts_the_old_study_back(
    tmp_path: Path, quick: Result, read_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_study(write_study(tmp_path, quick, FORMATS)).ct
    rename = os.rename

    def refuse_new(source: Path, target: Path) -> None:
        if ".partial-" in Path(source).name:
            raise OSError("refused")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(OSError, match="refused"):
        write_study(tmp_path, other(quick), FORMATS)
    assert read_study(tmp_path / KEY).ct == before
    assert leftovers(tmp_path) == []


def _die_before_step(step: int, out: Path, result: Result) -> None:
    """Write the study and kill this process, as kill -9 does, before its n-th file operation."""
    count = 0

    def deadly(operation: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **kwargs)

        return wrapped

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
    write_study(out, result, FORMATS)
    os._exit(0)


@pytest.mark.parametrize("finished_before", [False, True])
def test_kill_at_every_file_operation(
    tmp_path: Path, quick: Result, read_study: Any, finished_before: bool
) -> None:
    newer = other(quick)
    old = read_study(write_study(tmp_path / "old", quick, FORMATS)).ct
    new = read_study(write_study(tmp_path / "new", newer, FORMATS)).ct
    fork = multiprocessing.get_context("fork")
    outcomes = []
    for step in range(1, 100):
        out = tmp_path / f"step-{step}"
        if finished_before:
            write_study(out, quick, FORMATS)
        process = fork.Process(target=_die_before_step, args=(step, out, newer))
        process.start()
        process.join(30)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        if out.exists() and visible(out):
            assert visible(out) == [KEY]
            assert read_study(out / KEY).ct in ((old, new) if finished_before else (new,))
        remove_partial_studies(out)
        assert not out.exists() or leftovers(out) == []
        whole = (out / KEY / "report.json").is_file()
        outcomes.append(read_study(out / KEY).ct if whole else None)
        assert whole or not finished_before  # a finished study is never lost
        assert read_study(write_study(out, newer, FORMATS)).ct == new
        assert leftovers(out) == []
    else:
        pytest.fail("the run never came to its end")
    # the change happens at one moment: before it the old state, after it the new study
    turn = outcomes.index(new)
    assert turn > 10
    assert set(outcomes[:turn]) == {old if finished_before else None}
    assert set(outcomes[turn:]) == {new}


def test_killed_subprocess_in_the_middle_of_a_write(tmp_path: Path) -> None:
    program = """
import sys, time
from spider_bundle.outputs.study import study_folder
with study_folder(sys.argv[1], sys.argv[2]) as folder:
    (folder / "ct.nii.gz").write_bytes(b"half")
    (folder / "report.json").write_bytes(b"{")
    print("writing", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(tmp_path), KEY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert visible(tmp_path) == []
        # the live run is left alone, and cannot be overtaken
        assert remove_partial_studies(tmp_path) == 0
        assert len(leftovers(tmp_path)) == 1
        with pytest.raises(StudyError, match="another run"), study_folder(tmp_path, KEY, 0.1):
            pass
    finally:
        process.kill()
        process.communicate()
    assert visible(tmp_path) == []
    assert remove_partial_studies(tmp_path) == 1
    assert leftovers(tmp_path) == []


def test_other_studies_are_not_touched(tmp_path: Path, quick: Result, read_study: Any) -> None:
    write_study(tmp_path, replace(quick, study_key="aaa"), FORMATS)
    (tmp_path / ".aaa-b.partial-00").mkdir()
    with study_folder(tmp_path, "bbb") as folder:
        (folder / "report.json").write_text("{}")
        write_study(tmp_path, replace(quick, study_key="aaa"), FORMATS)
        assert folder.is_dir()
        assert (tmp_path / ".aaa-b.partial-00").is_dir()
    assert visible(tmp_path) == ["aaa", "bbb"]
    read_study(tmp_path / "aaa")


def test_foreign_folder_is_not_replaced(tmp_path: Path, quick: Result) -> None:
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match="not a finished study") as caught:
        write_study(tmp_path, quick, FORMATS)
    assert str(tmp_path) not in str(caught.value)
    assert (tmp_path / KEY / "notes.txt").read_text() == "mine"
    assert leftovers(tmp_path) == []


def test_folder_without_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no report"), study_folder(tmp_path, KEY):
        pass
    assert visible(tmp_path) == leftovers(tmp_path) == []


@pytest.mark.parametrize("key", ["", "..", "../x", "a/b", ".hidden", "a b", "é", "x" * 129, "a\n"])
def test_key_must_be_a_plain_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="study key"), study_folder(tmp_path, key):
        pass
    assert list(tmp_path.iterdir()) == []


def test_report_names_no_place(tmp_path: Path, quick: Result) -> None:
    text = (write_study(tmp_path, quick, FORMATS) / "report.json").read_text()
    assert str(tmp_path) not in text
    assert not re.search(r"\d{4}-\d{2}-\d{2}", text)
