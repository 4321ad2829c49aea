"""A file is there as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spider_bundle.files import atomic_path, files_below, sync_tree


def test_replaces_the_old_file_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "volume.nii.gz"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffixes == [".nii", ".gz"]
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["volume.nii.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_leaves_the_folder_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == ["report.json"]
    assert target.read_text() == "old"


def test_body_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_contents_reach_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def recorded_replace(source: Path, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("text")
    assert steps == ["file", "rename", "folder"]


def test_sync_tree_reaches_every_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1.dcm").write_text("1")
    (tmp_path / "ct.nii.gz").write_text("2")
    synced: set[str] = set()
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    sync_tree(tmp_path)
    entries = [tmp_path, *tmp_path.rglob("*")]
    assert synced == {str(entry.resolve()) for entry in entries}


def test_files_below_a_folder_come_in_order_and_nothing_that_blocks(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/3", "out/4", "5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "a" / "pipe")
    (tmp_path / "a" / "round").symlink_to(tmp_path, target_is_directory=True)
    found = [str(p.relative_to(tmp_path)) for p in files_below(tmp_path, tmp_path / "out")]
    assert found == ["5", "a/3", "b/1", "b/2"]
    assert list(files_below(tmp_path / "absent")) == [tmp_path / "absent"]
