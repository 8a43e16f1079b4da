"""Quarantine: damaged blobs are moved out of the bucket into a local directory, with a note of why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastcas import _core
from fastcas.digest import Digest
from fastcas.errors import CorruptError, InvalidError
from fastcas.files import NEW, take_name
from fastcas.jsonstyle import encode_go
from fastcas.layout import is_url
from fastcas.store.bucket import Bucket, Lost, Missing
from fastcas.store.sweep import key_of, mark_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from fastcas.store.sweep import Sweep

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Quarantine:
    """The directory ``path``, made if need be, mode 0700. ``announced`` gives the sweep that a blob is
    removed in."""

    def __init__(
        self, bucket: Bucket, path: str, announced: Callable[[], AbstractContextManager[Sweep]]
    ) -> None:
        bucket.check_open()
        if is_url(path):
            raise InvalidError(f"{path}: a quarantine is a local directory", path=path)
        self._bucket = bucket
        self._announced = announced
        self._path = os.path.abspath(path)
        os.makedirs(self._path, 0o700, exist_ok=True)

    def move(self, digest: Digest, note: Mapping[str, Any]) -> str | None:
        """See ``Engine.open_quarantine``."""
        digest = Digest(digest)
        try:
            found = self._bucket.get(key_of(digest))
        except Missing:
            return None
        with _core.open_path(self._path, _DIRECTORY) as target:
            name = take_name(target, digest, encode_go(dict(note)), durable=True)
            moved = False
            try:
                moved = self._copy(found, target, name, digest) and self._remove(digest, found.meta)
                if moved:
                    os.fsync(target)
            finally:
                if not moved:
                    for left in (name, f"{name}.json"):
                        try:
                            os.unlink(left, dir_fd=target)
                        except FileNotFoundError:
                            pass
        return os.path.join(self._path, name) if moved else None

    def _copy(self, found: Any, target: int, name: str, digest: Digest) -> bool:
        """Whether what was copied is damaged."""
        key = key_of(digest)
        with _core.open_path(name, NEW, 0o400, dir_fd=target) as fd:
            sink = _core.Sink(fd, digest.algorithm)
            try:
                chunks = iter(found.stream(min_chunk_size=1 << 20))
                while (chunk := self._bucket.run(key, lambda: next(chunks, None))) is not None:
                    sink.write(chunk)
                encoded, size = sink.finish()
            except (Lost, Missing):
                return False
            finally:
                sink.abort()
            if encoded == digest.encoded:
                return False
            if size != found.meta["size"]:
                raise CorruptError(f"{key}: {size} bytes came of {found.meta['size']}", digest=digest)
            os.fsync(fd)
        return True

    def _remove(self, digest: Digest, meta: Mapping[str, Any]) -> bool:
        """Removes what was copied, unless a put has replaced it."""
        with self._announced() as sweep, sweep.step([digest]) as in_time:
            try:
                now = self._bucket.head(key_of(digest))
            except Missing:
                return False
            same = all(now[part] == meta[part] for part in ("e_tag", "last_modified", "size"))
            if not same or not in_time():
                return False
            self._bucket.delete([key_of(digest), mark_key(digest)])
        return True
