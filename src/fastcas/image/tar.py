"""Tar streams: the headers that we write, and a strict reader for what strangers wrote.

The reader is ours because its input is hostile: it never seeks, never makes a file, holds one header
and one chunk at a time, and has a cap for whatever a header can ask for.  It reads what archives of
layouts are made of, plain files and directories in ustar, pax or GNU form, and refuses all else.

Source: POSIX.1-2017, pax, "pax Interchange Format"; the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from fastcas.digest import shorten
from fastcas.errors import InvalidError

__all__ = [
    "BLOCK",
    "END",
    "Member",
    "Stream",
    "encode_header",
    "is_tar_header",
    "padding",
    "read_members",
]

BLOCK = 512
#: What ends an archive.
END = bytes(2 * BLOCK)

#: Caps of what is read: headers in one archive, bytes of a name, bytes of one extended header, bytes
#: behind the end.
MAX_HEADERS = 1_000_000
MAX_NAME = 4096
MAX_EXTENDED = 64 << 10
MAX_TRAILER = 1 << 20

_CHUNK = 1 << 20
_ZEROS = bytes(BLOCK)
_MAX_SIZE = (1 << 63) - 1

_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"K": "a hard or symbolic link",
    b"S": "a sparse file",
}


def encode_header(
    name: str,
    size: int = 0,
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    mtime: int = 0,
    owner: tuple[int, int] = (0, 0),
    link: str = "",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """The header of one member, as pax extends it where it must: equal arguments, equal bytes.

    ``size`` and ``mtime`` are in bytes and seconds, ``owner`` is (uid, gid), ``kind`` one of tarfile's
    types; names that aren't UTF-8 come with surrogate escapes.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, mode, mtime
    info.type, info.linkname = kind, link
    info.uid, info.gid = owner
    info.devmajor, info.devminor = device
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """What fills the last block of ``size`` bytes of content."""
    return bytes(-size % BLOCK)


def is_tar_header(block: bytes) -> bool:
    """Whether this can be the beginning of a tar: a header whose checksum is right, or its end."""
    return len(block) == BLOCK and (block == _ZEROS or _has_checksum(block))


class Member:
    """A file or directory of an archive; iterating it once gives the content, in chunks of ``bytes``.

    ``name`` is relative and has no empty, ``.`` or ``..`` part; "" is the root. ``size`` in bytes.
    """

    __slots__ = ("_stream", "is_file", "name", "size")

    def __init__(self, stream: Stream, name: str, size: int, is_file: bool) -> None:
        self._stream = stream
        self.name = name
        self.size = size
        self.is_file = is_file

    def __iter__(self) -> Iterator[bytes]:
        return self._stream.read_content()

    def read_all(self, limit: int) -> bytes:
        """The whole content; InvalidError, before it is read, for more than ``limit`` bytes."""
        if self.size > limit:
            raise InvalidError(
                f"archive: {shorten(self.name)} has {self.size} bytes, more than the limit of {limit}"
            )
        return b"".join(self)


def read_members(read: Callable[[int], Any]) -> Iterator[Member]:
    """The members of the archive that ``read(n)`` gives, in order; it is read to its end.

    ``read`` may give fewer bytes than asked for; b"" is the end. What is left of a member's content
    is skipped when the next one is asked for. Raises InvalidError, naming the member, for links,
    devices, sparse files, names that are absolute or have ``..`` in them, sizes and headers beyond
    the caps, wrong checksums, an archive without its end, and whatever stands behind that.
    """
    stream = Stream(read)
    extended: dict[str, bytes] = {}
    for _ in range(MAX_HEADERS):
        block = stream.read_exactly(BLOCK, "a header")
        if block == _ZEROS:
            if extended:
                raise InvalidError("archive: an extended header without a member")
            stream.check_trailer()
            return
        header = _Header(block)
        kind = header.kind
        if kind in (b"x", b"g", b"L"):
            records = _read_extended(stream, header)
            if kind == b"g":
                if not records.keys().isdisjoint(_MEANINGFUL):
                    raise InvalidError("archive: a global header that names or sizes members")
                continue
            if not records.keys().isdisjoint(extended):
                raise InvalidError("archive: two extended headers for one member")
            extended.update(records)
            continue
        member = _make_member(stream, header, extended)
        extended = {}
        stream.begin(member.size)
        yield member
        for _chunk in stream.read_content():
            pass
        stream.read_exactly(-member.size % BLOCK, "a member's last block")
    raise InvalidError(f"archive: more than {MAX_HEADERS} headers")


