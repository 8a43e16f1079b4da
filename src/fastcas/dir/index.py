"""index.json: read beside writers that don't lock, replaced whole, changed by compare-and-swap."""

from __future__ import annotations

import errno
import os
import time

from fastcas.dir.root import INDEX_FILE, read_all, write_all
from fastcas.dir.temp import Temp
from fastcas.errors import InvalidError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

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

# How often a change is tried again because somebody who takes no lock was quicker.
_ATTEMPTS = 100


class IndexFile:
    """The index of the layout ``root``. What it names is made durable before it is replaced."""

    def __init__(self, root: Root, lock: Lock, durability: Durability, pending: Pending) -> None:
        self._root = root
        self._lock = lock
        self._durability = durability
        self._pending = pending

    def read(self) -> Index:
        """The index as it is. InvalidError where it is missing, ambiguous, oversized or no index."""
        from fastcas.model import Index

        give_up = time.monotonic() + _PATIENCE
        while True:
            raw, facts = self._read_raw()
            if raw is not None:
                try:
                    return Index.from_json(raw)
                except InvalidError as error:
                    error.path = self._root.join(INDEX_FILE)
                    if not 0 <= time.time() - facts.st_ctime < _AT_REST:
                        raise
            if time.monotonic() > give_up:
                message = f"{INDEX_FILE} keeps changing while it is read"
                raise InvalidError(message, path=self._root.join(INDEX_FILE))
            time.sleep(_PAUSE)

    def replace(self, index: Index) -> None:
        """Puts ``index`` in the place of the one that is there."""
        raw, _ = self._encode(index)
        with self._lock.exclusive():
            self._write(raw)

    def update(self, function: Callable[[Index], Index | None]) -> Index:
        """Calls ``function`` under the exclusive lock and writes what it returns."""
        with self._lock.exclusive():
            for _ in range(_ATTEMPTS):
                before = self.read()
                after = function(before)
                if after is None:
                    return before
                raw, after = self._encode(after, before)
                if self._write(raw, only_if=before.raw):
                    return after
            message = f"{INDEX_FILE} was changed each time before it could be replaced"
            raise InvalidError(message, path=self._root.join(INDEX_FILE))

    def _read_raw(self) -> tuple[bytes | None, os.stat_result]:
        """The bytes, or None where they changed meanwhile; and the facts of the file then."""
        from fastcas.model import INDEX_LIMIT

        try:
            fd, size = self._root.open_regular(INDEX_FILE)
        except FileNotFoundError as error:
            message = f"not a layout any more: no {INDEX_FILE}"
            raise InvalidError(message, path=self._root.join(INDEX_FILE)) from error
        try:
            before = os.fstat(fd)
            raw = read_all(fd, INDEX_LIMIT, size)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        return (raw if _version(before) == _version(after) else None), after

    def _encode(self, index: Index, before: Index | None = None) -> tuple[bytes, Index]:
        """The bytes of ``index``, and what will be read from them: an index can be read again.

        What it has of ``before``, which was read from the file, isn't read again.
        """
        from fastcas.model import INDEX_LIMIT, Index

        if not isinstance(index, Index):
            raise TypeError(f"an index must be a fastcas.Index, not {type(index).__name__}")
        raw = index.to_json()
        if before is not None and len(raw) <= INDEX_LIMIT:
            reread = index.reread_entries(raw, before)
            if reread is not None:
                return raw, reread
        return raw, Index.from_json(raw)

    def _write(self, raw: bytes, only_if: bytes | None = None) -> bool:
        """Replaces the file, unless it isn't ``only_if`` any more. The lock is held."""
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

    def _write_through(self, temp: Temp, raw: bytes, only_if: bytes | None) -> bool:
        write_all(temp.fd, raw)
        if os.fstat(temp.fd).st_size != len(raw):
            raise OSError(errno.EIO, "the file has another size than was written")
        if self._durability.sync_files:
            os.fsync(temp.fd)
        if only_if is not None and self._read_raw()[0] != only_if:
            return False
        with self._root.held() as rootfd:
            temp.replace(rootfd, INDEX_FILE)
            if self._durability.sync_files:
                self._root.sync(rootfd, ".")
        return True


def _version(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
