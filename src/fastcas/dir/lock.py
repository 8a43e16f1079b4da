"""The one lock of a layout, between threads, engines and processes.

Shared: the moments in which a writer makes a temporary file, or takes a stored blob for its own.
Exclusive: whoever replaces the index or removes what looks unused. flock(2) on a file that is made
by the first writer and never removed; each holder opens it anew, so that two engines of one process
exclude each other like two processes, and no lock outlives its holder.
"""

from __future__ import annotations

import fcntl
import os
from _thread import get_ident

from fastcas.errors import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcas.dir.root import Root

LOCK_FILE = ".fastcas.lock"

# A child made by fork shares its parent's locks until it closes them.
_held: set[int] = set()


def _forget_parents_locks() -> None:
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_parents_locks)


class Lock:
    """The lock of the layout ``root``. A thread that has it exclusive has it shared as well."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._owner: tuple[int, int] | None = None  # process and thread that have it exclusive

    def shared(self) -> _Holder:
        """A context in which nobody has the lock exclusive."""
        return _Holder(self, fcntl.LOCK_SH)

    def exclusive(self) -> _Holder:
        """A context in which nobody else has the lock. InvalidError inside another one."""
        return _Holder(self, fcntl.LOCK_EX)

    def is_mine(self) -> bool:
        """Whether this thread has the lock exclusive. A child made by fork has inherited nothing."""
        return self._owner == (os.getpid(), get_ident())

    def acquire(self, operation: int) -> int:
        """Waits for the lock; returns the descriptor that has it."""
        while True:
            fd, facts = self._open_file()
            try:
                fcntl.flock(fd, operation)
                if os.path.samestat(facts, self._facts_of_name()):
                    _held.add(fd)
                    return fd
            except FileNotFoundError:
                pass  # somebody removed the file: lock the one that is there now
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def release(self, fd: int) -> None:
        if fd in _held:  # else this is a child of the process that locked it
            _held.discard(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_UN)  # for a child made by fork too, which may have it open
            finally:
                os.close(fd)

    def _open_file(self) -> tuple[int, os.stat_result]:
        root = self._root
        while True:
            try:
                return root.open_known(LOCK_FILE)
            except FileNotFoundError:
                pass
            try:
                fd = root.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            try:
                root.give_to_owner(fd)
                return fd, os.fstat(fd)
            except BaseException:
                os.close(fd)
                raise

    def _facts_of_name(self) -> os.stat_result:
        with self._root.held() as dirfd:
            return os.stat(LOCK_FILE, dir_fd=dirfd, follow_symlinks=False)


class _Holder:
    __slots__ = ("_fd", "_lock", "_operation")

    def __init__(self, lock: Lock, operation: int) -> None:
        self._lock = lock
        self._operation = operation
        self._fd = -1

    def __enter__(self) -> None:
        lock = self._lock
        if lock.is_mine():
            if self._operation == fcntl.LOCK_EX:
                raise InvalidError(
                    "the index can't be changed, nor the layout cleaned, from within update_index"
                )
            return
        self._fd = lock.acquire(self._operation)
        if self._operation == fcntl.LOCK_EX:
            lock._owner = os.getpid(), get_ident()

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            if self._operation == fcntl.LOCK_EX:
                self._lock._owner = None
            self._lock.release(self._fd)
