"""The exception tree: what can go wrong, told by kind and by attributes.

Every error of fastcas is a :class:`FastCASError`, and each kind is also the built-in exception that
a Python user would catch for it.  An ``OSError`` of the system (a full disk, a missing permission)
is not wrapped: it stays an ``OSError`` with its errno and file name.
"""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes] | None

__all__ = [
    "FastCASError",
    "NotExistError",
    "InvalidError",
    "CorruptError",
    "DigestMismatchError",
    "SizeMismatchError",
    "UnknownTypeError",
    "UnsupportedError",
    "UnknownAlgorithmError",
    "ClobberError",
    "ClosedError",
    "DurabilityError",
]

# OSError keeps these in C, outside the instance's dictionary.
_OSERROR_FIELDS = ("errno", "strerror", "filename", "filename2")


def _restore(cls: type[FastCASError], args: tuple[Any, ...]) -> FastCASError:
    error = cls.__new__(cls)
    error.args = args
    return error


class FastCASError(Exception):
    """The base of every error of fastcas.

    ``str(error)`` is the message.  ``digest`` names the blob and ``path`` the file that it is
    about; either is None where there is none.  Errors survive pickling with all their attributes.
    """

    digest: str | None
    path: Path

    def __init__(self, message: str, *, digest: str | None = None, path: Path = None) -> None:
        super().__init__(message)
        self.digest = digest
        self.path = path

    def __str__(self) -> str:
        # OSError's own would put "[Errno 2]" and the file name around the message.
        return str(self.args[0]) if self.args else ""

    # Exceptions pickle as cls(*args), which keyword-only arguments can't satisfy.
    def __reduce__(
        self,
    ) -> tuple[Callable[..., FastCASError], tuple[Any, ...], dict[str, Any]]:
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            for field in _OSERROR_FIELDS:
                value = getattr(self, field, None)
                if value is not None:
                    state[field] = value
        return _restore, (type(self), self.args), state


class NotExistError(FastCASError, FileNotFoundError):
    """A blob or a layout is not there; also a ``FileNotFoundError`` (errno ENOENT)."""

    def __init__(self, message: str, *, digest: str | None = None, path: Path = None) -> None:
        super().__init__(message, digest=digest, path=path)
        _describe(self, _errno.ENOENT, path)


class InvalidError(FastCASError, ValueError):
    """A digest, document, layout or argument isn't what it must be; also a ``ValueError``."""


class CorruptError(InvalidError):
    """Stored content isn't what its name or descriptor says."""


class _MismatchError(CorruptError):
    def __init__(
        self,
        message: str,
        *,
        digest: str | None,
        expected: Any,
        actual: Any,
        path: Path = None,
    ) -> None:
        super().__init__(message, digest=digest, path=path)
        self.expected = expected
        self.actual = actual


class DigestMismatchError(_MismatchError):
    """Content has another digest than it must have: ``expected`` and ``actual`` are digests."""

    expected: str
    actual: str


class SizeMismatchError(_MismatchError):
    """Content has another size than it must have: ``expected`` and ``actual`` are in bytes.

    Where reading stopped one byte past the expected size, ``actual`` is what was seen until then.
    """

    expected: int
    actual: int


class UnknownTypeError(FastCASError):
    """No one knows how to handle this media type or this algorithm.

    The one that it is about is in ``media_type`` or ``algorithm``; the other is None.
    """

    def __init__(
        self,
        message: str,
        *,
        media_type: str | None = None,
        algorithm: str | None = None,
        digest: str | None = None,
        path: Path = None,
    ) -> None:
        super().__init__(message, digest=digest, path=path)
        self.media_type = media_type
        self.algorithm = algorithm


class UnsupportedError(FastCASError, NotImplementedError):
    """The engine, the filesystem or the build can't do this; also a ``NotImplementedError``."""


class UnknownAlgorithmError(UnknownTypeError, UnsupportedError):
    """Hashing was asked for with an algorithm that this build doesn't have (``algorithm``)."""

    def __init__(
        self,
        message: str,
        *,
        media_type: str | None = None,
        algorithm: str | None = None,
        digest: str | None = None,
        path: Path = None,
    ) -> None:
        if algorithm == "blake3":
            message += " (pip install 'fastcas[blake3]')"
        super().__init__(message, media_type=media_type, algorithm=algorithm, digest=digest, path=path)


class ClobberError(FastCASError, FileExistsError):
    """Something is already where something new must be; also a ``FileExistsError`` (EEXIST)."""

    def __init__(self, message: str, *, digest: str | None = None, path: Path = None) -> None:
        super().__init__(message, digest=digest, path=path)
        _describe(self, _errno.EEXIST, path)


class ClosedError(FastCASError, ValueError):
    """The engine or reader was closed; also a ``ValueError``, as for a closed file."""


class DurabilityError(FastCASError, OSError):
    """The content is published under its name, and whether it survives power loss is unknown.

    Also an ``OSError`` with the errno of the sync that failed. ``lost``, a tuple, has the digests of
    blobs whose puts had returned, at durability "batch" or "syncfs", and that aren't durable:
    what was new isn't stored.
    """

    lost: tuple[str, ...]

    def __init__(
        self,
        message: str,
        *,
        errno: int,
        digest: str | None = None,
        path: Path = None,
        lost: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, digest=digest, path=path)
        self.lost = lost
        _describe(self, errno, path)


def _describe(error: OSError, number: int, path: Path) -> None:
    error.errno = number
    error.strerror = os.strerror(number)
    if path is not None:
        error.filename = path
