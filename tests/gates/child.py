"""Functions in processes of their own, with the store as it is or a mutant, and what they tell.

``python -m gates.child MUTANT MODULE FUNCTION ARGUMENTS`` is such a process; ``start`` makes one.
What it does to the store it tells on its standard output, an event a line, before it begins and
when it was told that it is done: see ``invariants.Expected``.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gates import mutants

TESTS = Path(__file__).resolve().parent.parent


def command(
    function: Callable[..., Any],
    *arguments: Any,
    mutant: str | None = None,
    steps: bool = False,
    io: str = "",
) -> tuple[list[str], dict[str, str]]:
    """The command and the environment for ``function(*arguments)``, which must be JSON, or paths."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment.update(mutants.environment(mutant, steps=steps, io=io))
    values = json.dumps([str(a) if isinstance(a, Path) else a for a in arguments])
    program = [sys.executable, "-m", "gates.child", mutant or ""]
    return [*program, function.__module__, function.__qualname__, values], environment


def start(
    function: Callable[..., Any],
    *arguments: Any,
    mutant: str | None = None,
    steps: bool = False,
    io: str = "",
    prefix: Sequence[str] = (),
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Starts it, ``prefix`` before its command; its pipes are standard input and output. With
    ``steps`` it can use steps.py; ``io`` is a condition of shim.c."""
    line, environment = command(function, *arguments, mutant=mutant, steps=steps, io=io)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
    return subprocess.Popen([*prefix, *line], env=environment, bufsize=0, **pipes)


def wait_for_events(process: subprocess.Popen[bytes], count: int) -> bytes:
    """Its output until it has told so many events, or has ended. ``communicate`` gives the rest."""
    assert process.stdout is not None
    output = b""
    while output.count(b"\n") < count and (piece := process.stdout.read(1 << 16)):
        output += piece
    return output


def told_by_now(process: subprocess.Popen[bytes]) -> bytes:
    """What more it has told until this moment."""
    assert process.stdout is not None
    output = b""
    while select.select([process.stdout], [], [], 0)[0] and (piece := process.stdout.read(1 << 16)):
        output += piece
    return output


def tell(*event: Any) -> None:
    """Tells an event, in one write(2) that has happened when this returns."""
    os.write(1, json.dumps(event).encode() + b"\n")


def events(output: bytes) -> Iterator[list[Any]]:
    """The events of an output, but for a line that a kill has cut."""
    for line in output.split(b"\n")[:-1]:
        yield json.loads(line)


def main(mutant: str, module: str, name: str, values: str) -> None:
    if mutant:
        mutants.MUTANTS[mutant].patch()
    getattr(importlib.import_module(module), name)(*json.loads(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
