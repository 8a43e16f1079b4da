"""A write that is not committed yet: temporary file, checks, publication, durability.

The order is what makes a put safe: content, size and digest are right before the file has a name
under ``blobs/``; the file is synced before it gets the name, the directory before the put returns.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os

from fastcas import _core
from fastcas.digest import Digest
from fastcas.dir.checksums import RECORDED_ABOVE
from fastcas.dir.pending import Pending
from fastcas.dir.root import DIRECTORY, new_statuses
from fastcas.dir.temp import Temp, exists, have_nameless
from fastcas.errors import DurabilityError, InvalidError, UnsupportedError
from fastcas.expected import check_algorithm, check_content, too_long
from fastcas.layout import BLOBS
from fastcas.results import PutResult
from fastcas.source import open_source, read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from fastcas.dir.checksums import Checksums
    from fastcas.dir.durability import Durability
    from fastcas.dir.lock import Lock
    from fastcas.dir.root import Root
    from fastcas.reader import BlobReader
    from fastcas.source import Source

    T = TypeVar("T")

_FICLONE = 0x40049409  # linux/fs.h, of _IOW(0x94, 9, int)

BLOB_MODE = 0o444
DIRECTORY_MODE = 0o755

#: A stored blob up to this size is read again before a put takes it for its own: that costs less
#: than a millisecond. A larger one is judged by its size, unless verify_existing asks for more.
ALWAYS_VERIFIED = 1 << 20

# What a put finds under the name of its blob: nothing, something that must be replaced, the blob.
ABSENT, WRONG, STORED = range(3)


class Ingest:
    """Puts blobs into a layout."""

    def __init__(self, root: Root, lock: Lock, durability: Durability, checksums: Checksums) -> None:
        self._root = root
        self._lock = lock
        self._durability = durability
        self._checksums = checksums
        # Files that were there, by device and inode: whose sync has failed, and whose is under way,
        # with memory for the errnos, by its id.
        self._unsynced: set[tuple[int, int]] = set()
        self._syncing: dict[int, tuple[list[tuple[int, int]], memoryview]] = {}
        self.pending = Pending(root, lock, durability, self)

    def put(
        self,
        source: Any,
        *,
        algorithm: str,
        expected_digest: Digest | None,
        expected_size: int | None,
        verify_existing: bool,
        progress: Callable[[int, int | None], object] | None,
    ) -> PutResult:
        check_algorithm(algorithm)
        if expected_digest is None and expected_size is None and progress is None and have_nameless():
            content = read_small(source)
            if content is not None:
                result = self._put_small(content, algorithm)
                if result is not None:
                    return result
                source = content
        with self._with_descriptors(lambda: open_source(source)) as opened:
            temp, digest, size = self.stage(
                opened,
                algorithm,
                expected_digest=expected_digest,
                expected_size=expected_size,
                progress=progress,
            )
            try:
                self._with_descriptors(lambda: self._publish(temp, digest, size, verify_existing))
            except OSError as error:
                raise self._root.named(
                    error, f"{BLOBS}/{digest.replace(':', '/')}"
                ) from error.__cause__
            finally:
                if not temp.waits:
                    temp.discard()
        return PutResult(digest, size)

    def stage(
        self,
        source: Source,
        algorithm: str,
        *,
        expected_digest: Digest | None = None,
        expected_size: int | None = None,
        progress: Callable[[int, int | None], object] | None = None,
        helper: bool = True,
    ) -> tuple[Temp, Digest, int]:
        """Stores the source in a temporary file, which the caller discards; returns it, the digest
        and the size, checked. Nothing is synced. ``helper`` as in _core.Sink."""
        temp = self._with_descriptors(lambda: Temp(self._root, self._lock, BLOB_MODE))
        try:
            sink = _core.Sink(
                temp.fd,
                algorithm,
                expected=-1 if source.size is None else source.size,
                limit=-1 if expected_size is None else expected_size,
                writeback=self._durability.sync_files,
                progress=progress,
                helper=helper,
                checksum=source.size is None or source.size > RECORDED_ABOVE,
            )
            try:
                encoded, size = self._store(source, sink, expected_digest, expected_size)
            finally:
                sink.abort()
            digest = Digest.of(algorithm, encoded)
            check_content(digest, size, expected_digest, expected_size)
            if size > RECORDED_ABOVE:
                temp.checksum = sink.checksum
        except BaseException:
            temp.discard()
            raise
        return temp, digest, size

    def _with_descriptors(self, step: Callable[[], T]) -> T:
        """``step()``; where no descriptor was left for it, once more after those of blobs that wait for
        the durability point were given back."""
        try:
            return step()
        except OSError as error:
            if error.errno != errno.EMFILE or not self.pending:
                raise
        self.pending.settle()
        return step()

    def _put_small(self, content: bytes, algorithm: str) -> PutResult | None:
        """The same as below for a new blob, in one call of the core; None where it is none."""
        root, durability = self._root, self._durability
        place = root.places.get(algorithm)
        if place is None:
            return None
        if durability.defers:
            return self._stage_small(place, content)
        try:
            stored = place.put(content, BLOB_MODE, root.owner, durability.sync_files)
        except OSError as error:
            raise root.named(error) from None
        if stored is None:
            return None
        digest, directory = stored
        if directory is not None:
            with directory as fd:
                durability.published(fd, algorithm)
        return PutResult(digest, len(content))

    def _stage_small(self, place: _core.Place, content: bytes) -> PutResult | None:
        root = self._root
        try:
            staged = place.stage(content, BLOB_MODE, root.owner)
        except OSError as error:
            raise root.named(error) from None
        if staged is None:
            return None
        digest, file = staged
        temp = Temp(root, self._lock, BLOB_MODE, file)
        try:
            self.pending.add(digest, len(content), temp)
        finally:
            if not temp.waits:
                temp.discard()
        return PutResult(digest, len(content))

    def put_copy(
        self,
        blob: BlobReader,
        *,
        source: int | None,
        verify: bool,
        progress: Callable[[int, int | None], object] | None,
    ) -> str:
        """Stores what a reader of another engine gives, under its digest; returns how: "exists",
        "reflink" or "copy". ``source`` is the descriptor of a file that is exactly that blob."""
        method = self.share(blob, source=source, verify=verify)
        if method is not None:
            return method
        content: Any = blob
        if source is not None:  # hashed once, by us
            content = io.FileIO(source, closefd=False)
            content.seek(0)
        self.put(
            content,
            algorithm=blob.digest.algorithm,
            expected_digest=blob.digest,
            expected_size=blob.size,
            verify_existing=verify,
            progress=progress,
        )
        return "copy"

    def share(self, blob: BlobReader, *, source: int | None, verify: bool) -> str | None:
        """What ``put_copy`` can do without copying: "exists", "reflink", or None."""
        digest, size = blob.digest, blob.size
        check_algorithm(digest.algorithm)
        temp = Temp(self._root, self._lock, BLOB_MODE)  # also where the blob exists: like a put
        try:
            stored = self._claim_existing(digest, size, verify)
            if stored == STORED:
                return "exists"
            verified = verify or size <= ALWAYS_VERIFIED
            # What nobody reads takes the place of nothing: it may be the source that is wrong.
            if source is None or (stored == WRONG and not verified) or not _reflink(source, temp.fd):
                return None
            found, encoded = os.fstat(temp.fd).st_size, digest.encoded
            if found == size and verified:
                encoded = _core.digest_fd(temp.fd, digest.algorithm)[0]
            check_content(Digest.of(digest.algorithm, encoded), found, digest, size)
            self._publish(temp, digest, size, verify)
            return "reflink"
        except OSError as error:
            raise self._root.named(error, f"{BLOBS}/{digest.replace(':', '/')}") from error.__cause__
        finally:
            if not temp.waits:
                temp.discard()

    def _claim_existing(self, digest: Digest, size: int, verify: bool) -> int:
        """ABSENT, WRONG or STORED, by the rules of a put, and then as durable as after one."""
        with self.open_directory(digest.algorithm) as directory:
            if self._durability.defers:
                return self._leave_existing(directory, digest, size, verify)
            found = self._find_existing(directory, digest, size, verify)
            if found == STORED:
                self._durability.published(directory, digest.algorithm)
            return found

    def _store(
        self,
        source: Source,
        sink: _core.Sink,
        expected_digest: Digest | None,
        expected_size: int | None,
    ) -> tuple[str, int]:
        try:
            source.feed(sink)
            return sink.finish()
        except _core.LimitError:
            raise too_long(expected_digest, expected_size, sink.size) from None
        except _core.ForkedError as error:
            raise UnsupportedError("a put can't be continued in a forked child") from error
        except OSError as error:
            if error.errno is not None and error.filename is None:
                name = self._root.path if sink.storing else source.name
                if name is not None:
                    error.filename = name
            raise

    def _publish(self, temp: Temp, digest: Digest, size: int, verify: bool) -> None:
        with self.open_directory(digest.algorithm) as directory:
            if self._durability.defers:
                found = self._leave_existing(directory, digest, size, verify)
                if found == ABSENT:
                    self.pending.add(digest, size, temp)
                if found != WRONG:
                    return
            self.place(directory, temp, digest, size, verify)
            self._durability.published(directory, digest.algorithm)
            self.pending.stored([digest])

    def _leave_existing(self, directory: int, digest: Digest, size: int, verify: bool) -> int:
        """Leaves the stored blob to Pending, if it is there. Returns ABSENT, WRONG or STORED."""
        found = self.claim(directory, digest, size, verify)
        if isinstance(found, int):
            return found
        self.pending.add_found(digest, size, found)
        return STORED

    def place(
        self,
        directory: int,
        temp: Temp,
        digest: Digest,
        size: int,
        verify: bool = False,
        *,
        synced: bool = False,
    ) -> None:
        """Gives ``temp`` the name of the digest in ``directory``, once its file is synced, unless the
        blob is there already. The directory isn't synced."""
        while True:
            found = self._find_existing(directory, digest, size, verify)
            if found == STORED:
                return
            if self._durability.sync_files and not synced:
                os.fsync(temp.fd)  # a failure is final: the pages count as clean from now on
                synced = True
            try:
                if found == ABSENT:
                    temp.publish(directory, digest.encoded)
                else:
                    temp.replace(directory, digest.encoded)
                if temp.checksum is not None:
                    self.record(digest.algorithm, {digest.encoded: temp.checksum})
                return
            except FileExistsError:
                continue  # another writer was quicker
            except IsADirectoryError as error:
                raise InvalidError(
                    f"{digest}: a directory stands in the place of this blob",
                    digest=digest,
                    path=self._root.join(f"{BLOBS}/{digest.replace(':', '/')}"),
                ) from error

    def record(self, algorithm: str, checksums: dict[str, str]) -> None:
        """Notes the checksums of blobs that were placed, by their encoded digests."""
        if checksums:
            self._checksums.add({Digest.of(algorithm, one): checksums[one] for one in checksums})

    def _find_existing(self, directory: int, digest: Digest, size: int, verify: bool) -> int:
        """Whether the blob is there already: ABSENT, WRONG, or STORED, which has been synced then."""
        found = self.claim(directory, digest, size, verify)
        if isinstance(found, int):
            return found
        with found as fd:
            if self._durability.sync_files:
                statuses = self.sync_found([fd], lambda statuses: _core.sync_files([fd], statuses))
                if statuses[0]:
                    raise not_synced(digest, statuses[0])
        return STORED

    def claim(
        self, directory: int, digest: Digest, size: int, verify: bool = False
    ) -> _core.File | int:
        """Takes what has the blob's name in ``directory`` for the blob, if it is that: marks it as used
        now and returns it open, for the caller to sync and to close. Else returns ABSENT or WRONG."""
        if not exists(directory, digest.encoded):
            return ABSENT
        try:
            file, _ = self._root.open_regular(digest.encoded, at=directory)
        except FileNotFoundError:
            return ABSENT
        except (InvalidError, PermissionError):
            return WRONG
        verdict = WRONG
        try:
            verdict = self._judge(file.fd, directory, digest, size, verify or size <= ALWAYS_VERIFIED)
        finally:
            if verdict != STORED:
                file.close()
        return file if verdict == STORED else verdict

    def _judge(self, fd: int, directory: int, digest: Digest, size: int, verify: bool) -> int:
        facts = os.fstat(fd)
        # A file with a second name may be somebody else's, whose times are not ours to change.
        if facts.st_size != size or facts.st_nlink != 1:
            return WRONG
        if self._is_distrusted(facts):
            return WRONG
        if verify and _core.digest_fd(fd, digest.algorithm)[0] != digest.encoded:
            return WRONG
        # gc spares what was used lately. It holds the lock exclusive while it looks and removes:
        # what has this name under the shared lock, and is marked then, stays.
        with self._lock.shared():
            try:
                current = os.stat(digest.encoded, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return ABSENT
            if not os.path.samestat(current, facts):
                return WRONG
            try:
                os.utime(fd)
            except PermissionError:
                return WRONG  # another user's: our own copy can be marked
        return STORED

    def distrust(self, fd: int) -> None:
        """The sync of this stored file has failed. The next one would succeed, and reads come from
        memory, whatever is on the disk: a put of that blob replaces the file from now on."""
        self._unsynced.add(_identity(os.fstat(fd)))

    def sync_found(
        self, fds: list[int], sync: Callable[[memoryview], object], others: int = 0
    ) -> memoryview:
        """Has ``sync`` make stored files durable, and ``others`` beside. It is given memory with a C
        int for each, which is returned, for the errnos. Those files that have one are distrusted from
        then on, whatever interrupts the sync: the kernel says it once."""
        statuses = new_statuses(len(fds) + others)
        files = [_identity(os.fstat(fd)) for fd in fds]
        self._syncing[id(statuses)] = files, statuses
        try:
            sync(statuses)
        finally:  # where that is interrupted, the entry stays, and says the same
            self._unsynced.update(_failed(files, statuses))
            del self._syncing[id(statuses)]
        return statuses

    def _is_distrusted(self, facts: os.stat_result) -> bool:
        file = _identity(facts)
        return file in self._unsynced or any(
            file in _failed(*one) for one in self._syncing.copy().values()
        )

    def open_directory(self, algorithm: str) -> _core.File:
        """The open directory of the blobs of that algorithm, made if need be."""
        name = f"{BLOBS}/{algorithm}"
        try:
            return self._root.open(name, DIRECTORY)
        except FileNotFoundError:
            pass
        with self._root.open(BLOBS, DIRECTORY) as parent:
            try:
                os.mkdir(algorithm, DIRECTORY_MODE, dir_fd=parent)
                made = True
            except FileExistsError:
                made = False
        file = self._root.open(name, DIRECTORY)
        if made:
            self._root.give_to_owner(file.fd)
        return file


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _failed(files: list[tuple[int, int]], statuses: memoryview) -> list[tuple[int, int]]:
    return [file for file, status in zip(files, statuses, strict=False) if status]


def not_synced(digest: Digest, number: int) -> DurabilityError:
    """What a put raises that has found the blob stored and couldn't make that durable."""
    return DurabilityError(
        f"{digest} was stored before, and couldn't be synced now: {os.strerror(number)}",
        errno=number,
        digest=digest,
    )


def _reflink(source: int, target: int) -> bool:
    """Makes the file ``target`` share the blocks of ``source``; False where that can't be."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False  # whatever it was, a copy will meet it too, or not
    return True
