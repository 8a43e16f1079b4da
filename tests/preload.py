"""Functions that are loaded before libc's, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def build_shim(place: Path, source: str) -> Path:
    """Compiles the C text to a library for LD_PRELOAD."""
    (place / "shim.c").write_text(source)
    compiler = ["gcc", "-shared", "-fPIC", "-w", "-o", place / "shim.so", place / "shim.c", "-ldl"]
    subprocess.run([*compiler, "-pthread"], check=True, timeout=60)
    return place / "shim.so"


def run_with_shim(shim: Path, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a Python program with it; the path of the library is in its LD_PRELOAD too."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={
            **os.environ,
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
