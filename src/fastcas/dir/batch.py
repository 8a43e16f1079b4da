"""Many puts with one durability point: on two threads, in groups.

Files without a name are written first, a group of them; then the disk is told of all, each is synced
by one of many threads, and they get their names; the directory is synced once, at the end. A group
is a number of open files, since what has no name can't be opened again.

Small blobs in memory and small files go through ``_core.Group``, each step of a whole group in one
call. Large ones are jobs: a second thread takes them, and the calling thread too when too many wait,
each on its own from reading to writing. Everything else (readers, iterables, what is unusual) is
the calling thread's, and so are claims, publication and progress.
"""

from __future__ import annotations

import os
import stat
from _thread import allocate_lock, start_new_thread
from collections import deque

from fastcas import _core
from fastcas.digest import Digest
from fastcas.dir import root as resolving
from fastcas.dir.ingest import BLOB_MODE, check_algorithm, not_synced
from fastcas.dir.root import BLOBS, DIRECTORY
from fastcas.dir.temp import Temp, have_nameless, room_for_temps
from fastcas.errors import FastCASError, UnsupportedError
from fastcas.results import PutResult
from fastcas.source import open_regular, open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from fastcas.dir.durability import Durability
    from fastcas.dir.ingest import Ingest
    from fastcas.dir.lock import Lock
    from fastcas.dir.root import Root
    from fastcas.source import Source

#: At most so many bytes of small blobs are kept until they are stored.
MOST_BYTES = 4 << 20
#: So many large sources wait for the second thread before the calling one takes one itself.
MOST_JOBS = 2

_PROGRESS_STEP = 1 << 20
_PATIENCE = 0.1  # seconds


