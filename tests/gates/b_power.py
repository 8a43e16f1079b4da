"""Gate B: power failures on real filesystems.

A writer works on a layout on a loop-mounted filesystem, and tells what it does. At some moment that
filesystem is shut down without flushing its journal; then it is mounted again and checked.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastcas
from fastcas import Descriptor
from fastcas.dir.durability import LEVELS
from gates import child, disks
from gates.child import tell
from gates.harness import Gate, Run
from gates.invariants import Content, Expected, check, recover, snapshot
from gates.workloads import LAYER, OLD, Writer, digest_of, noise, prepare

CANARY = noise(5000, "canary")


# ---- the writer


def work(place: str, level: str, seed: int) -> None:
    """All kinds of operations, in an order of their own, until it is stopped."""
    chance = random.Random(seed)
    with fastcas.open(f"{place}/source", durability="none") as source:
        writer = Writer(f"{place}/layout", level, seed)
        for turn in itertools.count():
            for step in chance.sample(STEPS, len(STEPS)):
                step(writer, source, f"{seed}-{turn}", chance)


def put(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.put(noise(chance.choice([0, 10, 4000, 70_000]), turn))


def put_buffer(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.put(bytearray(noise(chance.choice([100, 300_000]), (turn, "buffer"))))


def put_512(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.put(noise(3000, turn), algorithm="sha512")


def put_large(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.put(noise(2_500_000, (turn, "large")))


def put_blobs(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.put_blobs([OLD, *(noise(chance.choice([20, 5000, 90_000]), (turn, n)) for n in range(8))])


def put_found(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    """What another writer has just put, without a sync."""
    content = noise(chance.choice([500, 80_000]), (turn, "found"))
    other = Writer(writer.cas.path, "none")
    other.put(content)
    other.close()
    writer.put(content)


def put_image(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.image("image")


def tag(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    content = noise(900, (turn, "tagged"))
    writer.tag({"blob": Descriptor(LAYER, writer.put(content), len(content)), "one": None})


def delete(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.delete(digest_of(OLD))


def gc(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.gc()


def compress(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.compress(noise(3000, turn) * 30, source)


def copy(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.copy(source, "copied")


def sync(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    writer.sync()


def create(writer: Writer, source: fastcas.DirEngine, turn: str, chance: random.Random) -> None:
    path = Path(writer.cas.path).with_name(f"made-{turn}") / "layout"
    fastcas.create(path, durability=writer.level).close()
    if writer.level != "none":
        tell("made", str(path))


Step = Callable[[Writer, fastcas.DirEngine, str, random.Random], None]
STEPS: list[Step] = [
    put,
    put_buffer,
    put_512,
    put_large,
    put_blobs,
    put_found,
    put_image,
    tag,
    delete,
    gc,
    compress,
    copy,
    sync,
    create,
]


# ---- the gate


def run(gate: Run) -> None:
    images = {kind: prepare_image(gate, kind) for kind in disks.KINDS}
    for _ in range(gate.rounds(2, 40)):
        for kind, level in itertools.product(disks.KINDS, LEVELS):
            gate.trials += 1
            image, events = images[kind]
            seed, after = gate.random.randrange(1 << 30), gate.random.randrange(1, 60)
            wait = gate.random.choice([0, 0, 0.0002, 0.001, 0.005])
            name = f"{kind.name}, {level}, seed {seed}, after {after} events"
            failed = fail_power(gate, kind, image, after, wait, work, gate.place / "disk", level, seed)
            judge(gate, name, failed, events)


def prepare_image(gate: Run, kind: disks.Kind) -> tuple[Path, list[list[Any]]]:
    """A new filesystem with two layouts and a file beside them, and what was told of "layout"."""
    image = gate.place / f"{kind.name}.img"
    disks.make(kind, image)
    with disks.Mounted(kind, image, gate.place / "disk") as disk:
        (disk.path / "canary").write_bytes(CANARY)
        child.start(prepare, disk.path / "source", ["copied"]).communicate()
        output, _ = child.start(prepare, disk.path / "layout", ["one", "two"]).communicate()
    return image, list(child.events(output))


# What is told after the failure was no promise: on XFS fsync says 0 of a directory that the shutdown
# has let go, where a machine without power says nothing.
DONE = {"created", "made", "stored", "synced", "tagged"}


@dataclass
class Failed:
    """A disk after a power failure, what its writer had told, and how that ended before, if it did."""

    kind: disks.Kind
    image: Path
    told: list[list[Any]]
    ended: str | None


def fail_power(
    gate: Run,
    kind: disks.Kind,
    image: Path,
    after: int,
    wait: float,
    function: Callable[..., Any],
    *arguments: Any,
    steps: bool = False,
) -> Failed:
    """A child calls the function while a copy of ``image`` is mounted at "disk"; the power fails
    ``wait`` seconds after so many events."""
    here, left = gate.place / "image", gate.place / "left"
    disks.copy(image, here)
    mounted = disks.Mounted(kind, here, gate.place / "disk")
    with mounted:
        options = {"mutant": gate.mutant, "steps": steps, "stderr": subprocess.PIPE}
        with child.start(function, *arguments, **options) as writer:
            output = child.wait_for_events(writer, after)
            time.sleep(wait)
            ended = writer.poll()
            output += child.told_by_now(writer)
            mounted.cut(writer, left)
            gate.faults += 1
            rest, errors = writer.communicate()
    mounted.keep(left)
    here.unlink(missing_ok=True)
    said = None if ended is None else f"the writer ended by itself: {errors.decode()[-300:]}"
    told, both = len(list(child.events(output))), list(child.events(output + rest))
    late = [event for event in both[told:] if event[0] not in DONE]
    return Failed(kind, left, both[:told] + late, said)


def judge(gate: Run, name: str, failed: Failed, events: list[list[Any]]) -> None:
    # ext4 gives the blocks of a removed file away at once then, before its removal is durable.
    expected = Expected(reuses_blocks="data=writeback" in failed.kind.options)
    expected.feed(events)
    expected.feed(event for event in failed.told if event[0] != "made")
    with disks.Mounted(failed.kind, failed.image, gate.place / "disk") as disk:
        layout = disk.path / "layout"
        problems = [] if failed.ended is None else [failed.ended]
        problems += list(check(snapshot(layout), expected)) or list(recover(layout, expected))
        if (disk.path / "canary").read_bytes() != CANARY:
            problems.append("the file beside the layout was changed")
        for path in (Path(event[1]) for event in failed.told if event[0] == "made"):
            problems += check_made(path)
        gate.check(name, problems)
    failed.image.unlink()


def check_made(path: Path) -> list[str]:
    expected = Expected()
    expected.feed([["created"]])
    tree: dict[str, Content | None] = snapshot(path) if path.is_dir() else {}
    return [f"{path.parent.name}: {problem}" for problem in check(tree, expected)]


GATE = Gate(
    letter="B",
    title="power failures, on ext4, XFS and btrfs",
    run=run,
    mutants=("no-file-sync", "no-directory-sync", "no-dedupe-sync"),
    missing=disks.missing,
)
