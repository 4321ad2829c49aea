"""Findings and errors that carry a stable code, and the one line that shows them.

Messages are shown to operators and written to reports. They never hold a name, an identifier, a
date, a path or a UID; numbers and names of views are fine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from pydantic import ValidationError

from spider_bundle.codes import CODES, Code, Info, Severity

__all__ = [
    "CODES",
    "Code",
    "Finding",
    "Info",
    "Severity",
    "SpiderError",
    "StudyError",
    "finding",
    "line",
    "root_cause",
    "validation_message",
]


@dataclass(frozen=True)
class Finding:
    """One thing found about a radiograph, a pair, a file or a run; made by :func:`finding`.

    Attributes:
        code: Stable code.
        severity: Error or warning.
        message: What was found, without identities, paths or UIDs.
        role: ``frontal``, ``lateral``, ``pair``, ``radiograph`` if the view is not known,
            ``batch``, or empty.
        attribute: DICOM keyword of the attribute concerned, if there is one.
        action: What the operator can do.
    """

    code: Code
    severity: Severity
    message: str
    role: str
    attribute: str | None
    action: str

    def facts(self) -> dict[str, str | None]:
        """Return the finding as plain values, as manifests and reports hold it."""
        return asdict(self) | {"code": self.code.value, "severity": self.severity.value}

    def __str__(self) -> str:
        return line(self.code, self.message, role=self.role, action=self.action)


def finding(
    code: Code,
    role: str = "",
    message: str = "",
    *,
    severity: Severity | None = None,
    attribute: str | None = None,
    action: str | None = None,
) -> Finding:
    """Return a finding; what is not given comes from :data:`CODES`."""
    info = CODES[code]
    return Finding(
        code,
        severity or info.severity,
        message or info.condition,
        role,
        attribute or info.attribute,
        action or info.action,
    )


def line(code: Code, message: str = "", *, role: str = "", action: str = "") -> str:
    """Return "CODE (role) message. To do: action."; what is not given comes from :data:`CODES`."""
    info = CODES[code]
    where = f" ({role})" if role else ""
    return f"{code.value}{where} {message or info.condition}. To do: {action or info.action}."


class SpiderError(Exception):
    """Something that cannot be used, start or go on; can be pickled.

    Attributes:
        findings: All findings made until then; at least one is an error.
        detail: What is wrong beyond the condition of the code, without identities; may be empty.
    """

    def __init__(
        self,
        cause: Code | Iterable[Finding],
        detail: str = "",
        *,
        role: str = "",
        attribute: str | None = None,
        action: str | None = None,
    ) -> None:
        """Make an error.

        Args:
            cause: All findings, or a code; the other arguments are for a code.
            detail: Message in place of the condition.
            role: See :class:`Finding`.
            attribute: DICOM keyword in place of the usual one.
            action: What the operator can do, in place of the usual action.
        """
        if isinstance(cause, Code):
            severity = Severity.ERROR
            cause = [
                finding(cause, role, detail, severity=severity, attribute=attribute, action=action)
            ]
        self.findings = tuple(cause)
        self.detail = detail
        super().__init__(self.findings, detail)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that are errors."""
        return tuple(found for found in self.findings if found.severity is Severity.ERROR)

    @property
    def code(self) -> Code:
        """Code of the first error."""
        return self.errors[0].code

    @property
    def message(self) -> str:
        """Message of the first error, without code and action."""
        return self.errors[0].message

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


class StudyError(RuntimeError):
    """The study folder cannot be written; the message says why and names no path."""


def validation_message(error: ValidationError) -> str:
    """Return what pydantic found wrong as "name: reason; name: reason", without the values."""
    reasons = []
    for entry in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(map(str, entry["loc"]))
        reason = entry["msg"].removeprefix("Value error, ")
        reasons.append(f"{name}: {reason}" if name else reason)
    return "; ".join(reasons)


def root_cause(error: BaseException) -> BaseException:
    """Return the error that others wrap, as MONAI's ``Compose`` does with those of transforms."""
    while not isinstance(error, SpiderError) and error.__cause__ is not None:
        error = error.__cause__
    return error