class Batch:
    """One call of put_blobs."""

    def __init__(
        self,
        root: Root,
        lock: Lock,
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
        self._room = room_for_temps()
        self._results: list[PutResult | None] = []
        self._failure: tuple[int, Any, BaseException] | None = None  # of the first source that failed
        self._broken = False  # progress raised: nothing goes on

        # In C, where files need no names: the numbers and sources of what the group holds.
        self._group = _core.Group(algorithm, self._room) if _groups_work() else None
        self._grouped: list[tuple[int, Any]] = []
        self._bytes = 0

        self._staged: deque[tuple[int, Any, Temp, Digest, int]] = deque()  # written, not published
        self._odd: deque[tuple[int, Any]] = deque()  # for the calling thread, one by one
        self._jobs: deque[tuple[int, Any, Any]] = deque()  # the last is the name, or the bytes
        # Who holds the layout's lock is known by its thread: then no second one could use it.
        self._may_thread = not lock.is_mine()
        self._mutex = allocate_lock()  # for the four below
        self._working = False  # the second thread takes jobs
        self._ended = allocate_lock()  # free when it doesn't
        self._stop = False
        self._sinks: list[_core.Sink | None] = [None, None]  # of the two threads, the caller's first
        self._counted = [0, 0]
        self._told = -1

    def run(self, sources: Iterable[Any]) -> list[PutResult]:
        """See ``Engine.put_blobs``. After a failure the directory waits for the next ``sync``."""
        given = enumerate(sources)
        refusal = None
        try:
            while self._failure is None:
                try:
                    number, source = next(given)
                except StopIteration:
                    break
                except Exception as error:  # the iterable's own
                    if self._pid != os.getpid():
                        raise
                    refusal = error
                    break
                self._check_process()
                self._results.append(None)
                self._accept(number, source)
            self._drain()
        finally:
            self._end()
        if self._failure is not None:
            number, source, failure = self._failure
            self._failure = None
            failure.source = source  # type: ignore[attr-defined]
            if hasattr(failure, "add_note"):
                failure.add_note(f"source {number} of put_blobs: {repr(source)[:200]}")
            raise failure
        if refusal is not None:
            raise refusal
        self._durability.sync()
        if self._results:
            self._tell(final=True)
        return self._results  # type: ignore[return-value]

    # ---- sorting

    def _accept(self, number: int, source: Any) -> None:
        kind = type(source)
        if kind is bytes:
            if len(source) > _core.SMALL:
                self._submit(number, source, source)
            elif self._group is not None:
                self._add_bytes(number, source, source)
            else:
                self._put_here(number, source)
        elif isinstance(source, os.PathLike):
            self._accept_path(number, source)
        elif self._group is not None and (content := _small_copy(source)) is not None:
            self._add_bytes(number, source, content)
        else:
            self._put_here(number, source)

    def _accept_path(self, number: int, source: os.PathLike[Any]) -> None:
        try:
            name = os.fspath(source)
            facts = os.stat(name)
        except Exception:
            self._put_here(number, source)  # which knows what to say
            return
        if not stat.S_ISREG(facts.st_mode):
            self._put_here(number, source)
        elif facts.st_size > _core.SMALL or self._group is None:
            self._submit(number, source, name)
        else:
            self._group.add_path(os.fsencode(name))
            self._added(number, source, 0)

    def _add_bytes(self, number: int, source: Any, content: bytes) -> None:
        assert self._group is not None
        self._group.add_bytes(content)
        self._added(number, source, len(content))

    def _added(self, number: int, source: Any, size: int) -> None:
        self._grouped.append((number, source))
        self._bytes += size
        if self._is_full():
            self._flush()

    def _is_full(self) -> bool:
        return len(self._grouped) + len(self._staged) >= self._room or self._bytes >= MOST_BYTES

    # ---- one by one

    def _submit(self, number: int, source: Any, content: Any) -> None:
        self._jobs.append((number, source, content))
        if len(self._jobs) > 1:
            self._start_second()
        while len(self._jobs) > MOST_JOBS:
            self._take_job(0)
        if self._is_full():
            self._flush()

    def _take_job(self, seat: int) -> None:
        try:
            number, source, content = self._jobs.popleft()
        except IndexError:
            return
        opening = open_source if type(content) is bytes and content is source else open_regular
        self._stage(number, source, seat, lambda: opening(content))

    def _put_here(self, number: int, source: Any) -> None:
        if self._jobs:
            self._start_second()
        self._stage(number, source, 0, lambda: open_source(source))
        if self._is_full():
            self._flush()

    def _stage(self, number: int, source: Any, seat: int, opening: Callable[[], Source | None]) -> None:
        """Stores one source in a temporary file, on the thread of ``seat``."""
        # Two streams fill two processors; one has a helper that hashes.
        alone = not self._jobs and self._sinks[1 - seat] is None
        before = self._counted[seat]

        def count(size: int, _: int | None) -> None:
            self._counted[seat] = before + size
            if seat == 0:
                self._tell()

        def watch(sink: _core.Sink) -> None:
            self._sinks[seat] = sink
            if self._stop:
                sink.stop()

        if self._failure is not None and number > self._failure[0]:
            return
        try:
            opened = opening()
            if opened is None:
                self._odd.append((number, source))
                return
            with opened:
                temp, digest, size = self._ingest.stage(
                    opened,
                    self._algorithm,
                    progress=None if self._progress is None else count,
                    helper=alone,
                    watch=watch,
                )
                self._staged.append((number, source, temp, digest, size))
            self._counted[seat] = before + size
        except _core.StoppedError:
            pass
        except Exception as error:
            if self._broken:
                raise
            self._fail(number, source, error)
        finally:
            self._sinks[seat] = None

    def _fail(self, number: int, source: Any, error: BaseException) -> None:
        self._check_process()
        with self._mutex:
            if self._failure is None or number < self._failure[0]:
                self._failure = number, source, error

    # ---- the second thread: it ends when there are no jobs

    def _start_second(self) -> None:
        if not self._may_thread:
            return
        with self._mutex:
            if self._working:
                return
            self._ended.acquire(blocking=False)
            try:
                start_new_thread(self._work, ())
            except RuntimeError:
                self._may_thread = False  # no thread to be had: go on alone
                return
            self._working = True

    def _work(self) -> None:
        with self._mutex:  # until who started us has noted it, or was interrupted before that
            if not self._working:
                return
        while True:
            with self._mutex:
                if self._stop or not self._jobs:
                    self._working = False
                    self._ended.release()
                    return
            try:
                self._take_job(1)
            except BaseException as error:
                self._fail(len(self._results), None, error)

    def _wait_for_second(self) -> None:
        while not self._ended.acquire(timeout=_PATIENCE):
            self._check_process()
            self._tell()
        self._ended.release()

    # ---- a group: synced, published

    def _flush(self) -> None:
        """Publishes all that is written, of the group and one by one."""
        if self._jobs:
            self._start_second()
        staged = list(self._staged)  # they stay there, so that _end finds them
        first = min(
            [*self._grouped[:1], *(one[:2] for one in staged)], key=lambda one: one[0], default=None
        )
        if first is None:
            return
        claims: dict[str, tuple[int, int]] = {}
        try:
            with self._open_directory() as directory:
                try:
                    self._publish(directory, staged, claims)
                finally:
                    self._durability.defer(self._algorithm)
        except Exception as error:
            if self._broken:
                raise
            self._fail(*first, error)
        finally:
            for fd, _ in claims.values():
                os.close(fd)
            for one in staged:
                one[2].discard()
                self._staged.popleft()
            if self._group is not None:
                self._group.close()
            self._grouped.clear()
            self._bytes = 0
        self._tell()

    def _open_directory(self) -> _core.File:
        try:
            return self._root.open_file(f"{BLOBS}/{self._algorithm}", DIRECTORY)
        except FileNotFoundError:
            return _core.File(self._ingest.open_directory(self._algorithm))

    def _publish(
        self,
        directory: int,
        staged: list[tuple[int, Any, Temp, Digest, int]],
        claims: dict[str, tuple[int, int]],
    ) -> None:
        group, root = self._group, self._root
        if group is not None and self._grouped:
            with root.held() as dirfd:
                group.store(
                    dirfd,
                    directory,
                    mode=BLOB_MODE,
                    owner=root.owner,
                    publish=not self._durability.sync_files,
                )
            for encoded, size, error, stored in group.outcome():
                if encoded is not None and error is None and not stored:
                    self._claim(directory, encoded, size, claims)
        for _, _, _, digest, size in staged:
            self._claim(directory, digest.encoded, size, claims)
        new = [one for one in staged if one[3].encoded not in claims]
        synced = dict.fromkeys((one[0] for one in new), 0)
        if self._durability.sync_files:
            fds = [one[2].fd for one in new] + [fd for fd, _ in claims.values()]
            if self._durability.level == "syncfs":
                statuses = self._sync_filesystem(len(fds))
            else:
                statuses = group.sync(fds) if group is not None else _core.sync_files(fds)
            synced.update(zip(synced, statuses, strict=False))
            for encoded, status in zip(list(claims), statuses[len(new) :], strict=True):
                claims[encoded] = claims[encoded][0], status
        self._check_process()
        for number, source, temp, digest, size in staged:
            if digest.encoded in claims:
                self._claimed(number, source, digest, size, claims)
                continue
            try:
                if status := synced[number]:
                    raise OSError(status, os.strerror(status))
                self._ingest.place(directory, temp, digest, size, synced=True)
            except Exception as error:
                self._fail(number, source, self._named(error, digest.encoded))
            else:
                self._results[number] = PutResult(digest, size)
        if group is not None and self._grouped:
            group.publish(directory)
            self._settle(group, claims)

    def _sync_filesystem(self, count: int) -> list[int]:
        statuses = memoryview(bytearray(4)).cast("i")
        self._durability.sync_data([], statuses)
        if statuses[0]:  # whose it was nobody knows: none of them gets its name
            raise OSError(statuses[0], os.strerror(statuses[0]))
        return [0] * count

    def _claim(
        self, directory: int, encoded: str, size: int, claims: dict[str, tuple[int, int]]
    ) -> None:
        if encoded not in claims:
            try:
                fd = self._ingest.claim(directory, Digest.of(self._algorithm, encoded), size)
            except (OSError, FastCASError):
                return  # met again, and told, by who puts it in its place
            if fd >= 0:
                claims[encoded] = fd, 0

    def _claimed(
        self,
        number: int,
        source: Any,
        digest: Digest,
        size: int,
        claims: dict[str, tuple[int, int]],
    ) -> None:
        if status := claims[digest.encoded][1]:
            self._fail(number, source, not_synced(digest, status))
        else:
            self._results[number] = PutResult(digest, size)

    def _settle(self, group: _core.Group, claims: dict[str, tuple[int, int]]) -> None:
        """The results of the group. What is none yet goes the general way."""
        published: dict[str, PutResult] = {}
        total = 0
        for (number, source), (encoded, size, error, stored) in zip(
            self._grouped, group.outcome(), strict=True
        ):
            if error is not None:
                self._fail(number, source, self._named(error, encoded))
            elif encoded is None:
                self._odd.append((number, source))
            elif stored:
                result = PutResult(Digest.of(self._algorithm, encoded), size)
                self._results[number] = published[encoded] = result
                total += size
            elif encoded in published:  # the same content twice in this group
                self._results[number] = published[encoded]
                total += size
            elif encoded in claims:
                self._claimed(number, source, Digest.of(self._algorithm, encoded), size, claims)
                total += size
            else:
                self._odd.append((number, source))
        self._counted[0] += total

    def _named(self, error: Exception, encoded: str | None) -> Exception:
        if isinstance(error, OSError):
            name = f"{BLOBS}/{self._algorithm}/{encoded}" if encoded is not None else ""
            return self._root.named(error, name)
        return error

    # ---- the end

    def _drain(self) -> None:
        """All that was accepted, until it is published or has failed."""
        while True:
            if len(self._jobs) > 1:
                self._start_second()
            if self._grouped or self._is_full():
                self._flush()
            elif self._odd:
                self._put_here(*self._odd.popleft())
            elif self._jobs:
                self._take_job(0)
            elif self._working:
                self._wait_for_second()
            elif self._staged:
                self._flush()
            else:
                return

    def _end(self) -> None:
        """Nothing goes on and nothing is left, whatever has happened."""
        if self._pid == os.getpid():
            while True:
                try:
                    with self._mutex:
                        self._stop = True
                        working = self._working
                    if sink := self._sinks[1]:
                        sink.stop()
                    if working:
                        self._ended.acquire()
                    break
                except BaseException:  # a second Ctrl-C: the first is on its way already
                    continue
        while self._staged:
            self._staged.popleft()[2].discard()
        if self._group is not None:
            self._group.close()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            self._broken = True
            raise UnsupportedError("a put can't be continued in a forked child")

    def _tell(self, *, final: bool = False) -> None:
        if self._progress is None:
            return
        total = sum(self._counted)
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


def _small_copy(source: Any) -> bytes | None:
    """The content of a small buffer, which may change as soon as its owner goes on; None for others."""
    try:
        view = memoryview(source)
    except TypeError:
        return None
    with view:
        return view.tobytes() if view.nbytes <= _core.SMALL and view.c_contiguous else None
