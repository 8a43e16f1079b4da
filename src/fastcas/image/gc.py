"""gc: mark what the index leads to, list what is old and unmarked, sweep it while the index holds.

The mark takes no lock, however long it is. The engine's sweep looks at the index again each time that
it has the lock; where it changed, what is new in it is marked, which is little, and the sweep goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from fastcas.errors import InvalidError
from fastcas.image.parse import children
from fastcas.image.walk import mark
from fastcas.results import BlobInfo, GCReport

if TYPE_CHECKING:
    from fastcas.contract import Progress
    from fastcas.engine import Engine
    from fastcas.image.parse import Link
    from fastcas.image.walk import Marked
    from fastcas.model import Descriptor, Index
    from fastcas.results import StoredBlob

__all__ = ["Policy", "collect", "preview"]

Policy = Callable[[BlobInfo], bool]

#: How often what is new in the index is marked before the rest is left to the next gc.
ATTEMPTS = 1000

_SECOND = 1_000_000_000


def collect(
    engine: Engine,
    *,
    dry_run: bool = False,
    grace: float = 3600,
    keep: Iterable[Policy] = (),
    progress: Progress | None = None,
) -> GCReport:
    """See ``Engine.gc``."""
    nanoseconds = _check_grace(grace)
    policies = _check_policies(keep)
    start = engine.read_clock()
    index = engine.get_index()
    marked = mark(engine, _roots(index))
    planned, stored = _plan(engine, marked, policies, start, nanoseconds)
    if dry_run:
        return GCReport(planned, _sum(planned), stored - len(planned), True)
    deleted = _sweep(engine, index, marked, planned, start, nanoseconds, progress)
    engine.clean()
    return GCReport(deleted, _sum(deleted), stored - len(deleted), False)


def preview(engine: Engine, entries: Iterable[Descriptor], *, grace: float = 3600) -> GCReport:
    """What ``Engine.gc`` would remove if the index had only ``entries``, as of a dry run."""
    nanoseconds = _check_grace(grace)
    start = engine.read_clock()
    planned, stored = _plan(engine, mark(engine, entries), [], start, nanoseconds)
    return GCReport(planned, _sum(planned), stored - len(planned), True)


def _roots(index: Index) -> list[Link]:
    return children(index._fields)  # without a value for each of many entries


def _plan(
    engine: Engine, marked: Marked, policies: list[Policy], start: int, grace: int
) -> tuple[list[BlobInfo], int]:
    """What would go, and the number of all stored blobs."""
    planned = []
    stored = 0

    def look() -> Iterator[StoredBlob]:
        """What isn't marked: a look at each blob is what costs most here, and most are."""
        nonlocal stored
        left_out = yield from engine.scan_blobs(known=marked.digests)
        stored += left_out

    for found in look():
        if found.kind != "blob" or found.digest is None:
            continue
        stored += 1
        if not found.is_unused(start, grace):
            continue
        blob = BlobInfo(found.digest, found.size)
        if not (policies and _is_kept(blob, policies)):
            planned.append(blob)
    return planned, stored


def _is_kept(blob: BlobInfo, policies: list[Policy]) -> bool:
    for policy in policies:
        kept = policy(blob)
        if kept is True:
            return True
        if kept is not False:  # a policy that forgets to return would have everything deleted
            raise TypeError(f"a policy must return True (keep) or False, not {kept!r}"[:200])
    return False


def _sweep(
    engine: Engine,
    index: Index,
    marked: Marked,
    planned: list[BlobInfo],
    start: int,
    grace: int,
    progress: Progress | None,
) -> list[BlobInfo]:
    deleted: list[BlobInfo] = []
    total = _sum(planned)
    left = [blob.digest for blob in planned]
    planned.clear()  # what is deleted is listed as it goes
    if not left:
        return deleted
    with engine.announce_sweep():
        for _ in range(ATTEMPTS):
            before = _sum(deleted)
            swept = engine.sweep_blobs(
                left,
                index=index,
                start=start,
                grace=grace,
                progress=None if progress is None else _shift(progress, before, total),
            )
            deleted += swept.removed
            if not swept.left:
                break
            index = engine.get_index()
            mark(engine, _roots(index), marked)
            left = [digest for digest in swept.left if digest not in marked]
            if not left:
                break
    return deleted


def _shift(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _sum(blobs: Iterable[BlobInfo]) -> int:
    return sum(blob.size for blob in blobs)


def _check_grace(grace: float) -> int:
    if isinstance(grace, bool) or not isinstance(grace, (int, float)):
        raise InvalidError(f"grace must be a number of seconds, not {type(grace).__name__}")
    if not (math.isfinite(grace) and grace >= 0):
        raise InvalidError(f"grace must be 0 seconds or more, not {grace!r}")
    return math.ceil(grace * _SECOND)


def _check_policies(keep: Iterable[Policy]) -> list[Policy]:
    if callable(keep):
        raise TypeError("keep must be a series of policies, not one")
    policies = list(keep)
    for policy in policies:
        if not callable(policy):
            raise TypeError(f"a policy must be callable, not {type(policy).__name__}")
    return policies
