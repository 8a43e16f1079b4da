"""Many puts at once: what can be taken later goes to threads, the rest is put in its turn."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from fastcas.source import name_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import ThreadPoolExecutor
    from typing import TypeVar

    from fastcas.contract import Progress

    T = TypeVar("T")

# So many sources wait at the most, and, of those in memory, so many bytes.
_WAITING = 64
_WAITING_BYTES = 64 << 20

_TELL = 0.1  # seconds


class _Stopped(Exception):
    """What ends a put whose result nobody waits for any more."""


class Many:
    """One call that puts many on the threads of ``pool``. ``progress`` is called by the thread that
    called, with the bytes of all."""

    def __init__(self, pool: ThreadPoolExecutor, progress: Progress | None) -> None:
        self._pool = pool
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self._told = 0
        self._stopped = False

    def put(self, sources: Iterable[Any], put: Callable[[Any, Progress], T]) -> list[T]:
        """Puts all in order of their results; see ``Engine.put_blobs``."""
        if isinstance(sources, (bytes, bytearray, memoryview, str)):
            raise TypeError(f"{type(sources).__name__} is one source: pass a series of them")
        return self._run(sources, put, _is_for_later)

    def run(self, items: Iterable[Any], put: Callable[[Any, Progress], T]) -> list[T]:
        """The same of what can all be taken later."""
        return self._run(items, put, lambda _: True)

    def _run(
        self,
        items: Iterable[Any],
        put: Callable[[Any, Progress], T],
        is_for_later: Callable[[Any], bool],
    ) -> list[T]:
        results: list[T] = []
        waiting: deque[tuple[Any, Future[T]]] = deque()
        size = 0
        try:
            for item in items:
                if is_for_later(item):
                    future = self._pool.submit(put, item, self._watch())
                else:
                    future = Future()
                    try:
                        future.set_result(put(item, self._watch()))
                    except Exception as error:
                        future.set_exception(error)
                waiting.append((item, future))
                size += _memory_of(item)
                failed = future.done() and future.exception() is not None
                while waiting and (failed or len(waiting) > _WAITING or size > _WAITING_BYTES):
                    size -= _memory_of(waiting[0][0])
                    self._take(waiting, results)
                self._tell()
            while waiting:
                self._take(waiting, results)
        except BaseException:
            self._stopped = True
            for _, future in waiting:
                future.cancel()
            wait([future for _, future in waiting])
            raise
        self._tell()
        return results

    def _take(self, waiting: deque[tuple[Any, Future[T]]], results: list[T]) -> None:
        """The result of the first that waits."""
        source, future = waiting[0]
        while not wait([future], _TELL).done:
            self._tell()
        waiting.popleft()
        error = future.exception()
        if error is not None:
            name_source(error, len(results), source)
            raise error
        results.append(future.result())

    def _watch(self) -> Progress:
        told = 0

        def watch(done: int, _: int | None) -> None:
            nonlocal told
            if self._stopped:
                raise _Stopped
            with self._lock:
                self._done += done - told
            told = done

        return watch

    def _tell(self) -> None:
        if self._progress is not None and self._done > self._told:
            self._told = self._done
            self._progress(self._told, None)


def _is_for_later(source: Any) -> bool:
    return type(source) is bytes or isinstance(source, os.PathLike)


def _memory_of(item: Any) -> int:
    return len(item) if type(item) is bytes else 0
