"""Where the user wants content to be written: a path that may stand for anything."""

from __future__ import annotations

import errno
import os
import stat

from fastcas import _core
from fastcas.errors import FastCASError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_MOST_LINKS = 40  # the kernel's own limit


class Destination:
    """A path of the user's, for the time that content is written to it.

    An ordinary file, or nothing, is replaced by one that is written beside it under the name ``temp``,
    when that is complete; a symbolic link at the path stays, and what it points to is replaced. What
    isn't a regular file is written to as it stands, and so is what the path only reaches through
    an open descriptor, as ``/dev/stdout`` does: there ``temp`` is None.

    As a context it removes what is left under ``temp``, and gives errors that have no file name, or the
    temporary one, the user's.
    """

    temp: str | None

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = None
        self.temp = None
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            if not path:
                raise
            mode = stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        # A pipe is opened anew: our own descriptor of it may be non-blocking.
        if not stat.S_ISFIFO(mode):
            self._descriptor = _find_descriptor(path)
        self._appends = stat.S_ISREG(mode)
        if stat.S_ISREG(mode) and self._descriptor is None:
            self._real = os.path.realpath(path)
            self.temp = os.path.join(
                os.path.dirname(self._real), f".{os.urandom(8).hex()}.fastcas-part"
            )

    def open(self) -> _core.File:
        """What is to be written to: the new file, or what stands there."""
        if self.temp is not None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            return _core.open_path(self.temp, flags, 0o600)
        if self._descriptor is not None and self._descriptor.startswith(_own_descriptors()):
            # Opened anew it would be written from its beginning, over what others wrote through it.
            return _core.File(os.dup(int(os.path.basename(self._descriptor))))
        append = os.O_APPEND if self._appends else 0
        return _core.open_path(self.path, os.O_WRONLY | os.O_NOCTTY | append)

    def replace(self) -> None:
        """Gives the new file, which is complete, its name."""
        assert self.temp is not None
        os.rename(self.temp, self._real)

    def __enter__(self) -> Destination:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.temp is not None:
            try:  # a rename onto another name of the same file leaves both
                os.unlink(self.temp)
            except FileNotFoundError:
                pass
            except OSError:  # of a read-only filesystem, for one
                if error is None:
                    raise
        if not isinstance(error, OSError) or isinstance(error, FastCASError) or error.errno is None:
            return
        # What a descriptor refused has no file name, and the temporary file's says little.
        if error.filename is None or error.filename == self.temp:
            error.filename = self.path
            del error.filename2  # set to None, it would be shown


def _find_descriptor(path: str) -> str | None:
    """The link in /proc through which ``path`` leads to something that is open; None if it doesn't.
    Such a link can't be read as a path: what it stands for may have none, or another has it now."""
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(os.path.dirname(path))
        path = os.path.join(folder, os.path.basename(path))
        if folder.startswith("/proc/") and folder.endswith("/fd"):
            return path
        try:
            path = os.path.join(folder, os.readlink(path))
        except OSError:  # no link
            return None
    return None


def _own_descriptors() -> str:
    return os.path.realpath("/proc/self/fd") + "/"
