"""Budget: how much of what is put may be in memory at once."""

from __future__ import annotations

import threading
import weakref

# What an interrupt leaves is given back without a word to those that wait: they look so often.
_MOMENT = 0.5  # seconds


class Budget:
    """So many bytes at most are in memory; who wants more waits for who has them.

    A thread that has some never waits: it is within a source, which puts something else, and what it
    has is free only when that is done. So that goes beyond the budget. Those that don't wait leave
    ``reserve`` bytes to those that do: they may keep theirs for as long as somebody else likes.
    """

    def __init__(self, size: int, reserve: int = 0) -> None:
        self._size = size
        self._reserve = reserve
        # Nothing else says what is had: where an interrupt leaves nobody to give it back, it goes with
        # the object, and who waits sees that a moment later.
        self._shares: list[weakref.ref[Share]] = []
        self._lock = threading.RLock()  # taken by itself, as a Channel's is
        self._change = threading.Condition(self._lock)

    def take(self, size: int, *, wait: bool = True) -> Share:
        """For a with statement, whose value says whether there was as much."""
        return Share(self, min(size, self._size), wait)

    def _live(self) -> list[Share]:
        return [share for one in self._shares if (share := one()) is not None]

    def _add(self, share: Share) -> None:
        with self._lock:
            self._shares = [weakref.ref(one) for one in (*self._live(), share)]

    def _left(self) -> int:
        return self._size - sum(share.size for share in self._live())

    def _is_within(self, thread: int) -> bool:
        return any(share.size and share.thread == thread for share in self._live())


class Share:
    """What one put has of a budget: ``size`` bytes. As a context it takes what was asked for, says
    whether it got that, and gives all back."""

    def __init__(self, budget: Budget, size: int = 0, wait: bool = True) -> None:
        self.size = 0
        self.thread = threading.get_ident()
        self._budget = budget
        self._wanted = size
        self._wait = wait
        budget._add(self)

    def grow(self, size: int, *, wait: bool = True) -> bool:
        """False where there isn't as much more, and ``wait`` is false."""
        budget = self._budget
        with budget._lock:
            if wait:
                while not (budget._left() >= size or budget._is_within(self.thread)):
                    budget._change.wait(_MOMENT)
            elif budget._left() < size + budget._reserve:
                return False
            self.size += size
            return True

    def give_back(self) -> None:
        with self._budget._lock:
            self.size = 0
            self._budget._change.notify_all()

    def __enter__(self) -> bool:
        return self.grow(self._wanted, wait=self._wait)

    def __exit__(self, *_: object) -> None:
        self.give_back()
