"""Gate C: four writers are killed (SIGKILL) at random moments, beside one that cleans up all the time.

A kill loses less than a crash: what has returned at "none" must be there as well. No writer may fail,
and the next clean leaves nothing of the dead.
"""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import fastcas
from fastcas import Descriptor
from fastcas.dir.durability import LEVELS
from gates import child
from gates.harness import Gate, Run
from gates.invariants import Expected, check, recover, snapshot
from gates.workloads import LAYER, Writer, noise, use_named_files

WRITERS = 4


def work(layout: str, level: str, seed: int, named: bool) -> None:
    """Until it is killed. Its content and its names in the index are its own."""
    if named:
        use_named_files()
    chance = random.Random(seed)
    writer = Writer(layout, level, seed)
    for turn in itertools.count():
        content = noise(chance.choice([0, 30, 5000, 200_000]), (seed, turn))
        kind = chance.randrange(5)
        if kind == 0:
            writer.put_blobs([noise(400, (seed, turn, n)) for n in range(5)])
        elif kind == 1:
            writer.image(f"{seed}")
        elif kind == 2:
            writer.tag({f"{seed}-blob": Descriptor(LAYER, writer.put(content), len(content))})
        elif kind == 3:
            writer.put(content[:100_000])
            writer.put(bytearray(content[:100_000]))  # which is there
        else:
            writer.delete(writer.put(bytearray(content + b"to go, %d" % seed)))


def clean(layout: str) -> None:
    """Until its standard input ends."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    with fastcas.open(layout) as cas:
        while not stop.is_set():
            cas.clean()


def run(gate: Run) -> None:
    for number in range(gate.rounds(12, 150)):
        kill_round(gate, gate.place / "layout", LEVELS[number % len(LEVELS)])


def kill_round(gate: Run, layout: Path, level: str) -> None:
    gate.trials += 1
    fastcas.create(layout, durability="none").close()
    pipe = subprocess.PIPE
    cleaner = child.start(clean, layout, mutant=gate.mutant, stderr=pipe)
    writers = {}
    for number in range(WRITERS):
        seed = gate.random.randrange(1 << 30)
        # Two with files that have names: of the others a kill leaves nothing at all.
        arguments = (work, layout, level, seed, number % 2 == 0)
        writers[seed] = child.start(*arguments, mutant=gate.mutant, stderr=pipe)
    expected = Expected()
    expected.feed([["created"]])
    name = f"at {level}"
    failures = []
    for seed, writer in writers.items():
        with writer:
            output = child.wait_for_events(writer, gate.random.randrange(1, 60))
            time.sleep(gate.random.random() * 0.01)
            ended = writer.poll()
            writer.kill()
            gate.faults += 1
            rest, errors = writer.communicate()
        if ended is not None:
            failures.append(f"writer {seed} ended by itself: {errors.decode()[-300:]}")
        for kind, told, *facts in child.events(output + rest):
            expected.feed([[kind, "full" if told == "none" else told, *facts]])
        expected.feed([["died"]])
    _, errors = cleaner.communicate()
    if cleaner.returncode:
        failures.append(f"clean failed: {errors.decode()[-300:]}")
    problems = list(check(snapshot(layout), expected)) or list(recover(layout, expected))
    shutil.rmtree(layout)
    gate.check(name, [*failures, *problems])


GATE = Gate(
    letter="C",
    title="kills beside clean",
    run=run,
    mutants=("put-in-place", "no-lock", "lock-after-create", "clean-takes-all"),
)
