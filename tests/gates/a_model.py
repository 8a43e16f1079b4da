"""Gate A: what a crash may leave, by a model, at every moment of every operation.

The system calls of an operation are traced (strace) and replayed in ``simfs``; after each, every state
that a crash may leave is checked against what the operation had told by then. Of some states
the layout is written out, and the store has to go on with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fastcas
from fastcas import Descriptor
from gates import child, trace
from gates.child import tell
from gates.harness import Gate, Run
from gates.invariants import Expected, Tree, check, recover, snapshot
from gates.simfs import Disk
from gates.workloads import LAYER, OLD, Writer, digest_of, noise, prepare, use_named_files

LEVELS = ("full", "batch", "none")
#: Of so many states that were checked, the layout of one is written out.
EVERY = 2000

SMALL, MIDDLE, LARGE = noise(500, "small"), noise(150_000, "middle"), noise(3 << 20, "large")


# ---- operations, in a directory with the layouts "layout" and "source"


def create(place: str, level: str) -> None:
    fastcas.create(f"{place}/new/layout", durability=level).close()
    if level != "none":
        tell("created")


def put(place: str, level: str) -> None:
    writer = Writer(f"{place}/layout", level)
    writer.put(SMALL)
    writer.put(bytearray(SMALL[1:]))
    writer.put(MIDDLE)
    writer.put(MIDDLE, algorithm="sha512")  # whose directory is new
    writer.put(SMALL, algorithm="sha512")
    writer.close()


def put_large(place: str, level: str) -> None:
    writer = Writer(f"{place}/layout", level)
    writer.put(LARGE)
    writer.close()


def put_named(place: str, level: str) -> None:
    use_named_files()
    put(place, level)


def put_blobs(place: str, level: str) -> None:
    writer = Writer(f"{place}/layout", level)
    writer.put_blobs([*(noise(100 + n, n) for n in range(9)), MIDDLE, bytearray(MIDDLE[1:]), OLD])
    writer.close()


def put_again(place: str, level: str) -> None:
    """Blobs that another writer has put and not synced."""
    other = Writer(f"{place}/layout", "none")
    writer = Writer(f"{place}/layout", level)
    for content in SMALL, MIDDLE:
        other.put(content)
        writer.put(content)
    contents = [noise(300 + n, n) for n in range(5)]
    other.put(contents[1])
    other.put(contents[3])
    writer.put_blobs(contents)
    other.close()
    writer.close()


def repair(place: str, level: str) -> None:
    """A damaged blob, which may be anything until it has been put again."""
    digest = digest_of(OLD)
    blob = Path(place, "layout/blobs", digest.replace(":", "/"))
    tell("deleting", "none", [digest])
    blob.chmod(0o644)
    blob.write_bytes(b"damaged" + OLD[7:])
    writer = Writer(f"{place}/layout", level)
    writer.put(OLD)
    writer.close()


def update_index(place: str, level: str) -> None:
    writer = Writer(f"{place}/layout", level)
    writer.image("new")
    digest = writer.put(MIDDLE)
    writer.tag({"blob": Descriptor(LAYER, digest, len(MIDDLE)), "one": None})
    writer.close()


def delete(place: str, level: str) -> None:
    writer = Writer(f"{place}/layout", level)
    writer.delete(digest_of(OLD))
    writer.put(SMALL)
    writer.close()


def gc(place: str, level: str) -> None:
    """What it may remove was untagged by somebody who doesn't sync."""
    other = Writer(f"{place}/layout", "none")
    other.tag({"one": None})
    other.close()
    writer = Writer(f"{place}/layout", level)
    writer.gc()
    tell("tagged", level, {"one": None})  # gc has made it durable, since it removes by it
    writer.close()


def clean(place: str, level: str) -> None:
    Path(place, "layout", f".fastcas-{'0' * 16}.tmp").write_bytes(b"debris")
    writer = Writer(f"{place}/layout", level)
    writer.cas.clean()
    writer.put(SMALL)
    writer.close()


