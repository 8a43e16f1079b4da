"""Builds the Go program beside this file and talks to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parent


class Umoci:
    """A running umoci-peer; a context manager. Commands and what they time: main.go."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [os.fspath(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Umoci:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def call(self, command: str, *arguments: object) -> dict:
        """Runs one command and returns its answer; `ns` is what it took, in nanoseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        fields = [command, *(os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments)]
        if any(character in field for field in fields for character in "\t\n"):
            raise ValueError("a field holds a tab or a newline")
        self._process.stdin.write("\t".join(fields) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"umoci-peer ended during {command}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"umoci {command}: {answer['error']}")
        return answer


def build(directory: Path) -> Path | None:
    """Compiles the program into `directory`; None where there is no Go."""
    if shutil.which("go") is None:
        return None
    directory.mkdir(exist_ok=True)
    program = directory / "umoci-peer"
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", os.fspath(program), "."]
    subprocess.run(command, cwd=SOURCE, check=True)
    return program
