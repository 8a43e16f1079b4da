"""The programs of this folder: built, run as servers, asked line by line.

A request is one line of tab-separated fields, an answer one JSON object; `ns` is what the timed part
took. The requests of a store, where its system offers them (README.md says what is timed):

    hello                           version, operations, syncs, layout: see Program
    create ROOT                     an empty store
    put ROOT LISTING                the blobs that LISTING names, from files, one after the other
    put-pieces ROOT LISTING FILE    the same from memory: FILE is cut into them
    get ROOT LISTING                each read to its end and verified
    copy ROOT LISTING TARGET        one blob into a new file, verified
    touch ROOT LISTING              empty files where the blobs would be (only where `layout` is false)
    list ROOT                       every digest
    index-update ROOT DIGEST SIZE N a reference replaced N times
    walk ROOT                       every descriptor from the index down
    gc ROOT                         what the index doesn't lead to, removed

A LISTING is a file with a line for each blob: digest, size, source.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Missing(Exception):
    """A program can't be had on this machine; the message says why."""


class Program:
    """A running program; a context manager.

    `operations`: the requests that it answers. `syncs`: what a put of its system syncs, "nothing",
    "file" or "file and directory". `layout`: whether its store is an OCI layout, which all of those
    can read; the others are given stores of their own.
    """

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        hello = self.call("hello")
        self.version: str = hello["version"]
        self.operations: list[str] = hello.get("operations", [])
        self.syncs: str = hello.get("syncs", "nothing")
        self.layout: bool = hello.get("layout", False)

    def __enter__(self) -> Program:
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
            raise RuntimeError(f"{self.name} ended during {command}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name} {command}: {answer['error']}")
        return answer


def _go(work: Path) -> list[str]:
    program = os.fspath(work / "go-peers")
    _compile("go", "build", "-trimpath", "-buildvcs=false", "-o", program, ".")
    return [program]


def _rust(work: Path) -> list[str]:
    target = work / "rust-peers"
    _compile("cargo", "build", "--quiet", "--release", "--locked", "--target-dir", os.fspath(target))
    return [os.fspath(target / "release" / "rust-peers")]


def _python(_: Path) -> list[str]:
    return [sys.executable, os.fspath(HERE / "python_stores.py")]


def _compile(tool: str, *arguments: str) -> None:
    if shutil.which(tool) is None:
        raise Missing(f"no {tool} here")
    folder = {"go": "go", "cargo": "rust"}[tool]
    done = subprocess.run([tool, *arguments], cwd=HERE / folder, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{tool} failed: {done.stderr.strip()[-500:]}")


# How to get the command of each program, which is given the program's name: in the table's order.
PROGRAMS: dict[str, Callable[[Path], list[str]]] = {
    "umoci": _go,
    "containerd": _go,
    "oras-go": _go,
    "ggcr": _go,
    "cacache": _rust,
    "hashfs": _python,
    "dvc-data": _python,
    "pgzip": _go,
}
STORES = tuple(name for name in PROGRAMS if name != "pgzip")


def start(name: str, work: Path) -> Program:
    """Builds the program into `work` where it must be, and starts it; raises Missing."""
    work.mkdir(parents=True, exist_ok=True)
    command = PROGRAMS[name](work)
    try:
        return Program(name, [*command, name])
    except RuntimeError as error:
        raise Missing(str(error)) from error
