"""Gate L: nothing outside a layout is touched, or read, whatever another user makes of it meanwhile.

Beside the operations of gate E somebody exchanges (RENAME_EXCHANGE) parts of the layout with symbolic
links that lead outside, to a tree that looks like a layout: its index has a name that nobody gave, its
blob has other content. It must stay as it is, byte by byte, and nothing of it may come out of a read.
Operations may fail, with an error of ours or an OSError; afterwards they work again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fastcas
from fastcas.dir import temp
from fastcas.dir.durability import LEVELS
from gates import a_model, child, workloads
from gates.e_nth_call import OPERATIONS, attempt
from gates.harness import Gate, Run
from gates.invariants import REF_NAME
from gates.workloads import LAYER, OLD, digest_of, prepare

_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)

#: What is exchanged, and what of the tree outside stands in its place.
PARTS = (
    "blobs",
    "blobs/sha256",
    "index.json",
    "oci-layout",
    f"blobs/{digest_of(OLD).replace(':', '/')}",
)

#: Errors that there is no reason for, or that tell of content outside.
SUSPECT = ("wrong", "DigestMismatch", "SizeMismatch", "Corrupt")

NAMED_BY_NOBODY = "evil"
EVIL = OLD[::-1]


# ---- the victim


def work(place: str, seconds: float) -> None:
    """Does all operations, one after the other, as often as there is time."""
    told: list[object] = []
    workloads.tell = a_model.tell = lambda *event: told.append(event)
    until = time.monotonic() + seconds
    problems = set()
    turns = 0
    while time.monotonic() < until:
        for name, operation in OPERATIONS.items():
            if name in ("create", "repair"):  # one makes another layout, one writes by itself
                continue
            error = attempt(operation, place, LEVELS[turns % len(LEVELS)])
            temp.HAVE_O_TMPFILE = True
            turns += 1
            # What leads elsewhere at the moment is missing for a scrub.
            if error is not None and error.startswith(SUSPECT) and "scrub" not in error:
                problems.add(f"{name}: {error}")
            problems.update(look(place))
    child.tell(turns, sorted(problems))


def look(place: str) -> Iterator[str]:
    try:
        with fastcas.open(f"{place}/layout") as cas:
            if NAMED_BY_NOBODY in cas.list_references():
                yield "the index is the one outside"
            if cas.read_blob(digest_of(OLD)) != OLD:
                yield "a blob is the one outside"
    except fastcas.DigestMismatchError as error:
        yield f"read outside: {error}"
    except (fastcas.FastCASError, OSError):
        pass


# ---- the attacker


def race(layout: str, links: str) -> None:
    """Exchanges the parts with links, to and fro, until its standard input ends."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    pairs = [
        (f"{links}/{number}".encode(), f"{layout}/{part}".encode()) for number, part in enumerate(PARTS)
    ]
    count = 0
    while not stop.is_set():
        link, part = pairs[count % len(pairs)]
        for _ in range(2):
            _libc.renameat2(_AT_FDCWD, link, _AT_FDCWD, part, _EXCHANGE)
            time.sleep(0.0001 * (count % 7))
        count += 1
    for link, part in pairs:  # what is a link was left by half an exchange
        if os.path.islink(part):
            _libc.renameat2(_AT_FDCWD, link, _AT_FDCWD, part, _EXCHANGE)
    child.tell(count)


# ---- the gate


def run(gate: Run) -> None:
    users = (None, 65534) if os.geteuid() == 0 else (None,)
    for user in users:
        for _ in range(gate.rounds(1, 6)):
            attack(gate, user)


def attack(gate: Run, user: int | None) -> None:
    place = gate.place / "place"
    place.mkdir()
    child.start(prepare, place / "layout", ["one", "two"]).communicate()
    child.start(prepare, place / "source", ["copied"]).communicate()
    outside, links = gate.place / "outside", gate.place / "links"
    make_outside(outside)
    links.mkdir()
    for number, part in enumerate(PARTS):
        (links / str(number)).symlink_to(outside / part)
    prefix = []
    if user is not None:
        for folder in (place, links, outside):
            subprocess.run(["chown", "-R", f"{user}:{user}", folder], check=True)
        gate.place.chmod(0o755)
        prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    before = describe(outside)
    name = "as root" if user is None and os.geteuid() == 0 else "as a user"
    attacker = child.start(race, place / "layout", links)
    victim = child.start(work, place, gate.pick(4.0, 30.0), mutant=gate.mutant, prefix=prefix)
    output, _ = victim.communicate()
    counts, _ = attacker.communicate()
    results = list(child.events(output))
    problems = ["the victim died"] if not results else results[0][1]
    gate.trials += results[0][0] if results else 0
    gate.faults += sum(count for (count,) in child.events(counts))
    after = describe(outside)
    problems += [
        f"outside: {path}" for path in {*before, *after} if before.get(path) != after.get(path)
    ]
    problems += look(str(place))
    for folder in (place, outside, links):
        shutil.rmtree(folder)
    gate.check(name, problems)


def make_outside(outside: Path) -> None:
    """Like a layout, and not ours."""
    (outside / "blobs" / "sha256").mkdir(parents=True)
    (outside / "blobs" / digest_of(OLD).replace(":", "/")).write_bytes(EVIL)
    entry = {
        "mediaType": LAYER,
        "digest": digest_of(OLD),
        "size": len(OLD),
        "annotations": {REF_NAME: NAMED_BY_NOBODY},
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    (outside / "index.json").write_text(json.dumps(index))
    (outside / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def describe(tree: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a write, a chmod, a chown, a touch or a new name would change."""
    found = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        found[str(path.relative_to(tree))] = (
            facts.st_mode, facts.st_uid, facts.st_gid, facts.st_nlink,
            facts.st_mtime_ns, facts.st_ctime_ns,
            hashlib.sha256(content).hexdigest(),
        )  # fmt: skip
    return found


GATE = Gate(
    letter="L",
    title="links that lead outside",
    run=run,
    mutants=("last-link-only",),
)
