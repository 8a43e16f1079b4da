"""Reading what is compressed: streaming, bounded, verified."""

from __future__ import annotations

import errno
import io
from typing import TYPE_CHECKING, Any

from fastcas import _core
from fastcas.digest import Digest
from fastcas.errors import (
    ClosedError,
    CorruptError,
    DigestMismatchError,
    InvalidError,
    SizeMismatchError,
    UnknownAlgorithmError,
)
from fastcas.image.codec import find_compression, sniff

if TYPE_CHECKING:
    from fastcas.engine import Engine
    from fastcas.image.codec import Decoder
    from fastcas.model import Descriptor

__all__ = ["LIMIT", "RATIO", "RATIO_FLOOR", "PlainReader", "decompress", "open_plain"]

#: The most bytes that come out of one stream unless told otherwise.
LIMIT = 64 << 30
#: How many bytes may come out for one that goes in, unless told otherwise. gzip can reach 1032, zstd
#: far more; a layer of text has less than 20.
RATIO = 250
#: Up to here, in bytes, no ratio is too high.
RATIO_FLOOR = 32 << 20

_READ_SIZE = 64 << 10  # stored bytes that are asked for at a time
_CHUNK = 256 << 10  # plain bytes that are made at a time


class PlainReader(io.RawIOBase):
    """The plain content of a compressed stream; made by ``decompress`` and ``Engine.get_plain_blob``.

    The last bytes are handed out only after the stored stream was read to its end, and found
    complete, and the plain one's digest is the expected one. What a read found wrong every later one
    raises again. At most two chunks of 256 KiB are kept, and what the decompressor needs: 32 KiB for
    gzip, up to 128 MiB for a zstd stream that asks for it. For one thread at a time; can't seek.

    Attributes: ``compression``, its name; ``diff_id``, the expected digest or None; ``plain_size``, the
    bytes that were decompressed so far; ``verified``, whether the whole was found right.
    """

    def __init__(
        self, reader: Any, compression: str | None, diff_id: str | None, limit: int, ratio: float
    ) -> None:
        self._reader = reader
        self.diff_id = None if diff_id is None else Digest(diff_id)
        self.plain_size = 0
        self.verified = False
        self._digest: str | None = getattr(reader, "digest", None)
        self._hash = None if self.diff_id is None else _digester(self.diff_id)
        self._limit = limit
        self._ratio = ratio
        self._taken = 0  # stored bytes
        self._failure: Exception | None = None
        self._ready = memoryview(b"")  # may be handed out
        self._ahead: bytes | None = (
            None  # may be, once it is known that something follows, or all is right
        )
        self._input = b""
        if compression is None:
            while len(self._input) < 4 and (data := self._take()):
                self._input += data
            self._codec = sniff(self._input)
        else:
            self._codec = find_compression(compression)
        self.compression = self._codec.name
        self._errors = self._codec.errors()
        self._decoder: Decoder | None = self._codec.decoder() if self._codec.magics else None

    def readable(self) -> bool:
        self._check_open()
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills ``buffer`` unless the content ends before; returns the number of bytes, 0 at the end.

        Raises CorruptError for what isn't whole or right, DigestMismatchError for the plain content
        and the stored, InvalidError above the limit or the ratio.
        """
        self._check_open()
        with memoryview(buffer) as given, given.cast("B") as room:
            done = 0
            while done < len(room):
                if not self._ready and not self._advance():
                    break
                count = min(len(self._ready), len(room) - done)
                room[done : done + count] = self._ready[:count]
                self._ready = self._ready[count:]
                done += count
        return done

    def read(self, size: int | None = -1, /) -> bytes:
        """``size`` bytes, fewer only at the end; all the rest for -1 or None."""
        data: bytes = super().read(-1 if size is None else size)
        return data

    def readall(self) -> bytes:
        """The rest, as one bytes object."""
        self._check_open()
        pieces = []
        while self._ready or self._advance():
            pieces.append(self._ready)
            self._ready = memoryview(b"")
        return b"".join(pieces)

    def close(self) -> None:
        """Closes the stored stream too."""
        if not self.closed:
            super().close()
            self._ready, self._ahead, self._decoder = memoryview(b""), None, None
            self._reader.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError("this reader was closed", digest=self._digest)
        if self._failure is not None:
            raise self._failure

    def _advance(self) -> bool:
        """Makes more bytes ready; False at the end."""
        if self.verified:
            return False
        try:
            if self._ahead is None:
                self._ahead = self._decode()
            following = self._decode() if self._ahead else b""
            if not following:
                self._check_end()
        except InvalidError as error:
            self._failure = error
            raise
        except BaseException:
            # What was decompressed for this call may be lost, and nothing may be left out.
            self._failure = self._invalid("a read was interrupted or failed; open it anew")
            raise
        self._ready, self._ahead = memoryview(self._ahead), following
        return bool(self._ready)

    def _decode(self) -> bytes:
        """The next chunk; empty at the end of the stream."""
        while True:
            decoder = self._decoder
            if decoder is None:
                # Between two frames is the only place where a stream may end.
                data = self._next_input()
                if not data:
                    return b""
                decoder = self._decoder = self._codec.decoder()
            elif decoder.needs_input:
                data = self._next_input()
                if not data:
                    raise self._corrupt(f"the {self.compression} stream ends early")
            else:
                data = b""
            try:
                plain = decoder.decompress(data, _CHUNK)
            except self._errors as error:
                raise self._corrupt(f"the {self.compression} stream is damaged: {error}") from error
            if decoder.eof:
                self._input = decoder.unused_data
                self._decoder = None
            if plain:
                self._account(plain)
                return plain

    def _next_input(self) -> bytes:
        data, self._input = self._input, b""
        return data or self._take()

    def _take(self) -> bytes:
        data: bytes | None = self._reader.read(_READ_SIZE)
        if data is None:
            raise BlockingIOError(errno.EAGAIN, "the stored stream has nothing to give now")
        self._taken += len(data)
        return data

    def _account(self, plain: bytes) -> None:
        self.plain_size += len(plain)
        if self.plain_size > self._limit:
            raise self._invalid(f"decompressed it has more than the limit of {self._limit} bytes")
        if self.plain_size > RATIO_FLOOR and self.plain_size > self._ratio * self._taken:
            raise self._invalid(
                f"{self.plain_size} bytes came out of {self._taken}, more than the {self._ratio:g} for "
                "one that are allowed"
            )
        if self._hash is not None:
            self._hash.update(plain)

    def _check_end(self) -> None:
        if self._hash is not None and self.diff_id is not None:
            actual = Digest.of(self.diff_id.algorithm, self._hash.hexdigest())
            if actual != self.diff_id:
                raise DigestMismatchError(
                    self._about(f"the plain content's digest is {actual}, not {self.diff_id}"),
                    digest=self._digest,
                    expected=self.diff_id,
                    actual=actual,
                )
        self.verified = True

    def _about(self, message: str) -> str:
        return message if self._digest is None else f"{self._digest}: {message}"

    def _corrupt(self, message: str) -> CorruptError:
        return CorruptError(self._about(message), digest=self._digest)

    def _invalid(self, message: str) -> InvalidError:
        return InvalidError(self._about(message), digest=self._digest)


def decompress(
    reader: Any,
    *,
    compression: str | None = None,
    diff_id: str | None = None,
    limit: int = LIMIT,
    ratio: float = RATIO,
) -> PlainReader:
    """The plain content of ``reader``, a binary file or BlobReader, from where it stands to its end.

    ``compression`` is its name; None looks at the first bytes, and takes what begins like no known
    compression for plain. Several gzip members or zstd frames are one stream. ``diff_id`` is the
    digest that the plain content must have. More than ``limit`` bytes, or, once ``RATIO_FLOOR`` bytes
    came out, more than ``ratio`` for one that was read, are refused with InvalidError.

    The reader that is returned owns ``reader``, and closes it; so does this function when it fails.
    Raises UnknownTypeError for an unknown name, UnsupportedError where a library is missing.
    """
    try:
        for name, cap in (("limit", limit), ("ratio", ratio)):
            if isinstance(cap, bool) or not isinstance(cap, (int, float)) or not cap >= 0:
                raise InvalidError(f"{name} must be a number of at least 0, not {cap!r}")
        return PlainReader(reader, compression, diff_id, limit, ratio)
    except BaseException:
        reader.close()
        raise


def open_plain(
    engine: Engine,
    blob: str | Descriptor,
    *,
    compression: str | None = None,
    diff_id: str | None = None,
    limit: int | None = None,
    ratio: float | None = None,
) -> PlainReader:
    """See ``Engine.get_plain_blob``."""
    expected = None if isinstance(blob, str) else blob.size
    reader = engine.get_blob(blob if isinstance(blob, str) else blob.digest)
    if expected is not None and reader.size != expected:
        actual = reader.size
        reader.close()
        raise SizeMismatchError(
            f"{reader.digest} has {actual} bytes, not the {expected} of its descriptor",
            digest=reader.digest,
            expected=expected,
            actual=actual,
        )
    return decompress(
        reader,
        compression=compression,
        diff_id=diff_id,
        limit=LIMIT if limit is None else limit,
        ratio=RATIO if ratio is None else ratio,
    )


def _digester(digest: Digest) -> _core.Digester:
    if digest.algorithm not in _core.algorithms():
        raise UnknownAlgorithmError(
            f"digest algorithm {digest.algorithm!r} can't be computed here", algorithm=digest.algorithm
        )
    return _core.Digester(digest.algorithm)
