"""FileReader: a blob that is a file."""

from __future__ import annotations

import os

from fastcas import _core
from fastcas.reader import BlobReader, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcas.digest import Digest


class FileReader(BlobReader):
    """A BlobReader that has a descriptor. It outlives the removal of its blob."""

    __slots__ = ("_file",)

    def __init__(self, file: _core.File, digest: Digest, size: int) -> None:
        super().__init__(digest, size)
        self._file = file

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._file.fd < 0

    def fileno(self) -> int:
        """The descriptor of the file; what is read through it is unverified."""
        self._check_open()
        return self._file.fd

    def _is_left_open(self) -> bool:
        file = getattr(self, "_file", None)
        return file is not None and file.fd >= 0

    def _release(self) -> None:
        self._file.close()
        if type(self) is FileReader:
            self.__class__ = _Closed

    def _verify_small(self) -> bytes:
        algorithm, _, encoded = self.digest.partition(":")
        return _core.verify_small(self._file.fd, self.size, algorithm, encoded)

    def _new_stream(self) -> _core.Reader:
        digest = self.digest
        return _core.Reader(self._file.fd, digest.algorithm, self.size, bytes.fromhex(digest.encoded))

    def _read_at(self, view: memoryview, position: int) -> int:
        return os.preadv(self._file.fd, [view], position)

    def _name(self, error: BaseException) -> None:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = f"blobs/{self.digest.replace(':', '/')}"


class _Closed(FileReader):
    """One whose collection runs no Python: a Ctrl-C there is lost."""

    __slots__ = ()
    __del__ = dict  # type: ignore[assignment]  # in C, and it takes no argument


def read_whole(fd: int, digest: Digest, size: int) -> bytes:
    """The whole of the file ``fd``, verified. Raises DigestMismatchError, SizeMismatchError."""
    stream = _core.Reader(fd, digest.algorithm, size, bytes.fromhex(digest.encoded))
    try:
        return stream.read()
    except _core.VerifyError as error:
        raise describe(error, digest) from None
    finally:
        stream.close()
