"""A study is visible as a whole or not at all, whatever happens to the run."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest

from spider_bundle.outputs import study as study_module
from spider_bundle.outputs.report import report_schema
from spider_bundle.outputs.study import (
    StudyError,
    remove_partial_studies,
    study_folder,
    write_study,
)

KEY = "0f3a9c"


@pytest.fixture
def quick(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The study without the cost of drawing."""
    monkeypatch.setattr(study_module, "write_preview", lambda path, **_: path.write_bytes(b"png"))
    return study


def visible(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def leftovers(out: Path) -> list[str]:
    return [p.name for p in out.iterdir() if p.name.startswith(".") and p.name != ".locks"]


def test_whole_study(tmp_path: Path, study: dict[str, Any], read_study: Any) -> None:
    out = tmp_path / "out"
    folder = write_study(out, KEY, **study)
    assert folder == out / KEY
    names = ["ct.nii.gz", "label.nii.gz", "preview.png", "report.json"]
    assert sorted(os.listdir(folder)) == names
    report = read_study(folder).report
    jsonschema.Draft202012Validator(report_schema()).validate(report)
    assert report["study_key"] == KEY
    assert report["reprojection"]["frontal"]["spearman"] == pytest.approx(1.0)
    ct = np.asanyarray(nibabel.load(folder / "ct.nii.gz").dataobj)
    np.testing.assert_array_equal(ct, study["hu"])
    assert leftovers(out) == []


def test_same_input_same_bytes(tmp_path: Path, study: dict[str, Any]) -> None:
    folders = [write_study(tmp_path / name, KEY, **study) for name in ("a", "b")]
    for name in os.listdir(folders[0]):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_extras_are_part_of_the_study(tmp_path: Path, quick: dict[str, Any]) -> None:
    def extras(folder: Path) -> None:
        (folder / "dicom").mkdir()
        (folder / "dicom" / "0001.dcm").write_bytes(b"DICM")

    folder = write_study(tmp_path, KEY, extras=extras, **quick)
    assert (folder / "dicom" / "0001.dcm").read_bytes() == b"DICM"
    assert '"dicom/0001.dcm"' in (folder / "report.json").read_text()


def test_report_is_written_last(tmp_path: Path, quick: dict[str, Any]) -> None:
    seen: list[str] = []
    write_study(tmp_path, KEY, extras=lambda folder: seen.extend(os.listdir(folder)), **quick)
    assert sorted(seen) == ["ct.nii.gz", "label.nii.gz", "preview.png"]


@pytest.mark.parametrize("finished_before", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_exception_leaves_what_was_there(
    tmp_path: Path,
    quick: dict[str, Any],
    read_study: Any,
    finished_before: bool,
    error: BaseException,
) -> None:
    def fail(folder: Path) -> None:
        (folder / "dicom").mkdir()
        raise error

    if finished_before:
        before = read_study(write_study(tmp_path, KEY, **quick)).ct
    with pytest.raises(type(error)):
        write_study(tmp_path, KEY, **{**quick, "hu": quick["hu"] // 2}, extras=fail)
    assert leftovers(tmp_path) == []
    assert visible(tmp_path) == ([KEY] if finished_before else [])
    if finished_before:
        assert read_study(tmp_path / KEY).ct == before


def test_failed_rename_puts_the_old_study_back(
    tmp_path: Path, quick: dict[str, Any], read_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_study(write_study(tmp_path, KEY, **quick)).ct
    rename = os.rename

    def refuse_new(source: Path, target: Path) -> None:
        if ".partial-" in Path(source).name:
            raise OSError("refused")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(OSError, match="refused"):
        write_study(tmp_path, KEY, **{**quick, "hu": quick["hu"] // 2})
    assert read_study(tmp_path / KEY).ct == before
    assert leftovers(tmp_path) == []


def _die_before_step(step: int, out: Path, study: dict[str, Any]) -> None:
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
    write_study(out, KEY, **study)
    os._exit(0)


@pytest.mark.parametrize("finished_before", [False, True])
def test_kill_at_every_file_operation(
    tmp_path: Path, quick: dict[str, Any], read_study: Any, finished_before: bool
) -> None:
    newer = {**quick, "hu": quick["hu"] // 2}
    old = read_study(write_study(tmp_path / "old", KEY, **quick)).ct
    new = read_study(write_study(tmp_path / "new", KEY, **newer)).ct
    fork = multiprocessing.get_context("fork")
    outcomes = []
    for step in range(1, 100):
        out = tmp_path / f"step-{step}"
        if finished_before:
            write_study(out, KEY, **quick)
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
        assert read_study(write_study(out, KEY, **newer)).ct == new
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


def test_other_studies_are_not_touched(
    tmp_path: Path, quick: dict[str, Any], read_study: Any
) -> None:
    write_study(tmp_path, "aaa", **quick)
    (tmp_path / ".aaa-b.partial-00").mkdir()
    with study_folder(tmp_path, "bbb") as folder:
        (folder / "report.json").write_text("{}")
        write_study(tmp_path, "aaa", **quick)
        assert folder.is_dir()
        assert (tmp_path / ".aaa-b.partial-00").is_dir()
    assert visible(tmp_path) == ["aaa", "bbb"]
    read_study(tmp_path / "aaa")


def test_foreign_folder_is_not_replaced(tmp_path: Path, quick: dict[str, Any]) -> None:
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match="not a finished study") as caught:
        write_study(tmp_path, KEY, **quick)
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


def test_report_names_no_place(tmp_path: Path, quick: dict[str, Any]) -> None:
    text = (write_study(tmp_path, KEY, **quick) / "report.json").read_text()
    assert str(tmp_path) not in text
    assert not re.search(r"\d{4}-\d{2}-\d{2}", text)
