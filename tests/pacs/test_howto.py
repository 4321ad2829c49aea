"""The page about PACS says what the commands do."""

from __future__ import annotations

from spider_bundle.cli import EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE
from tests.test_docs import first_table, options_of, section, spider_options

PAGE = "howto_pacs.md"


def test_options_codes_and_exit_codes_are_those_of_the_commands() -> None:
    for heading, command, arguments in (
        ("## Receive", "listen", {"spool"}),
        ("## Send", "send", {"results"}),
    ):
        rows = first_table(section(PAGE, heading))
        described = {option for row in rows for option in options_of(row[0])}
        assert described == spider_options(command) - arguments - {"help"}
    text = section(PAGE, "## Send")
    exits = [int(row[0]) for row in first_table(text[text.index("| exit code") :])]
    assert exits == [0, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED]
