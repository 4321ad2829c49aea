"""Errors with a code say what to do, and survive the way between processes."""

from __future__ import annotations

import pickle

import pytest

from spider_bundle.batch.codes import BATCH_CODES, BatchCode, BatchError
from spider_bundle.codes import CodedError
from spider_bundle.pacs.codes import PACS_CODES, PacsCode, PacsError


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (BatchError(BatchCode.R09), BATCH_CODES[BatchCode.R09].action),
        (BatchError(BatchCode.R11, "a node has not the same: torch"), "install the same versions"),
        (PacsError(PacsCode.N02, "nobody answers"), PACS_CODES[PacsCode.N02].action),
    ],
)
def test_an_error_tells_code_and_action_in_any_process(error: CodedError, action: str) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error)
    assert (there.code, there.message) == (error.code, error.message)
    assert str(there) == str(error)
    assert str(error).startswith(f"{error.code.value} {error.message}. To do: {action}")
