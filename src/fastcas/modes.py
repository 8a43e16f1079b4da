"""The modes of files that others may read only when they are finished."""

from __future__ import annotations

import errno
import os

# What a filesystem says that has no modes.
_NO_MODES = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def open_to_others(fd: int, mode: int) -> None:
    """Gives a file that was made with 0600 the mode that it would have been made with: ``mode`` less
    the umask."""
    try:
        os.fchmod(fd, mode & ~_umask())
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def _umask() -> int:
    """The process's umask; setting it to read it would be seen by every other thread."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
