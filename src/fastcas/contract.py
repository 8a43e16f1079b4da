"""Contract: what a store of OCI images must be able to do.

The abstract methods are what an engine must have; those after them only gc and scrub ask for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from fastcas.digest import Digest
from fastcas.errors import InvalidError, NotExistError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Any, TypedDict, TypeVar, overload

    from typing_extensions import Self, Unpack

    from fastcas.model import Index
    from fastcas.reader import BlobReader
    from fastcas.results import BlobInfo, CompressedPutResult, PutResult, StoredBlob, Swept
    from fastcas.source import BlobSource

    Progress = Callable[[int, int | None], object]
    T = TypeVar("T")

    class PutOptions(TypedDict, total=False):
        """What ``put_blob`` takes besides a source and its compression."""

        algorithm: str
        expected_digest: str | None
        expected_size: int | None
        verify_existing: bool
        progress: Progress | None


class _NothingToSay:
    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def declared_as(declared: T) -> Callable[[Callable[..., Any]], T]:
    """Of an engine's method that type checkers see as the contract's, overloads and all."""
    return lambda method: method  # type: ignore[return-value]


def _lacks(engine: Contract, method: str) -> UnsupportedError:
    return UnsupportedError(f"{type(engine).__name__} has no {method}")


class Contract(ABC):
    """A content-addressable store: blobs by digest, and one index. ``Engine``, whose part it is, says
    what holds for every method."""

    #: See ``Engine``.
    capabilities: frozenset[str] = frozenset()

    @property
    @abstractmethod
    def durability(self) -> str:
        """ "full", "batch", "syncfs" or "none": see ``fastcas.open``."""

    if TYPE_CHECKING:

        @overload
        @abstractmethod
        def put_blob(
            self,
            source: BlobSource,
            *,
            compress: str,
            level: int | None = None,
            **options: Unpack[PutOptions],
        ) -> CompressedPutResult: ...
        @overload
        @abstractmethod
        def put_blob(
            self,
            source: BlobSource,
            *,
            compress: str | None = None,
            level: int | None = None,
            **options: Unpack[PutOptions],
        ) -> PutResult: ...

    @abstractmethod
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
        """Stores the content of ``source``; returns its (digest, size in bytes).

        ``source`` is a bytes-like object, a path object, a binary file or socket (read from where it
        stands to its end), an object with ``readinto`` or ``read``, or an iterable of bytes-likes: to
        type checkers a ``fastcas.source.BlobSource``.
        ``algorithm`` names the digest; that of ``expected_digest`` wins over the default.
        ``expected_digest`` and ``expected_size`` (bytes) are checked before anything is published.
        ``verify_existing`` reads a stored blob of the same digest again before it is taken as good;
        otherwise only blobs up to 1 MiB are, and larger ones judged by their size.

        Returning means that the content is stored under the digest, as durable as ``durability``
        says, also where it was stored before; a stored file that is found wrong is replaced. After
        an error nothing has been published. At "batch" and "syncfs" others see it from ``sync`` on.

        ``compress`` names a compression, "gzip", "zstd", "none" or a registered one, and ``level`` its
        level (gzip 1 to 9, zstd 1 to 22). The blob is then the compressed content, which is what
        ``expected_digest`` and ``expected_size`` are about; ``progress`` counts plain bytes. The
        result is a CompressedPutResult, which has ``diff_id`` and ``plain_size`` of the plain content
        too. UnknownTypeError for an unknown name, InvalidError for a level that there isn't,
        UnsupportedError where zstd isn't installed. An engine hands such a call on to
        ``fastcas.image.compress.put_compressed``, and takes sources by ``fastcas.source.open_source``.

        Raises DigestMismatchError and SizeMismatchError for what was expected, TypeError for ``str``
        (content or path?) and what is no source, UnknownAlgorithmError, DurabilityError where the
        content is published but couldn't be synced, and whatever the source raises.
        """

    @abstractmethod
    def get_blob(self, digest: str) -> BlobReader:
        """Opens a blob; returns a BlobReader, which verifies what it hands out. The caller closes it.

        Raises NotExistError, InvalidError where the blob's place is taken by something else than a
        regular file, UnknownAlgorithmError.
        """

    @abstractmethod
    def stat_blob(self, digest: str) -> BlobInfo:
        """Returns (digest, size in bytes) of a stored blob without reading it.

        Raises NotExistError, and InvalidError like ``get_blob``.
        """

    @abstractmethod
    def delete_blob(self, digest: str) -> None:
        """Removes a blob; returning means that it isn't stored, whether it was or not.

        After power loss the blob may be there again, whole.
        """

    @abstractmethod
    def list_blobs(self) -> Iterator[Digest]:
        """The digests of all stored blobs, in no order, as a lazy iterator.

        What isn't named like a blob, or isn't a regular file, is skipped. Whether a blob that is put
        or deleted meanwhile is among them is left open.
        """

    @abstractmethod
    def get_index(self) -> Index:
        """The index as it is: the old one or the new one beside writers, never a mixture.

        Raises InvalidError where it is missing, ambiguous, larger than 64 MiB, or no index.
        """

    @abstractmethod
    def put_index(self, index: Index) -> None:
        """Replaces the index. To change it, use ``update_index``, which loses no one's update.

        Durable on return unless ``durability`` is "none"; what it names is made durable before.
        """

    @abstractmethod
    def update_index(self, function: Callable[[Index], Index | None]) -> Index:
        """Changes the index: calls ``function(index)`` and writes the Index that it returns.

        Nobody else's ``update_index`` or ``put_index`` comes between, in any process. ``function``
        returns None to leave the index as it is; what it raises is raised, and nothing is written.
        It may be called again where a program that doesn't lock changed the index meanwhile, and, of an
        engine without "locks", where anybody did: it must do no harm the second time. It may
        use this engine from its own thread to put and get, not to change the index (InvalidError).

        Returns the index as it is then; durable like after ``put_index``, and so is every blob that was
        put before, whether or not anything was written.
        """

    @abstractmethod
    def clean(self) -> list[str]:
        """Removes what ended writers left behind; returns the names. Never a blob, a reference, a
        file of a living writer, or anything that isn't named as such."""

    @abstractmethod
    def sync(self) -> None:
        """Makes every put that has returned durable, where ``durability`` is "batch" or "syncfs", and
        visible to others than this engine.

        Raises DurabilityError, whose ``lost`` has the digests of what can't be: here, and by every
        change of the index and ``close``, until each was put again or deleted.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends the use of this engine, after ``sync``. Readers go on. A second close does nothing."""

    # What only makes some things quicker: an engine that can't do it says None.

    def start_reading(self, wanted: Sequence[tuple[str, int]]) -> Callable[[], Sequence[bytes | None]]:
        """Begins to read ``wanted``, pairs of digest and size in bytes. What is returned is called
        once, and gives the contents in their order, when they are there: each of that size, and
        verified. None for what is better read alone, be it large, or not there, or wrong:
        ``read_blob`` says which. ``walk`` and ``gc`` begin with some hundred documents at a time, and
        with the next hundred before they look at those."""
        return lambda: [None] * len(wanted)

    def claim_blobs(self, wanted: Sequence[tuple[str, int]], *, verify: bool = False) -> Iterable[bool]:
        """Which of ``wanted``, pairs of digest and size in bytes, needn't be copied here, in order:
        those that are stored, judged by their size and, with ``verify``, by their content. They count
        as put just now. False says nothing: ``put_copy`` finds out, which an engine may always leave
        it to. A copy of an image asks this before it opens a blob of its source."""
        return [False] * len(wanted)

    def get_blobs(self, digests: Iterable[str]) -> Iterator[BlobReader]:
        """``get_blob`` of many, in their order, perhaps some ahead of who takes them."""
        return map(self.get_blob, digests)

    def stat_blobs(self, digests: Iterable[str]) -> Iterator[BlobInfo]:
        """``stat_blob`` of many, in their order, perhaps several at once."""
        return map(self.stat_blob, digests)

    def check_blobs(
        self,
        digests: Iterable[Digest],
        *,
        quick: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[str] | None:
        """By what each of ``digests`` is found stored and right, in their order, so many at once:
        "digest"; with ``quick`` also "checksum", where the engine recorded one of the content
        when it was put, which finds bit rot and proves nothing. "" says nothing: that blob must be
        read by itself. None where the engine can't look at many at once. ``progress`` counts bytes.

        ``digests``, which are taken some thousands ahead, are all that are stored: what the engine has
        recorded of others it may drop."""
        return None

    # What gc and scrub need of an engine beyond the contract; one that lacks it has neither.

    def read_clock(self) -> int:
        """The time of the store's own clock in nanoseconds: what was put, deduped or changed before
        this call has an earlier ``StoredBlob.changed``, what is after it none earlier.

        UnsupportedError, like those after it, where the engine can't say.
        """
        raise _lacks(self, "read_clock")

    def scan_blobs(self, *, known: Container[str] = ()) -> Generator[StoredBlob, None, int]:
        """Everything that lies where blobs are kept, as a lazy generator of StoredBlob, in no order:
        blobs, and what is no blob by its name or kind. Opens none of it. Blobs whose digests are in
        ``known`` are left out, without a look at their sizes and times; how many these were is what it
        returns at its end."""
        raise _lacks(self, "scan_blobs")

    def announce_sweep(self) -> AbstractContextManager[object]:
        """A context in which ``sweep_blobs`` is called, perhaps several times: an engine without a lock
        tells other writers of it beforehand, and waits until they know."""
        return _NothingToSay()

    def sweep_blobs(
        self,
        digests: Sequence[Digest],
        *,
        index: Index,
        start: int,
        grace: int,
        progress: Progress | None = None,
    ) -> Swept:
        """Removes those of ``digests`` that are unused (``StoredBlob.is_unused``) in their turn,
        as long as the index is byte for byte ``index``; returns Swept(removed, left).

        Between that look at the index and the blob and the removal, no put that finds the blob stored
        and no change of the index may come: each either comes before, and is seen, or after. They wait
        for a few removals, never for all. The index survives power loss before the first one is
        made, unless ``durability`` is "none". ``progress`` counts the bytes removed.
        """
        raise _lacks(self, "sweep_blobs")

    def open_quarantine(self, directory: str) -> Callable[[Digest, Mapping[str, Any]], str | None]:
        """Makes ``directory`` of the local filesystem, if need be, and returns what moves damaged blobs
        there: ``move(digest, note)`` returns the blob's new path, beside which is ``note`` as JSON.

        It digests the blob once more; None where that is right, or has gone, by then. A put of this
        digest either comes before, and then the blob is right, or after, and stores it anew.
        InvalidError for a directory among the blobs.
        """
        raise _lacks(self, "open_quarantine")

    def __contains__(self, digest: object) -> bool:
        try:
            self.stat_blob(digest)  # type: ignore[arg-type]
        except (NotExistError, InvalidError) as error:
            if isinstance(error, NotExistError) or error.digest is not None:
                return False
            raise
        return True

    def __iter__(self) -> Iterator[Digest]:
        return self.list_blobs()

    # list(engine) asks for this first, and so lists twice: list(engine.list_blobs()) doesn't.
    def __len__(self) -> int:
        return sum(1 for _ in self.list_blobs())

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
