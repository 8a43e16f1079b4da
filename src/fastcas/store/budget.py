"""Budget: how much of what is put may be in memory at once."""

from __future__ import annotations

import threading
from collections import Counter


class Budget:
    """So many bytes at most are in memory; who wants more waits for who has them.

    A thread that has some never waits: it is within a source, which puts something else, and what it
    has is free only when that is done. So that goes beyond the budget.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._held: Counter[int] = Counter()  # by the threads that have some
        self._lock = threading.RLock()  # taken by itself, as a Channel's is
        self._change = threading.Condition(self._lock)

    def take(self, size: int, *, wait: bool = True) -> _Taken:
        """For a with statement, which gives it back, and whose value says whether there was any."""
        return _Taken(self, min(size, self._size), wait)

    def borrow(self, size: int, *, wait: bool = True) -> bool:
        """False where there isn't as much, and ``wait`` is false."""
        thread = threading.get_ident()
        with self._lock:
            if not wait and self._left < size:
                return False
            self._change.wait_for(lambda: self._left >= size or self._held[thread] > 0)
            self._left -= size
            self._held[thread] += size
            return True

    def give_back(self, size: int) -> None:
        thread = threading.get_ident()
        with self._lock:
            self._left += size
            self._held[thread] -= size
            if not self._held[thread]:
                del self._held[thread]
            self._change.notify_all()


class _Taken:
    def __init__(self, budget: Budget, size: int, wait: bool) -> None:
        self._budget = budget
        self._size = size
        self._wait = wait
        self._taken = False

    def __enter__(self) -> bool:
        self._taken = self._budget.borrow(self._size, wait=self._wait)
        return self._taken

    def __exit__(self, *_: object) -> None:
        if self._taken:
            self._budget.give_back(self._size)
