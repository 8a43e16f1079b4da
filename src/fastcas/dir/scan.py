"""What lies under ``blobs/``: blobs with their sizes and times, and whatever somebody left there."""

from __future__ import annotations

import os
import stat
import time

from fastcas import _core
from fastcas.digest import Digest
from fastcas.dir.root import BLOBS, DIRECTORY
from fastcas.errors import InvalidError
from fastcas.results import StoredBlob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from fastcas.dir.root import Root

# linux/time.h; the time module has no name for it. Files get their times from this clock.
_CLOCK_REALTIME_COARSE = 5
_SECOND = 1_000_000_000
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


def times_of(facts: os.stat_result) -> tuple[int, int]:
    """When a file was put last, and when anything about it, its name included, changed last.

    The first is what a put sets, and anybody may set to whatever time; the second is the kernel's:
    a put whose bytes were written long before they got their name shows there alone.
    """
    changed = max(facts.st_mtime_ns, facts.st_ctime_ns)
    if changed % _SECOND == 0:  # a filesystem that keeps only seconds
        changed += _SECOND - 1
    return facts.st_mtime_ns, changed


def scan_blobs(root: Root, known: Container[str]) -> Iterator[StoredBlob]:
    """Everything under ``blobs/``, in no order, lazily; see ``Engine.scan_blobs``."""
    directory = root.open(BLOBS, DIRECTORY)
    try:
        for entry in _entries(directory, "", ()):
            facts = _look(entry)
            if facts is None:
                continue
            is_algorithm = _core.split_digest(f"{entry.name}:0") > 0
            if is_algorithm and stat.S_ISDIR(facts.st_mode):
                yield from _scan_algorithm(root, entry.name, known)
            else:
                kind = "non-regular" if is_algorithm else "bad-name"
                yield _place(root.join(f"{BLOBS}/{entry.name}"), None, facts, kind)
    finally:
        os.close(directory)


def _scan_algorithm(root: Root, algorithm: str, known: Container[str]) -> Iterator[StoredBlob]:
    try:
        directory = root.open(f"{BLOBS}/{algorithm}", DIRECTORY)
    except (InvalidError, FileNotFoundError, NotADirectoryError):
        return  # gone by now
    try:
        parent = root.join(f"{BLOBS}/{algorithm}")
        for entry in _entries(directory, f"{algorithm}:", known):
            facts = _look(entry)
            if facts is None:
                continue
            path = f"{parent}/{entry.name}"
            try:
                digest = Digest(f"{algorithm}:{entry.name}")
            except InvalidError:
                yield _place(path, None, facts, "bad-name")
                continue
            yield _place(path, digest, facts, "blob" if stat.S_ISREG(facts.st_mode) else "non-regular")
    finally:
        os.close(directory)


def _entries(directory: int, prefix: str, known: Container[str]) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            # The directory itself says what is a file; only some filesystems make that a look at it.
            if prefix + entry.name not in known or not entry.is_file(follow_symlinks=False):
                yield entry


def _look(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _place(path: str, digest: Digest | None, facts: os.stat_result, kind: str) -> StoredBlob:
    return StoredBlob(path, digest, facts.st_size, *times_of(facts), kind)
