"""Pseudonyms stay what they are: folders of earlier runs are named by them."""

from __future__ import annotations

import pytest

from spider_bundle.pseudonym import pseudonym


@pytest.mark.parametrize(
    ("key", "text", "start"),
    [
        # printf %s TEXT | openssl dgst -sha256 -hmac KEY
        ("key", "1.2.3", "fdd9cca0781e88dd"),
        ("spider-bundle", "patient:Doe^Jane", "55a9d0efe5625eac"),
        ("key", "\udce9", "4fe16ae8a0f93f46"),  # as its escape \udce9
    ],
)
def test_a_pseudonym_is_the_keyed_hash_of_the_text(key: str, text: str, start: str) -> None:
    assert pseudonym(key, text)[:16] == start
