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

from fastcas import _core
from fastcas.errors import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcas.dir.root import Root

LOCK_FILE = ".fastcas.lock"

# A child made by fork shares its parent's locks until it closes them.
_held: set[_core.File] = set()


def _forget_parents_locks() -> None:
    for file in _held:
        file.close()
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

    def acquire(self, holder: _Released) -> None:
        """Waits for the lock, which ``holder`` has then."""
        while True:
            file, facts = self._open_file()
            holder.file = file  # first: whatever comes between, the holder can end it
            _held.add(file)
            self._flock(file, holder.operation)
            try:
                if os.path.samestat(facts, self._facts_of_name()):
                    return
            except FileNotFoundError:
                pass  # somebody removed the file: lock the one that is there now
            self.release(file)

    def release(self, file: _core.File) -> None:
        """May be called again, where it was interrupted."""
        if file in _held:  # else this is a child of the process that locked it
            try:
                self._flock(file, fcntl.LOCK_UN)  # for a child made by fork too, which may have it
            finally:
                _held.discard(file)
                file.close()

    def _flock(self, file: _core.File, operation: int) -> None:
        try:
            fcntl.flock(file.fd, operation)
        except OSError as error:  # a filesystem that can't
            raise self._root.named(error, LOCK_FILE) from None

    def _open_file(self) -> tuple[_core.File, os.stat_result]:
        root = self._root
        while True:
            try:
                return root.open_known(LOCK_FILE)
            except FileNotFoundError:
                pass
            try:
                file = root.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            root.give_to_owner(file.fd)
            return file, os.fstat(file.fd)

    def _facts_of_name(self) -> os.stat_result:
        with self._root.held() as dirfd:
            return os.stat(LOCK_FILE, dir_fd=dirfd, follow_symlinks=False)


class _Released:
    """A holder; alone, one that has released the lock."""

    __slots__ = ("_lock", "_owner", "file", "operation")

    def __init__(self, lock: Lock, operation: int) -> None:
        self._lock = lock
        self.operation = operation
        self._owner: tuple[int, int] | None = None
        self.file: _core.File | None = None

    def __enter__(self) -> None:
        lock = self._lock
        if lock.is_mine():
            if self.operation == fcntl.LOCK_EX:
                raise InvalidError(
                    "the index can't be changed, nor the layout cleaned, from within update_index"
                )
            return
        try:
            lock.acquire(self)
            if self.operation == fcntl.LOCK_EX:
                self._owner = lock._owner = os.getpid(), get_ident()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            if self._owner is not None and self._lock._owner is self._owner:
                self._lock._owner = None  # by another thread, perhaps, that drops this object
            self._lock.release(self.file)
            self.file = None
        self.__class__ = _Released  # so that its collection runs no Python: a Ctrl-C there is lost


class _Holder(_Released):
    """An interruption can come between any two steps; what it leaves is released with the object."""

    __slots__ = ()

    def __del__(self) -> None:
        if getattr(self, "file", None) is not None:  # it may have been interrupted in __init__
            self.__exit__()
