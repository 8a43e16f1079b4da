"""scrub: is everything that is stored what it is called, and is everything there that must be?

``verify_blobs`` is the part that takes long, and knows nothing of images: blobs in, verdicts out, in
any order.
"""

from __future__ import annotations

import errno
import os
import time
from collections import namedtuple
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice, tee
from typing import TYPE_CHECKING

from fastcas.digest import Digest
from fastcas.errors import (
    CorruptError,
    DigestMismatchError,
    InvalidError,
    NotExistError,
    UnknownAlgorithmError,
)
from fastcas.image.parse import children, is_document, read_fields
from fastcas.image.walk import NODE_LIMIT
from fastcas.results import Problem, ScrubReport

if TYPE_CHECKING:
    from typing import Any

    from fastcas.contract import Progress
    from fastcas.engine import Engine
    from fastcas.model import Index
    from fastcas.results import StoredBlob

__all__ = ["Verdict", "scrub", "verify_blobs"]

_STEP = 1 << 20

_WINDOW = 16384  # blobs

# What is missing counts when the index was the same before and after the look.
_ATTEMPTS = 20

_INDEX = "an entry of the index"

# What the system refuses for want of something of ours, not because of the file.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# Layers that aren't meant to be in a layout, by the end of their media type's name.
_ELSEWHERE = (".nondistributable.v1.tar", ".foreign.diff.tar")

_MESSAGES = {
    "bad-name": "this name among the blobs is no digest",
    "non-regular": "not a regular file, in the place of a blob",
}


class Verdict(namedtuple("Verdict", ("blob", "state", "detail"))):
    """What is to say of the content of a StoredBlob: ``state`` is "good"; "same", by a recorded
    checksum; "corrupt", "gone", "non-regular", "unreadable", or "unknown" where its algorithm can't be
    computed."""

    __slots__ = ()


def verify_blobs(
    engine: Engine,
    blobs: Iterable[StoredBlob],
    *,
    quick: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    total: int = 0,
) -> Iterator[Verdict]:
    """Digests each blob; yields a Verdict for each, in any order. ``progress`` counts the bytes of all,
    which are ``total``. ``quick``: a checksum that the engine has recorded does as well. ``blobs``,
    which are taken some thousands ahead, are all that are stored.

    An engine that can look at many at once looks at ``threads`` of them, by default as many as it finds
    right. What isn't found right that way, or by an engine that can't, is read by itself: that says
    what is wrong with it.
    """
    count = _Count(progress, total)
    ordered, asked = tee(_largest_first(blobs))
    digests = (blob.digest for blob in asked if blob.digest is not None)
    del asked  # who holds it keeps all that it hasn't seen
    found = engine.check_blobs(digests, quick=quick, threads=threads, progress=count.tell)
    del digests
    if found is None:
        done = 0
        for blob in ordered:
            yield _verify(engine, blob, done, count)
            done += blob.size
    else:
        for blob, means in zip(ordered, found, strict=True):
            if means:
                yield Verdict(blob, "good" if means == "digest" else "same", "")
            else:
                yield _verify(engine, blob, 0, None)
    count.tell(count.total, None)


def _largest_first(blobs: Iterable[StoredBlob]) -> Iterator[StoredBlob]:
    """The largest of some thousands first: then no thread begins with one when the others are about to
    end."""
    rest = iter(blobs)
    while window := list(islice(rest, _WINDOW)):
        window.sort(key=lambda blob: blob.size, reverse=True)
        yield from window


