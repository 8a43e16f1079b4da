"""clean: what ended writers left in the root of a layout.

A writer's file is alive while its writer holds a flock(2) on it. It is made and locked under the
layout's shared lock, and clean has that exclusive: it can't come between the two.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from fastcas import _core
from fastcas.dir.root import DIRECTORY
from fastcas.dir.temp import TEMP_PREFIX, TEMP_SUFFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcas.dir.lock import Lock
    from fastcas.dir.root import Root


def remove_debris(root: Root, lock: Lock) -> list[str]:
    """Removes our temporary files, and umoci's directories, whose writers have ended.

    Nothing else is touched, and no symbolic link is followed. Returns the names.
    """
    removed = []
    with lock.exclusive(), root.open(".", DIRECTORY) as directory:
        try:
            for name in sorted(os.listdir(directory)):
                if _is_temp(name):
                    dead = _remove_dead_file(directory, name)
                elif _is_umocis(name):
                    dead = _remove_dead_directory(directory, name)
                else:
                    continue
                if dead:
                    removed.append(name)
        except OSError as error:
            raise root.named(error) from error.__cause__
    return removed


def _is_temp(name: str) -> bool:
    middle = name[len(TEMP_PREFIX) : -len(TEMP_SUFFIX)]
    return (
        name.startswith(TEMP_PREFIX)
        and name.endswith(TEMP_SUFFIX)
        and len(middle) == 16
        and not middle.strip("0123456789abcdef")
    )


def _remove_dead_file(directory: int, name: str) -> bool:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
    try:
        file = _core.open_path(name, flags, dir_fd=directory)
    except OSError as error:
        # Gone, or a link, a socket or another user's file: then it isn't ours to remove.
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM):
            return False
        raise
    with file as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not _take_flock(fd):
            return False
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return False  # its writer has removed it this moment, and so given up the lock
    return True


# umoci makes its directory and locks it a moment later: an empty one may be at that moment.
_UMOCI_MOMENT = 5.0  # seconds


def _is_umocis(name: str) -> bool:
    prefix, _, number = name.rpartition("-")
    return prefix == ".umoci" and number.isascii() and number.isdecimal()


def _remove_dead_directory(directory: int, name: str) -> bool:
    try:
        file = _core.open_path(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return False
        raise
    try:
        with file as fd:
            age = time.time() - os.fstat(fd).st_ctime
            if (age < _UMOCI_MOMENT and not os.listdir(fd)) or not _take_flock(fd):
                return False
            _empty(fd)
            os.rmdir(name, dir_fd=directory)
    except RecursionError:
        return False  # umoci's are flat: whoever nested a thousand directories may remove them
    except OSError as error:
        # The same where the descriptors ran out first, something in it isn't ours to remove, or its
        # writer removes it this moment.
        if error.errno in (errno.EMFILE, errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.ENOENT):
            return False
        raise
    return True


def _empty(fd: int) -> None:
    for _, folders, files, inner in os.fwalk(".", topdown=False, dir_fd=fd):
        for file in files:
            os.unlink(file, dir_fd=inner)
        for folder in folders:
            try:
                os.rmdir(folder, dir_fd=inner)
            except NotADirectoryError:  # a link to one
                os.unlink(folder, dir_fd=inner)


def _take_flock(fd: int) -> bool:
    """Whether its writer has ended: a living one holds this lock. Closing the file gives it back."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
