"""Autocast to bfloat16 where that is faster: on GPUs, and on CPUs with matrix units (AMX)."""

from __future__ import annotations

import torch


def autocast(device: torch.device | str, precision: str = "auto") -> torch.autocast:
    """Autocast context for a device.

    Args:
        device: Where the network runs.
        precision: ``float32``, ``bfloat16`` or ``auto``: bfloat16 where
            :func:`has_fast_bfloat16` says so, float32 elsewhere.

    Raises:
        ValueError: Unknown precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
    kind = torch.device(device).type
    reduced = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(kind))
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=reduced)


def has_fast_bfloat16(device_type: str) -> bool:
    """Return whether bfloat16 products are faster than float32 on a device type.

    On CPUs that takes AMX: AVX-512's bfloat16 instructions alone are slower than float32. The
    answer depends on the processor only, so ``auto`` is deterministic on each machine.

    Args:
        device_type: ``cpu``, ``cuda`` or another type of :class:`torch.device`.
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return False
