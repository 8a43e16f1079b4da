"""BlockSink: what a source sees as its sink where Python takes the bytes, and not the core."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SCRATCH = 256 << 10


class BlockSink:
    """Takes copies of what comes, and gathers them in ``_block``; ``_took`` is called after each.

    ``write``, ``fill`` and ``copy_from_fd`` are those of ``_core.Sink``.
    """

    _block: Any  # memory that can be written
    _used: int

    def _took(self, count: int) -> None:
        """``count`` bytes more are in the block; where it is full, it must be another afterwards."""
        raise NotImplementedError

    def write(self, data: Any) -> None:
        """Takes a copy of a bytes-like object."""
        with memoryview(data) as given, given.cast("B") as view:
            done = 0
            while done < len(view):
                count = min(len(view) - done, len(self._block) - self._used)
                self._block[self._used : self._used + count] = view[done : done + count]
                done += count
                self._took(count)

    def fill(self, readinto: Callable[[memoryview], int]) -> None:
        """Takes a copy of what ``readinto`` gives until it returns 0."""
        # A reader may keep what it is given to fill, and a block may not change any more.
        with memoryview(bytearray(_SCRATCH)) as scratch:
            while count := readinto(scratch):
                self.write(scratch[:count])

    def copy_from_fd(self, source: int, *, polled: bool = False, timeout: float = -1.0) -> None:
        """Takes what a descriptor gives until its end."""
        poll = select.poll()
        if polled:
            poll.register(source, select.POLLIN)
        while True:
            if polled and not poll.poll(None if timeout < 0 else timeout * 1000):
                raise TimeoutError(f"nothing came for {timeout:g} seconds")
            with memoryview(self._block) as block, block[self._used :] as room:
                try:
                    count = os.readv(source, [room])
                except BlockingIOError:
                    if not polled:
                        raise
                    continue  # another reader of the pipe was quicker
            if not count:
                return
            self._took(count)
