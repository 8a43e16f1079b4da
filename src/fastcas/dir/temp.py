"""A file on the layout's filesystem that isn't published yet."""

from __future__ import annotations

import errno
import fcntl
import os

from fastcas import _core
from fastcas.files import open_to_others

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcas.dir.lock import Lock
    from fastcas.dir.root import Root

#: False where files can't be made without a name, or be given one later: then names of our pattern.
HAVE_O_TMPFILE = hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")

#: What link(2) says where there are no hard links; ENOSYS: FUSE on older kernels.
NO_HARD_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)

#: At most so many files are open and not published yet, and never more than a quarter of what the
#: process may have open, or half of what it has left.
MOST_FILES = 256

TEMP_PREFIX = ".fastcas-"
TEMP_SUFFIX = ".tmp"


def have_nameless() -> bool:
    """Whether files can be made without a name here, as far as is known."""
    return HAVE_O_TMPFILE


def room_for_temps() -> int:
    """How many files may wait, open, to be published."""
    limit = os.sysconf("SC_OPEN_MAX")
    if limit < 0:
        return MOST_FILES
    room = min(MOST_FILES, limit // 4)
    if limit < 32 * MOST_FILES:  # others may have most of them
        try:
            room = min(room, (limit - len(os.listdir("/proc/self/fd"))) // 2 - 2)
        except OSError:
            pass
    return max(1, room)


class _Temp:
    """A Temp; alone, one that was discarded."""

    _ended = True
    #: Of what was written, once that is known.
    checksum: str | None = None
    waits = False

    def __init__(self, root: Root, lock: Lock, mode: int, file: _core.File | None = None) -> None:
        self._root = root
        self._lock = lock
        self._mode = mode
        self._name: str | None = None
        self._pid = os.getpid()  # a forked child must leave the name to its parent
        self._file = file
        self.fd = -1 if file is None else file.fd
        self._held = root.held()  # to the end, so that a name can be removed whoever closes the engine
        self._rootfd = self._held.__enter__()
        self._ended = False
        if file is not None:
            return
        try:
            self._open()
            root.give_to_owner(self.fd)
        except BaseException:
            self.discard()
            raise

    @property
    def nameless(self) -> bool:
        return self._name is None

    def _open(self) -> None:
        if HAVE_O_TMPFILE:
            try:
                self._file = self._root.open(".", os.O_TMPFILE | os.O_RDWR, self._mode)
                self.fd = self._file.fd
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                    raise
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        with self._lock.shared():  # clean can't come between the name and the flock
            name = _new_name()
            self._name = name  # first: whatever comes between, it is removed
            self._file = self._root.open(name, flags, 0o600)
            self.fd = self._file.fd
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def publish(self, dirfd: int, name: str) -> None:
        """Gives the file a name that nothing may have yet: FileExistsError."""
        self._mark_as_used()
        if self._name is None:
            _core.link_fd(self.fd, dirfd, os.fsencode(name))
            return
        open_to_others(self.fd, self._mode)
        with self._lock.shared():
            try:
                os.link(self._name, name, src_dir_fd=self._rootfd, dst_dir_fd=dirfd)
            except OSError as error:
                if error.errno not in NO_HARD_LINK:
                    raise
                # No hard links here. A rename could replace a blob that came this moment: by itself.
                if exists(dirfd, name):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
                os.rename(self._name, name, src_dir_fd=self._rootfd, dst_dir_fd=dirfd)
            else:
                os.unlink(self._name, dir_fd=self._rootfd)
            self._name = None

    def replace(self, dirfd: int, name: str) -> None:
        """Gives the file a name, in the place of whatever has it."""
        self._mark_as_used()
        with self._lock.shared():
            old = self._name
            new = _new_name() if old is None else old
            if old is None:
                self._link(new)
            else:
                open_to_others(self.fd, self._mode)
            os.rename(new, name, src_dir_fd=self._rootfd, dst_dir_fd=dirfd)
            # It may have both names already, by a publish that was interrupted.
            if old is not None and os.fstat(self.fd).st_nlink > 1:
                os.unlink(old, dir_fd=self._rootfd)
            self._name = None

    def _link(self, name: str) -> None:
        try:
            _core.link_fd(self.fd, self._rootfd, os.fsencode(name))
            self._name = name
        except BaseException:  # an interruption too, after which nobody would know of the name
            if exists(self._rootfd, name):
                os.unlink(name, dir_fd=self._rootfd)
            raise

    def _mark_as_used(self) -> None:
        # gc counts its grace from here, not from the last byte, after which a source may stay open, or
        # a sync take long.
        os.utime(self.fd)

    def discard(self) -> None:
        """Closes the file; nothing stays of it unless it was published. May be called again."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._name is not None and self._pid == os.getpid():
                os.unlink(self._name, dir_fd=self._rootfd)
        except FileNotFoundError:
            pass
        finally:
            self._held.__exit__()
            if self._file is not None:
                self._file.close()
        self.__class__ = _Temp  # so that its collection runs no Python: a Ctrl-C there is lost


class Temp(_Temp):
    """A file on the layout's filesystem that is not published: ``fd``, open for writing.

    It has no name where the filesystem can do that, so that nothing stays of it whatever happens;
    else a name of our pattern in the root, with a flock by which ``clean`` knows that it is alive.
    One that a signal's exception made its owner forget is discarded when it is collected.
    ``file`` is one without a name that is open already. ``waits``: it belongs to Pending.
    """

    def __del__(self) -> None:
        self.discard()


def _new_name() -> str:
    return f"{TEMP_PREFIX}{os.urandom(8).hex()}{TEMP_SUFFIX}"


def exists(dirfd: int, name: str) -> bool:
    """Whether the directory has that name, whatever it stands for."""
    try:
        os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
