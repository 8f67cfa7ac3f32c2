"""Resident memory of this process, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path

from fashion_dml.storage import UserError


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (the most since the start, or since `forget_peak`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise UserError(f"This system doesn't tell {field}.")


def forget_peak() -> None:
    """VmHWM counts anew from here."""
    Path("/proc/self/clear_refs").write_text("5")
