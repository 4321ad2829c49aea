"""The table of codes is complete; findings and errors take their parts from it."""

from __future__ import annotations

import pickle
import re

import pytest
from pydantic import BaseModel, Field, ValidationError

from spider_bundle.errors import (
    CODES,
    Code,
    Severity,
    SpiderError,
    finding,
    line,
    root_cause,
    validation_message,
)

WARNINGS = {"E07", "E13", "E15", "E17", "E18", "E20", "E21", "E22", "R12"}
FAMILIES = {"E": 34, "A": 6, "K": 1, "R": 13, "S": 2, "M": 4, "N": 14, "P": 14}
RETIRED = {"A03"}  # never to be used again


def test_all_codes_are_described() -> None:
    wanted = [f"{family}{n:02d}" for family, last in FAMILIES.items() for n in range(1, last + 1)]
    assert [code.value for code in Code] == [code for code in wanted if code not in RETIRED]
    assert list(CODES) == list(Code)
    assert not [code.name for code in Code if re.fullmatch(r"[A-Z]\d\d", code.name)]
    assert {c.value for c, i in CODES.items() if i.severity is Severity.WARNING} == WARNINGS
    for code, info in CODES.items():
        assert info.condition
        assert info.action
        assert not info.condition.endswith(".")
        assert not info.action.endswith(".")
        assert bool(info.attribute) is code.startswith("E")


def test_a_finding_takes_from_the_table_what_is_not_given() -> None:
    info = CODES[Code.BURNED_IN_TEXT]
    assert finding(Code.BURNED_IN_TEXT, "frontal").facts() == {
        "code": "E17",
        "severity": "warning",
        "message": info.condition,
        "role": "frontal",
        "attribute": "BurnedInAnnotation",
        "action": info.action,
    }
    given = finding(
        Code.FIELD_CUTS_HEAD, "pair", "m", severity=Severity.ERROR, attribute="Rows", action="a"
    )
    assert list(given.facts().values()) == ["E18", "error", "m", "pair", "Rows", "a"]
    assert finding(Code.WORKER_DIED, "batch").facts()["attribute"] is None


def test_an_error_shows_its_errors_and_keeps_its_warnings() -> None:
    found = [
        finding(Code.BURNED_IN_TEXT, "frontal"),
        finding(Code.MISSING_SOD, "frontal", "no distance"),
        finding(Code.NOT_A_PAIR, "pair", "one view"),
    ]
    error = SpiderError(found)
    assert error.findings == tuple(found)
    assert (error.errors, error.code) == (tuple(found[1:]), Code.MISSING_SOD)
    assert str(error).splitlines() == [
        f"E14 (frontal) no distance. To do: {CODES[Code.MISSING_SOD].action}.",
        f"E06 (pair) one view. To do: {CODES[Code.NOT_A_PAIR].action}.",
    ]


def test_an_error_made_from_a_code_is_an_error_whatever_the_usual_severity() -> None:
    error = SpiderError(Code.TIME_GAP, "two days", role="pair", attribute="StudyDate", action="x")
    assert [str(found) for found in error.errors] == ["E07 (pair) two days. To do: x."]
    assert error.errors[0].attribute == "StudyDate"


@pytest.mark.parametrize(
    "error",
    [
        SpiderError(Code.NODE_LACKS_FOLDERS),
        SpiderError(Code.NODE_DIFFERS, "a node has not the same: torch", action="install"),
        SpiderError([finding(Code.MISSING_SOD, "lateral"), finding(Code.LOSSY_COMPRESSION)]),
    ],
)
def test_an_error_is_the_same_in_any_process(error: SpiderError) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error)
    assert (there.findings, there.detail, str(there)) == (error.findings, error.detail, str(error))


def test_a_line_names_code_role_message_and_action() -> None:
    info = CODES[Code.NO_DISK_SPACE]
    assert line(Code.NO_DISK_SPACE) == f"R06 {info.condition}. To do: {info.action}."
    assert line(Code.NO_DISK_SPACE, "m", role="batch", action="a") == "R06 (batch) m. To do: a."


def test_the_root_of_an_error_is_what_others_wrap() -> None:
    root, coded = KeyError("x"), SpiderError(Code.NO_HEAD)
    coded.__cause__ = ValueError("inner")
    for cause in (root, coded):
        outer = RuntimeError("applying a transform")
        outer.__cause__ = cause
        assert root_cause(outer) is cause
    assert root_cause(root) is root


def test_what_is_wrong_with_options_is_told_without_their_values() -> None:
    class Options(BaseModel):
        port: int = Field(ge=0)
        title: str

    with pytest.raises(ValidationError) as caught:
        Options.model_validate({"port": -7357, "title": ["Doe"]})
    message = validation_message(caught.value)
    assert message.startswith("port: Input should be greater than or equal to 0; title: Input")
    assert "Doe" not in message
    assert "7357" not in message
