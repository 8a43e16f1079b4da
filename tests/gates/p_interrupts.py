"""Gate P: a signal's exception (Ctrl-C) at a random moment of every operation.

It comes out of the operation as KeyboardInterrupt, or the operation had ended. Nothing stays open, no
thread goes on, no temporary file is left; what was acknowledged is there, and all goes on.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from fastcas.dir import temp
from fastcas.dir.durability import LEVELS
from gates import a_model, child, workloads
from gates.e_nth_call import OPERATIONS, attempt
from gates.harness import Gate, Run
from gates.invariants import TEMP, Expected, check, open_files, recover, snapshot
from gates.workloads import prepare_layouts

#: Seconds that a second try may take, and a thread to end.
PATIENCE = 20


class Interrupted(BaseException):
    """As KeyboardInterrupt, and nobody else's."""


def work(place: str, prepared: str, name: str, count: int, seed: int) -> None:
    """Interrupts the operation so often; tells of each what went wrong, and what it had told."""
    chance = random.Random(f"{seed} {name}")
    operation = OPERATIONS[name]
    told: list[Any] = []
    workloads.tell = a_model.tell = lambda *event: told.append(event)

    def interrupt(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, interrupt)
    nameless = temp.HAVE_O_TMPFILE  # which put_named changes
    took = 0.0
    for turn in range(count + 3):
        level = LEVELS[turn % len(LEVELS)]
        fresh(place, prepared)
        gc.collect()
        before, threads = open_files(), len(os.listdir("/proc/self/task"))
        told.clear()
        error = "none"
        started = time.perf_counter()
        try:
            # The first are to be imported, and measured.
            if turn >= 3:
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, chance.random() * took))
            operation(place, level)
        except Interrupted:
            error = "interrupted"
        except BaseException as other:  # an interruption must come out as such
            error = f"{type(other).__name__}: {other}"
        finally:
            while True:  # one that is late comes here
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    break
                except Interrupted:
                    continue
        if turn < 3:
            took = time.perf_counter() - started
        temp.HAVE_O_TMPFILE = nameless
        gc.collect()
        problems = [error] if error not in ("none", "interrupted") else []
        if open_files() != before:
            problems.append(f"open: {sorted(set(open_files()) - set(before))}")
        until = time.monotonic() + PATIENCE
        while len(os.listdir("/proc/self/task")) > threads and time.monotonic() < until:
            time.sleep(0.001)
        if len(os.listdir("/proc/self/task")) > threads:
            problems.append("a thread goes on")
        layout = Path(place, "new/layout" if name == "create" else "layout")
        if layout.exists() and name != "clean":  # which begins with one
            problems += [f"left over: {found}" for found in os.listdir(layout) if TEMP.fullmatch(found)]
        events = list(told)
        ended = name == "create" and Path(layout, "oci-layout").exists()  # it can't be made again
        again = None
        if error == "interrupted" and not ended and not problems:
            signal.alarm(PATIENCE)
            again = attempt(operation, place, level)
            signal.alarm(0)
        if again is not None:
            problems.append(f"tried again: {again}")
        child.tell(
            error == "interrupted",
            level,
            events + (told[len(events) :] if again is None else []),
            problems,
        )
        if not os.read(0, 1):
            return


def fresh(place: str, prepared: str) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(prepared, place)


def run(gate: Run) -> None:
    prepared, events = prepare_layouts(gate.place)
    place = gate.place / "place"
    for name in OPERATIONS:
        count = gate.rounds(20, 200)
        arguments = (work, place, prepared, name, count, gate.random.randrange(1 << 30))
        with child.start(*arguments, mutant=gate.mutant, stderr=subprocess.PIPE) as process:
            try:
                for _ in range(count + 3):
                    if not examine(gate, process, name, place, events):
                        break
            finally:
                process.kill()
        shutil.rmtree(place, ignore_errors=True)


def examine(
    gate: Run, process: subprocess.Popen[bytes], name: str, place: Path, events: list[Any]
) -> bool:
    results = list(child.events(child.wait_for_events(process, 1)))
    if not results:
        assert process.stderr is not None
        gate.violate(f"{name}: the process ended: {process.stderr.read().decode()[-300:]}")
        return False
    interrupted, level, told, problems = results[0]
    gate.trials += 1
    gate.faults += interrupted
    expected = Expected()
    layout = place / "layout"
    if name == "create":
        layout = place / "new" / "layout"
    else:
        expected.feed(events)
    expected.feed(told)
    if layout.exists() and not problems:  # a lock that was kept would have us wait for ever
        problems += check(snapshot(layout), expected)
        problems += recover(layout, expected)
    gate.check(f"{name} at {level}", problems)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    return True


GATE = Gate(
    letter="P",
    title="interrupted anywhere",
    run=run,
    mutants=("temps-kept", "lock-kept"),
)
