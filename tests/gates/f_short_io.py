"""Gate F: reads and writes that do less than they were asked for, are interrupted, or lie.

A library in front of libc (shim.c) makes them so. Short or interrupted ones must change nothing; where
a write says that it wrote more than it did, there must be an error, or the right blob all the same.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastcas
from fastcas import Descriptor
from fastcas.dir.durability import LEVELS
from gates import child
from gates.harness import Gate, Run
from gates.invariants import Expected, check, recover, snapshot
from gates.workloads import LAYER, digest_of, noise

#: Bytes: what fits into one piece of memory, and what doesn't, at their edges.
SIZES = (0, 1, 4096, 65_536, 65_537, 300_000, 3 << 20)


class OnlyRead:
    """A reader that has nothing but ``read``."""

    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


def pieces(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), 10_000):
        yield content[at : at + 10_000]


FEEDS: list[Callable[[bytes, Path], Any]] = [
    lambda content, path: content,
    lambda content, path: bytearray(content),
    lambda content, path: path,
    lambda content, path: path.open("rb"),
    lambda content, path: io.BytesIO(content),
    lambda content, path: OnlyRead(content),
    lambda content, path: pieces(content),
]


def feed(place: str, level: str, largest: int, lies: bool) -> None:
    """Does everything with blobs of up to ``largest`` bytes; tells what it stored and what is wrong."""
    problems: list[str] = []
    stored: list[str] = []

    def attempt(what: str, operation: Callable[[], object]) -> Any:
        try:
            return operation()
        except (fastcas.FastCASError, OSError) as error:
            if not lies:
                problems.append(f"{what}: {error!r}")
        return None

    source = Path(place, "source")
    contents = [noise(size, (level, size)) for size in SIZES if size <= largest]
    cas = fastcas.open(f"{place}/layout", durability=level)
    for content in contents:
        # By another program: what is short or a lie here isn't what is tested.
        subprocess.run(["dd", f"of={source}", "status=none"], input=content, check=True, env={})
        for number, way in enumerate(FEEDS):
            what = f"{len(content)} bytes, way {number}"
            result = attempt(what, lambda way=way, content=content: cas.put_blob(way(content, source)))
            if result is None:
                continue
            stored.append(result.digest)
            if result != (digest_of(content), len(content)):
                problems.append(f"{what}: stored {result}")
            if attempt(what, lambda result=result: cas.read_blob(result.digest)) not in (content, None):
                problems.append(f"{what}: reads something else")
            attempt(f"{what}: sync", cas.sync)
            attempt(f"{what}: delete", lambda result=result: cas.delete_blob(result.digest))
            stored.pop()
    for content, result in zip(
        contents, attempt("put_blobs", lambda: cas.put_blobs(contents)) or (), strict=False
    ):
        stored.append(result.digest)
        if result.digest != digest_of(content):
            problems.append(f"put_blobs: stored {result}")
        copied = Path(place, "copied")
        for verify in (False, True):
            copied.unlink(missing_ok=True)
            attempt(
                "copy_blob",
                lambda d=result.digest, v=verify: cas.copy_blob(d, place + "/copied", verify=v),
            )
            if copied.exists() and not lies and copied.read_bytes() != content:
                problems.append(f"copy_blob: copied something else, verify={verify}")
    content = contents[-1]
    packed = attempt("compress", lambda: cas.put_blob(content, compress="gzip"))
    if packed is not None:
        stored.append(packed.digest)
        digest = attempt("scrub", lambda: cas.scrub().problems)
        if digest:
            problems.append(f"scrub: {digest}")
    descriptor = Descriptor(LAYER, digest_of(content), len(content))
    for name in ("one", "two"):
        attempt("tag", lambda name=name: cas.update_reference(name, descriptor))
    names = attempt("references", lambda: list(cas.list_references()))
    if not lies and names != ["one", "two"]:
        problems.append(f"references: {names}")
    attempt("sync", cas.sync)
    attempt("close", cas.close)
    child.tell(stored if not lies else [], problems)


def run(gate: Run) -> None:
    for condition in ("1", "777", "interrupted", "lies"):
        for level in gate.pick(("batch",), LEVELS):
            gate.trials += 1
            place = gate.place / "place"
            place.mkdir()
            fastcas.create(place / "layout", durability="none").close()
            # One byte at a time takes a while.
            short = gate.mutant is not None or not gate.soak
            largest = 4096 if condition == "1" and short else max(SIZES)
            process = child.start(
                feed, place, level, largest, condition == "lies",
                mutant=gate.mutant, io=condition, stderr=subprocess.PIPE,
            )  # fmt: skip
            output, errors = process.communicate(timeout=gate.pick(300, 6000))
            events = list(child.events(output))
            name = f"{condition} at {level}"
            if not events:
                events = [[[], [f"ended: {errors.decode()[-300:]}"]]]
            stored, problems = events[0]
            gate.faults += 1
            expected = Expected()
            expected.feed([["created"], ["stored", "full", stored]])
            expected.names = {"one": {None, digest_of(b"")}}
            expected.loose_index = True
            layout = place / "layout"
            gate.check(
                name, [*problems, *check(snapshot(layout), expected), *recover(layout, expected)]
            )
            shutil.rmtree(place)


GATE = Gate(
    letter="F",
    title="short, interrupted and lying calls",
    run=run,
    mutants=("no-size-check", "interruptions-are-errors", "one-write", "one-read"),
    missing=lambda: None if shutil.which("gcc") else "gcc isn't installed",
)
