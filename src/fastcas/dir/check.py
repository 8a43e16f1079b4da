"""check: which blobs are what they are called, many at once."""

from __future__ import annotations

from itertools import islice

from fastcas import _core
from fastcas.digest import COMPUTABLE
from fastcas.dir.checksums import RECORDED_ABOVE
from fastcas.errors import InvalidError
from fastcas.layout import BLOBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from fastcas.contract import Progress
    from fastcas.digest import Digest
    from fastcas.dir.checksums import Checksums
    from fastcas.dir.root import Root

_GROUP = 4096  # blobs


class Check:
    """One look at the content of many blobs. What wasn't in the page cache isn't there afterwards."""

    def __init__(
        self, root: Root, checksums: Checksums, threads: int, progress: Progress | None
    ) -> None:
        self._root = root
        self._checksums = checksums
        self._threads = threads
        self._progress = progress
        self._done = 0  # bytes

    def run(self, digests: Iterable[Digest], *, quick: bool) -> Iterator[str]:
        """See ``Engine.check_blobs``. Records the checksums of what it digests, where they aren't
        recorded or are wrong; then, unless ``quick``, drops what is recorded of others."""
        records, _ = self._checksums.read()
        stored: set[Digest] = set()  # of what is recorded
        rest = iter(digests)
        while group := list(islice(rest, _GROUP)):
            means: dict[Digest, str] = {}
            if quick:
                self._compare([digest for digest in group if digest in records], records, means)
            new = self._digest([digest for digest in group if digest not in means], records, means)
            self._checksums.add(new)
            records.update(new)
            stored.update(digest for digest in group if digest in records)
            yield from (means.get(digest, "") for digest in group)
        if not quick:
            right: dict[str, str] = {digest: records[digest] for digest in stored}
            if self._checksums.read(right) != (right, len(right)):
                self._checksums.replace(right)

    def _compare(
        self, digests: list[Digest], records: dict[str, str], means: dict[Digest, str]
    ) -> None:
        for digest, result in self._run(digests, _core.CHECKSUM):
            if result[0] == records[digest]:
                means[digest] = "checksum"

    def _digest(
        self, digests: list[Digest], records: dict[str, str], means: dict[Digest, str]
    ) -> dict[str, str]:
        """Returns the checksums that are to be recorded."""
        new: dict[str, str] = {}
        for algorithm in COMPUTABLE:
            chosen = [digest for digest in digests if digest.algorithm == algorithm]
            for digest, (encoded, size, checksum) in self._run(chosen, algorithm, checksums=True):
                if encoded != digest.encoded:
                    continue
                means[digest] = "digest"
                if size > RECORDED_ABOVE and checksum not in (None, records.get(digest)):
                    new[digest] = checksum
        return new

    def _run(
        self, digests: list[Digest], algorithm: str, *, checksums: bool = False
    ) -> Iterator[tuple[Digest, Any]]:
        """What ``_core.digest_many`` says of those that can be read."""
        if not digests:
            return
        before = self._done
        if checksums and len(digests) == 1:
            yield from self._run_alone(digests[0], self._watch(before))
            return
        with self._root.held() as fd:
            found = _core.digest_many(
                [(fd, f"{BLOBS}/{digest.replace(':', '/', 1)}".encode()) for digest in digests],
                algorithm,
                threads=self._threads,
                failures=True,
                checksums=checksums,
                progress=self._watch(before),
            )
        for digest, result in zip(digests, found, strict=True):
            if isinstance(result, tuple):
                yield digest, result

    def _run_alone(self, digest: Digest, progress: Progress) -> Iterator[tuple[Digest, Any]]:
        """The same of a blob that shares the machine with no other: it is read while it is hashed."""
        sink = None
        try:
            file, size = self._root.open_regular(f"{BLOBS}/{digest.replace(':', '/', 1)}")
            with file as fd:
                sink = _core.Sink(-1, digest.algorithm, expected=size, checksum=True, progress=progress)
                sink.copy_from_fd(fd)
                encoded, size = sink.finish()
        except (OSError, InvalidError):
            return
        finally:
            if sink is not None:
                sink.abort()
        yield digest, (encoded, size, sink.checksum)

    def _watch(self, before: int) -> Callable[[int, int | None], None]:
        def watch(count: int, _: int | None) -> None:
            self._done = before + count
            if self._progress is not None:
                self._progress(self._done, None)

        return watch
