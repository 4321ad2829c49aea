"""Whoever names a module by its place in an earlier release is told the new one."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from spider_bundle.moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_leads_to_a_module_that_exists(old: str, new: str) -> None:
    with pytest.raises(ImportError, match=re.escape(f"{old} is {new} since")):
        importlib.import_module(old)
    assert importlib.util.find_spec(new) is not None


def test_a_config_with_an_old_target_fails_with_the_new_name() -> None:
    target = "spider_bundle.radiographs.transforms.BiplanarRadiographsd"
    parser = ConfigParser({"loader": {"_target_": target, "keys": "image"}})
    with pytest.raises(Exception, match=r"spider_bundle\.radiographs is spider_bundle\.dicom"):
        parser.get_parsed_content("loader")


def test_the_changelog_lists_all(bundle_root: Path) -> None:
    changes = (bundle_root / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in MOVED.items():
        assert f"| `{old}` | `{new}` |" in changes
