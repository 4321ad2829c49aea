"""A batch that cannot start or go on says so in one line."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from spider_bundle.batch.options import BatchOptions
from spider_bundle.batch.outcome import Outcome
from spider_bundle.batch.runner import run_batch
from spider_bundle.cli import app
from spider_bundle.cli.early_end import early_end
from spider_bundle.errors import Code, SpiderError
from spider_bundle.exit_status import EXIT_FAILED, EXIT_UNFINISHED, EXIT_USAGE

PLANTED = "PLANTED^Jane"
LOCK = ".locks/batch.lock"


@pytest.fixture
def command(spool: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs `spider batch` on one study; its exit code and output."""
    source = spool(1)

    def run(*options: object) -> tuple[int, str]:
        words = ["batch", source, tmp_path / "out", "--device", "cpu", *options]
        result = CliRunner().invoke(app, list(map(str, words)))
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.output

    return run


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (Code.INVALID_KEY_FILE, EXIT_USAGE),
        (Code.INVALID_PROFILE, EXIT_USAGE),
        (Code.RUN_FAILED, EXIT_FAILED),
        (Code.OUTPUT_IN_USE, EXIT_UNFINISHED),
        (Code.CLUSTER_UNAVAILABLE, EXIT_FAILED),
    ],
)
def test_each_code_has_its_exit_code(
    code: Code,
    exit_code: int,
    command: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(options: object) -> Outcome:
        raise SpiderError(code, "it is so")

    monkeypatch.setattr("spider_bundle.batch.runner.run_batch", end)
    ended, text = command()
    assert ended == exit_code
    assert f"{code.value} it is so" in text


def test_a_locked_folder_ends_with_its_code(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "out" / LOCK).parent.mkdir(parents=True)
    with FileLock(tmp_path / "out" / LOCK):
        code, said = command()
    assert code == EXIT_UNFINISHED
    assert said.startswith("R08 another batch")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bundle-root", "bare"], ["R02 there are no weights", "--weights"]),
        (["--bundle-root", "bare", "--dry-run"], ["R02 there are no weights", "--weights"]),
        (["--bundle-root", "none"], ["R02 there is no bundle", "--bundle-root"]),
        ([], ["R01 the batch could not continue (File exists)"]),
    ],
)
def test_what_is_missing_or_cannot_be_written_is_told_as_such(
    options: list[str],
    words: list[str],
    command: Callable[..., tuple[int, str]],
    bundle_root: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(bundle_root / "configs", tmp_path / "bare" / "configs")
    if not options:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / ".locks").touch()
    names = {"bare", "none"}
    code, said = command(*(tmp_path / word if word in names else word for word in options))
    assert code == EXIT_FAILED
    assert all(word in said for word in words)
    assert ("rights of" in said or "permissions of" in said) == (not options)
    assert str(tmp_path) not in said


def test_a_missing_layer_is_told_as_such(spool: Callable[..., Path], tmp_path: Path) -> None:
    options = BatchOptions(spool(1), tmp_path / "out", config_files=[tmp_path / "none.json"])
    with pytest.raises(OSError, match="No such file") as error:
        run_batch(options)
    end = early_end(error.value, options)
    assert end.exit_code == EXIT_FAILED
    assert end.message.startswith("R02 a config on top of inference.json cannot be read (No such")
    assert str(tmp_path) not in end.message


@pytest.mark.parametrize("place", ["run", "plan", "send"])
def test_the_unexpected_is_told_by_its_kind(
    place: str, command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> Outcome:
        try:
            raise ZeroDivisionError(PLANTED)
        except ZeroDivisionError as error:
            raise RuntimeError(PLANTED) from error

    monkeypatch.delenv("SPIDER_DEBUG", raising=False)
    options: list[str] = []
    if place == "send":
        pytest.importorskip("highdicom")
        pytest.importorskip("pynetdicom")
        options = ["--dicom", "--store-to", "ARCHIVE@127.0.0.1:104"]
        monkeypatch.setattr("spider_bundle.batch.runner.run_batch", lambda options: Outcome(done=1))
        monkeypatch.setattr("spider_bundle.pacs.store.send_results", end)
    else:
        options = ["--dry-run"] * (place == "plan")
        module = {"run": "runner", "plan": "outcome"}[place]
        monkeypatch.setattr(f"spider_bundle.batch.{module}.{place}_batch", end)
    code, said = command(*options)
    assert code == EXIT_FAILED
    subject = "sending" if place == "send" else "batch"
    assert f"R02 the {subject} failed unexpectedly (ZeroDivisionError)" in said
    assert PLANTED not in said
    assert "Traceback" not in said


def test_the_unexpected_is_shown_to_who_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIDER_DEBUG", "1")
    assert early_end(KeyError(PLANTED)).exit_code == EXIT_FAILED
    assert f"KeyError: '{PLANTED}'" in capsys.readouterr().err
    # what is told already needs no more
    early_end(SpiderError(Code.OUTPUT_IN_USE))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"input": "absent"}, "the input does not exist"),
        ({"shape": 0}, "greater than 0"),
        ({"input": ""}, "the path is empty"),
        ({"weights": ""}, "the path is empty"),
        ({"shape": "Doe"}, "valid integer"),
        ({"watch": True, "dry_run": True}, "a dry run does not watch"),
    ],
)
def test_wrong_options_are_told(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        BatchOptions(**{"input": tmp_path, "output": tmp_path / "out", **values})
    assert "Doe" not in str(error.value)


def test_a_missing_extra_is_wrong_use() -> None:
    end = early_end(SpiderError(Code.MISSING_PACKAGE, "it needs ray"))
    assert (end.message[:16], end.exit_code) == ("R03 it needs ray", EXIT_USAGE)


def test_a_share_that_is_gone_is_told_without_its_path(tmp_path: Path) -> None:
    source = tmp_path / "DOE_JANE"
    source.mkdir()
    options = BatchOptions(source, tmp_path / "out", config={"overrides": {"sod": 1000}})
    source.rmdir()
    end = early_end(OSError(errno.ESTALE, "Stale file handle", str(source)), options)
    assert end.exit_code == EXIT_FAILED
    assert end.message.startswith("R01 the batch could not continue (Stale file handle)")
    assert "DOE" not in end.message
