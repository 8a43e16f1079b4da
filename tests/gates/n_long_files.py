"""Gate N: files around 2 and 4 GiB, through every way in and out.

They are sparse, with marks where a counter of 32 bits would turn over, signed or not. What is stored
has the digest that hashlib finds, comes out as it went in, and costs no more memory than a short one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastcas
from gates import child
from gates.harness import Gate, Run

GIB = 1 << 30
SIZES = (2 * GIB - 1, 2 * GIB, 2 * GIB + 1, 4 * GIB + 1)
MARKS = (0, 2 * GIB - 5, 4 * GIB - 5)  # of ten bytes

#: MiB that a process may need above what it has after importing us, whatever the size.
MEMORY = 24

CHUNK = 1 << 20


class OnlyRead:
    def __init__(self, path: str) -> None:
        self._file = io.FileIO(path)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, CHUNK) if size >= 0 else CHUNK)


class Into:
    def __init__(self, path: str) -> None:
        self._file = io.FileIO(path)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0


def pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            yield piece


WAYS: dict[str, Callable[[fastcas.DirEngine, str, Any], Any]] = {
    "path": lambda cas, path, progress: cas.put_blob(Path(path), progress=progress),
    "put_blobs": lambda cas, path, progress: cas.put_blobs([Path(path)], progress=progress)[0],
    "file": lambda cas, path, progress: cas.put_blob(open(path, "rb"), progress=progress),
    "readinto": lambda cas, path, progress: cas.put_blob(Into(path), progress=progress),
    "read": lambda cas, path, progress: cas.put_blob(OnlyRead(path), progress=progress),
    "pieces": lambda cas, path, progress: cas.put_blob(pieces(path), progress=progress),
}


def make(path: Path, size: int) -> str:
    """The sparse file; its digest."""
    with path.open("wb") as file:
        file.truncate(size)
        for mark in MARKS:
            if mark + 10 <= size:
                file.seek(mark)
                file.write(b"mark%06d" % (mark % 999_983))
    state = hashlib.sha256()
    for piece in pieces(os.fspath(path)):
        state.update(piece)
    return f"sha256:{state.hexdigest()}"


def peak() -> int:
    """KiB."""
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmHWM")))


def through(place: str, way: str, size: int, digest: str) -> None:
    """Stores the source and reads it back in every way; tells what is wrong."""
    problems = []
    source = f"{place}/source"
    counts: list[tuple[int, int | None]] = []
    try:
        with fastcas.open(f"{place}/layout", durability="none") as cas:
            cas.put_blob(b"first")
            before = peak()
            result = WAYS[way](cas, source, lambda *count: counts.append(count))
            if result != (digest, size):
                problems.append(f"stored {result}, not {digest} of {size}")
            done = [count[0] for count in counts]
            if done != sorted(done) or not done or done[-1] != size:
                problems.append(f"progress to {done[-1:]}")
            if cas.stat_blob(digest).size != size:
                problems.append("stat tells another size")
            buffer = memoryview(bytearray(CHUNK))
            total = 0
            with cas.get_blob(digest) as blob:
                while count := blob.readinto(buffer):
                    total += count
                if (total, blob.verified) != (size, True):
                    problems.append(f"a read of {total} bytes")
                blob.seek(size - 3)
                if len(blob.read()) != 3:
                    problems.append("a read of the end")
            for options in ({"quick": True}, {"threads": 2}):
                report = cas.scrub(**options)
                if report.problems:
                    problems.append(f"scrub: {report.problems}")
            if peak() - before > MEMORY << 10:
                problems.append(f"{peak() - before} KiB of memory")
    except (fastcas.FastCASError, OSError) as error:
        problems.append(repr(error))
    child.tell(problems)


def run(gate: Run) -> None:
    ways = list(WAYS) if gate.soak else ["path", "put_blobs", "readinto"]
    for size in gate.pick(SIZES[-1:], SIZES):
        digest = make(gate.place / "source", size)
        for way in ways:
            layout = gate.place / "layout"
            fastcas.create(layout, durability="none").close()
            process = child.start(through, gate.place, way, size, digest, mutant=gate.mutant)
            output, _ = process.communicate()
            results = list(child.events(output))
            gate.trials += 1
            gate.faults += len(MARKS)
            shutil.rmtree(layout)
            gate.check(f"{size} bytes by {way}", results[0][0] if results else ["it died"])


def missing() -> str | None:
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    return None if free > 6 * GIB else "needs 6 GiB of tmpfs at /dev/shm"


GATE = Gate(
    letter="N",
    title="files of more than 2 and 4 GiB",
    run=run,
    mutants=("offsets-of-32-bits",),
    missing=missing,
)
