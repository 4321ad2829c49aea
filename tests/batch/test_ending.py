"""A batch that cannot start or go on says so in one line, wherever it was started from."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from monai.bundle import ConfigWorkflow
from typer.testing import CliRunner

from spider_bundle.batch.cluster import ClusterOptions
from spider_bundle.batch.codes import BatchCode, BatchError
from spider_bundle.batch.ending import EXIT_USAGE, early_end
from spider_bundle.batch.options import BatchOptions
from spider_bundle.batch.runner import EXIT_FAILED, EXIT_REFUSED, EXIT_UNFINISHED, Outcome
from spider_bundle.cli import app
from spider_bundle.outputs.optional_dependencies import MissingExtraError

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


@pytest.fixture
def config(
    spool: Callable[..., Path],
    tmp_path: Path,
    bundle_root: Path,
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., tuple[int, str]]:
    """Runs ``configs/batch.json`` on one study; its exit code and what was logged as errors."""
    source = spool(1)

    def run(**values: Any) -> tuple[int, str]:
        given = {"dataset_dir": str(source), "output_dir": str(tmp_path / "out"), "device": "cpu"}
        given |= {"bundle_root": str(bundle_root), **values}
        workflow = ConfigWorkflow(
            config_file=str(bundle_root / "configs" / "batch.json"),
            meta_file=None,
            logging_file=False,
            run_id="batch",
            **given,
        )
        caplog.clear()
        try:
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        except SystemExit as end:
            return int(end.code or 0), _errors(caplog)
        return 0, _errors(caplog)

    return run


def _errors(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR)


@pytest.fixture
def bare(tmp_path: Path, bundle_root: Path) -> Path:
    """A bundle without weights."""
    shutil.copytree(bundle_root / "configs", tmp_path / "bare" / "configs")
    return tmp_path / "bare"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (BatchCode.K01, EXIT_USAGE),
        (BatchCode.S01, EXIT_USAGE),
        (BatchCode.R02, EXIT_FAILED),
        (BatchCode.R08, EXIT_UNFINISHED),
        (BatchCode.R10, EXIT_FAILED),
    ],
)
def test_command_and_config_end_alike(
    code: BatchCode,
    exit_code: int,
    command: Callable[..., tuple[int, str]],
    config: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(options: object) -> Outcome:
        raise BatchError(code, "it is so")

    monkeypatch.setattr("spider_bundle.batch.runner.run_batch", end)
    monkeypatch.setattr("spider_bundle.batch.ending.run_batch", end)
    told = [command(), config()]
    assert [ended for ended, _ in told] == [exit_code, exit_code]
    # the box of a wrong use breaks lines
    assert all(f"{code.value} it is so" in text for _, text in told)
    assert told[1][1] == str(BatchError(code, "it is so"))


def test_a_locked_folder_ends_a_config_with_its_code(
    config: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "out" / LOCK).parent.mkdir(parents=True)
    with FileLock(tmp_path / "out" / LOCK):
        code, said = config()
    assert code == EXIT_UNFINISHED
    assert said.startswith("R08 ")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


@pytest.mark.slow
def test_a_config_shows_no_traceback(
    spool: Callable[..., Path], tmp_path: Path, bundle_root: Path
) -> None:
    (tmp_path / "out" / LOCK).parent.mkdir(parents=True)
    line = [sys.executable, "-m", "monai.bundle", "run", "batch", "--config_file"]
    line += ["configs/batch.json", "--dataset_dir", str(spool(1)), "--device", "cpu"]
    line += ["--output_dir", str(tmp_path / "out")]
    with FileLock(tmp_path / "out" / LOCK):
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=bundle_root)
    said = done.stdout + done.stderr
    assert done.returncode == EXIT_UNFINISHED, said[-2000:]
    assert "R08 another batch" in said
    assert "Traceback" not in said


def test_missing_weights_are_told_as_such(
    command: Callable[..., tuple[int, str]],
    config: Callable[..., tuple[int, str]],
    bare: Path,
    tmp_path: Path,
) -> None:
    weights = str(bare / "models" / "model.pt")
    for options in (["--bundle-root", bare], ["--bundle-root", bare, "--dry-run"]):
        code, said = command(*options)
        assert code == EXIT_FAILED
        assert "R02 there are no weights" in said
        assert "--weights" in said
        assert "rights of the output folder" not in said
        assert str(tmp_path) not in said
    code, said = config(weights=weights)
    assert (code, said.startswith("R02 there are no weights")) == (EXIT_FAILED, True)
    # a layer that names its own does not hide that the named ones are gone
    code, said = config(weights=weights, config={"weights": "$None"})
    assert (code, said.startswith("R02 there are no weights")) == (EXIT_FAILED, True)


def test_a_missing_bundle_is_told_as_such(
    command: Callable[..., tuple[int, str]],
    config: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    for code, said in (
        command("--bundle-root", tmp_path / "none"),
        config(bundle_root=str(tmp_path / "none")),
    ):
        assert code == EXIT_FAILED
        assert "R02 there is no bundle" in said
        assert "--bundle-root" in said
        assert str(tmp_path) not in said


def test_a_missing_layer_is_told_as_such(
    config: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, said = config(config_files=[str(tmp_path / "none.json")])
    assert code == EXIT_FAILED
    assert said.startswith("R02 a config on top of inference.json cannot be read (No such file")
    assert str(tmp_path) not in said


def test_an_output_that_cannot_be_written_is_still_r01(
    command: Callable[..., tuple[int, str]],
    config: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".locks").touch()
    for code, said in (command(), config()):
        assert code == EXIT_FAILED
        assert "R01 the batch could not go on (File exists)" in said
        assert str(tmp_path) not in said


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
        monkeypatch.setattr(f"spider_bundle.batch.runner.{place}_batch", end)
    code, said = command(*options)
    assert code == EXIT_FAILED
    assert "R02 the batch failed unexpectedly (ZeroDivisionError)" in said
    assert PLANTED not in said
    assert "Traceback" not in said


def test_the_unexpected_is_shown_to_who_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIDER_DEBUG", "1")
    assert early_end(KeyError(PLANTED)).exit_code == EXIT_FAILED
    assert f"KeyError: '{PLANTED}'" in capsys.readouterr().err
    # what is told already needs no more
    early_end(BatchError(BatchCode.R08))
    assert capsys.readouterr().err == ""


def test_the_unexpected_ends_a_config_too(
    config: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(options: object) -> Outcome:
        raise ZeroDivisionError(PLANTED)

    monkeypatch.setattr("spider_bundle.batch.ending.run_batch", end)
    code, said = config()
    assert code == EXIT_FAILED
    assert said.startswith("R02 the batch failed unexpectedly (ZeroDivisionError)")
    assert PLANTED not in said


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"dataset_dir": "absent"}, "the input does not exist"),
        ({"shape": 0}, "shape must be positive"),
        ({"shape": "many"}, "not supported"),
        ({"watch": True, "dry_run": True}, "a dry run does not watch"),
        ({"cluster": "nowhere"}, "HOST:PORT"),
        ({"key_file": "absent"}, "K01 "),
        ({"profile": "absent"}, "S01 "),
    ],
)
def test_wrong_use_of_a_config_is_told(
    values: dict[str, Any], reason: str, config: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, said = config(**values)
    assert code == EXIT_USAGE
    assert reason in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_wrong_use() -> None:
    end = early_end(MissingExtraError(BatchCode.R03, "it needs ray"))
    assert (end.message[:16], end.exit_code) == ("R03 it needs ray", EXIT_USAGE)


def test_a_config_still_ends_with_the_code_of_its_outcome(
    config: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert config(dataset_dir=str(tmp_path / "empty")) == (EXIT_REFUSED, "")
    assert config(dry_run=True) == (0, "")


def test_a_config_can_name_a_cluster(spool: Callable[..., Path], bundle_root: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / "batch.json"),
        meta_file=None,
        logging_file=False,
        dataset_dir=str(spool(1)),
        cluster="127.0.0.1:6379",
    )
    workflow.initialize()
    options = workflow.parser.get_parsed_content("options")
    assert options.cluster == ClusterOptions("127.0.0.1:6379")
    shipped = json.loads((bundle_root / "configs" / "batch.json").read_text(encoding="utf-8"))
    assert shipped["cluster"] is None


def test_a_share_that_is_gone_is_told_without_its_path(tmp_path: Path) -> None:
    source = tmp_path / "DOE_JANE"
    source.mkdir()
    options = BatchOptions(source, tmp_path / "out", config={"overrides": {"sod": 1000}})
    source.rmdir()
    end = early_end(OSError(errno.ESTALE, "Stale file handle", str(source)), options)
    assert end.exit_code == EXIT_FAILED
    assert end.message.startswith("R01 the batch could not go on (Stale file handle)")
    assert "DOE" not in end.message
