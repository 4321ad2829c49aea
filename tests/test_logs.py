"""What libraries print is dropped where it may quote somebody, and only there."""

from __future__ import annotations

import logging
import warnings

import pytest

from spider_bundle.logs import debug, is_debugging, silenced, silent_pydicom


def test_a_silenced_logger_and_those_below_it_say_nothing_until_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger, child = logging.getLogger("library"), logging.getLogger("library.part")
    with silenced("library"):
        logger.critical("Doe")
        child.critical("Doe")
        logging.getLogger("other").warning("other")
    child.warning("after")
    with silenced("library", logging.ERROR):
        child.warning("Doe")
        child.error("error")
    assert caplog.messages == ["other", "after", "error"]


def test_pydicom_says_nothing_until_the_last_of_nested_calls_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("pydicom")
    with silent_pydicom():
        with silent_pydicom(), warnings.catch_warnings(record=True) as caught:
            warnings.warn("Doe", stacklevel=1)
            logger.warning("Doe")
        logger.warning("Doe")
    logger.warning("after")
    assert caplog.messages == ["after"]
    assert not caught


def test_errors_are_shown_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SPIDER_DEBUG", raising=False)
    debug(ValueError("Doe"))
    assert not is_debugging()
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("SPIDER_DEBUG", "1")
    debug(ValueError("Doe"))
    assert "ValueError: Doe" in capfd.readouterr().err
