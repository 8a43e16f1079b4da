"""Quarantine: damaged blobs are moved out of the layout, with a note of why. Nothing is deleted."""

from __future__ import annotations

import errno
import os

from fastcas import _core
from fastcas.digest import Digest
from fastcas.dir.root import DIRECTORY
from fastcas.errors import CorruptError, InvalidError
from fastcas.files import NEW, take_name, write_all
from fastcas.jsonstyle import encode_go
from fastcas.layout import BLOBS, is_url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fastcas.dir.lock import Lock
    from fastcas.dir.root import Root

_CHUNK = 1 << 20


class Quarantine:
    """The directory ``path``, made if need be, mode 0700; InvalidError where it is under ``blobs/``.

    It may be on another filesystem: a blob is copied there then, and the copy digested before the blob
    goes. ``durable``: a blob's new name survives power loss before its old one goes.
    """

    def __init__(self, root: Root, lock: Lock, path: str, *, durable: bool) -> None:
        if is_url(path):
            raise InvalidError(f"{path}: a quarantine is a local directory", path=path)
        self._root = root
        self._lock = lock
        self._path = os.path.abspath(path)
        self._durable = durable
        there = self._path
        while not os.path.isdir(there):
            parent = os.path.dirname(there)
            if parent == there:
                break
            there = parent
        self._refuse_blobs(there)
        os.makedirs(self._path, 0o700, exist_ok=True)

    def _refuse_blobs(self, path: str) -> None:
        with self._root.open(BLOBS, os.O_PATH | os.O_DIRECTORY) as blobs:
            forbidden = os.fstat(blobs)
        path = os.path.realpath(path)
        while True:
            if os.path.samestat(os.stat(path), forbidden):
                message = f"{self._path!r} is under {BLOBS}/, where only blobs may be"
                raise InvalidError(message, path=self._path)
            parent = os.path.dirname(path)
            if parent == path:
                return
            path = parent

    def move(self, digest: Digest, note: Mapping[str, Any]) -> str | None:
        """See ``Engine.open_quarantine``."""
        digest = Digest(digest)
        try:
            file, _ = self._root.open_regular(f"{BLOBS}/{digest.algorithm}/{digest.encoded}")
        except (FileNotFoundError, InvalidError):
            return None
        with file as fd:
            actual, _ = _core.digest_fd(fd, digest.algorithm)
            if actual == digest.encoded:
                return None
            return self._move(digest, fd, actual, encode_go(dict(note)))

    def _move(self, digest: Digest, fd: int, actual: str, note: bytes) -> str | None:
        moved = False
        with (
            _core.open_path(self._path, DIRECTORY) as target,
            self._root.open(f"{BLOBS}/{digest.algorithm}", DIRECTORY) as source,
        ):
            name = take_name(target, digest, note, durable=self._durable)
            try:
                try:
                    moved = self._take(fd, source, digest, target, name)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    self._copy(fd, target, name, digest.algorithm, actual)
                    moved = self._take(fd, source, digest)
                    if not moved:
                        os.unlink(name, dir_fd=target)
            finally:
                if not moved:
                    os.unlink(f"{name}.json", dir_fd=target)
            if moved and self._durable:
                os.fsync(target)
                self._root.sync(source, f"{BLOBS}/{digest.algorithm}")
            return os.path.join(self._path, name) if moved else None

    def _take(self, fd: int, source: int, digest: Digest, target: int = -1, name: str = "") -> bool:
        """Moves the name of the open blob ``fd``, or without a target removes it; False where it isn't
        that blob's any more."""
        encoded = digest.encoded
        with self._lock.exclusive():
            try:
                current = os.stat(encoded, dir_fd=source, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if not os.path.samestat(current, os.fstat(fd)):
                return False  # a put has replaced it
            if target >= 0:
                os.rename(encoded, name, src_dir_fd=source, dst_dir_fd=target)
            else:
                os.unlink(encoded, dir_fd=source)
        return True

    def _copy(self, fd: int, target: int, name: str, algorithm: str, actual: str) -> None:
        file = _core.open_path(name, NEW, 0o400, dir_fd=target)
        try:
            with file as copy:
                position = 0
                while piece := os.pread(fd, _CHUNK, position):
                    write_all(copy, piece)
                    position += len(piece)
                os.lseek(copy, 0, os.SEEK_SET)
                if _core.digest_fd(copy, algorithm)[0] != actual:
                    raise CorruptError(f"{name}: the copy in {self._path!r} isn't what was copied")
                if self._durable:
                    os.fsync(copy)
                    os.fsync(target)
        except BaseException:
            os.unlink(name, dir_fd=target)
            raise
