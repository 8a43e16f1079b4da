"""Channel: what one thread hands to another, a few items ahead."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ChannelClosed(Exception):
    """What ``Channel.get`` raises when one side has gone."""


class Channel:
    """Items from a thread that has them to one that wants them; ``room`` of them wait at the most."""

    def __init__(self, room: int) -> None:
        self._items: deque[Any] = deque()
        self._room = room
        self._closed = False
        # Taken by itself: an interrupt within Condition's own __enter__ would leave it locked.
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)

    def put(self, item: Any) -> bool:
        """Waits for room. False when the channel is closed: the item isn't wanted."""
        with self._lock:
            self._change.wait_for(lambda: self._closed or len(self._items) < self._room)
            if self._closed:
                return False
            self._items.append(item)
            self._change.notify_all()
            return True

    def get(self) -> Any:
        """Waits for an item; ChannelClosed when there will be none."""
        with self._lock:
            self._change.wait_for(lambda: self._closed or self._items)
            if self._closed:
                raise ChannelClosed
            item = self._items.popleft()
            self._change.notify_all()
            return item

    def close(self) -> None:
        """From either side. What waits is dropped."""
        with self._lock:
            self._closed = True
            self._items.clear()
            self._change.notify_all()

    def put_all(self, items: Iterable[Any]) -> None:
        """Puts ``items``, and then how they ended, for ``get_all``."""
        end: BaseException | None = None
        try:
            for item in items:
                if not self.put(item):
                    return
        except BaseException as error:
            end = error
        self.put(end)

    def get_all(self) -> Iterator[Any]:
        """What ``put_all`` puts, until it ends, or raises what ended it there."""
        while not ((item := self.get()) is None or isinstance(item, BaseException)):
            yield item
        if item is not None:
            raise item
