"""What a benchmark's figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

WIDE = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "sve",
    "bf16",
)  # Linux's names of instructions that products profit from


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """processor, cpus and system; cpuinfo: where Linux describes processors, elsewhere only the architecture is told."""
    processor = described(cpuinfo.read_text()) if cpuinfo.is_file() else ""
    return {"processor": processor or platform.machine(), "cpus": os.cpu_count(), "system": platform.platform(terse=True)}


def described(cpuinfo: str) -> str:
    """The first processor's model and its wide instructions, as far as they are told."""
    lines = [line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines()]
    told = {name.strip(): value.strip() for name, _, value in lines}
    flags = (told.get("flags") or told.get("Features", "")).split()
    return ", ".join(filter(None, [told.get("model name", ""), " ".join(f for f in WIDE if f in flags)]))
