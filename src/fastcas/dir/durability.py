"""Durability: which directories must be synced, and when.

Files are synced where they are written (ingest, index). Their names live in directories, and each
directory's own name in its parent: this is about those.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from fastcas.dir.root import BLOBS, DIRECTORY
from fastcas.errors import DurabilityError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastcas.dir.root import Root


class Durability:
    """What the puts of one engine wait for: ``level`` is "full", "batch" or "none"."""

    def __init__(self, root: Root, level: str) -> None:
        self.level = level
        self.sync_files = level != "none"
        self._root = root
        self._pending: set[str] = set()  # algorithms whose directories have unsynced names
        self._failure: DurabilityError | None = None
        self._anchored: dict[str, _Anchor] = {}  # by algorithm
        self._closed = False
        self._syncing = (os.getpid(), allocate_lock())

    def published(self, directory: int, algorithm: str) -> None:
        """A name has appeared, or was found, in the open directory of ``algorithm``.

        Raises DurabilityError where it can't be synced.
        """
        if self.level == "full":
            self._sync_directory(directory, algorithm)
        else:
            self.defer(algorithm)

    def defer(self, algorithm: str) -> None:
        """Names have appeared in the directory of ``algorithm``, for the next ``sync``."""
        if self.sync_files:
            self._pending.add(algorithm)

    def sync(self) -> None:
        """Makes every name durable that was published before this call.

        Once that has failed it fails for ever: a later fsync could succeed without the lost names.
        """
        pid, lock = self._syncing
        if pid != os.getpid():  # a child; another thread of its parent may have held the lock
            lock = allocate_lock()
            self._syncing = os.getpid(), lock
        with lock:  # who finds nothing pending must not return before what was pending is synced
            if self._failure is not None:
                raise self._failure
            while self._pending:
                algorithm = self._pending.pop()
                try:
                    directory = self._root.open(f"{BLOBS}/{algorithm}", DIRECTORY)
                    try:
                        self._sync_directory(directory, algorithm)
                    finally:
                        os.close(directory)
                except DurabilityError as error:
                    self._failure = error
                    raise
                except BaseException:
                    self._pending.add(algorithm)
                    raise

    def close(self) -> None:
        """Gives back what is open. Nothing is synced."""
        self._closed = True  # first: a put that ends now keeps nothing, or sees that it has to clear
        self._anchored.clear()

    def _sync_directory(self, directory: int, algorithm: str) -> None:
        self._root.sync(directory, f"{BLOBS}/{algorithm}")
        anchored = self._anchored.get(algorithm)
        if anchored is not None and os.path.sameopenfile(anchored.fd, directory):
            return
        # Whoever made this directory may not have synced its own name yet.
        blobs = self._root.open(BLOBS, DIRECTORY)
        try:
            self._root.sync(blobs, BLOBS)
        finally:
            os.close(blobs)
        with self._root.held() as root:
            self._root.sync(root, ".")
        self._anchored[algorithm] = _Anchor(directory)
        if self._closed:
            self._anchored.clear()


class _Anchor:
    """A directory whose own name is durable; open, so that no other gets its inode.

    Closed when nobody refers to it any more: a thread that compares may do so while another puts a
    later directory in its place, or closes the engine. So no lock is needed, which a child made by
    fork could find held.
    """

    __slots__ = ("fd",)

    def __init__(self, directory: int) -> None:
        self.fd = -1
        self.fd = os.dup(directory)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.fd >= 0:
            close(self.fd)
