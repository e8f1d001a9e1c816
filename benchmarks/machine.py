"""Facts about the machine that figures mean nothing without. No host name, no user, no path."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.measure import Bench, in_turn

MODELS = """
from pydantic import BaseModel
class A(BaseModel): a: int = 0
class B(BaseModel): b: str = ''
class C(BaseModel): c: A = A()
class D(BaseModel): d: list[B] = []
class E(BaseModel): e: dict[str, C] = {}
class F(BaseModel): f: tuple[D, ...] = ()
class G(BaseModel): g: E = E()
class H(BaseModel): h: G = G()
"""
REFERENCE_MODELS_SECONDS = 0.125
"""An interpreter that imports pydantic and makes eight small models, where the limits were set."""


def facts() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "git": _first_line("git", "--version").removeprefix("git version "),
    }


def load() -> list[float]:
    """Load averages of 1, 5 and 15 minutes."""
    return [round(one, 2) for one in os.getloadavg()]


def slowdown(bench: Bench) -> float:
    """How many times slower than where the limits were set this machine is now, for work like a command's start."""
    bench.python("-c", MODELS)
    (models,) = in_turn(bench.runs, lambda: bench.python("-c", MODELS))
    return models.cpu / REFERENCE_MODELS_SECONDS


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.splitlines()[0]
