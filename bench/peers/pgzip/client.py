"""Builds the Go program beside this file and talks to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parent


class Pgzip:
    """A running pgzip-peer; a context manager. What it times: main.go."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [os.fspath(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Pgzip:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def version(self) -> str:
        return self._call("version")["version"]

    def compress(self, level: int, source: Path, target: Path) -> dict:
        """Compresses a file; returns `ns`, the nanoseconds, `size`, `digest` and `diff_id`."""
        return self._call("compress", str(level), os.fspath(source), os.fspath(target))

    def _call(self, *fields: str) -> dict:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(fields) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"pgzip-peer ended during {fields[0]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"pgzip {fields[0]}: {answer['error']}")
        return answer


def build(directory: Path) -> Path | None:
    """Compiles the program into `directory`; None where there is no Go."""
    if shutil.which("go") is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "pgzip-peer"
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", os.fspath(program), "."]
    subprocess.run(command, cwd=SOURCE, check=True)
    return program
