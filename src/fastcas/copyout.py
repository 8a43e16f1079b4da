"""Copying a blob out of an engine into a file of the user's."""

from __future__ import annotations

import errno
import io
import os

from fastcas import _core
from fastcas.destination import Destination
from fastcas.errors import DigestMismatchError, SizeMismatchError
from fastcas.files import open_to_others, write_all
from fastcas.results import CopyResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastcas.engine import Engine
    from fastcas.reader import BlobReader

_AT_FDCWD = -100
_POUR_SIZE = 1 << 20

# ENOENT: the blob has been deleted since it was opened, and its file is about to go. ENOSYS: FUSE on
# older kernels.
_NO_HARD_LINK = (
    errno.EXDEV,
    errno.EPERM,
    errno.EMLINK,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EACCES,
    errno.ENOENT,
)


def copy_out(
    engine: Engine,
    digest: str,
    destination: str | os.PathLike[str],
    *,
    link: bool,
    verify: bool,
    progress: Callable[[int, int | None], object] | None,
) -> CopyResult:
    """See ``Engine.copy_blob``."""
    path = os.fsdecode(destination)
    with engine.get_blob(digest) as blob, Destination(path) as out:
        if out.temp is None:
            with out.open() as fd:
                if verify:
                    _pour(blob, fd, progress)
                    return CopyResult("copy", blob.size)
                return CopyResult(_fill(blob, fd, False, progress, first="sendfile"), blob.size)
        method = "hardlink" if link and _link(blob, out.temp, verify) else None
        if method is None:
            with out.open() as fd:
                method = _fill(blob, fd, verify, progress, first="reflink")
                found = os.fstat(fd).st_size
                if found != blob.size:
                    raise _wrong_size(blob, found)
                open_to_others(fd, 0o666)
        out.replace()
    return CopyResult(method, blob.size)


def _link(blob: BlobReader, temp: str, verify: bool) -> bool:
    source = _descriptor(blob)
    if source is None:
        return False
    if verify:
        blob.verify()
    try:
        _core.link_fd(source, _AT_FDCWD, os.fsencode(temp))
    except OSError as error:
        if error.errno in _NO_HARD_LINK:
            return False
        raise
    return True


def _fill(
    blob: BlobReader,
    fd: int,
    verify: bool,
    progress: Callable[[int, int | None], object] | None,
    first: str,
) -> str:
    source = _descriptor(blob)
    if source is None:
        _pour(blob, fd, progress)  # verified while it is read
        return "copy"
    if not verify:
        try:
            return _core.copy_fd(source, fd, blob.size, first=first, progress=progress)[0]
        except _core.VerifyError as error:
            raise _wrong_size(blob, error.actual) from None
    sink = _core.Sink(fd, blob.digest.algorithm, expected=blob.size, limit=blob.size, progress=progress)
    try:
        sink.copy_from_fd(source)
        encoded, size = sink.finish()
    except _core.LimitError:
        raise _wrong_size(blob, sink.size) from None
    finally:
        sink.abort()
    if size != blob.size:
        raise _wrong_size(blob, size)
    if encoded != blob.digest.encoded:
        actual = f"{blob.digest.algorithm}:{encoded}"
        raise DigestMismatchError(
            f"{blob.digest}: the stored content's digest is {actual}",
            digest=blob.digest,
            expected=blob.digest,
            actual=actual,
        )
    return "copy"


def _descriptor(blob: BlobReader) -> int | None:
    """That of the blob's file; None where it isn't one."""
    try:
        return blob.fileno()
    except io.UnsupportedOperation:
        return None


def _pour(blob: BlobReader, fd: int, progress: Callable[[int, int | None], object] | None) -> None:
    """What a reader gives, its end only when it was verified, as a pipe needs it."""
    buffer = memoryview(bytearray(_POUR_SIZE))
    while count := blob.readinto(buffer):
        write_all(fd, buffer[:count])
        if progress is not None:
            progress(blob.tell(), blob.size)


def _wrong_size(blob: BlobReader, actual: int) -> SizeMismatchError:
    return SizeMismatchError(
        f"{blob.digest}: {actual} bytes came of {blob.size}; the stored file changed meanwhile",
        digest=blob.digest,
        expected=blob.size,
        actual=actual,
    )
