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
from fastcas.dir.durability import LEVELS
from gates.child import tell
from gates.harness import Gate, Run
from gates.invariants import Expected, Tree, check, recover
from gates.replay import crashes, within
from gates.workloads import LAYER, OLD, Writer, digest_of, noise, prepare_layouts, use_named_files

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


#: The operation that shows a mutant soonest.
FIRST = {
    "no-new-directory-sync": put,
    "no-found-file-sync": put_again,
    "no-found-name-sync": put_again,
    "index-before-blobs": update_index,
    "gc-without-index-sync": gc,
}


# ---- the gate


def run(gate: Run) -> None:
    prepared, events = prepare_layouts(gate.place)
    first = FIRST.get(gate.mutant or "")
    for operation in sorted(OPERATIONS, key=lambda operation: operation is not first):
        for level in LEVELS:
            gate.trials += 1
            place = gate.place / "place"
            shutil.copytree(prepared, place)
            expected = Expected()
            if operation is not create:
                expected.feed(events)
            layout = "new/layout" if operation is create else "layout"
            for call, tree in crashes(gate, place, expected, operation, place, level):
                name = f"{operation.__name__} at {level}, after {call}"
                gate.check(name, judge(gate, within(tree, layout), expected))
            shutil.rmtree(place)


def judge(gate: Run, tree: Tree, expected: Expected) -> list[str]:
    problems = list(check(tree, expected))
    if gate.states % EVERY == 0 and expected.created and not expected.loose and not problems:
        problems += go_on(gate.place / "crashed", tree, expected)
    return problems


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
