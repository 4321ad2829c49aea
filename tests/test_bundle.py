"""Finding the bundle."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from fire.parser import DefaultParseValue
from monai.bundle import create_workflow

from spider_bundle import bundle
from spider_bundle.bundle import config_text, inference_workflow
from spider_bundle.errors import Code, SpiderError
from spider_bundle.exit_status import EXIT_FAILED, EXIT_USAGE


def test_the_clone_is_found(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(bundle.ROOT_VARIABLE, raising=False)
    assert bundle.bundle_root() == bundle_root


def test_named_folder_wins_and_is_not_replaced(
    bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle_root / "configs", tmp_path / "mine" / "configs")
    monkeypatch.setenv(bundle.ROOT_VARIABLE, str(tmp_path / "mine"))
    assert bundle.bundle_root() == tmp_path / "mine"
    assert bundle.bundle_root(bundle_root) == bundle_root
    with pytest.raises(FileNotFoundError):
        bundle.bundle_root(tmp_path)


def test_installation_keeps_it_under_its_prefix(
    bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle_root / "configs", tmp_path / "share" / "spider_bundle" / "configs")
    monkeypatch.delenv(bundle.ROOT_VARIABLE, raising=False)
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "lib" / "spider_bundle" / "bundle.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert bundle.bundle_root() == tmp_path / "share" / "spider_bundle"


def test_user_installation_is_found(
    bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle_root / "configs", tmp_path / "share" / "spider_bundle" / "configs")
    monkeypatch.delenv(bundle.ROOT_VARIABLE, raising=False)
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "lib" / "spider_bundle" / "bundle.py"))
    monkeypatch.setattr(bundle.site, "getuserbase", lambda: str(tmp_path))
    assert bundle.bundle_root() == tmp_path / "share" / "spider_bundle"


@pytest.mark.parametrize(
    "name", ["ward #1", "a@::b", "%::c", 'it\'s $5 # "x" \\#', "@output_dir", "plain"]
)
def test_a_path_of_any_name_reaches_the_config(
    name: str, bundle_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / name
    root.mkdir()
    for part in ("configs", "models"):
        (root / part).symlink_to(bundle_root / part)
    pair = [{"image": {"frontal": config_text(root / "f"), "lateral": config_text(root / "l")}}]
    values = {"output_dir": config_text(root / "out"), "dataset::data": pair}
    content = inference_workflow(values, root).parser.get_parsed_content
    assert content("output_dir") == str(root / "out")
    assert content("weights") == str(root / "models" / "model.pt")
    read = {"frontal": str(root / "f"), "lateral": str(root / "l")}
    assert content("dataset::data") == [{"image": read}]


def test_an_error_with_a_code_ends_a_config_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(code: Code) -> None:
        raise SpiderError(code)

    for code, status in ((Code.NO_HEADS, EXIT_USAGE), (Code.RUN_FAILED, EXIT_FAILED)):
        with pytest.raises(SystemExit) as end:
            bundle.or_exit(refuse, code)
        assert end.value.code == status
        assert caplog.messages[-1].startswith(code.value)
    assert bundle.or_exit(max, 1, 2) == 2


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose only step is the first one of all configs."""
    path = tmp_path / "inference.json"
    content = {
        "imports": [
            "$from spider_bundle.bundle import or_exit",
            "$from spider_bundle.bundle import take_options",
        ],
        **{"bundle_root": ".", "dataset_dir": None, "output_dir": "out", "network": {"size": 1}},
        "derived": "$@output_dir + '/below'",
        "initialize": ["$or_exit(take_options)"],
        "run": [],
    }
    path.write_text(json.dumps(content))
    return path


def run_as_typed(config: Path, monkeypatch: pytest.MonkeyPatch, *options: str, **more: Any) -> Any:
    """Make the workflow as Fire does of a command line ``--NAME TEXT ...``."""
    program = "/site-packages/monai/bundle/__main__.py"
    monkeypatch.setattr(sys, "argv", [program, "run", "--config_file", str(config), *options])
    named = zip(options[::2], options[1::2], strict=True)
    values = {name.lstrip("-").replace("-", "_"): DefaultParseValue(text) for name, text in named}
    return create_workflow(config_file=str(config), logging_file=False, **values, **more)


@pytest.mark.parametrize(
    "name",
    [
        *("20240115", "0012", "12.50", "1e5", "0x10", "2024-01-15", "Doe,Jane", "[ward]", "(a)"),
        *("{a}", "True", "None", "case #1", "a::b", "$HOME", "@run", "a@b", "it's", "%run", "5 %"),
    ],
)
def test_paths_of_monai_bundle_run_are_those_that_were_typed(
    name: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["--dataset_dir", name, "--output-dir", name]
    content = run_as_typed(config, monkeypatch, *typed).parser.get_parsed_content
    assert (content("dataset_dir"), content("output_dir")) == (name, name)
    assert content("derived") == f"{name}/below"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--dataset_dri", "x"), "no option --dataset_dri; did you mean --dataset_dir?"),
        (("--outputdir", "x"), "did you mean --output_dir?"),
        (("--zzz", "x"), "no option --zzz. To do"),
        (("--output_dir", ""), "--output_dir names no path"),
    ],
)
def test_a_wrong_option_of_monai_bundle_run_ends_it(
    options: tuple[str, str],
    told: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(SystemExit) as end:
        run_as_typed(config, monkeypatch, *options)
    assert end.value.code == 2
    assert told in caplog.text


def test_ids_within_a_config_or_of_a_layer_are_no_wrong_options(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_as_typed(config, monkeypatch, "--network#size", "2", "--workflow_type", "infer")


@pytest.mark.parametrize("value", [20240115, True, ("Doe", "Jane")])
def test_a_program_gives_paths_as_text(
    value: Any, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = create_workflow(config_file=str(config), logging_file=False, dataset_dir="case #1")
    assert made.parser.get_parsed_content("dataset_dir") == "case #1"
    with pytest.raises(SystemExit):
        create_workflow(config_file=str(config), logging_file=False, dataset_dir=value)
    assert "R13 --dataset_dir names no path" in caplog.text
