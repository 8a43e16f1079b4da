"""A Go program of this folder: built, run as a server, asked line by line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Program:
    """The running program of the folder `name`; a context manager. What it times: its main.go."""

    name: str

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [os.fspath(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    @classmethod
    def build(cls, directory: Path) -> Path | None:
        """Compiles the program into `directory`; None where there is no Go."""
        if shutil.which("go") is None:
            return None
        directory.mkdir(parents=True, exist_ok=True)
        program = directory / f"{cls.name}-peer"
        command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", os.fspath(program), "."]
        subprocess.run(command, cwd=HERE / cls.name, check=True)
        return program

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stdin.close()
        self._process.wait(timeout=30)
        self._stdout.close()

    def call(self, command: str, *arguments: object) -> dict:
        """Runs one command and returns its answer; `ns` is what it took, in nanoseconds."""
        fields = [command, *(os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments)]
        if any(character in field for field in fields for character in "\t\n"):
            raise ValueError("a field holds a tab or a newline")
        self._stdin.write("\t".join(fields) + "\n")
        self._stdin.flush()
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}-peer ended during {command}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name} {command}: {answer['error']}")
        return answer


class Umoci(Program):
    name = "umoci"


class Pgzip(Program):
    name = "pgzip"

    def version(self) -> str:
        return self.call("version")["version"]

    def compress(self, level: int, source: Path, target: Path) -> dict:
        """Compresses a file; returns `ns`, `size`, `digest` and `diff_id`."""
        return self.call("compress", level, source, target)
