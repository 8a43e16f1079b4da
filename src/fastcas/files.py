"""What more than one room does with files."""

from __future__ import annotations

import errno
import io
import os

from fastcas import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastcas.digest import Digest

#: How a file is made where nothing may be.
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW

# What a filesystem says that has no modes.
_NO_MODES = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def write_all(fd: int, content: bytes | memoryview) -> None:
    """Writes all of ``content``, however little each write(2) takes, and waits where that doesn't."""
    rest = memoryview(content)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever shares the terminal or pipe may have made it so
            import select

            room = select.poll()
            room.register(fd, select.POLLOUT)
            room.poll()


class DescriptorWriter(io.RawIOBase):
    """A raw file over a descriptor, which isn't its own, that takes all that it is given."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """See ``write_all``."""
        with memoryview(data) as view:
            write_all(self._fd, view)
            return view.nbytes


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


def take_name(directory: int, digest: Digest, note: bytes, *, durable: bool) -> str:
    """Takes a name for a blob that nothing has in the open ``directory``, by writing ``note`` beside
    it, as ``NAME.json``. Returns the name."""
    base = name = f"{digest.algorithm}-{digest.encoded}"
    number = 0
    while True:
        try:
            if _exists(directory, name):
                raise FileExistsError
            file = _core.open_path(f"{name}.json", NEW, 0o644, dir_fd=directory)
            break
        except FileExistsError:
            number += 1
            name = f"{base}.{number}"
    try:
        with file as fd:
            write_all(fd, note)
            if durable:
                os.fsync(fd)
    except BaseException:
        os.unlink(f"{name}.json", dir_fd=directory)
        raise
    return name


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
