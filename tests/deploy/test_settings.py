"""Settings, model folder and pins of the MONAI Deploy application; none of it needs the SDK."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from spider_bundle import __version__
from spider_bundle.deploy.settings import CONFIG_VARIABLE, Settings, find_bundle, read_settings

#: Older than ours in Deploy's environment: tritonclient and the packager ask for that.
OLDER = {"protobuf", "packaging", "ml_dtypes"}


def test_shipped_settings_are_the_defaults(
    bundle_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    assert read_settings() == Settings()
    path = bundle_root / "spider_bundle" / "deploy" / "app.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(content) == {"application", "resources", "reconstruction"}
    assert content["application"]["version"] == __version__


def test_container_names_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("reconstruction: {spacing: 1.0, overrides: {sod: 990}}\n", encoding="utf-8")
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    assert read_settings() == Settings(spacing=1.0, overrides={"sod": 990})
    path.write_text("reconstruction:\n  device:\n  overrides:\n  shape: 64\n", encoding="utf-8")
    assert read_settings() == Settings(shape=64)
    path.write_text("application: {title: another}\n", encoding="utf-8")
    assert read_settings() == Settings()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("reconstruction: {spacin: 1.0}\n", "spacin"),
        ("reconstruction: {spacing: 0}\n", "spacing: Input should be greater than 0"),
        ("reconstruction: {shape: Doe}\n", "shape: Input should be a valid integer"),
        ("reconstruction: [1\n", "no YAML"),
        ("reconstruction: [1]\n", "no mapping"),
        ("- 1\n", "no mapping"),
    ],
)
def test_wrong_settings_are_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=why) as caught:
        read_settings(path)
    assert "Doe" not in str(caught.value)


def test_bundle_is_found_in_the_model_folder(bundle_root: Path, tmp_path: Path) -> None:
    assert find_bundle(bundle_root) == bundle_root
    with pytest.raises(FileNotFoundError, match="0 bundles"):
        find_bundle(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(bundle_root / "configs", tmp_path / "models" / name / "configs")
        if name == "one":
            assert find_bundle(tmp_path / "models") == tmp_path / "models" / "one"
    with pytest.raises(FileNotFoundError, match="2 bundles"):
        find_bundle(tmp_path / "models")


def pins(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {
        name.lower().replace("-", "_"): version
        for name, _, version in (line.partition("==") for line in lines if not line.startswith("#"))
    }


def test_pins_are_ours_where_they_can_be(bundle_root: Path) -> None:
    theirs = pins(bundle_root / "spider_bundle" / "deploy" / "requirements.txt")
    ours = pins(bundle_root / "constraints.txt")
    differ = {name for name in set(theirs) & set(ours) if theirs[name] != ours[name]}
    assert differ <= OLDER
    assert all(theirs.values())
    # the last version that can package; the next one dropped it
    assert theirs["holoscan_cli"] == "4.2.0"
    assert theirs["monai_deploy_app_sdk"].startswith("4.")
