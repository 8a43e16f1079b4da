"""Many puts with one durability point: on two threads, in groups.

What is bytes or the path of a file goes through ``_core.Group``, small or large: a second thread
begins with them when there is more than one to wait for, and the calling thread takes part once the
group is full, or nothing more comes. Everything else (readers, iterables, memory that can change,
what is unusual) is the calling thread's, one by one, and so are claims, names and progress.

Where files have to be synced, a group is written first, without names; then the disk is told of all,
each is synced by one of many threads, and they get their names. What has no name can't be opened
again, so a group is a number of open files then. The directory is synced once, at the end.
"""

from __future__ import annotations

import os
from collections import deque

from fastcas import _core
from fastcas.dir import root as resolving
from fastcas.dir.ingest import BLOB_MODE
from fastcas.dir.publication import Publication, Staged
from fastcas.dir.root import DIRECTORY
from fastcas.dir.temp import have_nameless, room_for_temps
from fastcas.errors import UnsupportedError
from fastcas.expected import check_algorithm
from fastcas.results import PutResult
from fastcas.source import name_source, open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from fastcas.dir.durability import Durability
    from fastcas.dir.ingest import Ingest
    from fastcas.dir.root import Root

#: At most so many blobs are in a group whose files get their names at once.
MOST_BLOBS = 2048
#: From so many small blobs on a second thread begins while more are added.
SOME_BLOBS = 16
#: At most so many bytes that an iterable gave, or that were copied, are kept until they are stored.
MOST_BYTES = 32 << 20

_PROGRESS_STEP = 1 << 20


