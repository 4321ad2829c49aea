"""The table of codes is complete and findings take their defaults from it."""

from __future__ import annotations

from spider_bundle.dicom.errors import CODES, Code, RadiographError, Severity, finding

WARNINGS = {"E07", "E13", "E15", "E17", "E18", "E20", "E21", "E22"}


def test_all_codes_are_described() -> None:
    assert [code.value for code in Code] == [f"E{n:02d}" for n in range(1, 25)]
    assert set(CODES) == set(Code)
    assert {c.value for c, i in CODES.items() if i.severity is Severity.WARNING} == WARNINGS
    assert all(i.condition and i.action and i.attribute for i in CODES.values())


def test_limits_of_the_specification() -> None:
    assert dict(CODES[Code.E11].limits) == {"minimum_mm": 500, "maximum_mm": 4500}
    assert CODES[Code.E12].limits["maximum_mm"] == 2
    assert CODES[Code.E07].limits["warning_minutes"] == 30
    assert CODES[Code.E19].limits["tolerance_degrees"] == 10


def test_an_error_shows_its_errors_and_keeps_its_warnings() -> None:
    found = [finding(Code.E17, "frontal"), finding(Code.E14, "frontal", "no distance")]
    error = RadiographError(found)
    assert error.findings == tuple(found)
    assert [f.code for f in error.errors] == [Code.E14]
    assert str(error) == f"E14 error (frontal): no distance. To do: {CODES[Code.E14].action}."
