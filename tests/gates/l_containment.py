"""Gate L: nothing outside a layout is read, written, or given other modes, owners or times.

The layout is an enemy's: something stands where a part of it should be, a link to a tree outside, or a
second name of a file there; or a process swaps a part with such a link all the time. Every operation is
done on it by root, by root on a user's layout, and by a user. The tree outside must stay as it is,
down to the times at which its files were read.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import json
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastcas
from fastcas.dir.durability import LEVELS
from gates import child, g_full, workloads
from gates.harness import Gate, Run
from gates.invariants import REF_NAME
from gates.workloads import OLD, Writer, digest_of, prepare

NOBODY = 65534
WHO = ("root", "root on a user's layout", "user")
SOME = 150  # trials of each

_OLD = f"blobs/{digest_of(OLD).replace(':', '/')}"

#: Parts of a layout, and what of the tree outside a link leads to.
PARTS = {
    "blobs": "",
    "blobs/sha256": "sha256",
    _OLD: "secret",
    "index.json": "index.json",
    "oci-layout": "oci-layout",
    ".fastcas.lock": "secret",
    ".fastcas.xxh128": "secret",
    f".fastcas-{'1' * 16}.tmp": "secret",
    ".umoci-1234567": "",
}
KINDS = ("link", "dangling link", "hard link", "pipe", "swapped")


def scrub(writer: Writer, place: str) -> None:
    """It may find damage here."""
    for quick in False, True:
        writer.cas.scrub(quick=quick, threads=1)


def open_again(writer: Writer, place: str) -> None:
    with fastcas.open(f"{place}/layout") as cas:
        if any(entry.annotations[REF_NAME] == "trap" for entry in cas.get_index().manifests):
            raise AssertionError("the index outside was read")


def read_old(writer: Writer, place: str) -> None:
    digest = digest_of(OLD)
    with writer.cas.get_blob(digest) as blob:
        if blob.read() != OLD:
            raise AssertionError("a blob outside was read")
    writer.cas.copy_blob(digest, f"{place}/copied", link=True)


def use_odd_digests(writer: Writer, place: str) -> None:
    """None of them may do anything."""
    cas = writer.cas
    outside = f"{place}/outside"
    for digest in (
        "sha256:../../../outside/secret",
        f"sha256:{outside}/secret",
        f"sha256:../../../outside/{'a' * 64}",
        "../../outside:secret",
        f"{outside}:secret",
        "sha256:" + "../" * 20 + outside.lstrip("/") + "/secret",
        "sha256:.",
        "sha256:..",
    ):
        for call in (
            cas.delete_blob,
            cas.get_blob,
            cas.read_blob,
            cas.stat_blob,
            lambda digest: cas.copy_blob(digest, f"{place}/copied"),
            lambda digest: cas.put_blob(b"outside", expected_digest=digest),
        ):
            with contextlib.suppress(fastcas.FastCASError):
                call(digest)
                raise AssertionError(f"{digest!r} was taken for a digest")


OPERATIONS: dict[str, Callable[[Writer, str], None]] = {
    **{name: do for name, do in g_full.OPERATIONS.items() if name not in ("put_large", "put_many")},
    **{function.__name__: function for function in (scrub, open_again, read_old, use_odd_digests)},
}


class Outside:
    """A tree that must stay as it is. Its times of reading are old, so that a reading is noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "sha256").mkdir(parents=True)
        encoded = digest_of(OLD).encoded
        for name in "secret", "a" * 64, encoded, f"sha256/{encoded}":
            (path / name).write_bytes(b"outside")
        (path / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
        entry: dict[str, Any] = {"mediaType": "a/b", "digest": digest_of(OLD), "size": len(OLD)}
        entry["annotations"] = {REF_NAME: "trap"}
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))

    def remember(self) -> None:
        self._known = self._paths()
        self._facts = self._look()

    def changes(self, *, may_be_read: bool) -> Iterator[str]:
        now = self._look()
        yield from (f"outside, appeared: {path}" for path in set(self._paths()) - set(self._known))
        for path, before in self._facts.items():
            if path not in now:
                yield f"outside, gone: {path}"
                continue
            for what, fact in now[path].items():
                if fact != before[what] and not (what == "atime" and may_be_read):
                    yield f"outside, {path}: {what} was {before[what]}, is {fact}"

    def _look(self) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = {}
        for path in self._known:
            with contextlib.suppress(FileNotFoundError):
                facts = os.lstat(path)
                names = ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_atime_ns")
                found[path] = {name[3:].removesuffix("_ns"): getattr(facts, name) for name in names}
        for path, facts_of in found.items():
            if stat.S_ISREG(os.lstat(path).st_mode):
                facts_of["content"] = Path(path).read_bytes()
            if getattr(self, "_facts", None) is None:
                facts_of["atime"] = _OLD_TIME
            os.utime(path, ns=(_OLD_TIME, os.lstat(path).st_mtime_ns))
        return found

    def _paths(self) -> list[str]:
        found = [str(self.path)]
        for folder, folders, files in os.walk(self.path):
            found += [os.path.join(folder, name) for name in (*folders, *files)]
        for path in found:  # listing a directory is reading it
            os.utime(path, ns=(_OLD_TIME, os.lstat(path).st_mtime_ns))
        return found


_OLD_TIME = 10**9  # nanoseconds


# ---- traps


def plant(layout: Path, part: str, kind: str, outside: Path) -> contextlib.AbstractContextManager[Any]:
    """Puts the trap there; the context is as long as it stands."""
    place = layout / part
    target = outside / PARTS[part]
    if kind == "swapped":
        if not os.path.lexists(place):
            place.write_bytes(b"")
        (layout / "swap").symlink_to(target)
        return swapping(place, layout / "swap")
    if kind == "hard link":
        if place.is_dir():
            place = place / "foreign"
        if not place.exists():
            place.write_bytes(b"")
        os.link(place, outside / "linked")
        return contextlib.nullcontext()
    if os.path.lexists(place):
        place.rename(layout / "away")
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(target if kind == "link" else outside / "nothing")
    return contextlib.nullcontext()


