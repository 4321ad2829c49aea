"""Write the tables of codes into the pages: ``python docs/tables.py``, run by ``make docs``.

A table stands between ``<!-- codes FAMILIES -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from spider_bundle.errors import CODES, Code, Info

DOCS = Path(__file__).resolve().parent
PAGES = ("howto_batch.md", "howto_pacs.md")

_TABLE = re.compile(r"(<!-- codes ([A-Z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(text: str) -> str:
    """Return a page with its tables as :data:`~spider_bundle.errors.CODES` has them."""
    return _TABLE.sub(lambda found: found[1] + _table(found[2]) + found[3], text)


def _table(families: str) -> str:
    infos = [(code, info) for code, info in CODES.items() if code[0] in families]
    rows = _radiograph_rows(infos) if families == "E" else _rows(infos)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _radiograph_rows(infos: Sequence[tuple[Code, Info]]) -> Iterator[Sequence[str]]:
    yield "code", "severity", "condition", "attribute", "what to do"
    yield ["---"] * 5
    for code, info in infos:
        yield code, info.severity, info.condition, info.attribute or "", info.action


def _rows(infos: Sequence[tuple[Code, Info]]) -> Iterator[Sequence[str]]:
    yield "code", "condition", "what to do"
    yield ["---"] * 3
    for code, info in infos:
        yield code, info.condition, info.action


def main() -> None:
    """Update all pages."""
    for name in PAGES:
        path = DOCS / name
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
