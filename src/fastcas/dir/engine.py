"""DirEngine: the contract on a directory. It composes; the bytes move elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from _warnings import warn
from itertools import chain

from fastcas import _core
from fastcas.contract import declared_as
from fastcas.digest import COMPUTABLE, REGISTERED, Digest
from fastcas.dir.checksums import RECORDED_ABOVE, Checksums
from fastcas.dir.clean import remove_debris
from fastcas.dir.durability import Durability, check_level
from fastcas.dir.index import IndexFile
from fastcas.dir.ingest import Ingest
from fastcas.dir.lock import Lock
from fastcas.dir.reader import FileReader, read_whole
from fastcas.dir.root import DIRECTORY, Root, create_layout, open_root
from fastcas.dir.scan import read_file_clock, scan_blobs
from fastcas.engine import READ_LIMIT, Engine, too_large
from fastcas.errors import ClosedError, InvalidError, NotExistError
from fastcas.expected import check_content, check_expected, not_computable
from fastcas.layout import BLOBS
from fastcas.reader import describe
from fastcas.results import BlobInfo, CopyResult, PutResult
from fastcas.source import NamedPath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from typing_extensions import Self

    from fastcas.contract import Progress
    from fastcas.model import Index
    from fastcas.reader import BlobReader
    from fastcas.results import StoredBlob, Swept
    from fastcas.source import BlobSource


_READERS_AT_ONCE = 8


def _as_text(path: str | os.PathLike[str]) -> str:
    text = os.fsdecode(path)
    if "\0" in text:
        raise InvalidError(f"{text[:100]!r}: a path can't have a NUL in it", path=text)
    return text


class DirEngine(Engine):
    """The engine on an OCI image layout in a directory; made by ``fastcas.open`` and ``create``.

    Attributes: ``path``, the absolute path of the layout; ``durability``.
    """

    capabilities = frozenset({"checksums", "descriptors", "files", "fork", "locks", "outlives"})

    def __init__(self, root: Root, durability: str) -> None:
        self._root = root
        self._lock = Lock(root)
        self._waits = Durability(root, durability)
        self._checksums = Checksums(root, self._lock)
        self._ingest = Ingest(root, self._lock, self._waits, self._checksums)
        self._pending = self._ingest.pending
        self._index = IndexFile(root, self._lock, self._waits, self._pending)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, durability: str = "full") -> Self:
        """See ``fastcas.open``."""
        path = _as_text(path)
        check_level(durability, path)
        return cls(open_root(path), durability)

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, durability: str = "full") -> Self:
        """See ``fastcas.create``."""
        path = _as_text(path)
        check_level(durability, path)
        return cls(create_layout(path, durable=durability != "none"), durability)

    @property
    def path(self) -> str:
        """The absolute path under which the layout was opened."""
        return self._root.path

    @property
    def durability(self) -> str:
        return self._waits.level

    @declared_as(Engine.put_blob)
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
        algorithm, expected_digest = check_expected(algorithm, expected_digest, expected_size)
        return self._ingest.put(
            source,
            algorithm=algorithm,
            expected_digest=expected_digest,
            expected_size=expected_size,
            verify_existing=verify_existing,
            progress=progress,
        )

    def put_blobs(
        self,
        sources: Iterable[BlobSource],
        *,
        algorithm: str = "sha256",
        progress: Progress | None = None,
    ) -> list[PutResult]:
        if self._root.closed:
            raise ClosedError("this layout was closed", path=self.path)
        from fastcas.dir.batch import Batch

        self._pending.settle()
        batch = Batch(self._root, self._waits, self._ingest, algorithm, progress)
        results = batch.run(sources)
        self._pending.stored(result.digest for result in results)
        return results

    def put_copy(
        self, blob: BlobReader, *, verify: bool = False, progress: Progress | None = None
    ) -> CopyResult:
        # Of other readers it isn't known that their descriptor is the blob and nothing else.
        source = blob.fileno() if type(blob) is FileReader else None
        method = self._ingest.put_copy(blob, source=source, verify=verify, progress=progress)
        return CopyResult(method, blob.size)

    def put_copies(
        self, blobs: Sequence[BlobReader], *, verify: bool = False, progress: Progress | None = None
    ) -> list[CopyResult]:
        if not all(type(blob) is FileReader for blob in blobs):
            return self._put_copies_at_once(blobs, verify, progress)
        # put_blobs doesn't verify what is there already.
        if verify or len(blobs) < 2 or not _opens_again():
            return super().put_copies(blobs, verify=verify, progress=progress)
        methods = {}
        left: dict[str, list[BlobReader]] = {}
        done = 0
        for blob in blobs:
            methods[blob] = self._ingest.share(blob, source=blob.fileno(), verify=False)
            if methods[blob] is None:
                left.setdefault(blob.digest.algorithm, []).append(blob)
            else:
                done += blob.size
        for algorithm, group in left.items():
            told = None if progress is None else lambda size, _, b=done: progress(b + size, None)
            found = self.put_blobs(map(_Opened, group), algorithm=algorithm, progress=told)
            for blob, result in zip(group, found, strict=True):
                check_content(result.digest, result.size, blob.digest, blob.size)
                done += blob.size
        return [CopyResult(methods[blob] or "copy", blob.size) for blob in blobs]

    def _put_copies_at_once(
        self, blobs: Sequence[BlobReader], verify: bool, progress: Progress | None
    ) -> list[CopyResult]:
        """Of readers that wait for something else than this machine, several are read at once."""
        from concurrent.futures import ThreadPoolExecutor

        from fastcas.many import Many

        def put(blob: BlobReader, told: Progress) -> CopyResult:
            copied = self.put_copy(blob, verify=verify, progress=told)
            told(blob.size, None)
            return copied

        with ThreadPoolExecutor(_READERS_AT_ONCE, "fastcas-copy") as pool:
            return Many(pool, progress).run(blobs, put)

    def get_blob(self, digest: str) -> BlobReader:
        digest = Digest(digest)
        self._pending.reveal(digest)
        algorithm, _, encoded = digest.partition(":")
        try:
            file, size = self._root.places[algorithm].open(encoded)
        except (KeyError, OSError, _core.KindError):
            file, size = self._open_blob(digest)
        return FileReader(file, digest, size)

    def read_blob(self, digest: str, *, limit: int = READ_LIMIT) -> bytes:
        if limit < _core.SMALL:
            return super().read_blob(digest, limit=limit)
        # Without a reader object: most blobs that are read whole are small.
        digest = Digest(digest)
        self._pending.reveal(digest)
        algorithm, _, encoded = digest.partition(":")
        try:
            found = self._root.places[algorithm].read(encoded)
        except (KeyError, OSError, _core.KindError):
            found = self._open_blob(digest)
        except _core.VerifyError as error:
            raise describe(error, digest) from None
        if isinstance(found, bytes):
            return found
        file, size = found
        with file as fd:
            if size > limit:
                raise too_large(digest, size, limit)
            return read_whole(fd, digest, size)

    def start_reading(self, wanted: Sequence[tuple[str, int]]) -> Callable[[], list[bytes | None]]:
        begun = []
        for algorithm in COMPUTABLE:
            prefix = f"{algorithm}:"
            places = [
                place
                for place, (digest, size) in enumerate(wanted)
                if digest.startswith(prefix) and size <= _core.SMALL
            ]
            chosen = [(wanted[at][0][len(prefix) :], wanted[at][1]) for at in places]
            if chosen and (fetch := self._root.fetch(algorithm, chosen)) is not None:
                begun.append((places, fetch))

        def end() -> list[bytes | None]:
            contents: list[bytes | None] = [None] * len(wanted)
            for places, fetch in begun:
                for place, content in zip(places, fetch.contents(), strict=True):
                    contents[place] = content
            return contents

        return end

    def _open_blob(self, digest: Digest) -> tuple[_core.File, int]:
        """The general way, with errors that say what is wrong."""
        algorithm = digest.algorithm
        if algorithm not in COMPUTABLE:
            raise not_computable(digest, algorithm) from None
        self._pending.reveal(digest)
        try:
            return self._root.open_regular(_blob_name(digest))
        except (OSError, InvalidError) as error:
            raise self._about(error, digest) from error

    def stat_blob(self, digest: str) -> BlobInfo:
        digest = Digest(digest)
        size = self._pending.size_of(digest)
        if size is not None and not self._root.closed:
            return BlobInfo(digest, size)
        name = _blob_name(digest)
        try:
            with self._root.open(name, os.O_PATH) as fd:
                facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidError(f"{name}: not a regular file", path=self._root.join(name))
        except (OSError, InvalidError) as error:
            raise self._about(error, digest) from error
        return BlobInfo(digest, facts.st_size)

    def delete_blob(self, digest: str) -> None:
        digest = Digest(digest)
        self._pending.forget(digest)
        try:
            with self._root.open(f"{BLOBS}/{digest.algorithm}", DIRECTORY) as directory:
                facts = os.stat(digest.encoded, dir_fd=directory, follow_symlinks=False)
                os.unlink(digest.encoded, dir_fd=directory)
            if facts.st_size > RECORDED_ABOVE:
                self._checksums.drop({digest})
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
        self._pending.settle()
        with self._root.open(BLOBS, DIRECTORY) as blobs:
            return [name for name in os.listdir(blobs) if _core.split_digest(f"{name}:0") > 0]

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
            return self._root.open(f"{BLOBS}/{algorithm}", DIRECTORY)
        except (InvalidError, FileNotFoundError, NotADirectoryError):
            return None  # a stray, or gone by now

    def get_index(self) -> Index:
        return self._index.read()

    def put_index(self, index: Index) -> None:
        self._index.replace(index)

    def update_index(self, function: Callable[[Index], Index | None]) -> Index:
        return self._index.update(function)

    def read_clock(self) -> int:
        self._pending.settle()
        return read_file_clock()

    def scan_blobs(self, *, known: Container[str] = ()) -> Generator[StoredBlob, None, int]:
        self._pending.settle()
        return scan_blobs(self._root, known)

    def check_blobs(
        self,
        digests: Iterable[Digest],
        *,
        quick: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[str]:
        from fastcas.dir.check import Check

        threads = threads or len(os.sched_getaffinity(0))
        self._pending.settle()
        return Check(self._root, self._checksums, threads, progress).run(digests, quick=quick)

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

        self._pending.settle()
        swept = sweep_blobs(
            self._root,
            self._lock,
            [Digest(digest) for digest in digests],
            raw_index=index.to_json(),
            start=start,
            grace=grace,
            durable=self._waits.sync_files,
            progress=progress,
        )
        if recorded := {blob.digest for blob in swept.removed if blob.size > RECORDED_ABOVE}:
            self._checksums.drop(recorded)
        return swept

    def open_quarantine(self, directory: str) -> Callable[[Digest, Mapping[str, Any]], str | None]:
        from fastcas.dir.quarantine import Quarantine

        self._pending.settle()
        return Quarantine(self._root, self._lock, directory, durable=self._waits.sync_files).move

    def clean(self) -> list[str]:
        return remove_debris(self._root, self._lock)

    def sync(self) -> None:
        if self._root.closed:
            raise ClosedError("this layout was closed", path=self.path)
        self._pending.sync()

    def close(self) -> None:
        if not self._root.closed:
            try:
                self._pending.sync()
            finally:
                self._pending.close()
                self._waits.close()
                self._root.close()
                if type(self) is DirEngine:
                    self.__class__ = _Closed

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
            self._pending.close()
            self._waits.close()
            root.close()


class _Closed(DirEngine):
    """One whose collection, whenever that comes, runs no Python: a Ctrl-C there is lost."""

    __del__ = dict  # type: ignore[assignment]  # in C, and it takes no argument


def _reopen(path: str, durability: str) -> DirEngine:
    return DirEngine.open(path, durability=durability)


class _Opened(NamedPath):
    """The open file of a reader, to be opened once more, with an offset of its own."""

    def __init__(self, blob: BlobReader) -> None:
        self._blob = blob
        self.name = str(blob.digest)

    def __fspath__(self) -> str:
        return f"{_OPEN_FILES}/{self._blob.fileno()}"


_OPEN_FILES = "/proc/self/fd"


def _opens_again() -> bool:
    return os.path.isdir(_OPEN_FILES)


def _blob_name(digest: Digest) -> str:
    return f"{BLOBS}/{digest.replace(':', '/', 1)}"