class _Count:
    """Progress that never goes back, nor beyond the total: what is wrong is read more than once, and a
    blob may have grown meanwhile."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.total = total
        self._progress = progress
        self._told = -1

    def tell(self, done: int, _: int | None) -> None:
        done = min(done, self.total)
        if self._progress is not None and done > self._told:
            self._told = done
            self._progress(done, self.total)


def _verify(engine: Engine, blob: StoredBlob, done: int, count: _Count | None) -> Verdict:
    assert blob.digest is not None
    try:
        with engine.get_blob(blob.digest) as reader:
            if count is None:
                reader.verify()
                return Verdict(blob, "good", "")
            piece = bytearray(min(_STEP, max(1, reader.size)))
            while size := reader.readinto(piece):
                done += size
                count.tell(done, None)
            return Verdict(blob, "good", "")
    except NotExistError:
        return Verdict(blob, "gone", "")
    except UnknownAlgorithmError:
        return Verdict(blob, "unknown", "")
    except DigestMismatchError as error:
        return Verdict(blob, "corrupt", f"its content ({blob.size} bytes) is {error.actual}")
    except CorruptError as error:
        return Verdict(blob, "corrupt", str(error))
    except InvalidError:
        return Verdict(blob, "non-regular", _MESSAGES["non-regular"])
    except OSError as error:
        if error.errno in _OURS:
            raise
        return Verdict(blob, "unreadable", f"it can't be read: {error.strerror}")


def scrub(
    engine: Engine,
    *,
    quick: bool = False,
    quarantine: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ScrubReport:
    """See ``Engine.scrub``."""
    if threads is not None and not (type(threads) is int and threads >= 1):
        raise InvalidError(f"threads must be an int of 1 or more, or None, not {threads!r}")
    move = None if quarantine is None else engine.open_quarantine(os.fsdecode(quarantine))
    wanted = _Wanted(engine, engine.get_index())
    problems = []
    present: set[str] = set()

    def look() -> Iterator[StoredBlob]:
        for found in engine.scan_blobs():
            if found.digest is not None and wanted.requires(found.digest):
                present.add(found.digest)
            if found.kind == "blob":
                yield found
            else:
                detail = _MESSAGES[found.kind]
                problems.append(Problem(found.digest, found.path, found.kind, detail))

    total = 0 if progress is None else _sum_sizes(engine)
    verdicts = verify_blobs(
        engine, look(), quick=quick, threads=threads, progress=progress, total=total
    )
    checked = same = read = 0
    announced = False
    with ExitStack() as sweeping:
        for verdict in verdicts:
            blob = verdict.blob
            problem = None
            if verdict.state in ("good", "same", "corrupt"):
                checked += 1
                same += verdict.state == "same"
                read += blob.size
            if verdict.state in ("corrupt", "non-regular", "unreadable"):
                problem = Problem(blob.digest, blob.path, verdict.state, verdict.detail)
            elif verdict.state != "gone":
                problem = wanted.size_problem(blob)
            if problem is None:
                continue
            if problem.kind == "corrupt" and move is not None:
                if not announced:  # one sweep for all, and none where nothing is damaged
                    sweeping.enter_context(engine.announce_sweep())
                    announced = True
                moved = move(blob.digest, _note(problem))
                if moved is not None:
                    problem = problem._replace(detail=f"{problem.detail}; moved to {moved}")
            problems.append(problem)
    problems += wanted.missing(present)
    return ScrubReport(checked, read, problems, by_checksum=same)


def _sum_sizes(engine: Engine) -> int:
    return sum(found.size for found in engine.scan_blobs() if found.kind == "blob")


def _note(problem: Problem) -> dict[str, Any]:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {**problem._asdict(), "time": when}


class _Wanted:
    """What the index leads to: the sizes that descriptors give, and which of it must be stored.

    Reads what it can: a document that is damaged is found by its digest, and leads nowhere.
    """

    def __init__(self, engine: Engine, index: Index) -> None:
        self._engine = engine
        self._look(index)

    def _look(self, index: Index) -> None:
        self._index = index
        #: By digest, the sizes that it must have, with the words for who says so.
        self._sizes: dict[str, dict[int, str]] = {}
        self._required: dict[str, tuple[str, str]] = {}  # kind and detail, where it isn't stored
        opened: set[tuple[str, str]] = set()
        weak: list[tuple[Any, str]] = []
        entries = [(entry, _INDEX) for entry in reversed(index.manifests)]
        self._follow(entries, weak, opened, required=True)
        # A subject need not be stored, and nothing that only it leads to.
        self._follow(weak, weak, opened, required=False)

    def _follow(
        self,
        stack: list[tuple[Any, str]],
        weak: list[tuple[Any, str]],
        opened: set[tuple[str, str]],
        *,
        required: bool,
    ) -> None:
        while stack:
            link, origin = stack.pop()
            digest = link.digest
            self._sizes.setdefault(digest, {}).setdefault(link.size, origin)
            if required and not _is_elsewhere(link) and digest not in self._required:
                kind = "dangling" if origin is _INDEX else "missing"
                self._required[digest] = kind, f"{origin} names it, and it isn't stored"
            key = digest, link.media_type
            if key in opened or not is_document(link.media_type):
                continue
            opened.add(key)
            if len(self._sizes) + len(stack) > NODE_LIMIT:
                raise InvalidError(f"the graph has more than {NODE_LIMIT} descriptors")
            try:
                document = read_fields(self._engine, link)
            except (NotExistError, InvalidError, UnknownAlgorithmError):
                continue
            except OSError as error:
                if error.errno in _OURS:
                    raise
                continue
            found = [(child, digest) for child in children(document)]
            if found and getattr(document, "subject", None) is found[-1][0]:
                weak.append(found.pop())
            stack += reversed(found)

    def size_problem(self, blob: StoredBlob) -> Problem | None:
        for size, origin in self._sizes.get(blob.digest or "", {}).items():
            if size != blob.size:
                detail = f"{blob.size} bytes are stored, {origin} says {size}"
                return Problem(blob.digest, blob.path, "wrong-size", detail)
        return None

    def requires(self, digest: Digest) -> bool:
        """Whether a blob must be stored, as far as the index was read."""
        return digest in self._required

    def missing(self, present: Container[str]) -> list[Problem]:
        """What isn't stored and must be, while the index is the same before and after the look.
        ``present``: what was seen of what is required."""
        for _ in range(_ATTEMPTS):
            problems = [
                Problem(Digest(digest), path, kind, detail)
                for digest, (kind, detail) in self._required.items()
                if digest not in present and (path := self._absent(digest)) is not None
            ]
            if not problems:
                break
            index = self._engine.get_index()
            if index.to_json() == self._index.to_json():
                break
            self._look(index)
        return problems

    def _absent(self, digest: str) -> str | None:
        """Where a blob would be that isn't stored."""
        try:
            self._engine.stat_blob(digest)
        except NotExistError as error:
            return os.fsdecode(error.path or "")
        except InvalidError:
            pass  # something else is there: the next scrub finds it
        return None


def _is_elsewhere(link: Any) -> bool:
    """Whether its content comes from elsewhere than the layout's blobs."""
    if isinstance(link.data, bytes) or link.urls:  # b"" is content as well
        return True
    return any(part in link.media_type for part in _ELSEWHERE)
