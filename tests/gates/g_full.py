"""Gate G: the disk is full, or has no inode left; files may not grow; no descriptor is left.

In a process of its own, on a tmpfs of its own whose size and number of inodes are those in use and n
more. An engine that was open before does an operation: it must succeed, or raise an OSError that has
the right errno and names a file. Then what was stored can be read, nothing is left over, and with
room again the same engine does the operation.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import gc
import io
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastcas
from fastcas import Descriptor
from fastcas.dir import temp
from fastcas.dir.durability import LEVELS
from gates import child, workloads
from gates.child import tell
from gates.harness import Gate, Run
from gates.invariants import OURS, TEMP, Expected, check, open_files, recover, snapshot
from gates.workloads import LAYER, OLD, Writer, digest_of, noise, prepare

SMALL, MIDDLE, LARGE = noise(500, "small"), noise(150_000, "middle"), noise(3 << 20, "large")


# ---- operations of an open engine; each can be tried again


def create(writer: Writer, place: str) -> None:
    layout = f"{place}/new/layout"
    shutil.rmtree(layout, ignore_errors=True)
    try:
        fastcas.create(layout, durability=writer.level).close()
    except OSError:
        if os.path.lexists(layout):
            raise AssertionError("half a layout is left") from None
        raise
    fastcas.open(layout).close()


def put(writer: Writer, place: str) -> None:
    writer.put(SMALL)
    writer.put(bytearray(MIDDLE))
    writer.put(Path(place, "file"))
    writer.put(SMALL, algorithm="sha512")  # whose directory is new
    writer.sync()


def put_large(writer: Writer, place: str) -> None:
    writer.put(LARGE)
    writer.sync()


def put_many(writer: Writer, place: str) -> None:
    """More than may wait at once, where few files may be open."""
    for number in range(40):
        writer.put(noise(100 + number, number))
        if number % 4 == 0:
            writer.put(bytearray(noise(5000 + number, number)))
    writer.sync()


def put_blobs(writer: Writer, place: str) -> None:
    writer.put_blobs([*(noise(100 + n, n) for n in range(30)), MIDDLE, bytearray(MIDDLE[1:]), OLD])
    writer.put_blobs([Path(place, "file"), LARGE])


def put_again(writer: Writer, place: str) -> None:
    for content in OLD, bytearray(OLD):
        writer.put(content)
    writer.put_blobs([OLD, SMALL])
    writer.sync()


def update_index(writer: Writer, place: str) -> None:
    digest = writer.put(MIDDLE)  # first: once it is lost, no index is written without it
    writer.image("new")
    entry = Descriptor(LAYER, digest, len(MIDDLE))
    writer.tag({"blob": entry, "one": None, **{f"many-{n}": entry for n in range(60)}})


def delete(writer: Writer, place: str) -> None:
    writer.delete(digest_of(OLD))


def collect(writer: Writer, place: str) -> None:
    writer.tag({"one": None})
    writer.gc()


def scrub(writer: Writer, place: str) -> None:
    """Whose checksums of large blobs can't be kept: that is no error."""
    for quick in False, True:
        if writer.cas.scrub(quick=quick, threads=2).problems:
            raise AssertionError("scrub finds what isn't there")


def clean(writer: Writer, place: str) -> None:
    Path(place, "layout", DEBRIS).touch()
    writer.cas.clean()


def compress(writer: Writer, place: str) -> None:
    tell("storing", writer.level, [COMPRESSED])
    writer.cas.put_blob(MIDDLE, compress="gzip")
    tell("stored", writer.level, [COMPRESSED])
    writer.sync()


def copy(writer: Writer, place: str) -> None:
    with fastcas.open(f"{place}/source") as source:
        writer.copy(source, "copied")


def read(writer: Writer, place: str) -> None:
    for path in writer.cas.walk(writer.cas.resolve_reference("two")[0]):
        writer.cas.read_blob(path[-1].digest)
    writer.cas.copy_blob(path[-1].digest, f"{place}/copied", verify=True)
    os.unlink(f"{place}/copied")


OPERATIONS: dict[str, Callable[[Writer, str], None]] = {
    operation.__name__: operation
    for operation in (
        create,
        put,
        put_large,
        put_many,
        put_blobs,
        put_again,
        update_index,
        delete,
        collect,
        scrub,
        clean,
        compress,
        copy,
        read,
    )
}
DEBRIS = f".fastcas-{'0' * 16}.tmp"
COMPRESSED = ""  # the digest of what ``compress`` puts


# ---- what there is only so much of


