"""Manifest, audit log, keys and profiles: what is written stays, and what is wrong is told."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from spider_bundle.batch.profile import read_profile
from spider_bundle.batch.records import (
    MANIFEST_FILE,
    AuditLog,
    Entry,
    Manifest,
    State,
    append_line,
    log_damage,
    read_lines,
)
from spider_bundle.errors import Code, SpiderError, finding
from spider_bundle.outputs.html_report import IndexEntry, write_index
from spider_bundle.pseudonym import create_key_file, read_key_file
from tests.fuzzed import fuzzed_line


def test_lines_are_appended_and_torn_ones_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_lines(path) == ([], [])
    append_line(path, {"n": 1})
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        append_line(path, {"n": 2})
        records, damaged = read_lines(path)
        # a line cut just before its end is whole
        complete = cut == len(whole) - 1
        assert records == [{"n": 1}, *([{"n": 1}] if complete else []), {"n": 2}]
        assert damaged == ([] if complete else [2])
        assert path.read_bytes().startswith(whole + whole[:cut])


def test_last_line_of_a_study_counts(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    refused = Entry("a", State.REFUSED, "f", ["E06"])
    for entry in (refused, refused, Entry("b", State.FAILED, "f", ["R04"])):
        manifest.add(entry)
    manifest.add(Entry("a", State.DONE, "g", seconds={"read": 0.12345}))
    manifest.add(Entry("b", State.FAILED, "f", ["R04"]))
    records, _ = read_lines(tmp_path / MANIFEST_FILE)
    assert [(r["study_key"], r["state"]) for r in records] == [
        *(("a", "refused"), ("b", "failed")),
        *(("a", "done"), ("b", "failed")),
    ]
    with (tmp_path / MANIFEST_FILE).open("ab") as stream:
        stream.write(b'{"study_key": "c", "state": "unheard"}\n[]\n')
    read = Manifest(tmp_path)
    assert read.damaged == [5, 6]
    assert {k: e.state.value for k, e in read.entries.items()} == {"a": "done", "b": "failed"}
    assert read.entries["a"].seconds == {"read": 0.123}


WHOLE = Entry("b", State.DONE, "f", ["E22"], seconds={"read": 0.5}).record()
DAMAGE = {
    "no JSON": b"{",
    "no text": b"\xff\xfe{}",
    "no object": b'["a"]',
    "empty": b"{}",
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "deep object": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "long number": b'{"study_key": ' + b"9" * 5000 + b"}",
    "long line": b'{"study_key": "' + b"a" * (20 << 20) + b'"}',
    "unknown field": {**WHOLE, "more": 1},
    "key": {**WHOLE, "study_key": ["a"]},
    "key that leads elsewhere": {**WHOLE, "study_key": "../elsewhere"},
    "key with NUL": {**WHOLE, "study_key": "a\0"},
    "key with line feed": {**WHOLE, "study_key": "a\n"},
    "key with half a pair": {**WHOLE, "study_key": "\ud800"},
    "state": {**WHOLE, "state": {"a": 1}},
    "unknown state": {**WHOLE, "state": "unheard"},
    "times": {**WHOLE, "seconds": "x"},
    "endless time": {**WHOLE, "seconds": {"read": float("inf")}},
    "great time": {**WHOLE, "seconds": {"read": 10**400}},
    "codes": {**WHOLE, "codes": 5},
    "findings": {**WHOLE, "findings": [1]},
    "finding": {**WHOLE, "findings": [{"code": {"deep": []}}]},
    "run": {**WHOLE, "run": "first"},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_line_is_named_and_concerns_no_other(
    damage: bytes | dict[str, Any], tmp_path: Path
) -> None:
    line = damage if isinstance(damage, bytes) else json.dumps(damage).encode()
    whole = json.dumps(WHOLE).encode()
    (tmp_path / MANIFEST_FILE).write_bytes(whole + b"\n" + line + b"\n\n" + whole + b"\n")
    manifest = Manifest(tmp_path)
    assert manifest.damaged == [2]
    assert {key: entry.record() for key, entry in manifest.entries.items()} == {"b": WHOLE}


def test_numbers_of_damaged_lines_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    log_damage("a.jsonl", [])
    assert not caplog.messages
    log_damage("a.jsonl", range(2, 15))
    (message,) = caplog.messages
    assert message.endswith(
        "a.jsonl: passed over damaged lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more"
    )


def test_whatever_is_in_a_manifest_the_rest_is_read_and_shown(tmp_path: Path) -> None:
    generator = random.Random(13)
    done = json.dumps(WHOLE).encode()
    refused = Entry("c", State.REFUSED, "f", ["E06"], [finding(Code.NOT_A_PAIR).facts()]).record()
    lines = [fuzzed_line(generator, generator.choice([WHOLE, refused])) for _ in range(4000)]
    (tmp_path / MANIFEST_FILE).write_bytes(b"\n".join([*lines, b"", done, b""]))
    manifest = Manifest(tmp_path)
    assert manifest.entries["b"].record() == WHOLE
    assert 1000 < len(manifest.damaged) < len(lines)
    # all that was read can be written again and shown
    for entry in manifest.entries.values():
        append_line(tmp_path / "again.jsonl", entry.record())
    assert Manifest(tmp_path).entries == manifest.entries
    write_index(
        tmp_path,
        [IndexEntry(e.study_key, e.state.value, e.findings) for e in manifest.entries.values()],
    )
    for key in manifest.entries:
        assert (tmp_path / key).parent == tmp_path


def test_whatever_lies_beside_an_audit_log_the_next_run_has_one(tmp_path: Path) -> None:
    logs = tmp_path / "audit"
    logs.mkdir()
    names = [
        "run-000003.jsonl",
        "run-.jsonl",
        "run-\u0663.jsonl",
        f"run-{'9' * 200}.jsonl",
        "run-4",
    ]
    for name in names:
        (logs / name).write_bytes(DAMAGE["deep"])
    (logs / "run-000007.jsonl").mkdir()
    audit = AuditLog(tmp_path, {})
    assert audit.run == 8
    audit.event("R06")
    assert len(read_lines(logs / "run-000008.jsonl")[0]) == 2


def test_each_run_has_a_log_of_its_own(tmp_path: Path) -> None:
    assert [AuditLog(tmp_path, {}).run for _ in range(3)] == [1, 2, 3]
    names = sorted(path.name for path in (tmp_path / "audit").iterdir())
    assert names == [f"run-00000{number}.jsonl" for number in (1, 2, 3)]


def test_key_file_is_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = read_key_file(path)
    assert len(key) == 64
    create_key_file(path)
    assert read_key_file(path) == key
    path.chmod(0o640)
    with pytest.raises(SpiderError, match="K01 the key file does not exist"):
        read_key_file(tmp_path / "absent")
    with pytest.raises(SpiderError, match="K01 others may read"):
        read_key_file(path)
    os.chmod(path, 0o600)
    path.write_text("short\n")
    with pytest.raises(SpiderError, match="K01 the key has fewer"):
        read_key_file(path)


RULE: dict[str, Any] = {"match": {"Modality": "DX"}, "overrides": {"sod": 1000}}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "not readable"),
        ("[]", "valid dictionary"),
        ({"rules": []}, "version"),
        ({"version": 1, "rules": [], "more": 1}, "more"),
        ({"version": 1, "rules": "none"}, "list"),
        ({"version": 1, "rules": [{"match": {}}]}, "rule 1"),
        ({"version": 1, "rules": [RULE, {**RULE, "match": {"PatientName": "*"}}]}, "rule 2"),
        ({"version": 1, "rules": [{**RULE, "overrides": {"sod": -1}}]}, "positive"),
        ({"version": 1, "rules": [{**RULE, "overrides": {"sad": 1}}]}, "unknown overrides"),
        ({"version": 1, "rules": [{**RULE, "overrides": {"view": "XX"}}]}, "rule 1"),
        ({"version": 1, "rules": [{**RULE, "overrides": {"frame": 1.5}}]}, "override frame must"),
        ({"version": 1, "rules": [{**RULE, "overrides": {"lateral": 5}}]}, "lateral must be a map"),
        (
            {"version": 1, "rules": [{**RULE, "overrides": {"frontal": {"dense_is_high": "no"}}}]},
            "rule 1.overrides: override frontal.dense_is_high must be true or false",
        ),
        (
            {"version": 1, "rules": [{**RULE, "overrides": {"allow_secondary_capture": True}}]},
            "allow_secondary_capture",
        ),
    ],
)
def test_wrong_profiles_are_told(content: Any, word: str, tmp_path: Path) -> None:
    path = tmp_path / "site.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SpiderError, match=f"S01.*{word}"):
        read_profile(path)


def test_first_rule_that_fits_both_radiographs_holds(tmp_path: Path) -> None:
    path = tmp_path / "site.json"
    rules = [
        {"match": {"Manufacturer": "Acme", "Modality": "DX"}, "overrides": {"sod": 1}},
        {"match": {"Manufacturer": "a*"}, "overrides": {"sod": 2}},
        {"match": {}, "overrides": {"sod": 3}},
    ]
    path.write_text(json.dumps({"version": 1, "rules": rules}))
    profile = read_profile(path)
    acme, other = {"Manufacturer": "ACME", "Modality": "DX"}, {"Manufacturer": "ALPHA"}
    assert profile.rule_for(acme, acme) == (1, {"sod": 1})
    assert profile.rule_for(acme, other) == (2, {"sod": 2})
    assert profile.rule_for(acme, {}) == (3, {"sod": 3})
