"""StoreEngine: the contract on an object store. It composes; the requests are made elsewhere."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from fastcas import _core
from fastcas.contract import declared_as
from fastcas.digest import COMPUTABLE, Digest
from fastcas.engine import READ_LIMIT, Engine, too_large
from fastcas.errors import (
    ClobberError,
    CorruptError,
    InvalidError,
    NotExistError,
    UnsupportedError,
)
from fastcas.expected import check_expected, not_computable
from fastcas.layout import (
    BLOBS,
    INDEX_BYTES,
    INDEX_FILE,
    LAYOUT_BYTES,
    LAYOUT_FILE,
    LAYOUT_LIMIT,
    check_version,
)
from fastcas.many import Many
from fastcas.reader import describe
from fastcas.results import BlobInfo, CopyResult, PutResult, StoredBlob
from fastcas.store.bucket import Bucket, Lost, Missing
from fastcas.store.conditions import Conditions, Finding, try_all
from fastcas.store.index import IndexObject
from fastcas.store.ingest import Ingest
from fastcas.store.location import UNSAFE_INDEX, connect, parse, secret_names
from fastcas.store.reader import WHOLE, Body, ObjectReader, read_whole
from fastcas.store.sweep import (
    OURS,
    Clock,
    Sweep,
    Sweeps,
    key_of,
    mark_key,
    nanoseconds,
    read_marks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from typing_extensions import Self

    from fastcas.contract import Progress
    from fastcas.model import Index
    from fastcas.reader import BlobReader
    from fastcas.results import Swept
    from fastcas.source import BlobSource
    from fastcas.store.location import Location

#: What lies below ``.fastcas/`` and is so old has been left behind, in nanoseconds. Not so marks, which
#: say when blobs were used.
_LEFT_BEHIND = 3600 * 1_000_000_000
_DEBRIS = ("gc", "clock", "probe")


class StoreEngine(Engine):
    """The engine on an OCI image layout in an object store; made by ``fastcas.open`` and ``create``.

    Attributes: ``url``; ``durability``, which is always "full": what a put has returned of is as
    durable as the store makes it. Wherever there are many blobs, several requests are made at once. A
    put that finds its blob stored leaves a mark, for gc. docs/object-store.md says how it differs from
    a directory.
    """

    durability = "full"

    def __init__(self, bucket: Bucket, config: Mapping[str, Any]) -> None:
        self._bucket = bucket
        self._config = dict(config)
        self._sweeps = Sweeps(bucket)
        self._ingest = Ingest(bucket, self._sweeps)
        unsafe = bool(config.get(UNSAFE_INDEX)) or os.environ.get("FASTCAS_UNSAFE_INDEX") == "1"
        conditions = Conditions(bucket, config, unsafe=unsafe)
        self._index = IndexObject(bucket, conditions, self._sweeps)
        self._sweeping = threading.local()

    @classmethod
    def open(cls, url: str, config: Mapping[str, Any] | None = None) -> Self:
        """See ``fastcas.open``."""
        location, bucket = _connect(url, config)
        path = location.join(LAYOUT_FILE)
        try:
            found = bucket.get(LAYOUT_FILE)
            if found.meta["size"] > LAYOUT_LIMIT:
                raise InvalidError(f"{path}: no layout has a file of that size", path=path)
            check_version(bucket.read_body(LAYOUT_FILE, found), url, path)
            bucket.head(INDEX_FILE)
        except Missing as error:
            raise _no_layout(bucket, str(error)) from None
        return cls(bucket, config or {})

    @classmethod
    def create(cls, url: str, config: Mapping[str, Any] | None = None) -> Self:
        """See ``fastcas.create``."""
        _, bucket = _connect(url, config)
        clobber = ClobberError(f"{url}: there is a layout already", path=url)
        nonce = os.urandom(16).hex()
        try:
            bucket.head(LAYOUT_FILE)
        except Missing:
            pass
        else:
            raise clobber
        # What makes it a layout comes last.
        for key, content in ((INDEX_FILE, INDEX_BYTES), (LAYOUT_FILE, LAYOUT_BYTES)):
            found = bucket.put_if(key, content, mode="create", nonce=nonce)
            # The index may be what a create has left that was interrupted.
            if found and (key != INDEX_FILE or bucket.read_body(key, found) != content):
                raise clobber
        return cls(bucket, config or {})

    @property
    def url(self) -> str:
        """The URL of the layout."""
        return str(self._bucket.location)

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
        self._bucket.check_open()
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
        algorithm, expected = check_expected(algorithm, expected_digest, expected_size)
        return PutResult(
            *self._ingest.put(
                source,
                algorithm=algorithm,
                expected_digest=expected,
                expected_size=expected_size,
                verify_existing=verify_existing,
                progress=progress,
            )
        )

    def put_blobs(
        self,
        sources: Iterable[BlobSource],
        *,
        algorithm: str = "sha256",
        progress: Progress | None = None,
    ) -> list[PutResult]:
        self._bucket.check_open()

        def put(source: Any, told: Progress) -> PutResult:
            return PutResult(*self._ingest.put(source, algorithm=algorithm, progress=told))

        return Many(self._bucket.pool, progress).put(sources, put)

    def put_copy(
        self, blob: BlobReader, *, verify: bool = False, progress: Progress | None = None
    ) -> CopyResult:
        self._bucket.check_open()
        return CopyResult(self._ingest.put_copy(blob, verify=verify, progress=progress), blob.size)

    def put_copies(
        self, blobs: Sequence[BlobReader], *, verify: bool = False, progress: Progress | None = None
    ) -> list[CopyResult]:
        self._bucket.check_open()

        def put(blob: BlobReader, told: Progress) -> CopyResult:
            method = self._ingest.put_copy(blob, verify=verify, progress=told)
            told(blob.size, None)
            return CopyResult(method, blob.size)

        return Many(self._bucket.pool, progress).run(blobs, put)

    def claim_blobs(self, wanted: Sequence[tuple[str, int]], *, verify: bool = False) -> Iterator[bool]:
        def claim(blob: tuple[str, int]) -> bool:
            return self._ingest.claim(self._readable(blob[0]), blob[1], verify)

        return self._bucket.map(claim, wanted)

    def stat_blobs(self, digests: Iterable[str]) -> Iterator[BlobInfo]:
        return self._bucket.map(self.stat_blob, digests)

    def get_blob(self, digest: str) -> BlobReader:
        digest = self._readable(digest)
        return ObjectReader(self._bucket.detached(), digest, self._get(digest))

    def get_blobs(self, digests: Iterable[str]) -> Iterator[BlobReader]:
        # A reader is made when it is taken: what nobody takes needn't be closed.
        wanted = list(map(self._readable, digests))
        for digest, found in zip(wanted, self._bucket.map(self._get, wanted), strict=True):
            yield ObjectReader(self._bucket.detached(), digest, found)

    def read_blob(self, digest: str, *, limit: int = READ_LIMIT) -> bytes:
        digest = self._readable(digest)
        found = self._get(digest)
        size = found.meta["size"]
        if size > limit:
            raise too_large(digest, size, limit)
        if size > WHOLE:
            with ObjectReader(self._bucket, digest, found) as reader:
                return reader.read()
        try:
            return read_whole(Body(self._bucket, digest, size, found.meta["e_tag"], found))
        except _core.VerifyError as error:
            raise describe(error, digest) from None

    def _readable(self, digest: str) -> Digest:
        digest = Digest(digest)
        self._bucket.check_open()
        if digest.algorithm not in COMPUTABLE:
            raise not_computable(digest, digest.algorithm)
        return digest

    def _get(self, digest: Digest) -> Any:
        """What is small comes whole. Of what is larger comes the beginning: many readers are never
        read, since a copy's target has the blob."""
        try:
            return self._bucket.get_beginning(key_of(digest), WHOLE)
        except Missing:
            raise self._no_blob(digest) from None

    def _no_blob(self, digest: Digest) -> NotExistError:
        url = self._bucket.location.join(key_of(digest))
        return NotExistError(f"{digest}: no such blob", digest=digest, path=url)

    def start_reading(self, wanted: Sequence[tuple[str, int]]) -> Callable[[], list[bytes | None]]:
        self._bucket.check_open()
        reads = [
            self._bucket.pool.submit(self._read_small, Digest(digest), size)
            if size <= WHOLE and digest.partition(":")[0] in COMPUTABLE
            else None
            for digest, size in wanted
        ]
        return lambda: [None if read is None else read.result() for read in reads]

    def _read_small(self, digest: Digest, size: int) -> bytes | None:
        try:
            found = self._bucket.get(key_of(digest))
            if found.meta["size"] != size:
                return None
            return read_whole(Body(self._bucket, digest, size, found.meta["e_tag"], found))
        except (Missing, Lost, OSError, _core.VerifyError):
            return None

    def check_blobs(
        self,
        digests: Iterable[Digest],
        *,
        quick: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[str]:
        done = 0
        for means, size in self._bucket.map(self._check, digests, most=threads):
            done += size
            if progress is not None:
                progress(done, None)
            yield means

    def _check(self, digest: Digest) -> tuple[str, int]:
        if digest.algorithm not in COMPUTABLE:
            return "", 0
        try:
            found = self._bucket.get(key_of(digest))
            with ObjectReader(self._bucket, digest, found) as reader:
                reader.verify()
                return "digest", reader.size
        except (Missing, OSError, CorruptError):
            return "", 0

    def stat_blob(self, digest: str) -> BlobInfo:
        digest = Digest(digest)
        try:
            return BlobInfo(digest, self._bucket.head(key_of(digest))["size"])
        except Missing:
            raise self._no_blob(digest) from None

    def delete_blob(self, digest: str) -> None:
        digest = Digest(digest)
        self._bucket.delete([key_of(digest), mark_key(digest)])

    def list_blobs(self) -> Iterator[Digest]:
        self._bucket.check_open()
        return (blob.digest for blob in self._found() if blob.digest is not None)

    def scan_blobs(self, *, known: Container[str] = ()) -> Generator[StoredBlob, None, int]:
        left_out = 0
        marks = read_marks(self._bucket)
        for blob in self._found():
            if blob.digest is None:
                yield blob
            elif blob.digest in known:
                left_out += 1
            else:
                used = max(blob.modified, marks.get(blob.digest, 0))
                yield blob._replace(modified=used, changed=used)
        return left_out

    def _found(self) -> Iterator[StoredBlob]:
        """What lies below ``blobs/``, without marks."""
        start = len(BLOBS) + 1
        places: dict[str, str] = {}  # one string for all the blobs of one
        for page in self._bucket.list(BLOBS):
            for meta in page:
                key, when = meta["path"], nanoseconds(meta)
                if not meta["size"] and self._is_folder(key):
                    continue
                place = self._bucket.location.join(key)
                try:
                    digest = Digest(key[start:].replace("/", ":", 1))
                except InvalidError:
                    yield StoredBlob(place, None, meta["size"], when, when, "bad-name")
                    continue
                place = place.rpartition("/")[0]
                place = places.setdefault(place, place)
                yield StoredBlob(place, digest, meta["size"], when, when, "blob")

    def _is_folder(self, key: str) -> bool:
        """Whether what is listed is the marker of a folder, an empty object that other tools make: its
        key ends with a slash, which the client cuts off, so that there is nothing of this name."""
        try:
            self._bucket.head(key)
        except Missing:
            return True
        return False

    def get_index(self) -> Index:
        return self._index.read()

    def put_index(self, index: Index) -> None:
        self._index.replace(index)

    def update_index(self, function: Callable[[Index], Index | None]) -> Index:
        return self._index.update(function)

    def read_clock(self) -> int:
        return Clock(self._bucket).tick()

    def announce_sweep(self) -> Sweep:
        sweep = Sweep(self._bucket)
        self._sweeping.sweep = sweep  # this thread's: another's is another
        return sweep

    def sweep_blobs(
        self,
        digests: Sequence[Digest],
        *,
        index: Index,
        start: int,
        grace: int,
        progress: Progress | None = None,
    ) -> Swept:
        raw = index.to_json()
        digests = [Digest(digest) for digest in digests]

        with self._announced() as sweep:
            return sweep.run(
                digests,
                is_index=lambda: self._index.read_raw() == raw,
                start=start,
                grace=grace,
                progress=progress,
            )

    def _announced(self) -> AbstractContextManager[Sweep]:
        """The sweep that this thread has announced, or one for itself."""
        announced = getattr(self._sweeping, "sweep", None)
        if announced is not None and announced.is_announced:
            return nullcontext(announced)
        return Sweep(self._bucket)

    def open_quarantine(self, directory: str) -> Callable[[Digest, Mapping[str, Any]], str | None]:
        from fastcas.store.quarantine import Quarantine

        return Quarantine(self._bucket, directory, self._announced).move

    def clean(self) -> list[str]:
        now = None
        old: list[str] = []
        for name in _DEBRIS:
            for page in self._bucket.list(f"{OURS}/{name}"):
                now = now or Clock(self._bucket).now()
                old += [meta["path"] for meta in page if now - nanoseconds(meta) > _LEFT_BEHIND]
        self._bucket.delete(old)
        return old

    def sync(self) -> None:
        self._bucket.check_open()

    def close(self) -> None:
        self._bucket.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if hidden := secret_names(self._config):
            raise UnsupportedError(
                f"{self!r} can't be pickled: its config has {', '.join(hidden)}, which would be "
                "readable there; leave credentials to the environment"
            )
        return type(self).open, (self.url, self._config)

    def __repr__(self) -> str:
        state = " closed" if self._bucket.closed else ""
        return f"<fastcas.StoreEngine {self.url!r}{state}>"


def probe(url: str, config: Mapping[str, Any] | None = None) -> list[Finding]:
    """Tries whether a server keeps the conditions that index updates need, one by one and in races, by
    some hundred requests to keys below ``.fastcas/probe/``; returns what was tried, as tuples
    (name, right, detail). What came of it is noted in the bucket, where engines look.

    Where one isn't right, an update of the index may be lost: ``update_index`` refuses such a server.
    Raises what ``fastcas.open`` does, but for a layout, which needn't be there.
    """
    return try_all(_connect(url, config)[1], config or {})


def _connect(url: str, config: Mapping[str, Any] | None) -> tuple[Location, Bucket]:
    location = parse(url)
    config = {} if config is None else config
    return location, Bucket(connect(location, config), location, config)


def _no_layout(bucket: Bucket, key: str) -> NotExistError | InvalidError:
    url = str(bucket.location)
    keys = (meta["path"] for page in bucket.list("") for meta in page)
    # Nor is a probe's note a layout, nor the marker of an empty folder, whose key is the prefix itself.
    if all(not key or key.startswith(f"{OURS}/") for key in keys):
        return NotExistError(f"{url}: no such layout", path=url)
    return InvalidError(f"{url}: not a layout: no {key}", path=bucket.location.join(key))
