"""What a report says of the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from jobs.benchmarks.machine import described, machine

X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx avx512f avx512_bf16x\n\nprocessor\t: 1\nflags\t\t: amx_bf16\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\nCPU part\t: 0xd49\n"


def test_model_and_wide_instructions_of_the_first_processor() -> None:
    assert described(X86) == "Some CPU @ 2 GHz, avx2 avx512f"
    assert described(ARM) == "asimd bf16"
    assert described("") == ""


def test_the_architecture_where_nothing_more_is_told(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    assert machine(told)["processor"] == platform.machine()
    told.write_text("processor\t: 0\n")
    assert machine(told)["processor"] == platform.machine()
    told.write_text(X86)
    assert machine(told) == {
        "processor": "Some CPU @ 2 GHz, avx2 avx512f",
        "cpus": os.cpu_count(),
        "system": platform.platform(terse=True),
    }