@contextlib.contextmanager
def swapping(one: Path, two: Path) -> Iterator[None]:
    """A process exchanges the two names all the time."""
    libc = ctypes.CDLL(None)
    renameat2 = libc.renameat2
    at_cwd, exchange = -100, 2
    names = os.fsencode(one), os.fsencode(two)
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with its parent, however that ends
        while True:
            renameat2(at_cwd, names[0], at_cwd, names[1], exchange)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# ---- the process


def plan() -> list[tuple[str, str, str, str]]:
    """All the trials: kind of trap, part, operation, level."""
    return [
        (kind, part, operation, level)
        for kind in KINDS
        for part in PARTS
        for operation in OPERATIONS
        for level in LEVELS
    ]


def serve(place: str, prepared: str, who: str, chosen: str, times: int) -> None:
    """Does the trials as ``who`` and tells of each what was wrong."""
    workloads.tell = g_full.tell = lambda *event: None
    mine = Path(place, "trials")
    mine.mkdir()
    trials = json.loads(Path(chosen).read_text())
    warm_up(mine, prepared)
    if who == "user":
        os.chown(mine, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    for trial in trials:
        # An index that never rests is read again for 5 s each time before it is given up.
        faulthandler.dump_traceback_later(240, exit=True)
        shutil.copytree(prepared, mine / "place")
        child.tell(trial, list(try_one(mine / "place", who, times, *trial)))
        shutil.rmtree(mine / "place")
    faulthandler.cancel_dump_traceback_later()


def warm_up(mine: Path, prepared: str) -> None:
    """Imports what is needed, some of which a user may not be able to read."""
    for operation in OPERATIONS.values():
        shutil.copytree(prepared, mine / "warm")
        Outside(mine / "warm" / "outside")
        writer = Writer(str(mine / "warm/layout"), "full")
        g_full.attempt(operation, writer, mine / "warm")
        writer.close()
        shutil.rmtree(mine / "warm")


def try_one(
    place: Path, who: str, times: int, kind: str, part: str, name: str, level: str
) -> Iterator[str]:
    layout = place / "layout"
    outside = Outside(place / "outside")
    if who == "root on a user's layout":
        for folder, folders, files in os.walk(place / "layout"):
            for one in ("", *folders, *files):
                os.chown(os.path.join(folder, one), NOBODY, NOBODY, follow_symlinks=False)
    writer = Writer(str(layout), level)
    trap = plant(layout, part, kind, outside.path)
    outside.remember()
    with trap:
        for _ in range(times if kind == "swapped" else 1):
            error = g_full.attempt(OPERATIONS[name], writer, place)
            if error is not None and not isinstance(error, (fastcas.FastCASError, OSError)):
                yield repr(error)
            yield from outside.changes(may_be_read=kind == "hard link")
        g_full.attempt(lambda writer, _: writer.close(), writer, place)
    yield from outside.changes(may_be_read=kind == "hard link")
    if who == "root on a user's layout":
        yield from roots_files(layout, part, kind)


def roots_files(layout: Path, part: str, kind: str) -> Iterator[str]:
    """What now belongs to root in a user's layout, but for the trap and what the operations plant."""
    for folder, folders, files in os.walk(layout):
        for one in (*folders, *files):
            path = os.path.join(folder, one)
            facts = os.lstat(path)
            planted = one in ("swap", "foreign", g_full.DEBRIS) or path == str(layout / part)
            if facts.st_uid == 0 and not planted:
                yield f"root's: {os.path.relpath(path, layout)}"


# ---- the gate


def run(gate: Run) -> None:
    gate.place.chmod(0o755)  # for the user
    prepared = gate.place / "prepared"
    prepared.mkdir()
    (prepared / "file").write_bytes(workloads.noise(70_000, "file"))
    for name, images in ("source", ["copied"]), ("layout", ["one", "two"]):
        with child.start(prepare, str(prepared / name), images) as process:
            process.communicate()
    trials = plan()
    for _ in range(gate.rounds(1, len(trials) // SOME)):
        for who in WHO if os.geteuid() == 0 else WHO[-1:]:
            chosen = gate.random.sample(trials, SOME)
            (gate.place / "plan").write_text(json.dumps(chosen))
            judge(gate, who, prepared, gate.place / "plan")
            shutil.rmtree(gate.place / "trials")


def judge(gate: Run, who: str, prepared: Path, chosen: Path) -> None:
    times = gate.pick(5, 30)
    before = gate.trials
    process = child.start(serve, gate.place, prepared, who, chosen, times, mutant=gate.mutant)
    try:
        assert process.stdout is not None
        for line in io.BufferedReader(process.stdout):  # type: ignore[type-var]
            trial, problems = json.loads(line)
            gate.trials += 1
            gate.faults += 1
            gate.check(f"{who}: {', '.join(trial)}", problems)
        if process.wait() != 0:
            if gate.trials == before:  # it couldn't even begin: that shows nothing
                raise RuntimeError(f"{who}: the process ended with {process.returncode}")
            gate.violate(f"{who}: the process ended with {process.returncode}")
    finally:
        process.kill()
        process.communicate()


GATE = Gate(
    letter="L",
    title="containment",
    run=run,
    mutants=(
        "links-of-leaves-refused",
        "looked-then-opened",
        "digests-unchecked",
        "second-names-taken",
        "owner-ignored",
    ),
)
