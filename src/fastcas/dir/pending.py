"""Blobs that are written and have no name yet, at durability "batch" and "syncfs".

A put leaves its finished file here, open, and returns. All of them become durable together and get
their names when somebody asks (``settle``): at the durability point, when there are too many open
files, and before an operation of the same engine that must see them. Until then nobody else does.

What can't be made durable, or can't get its name, is dropped: a failed fsync is final. It is
remembered, and no durability point is reached, no index written, until it was put again or deleted.
"""

from __future__ import annotations

import errno
import os

from fastcas import _core
from fastcas.dir.root import new_statuses
from fastcas.dir.temp import room_for_temps
from fastcas.errors import ClosedError, DurabilityError, FastCASError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastcas.digest import Digest
    from fastcas.dir.durability import Durability
    from fastcas.dir.ingest import Ingest
    from fastcas.dir.lock import Lock
    from fastcas.dir.root import Root
    from fastcas.dir.temp import Temp


# So many descriptors are kept while files wait: to give names, where no other is left, needs as many.
_SPARE = 6


class Pending:
    """What the puts of one engine have left without a name. Each process has its own: a child made by
    fork begins with nothing, and leaves its parent's files and their names to the parent.

    Entries are added without a lock, by one dict operation each, and never replaced; they are
    removed with ``_turn``, when the blob has its name or is dropped. Who has the layout's lock
    exclusive must get ``_turn``: so nobody waits for that lock who has ``_turn``.
    """

    def __init__(self, root: Root, lock: Lock, durability: Durability, ingest: Ingest) -> None:
        self._root = root
        self._lock = lock
        self._durability = durability
        self._ingest = ingest
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._waiting: dict[Digest, _Waiting] = {}
        self._lost: dict[Digest, Exception] = {}
        self._syncing: tuple[list[_Waiting], memoryview] = [], memoryview(b"")
        self._room = 0
        self._spare: list[_core.File] = []
        self._turn = _core.Turn()
        self._pid = os.getpid()

    # ---- what puts leave

    def add(self, digest: Digest, size: int, temp: Temp) -> None:
        """Takes a finished file, unless its twin waits already: then ``temp.waits`` stays False, and
        the caller discards it."""
        self._prepare()
        temp.waits = True  # first: whoever is interrupted from here on must not discard it
        one = _Waiting(digest, size, temp, None)
        while (there := self._waiting.setdefault(digest, one)) is not one:
            if there.temp is not None:
                temp.waits = False
                break
            self.settle()  # the blob that was found has been deleted since
        self._check_open()

    def add_found(self, digest: Digest, size: int, file: _core.File) -> None:
        """Takes a stored blob that a put has found, and marked as used now: it must become durable."""
        self._prepare()
        one = _Waiting(digest, size, None, file)
        while (there := self._waiting.setdefault(digest, one)) is not one:
            # One without a name will find it, by the rules of a put.
            if there.file is None or _core.is_same_file(there.file.fd, file.fd):
                break
            self.settle()
        self._check_open()

    def _prepare(self) -> None:
        if self._pid != os.getpid():
            self._begin()
        if not self._waiting:
            self._keep_spare()
            self._room = room_for_temps()
        elif len(self._waiting) >= self._room:
            self.settle()

    def _keep_spare(self) -> None:
        try:
            with self._root.held() as root:
                while len(self._spare) < _SPARE:
                    self._spare.append(_core.duplicate(root))
        except OSError:
            pass  # without so many

    def _check_open(self) -> None:
        if self._closed:  # while this put was under way
            self.drop()
            raise ClosedError("this layout was closed", path=self._root.path)

    # ---- what others ask

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    def size_of(self, digest: Digest) -> int | None:
        """The size of a blob that has no name yet; None where that isn't so."""
        one = self._waiting.get(digest)
        if one is None or one.temp is None or self._pid != os.getpid():
            return None
        return one.size

    def reveal(self, digest: Digest) -> None:
        """The blob has its name on return, if it was put."""
        one = self._waiting.get(digest)
        if one is not None and one.temp is not None:
            self.settle()

    def forget(self, digest: Digest) -> None:
        """The blob is to be deleted: it won't get a name, and needn't be put again."""
        if self._pid != os.getpid():
            self._begin()
        self._lost.pop(digest, None)
        if digest in self._waiting:
            with self._turn:
                one = self._waiting.pop(digest, None)
                if one is not None and one.temp is not None:
                    one.temp.discard()

    def stored(self, digests: Iterable[Digest]) -> None:
        """Blobs that were stored durably in another way."""
        if self._lost:
            for digest in digests:
                self._lost.pop(digest, None)

    # ---- the durability point

    def sync(self) -> None:
        """Makes every put durable that has returned before this call.

        Raises DurabilityError where one can't be: ``lost`` names them, here and until each was put
        again or deleted. The others are durable then.
        """
        self.settle()
        self._durability.sync()
        if self._lost:
            raise _lost_error(dict(self._lost))

    def settle(self) -> None:
        """Makes what waits durable and gives it its names; what can't be is lost. Interrupted, or
        failing, it leaves the rest waiting. Directories wait for ``Durability.sync``."""
        self._spare.clear()
        if not self._waiting:
            return
        if self._pid != os.getpid():
            self._begin()
            return
        with self._turn:
            self._make_durable()
        with self._lock.shared(), self._turn:
            self._publish()

    def drop(self) -> None:
        """Forgets what waits: nothing of it gets a name."""
        self._spare.clear()
        if self._pid == os.getpid() and self._waiting:
            with self._turn:
                while self._waiting:
                    one = self._waiting.popitem()[1]
                    if one.temp is not None:
                        one.temp.discard()

    def close(self) -> None:
        """The same for ever."""
        self._closed = True
        self.drop()

    def _make_durable(self) -> None:
        self._note_failures()  # of a sync that was interrupted: the next one wouldn't see them again
        waiting = [one for one in self._waiting.copy().values() if not one.durable]
        statuses = new_statuses(len(waiting))
        self._syncing = waiting, statuses
        self._durability.sync_data([one.fd for one in waiting], statuses)
        self._note_failures()
        for one in waiting:
            one.durable = True

    def _note_failures(self) -> None:
        waiting, statuses = self._syncing
        if any(statuses):
            for one, status in zip(waiting, statuses, strict=True):
                if status and self._waiting.get(one.digest) is one:
                    self._lose(one, OSError(status, os.strerror(status)))
        self._syncing = [], memoryview(b"")

    def _publish(self) -> None:
        durable = [one for one in self._waiting.copy().values() if one.durable]
        for algorithm in {one.digest.algorithm for one in durable}:
            chosen = [one for one in durable if one.digest.algorithm == algorithm]
            with self._ingest.open_directory(algorithm) as directory:
                self._publish_into(directory, algorithm, chosen)

    def _publish_into(self, directory: int, algorithm: str, chosen: list[_Waiting]) -> None:
        nameless = [one for one in chosen if one.temp is not None and one.temp.nameless]
        statuses = _core.name_files(
            [one.fd for one in nameless],
            directory,
            [one.digest.encoded.encode() for one in nameless],
        )
        named = {one.digest for one, status in zip(nameless, statuses, strict=True) if not status}
        self._durability.defer(algorithm)
        sums = {
            one.digest.encoded: checksum
            for one in nameless
            if one.digest in named and (checksum := one.temp.checksum) is not None  # type: ignore[union-attr]
        }
        self._ingest.record(algorithm, sums)
        for one in chosen:
            digest = one.digest
            if one.temp is not None and digest not in named:
                try:
                    # Somebody was quicker, or something is in the way: by the rules of a put.
                    self._ingest.place(directory, one.temp, digest, one.size, synced=True)
                except (OSError, FastCASError) as error:
                    self._lose(one, error)
                    continue
                self._durability.defer(algorithm)
            self._waiting.pop(digest)  # now: who finds it gone must find the name
            self._lost.pop(digest, None)
            if one.temp is not None:
                one.temp.discard()

    def _lose(self, one: _Waiting, error: Exception) -> None:
        self._lost[one.digest] = error
        self._waiting.pop(one.digest)
        if one.temp is not None:
            one.temp.discard()
        else:
            self._ingest.distrust(one.fd)


class _Waiting:
    """A blob: the file that is to get its name, or the stored one that was found. The latter is closed
    when nobody refers to it: another thread may compare it."""

    __slots__ = ("digest", "durable", "fd", "file", "size", "temp")

    def __init__(self, digest: Digest, size: int, temp: Temp | None, file: _core.File | None) -> None:
        self.digest = digest
        self.size = size
        self.temp = temp
        self.file = file
        self.durable = False
        self.fd: int = (temp or file).fd  # type: ignore[union-attr]


def _lost_error(lost: dict[Digest, Exception]) -> DurabilityError:
    digests = tuple(lost)
    first = lost[digests[0]]
    number = first.errno if isinstance(first, OSError) and first.errno else errno.EIO
    which = digests[0] if len(digests) == 1 else f"{digests[0]} and {len(digests) - 1} more"
    error = DurabilityError(
        f"{which}: put, but not durable ({os.strerror(number)}); must be put again, or deleted",
        errno=number,
        digest=digests[0],
        lost=digests,
    )
    error.__cause__ = first
    return error