class Stream:
    """What is read of an archive, counted against what was announced."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read = read
        self._left = 0

    def read_some(self, most: int) -> bytes:
        """At most ``most`` bytes, b"" at the end; TypeError, InvalidError for what isn't that."""
        data = self._read(most)
        if data is None:
            raise BlockingIOError(
                errno.EAGAIN, "the archive is non-blocking and has nothing to give now"
            )
        if not isinstance(data, bytes):
            raise TypeError(f"the archive's read() returned {type(data).__name__}, not bytes")
        if len(data) > most:
            raise InvalidError(f"the archive's read({most}) returned {len(data)} bytes")
        return data

    def read_exactly(self, count: int, what: str) -> bytes:
        """``count`` bytes; InvalidError where the archive ends before."""
        data = b""
        while len(data) < count:
            more = self.read_some(count - len(data))
            if not more:
                raise InvalidError(
                    f"archive: truncated, it ends within {what} or before its end marker"
                )
            data = data + more if data else more
        return data

    def begin(self, size: int) -> None:
        """A member's content follows."""
        self._left = size

    def read_content(self) -> Iterator[bytes]:
        """What is left of the member's content."""
        while self._left:
            data = self.read_some(min(self._left, _CHUNK))
            if not data:
                raise InvalidError(f"archive: truncated, {self._left} bytes of a member are missing")
            self._left -= len(data)
            yield data

    def check_trailer(self) -> None:
        """Finds nothing but zeros behind the end; writers fill their last record with them."""
        room = MAX_TRAILER
        while data := self.read_some(_CHUNK):
            room -= len(data)
            if data.strip(b"\0") or room < 0:
                raise InvalidError("archive: something follows its end")


class _Header:
    """The fields of one header block that count here."""

    def __init__(self, block: bytes) -> None:
        if not _has_checksum(block):
            raise InvalidError("archive: no tar header where one must be (wrong checksum)")
        magic = block[257:263]
        if magic not in (b"ustar\0", b"ustar "):
            raise InvalidError("archive: neither ustar, pax nor GNU tar")
        self.kind = block[156:157]
        self.name = _text(block[0:100])
        if magic == b"ustar\0" and (prefix := _text(block[345:500])):
            self.name = prefix + b"/" + self.name
        self.size = _number(block[124:136])


def _has_checksum(block: bytes) -> bool:
    try:
        stored = _number(block[148:156])
    except InvalidError:
        return False
    return stored == sum(block[:148]) + sum(block[156:]) + 8 * 0x20


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU's binary form of what octal digits can't say
        value = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
        if value > _MAX_SIZE:
            raise InvalidError("archive: a number out of range")
        return value
    digits = _text(field).strip(b" ")
    if digits.strip(b"01234567"):
        raise InvalidError(f"archive: {shorten(digits)} is no octal number")
    return int(digits, 8) if digits else 0


_MEANINGFUL = ("path", "size", "linkpath", "sparse")


def _read_extended(stream: Stream, header: _Header) -> dict[str, bytes]:
    """What an extended header says of the next member, by pax's names, as far as it counts."""
    if header.size > MAX_EXTENDED:
        raise InvalidError(
            f"archive: an extended header of {header.size} bytes, more than the limit of {MAX_EXTENDED}"
        )
    data = stream.read_exactly(header.size, "an extended header")
    stream.read_exactly(-header.size % BLOCK, "an extended header")
    if header.kind == b"L":
        return {"path": _text(data)}
    found = {}
    for key, value in _split_records(data):
        name = "sparse" if key.startswith(b"GNU.sparse.") else key.decode("latin-1")
        if name in found and name != "sparse":
            raise InvalidError(f"archive: {shorten(name)} stands twice in one extended header")
        found[name] = value
    return {name: found[name] for name in _MEANINGFUL if name in found}


def _split_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(data):
        digits, space, _ = data[position : position + 8].partition(b" ")
        # isdigit of bytes knows no digits but ASCII's.
        end = position + int(digits) if space and digits.isdigit() else 0
        key, equals, value = data[position + len(digits) + 1 : end].partition(b"=")
        if end > len(data) or not key or not equals or not value.endswith(b"\n"):
            raise InvalidError("archive: a malformed extended header")
        yield key, value[:-1]
        position = end


def _make_member(stream: Stream, header: _Header, extended: dict[str, bytes]) -> Member:
    raw = extended.get("path", header.name)
    if len(raw) > MAX_NAME:
        raise InvalidError(f"archive: a name of {len(raw)} bytes, more than the limit of {MAX_NAME}")
    name = raw.decode("utf-8", "surrogateescape")
    what = f"archive: {shorten(name)}"
    kind = header.kind
    if "sparse" in extended:
        kind = b"S"
    elif "linkpath" in extended:
        kind = b"K"
    if kind not in (b"0", b"\0", b"5"):
        refused = _REFUSED.get(kind, f"a member of type {kind!r}")
        raise InvalidError(f"{what} is {refused}; only files and directories are taken")
    is_file = kind != b"5"
    size = header.size
    if "size" in extended:
        digits = extended["size"]
        if not digits.isdigit() or len(digits) > 19 or (size := int(digits)) > _MAX_SIZE:
            raise InvalidError(f"{what}: {shorten(digits)} is no size")
    if size and not is_file:
        raise InvalidError(f"{what} is a directory with content")
    return Member(stream, _check_name(name, what, is_file), size, is_file)


def _check_name(name: str, what: str, is_file: bool) -> str:
    if "\0" in name:
        raise InvalidError(f"{what}: a name with a NUL in it")
    if name.startswith("/"):
        raise InvalidError(f"{what}: an absolute name")
    plain = name if is_file else name.removesuffix("/")
    if not is_file and plain in (".", ""):
        return ""
    plain = plain.removeprefix("./")
    if not {"", ".", ".."}.isdisjoint(plain.split("/")):
        raise InvalidError(f"{what}: a name with an empty, '.' or '..' part")
    return plain
