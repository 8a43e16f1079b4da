"""Compressions by name: gzip, zstd, none, and what is registered.

A stream is made of blocks of one size, which are compressed each for itself, so that any number of
threads does it and the bytes don't depend on that number, nor on the pieces in which the content came.

Source: RFC 1951 and 1952 (gzip), RFC 8878 (zstd); OCI image-spec, layer.md (media types).
"""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import Any, Protocol

from fastcas.digest import shorten
from fastcas.errors import InvalidError, UnknownTypeError, UnsupportedError
from fastcas.model import MEDIA_TYPE_LAYER

__all__ = [
    "Codec",
    "Decoder",
    "Encoder",
    "compressions",
    "find_compression",
    "layer_media_type",
    "library",
    "register_compression",
    "sniff",
]

_MIB = 1 << 20

#: The largest window that a zstd frame may ask a reader to keep, as a power of two: 128 MiB, what
#: the zstd command accepts and its highest level makes.
ZSTD_WINDOW_LOG = 27


class Encoder:
    """One compressed stream in the making.

    ``block_size`` is the plain size in bytes of each block but the last; ``window`` is how many bytes
    before its own a block may refer to, ``library`` what compresses, with its version.
    """

    block_size: int = 4 * _MIB
    window: int = 0
    library: str = ""

    def begin(self) -> bytes:
        """What stands before the first block."""
        return b""

    def note(self, block: memoryview) -> None:
        """Called for each block, in order, by one thread; not called beside itself."""

    def encode(self, block: memoryview, before: bytes) -> bytes:
        """A block, compressed; ``before`` is the window before it. Called by several threads at once;
        equal arguments give equal bytes."""
        raise NotImplementedError

    def end(self, size: int) -> bytes:
        """What stands after the last block of a stream of ``size`` plain bytes."""
        return b""


class Decoder(Protocol):
    """Decompresses one frame (zstd) or member (gzip). Those of ``bz2``, ``lzma`` and
    ``compression.zstd`` have this shape."""

    @property
    def eof(self) -> bool:
        """Whether the frame has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more can be had from what was given."""

    @property
    def unused_data(self) -> bytes:
        """What was given after the end of the frame."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most ``max_length`` bytes; what is left of ``data`` is kept for the next call."""


class Codec:
    """A compression; subclass it, and hand an instance to ``register_compression``.

    ``name`` is what it is called, ``suffix`` what it adds to a layer's media type, ``magics`` how its
    streams begin, ``levels`` its levels, ``level`` the one that is taken where none is given.
    """

    name: str
    suffix: str
    magics: tuple[bytes, ...]
    levels: range
    level: int

    def encoder(self, level: int) -> Encoder:
        """A new stream; UnsupportedError where a library is missing."""
        raise NotImplementedError

    def decoder(self) -> Decoder:
        """For one frame; UnsupportedError where a library is missing."""
        raise NotImplementedError

    def errors(self) -> tuple[type[Exception], ...]:
        """What the decoder raises for content that isn't right."""
        raise NotImplementedError

    def check_level(self, level: int | None) -> int:
        """The level to take; InvalidError for one that isn't of this compression."""
        if level is None:
            return self.level
        if isinstance(level, bool) or not isinstance(level, int) or level not in self.levels:
            raise InvalidError(
                f"{self.name} has no level {shorten(level)}; there are "
                f"{self.levels.start} to {self.levels.stop - 1}"
            )
        return level


class _GzipEncoder(Encoder):
    """One member of blocks that are joined by sync flushes, as pigz and pgzip write it: every reader
    of gzip takes it, those too that stop after the first member."""

    block_size = _MIB
    window = 32 << 10

    def __init__(self, module: Any, level: int, name: str, checksum: Any) -> None:
        self.library = name
        self._module = module
        self._level = level
        self._checksum = checksum
        self._crc = 0

    def begin(self) -> bytes:
        # No flags, no time, no extra flags, operating system unknown.
        return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

    def note(self, block: memoryview) -> None:
        self._crc = self._checksum(block, self._crc)

    def encode(self, block: memoryview, before: bytes) -> bytes:
        make = self._module.compressobj
        if before:
            stream = make(self._level, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=before)
        else:
            stream = make(self._level, zlib.DEFLATED, -zlib.MAX_WBITS)
        first = stream.compress(block)
        rest = stream.flush(zlib.Z_SYNC_FLUSH)
        return b"".join((first, rest))

    def end(self, size: int) -> bytes:
        # An empty last block, then the trailer.
        crc = self._crc.to_bytes(4, "little")
        return b"\x03\x00" + crc + (size & 0xFFFFFFFF).to_bytes(4, "little")


def _isal() -> tuple[Any, str]:
    module = import_module("isal.isal_zlib")
    return module, f"isa-l {import_module('isal').ISAL_VERSION}"


def _zlib_ng() -> tuple[Any, str]:
    module = import_module("zlib_ng.zlib_ng")
    return module, f"zlib-ng {module.ZLIBNG_RUNTIME_VERSION}"


def _zlib() -> tuple[Any, str]:
    return zlib, f"zlib {zlib.ZLIB_RUNTIME_VERSION}"


# Chosen by speed at the ratio that pgzip has at the same level; docs/design.md has the figures.
_LEVELS = {
    1: (_isal, 1),
    2: (_isal, 2),
    3: (_isal, 3),
    4: (_zlib_ng, 3),
    5: (_zlib_ng, 3),
    6: (_zlib_ng, 4),
    7: (_zlib_ng, 5),
    8: (_zlib_ng, 6),
    9: (_zlib_ng, 9),
}


