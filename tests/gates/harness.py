"""A gate, one run of it, and what came out."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: A run of the store as it is shows so many violations at most: then it is clear that it is broken.
MOST_VIOLATIONS = 20

#: Bytes that a gate may need in its directory.
ROOM = 1 << 30


class Violated(Exception):
    """Ends a run that has shown what there is to show."""


@dataclass
class Run:
    """One run of a gate: on the store as it is, or on a mutant of it.

    The gate counts what it does (``trials``, ``faults``, ``states``) and reports what is wrong.
    ``place`` is an empty directory, removed at the end.
    """

    place: Path
    soak: bool
    seed: int
    mutant: str | None = None
    trials: int = 0
    faults: int = 0
    states: int = 0
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def pick(self, short: T, long: T) -> T:
        """The first in CI, the second in a soak."""
        return long if self.soak else short

    def rounds(self, short: int, long: int) -> int:
        """The same for the number of random trials. A mutant's run takes as many as it needs."""
        return short if self.mutant is None and not self.soak else long

    def check(self, context: str, problems: Iterable[str]) -> None:
        """Counts one state that was checked, and what was found wrong with it."""
        self.states += 1
        for problem in problems:
            self.violate(f"{context}: {problem}")

    def violate(self, problem: str) -> None:
        self.violations.append(problem)
        if self.mutant is not None or len(self.violations) >= MOST_VIOLATIONS:
            raise Violated


@dataclass(frozen=True)
class Gate:
    """What a module of this directory defines as ``GATE``.

    ``run`` does the trials and reports to the Run. It is called once for the store as it is, then once
    for each of ``mutants`` (names in ``mutants.py``), which must be caught. ``missing`` says why the
    gate can't run here, or None.
    """

    letter: str
    title: str
    run: Callable[[Run], None]
    mutants: tuple[str, ...]
    missing: Callable[[], str | None] = lambda: None


@dataclass
class Result:
    """One line of the results; ``mutants``: by what each was caught, "" where it wasn't."""

    gate: str
    title: str
    soak: bool
    seed: int
    not_run: str | None = None
    trials: int = 0
    faults: int = 0
    states: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    mutants: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.not_run is None and not self.violations and all(self.mutants.values())

    def to_json(self) -> str:
        return json.dumps(vars(self))


def run_gate(gate: Gate, *, soak: bool, seed: int, chosen: str | None = None) -> Result:
    """The whole gate, or with ``chosen`` only that mutant."""
    result = Result(gate.letter, gate.title, soak, seed, gate.missing())
    if result.not_run is not None:
        return result
    start = time.monotonic()
    if chosen is None:
        run = _run_once(gate, soak, seed, None)
        result.trials, result.faults, result.states = run.trials, run.faults, run.states
        result.violations = run.violations
        if not run.states:
            result.violations.append("the gate checked nothing")
    for mutant in gate.mutants if chosen is None else (chosen,):
        violations = _run_once(gate, soak, seed, mutant).violations
        result.mutants[mutant] = violations[0] if violations else ""
    result.seconds = round(time.monotonic() - start, 1)
    return result


def _run_once(gate: Gate, soak: bool, seed: int, mutant: str | None) -> Run:
    # In memory: most gates don't care, and those that do make filesystems of their own.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM
    place = Path(tempfile.mkdtemp(prefix="gate-", dir=memory if roomy else None))
    run = Run(place, soak, seed, mutant)
    try:
        gate.run(run)
    except Violated:
        pass
    finally:
        shutil.rmtree(place)
    return run
