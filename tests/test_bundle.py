"""Finding the bundle."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

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
