"""The bugs of :mod:`benchmarks.planted_bugs` can be planted."""

import pytest

from benchmarks.planted_bugs import BUGS, Bug, with_bug
from spider_bundle.bundle import bundle_root


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_text_to_replace_is_there_once_and_the_tests_exist(bug: Bug) -> None:
    text = (bundle_root() / "spider_bundle" / bug.module).read_text(encoding="utf-8")
    assert with_bug(bug, text) != text
    assert all((bundle_root() / test).exists() for test in bug.tests.split())


def test_a_text_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="2 places"):
        with_bug(Bug("b", "m.py", "x", "y", "tests"), "x x")
