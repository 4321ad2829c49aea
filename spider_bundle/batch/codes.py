"""The stable codes of what can go wrong in a batch beside the radiographs themselves, as data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from spider_bundle.codes import CodedError, CodeInfo


class BatchCode(StrEnum):
    """Codes of inputs (A), keys (K), runs (R) and site profiles (S); see :data:`BATCH_CODES`."""

    A01 = "A01"
    A02 = "A02"
    A03 = "A03"
    A04 = "A04"
    A05 = "A05"
    A06 = "A06"
    K01 = "K01"
    R01 = "R01"
    R02 = "R02"
    R04 = "R04"
    R05 = "R05"
    R06 = "R06"
    R07 = "R07"
    R08 = "R08"
    R09 = "R09"
    R10 = "R10"
    R11 = "R11"
    S01 = "S01"


BATCH_CODES: Mapping[BatchCode, CodeInfo] = MappingProxyType(
    {
        BatchCode.A01: CodeInfo(
            "a zip archive cannot be read: damaged or encrypted",
            "send it again, without a password",
        ),
        BatchCode.A02: CodeInfo(
            "a zip archive exceeds the limits on members, size or compression",
            "unpack it yourself if you trust it, and put the files into the input folder",
        ),
        BatchCode.A03: CodeInfo(
            "a DICOMDIR cannot be read, or names files that are not there",
            "copy the whole medium again, or name its folder instead of the DICOMDIR",
        ),
        BatchCode.A04: CodeInfo(
            "a file took too long to examine, or the process that examined it died or failed",
            "keep the file aside and report it; send the study again without it",
        ),
        BatchCode.A05: CodeInfo(
            "a file or folder of the input cannot be read",
            "give the user of the batch the right to read it, see to the disk or mount, and run "
            "again",
        ),
        BatchCode.A06: CodeInfo(
            "there is no room to unpack a zip archive",
            "make space on the disk of the output folder and run again",
        ),
        BatchCode.K01: CodeInfo(
            "the key file is absent, too short, or readable by others",
            "create it with --create-key-file, or chmod 600 it",
        ),
        BatchCode.R01: CodeInfo(
            "a result could not be written",
            "see to the space and the rights of the output folder and run again",
        ),
        BatchCode.R02: CodeInfo(
            "the worker process could not start, or the run failed unexpectedly",
            "check weights and device; run again with SPIDER_DEBUG=1 to see where, the details may "
            "name files",
        ),
        BatchCode.R04: CodeInfo(
            "the worker process died while it had this study alone",
            "keep the study aside and report it; check the memory of the machine",
        ),
        BatchCode.R05: CodeInfo(
            "the study took longer than the time limit",
            "raise --time-limit, or keep the study aside and report it",
        ),
        BatchCode.R06: CodeInfo(
            "the disk of the output folder is nearly full; the batch stopped before the next study",
            "make space and run again; what is done stays",
        ),
        BatchCode.R07: CodeInfo(
            "the study failed unexpectedly",
            "run again; if it fails again, run with SPIDER_DEBUG=1 to see where, the details may "
            "name files",
        ),
        BatchCode.R08: CodeInfo(
            "another batch is working in this output folder",
            "wait for it to end, or name another output folder",
        ),
        BatchCode.R09: CodeInfo(
            "a node of the cluster does not see the input folder or cannot write to the output "
            "folder",
            "mount both under the same paths and for the same user on all nodes, and run again",
        ),
        BatchCode.R10: CodeInfo(
            "the cluster cannot be reached, or has no room for a worker",
            "run `ray status` on this machine: it must answer, and show as many free CPUs and GPUs "
            "as a worker asks for",
        ),
        BatchCode.R11: CodeInfo(
            "a node of the cluster has other software, weights or configs than this machine",
            "install the same versions and files under the same paths on all nodes",
        ),
        BatchCode.S01: CodeInfo(
            "the profile, or the overrides of a config, are not valid",
            "correct the named entry",
        ),
    }
)


def batch_facts(code: BatchCode, message: str = "") -> dict[str, str | None]:
    """A code of the batch as plain values, like those of a radiograph's finding."""
    info = BATCH_CODES[code]
    return {
        "code": code.value,
        "severity": "error",
        "message": message or info.condition,
        "role": "batch",
        "attribute": None,
        "action": info.action,
    }


class BatchError(CodedError):
    """A batch that cannot start or go on, see :class:`~spider_bundle.codes.CodedError`."""

    table = BATCH_CODES
    code: BatchCode
