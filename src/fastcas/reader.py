"""BlobReader: the bytes of a blob, verified while they are read, wherever they come from."""

from __future__ import annotations

import io
import os
from _operator import index
from _warnings import warn

from fastcas import _core
from fastcas.errors import ClosedError, CorruptError, DigestMismatchError, SizeMismatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol, TypeVar

    from fastcas.digest import Digest

    T = TypeVar("T")

    class Stream(Protocol):
        """Reads a blob from its beginning to its end; the last bytes come when all was found right,
        else _core.VerifyError. ``_core.Reader`` is one."""

        @property
        def verified(self) -> bool: ...
        @property
        def position(self) -> int: ...  # how many bytes were handed out
        def readinto(self, data: Any) -> int: ...
        def read(self, size: int = -1) -> bytes: ...
        def drain(self) -> None: ...
        def close(self) -> None: ...


_SKIP_SIZE = 1 << 20

# How often this process has been forked, counted from its first ancestor with this module.
_generation = 0


def _count_fork() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_count_fork)


class BlobReader(io.RawIOBase):
    """A stored blob, open for reading; made by ``Engine.get_blob``.

    Read from its beginning to its end, it is verified: the last bytes are handed out only after
    size and digest of the whole were found right; otherwise the read raises DigestMismatchError or
    SizeMismatchError, as does every later read, and ``close``. ``verified`` says whether that has
    been done. Never more than ``size`` bytes are handed out.

    ``seek(0)`` begins anew. Reads after any other seek are unverified; ``verify()`` then reads the
    whole once more; what is read after that from elsewhere than the beginning is unverified again.
    ``close`` of a reader that was not read to its end costs nothing and verifies
    nothing. A reader outlives the removal of its blob and the close of its engine.

    Attributes: ``digest``, a Digest; ``size`` in bytes; ``verified``.
    """

    # A file object has a dict, which takes longer to make and to look into.
    __slots__ = (
        "_failure",
        "_generation",
        "_in_order",
        "_position",
        "_stream",
        "_turn",
        "_verified",
        "digest",
        "size",
    )

    def __init__(self, digest: Digest, size: int) -> None:
        self.digest = digest
        self.size = size
        self._turn = _core.Turn()  # this thread alone reads
        self._failure: CorruptError | None = None
        self._verified = False
        self._position = 0
        # What reads in order and hashes; None before the first read, after the last, and after an
        # interruption, when the next read begins another and lets it catch up.
        self._stream: Stream | None = None
        self._generation = 0  # in which the stream was begun
        self._in_order = True

    @property
    def verified(self) -> bool:
        """Whether the whole blob was read in order and found right."""
        return self._verified

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        raise NotImplementedError

    def __enter__(self) -> BlobReader:
        self._check_open()
        return self

    def __iter__(self) -> BlobReader:
        self._check_open()
        return self

    def readable(self) -> bool:
        self._check_open()
        return True

    def seekable(self) -> bool:
        self._check_open()
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills ``buffer`` unless the blob ends before; returns the number of bytes, 0 at the end."""
        with self._turn:
            self._check_open()
            with memoryview(buffer) as view:
                if self._is_whole(view.nbytes) and view.c_contiguous and not view.readonly:
                    data = self._read_small()
                    if data:
                        view.cast("B")[: len(data)] = data
                    return len(data)
            if not self._begin():
                return self._read_unverified(buffer)
            count = self._run(lambda stream: stream.readinto(buffer))
            self._advance(count)
            return count

    def read(self, size: int | None = -1, /) -> bytes:
        """``size`` bytes, fewer only at the end; all the rest for -1 or None."""
        wanted = -1 if size is None else size
        with self._turn:
            self._check_open()
            if self._is_whole(wanted):
                return self._read_small()
            if not self._begin():
                left = max(0, self.size - self._position)
                buffer = bytearray(left if wanted < 0 else min(left, wanted))
                del buffer[self._read_unverified(buffer) :]
                return bytes(buffer)
            data = self._run(lambda stream: stream.read(wanted))
            self._advance(len(data))
            return data

    def _read_small(self) -> bytes:
        """All of a small blob, without a stream."""
        self._verified = False
        try:
            data = self._verify_small()
        except _core.VerifyError as error:
            self._failure = describe(error, self.digest)
            raise self._failure from None
        except OSError as error:
            self._name(error)
            raise
        self._position = self.size
        self._verified = True
        self._in_order = False  # last: else an interruption would leave unverified reading
        return data

    def readall(self) -> bytes:
        """The rest of the blob, as one bytes object."""
        return self.read()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves; returns the new offset from the beginning. See the class for what it does to
        verification."""
        with self._turn:
            self._check_open()
            offset, whence = index(offset), index(whence)
            start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}.get(whence)
            if start is None:
                raise ValueError(f"invalid whence: {whence!r}")
            position = start + offset
            if position < 0:
                raise ValueError(f"negative seek position {position}")
            if position == 0:
                self._drop_stream()
                self._in_order = True
                self._verified = False
            elif position != self._position:
                self._end_stream()
            self._position = position
            return position

    def verify(self) -> None:
        """Reads what has not been read, and verifies the whole; reading goes on where it was.

        Raises DigestMismatchError or SizeMismatchError.
        """
        with self._turn:
            self._check_open()
            if self._verified:
                return
            if not self._begin():
                self._start()
            self._run(lambda stream: stream.drain())
            self._drop_stream()
            self._verified = True
            self._in_order = self._position == 0  # reading from the beginning is verified again

    def close(self) -> None:
        """Closes the file. Raises again what a read found wrong; does nothing the second time."""
        with self._turn:
            if self.closed:
                return
            self._drop_stream()
            self._release()
        if self._failure is not None:
            raise self._failure

    def __del__(self) -> None:
        if self._is_left_open():
            warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._failure = None
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "verified" if self._verified else "unverified"
        return f"<fastcas.BlobReader {self.digest} {self.size} bytes, {state}>"

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError("this reader was closed", digest=self.digest)
        if self._failure is not None:
            raise self._failure

    def _is_whole(self, wanted: int) -> bool:
        """Whether a read of ``wanted`` bytes is of all of a small blob, from its beginning."""
        return (
            self.size <= _core.SMALL
            and self._position == 0
            and self._stream is None
            and self._in_order
            and (wanted < 0 or wanted >= self.size)
        )

    def _begin(self) -> bool:
        """Whether what is read now is read in order, and verified."""
        stream = self._stream
        # In a child made by fork, the digest may be made by a thread of the parent. And an interruption
        # may come when the stream has handed out bytes and ``_position`` doesn't count them yet.
        if stream is not None and (
            self._generation != _generation or stream.position != self._position
        ):
            self._drop_stream()
        if self._stream is None and self._in_order:
            self._verified = False
            self._start()
            self._run(self._catch_up)
        return self._stream is not None

    def _start(self) -> None:
        self._generation = _generation
        self._stream = self._new_stream()

    def _catch_up(self, stream: Stream) -> None:
        left = self._position
        scratch = memoryview(bytearray(min(left, _SKIP_SIZE)))
        while left:
            left -= stream.readinto(scratch[: min(left, _SKIP_SIZE)])

    def _advance(self, count: int) -> None:
        self._position += count
        if self._position >= self.size and self._stream is not None and self._stream.verified:
            self._verified = True
            self._end_stream()

    def _end_stream(self) -> None:
        self._in_order = False
        self._drop_stream()

    def _drop_stream(self) -> None:
        if self._stream is not None:
            try:
                self._stream.close()
            finally:  # whatever interrupts it: one that is closed can't be read
                self._stream = None

    def _run(self, operation: Callable[[Stream], T]) -> T:
        assert self._stream is not None
        try:
            return operation(self._stream)
        except _core.VerifyError as error:
            self._failure = describe(error, self.digest)
            self._drop_stream()
            raise self._failure from None
        except BaseException as error:
            # An interrupt, an I/O error, a buffer that can't be written: what was read for this call is
            # lost, not the place.
            self._drop_stream()
            self._name(error)
            raise

    # What an engine's own readers must have.

    def _is_left_open(self) -> bool:
        """Whether there is something to close, also where ``__init__`` hasn't ended."""
        raise NotImplementedError

    def _release(self) -> None:
        """Closes what the blob is read from."""
        raise NotImplementedError

    def _verify_small(self) -> bytes:
        """All of a blob of at most ``_core.SMALL`` bytes, or _core.VerifyError."""
        raise NotImplementedError

    def _new_stream(self) -> Stream:
        """What reads the blob from its beginning and verifies it."""
        raise NotImplementedError

    def _read_at(self, view: memoryview, position: int) -> int:
        """Fills the beginning of ``view`` with what stands at ``position``; how many, 0 at the end."""
        raise NotImplementedError

    def _name(self, error: BaseException) -> None:
        """Says where an error of the system was met."""
        raise NotImplementedError

    def _read_unverified(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        room = min(len(view), max(0, self.size - self._position))
        while done < room and (count := self._read_at(view[done:room], self._position)):
            done += count
            self._position += count
        if done:
            self._verified = False
        return done


def describe(error: _core.VerifyError, digest: Digest) -> CorruptError:
    """What was found wrong with the stored blob ``digest``."""
    if error.kind == "mismatch":
        actual = f"{digest.algorithm}:{error.actual}"
        return DigestMismatchError(
            f"{digest}: the stored content's digest is {actual}",
            digest=digest,
            expected=digest,
            actual=actual,
        )
    change = "ends early" if error.kind == "short" else "goes on"
    return SizeMismatchError(
        f"{digest}: the stored content {change}: {error.size} bytes were expected",
        digest=digest,
        expected=error.size,
        actual=error.actual,
    )