class _Gzip(Codec):
    name = "gzip"
    suffix = "+gzip"
    magics = (b"\x1f\x8b\x08",)
    levels = range(1, 10)
    level = 5

    def encoder(self, level: int) -> Encoder:
        load, native = _LEVELS[level]
        try:
            module, name = load()
        except ImportError:
            module, name = _zlib()
            native = level
        checksum = zlib.crc32 if module is zlib else module.crc32
        return _GzipEncoder(module, native, name, checksum)

    def decoder(self) -> Decoder:
        return _Inflate(self._reading())

    def errors(self) -> tuple[type[Exception], ...]:
        return (self._reading().error,)

    @staticmethod
    def _reading() -> Any:
        for load in (_isal, _zlib_ng):
            try:
                return load()[0]
            except ImportError:
                pass
        return zlib


class _Inflate:
    """The decompressobj of zlib, isal and zlib-ng, in the shape of Decoder."""

    def __init__(self, module: Any) -> None:
        self._stream = module.decompressobj(zlib.MAX_WBITS | 16)
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return bytes(self._stream.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        plain = bytes(self._stream.decompress(self._stream.unconsumed_tail + data, max_length))
        # A call that filled its room may have left more in the stream's own memory.
        self._full = len(plain) == max_length
        return plain


def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            pass
    raise UnsupportedError(
        "zstd needs Python 3.14 or the package backports.zstd: pip install 'fastcas[compress]'"
    )


class _ZstdEncoder(Encoder):
    """A frame for each block, with its size and a checksum, as pzstd and zstd:chunked have it."""

    block_size = 4 * _MIB

    def __init__(self, module: Any, level: int) -> None:
        self.library = f"zstd {module.zstd_version}"
        self._compress = module.compress
        parameter = module.CompressionParameter
        self._options = {parameter.compression_level: level, parameter.checksum_flag: 1}

    def encode(self, block: memoryview, before: bytes) -> bytes:
        return bytes(self._compress(block, options=self._options))

    def end(self, size: int) -> bytes:
        # Of nothing, a frame too: an empty stream isn't zstd.
        return b"" if size else self.encode(memoryview(b""), b"")


class _Zstd(Codec):
    name = "zstd"
    suffix = "+zstd"
    # A frame, and the sixteen kinds of frame that are to be skipped.
    magics = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))
    levels = range(1, 23)
    level = 3

    def encoder(self, level: int) -> Encoder:
        return _ZstdEncoder(_zstd(), level)

    def decoder(self) -> Decoder:
        module = _zstd()
        limit = {module.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        decoder: Decoder = module.ZstdDecompressor(options=limit)
        return decoder

    def errors(self) -> tuple[type[Exception], ...]:
        return (_zstd().ZstdError,)


class _PlainEncoder(Encoder):
    def encode(self, block: memoryview, before: bytes) -> bytes:
        return bytes(block)


class _PlainDecoder:
    """Each piece is a frame of its own."""

    eof = False
    needs_input = True
    unused_data = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self.eof = True
        self.unused_data = data[max_length:]
        return data[:max_length]


class _None(Codec):
    name = "none"
    suffix = ""
    magics = ()
    levels = range(1)
    level = 0

    def encoder(self, level: int) -> Encoder:
        return _PlainEncoder()

    def decoder(self) -> Decoder:
        return _PlainDecoder()

    def errors(self) -> tuple[type[Exception], ...]:
        return ()


_known: dict[str, Codec] = {codec.name: codec for codec in (_None(), _Gzip(), _Zstd())}


def register_compression(codec: Codec) -> None:
    """Makes ``codec`` known to this process by its name; InvalidError where the name is taken."""
    if not isinstance(codec, Codec):
        raise TypeError(f"a Codec is registered, not a {type(codec).__name__}")
    if _known.setdefault(codec.name, codec) is not codec:
        raise InvalidError(f"there is a compression {shorten(codec.name)} already")


def compressions() -> tuple[str, ...]:
    """The names that ``put_blob(compress=...)`` takes."""
    return tuple(_known)


def find_compression(name: str) -> Codec:
    """The compression of that name; UnknownTypeError where there is none."""
    if not isinstance(name, str):
        raise TypeError(f"a compression is named by a str, not a {type(name).__name__}")
    try:
        return _known[name]
    except KeyError:
        known = ", ".join(map(repr, _known))
        message = f"unknown compression {shorten(name)}; there are {known}"
        raise UnknownTypeError(message, algorithm=name) from None


def sniff(head: bytes) -> Codec:
    """The compression whose streams begin like ``head``, "none" where no one's do."""
    for codec in _known.values():
        if codec.magics and head.startswith(codec.magics):
            return codec
    return _known["none"]


def layer_media_type(name: str) -> str:
    """The OCI media type of a tar layer that is compressed so."""
    return MEDIA_TYPE_LAYER + find_compression(name).suffix


def library(name: str, level: int | None = None) -> str:
    """What compresses at this level here, with its version; "" for "none".

    The bytes of two streams of equal content and level are the same where this is the same and the
    processor has the same instructions.
    """
    codec = find_compression(name)
    return codec.encoder(codec.check_level(level)).library
