"""sweep: blobs that nothing refers to are removed, as long as the index is the one that says so.

Writers wait for the removal of names only. What takes long comes before the lock is taken (reading
the index, making it durable) or after it was given back: an inode lives while somebody has it open, so
that unlinking a gigabyte takes as long as unlinking a byte, and its space is freed when it is closed.
"""

from __future__ import annotations

import os
import stat
import time
from itertools import takewhile

from fastcas import _core
from fastcas.dir.root import DIRECTORY
from fastcas.dir.scan import times_of
from fastcas.errors import InvalidError
from fastcas.layout import BLOBS, INDEX_FILE
from fastcas.results import BlobInfo, Swept, is_unused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastcas.digest import Digest
    from fastcas.dir.lock import Lock
    from fastcas.dir.root import Root

# What one hold of the lock may take: so many descriptors, and about so much time.
_BATCH = 64
_HOLD = 0.005  # seconds

# A file can change twice within one tick of the clock that stamps it: a time that is so close to that
# of the look says nothing.
_AT_REST = 100_000_000  # nanoseconds

_CHUNK = 1 << 20


def sweep_blobs(
    root: Root,
    lock: Lock,
    digests: Sequence[Digest],
    *,
    raw_index: bytes,
    start: int,
    grace: int,
    durable: bool,
    progress: Callable[[int, int | None], object] | None,
) -> Swept:
    """See ``Engine.sweep_blobs``. ``raw_index`` is the index as it must be; ``durable``: it is synced
    before the first blob goes, since after a crash an older one would name what is gone."""
    removed: list[BlobInfo] = []
    position = freed = 0
    with _open_index(root) as index:
        witness = _Witness(root, index, raw_index, durable)
        while position < len(digests):
            held: list[_core.Held] = []
            count = len(removed)
            try:
                with lock.exclusive():
                    if not witness.holds():
                        break
                    batch = _take_batch(digests, position)
                    position += _unlink(root, batch, start, grace, removed, held)
            finally:
                for files in held:
                    files.close()
            freed += sum(blob.size for blob in removed[count:])
            if progress is not None:
                progress(freed, None)
    return Swept(removed, list(digests[position:]))


def _take_batch(digests: Sequence[Digest], position: int) -> list[Digest]:
    """What comes next, all of one algorithm."""
    algorithm = digests[position].algorithm
    prefix = f"{algorithm}:"
    batch = digests[position : position + _BATCH]
    return list(takewhile(lambda digest: digest.startswith(prefix), batch))


def _unlink(
    root: Root,
    digests: list[Digest],
    start: int,
    grace: int,
    removed: list[BlobInfo],
    held: list[_core.Held],
) -> int:
    """Unlinks what is unused still, and leaves it open in ``held``. Returns how many it came to."""
    until = time.monotonic() + _HOLD
    algorithm = digests[0].algorithm
    directory = _open_directory(root, algorithm)
    if directory is None:
        return len(digests)
    prefix = len(algorithm) + 1
    names = [digest[prefix:].encode() for digest in digests]
    with directory as fd:
        try:
            files = _core.Held(fd, names, until)
            held.append(files)
            sizes = {}
            for number, facts in enumerate(files.facts):
                if facts is None:
                    continue  # somebody else removed it
                mode, size, modified, changed = facts
                if stat.S_ISREG(mode) and is_unused(*times_of(modified, changed), start, grace):
                    sizes[number] = size
            # Nobody who locks can have put another file at one of these names since the look.
            chosen = list(sizes)
            gone, done = files.unlink(fd, chosen, until)
        except OSError as error:
            error.filename = root.join(f"{BLOBS}/{algorithm}/{names[error.item].decode()}")  # type: ignore[attr-defined]
            raise
    removed += [BlobInfo(digests[number], sizes[number]) for number in gone]
    return chosen[done] if done < len(chosen) else len(files.facts)


def _open_directory(root: Root, algorithm: str) -> _core.File | None:
    try:
        return root.open(f"{BLOBS}/{algorithm}", DIRECTORY)
    except (InvalidError, FileNotFoundError, NotADirectoryError):
        return None  # gone since it was listed


def _open_index(root: Root) -> _core.File:
    try:
        return root.open_regular(INDEX_FILE)[0]
    except FileNotFoundError as error:
        message = f"not a layout any more: no {INDEX_FILE}"
        raise InvalidError(message, path=root.join(INDEX_FILE)) from error


class _Witness:
    """The open file ``fd`` of the index: whether it is still there, with the bytes ``raw``.

    Whoever replaces the index makes another file, which can't have this one's inode while it is open.
    Whoever writes into it changes its times, or is found by reading it again.
    """

    def __init__(self, root: Root, fd: int, raw: bytes, durable: bool) -> None:
        self._root = root
        self._fd = fd
        self._raw = raw
        self._at_rest = False
        self._facts = os.fstat(fd)
        self._same = self._compare()
        if durable and self._same:
            self._sync()

    def holds(self) -> bool:
        with self._root.held() as rootfd:
            try:
                facts = os.stat(INDEX_FILE, dir_fd=rootfd, follow_symlinks=False)
            except FileNotFoundError:
                return False
        if not self._same or not os.path.samestat(facts, self._facts):
            return False
        if not self._at_rest or _version(facts) != _version(self._facts):
            self._same = self._compare()
        return self._same

    def _compare(self) -> bool:
        now = time.time_ns()
        self._facts = os.fstat(self._fd)
        self._at_rest = abs(now - self._facts.st_ctime_ns) > _AT_REST
        position = 0
        while piece := os.pread(self._fd, _CHUNK, position):
            if piece != self._raw[position : position + len(piece)]:
                return False
            position += len(piece)
        return position == len(self._raw) and _version(os.fstat(self._fd)) == _version(self._facts)

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._root.named(error, INDEX_FILE) from error.__cause__
        with self._root.held() as rootfd:
            self._root.sync(rootfd, ".")


def _version(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
