"""A small engine in plain Python: what the contract asks, without speed, locks or durability.

It passes the same conformance functions as the real engines, which shows that those say no more
than the contract does, and gives the tests something to compare with.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import time
from pathlib import Path

from fastcas.digest import Digest
from fastcas.engine import Engine
from fastcas.errors import (
    ClosedError,
    DigestMismatchError,
    InvalidError,
    NotExistError,
    SizeMismatchError,
    UnknownAlgorithmError,
)
from fastcas.image.compress import put_compressed
from fastcas.model import Index
from fastcas.results import BlobInfo, CopyResult, PutResult, StoredBlob, Swept
from fastcas.source import Source

KNOWN = ("sha256", "sha512")


class Pieces(list):
    """A sink that keeps what it is given."""

    def write(self, data) -> None:
        self.append(bytes(data))


def content_of(source) -> bytes:
    """Everything that a source has to give."""
    if isinstance(source, (str, int, io.TextIOBase)) or source is None:
        raise TypeError(f"can't store a {type(source).__name__}")
    if isinstance(source, Source):
        pieces = Pieces()
        source.feed(pieces)
        return b"".join(pieces)
    if isinstance(source, os.PathLike):
        return Path(source).read_bytes()
    try:
        return bytes(memoryview(source))
    except TypeError:
        pass
    if hasattr(source, "read"):
        chunks = iter(lambda: source.read(1 << 16), b"")
    elif hasattr(source, "readinto"):
        chunks = _readinto_chunks(source)
    elif hasattr(source, "recv"):
        chunks = iter(lambda: source.recv(1 << 16), b"")
    else:
        chunks = iter(source)
    whole = bytearray()
    for chunk in chunks:
        whole += memoryview(chunk).cast("B")  # TypeError for None, str and int
    return bytes(whole)


def _readinto_chunks(source):
    buffer = bytearray(1 << 16)
    while (count := source.readinto(buffer)) != 0:
        if not 0 <= count <= len(buffer):
            raise ValueError("readinto says more than it was given room for")
        yield buffer[:count]


class OracleReader(io.RawIOBase):
    def __init__(self, digest: Digest, path: Path):
        if digest.algorithm not in KNOWN:
            raise UnknownAlgorithmError("can't verify", algorithm=digest.algorithm, digest=digest)
        self._file = path.open("rb", buffering=0)
        self.digest = digest
        self.size = os.fstat(self._file.fileno()).st_size
        self._failure = None
        self._restart()

    def _restart(self):
        self._file.seek(0)
        self._at = 0
        self._hash = hashlib.new(self.digest.algorithm)
        self.verified = False

    def readable(self):
        return True

    def seekable(self):
        return True

    def fileno(self):
        self._open()
        return self._file.fileno()

    def tell(self):
        self._open()
        return self._at

    def seek(self, offset, whence=0):
        self._open()
        target = {0: 0, 1: self._at, 2: self.size}[whence] + offset
        if target < 0:
            raise ValueError("negative position")
        if target == 0:
            self._restart()
        elif target != self._at:
            self._hash = None
            self.verified = False
            self._at = self._file.seek(target)
        return self._at

    def _open(self):
        if self.closed:
            raise ClosedError("the reader is closed", digest=self.digest)

    def readinto(self, buffer):
        self._open()
        if self._failure:
            raise self._failure
        room = memoryview(buffer).cast("B")
        wanted = max(0, min(len(room), self.size - self._at))
        data = self._file.read(wanted)
        self._at += len(data)
        if self._hash is not None and not self.verified:
            self._hash.update(data)
            if self._at == self.size or len(data) < wanted:
                self._check()
        room[: len(data)] = data
        return len(data)

    def _check(self):
        seen = self._at + len(self._file.read(1))
        actual = Digest.of(self.digest.algorithm, self._hash.hexdigest())
        if seen != self.size:
            kind, expected, actual = SizeMismatchError, self.size, seen
        elif actual != self.digest:
            kind, expected = DigestMismatchError, self.digest
        else:
            self.verified = True
            return
        self._failure = kind("corrupt", digest=self.digest, expected=expected, actual=actual)
        raise self._failure

    def verify(self):
        if not self.verified:
            if self._hash is None:
                self._restart()
            while self.read(1 << 16):
                pass

    def close(self):
        if self.closed:
            return
        super().close()
        self._file.close()
        if self._failure:
            raise self._failure


class OracleEngine(Engine):
    capabilities = frozenset({"checksums", "descriptors", "outlives"})

    def __init__(self, path: Path):
        self._root = Path(path).absolute()
        self._closed = False

    @classmethod
    def create(cls, path: Path) -> OracleEngine:
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}\n')
        (path / "index.json").write_bytes(Index().to_json())
        return cls(path)

    @property
    def durability(self) -> str:
        return "none"

    def _path(self, digest) -> tuple[Digest, Path]:
        self._open()
        digest = Digest(digest)
        return digest, self._root / "blobs" / digest.algorithm / digest.encoded

    def _open(self):
        if self._closed:
            raise ClosedError("the engine is closed", path=self._root)

    def _replace(self, path: Path, content: bytes, mode: int):
        temporary = self._root / ".oracle"
        temporary.write_bytes(content)
        temporary.chmod(mode)
        temporary.replace(path)

    def put_blob(
        self,
        source,
        *,
        algorithm="sha256",
        expected_digest=None,
        expected_size=None,
        verify_existing=False,
        progress=None,
        compress=None,
        level=None,
    ):
        if compress is not None or level is not None:
            options = {"algorithm": algorithm, "expected_digest": expected_digest}
            options |= {"expected_size": expected_size, "progress": progress}
            return put_compressed(self, source, compress, level, **options)
        self._open()
        if expected_digest is not None:
            expected_digest = Digest(expected_digest)
        if algorithm not in KNOWN:
            raise UnknownAlgorithmError("unsupported algorithm", algorithm=algorithm)
        content = content_of(source)
        digest = Digest.of(algorithm, hashlib.new(algorithm, content).hexdigest())
        size = len(content)
        if expected_size is not None and size != expected_size:
            raise SizeMismatchError("size", digest=digest, expected=expected_size, actual=size)
        if expected_digest is not None and digest != expected_digest:
            raise DigestMismatchError(
                "digest", digest=expected_digest, expected=expected_digest, actual=digest
            )
        _, path = self._path(digest)
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            self._replace(path, content, 0o444)
        os.utime(path)
        if progress is not None:
            progress(size, size)
        return PutResult(digest, size)

    def get_blob(self, digest):
        digest, path = self._path(digest)
        self.stat_blob(digest)
        return OracleReader(digest, path)

    def stat_blob(self, digest):
        digest, path = self._path(digest)
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise NotExistError(f"{digest} is not stored", digest=digest, path=path) from None
        if not stat.S_ISREG(status.st_mode):
            raise InvalidError(f"{digest} is not a regular file", digest=digest, path=path)
        return BlobInfo(digest, status.st_size)

    def delete_blob(self, digest):
        self._path(digest)[1].unlink(missing_ok=True)

    def list_blobs(self):
        self._open()
        return self._list()

    def _list(self):
        for folder in (self._root / "blobs").iterdir():
            for path in folder.iterdir():
                try:
                    digest = Digest(f"{folder.name}:{path.name}")
                except InvalidError:
                    continue
                if stat.S_ISREG(path.lstat().st_mode):
                    yield digest

    def get_index(self):
        self._open()
        try:
            return Index.from_json((self._root / "index.json").read_bytes())
        except FileNotFoundError as error:
            raise InvalidError("no index.json", path=self._root) from error

    def put_index(self, index):
        self._open()
        self._replace(self._root / "index.json", index.to_json(), 0o644)

    def update_index(self, function):
        index = self.get_index()
        changed = function(index)
        if changed is None:
            return index
        self.put_index(changed)
        return changed

    def copy_blob(self, digest, destination, *, link=False, verify=False, progress=None):
        with self.get_blob(digest) as reader:
            if verify:
                reader.verify()
                reader.seek(0)
            content = Path(f"/proc/self/fd/{reader.fileno()}").read_bytes()
        Path(destination).write_bytes(content)
        if progress is not None:
            progress(len(content), len(content))
        return CopyResult("copy", len(content))

    def read_clock(self):
        self._open()
        coarse = 5  # CLOCK_REALTIME_COARSE, which stamps files
        called = now = time.time_ns()
        while now <= called:
            now = time.clock_gettime_ns(coarse)
        return now

    def scan_blobs(self, *, known=()):
        self._open()
        everything = list(self._scan())
        left = [found for found in everything if found.kind != "blob" or found.digest not in known]
        yield from left
        return len(everything) - len(left)

    def _scan(self):
        for path in (self._root / "blobs").glob("*/*"):
            kind, status = "blob", path.lstat()
            try:
                digest = Digest(f"{path.parent.name}:{path.name}")
            except InvalidError:
                digest, kind = None, "bad-name"
            if digest and not stat.S_ISREG(status.st_mode):
                kind = "non-regular"
            changed = max(status.st_mtime_ns, status.st_ctime_ns)
            place = str(path.parent if digest else path)
            yield StoredBlob(place, digest, status.st_size, status.st_mtime_ns, changed, kind)

    def sweep_blobs(self, digests, *, index, start, grace, progress=None):
        if self.get_index().to_json() != index.to_json():
            return Swept([], list(digests))
        stored = {blob.digest: blob for blob in self._scan() if blob.kind == "blob"}
        removed = []
        for digest in digests:
            if digest in stored and stored[digest].is_unused(start, grace):
                self.delete_blob(digest)
                removed.append(BlobInfo(digest, stored[digest].size))
        if progress is not None:
            progress(sum(blob.size for blob in removed), None)
        return Swept(removed, [])

    def open_quarantine(self, directory):
        self._open()
        target = Path(directory)
        if self._root / "blobs" in [target, *target.parents]:
            raise InvalidError("among the blobs", path=target)
        target.mkdir(parents=True, exist_ok=True)

        def move(digest, note):
            digest, path = self._path(digest)
            if (
                not path.is_file()
                or hashlib.new(digest.algorithm, path.read_bytes()).hexdigest() == digest.encoded
            ):
                return None
            new = target / f"{digest.algorithm}-{digest.encoded}"
            while new.exists():
                new = new.with_name(f"{new.name}.1")
            shutil.move(path, new)
            new.with_name(f"{new.name}.json").write_text(json.dumps(dict(note)))
            return str(new)

        return move

    def clean(self):
        self._open()
        return []

    def sync(self):
        self._open()

    def close(self):
        self._closed = True