class Disk:
    """A tmpfs at ``path``, which can be made small."""

    _REMOUNT = 32  # sys/mount.h

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount(0)

    def _mount(self, flags: int, *, size: int = 64 << 20, inodes: int = 100_000) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"size={size},nr_inodes={inodes},mode=755".encode()
        if libc.mount(b"none", os.fsencode(self.path), b"tmpfs", flags, options):
            raise OSError(ctypes.get_errno(), f"tmpfs with {options!r}")

    @contextlib.contextmanager
    def with_pages(self, left: int) -> Iterator[None]:
        facts = os.statvfs(self.path)
        used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        self._mount(self._REMOUNT, size=used + left * 4096)
        yield
        self._mount(self._REMOUNT)

    @contextlib.contextmanager
    def with_inodes(self, left: int) -> Iterator[None]:
        facts = os.statvfs(self.path)
        self._mount(self._REMOUNT, inodes=facts.f_files - facts.f_ffree + left)
        yield
        self._mount(self._REMOUNT)


@contextlib.contextmanager
def limited(limit: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, hard))
    yield
    resource.setrlimit(limit, (soft, hard))


def with_descriptors(left: int) -> contextlib.AbstractContextManager[None]:
    taken = [os.dup(0)]  # the lowest number that is free, and the next ones
    while len(taken) <= left:
        taken.append(os.dup(0))
    for fd in taken:
        os.close(fd)
    return limited(resource.RLIMIT_NOFILE, taken[-1])


#: What may be scarce; the errno of that; how much of it is tried.
SCARCE: dict[str, tuple[int, list[int]]] = {
    "nothing": (0, []),
    "pages": (errno.ENOSPC, [*range(12), 16, 24, 32, 40, 48, 64, 100, 150, 250, 512, 1000]),
    "inodes": (errno.ENOSPC, [*range(16), *range(16, 64, 8)]),
    "bytes of a file": (
        errno.EFBIG,
        [0, 1, 31, 90, 499, 500, 501, 2000, 4096, 9000, 65536, 149_999, 150_000, 1 << 20, 2 << 20],
    ),
    "descriptors": (errno.EMFILE, [*range(16), 20, 24, 32, 48]),
}


def plan() -> list[tuple[str, int, str, str, bool]]:
    """All the trials: what is scarce, how much is left, operation, level, whether files have names."""
    return [
        (what, left, operation, level, named)
        for what, (_, amounts) in SCARCE.items()
        for left in amounts
        for operation in OPERATIONS
        for level in LEVELS
        for named in (False, True)
    ]


# ---- the process


def serve(place: str, prepared: str, events: list[Any]) -> None:
    """Does the trials of ``place``/plan and tells of each what was wrong."""
    global COMPRESSED
    told: list[Any] = []
    workloads.tell = globals()["tell"] = lambda *event: told.append(event)
    disk = Disk(Path(place, "disk"))
    with fastcas.create(disk.path / "scratch") as scratch:
        COMPRESSED = scratch.put_blob(MIDDLE, compress="gzip").digest
    shutil.rmtree(disk.path / "scratch")
    trials = json.loads(Path(place, "plan").read_text())
    for trial in trials:
        faulthandler.dump_traceback_later(60, exit=True)
        told.clear()
        shutil.copytree(prepared, disk.path / "place")
        faults, problems = try_one(disk, told, events, *trial)
        shutil.rmtree(disk.path / "place")
        child.tell(trial, faults, problems)
    faulthandler.cancel_dump_traceback_later()


def try_one(
    disk: Disk,
    told: list[Any],
    events: list[Any],
    what: str,
    left: int,
    name: str,
    level: str,
    named: bool,
) -> tuple[int, list[str]]:
    place = disk.path / "place"
    problems: list[str] = []
    expected = Expected()
    expected.feed(events)
    before = open_files()
    temp.HAVE_O_TMPFILE = not named
    writer = Writer(str(place / "layout"), level)
    with scarce(disk, what, left):
        error = attempt(OPERATIONS[name], writer, place)
        learn(expected, told)
        if what in ("pages", "inodes", "bytes of a file"):
            problems += unreadable(writer, expected)
    gc.collect()
    if error is not None:
        problems += misnamed(error, SCARCE[what][0])
        if level in ("full", "none"):  # at the others what waits may be there
            found = os.listdir(place / "layout")
            problems += [f"left over: {n}" for n in found if TEMP.fullmatch(n) and n != DEBRIS]
        problems += check(snapshot(place / "layout"), expected)
        again = attempt(OPERATIONS[name], writer, place)
        if again is not None:
            problems.append(f"tried again: {again!r} (at first: {error!r})")
        learn(expected, told)
        again = None
    closed = attempt(lambda writer, _: writer.close(), writer, place)
    if closed is not None:
        problems.append(f"close: {closed!r}")
    learn(expected, told)
    failed = int(error is not None)
    error = closed = None  # what their frames hold is none of the engine's
    gc.collect()
    if open_files() != before:
        problems.append(f"open before: {before}, now: {open_files()}")
    strays = set(os.listdir(place / "layout")) - {"oci-layout", "index.json", "blobs", *OURS}
    problems += [f"left over: {stray}" for stray in strays]
    problems += check(snapshot(place / "layout"), expected)
    problems += recover(place / "layout", expected)
    if failed and not problems:
        writer = Writer(str(place / "layout"), "none")
        damage = attempt(scrub, writer, place)
        if damage is not None:
            problems.append(f"afterwards: {damage!r}")
        writer.close()
    return failed, problems


