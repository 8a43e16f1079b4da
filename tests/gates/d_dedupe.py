"""Gate D: a put that finds the blob of another writer, which stands still at some step of its put.

The second put has returned, so the blob must survive, whatever the first writer still had to do. First
by the model of gate A, for each step; then by power failures as in gate B.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from typing import Any

import fastcas
from fastcas.dir.durability import LEVELS
from gates import b_power, child, disks
from gates.child import tell
from gates.harness import Gate, Run
from gates.invariants import Expected, check
from gates.replay import crashes, within
from gates.steps import CALLS, stopped
from gates.workloads import Writer, digest_of, noise, prepare, use_named_files

#: Durability of the first writer and of the second.
PAIRS = [(a, b) for a in ("full", "none") for b in LEVELS if b != "none"]
#: What is put: small bytes go a short way through the core, others the general way.
SOURCES: dict[str, Callable[[object], Any]] = {
    "small": lambda seed: noise(700, seed),
    "general": lambda seed: bytearray(noise(90_000, seed)),
    "named": lambda seed: bytearray(noise(600, seed)),
}


def race(layout: str, levels: list[str], source: str) -> None:
    """Two writers of one blob, for each step of the first; another blob for each."""
    step = 1
    while race_at(layout, levels, source, step):
        step += 1


def race_at(layout: str, levels: list[str], source: str, step: int, forever: bool = False) -> bool:
    """Whether the first writer came to that step. ``forever``: it goes no further."""
    if source == "named":
        use_named_files()
    content = SOURCES[source](step)
    tell("storing", "none", [digest_of(content)])
    with fastcas.open(layout, durability=levels[0]) as first:
        with stopped(lambda: first.put_blob(content), step, CALLS) as stops:
            second = Writer(layout, levels[1])
            second.put(content)
            second.sync()
            if forever:
                sys.stdin.read()
        second.close()
    return stops


def run(gate: Run) -> None:
    prepared = gate.place / "prepared"
    prepared.mkdir()
    output, _ = child.start(prepare, prepared / "layout", []).communicate()
    events = list(child.events(output))
    place = gate.place / "place"
    for source, levels in itertools.product(SOURCES, PAIRS):
        gate.trials += 1
        shutil.copytree(prepared, place)
        expected = Expected()
        expected.feed(events)
        states = crashes(
            gate,
            place,
            expected,
            race,
            place / "layout",
            levels,
            source,
            steps=True,
            only_if=lambda expected=expected: expected.last == "synced",
        )
        for call, tree in states:
            name = f"{source}, {levels[0]} then {levels[1]}, after {call}"
            gate.check(name, check(within(tree, "layout"), expected))
        shutil.rmtree(place)
    if disks.missing() is None:
        fail_power(gate)


def fail_power(gate: Run) -> None:
    images = {kind: b_power.prepare_image(gate, kind) for kind in disks.KINDS}
    cases = list(itertools.product(disks.KINDS, SOURCES, PAIRS, range(1, 16)))
    for kind, source, levels, step in gate.random.sample(cases, gate.rounds(20, 300)):
        gate.trials += 1
        image, events = images[kind]
        layout = gate.place / "disk" / "layout"
        arguments = (race_at, layout, levels, source, step, True)
        failed = b_power.fail_power(gate, kind, image, 4, 0, *arguments, steps=True)
        name = f"{kind.name}, {source}, {levels[0]} then {levels[1]}, step {step}"
        b_power.judge(gate, name, failed, events)


GATE = Gate(
    letter="D",
    title="puts of what another is putting",
    run=run,
    mutants=("no-dedupe-sync", "no-found-file-sync", "no-found-name-sync"),
    missing=lambda: None if shutil.which("strace") else "strace isn't installed",
)
