"""Gate H: two users of a layout, of whom one stands still at each edge of its locks.

The first stops before a flock(2), be it to take or to give back; the second does all it can meanwhile,
or waits for the lock. Every pair of operations, every edge. What is there beforehand is older than gc's
grace, so that only the protections of gc keep what it must not remove.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fastcas
from fastcas import Descriptor, Index
from gates import child
from gates.child import tell
from gates.harness import Gate, Run
from gates.invariants import REF_NAME, Expected, check, recover, snapshot
from gates.steps import LOCKS, run_or_wait, stopped
from gates.workloads import LAYER, digest_of, noise, use_named_files

KEPT, UNUSED, UNUSED_TOO, DAMAGED = (noise(1500, name) for name in ("kept", "unused", "too", "damaged"))
BEFORE = 7200  # seconds: twice gc's grace


def own(name: str) -> bytes:
    return noise(800, name)


def descriptor_of(content: bytes) -> Descriptor:
    return Descriptor(LAYER, digest_of(content), len(content))


# ---- operations of a user called ``name``; each returns the events of what it has done


def put_new(cas: fastcas.DirEngine, name: str) -> list[Any]:
    return [["stored", "full", [cas.put_blob(bytearray(own(f"new {name}"))).digest]]]


def put_found(cas: fastcas.DirEngine, name: str) -> list[Any]:
    return [["stored", "full", [cas.put_blob(UNUSED).digest]]]


def put_damaged(cas: fastcas.DirEngine, name: str) -> list[Any]:
    return [["stored", "full", [cas.put_blob(DAMAGED).digest]]]


def put_many(cas: fastcas.DirEngine, name: str) -> list[Any]:
    found = cas.put_blobs([own(f"many {name}"), UNUSED, bytearray(UNUSED_TOO)])
    return [["stored", "full", [result.digest for result in found]]]


def tag(cas: fastcas.DirEngine, name: str) -> list[Any]:
    cas.update_reference(name, descriptor_of(KEPT))
    return [["tagged", "full", {name: digest_of(KEPT)}]]


def put_and_tag(cas: fastcas.DirEngine, name: str) -> list[Any]:
    stored = put_found(cas, name)
    cas.update_reference(f"put-{name}", descriptor_of(UNUSED))
    return [*stored, ["tagged", "full", {f"put-{name}": digest_of(UNUSED)}]]


def tag_if_there(cas: fastcas.DirEngine, name: str) -> list[Any]:
    """Without a put: only the index protects it."""
    events: list[Any] = []

    def change(index: Index) -> Index | None:
        if digest_of(UNUSED_TOO) not in cas:
            return None
        events.append(["tagged", "full", {f"there-{name}": digest_of(UNUSED_TOO)}])
        entry = descriptor_of(UNUSED_TOO).replace(annotations={REF_NAME: f"there-{name}"})
        return index.replace(manifests=[*index.manifests, entry])

    cas.update_index(change)
    return events


def delete(cas: fastcas.DirEngine, name: str) -> list[Any]:
    cas.delete_blob(digest_of(own(f"old {name}")))
    return []


def gc(cas: fastcas.DirEngine, name: str) -> list[Any]:
    cas.gc()
    return []


def clean(cas: fastcas.DirEngine, name: str) -> list[Any]:
    cas.clean()
    return []


Operation = Callable[[fastcas.DirEngine, str], list[Any]]
OPERATIONS: list[Operation] = [
    put_new,
    put_found,
    put_damaged,
    put_many,
    tag,
    put_and_tag,
    tag_if_there,
    delete,
    gc,
    clean,
]


# ---- in the child


def prepare(layout: Path) -> None:
    with fastcas.create(layout, durability="none") as cas:
        cas.put_blobs([KEPT, UNUSED, UNUSED_TOO, DAMAGED, own("old x"), own("old y")])
        cas.update_reference("kept", descriptor_of(KEPT))
    damaged = layout / "blobs" / digest_of(DAMAGED).replace(":", "/")
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged" + DAMAGED[7:])
    then = time.time() - BEFORE
    for blob in layout.glob("blobs/*/*"):
        os.utime(blob, (then, then))


def race(place: str, first: str, named: bool) -> None:
    """That operation at each of its edges, beside each other operation."""
    if named:
        use_named_files()
    prepare(Path(place, "prepared"))
    operations = {operation.__name__: operation for operation in OPERATIONS}
    for name, second in operations.items():
        edge = 1
        while race_at(Path(place), operations[first], second, edge, f"{first}, {name}"):
            edge += 1


def race_at(place: Path, first: Operation, second: Operation, edge: int, name: str) -> bool:
    """Whether the first came to that edge."""
    layout = place / "layout"
    subprocess.run(["cp", "-a", place / "prepared", layout], check=True)
    (layout / f".fastcas-{'0' * 16}.tmp").write_bytes(b"debris")
    expected = Expected()
    expected.feed([["created"], ["stored", "full", [digest_of(KEPT)]]])
    expected.feed([["tagged", "full", {"kept": digest_of(KEPT)}]])
    expected.loose.add(digest_of(DAMAGED))
    problems: list[str] = []

    def use(operation: Operation, user: str) -> None:
        with fastcas.open(layout, durability="none") as cas:
            try:
                expected.feed(operation(cas, user))
            except Exception as error:
                problems.append(f"{operation.__name__} of {user}: {error!r}")

    with stopped(partial(use, first, "x"), edge, LOCKS) as stops:
        finish = run_or_wait(partial(use, second, "y"))
    finish()
    problems += check(snapshot(layout), expected)
    if not problems:
        problems += recover(layout, expected)
    shutil.rmtree(layout)
    tell(name, edge, stops, problems)
    return stops


# ---- the gate


def run(gate: Run) -> None:
    for named in (False, True):
        for operation in OPERATIONS:
            place = gate.place / f"{operation.__name__}-{named}"
            place.mkdir()
            arguments = (race, place, operation.__name__, named)
            process = child.start(*arguments, mutant=gate.mutant, steps=True, stderr=subprocess.PIPE)
            try:
                output, errors = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
                gate.violate(f"{operation.__name__}: hangs")
            for name, edge, stops, problems in child.events(output):
                gate.trials += 1
                gate.faults += stops
                gate.check(f"{name}, edge {edge}{', named files' if named else ''}", problems)
            if process.returncode:
                gate.violate(f"{operation.__name__}: {errors.decode()[-300:]}")
            shutil.rmtree(place)


GATE = Gate(
    letter="H",
    title="two users, at every edge of a lock",
    run=run,
    mutants=(
        "no-lock",
        "lock-after-create",
        "clean-takes-all",
        "found-but-not-marked",
        "grace-ignored",
        "gc-without-index-check",
    ),
)
