"""What lies under ``blobs/``: blobs with their sizes and times, and whatever somebody left there."""

from __future__ import annotations

import stat
import time

from fastcas import _core
from fastcas.digest import Digest
from fastcas.dir.root import DIRECTORY
from fastcas.errors import InvalidError
from fastcas.layout import BLOBS
from fastcas.results import StoredBlob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Generator, Iterator

    from fastcas.dir.root import Root

# linux/time.h; the time module has no name for it. Files get their times from this clock.
_CLOCK_REALTIME_COARSE = 5
# What filesystems keep of a time, at worst: FAT, others of old, exFAT.
_SECOND = 1_000_000_000
_UNITS = (2 * _SECOND, _SECOND, _SECOND // 100)
# The clock advances at least a hundred times in a second.
_TICK = 0.001  # seconds
_TICKS = 1000


def read_file_clock() -> int:
    """The time of the clock that stamps files, in nanoseconds, once it is past the time of this call.

    That clock advances in ticks of some milliseconds, some of them late, and from Linux 6.13 on a file
    may get the exact time instead. What was written before this call has an earlier time than what
    is returned, whichever it got, and what is written after it has none earlier.
    """
    called = time.time_ns()
    for _ in range(_TICKS):
        now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
        if now > called:
            return now
        time.sleep(_TICK)
    return called  # the clock was set back meanwhile: what was written then counts as young


def times_of(modified: int, changed: int) -> tuple[int, int]:
    """When a file was put last, and when anything about it, its name included, changed last; of its
    two times, all in nanoseconds.

    The first is what a put sets, and anybody may set to whatever time; the second is the kernel's:
    a put whose bytes were written long before they got their name shows there alone.
    """
    latest = changed if changed > modified else modified
    if latest % _UNITS[-1] == 0:  # cut off, perhaps: then it was any time of that unit
        latest += next(unit for unit in _UNITS if latest % unit == 0) - 1
    return modified, latest


def scan_blobs(root: Root, known: Container[str]) -> Generator[StoredBlob, None, int]:
    """Everything under ``blobs/``, in no order, lazily; see ``Engine.scan_blobs``."""
    left_out = 0
    with root.open(BLOBS, DIRECTORY) as directory:
        parent = root.join(BLOBS)
        for name, mode, size, *times in _all_entries(directory):
            is_algorithm = _core.split_digest(f"{name}:0") > 0
            if is_algorithm and stat.S_ISDIR(mode):
                left_out += yield from _scan_algorithm(root, name, known)
            else:
                kind = "non-regular" if is_algorithm else "bad-name"
                yield StoredBlob(f"{parent}/{name}", None, size, *times_of(*times), kind)
    return left_out


def _all_entries(directory: int) -> Iterator[tuple[str, int, int, int, int]]:
    while (batch := _core.read_entries(directory, "", ())) is not None:
        yield from batch[0]


def _scan_algorithm(
    root: Root, algorithm: str, known: Container[str]
) -> Generator[StoredBlob, None, int]:
    left_out = 0
    try:
        opened = root.open(f"{BLOBS}/{algorithm}", DIRECTORY)
    except (InvalidError, FileNotFoundError, NotADirectoryError):
        return left_out  # gone by now
    with opened as directory:
        parent = root.join(f"{BLOBS}/{algorithm}")
        prefix = f"{algorithm}:"
        while (batch := _core.read_entries(directory, prefix, known)) is not None:
            entries, count = batch
            left_out += count
            for name, mode, size, modified, changed in entries:
                times = times_of(modified, changed)
                try:
                    digest = Digest(prefix + name)
                except InvalidError:
                    yield StoredBlob(f"{parent}/{name}", None, size, *times, "bad-name")
                    continue
                is_file = stat.S_ISREG(mode)
                if is_file and digest in known:  # of a directory that doesn't say what is a file
                    left_out += 1
                    continue
                kind = "blob" if is_file else "non-regular"
                yield StoredBlob(parent, digest, size, *times, kind)
    return left_out
