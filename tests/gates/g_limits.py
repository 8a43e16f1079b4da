"""Gate G: no space left, no inodes, no descriptors, files that may not grow.

A process does the operations of gate E on a filesystem of its own (tmpfs) that has so much room, or
under a limit of the process. Each must return rightly or raise an error that names the trouble; what
was stored stays readable; it must return when there is room again; nothing is left over.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastcas.dir import temp
from fastcas.dir.durability import LEVELS
from gates import a_model, child, workloads
from gates.e_nth_call import OPERATIONS, attempt
from gates.harness import Gate, Run
from gates.invariants import TEMP, Expected, check, open_files, recover, snapshot
from gates.workloads import prepare

#: How much of each there is: bytes and inodes that are free, the largest file, descriptors to be had.
ROOM = {
    "bytes": (0, 4096, 8192, 20_000, 60_000, 200_000),
    "inodes": tuple(range(6)),
    "fsize": (0, 1, 100, 2000, 100_000),
    "nofile": (0, 1, 2, 3, 4, 5, 6, 8, 10, 14),
}

#: What may be said of it, by number.
NUMBERS = {
    "bytes": {errno.ENOSPC},
    "inodes": {errno.ENOSPC},
    "fsize": {errno.EFBIG},
    "nofile": {errno.EMFILE},
}


@dataclass(frozen=True)
class Want:
    operation: str
    level: str
    what: str
    room: int

    def __str__(self) -> str:
        return f"{self.operation} at {self.level} with {self.room} {self.what}"


# ---- the process that is short of something


def serve() -> None:
    """For each line of standard input, a job: does it, tells what came of it and what it told, and
    waits for another line, when there is room, to do it again if it failed."""
    told: list[Any] = []
    workloads.tell = a_model.tell = lambda *event: told.append(event)
    for line in sys.stdin:
        job = json.loads(line)
        operation = OPERATIONS[job["operation"]]
        before = open_files()
        with limited(job["what"], job["room"]):
            error, number = told_by(operation, job)
        gc.collect()  # what an operation that failed hasn't closed
        child.tell(error)
        sys.stdin.readline()
        again = None if error is None else attempt(operation, job["place"], job["level"])
        child.tell(again, number, told, open_files() == before)
        told.clear()
        temp.HAVE_O_TMPFILE = True


@contextlib.contextmanager
def limited(what: str, room: int) -> Iterator[None]:
    kind = {"fsize": resource.RLIMIT_FSIZE, "nofile": resource.RLIMIT_NOFILE}.get(what)
    if kind is None:
        yield
        return
    soft, hard = resource.getrlimit(kind)
    if what == "nofile":
        room += max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(kind, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def told_by(operation: Any, job: dict[str, Any]) -> tuple[str | None, int | None]:
    """The error, and the number that it has, by itself or by what it comes from."""
    number = None

    def noted(place: str, level: str) -> None:
        nonlocal number
        try:
            operation(place, level)
        except BaseException as error:
            cause: BaseException | None = error
            while cause is not None and number is None:
                number = getattr(cause, "errno", None)
                cause = cause.__cause__ or cause.__context__
            raise

    return attempt(noted, job["place"], job["level"]), number


# ---- the gate


def run(gate: Run) -> None:
    prepared = gate.place / "prepared"
    prepared.mkdir()
    child.start(prepare, prepared / "source", ["copied"]).communicate()
    output, _ = child.start(prepare, prepared / "layout", ["one", "two"]).communicate()
    events = list(child.events(output))
    wants = [
        Want(operation, level, what, room)
        for operation in OPERATIONS
        for level in LEVELS
        for what, rooms in ROOM.items()
        for room in rooms
    ]
    gate.random.shuffle(wants)
    place = gate.place / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "gate", place], check=True)
    try:
        with child.start(serve, mutant=gate.mutant) as process:
            warm(process, prepared, place)
            for want in wants[: gate.rounds(250, len(wants))]:
                squeeze(gate, process, prepared, place, events, want)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def warm(process: subprocess.Popen[bytes], prepared: Path, place: Path) -> None:
    """Lets it import what it needs."""
    for operation in OPERATIONS:
        for level in LEVELS:
            refill(prepared, place)
            ask(
                process,
                {"operation": operation, "level": level, "what": "", "room": 0, "place": f"{place}"},
            )
            ask(process, {})


def refill(prepared: Path, place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=10000", place], check=True)
    for folder in place.iterdir():
        shutil.rmtree(folder)
    shutil.copytree(prepared, place, dirs_exist_ok=True)


def ask(process: subprocess.Popen[bytes], job: dict[str, Any]) -> Any:
    assert process.stdin is not None
    process.stdin.write(json.dumps(job).encode() + b"\n")
    process.stdin.flush()
    lines = list(child.events(child.wait_for_events(process, 1)))
    if not lines:
        raise RuntimeError("the process has ended")
    return lines[0]


def squeeze(
    gate: Run,
    process: subprocess.Popen[bytes],
    prepared: Path,
    place: Path,
    events: list[Any],
    want: Want,
) -> None:
    gate.trials += 1
    refill(prepared, place)
    facts = os.statvfs(place)
    if want.what == "bytes":
        used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        limit = f"size={used + want.room}"
    elif want.what == "inodes":
        limit = f"nr_inodes={facts.f_files - facts.f_ffree + want.room}"
    else:
        limit = "size=64m"
    subprocess.run(["mount", "-o", f"remount,{limit}", place], check=True)
    job = {"operation": want.operation, "level": want.level, "what": want.what, "room": want.room}
    (error,) = ask(process, {**job, "place": f"{place}"})
    layout = place / ("new/layout" if want.operation == "create" else "layout")
    strays = [name for name in os.listdir(layout) if TEMP.fullmatch(name)] if layout.exists() else []
    subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=10000", place], check=True)
    again, number, told, closed = ask(process, {})
    gate.faults += error is not None
    expected = Expected()
    if want.operation != "create":
        expected.feed(events)
    expected.feed(told)
    problems = []
    if error is not None and (error.startswith("wrong") or number not in NUMBERS[want.what]):
        problems.append(f"{error} (number {number})")
    if again is not None:
        problems.append(f"there is room again: {again} (at first: {error})")
    if strays and want.operation != "clean":  # which begins with one
        problems.append(f"left over: {strays}")
    if not closed:
        problems.append("not all was closed")
    problems += check(snapshot(layout), expected)
    problems += recover(layout, expected)
    gate.check(str(want), problems)


GATE = Gate(
    letter="G",
    title="no room, no inodes, no descriptors",
    run=run,
    mutants=("temps-kept", "errors-leak-files", "wrong-errors"),
    missing=lambda: None if os.geteuid() == 0 else "mounting a filesystem of its own needs root",
)
