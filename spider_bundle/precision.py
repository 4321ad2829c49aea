"""Where reduced precision pays: bfloat16 autocast on GPUs and on CPUs with bfloat16 units."""

from __future__ import annotations

import torch


def autocast(device: torch.device | str, precision: str = "auto") -> torch.autocast:
    """Autocast context for a device.

    Args:
        device: Where the network runs.
        precision: ``float32``, ``bfloat16`` or ``auto``: bfloat16 on CUDA devices and CPUs that
            compute in it natively.

    Raises:
        ValueError: Unknown precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
    kind = torch.device(device).type
    reduced = precision == "bfloat16" or (precision == "auto" and has_bfloat16(kind))
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=reduced)


def has_bfloat16(device_type: str) -> bool:
    """Whether a device type (``cpu``, ``cuda``) multiplies bfloat16 natively."""
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return False