class Batch:
    """One call of put_blobs."""

    def __init__(
        self,
        root: Root,
        durability: Durability,
        ingest: Ingest,
        algorithm: str,
        progress: Callable[[int, int | None], object] | None,
    ) -> None:
        check_algorithm(algorithm)
        self._root = root
        self._durability = durability
        self._ingest = ingest
        self._algorithm = algorithm
        self._progress = progress
        self._pid = os.getpid()
        self._results: list[PutResult | None] = []
        self._failure: tuple[int, Any, BaseException] | None = None  # of the first source that failed
        self._broken = False  # progress raised: nothing goes on

        # In C, where files need no names: the numbers and sources of what the group holds.
        self._room = room_for_temps()
        self._group = self._make_group() if _groups_work() else None
        self._grouped: list[tuple[int, Any]] = []
        self._are_there = False  # the sources, anyway
        self._bytes = 0  # what is kept beside
        self._rootfd = -1
        self._filesystem: _core.File | None = None  # at "syncfs"
        self._directory: _core.File | None = None  # of the blobs, while the group is at work

        self._staged: deque[Staged] = deque()  # written, not published
        self._odd: deque[tuple[int, Any]] = deque()  # from a group, to be put one by one
        self._open_files = 0  # of these
        self._done = 0  # bytes of what was stored, but for the group that is at work
        self._under_way = 0
        self._told = -1

    def _make_group(self) -> _core.Group:
        sync = self._durability.sync_files
        room = self._room if sync else MOST_BLOBS
        owner = self._root.owner
        return _core.Group(
            self._algorithm, room, mode=BLOB_MODE, owner=owner, sync=sync, checksums=True
        )

    def run(self, sources: Iterable[Any]) -> list[PutResult]:
        """See ``Engine.put_blobs``. After a failure the directory waits for the next ``sync``."""
        self._are_there = isinstance(sources, (list, tuple))
        with self._root.held() as self._rootfd:
            try:
                if self._durability.level == "syncfs":
                    # Its own, and open before anything is written: each is told of an error once.
                    self._filesystem = self._root.open(".", DIRECTORY)
                refusal = self._accept_all(sources)
                self._drain()
            finally:
                self._end()
        if self._failure is not None:
            number, source, failure = self._failure
            self._failure = None
            name_source(failure, number, source)
            raise failure
        if refusal is not None:
            raise refusal
        self._durability.sync()
        if self._results:
            self._tell(final=True)
        return self._results  # type: ignore[return-value]

    # ---- sorting

    def _accept_all(self, sources: Iterable[Any]) -> Exception | None:
        """Returns the iterable's own exception."""
        given = enumerate(sources)
        while self._failure is None:
            try:
                number, source = next(given)
            except StopIteration:
                break
            except Exception as error:
                if self._pid != os.getpid():
                    raise
                return error
            self._check_process()
            self._results.append(None)
            self._accept(number, source)
        return None

    def _accept(self, number: int, source: Any) -> None:
        if self._group is None:
            self._put_here(number, source)
        elif type(source) is bytes:
            self._add(number, source, source)
        elif isinstance(source, os.PathLike) and not isinstance(source, str):
            path = _encoded(source)
            if path is None:
                self._put_here(number, source)
            else:
                self._add(number, source, None, path)
        elif (content := _small_copy(source)) is not None:
            self._add(number, source, content)
        else:
            self._put_here(number, source)

    def _add(self, number: int, source: Any, content: bytes | None, path: bytes = b"") -> None:
        group = self._group
        assert group is not None
        if not self._grouped:
            try:
                self._directory = self._ingest.open_directory(self._algorithm)
                group.open(self._rootfd, self._directory.fd)
            except OSError as error:
                self._fail(number, source, self._root.named(error))
                return
        if content is None:
            group.add_path(path)
        else:
            group.add_bytes(content)
            if content is not source or not self._are_there:
                self._bytes += len(content)
        self._grouped.append((number, source))
        waiting = len(self._grouped)
        # A thread isn't worth its price for a few small ones.
        if waiting > 1 and (content is None or len(content) > _core.SMALL or waiting == SOME_BLOBS):
            group.start()
        if waiting + self._open_files >= group.room or self._bytes >= MOST_BYTES or group.failed:
            self._flush()

    # ---- one by one

    def _put_here(self, number: int, source: Any) -> None:
        if self._failure is not None and number > self._failure[0]:
            return
        if self._group is not None and self._grouped:
            self._group.start()
        try:
            with open_source(source) as opened:
                temp, digest, size = self._ingest.stage(
                    opened,
                    self._algorithm,
                    progress=None if self._progress is None else self._count,
                    helper=not self._grouped,  # two streams fill two processors
                )
                self._staged.append(Staged(number, source, temp, digest, size))
            self._done += size
        except Exception as error:
            if self._broken:
                raise
            self._fail(number, source, error)
        finally:
            self._under_way = 0
        self._open_files = len(self._staged)
        if self._open_files + (len(self._grouped) if self._durability.sync_files else 0) >= self._room:
            self._flush()

    def _count(self, size: int, _: int | None) -> None:
        self._under_way = size
        self._tell()

    def _fail(self, number: int, source: Any, error: BaseException) -> None:
        self._check_process()
        if self._failure is None or number < self._failure[0]:
            self._failure = number, source, error

    # ---- a group: stored, synced, published

    def _flush(self) -> None:
        """Publishes all that is written one by one, and the group."""
        self._check_process()
        staged = list(self._staged)  # they stay there, so that _end finds them
        both = [*self._grouped[:1], *((one.number, one.source) for one in staged[:1])]
        if not both:
            return
        try:
            if self._directory is None:
                self._directory = self._ingest.open_directory(self._algorithm)
            if self._group is not None and self._grouped:
                self._group.store(None if self._progress is None else self._tell)
            self._publish(self._directory.fd, staged)
        except Exception as error:
            if self._broken:
                raise
            self._fail(*min(both, key=lambda one: one[0]), error)
        finally:
            self._empty()
        self._tell()

    def _publish(self, directory: int, staged: list[Staged]) -> None:
        with Publication(
            self._root,
            self._ingest,
            self._durability,
            self._algorithm,
            directory,
            self._group,
            self._grouped,
            staged,
            self._results,
            self._filesystem,
        ) as publication:
            try:
                publication.sync()
                self._check_process()
                publication.name()
            finally:
                self._durability.defer(self._algorithm)
        self._odd += publication.odd
        for failure in publication.failures:
            self._fail(*failure)
        self._done += publication.size

    def _empty(self) -> None:
        """Drops what was not published."""
        if self._group is not None:
            self._group.close()
        self._grouped.clear()
        self._bytes = 0
        while self._staged:
            self._staged.popleft().temp.discard()
        self._open_files = 0
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    # ---- the end

    def _drain(self) -> None:
        """All that was accepted, until it is published or has failed."""
        while self._grouped or self._odd or self._staged:
            if self._odd and not self._grouped:
                self._put_here(*self._odd.popleft())
            else:
                self._flush()

    def _end(self) -> None:
        """Nothing goes on and nothing is left, whatever has happened."""
        while True:
            try:
                self._empty()
                return
            except Exception:
                raise
            except BaseException:  # a second Ctrl-C: the first is on its way already
                continue

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            self._broken = True
            raise UnsupportedError("a put can't be continued in a forked child")

    def _tell(self, *, final: bool = False) -> None:
        if self._progress is None:
            return
        total = self._done + self._under_way + (0 if self._group is None else self._group.taken)
        if total - self._told >= _PROGRESS_STEP or (final and total > self._told):
            self._told = total
            try:
                self._progress(total, None)
                self._check_process()
            except BaseException:
                self._broken = True
                raise


def _groups_work() -> bool:
    return have_nameless() and resolving.HAVE_OPENAT2


def _encoded(path: os.PathLike[Any]) -> bytes | None:
    """The path as the system has it, or None for what can't be one."""
    try:
        encoded = os.fsencode(path)
    except Exception:  # whatever __fspath__ does
        return None
    return None if b"\0" in encoded else encoded


def _small_copy(source: Any) -> bytes | None:
    """The content of a small buffer, which may change as soon as its owner goes on; None for others."""
    try:
        with memoryview(source) as view:
            return view.tobytes() if view.nbytes <= _core.SMALL and view.c_contiguous else None
    except Exception:  # no buffer, or one that was released
        return None