def scarce(disk: Disk, what: str, left: int) -> contextlib.AbstractContextManager[None]:
    if what == "pages":
        return disk.with_pages(left)
    if what == "inodes":
        return disk.with_inodes(left)
    if what == "bytes of a file":
        return limited(resource.RLIMIT_FSIZE, left)
    if what == "descriptors":
        return with_descriptors(left)
    return contextlib.nullcontext()


def attempt(
    operation: Callable[[Writer, str], None], writer: Writer, place: Path
) -> BaseException | None:
    try:
        operation(writer, str(place))
    except BaseException as error:
        return error
    return None


def misnamed(error: BaseException, number: int) -> Iterator[str]:
    """What is wrong with an error that should say what was lacking."""
    if not isinstance(error, OSError) or error.errno != number:
        yield f"{error!r}, not {errno.errorcode.get(number)}"
    elif error.filename is None and not getattr(error, "lost", ()):
        yield f"{error!r} names no file"


def unreadable(writer: Writer, expected: Expected) -> Iterator[str]:
    """What can't be read while there is no room."""
    for digest in expected.durable:
        try:
            with writer.cas.get_blob(digest) as blob:
                blob.verify()
        except (OSError, fastcas.FastCASError) as error:
            yield f"can't be read without room: {error!r}"


def learn(expected: Expected, told: list[Any]) -> None:
    """Nothing crashes here: what was put at "none" has to be there as well."""
    expected.feed(
        [kind, *["full" if fact == "none" else fact for fact in facts]] for kind, *facts in told
    )
    told.clear()


# ---- the gate


def run(gate: Run) -> None:
    prepared = gate.place / "prepared"
    prepared.mkdir()
    (prepared / "file").write_bytes(noise(70_000, "file"))
    events = []
    for name, images in ("source", ["copied"]), ("layout", ["one", "two"]):
        with child.start(prepare, str(prepared / name), images) as process:
            events = list(child.events(process.communicate()[0]))
    # First where nothing is scarce, so that all is imported.
    first = [("nothing", 0, operation, "full", False) for operation in OPERATIONS]
    trials = plan()
    gate.random.shuffle(trials)
    (gate.place / "plan").write_text(json.dumps(first + trials[: gate.rounds(350, len(trials))]))
    process = child.start(serve, gate.place, prepared, events, mutant=gate.mutant, prefix=namespace())
    try:
        assert process.stdout is not None
        for line in io.BufferedReader(process.stdout):  # type: ignore[type-var]
            trial, faults, problems = json.loads(line)
            gate.trials += 1
            gate.faults += faults
            gate.check(" ".join(map(str, trial)), problems)
        if process.wait() != 0:
            if not gate.trials:  # it couldn't even begin: that shows nothing
                raise RuntimeError(f"the process ended with {process.returncode}")
            gate.violate(f"the process ended with {process.returncode}")
    finally:
        process.kill()
        process.communicate()


def namespace() -> list[str]:
    """A command's beginning: it may mount, and its mounts end with it."""
    return (
        ["unshare", "--mount"]
        if os.geteuid() == 0
        else ["unshare", "--user", "--map-root-user", "--mount"]
    )


def missing() -> str | None:
    command = [*namespace(), "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return f"no mounts of our own here: {done.stderr.strip()}" if done.returncode else None


GATE = Gate(
    letter="G",
    title="full disk, no inodes, limits",
    run=run,
    mutants=(
        "temps-kept",
        "errors-leak-files",
        "wrong-errors",
        "errors-unnamed",
        "failures-of-put-blobs-forgotten",
        "lost-forgotten",
        "index-in-place",
        "half-layouts-kept",
        "checksums-required",
    ),
    missing=missing,
)
