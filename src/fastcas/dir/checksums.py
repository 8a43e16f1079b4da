"""Checksums of large blobs, in one file beside the index: how a quick scrub finds bit rot.

``.fastcas.xxh128`` has a line for each blob, as ``xxhsum -c`` reads it: the XXH3-128 of the content
in 32 hexadecimal digits, two spaces, the blob's path in the layout. Blobs of up to 64 KiB have none:
opening them takes as long as digesting them.

A record is about content, not about a file, so it can be missing or wrong, but never out of date. And
both are harmless: what has no record, or another checksum than its record says, is digested. So nothing
here is locked or synced, records may be lost to a crash or to who rewrites the file meanwhile, and what
can't be read or written is passed over. Nor is anything here trusted: whoever can write the
file can hide damage from a quick scrub, and from nothing else.
"""

from __future__ import annotations

import os
import stat
from itertools import islice

from fastcas import _core
from fastcas.digest import COMPUTABLE
from fastcas.dir.root import DIRECTORY
from fastcas.dir.temp import Temp
from fastcas.errors import FastCASError, InvalidError
from fastcas.files import write_all
from fastcas.layout import BLOBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from fastcas.dir.lock import Lock
    from fastcas.dir.root import Root

CHECKSUM_FILE = ".fastcas.xxh128"

#: Blobs of more bytes are recorded.
RECORDED_ABOVE = _core.SMALL

# A larger file isn't ours: that many lines are of nine million blobs. It is ignored, and replaced by
# the next whole scrub.
_LIMIT = 1 << 30
_CHUNK = 1 << 20
_LONGEST = 512  # bytes of a line
_BATCH = 4096  # lines

_DIGITS = 32
_BETWEEN = f"  {BLOBS}/".encode()
_APPEND = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY


class Checksums:
    """The checksums of one layout. No method raises anything because of the file."""

    def __init__(self, root: Root, lock: Lock) -> None:
        self._root = root
        self._lock = lock

    def add(self, records: Mapping[str, str]) -> None:
        """Appends records, in one write; a later one of the same digest counts."""
        if not records:
            return
        try:
            with self._open_to_append() as fd:
                facts = os.fstat(fd)
                if _is_ours(facts):
                    lines = b"".join(_line(record) + b"\n" for record in records.items())
                    torn = facts.st_size and os.pread(fd, 1, facts.st_size - 1) != b"\n"
                    write_all(fd, b"\n" + lines if torn else lines)
        except (OSError, FastCASError):
            pass

    def read(self, wanted: Container[str] | None = None) -> tuple[dict[str, str], int]:
        """The records of the digests ``wanted``, by default of those that are stored, since there may
        be any number of others; and how many lines there are."""
        if wanted is None:
            with _Stored(self._root) as stored:
                return self.read(stored)
        found: dict[str, str] = {}
        count = 0
        for line in self._lines():
            count += 1
            digest = _digest_of(line)
            if digest in wanted:
                found[digest] = line[:_DIGITS].decode("ascii", "replace")
        return found, count

    def drop(self, digests: Container[str]) -> None:
        """Removes the records of ``digests``."""
        if any(_digest_of(line) in digests for line in self._lines()):
            self._write(line for line in self._lines() if _digest_of(line) not in digests)

    def replace(self, records: Mapping[str, str]) -> None:
        """Makes ``records`` all that there are."""
        self._write(map(_line, records.items()))

    def _open_to_append(self) -> _core.File:
        while True:
            try:
                with self._root.held() as rootfd:
                    facts = os.stat(CHECKSUM_FILE, dir_fd=rootfd, follow_symlinks=False)
                # Before it is opened, which a device might take for a command.
                if not stat.S_ISREG(facts.st_mode):
                    raise InvalidError(f"{CHECKSUM_FILE}: not a regular file")
                return self._root.open(CHECKSUM_FILE, _APPEND)
            except FileNotFoundError:
                pass
            try:
                file = self._root.open(CHECKSUM_FILE, _APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            self._root.give_to_owner(file.fd)
            return file

    def _lines(self) -> Iterator[bytes]:
        """The lines without their ends; a last one that has none was torn, and isn't among them."""
        try:
            file, size = self._root.open_regular(CHECKSUM_FILE)
        except (OSError, FastCASError):
            return
        with file as fd:
            rest = b""
            left = _LIMIT if size <= _LIMIT else 0  # somebody may go on writing while it is read
            while left > 0 and (chunk := _read(fd)):
                left -= len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[:_LONGEST]  # too long for a record, with whatever comes
                yield from lines

    def _write(self, lines: Iterable[bytes]) -> None:
        try:
            temp = Temp(self._root, self._lock, 0o644)
            try:
                lines = iter(lines)
                while batch := list(islice(lines, _BATCH)):
                    write_all(temp.fd, b"\n".join(batch) + b"\n")
                with self._root.held() as rootfd:
                    temp.replace(rootfd, CHECKSUM_FILE)
            finally:
                temp.discard()
        except (OSError, FastCASError):
            pass


class _Stored:
    """The digests that a layout has files for, as a container."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._directories: dict[str, _core.File | None] = {}

    def __enter__(self) -> _Stored:
        return self

    def __exit__(self, *_: object) -> None:
        for directory in self._directories.values():
            if directory is not None:
                directory.close()

    def __contains__(self, digest: object) -> bool:
        assert isinstance(digest, str)
        algorithm, _, encoded = digest.partition(":")
        if algorithm not in COMPUTABLE or _core.split_digest(digest) <= 0:
            return False
        if algorithm not in self._directories:
            self._directories[algorithm] = self._open(algorithm)
        directory = self._directories[algorithm]
        if directory is None:
            return False
        try:
            facts = os.stat(encoded, dir_fd=directory.fd, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(facts.st_mode)

    def _open(self, algorithm: str) -> _core.File | None:
        try:
            return self._root.open(f"{BLOBS}/{algorithm}", DIRECTORY)
        except (OSError, FastCASError):
            return None


def _is_ours(facts: os.stat_result) -> bool:
    """A file with a second name may be somebody else's."""
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_size <= _LIMIT


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except OSError:
        return b""


def _line(record: tuple[str, str]) -> bytes:
    digest, checksum = record
    return f"{checksum}  {BLOBS}/{digest.replace(':', '/', 1)}".encode()


def _digest_of(line: bytes) -> str:
    """The digest that a line is about; "" where it is no record."""
    if not line.startswith(_BETWEEN, _DIGITS):
        return ""
    return line[_DIGITS + len(_BETWEEN) :].decode("ascii", "replace").replace("/", ":", 1)
