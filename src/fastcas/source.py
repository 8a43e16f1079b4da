"""Sources: whatever a blob can be put from, and the quickest way from each into a sink."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys

from fastcas import _core
from fastcas.errors import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol, TypeAlias

    from typing_extensions import Buffer

    class Readinto(Protocol):
        """What can be read from by ``readinto``."""

        def readinto(self, buffer: memoryview, /) -> int | None: ...

    class Read(Protocol):
        """What can be read from by ``read``."""

        def read(self, size: int, /) -> Buffer | None: ...

    #: What ``open_source`` understands, and so ``Engine.put_blob``.
    BlobSource: TypeAlias = (
        Buffer
        | os.PathLike[str]
        | os.PathLike[bytes]
        | Readinto
        | Read
        | socket.socket
        | Iterable[Buffer]
        | "Source"
    )

_READ_SIZE = 256 << 10  # what read(n) is asked for
_DESCRIBED = 200  # characters


class Source:
    """A source that was understood: ``feed(sink)`` puts all of it into a sink.

    ``size`` is the number of bytes that it will give, or None where that isn't known beforehand;
    ``name`` is what messages call it, or None. ``rewind()`` lets it be fed once more; None where
    that can't be.
    """

    def __init__(
        self,
        feed: Callable[[_core.Sink], None],
        size: int | None = None,
        name: Any = None,
        close: Callable[[], None] | None = None,
        rewind: Callable[[], object] | None = None,
    ) -> None:
        self.feed = feed
        self.size = size
        self.name = name
        self.rewind = rewind
        self._close = close

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        if self._close is not None:
            self._close()


def open_source(source: Any) -> Source:
    """Understands ``source``: a bytes-like object, a path object, a binary file or socket, an object
    with ``readinto`` or ``read``, or an iterable of bytes-likes.

    Files are taken from where they stand to their end. Raises TypeError for anything else, and for
    ``str``, which could be meant as content or as a path. A Source is returned as it is.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str):
        raise TypeError(
            "a str could be content or a path: pass text.encode() to store it, or pathlib.Path(name) "
            "to store the file of that name"
        )
    if isinstance(source, os.PathLike):
        return _from_path(source)
    try:
        view = memoryview(source)
    except TypeError:
        pass
    else:
        return _from_buffer(source, view)
    if isinstance(source, io.TextIOBase):
        raise TypeError("this file is open as text; open it in binary mode ('rb')")
    kind = type(source)
    name = getattr(source, "name", None)
    # Only of these is it known that their descriptor gives the same bytes as they do.
    if kind is io.FileIO:
        return _from_fd(source.fileno(), name)
    if kind in (io.BufferedReader, io.BufferedRandom) and type(source.raw) is io.FileIO:
        return _from_buffered(source, name)
    socket = sys.modules.get("socket")
    if socket is not None and kind is socket.socket:
        return _from_socket(source)
    if hasattr(source, "readinto"):
        rewind = _rewind_of(source)
        return Source(lambda sink: sink.fill(_checked(source.readinto)), name=name, rewind=rewind)
    if hasattr(source, "read"):
        rewind = _rewind_of(source)
        return Source(lambda sink: _feed_reads(sink, source.read), name=name, rewind=rewind)
    if hasattr(source, "__iter__") or hasattr(source, "__next__"):
        return Source(lambda sink: _feed_items(sink, source))
    raise TypeError(
        f"can't store a {kind.__name__}: pass a bytes-like object, a pathlib.Path, a binary file or "
        "socket, or an iterable of bytes-likes"
    )


class NamedPath(os.PathLike[str]):
    """A path that messages call ``name``: it says nothing to who reads them."""

    name: str


def name_source(failure: BaseException, number: int, source: Any) -> None:
    """Says in what ``put_blobs`` raises which of its sources failed."""
    try:
        failure.source = source  # type: ignore[attr-defined]
        if hasattr(failure, "add_note"):
            failure.add_note(f"source {number} of put_blobs: {_describe(source)}")
    except Exception:
        pass  # of a kind that takes no attributes: it is raised as it is


def _describe(source: Any) -> str:
    """The beginning of its repr where that is sure not to be long, else its type."""
    try:
        if isinstance(source, NamedPath):
            source = source.name
        elif isinstance(source, os.PathLike):
            source = os.fspath(source)
        if isinstance(source, (bytes, bytearray, str)):
            source = source[:_DESCRIBED]
        if isinstance(source, (bytes, bytearray, str, int, float, io.IOBase)):
            return repr(source)[:_DESCRIBED]
    except Exception:  # whatever __fspath__ and __repr__ do
        pass
    return f"<{type(source).__name__}>"