def compress(place: str, level: str) -> None:
    writer = Writer(f"{place}/layout", level)
    with fastcas.open(f"{place}/source") as scratch:
        writer.compress(MIDDLE, scratch)
    writer.close()


def copy(place: str, level: str) -> None:
    writer = Writer(f"{place}/layout", level)
    with fastcas.open(f"{place}/source") as source:
        writer.copy(source, "copied")
    writer.close()


OPERATIONS: list[Callable[[str, str], None]] = [
    create,
    put,
    put_large,
    put_named,
    put_blobs,
    put_again,
    repair,
    update_index,
    delete,
    gc,
    clean,
    compress,
    copy,
]


# ---- the gate


def run(gate: Run) -> None:
    prepared = gate.place / "prepared"
    prepared.mkdir()
    child.start(prepare, prepared / "source", ["copied"]).communicate()
    output, _ = child.start(prepare, prepared / "layout", ["one", "two"]).communicate()
    events = list(child.events(output))
    for operation in OPERATIONS:
        for level in LEVELS:
            place = gate.place / "place"
            shutil.copytree(prepared, place)
            expected = Expected()
            if operation is not create:
                expected.feed(events)
            replay(gate, operation, level, place, expected)
            shutil.rmtree(place)


def replay(
    gate: Run, operation: Callable[..., None], level: str, place: Path, expected: Expected
) -> None:
    """One operation at one level: traced, then each state after each call."""
    gate.trials += 1
    name = f"{operation.__name__} at {level}"
    disk = Disk(place)
    before = snapshot(place)
    layout = "new/layout" if operation is create else "layout"
    trace_file = gate.place / "trace"
    process = child.start(operation, place, level, mutant=gate.mutant, prefix=trace.strace(trace_file))
    process.communicate()
    if process.returncode:
        gate.violate(f"{name}: exit {process.returncode}")
    seen: set[int] = set()
    version = -1
    for call in trace.parse(trace_file):
        if call.name == "write" and call.arguments[0] == "1":
            if call.result is not None:
                expected.feed(child.events(trace.string(call.arguments[1])))
                version, seen = -1, set()
        else:
            disk.apply(call)
        if disk.version == version:
            continue
        version = disk.version
        gate.faults += 1
        for tree in disk.crashes(gate.random):
            key = hash(tuple((path, id(content)) for path, content in tree.items()))
            if key not in seen:
                seen.add(key)
                judge(gate, f"{name}, after {call.name}", tree, layout, before, expected)
    if disk.touched_outside:
        gate.violate(f"{name}: touched {disk.touched_outside[0]!r}")


def judge(gate: Run, name: str, tree: Tree, layout: str, before: Tree, expected: Expected) -> None:
    inside = {
        path.removeprefix(f"{layout}/"): content
        for path, content in tree.items()
        if path.startswith(f"{layout}/")
    }
    problems = list(check(inside, expected))
    if gate.states % EVERY == 0 and expected.created and not expected.loose and not problems:
        problems += go_on(gate.place / "crashed", inside, expected)
    gate.check(name, problems)


def go_on(place: Path, tree: Tree, expected: Expected) -> list[str]:
    """The same with the layout written out and opened again."""
    place.mkdir()
    for path, content in sorted(tree.items()):
        if content is None:
            (place / path).mkdir()
        else:
            (place / path).write_bytes(content.data)
    try:
        return list(recover(place, expected))
    finally:
        shutil.rmtree(place)


GATE = Gate(
    letter="A",
    title="crashes, by a model",
    run=run,
    mutants=(
        "no-file-sync",
        "no-directory-sync",
        "publish-before-sync",
        "no-found-file-sync",
        "no-found-name-sync",
        "no-new-directory-sync",
        "no-parent-sync",
        "index-before-blobs",
        "gc-without-index-sync",
    ),
    missing=lambda: None if shutil.which("strace") else "strace isn't installed",
)
