"""DirEngine: the contract on a directory. It composes; the bytes move elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from _warnings import warn
from itertools import chain

from fastcas import _core
from fastcas.digest import COMPUTABLE, REGISTERED, Digest
from fastcas.dir.clean import remove_debris
from fastcas.dir.durability import Durability
from fastcas.dir.index import IndexFile
from fastcas.dir.ingest import Ingest
from fastcas.dir.lock import Lock
from fastcas.dir.reader import BlobReader, describe, read_whole
from fastcas.dir.root import BLOBS, DIRECTORY, Root, create_layout, open_root
from fastcas.dir.scan import check_blobs, read_file_clock, scan_blobs
from fastcas.engine import READ_LIMIT, Engine, too_large
from fastcas.errors import ClosedError, InvalidError, NotExistError, UnknownAlgorithmError
from fastcas.results import BlobInfo, CopyResult, PutResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from typing_extensions import Self

    from fastcas.contract import Progress
    from fastcas.model import Index
    from fastcas.results import StoredBlob, Swept

DURABILITIES = ("full", "batch", "none")


def _as_text(path: str | os.PathLike[str]) -> str:
    text = os.fsdecode(path)
    if "\0" in text:
        raise InvalidError(f"{text[:100]!r}: a path can't have a NUL in it", path=text)
    return text


def _check_durability(durability: str) -> None:
    if durability not in DURABILITIES:
        raise InvalidError(f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}")


class DirEngine(Engine):
    """The engine on an OCI image layout in a directory; made by ``fastcas.open`` and ``create``.

    Attributes: ``path``, the absolute path of the layout; ``durability``.
    """

    def __init__(self, root: Root, durability: str) -> None:
        self._root = root
        self._lock = Lock(root)
        self._waits = Durability(root, durability)
        self._index = IndexFile(root, self._lock, self._waits)
        self._ingest = Ingest(root, self._lock, self._waits)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, durability: str = "full") -> Self:
        """See ``fastcas.open``."""
        _check_durability(durability)
        return cls(open_root(_as_text(path)), durability)

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, durability: str = "full") -> Self:
        """See ``fastcas.create``."""
        _check_durability(durability)
        create_layout(_as_text(path), durable=durability != "none")
        return cls(open_root(_as_text(path)), durability)

    @property
    def path(self) -> str:
        """The absolute path under which the layout was opened."""
        return self._root.path

    @property
    def durability(self) -> str:
        return self._waits.level

    def put_blob(
        self,
        source: Any,
        *,
        algorithm: str = "sha256",
        expected_digest: str | None = None,
        expected_size: int | None = None,
        verify_existing: bool = False,
        progress: Progress | None = None,
        compress: str | None = None,
        level: int | None = None,
    ) -> PutResult:
        if compress is not None or level is not None:
            from fastcas.image.compress import put_compressed

            return put_compressed(
                self,
                source,
                compress,
                level,
                algorithm=algorithm,
                expected_digest=expected_digest,
                expected_size=expected_size,
                verify_existing=verify_existing,
                progress=progress,
            )
        if expected_digest is not None:
            expected_digest = Digest(expected_digest)
            if algorithm == "sha256":
                algorithm = expected_digest.algorithm
            elif algorithm != expected_digest.algorithm:
                raise InvalidError(f"{expected_digest} was expected of a {algorithm} put")
        if expected_size is not None:
            if isinstance(expected_size, bool) or not isinstance(expected_size, int):
                raise InvalidError(f"expected_size must be an int, not {expected_size!r}")
            if not 0 <= expected_size < 1 << 63:
                raise InvalidError(f"expected_size is {expected_size}: no blob has that size")
        return self._ingest.put(
            source,
            algorithm=algorithm,
            expected_digest=expected_digest,
            expected_size=expected_size,
            verify_existing=verify_existing,
            progress=progress,
        )

    def put_blobs(
        self, sources: Iterable[Any], *, algorithm: str = "sha256", progress: Progress | None = None
    ) -> list[PutResult]:
        if self._root.closed:
            raise ClosedError("this layout was closed", path=self.path)
        from fastcas.dir.batch import Batch

        batch = Batch(self._root, self._lock, self._waits, self._ingest, algorithm, progress)
        return batch.run(sources)

    def put_copy(
        self, blob: BlobReader, *, verify: bool = False, progress: Progress | None = None
    ) -> CopyResult:
        # Of other readers it isn't known that their descriptor is the blob and nothing else.
        source = blob.fileno() if type(blob) is BlobReader else None
        method = self._ingest.put_copy(blob, source=source, verify=verify, progress=progress)
        return CopyResult(method, blob.size)

    def get_blob(self, digest: str) -> BlobReader:
        digest = Digest(digest)
        fd, size = self._open_blob(digest)
        return BlobReader(fd, digest, size)

    def read_blob(self, digest: str, *, limit: int = READ_LIMIT) -> bytes:
        if limit < _core.SMALL:
            return super().read_blob(digest, limit=limit)
        # Without a reader object: most blobs that are read whole are small.
        digest = Digest(digest)
        algorithm, _, encoded = digest.partition(":")
        if algorithm not in COMPUTABLE:
            raise _not_computable(digest, algorithm)
        try:
            found = self._root.read_small(f"{BLOBS}/{algorithm}/{encoded}", algorithm, encoded)
        except (OSError, InvalidError) as error:
            raise self._about(error, digest) from error
        except _core.VerifyError as error:
            raise describe(error, digest) from None
        if isinstance(found, bytes):
            return found
        fd, size = found
        try:
            if size > limit:
                raise too_large(digest, size, limit)
            return read_whole(fd, digest, size)
        finally:
            os.close(fd)

    def read_many(self, wanted: Sequence[tuple[str, int]]) -> list[bytes | None]:
        contents: list[bytes | None] = [None] * len(wanted)
        for algorithm in COMPUTABLE:
            prefix = f"{algorithm}:"
            places = [
                place
                for place, (digest, size) in enumerate(wanted)
                if digest.startswith(prefix) and size <= _core.SMALL
            ]
            if places:
                found = self._root.read_many(
                    algorithm, [(wanted[at][0][len(prefix) :], wanted[at][1]) for at in places]
                )
                for place, content in zip(places, found, strict=True):
                    contents[place] = content
        return contents

    def _open_blob(self, digest: Digest) -> tuple[int, int]:
        algorithm = digest.algorithm
        if algorithm not in COMPUTABLE:
            raise _not_computable(digest, algorithm)
        try:
            return self._root.open_regular(_blob_name(digest))
        except (OSError, InvalidError) as error:
            raise self._about(error, digest) from error

    def stat_blob(self, digest: str) -> BlobInfo:
        digest = Digest(digest)
        name = _blob_name(digest)
        try:
            fd = self._root.open(name, os.O_PATH)
            try:
                facts = os.fstat(fd)
            finally:
                os.close(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidError(f"{name}: not a regular file", path=self._root.join(name))
        except (OSError, InvalidError) as error:
            raise self._about(error, digest) from error
        return BlobInfo(digest, facts.st_size)

    def delete_blob(self, digest: str) -> None:
        digest = Digest(digest)
        try:
            directory = self._root.open(f"{BLOBS}/{digest.algorithm}", DIRECTORY)
            try:
                os.unlink(digest.encoded, dir_fd=directory)
            finally:
                os.close(directory)
        except IsADirectoryError as error:
            message = f"{digest}: a directory stands in the place of this blob"
            raise InvalidError(message, digest=digest) from error
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                error.filename = self._root.join(_blob_name(digest))
                raise

    def list_blobs(self) -> Iterator[Digest]:
        return chain.from_iterable(self._batches(self._algorithms()))

    def __len__(self) -> int:
        count = 0
        for algorithm in self._algorithms():
            directory = self._open_algorithm(algorithm)
            if directory is not None:
                with directory as fd:
                    count += _core.count_digests(fd, REGISTERED.get(algorithm, 0))
        return count

    def _algorithms(self) -> list[str]:
        blobs = self._root.open(BLOBS, DIRECTORY)
        try:
            return [name for name in os.listdir(blobs) if _core.split_digest(f"{name}:0") > 0]
        finally:
            os.close(blobs)

    def _batches(self, algorithms: list[str]) -> Iterator[list[Digest]]:
        for algorithm in algorithms:
            directory = self._open_algorithm(algorithm)
            if directory is None:
                continue
            with directory as fd:
                prefix = f"{algorithm}:".encode()
                digits = REGISTERED.get(algorithm, 0)
                while (batch := _core.read_digests(fd, prefix, digits, Digest)) is not None:
                    yield batch

    def _open_algorithm(self, algorithm: str) -> _core.File | None:
        try:
            return self._root.open_file(f"{BLOBS}/{algorithm}", DIRECTORY)
        except (InvalidError, FileNotFoundError, NotADirectoryError):
            return None  # a stray, or gone by now

    def get_index(self) -> Index:
        return self._index.read()

    def put_index(self, index: Index) -> None:
        self._index.replace(index)

    def update_index(self, function: Callable[[Index], Index | None]) -> Index:
        return self._index.update(function)

    def read_clock(self) -> int:
        return read_file_clock()

    def scan_blobs(self, *, known: Container[str] = ()) -> Iterator[StoredBlob]:
        return scan_blobs(self._root, known)

    def check_blobs(
        self, digests: Sequence[Digest], *, threads: int, progress: Progress | None = None
    ) -> set[Digest]:
        return check_blobs(self._root, digests, threads=threads, progress=progress)

    def sweep_blobs(
        self,
        digests: Sequence[Digest],
        *,
        index: Index,
        start: int,
        grace: int,
        progress: Progress | None = None,
    ) -> Swept:
        from fastcas.dir.sweep import sweep_blobs

        return sweep_blobs(
            self._root,
            self._lock,
            [Digest(digest) for digest in digests],
            raw_index=index.to_json(),
            start=start,
            grace=grace,
            durable=self._waits.sync_files,
            progress=progress,
        )

    def open_quarantine(self, directory: str) -> Callable[[Digest, Mapping[str, Any]], str | None]:
        from fastcas.dir.quarantine import Quarantine

        return Quarantine(self._root, self._lock, directory, durable=self._waits.sync_files).move

    def clean(self) -> list[str]:
        return remove_debris(self._root, self._lock)

    def sync(self) -> None:
        if self._root.closed:
            raise ClosedError("this layout was closed", path=self.path)
        self._waits.sync()

    def close(self) -> None:
        if not self._root.closed:
            try:
                self._waits.sync()
            finally:
                self._waits.close()
                self._root.close()

    def _about(self, error: OSError | InvalidError, digest: Digest) -> Exception:
        if isinstance(error, InvalidError):
            error.digest = digest
            return error
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            path = self._root.join(_blob_name(digest))
            return NotExistError(f"{digest}: no such blob", digest=digest, path=path)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.durability)

    def __repr__(self) -> str:
        state = " closed" if self._root.closed else ""
        return f"<fastcas.DirEngine {self.path!r} durability={self.durability}{state}>"

    def __del__(self) -> None:
        root = getattr(self, "_root", None)
        if root is not None and not root.closed:
            warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._waits.close()
            root.close()


def _reopen(path: str, durability: str) -> DirEngine:
    return DirEngine.open(path, durability=durability)


def _not_computable(digest: Digest, algorithm: str) -> UnknownAlgorithmError:
    return UnknownAlgorithmError(
        f"{digest}: its algorithm can't be computed here, so it can't be verified",
        algorithm=algorithm,
        digest=digest,
    )


def _blob_name(digest: Digest) -> str:
    return f"{BLOBS}/{digest.replace(':', '/', 1)}"
