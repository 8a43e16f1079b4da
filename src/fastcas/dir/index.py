"""index.json: read beside writers that don't lock, replaced whole, changed by compare-and-swap."""

from __future__ import annotations

import errno
import os
import time

from fastcas.dir.root import new_statuses, read_all
from fastcas.dir.temp import Temp
from fastcas.errors import InvalidError, UnsupportedError
from fastcas.files import write_all
from fastcas.layout import INDEX_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastcas import _core
    from fastcas.dir.durability import Durability
    from fastcas.dir.lock import Lock
    from fastcas.dir.pending import Pending
    from fastcas.dir.root import Root
    from fastcas.model import Index

INDEX_MODE = 0o644

# Some tools rewrite the index in place: a reader can meet half of it. A document that can't be
# parsed is read again until the file has been left alone for so long, or patience ends.
_AT_REST = 0.2  # seconds
_PATIENCE = 5.0
_PAUSE = 0.002

# A document of up to so many bytes is kept beside what it says, and not parsed again until it differs.
_KEPT = 4 << 20

# How often a change is tried again because somebody who takes no lock was quicker.
_ATTEMPTS = 100


class IndexFile:
    """The index of the layout ``root``. What it names is made durable before it is replaced."""

    def __init__(self, root: Root, lock: Lock, durability: Durability, pending: Pending) -> None:
        self._root = root
        self._lock = lock
        self._durability = durability
        self._pending = pending
        self._known: Index | None = None  # what was read or written last
        self._status = new_statuses(1)  # of the last sync of its name

    def read(self) -> Index:
        """The index as it is. InvalidError where it is missing, ambiguous, oversized or no index."""
        file, index = self._open()
        file.close()
        return index

    def _open(self) -> tuple[_core.File, Index]:
        """The file, open, and what was read from it."""
        give_up = time.monotonic() + _PATIENCE
        while True:
            file, raw, facts = self._read_raw()
            try:
                if raw is not None:
                    return file, self._parse(raw)
            except InvalidError as error:
                file.close()
                error.path = self._root.join(INDEX_FILE)
                if not 0 <= time.time() - facts.st_ctime < _AT_REST:
                    raise
            file.close()
            if time.monotonic() > give_up:
                message = f"{INDEX_FILE} keeps changing while it is read"
                raise InvalidError(message, path=self._root.join(INDEX_FILE))
            time.sleep(_PAUSE)

    def _parse(self, raw: bytes) -> Index:
        from fastcas.model import Index

        known = self._known
        if known is None or known.to_json() != raw:
            known = Index.from_json(raw)
            self._keep(known, raw)
        return known

    def _keep(self, index: Index, raw: bytes) -> None:
        self._known = index if len(raw) <= _KEPT else None

    def replace(self, index: Index) -> None:
        """Puts ``index`` in the place of the one that is there."""
        raw, _ = self._encode(index)
        with self._lock.exclusive():
            self._write(raw)

    def update(self, function: Callable[[Index], Index | None]) -> Index:
        """Calls ``function`` under the exclusive lock and writes what it returns."""
        with self._lock.exclusive():
            for _ in range(_ATTEMPTS):
                file, before = self._open()
                with file as fd:
                    after = function(before)
                    if after is None:
                        self._pending.sync()  # an update is a durability point, written or not
                        if self._status[0]:
                            raise self._root.not_synced(".", self._status[0])
                        return before
                    raw, after = self._encode(after, before)
                    if self._write(raw, only_if=(fd, before)):
                        self._keep(after, raw)
                        return after
            message = f"{INDEX_FILE} was changed each time before it could be replaced"
            raise InvalidError(message, path=self._root.join(INDEX_FILE))

    def _read_raw(self) -> tuple[_core.File, bytes | None, os.stat_result]:
        """The open file; its bytes, or None where they changed meanwhile; and its facts then."""
        from fastcas.model import INDEX_LIMIT

        try:
            file, before = self._root.open_known(INDEX_FILE)
        except FileNotFoundError as error:
            message = f"not a layout any more: no {INDEX_FILE}"
            raise InvalidError(message, path=self._root.join(INDEX_FILE)) from error
        if before.st_size > INDEX_LIMIT:  # one that only grows to that is met while it is read
            message = f"index: {before.st_size} bytes are more than the limit of {INDEX_LIMIT}"
            raise InvalidError(message, path=self._root.join(INDEX_FILE))
        raw = read_all(file.fd, INDEX_LIMIT, before.st_size)
        after = os.fstat(file.fd)
        return file, (raw if _version(before) == _version(after) else None), after

    def _is_still(self, fd: int, index: Index) -> bool:
        """Whether ``index``, which was read from the file ``fd``, is what the layout has now."""
        with self._root.held() as root:
            try:
                now = os.stat(INDEX_FILE, dir_fd=root, follow_symlinks=False)
            except FileNotFoundError:
                return False
        # Some tools rewrite the file in place, quicker than its times tell.
        return os.path.samestat(now, os.fstat(fd)) and _has(fd, index.to_json())

    def _encode(self, index: Index, before: Index | None = None) -> tuple[bytes, Index]:
        """The bytes of ``index``, and what will be read from them: an index can be read again.

        What it has of ``before``, which was read from the file, isn't read again. One that was changed
        is written compact, whatever the style of what it was read from.
        """
        from fastcas.jsonstyle import compact
        from fastcas.model import INDEX_LIMIT, Index

        if not isinstance(index, Index):
            raise TypeError(f"an index must be a fastcas.Index, not {type(index).__name__}")
        reread = None if before is None else index.reread_entries(before)
        raw = (index if reread is None else reread).to_json()
        written = compact(raw) if index.raw is None else raw
        if reread is not None and written is raw and len(raw) <= INDEX_LIMIT:
            return raw, reread
        return written, Index.from_json(written)

    def _write(self, raw: bytes, only_if: tuple[int, Index] | None = None) -> bool:
        """Replaces the file, unless it isn't ``only_if`` any more, as ``_open`` gave it. The lock is
        held."""
        if not self._lock.is_mine():
            raise UnsupportedError("an index update can't be continued in a forked child")
        self._pending.sync()
        try:
            temp = Temp(self._root, self._lock, INDEX_MODE)
            try:
                return self._write_through(temp, raw, only_if)
            finally:
                temp.discard()
        except IsADirectoryError as error:
            path = self._root.join(INDEX_FILE)
            raise InvalidError(f"{INDEX_FILE}: not a regular file", path=path) from error
        except OSError as error:
            raise self._root.named(error, INDEX_FILE) from error.__cause__

    def _write_through(self, temp: Temp, raw: bytes, only_if: tuple[int, Index] | None) -> bool:
        write_all(temp.fd, raw)
        if os.fstat(temp.fd).st_size != len(raw):
            raise OSError(errno.EIO, "the file has another size than was written")
        if self._durability.sync_files:
            os.fsync(temp.fd)
        if only_if is not None and not self._is_still(*only_if):
            return False
        with self._root.held() as rootfd:
            temp.replace(rootfd, INDEX_FILE)
            if self._durability.sync_files:
                self._root.sync(rootfd, ".", self._status)
        return True


def _has(fd: int, raw: bytes) -> bool:
    """Whether the content of the file is ``raw``."""
    # One byte more is asked for: who gets less than that has met the end.
    found = os.pread(fd, len(raw) + 1, 0)
    while len(found) < len(raw) and (piece := os.pread(fd, len(raw) + 1 - len(found), len(found))):
        found += piece
    return found == raw


def _version(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