def read_small(source: Any) -> bytes | None:
    """The whole content of a source of at most ``_core.SMALL`` bytes, if it can be had at one go."""
    if type(source) is bytes:
        return source if len(source) <= _core.SMALL else None
    if isinstance(source, os.PathLike) and not isinstance(source, str):
        return _core.read_source(source)
    return None


def _from_path(path: os.PathLike[Any]) -> Source:
    name = os.fspath(path)
    file = _core.open_path(name, os.O_RDONLY | os.O_NOCTTY)
    return _from_fd(file.fd, name, file.close)


def _from_fd(fd: int, name: Any, close: Callable[[], None] | None = None) -> Source:
    facts = os.fstat(fd)
    regular = stat.S_ISREG(facts.st_mode)
    if not regular:
        return Source(lambda sink: sink.copy_from_fd(fd, polled=True), None, name, close)
    start = os.lseek(fd, 0, os.SEEK_CUR)
    return Source(
        lambda sink: sink.copy_from_fd(fd),
        max(0, facts.st_size - start),
        name,
        close,
        lambda: os.lseek(fd, start, os.SEEK_SET),
    )


def _from_buffered(file: io.BufferedReader | io.BufferedRandom, name: Any) -> Source:
    fd = file.fileno()
    if not file.seekable():

        def feed(sink: _core.Sink) -> None:
            # What the file object has read ahead comes first; then its buffer is empty.
            sink.write(file.read(len(file.peek())))
            sink.copy_from_fd(fd, polled=True)

        return Source(feed, name=name)
    position = file.tell()
    file.flush()
    os.lseek(fd, position, os.SEEK_SET)
    source = _from_fd(fd, name)
    source._close = lambda: None if file.closed else _resume(file, fd)
    return source


def _resume(file: io.BufferedReader | io.BufferedRandom, fd: int) -> None:
    """Lets the file object know how far its descriptor was read."""
    position = os.lseek(fd, 0, os.SEEK_CUR)
    file.seek(0, os.SEEK_END)  # drops its buffer, which a seek within that would keep
    file.seek(position)


def _rewind_of(source: Any) -> Callable[[], object] | None:
    if not (isinstance(source, io.IOBase) and source.seekable()):
        return None
    start = source.tell()
    return lambda: source.seek(start)


def _from_socket(socket: Any) -> Source:
    timeout = socket.gettimeout()
    fd = socket.fileno()
    if timeout == 0:
        return Source(lambda sink: _feed_unblocked(sink, fd))
    os.fstat(fd)  # -1 of a closed socket: poll would wait for it for ever
    return Source(
        lambda sink: sink.copy_from_fd(fd, polled=True, timeout=-1.0 if timeout is None else timeout)
    )


def _feed_unblocked(sink: _core.Sink, fd: int) -> None:
    try:
        sink.copy_from_fd(fd, polled=True, timeout=0.0)
    except TimeoutError:
        raise _would_block() from None


def _from_buffer(source: Any, view: memoryview) -> Source:
    _check_contiguous(view)
    size = view.nbytes
    return Source(lambda sink: sink.write(source), size, close=view.release, rewind=lambda: None)


def _check_contiguous(view: memoryview) -> None:
    if not view.c_contiguous:
        raise InvalidError("this memory isn't contiguous: pass bytes(view) to store a copy of it")


def _checked(readinto: Callable[[memoryview], int | None]) -> Callable[[memoryview], int]:
    def checked(view: memoryview) -> int:
        count = readinto(view)
        if count is None:
            raise _would_block()
        if not 0 <= count <= len(view):
            raise InvalidError(f"readinto() returned {count} for a buffer of {len(view)} bytes")
        return count

    return checked


def _feed_reads(sink: _core.Sink, read: Callable[[int], Any]) -> None:
    while True:
        data = read(_READ_SIZE)
        if data is None:
            raise _would_block()
        if isinstance(data, str):
            raise TypeError("read() returned str: open the source in binary mode")
        if len(data) > _READ_SIZE:
            raise InvalidError(f"read({_READ_SIZE}) returned {len(data)} bytes")
        if not data:
            return
        sink.write(data)


def _feed_items(sink: _core.Sink, items: Iterable[Any]) -> None:
    for number, item in enumerate(items):
        try:
            view = memoryview(item)
        except TypeError:
            kind = type(item).__name__
            raise TypeError(f"item {number} of the source is {kind}, not bytes-like") from None
        with view:
            _check_contiguous(view)
            sink.write(item)


def _would_block() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "the source is non-blocking and has nothing to give now")
