"""Durability: which directories must be synced, and when.

Files are synced where they are written (ingest, index). Their names live in directories, and each
directory's own name in its parent: this is about those.
"""

from __future__ import annotations

import os

from fastcas import _core
from fastcas.dir.root import DIRECTORY, NO_DIRECTORY_SYNC, new_statuses
from fastcas.errors import InvalidError, UnsupportedError
from fastcas.layout import BLOBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcas.dir.root import Root


LEVELS = ("full", "batch", "syncfs", "none")

# statfs(2): local filesystems whose syncfs(2) makes files durable and says when it couldn't: ext2 to
# ext4, xfs, btrfs, f2fs, and tmpfs, which has nothing to lose. Others forget errors, or do nothing at
# all (FUSE).
_SYNCFS_TELLS = (0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994)
_SYNCFS_SINCE = (5, 8)  # before that Linux kept write-back errors to itself


def check_level(level: str, path: str | None) -> None:
    """InvalidError for what is no level, UnsupportedError for "syncfs" where it can't be had; without a
    ``path`` nothing can't be had."""
    if level not in LEVELS:
        raise InvalidError(f"durability must be one of {', '.join(LEVELS)}, not {level!r}")
    if level != "syncfs" or path is None:
        return
    release = os.uname().release
    if tuple(int(part) for part in release.split("-")[0].split(".")[:2]) < _SYNCFS_SINCE:
        raise UnsupportedError(f'durability "syncfs" needs Linux 5.8, this is {release}', path=path)
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    with _core.open_path(path, os.O_PATH) as fd:
        if _core.filesystem_type(fd) not in _SYNCFS_TELLS:
            message = f'{path!r}: durability "syncfs" needs ext4, xfs, btrfs, f2fs or tmpfs'
            raise UnsupportedError(message, path=path)


class Durability:
    """What the puts of one engine wait for: ``level`` is "full", "batch", "syncfs" or "none".

    ``sync_files``: files are synced before they get their names; ``defers``: puts don't wait for that.
    """

    def __init__(self, root: Root, level: str) -> None:
        self.level = level
        self.sync_files = level != "none"
        self.defers = level in ("batch", "syncfs")
        self._root = root
        self._pending: set[str] = set()  # algorithms whose directories have unsynced names
        self._begun: set[str] = set()  # those whose sync has begun, and may have been interrupted
        # Syncs of directories that are under way or have failed, by id: the algorithm, and the errnos
        # of its directory and of those above.
        self._syncs: dict[int, tuple[str, memoryview]] = {}
        # By algorithm, the directory whose own name is durable; open, so that no other gets its inode.
        # Closed when nobody refers to it any more: a thread that compares may do so while another puts
        # a later directory in its place, or closes the engine. So no lock is needed, which a child made
        # by fork could find held.
        self._anchored: dict[str, _core.File] = {}
        self._closed = False
        self._turn = _core.Turn()

    def sync_data(self, fds: list[int], statuses: memoryview) -> None:
        """Makes the open files durable. ``statuses`` has a C int for each, 0, which becomes the errno
        of a failure; an interruption leaves those that are known."""
        if self.level == "syncfs":
            with self._root.held() as root:  # open since before they were written: no error is missed
                _core.sync_filesystem(root, fds, statuses)
        else:
            _core.sync_files(fds, statuses)

    def published(self, directory: int, algorithm: str) -> None:
        """A name has appeared, or was found, in the open directory of ``algorithm``.

        Raises DurabilityError where it can't be synced, now or before.
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

        Once a sync of names has failed it fails for ever: a later fsync could succeed without those
        that were lost.
        """
        with self._turn:  # who finds nothing pending must not return before what was pending is synced
            self._check()
            for algorithm in self._pending.copy():
                self._begun.add(algorithm)
                # Before its sync: names that come during that are the next one's.
                self._pending.discard(algorithm)
            for algorithm in self._begun.copy():
                with self._root.open(f"{BLOBS}/{algorithm}", DIRECTORY) as directory:
                    self._sync_directory(directory, algorithm)
                self._begun.discard(algorithm)

    def close(self) -> None:
        """Gives back what is open. Nothing is synced."""
        self._closed = True  # first: a put that ends now keeps nothing, or sees that it has to clear
        self._anchored.clear()

    def _sync_directory(self, directory: int, algorithm: str) -> None:
        self._check(algorithm)
        statuses = new_statuses(3)
        self._syncs[id(statuses)] = algorithm, statuses
        try:
            self._sync_names(directory, algorithm, statuses)
        finally:  # what has failed stays; so does what an interrupt leaves here, and says nothing
            if not any(statuses):
                del self._syncs[id(statuses)]

    def _check(self, algorithm: str | None = None) -> None:
        """Raises what a sync of the directories of this algorithm, or of any, has failed with."""
        for failed, statuses in self._syncs.copy().values():
            if algorithm is None or algorithm == failed:
                for name, number in zip((f"{BLOBS}/{failed}", BLOBS, "."), statuses, strict=True):
                    if number and number not in NO_DIRECTORY_SYNC:
                        raise self._root.not_synced(name, number)

    def _sync_names(self, directory: int, algorithm: str, statuses: memoryview) -> None:
        self._root.sync(directory, f"{BLOBS}/{algorithm}", statuses[:1])
        anchored = self._anchored.get(algorithm)
        if anchored is not None and _core.is_same_file(anchored.fd, directory):
            return
        # Whoever made this directory may not have synced its own name yet.
        with self._root.open(BLOBS, DIRECTORY) as blobs:
            self._root.sync(blobs, BLOBS, statuses[1:2])
        with self._root.held() as root:
            self._root.sync(root, ".", statuses[2:])
        self._anchored[algorithm] = _core.duplicate(directory)
        if self._closed:
            self._anchored.clear()
