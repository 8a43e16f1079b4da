"""What stands for a lock between those who put and those who remove: marks, and announced sweeps.

A sweep announces itself by a key below ``.fastcas/gc/`` and waits until every writer has seen that, or
hasn't and needn't: a writer looks at that folder again when its last look is older than ``LOOK_AGAIN``.
Then it goes on in steps. Of each it first says what it is about to remove, in a key of its own; then it
looks at each blob and its mark, and last at the index; then it removes.

A writer looks at the folder, then stores its blob, or, where it finds it stored, marks it as used (an
empty object below ``.fastcas/used/``). If no sweep was there, and that is no longer ago than ``QUIET``,
no step can have begun meanwhile, and each that comes will see what was written. Else the writer waits
for the end of a step that has the blob, and looks whether it is still there: a step may also have ended
before it looked, and have seen the blob before it was put.

All times that are compared are the server's.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastcas.digest import Digest
from fastcas.errors import InvalidError, NotExistError
from fastcas.layout import BLOBS
from fastcas.results import BlobInfo, StoredBlob, Swept
from fastcas.store.bucket import Missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fastcas.contract import Progress
    from fastcas.store.bucket import Bucket, Meta

OURS = ".fastcas"
_SWEEPS = f"{OURS}/gc"
_MARKS = f"{OURS}/used"
_CLOCK = f"{OURS}/clock"

#: How old a writer's knowledge of sweeps may be, in seconds; and how long a sweep waits after it was
#: announced.
LOOK_AGAIN = 2.0
WAIT = 3.0
#: So long after a look that saw no sweep, none is at a step.
QUIET = 2.5

#: So many blobs are removed in one step.
_STEP = 1000
# A sweep that has taken so long for one step doesn't remove any more; one that is at it for longer is
# dead.
_STEP_SECONDS = 60.0
_DEAD = 600 * 1_000_000_000  # nanoseconds

# For so long an announcement stands: ``clean`` takes what is older than an hour.
_ANNOUNCED = 1800.0

_POLL = 0.1
_SECOND = 1_000_000_000


def _now() -> float:
    """In seconds; goes on while the machine is suspended, since other machines do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def nanoseconds(meta: Meta) -> int:
    """When an object was written last, by the server's clock."""
    when = meta["last_modified"]
    return int(when.timestamp()) * _SECOND + int(when.microsecond) * 1000


def key_of(digest: str) -> str:
    """The key of a blob in its layout."""
    return f"{BLOBS}/{digest.replace(':', '/', 1)}"


def mark_key(digest: str) -> str:
    return f"{_MARKS}/{digest.replace(':', '/', 1)}"


class Clock:
    """The server's clock, which is asked by writing something and looking when that was."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def now(self) -> int:
        """The time in nanoseconds, as exact as the server tells it: many tell seconds."""
        key = f"{_CLOCK}/{os.urandom(8).hex()}"
        self._bucket.put(key, b"")
        try:
            return nanoseconds(self._bucket.head(key))
        except Missing as error:
            raise self._bucket.refused(error, key) from None
        finally:
            self._bucket.discard(key)

    def tick(self) -> int:
        """The time, once it has advanced: what was written before this call has an earlier one."""
        called = self.now()
        while (now := self.now()) <= called:
            time.sleep(_POLL)
        return now


class Sweeps:
    """The sweeps of a bucket, as writers see them."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._clock = Clock(bucket)
        self._turn = threading.Lock()
        self._looked = -LOOK_AGAIN
        self._seen = False

    def mark(self, digest: Digest) -> None:
        """Says that the blob is used, as of now."""
        self._bucket.put(mark_key(digest), b"")

    def quiet_until(self) -> float:
        """To be asked before something is put or marked: by this module's clock, until when no sweep
        can be at a step."""
        with self._turn:  # one looks for all
            now = _now()  # the look is as old as its beginning
            if now - self._looked >= LOOK_AGAIN:
                self._seen = next(self._bucket.list(_SWEEPS), None) is not None
                self._looked = now
            return -math.inf if self._seen else self._looked + QUIET

    def settle(self, digest: Digest, quiet_until: float) -> bool:
        """To be asked afterwards. Whether no sweep can have been at a step since ``quiet_until`` was
        asked for. If not, the blob may have gone; but from now on none takes it, after waiting for one
        that was about to."""
        if _now() < quiet_until:
            return True
        while self._is_in_a_step(digest):
            time.sleep(_POLL)
        return False

    def watch(self, digests: Iterable[Digest], quiet_until: float) -> list[Digest]:
        """To be asked before an index is written that names these: those for ``check_named``. Where a
        sweep is there, they are what is stored: an index may also name what isn't."""
        if quiet_until > -math.inf:
            return list(digests)

        def find(digest: Digest) -> Digest | None:
            try:
                self._bucket.head(key_of(digest))
            except Missing:
                return None
            return digest

        return [digest for digest in self._bucket.map(find, digests) if digest is not None]

    def check_named(self, digests: Iterable[Digest], quiet_until: float) -> None:
        """Raises NotExistError where a sweep has taken one of these that the index names since a moment
        ago: it was used longer ago than the sweep's grace, and the sweep looked at the index before."""
        for digest in digests:
            if not self.settle(digest, quiet_until) and last_use(self._bucket, digest) is None:
                url = self._bucket.location.join(key_of(digest))
                message = (
                    f"{digest} was removed by a gc while it got its name in the index: put it again"
                )
                raise NotExistError(message, digest=digest, path=url)

    def _is_in_a_step(self, digest: Digest) -> bool:
        for page in self._bucket.list(_SWEEPS):
            for meta in page:
                if not meta["path"].endswith("/step"):
                    continue
                try:
                    raw, _ = self._bucket.read(meta["path"])
                except Missing:
                    continue  # it has ended
                if digest in _digests_in(raw) and self._clock.now() - nanoseconds(meta) < _DEAD:
                    return True
        return False


def _digests_in(raw: bytes) -> list[str]:
    try:
        found = json.loads(raw)["digests"]
        return [str(digest) for digest in found]
    except (ValueError, TypeError, KeyError):
        return []


class Sweep:
    """One sweep, announced: what it removes, it removes in steps that writers can see."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.is_announced = False
        self._until = 0.0
        self._id = f"{_SWEEPS}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(8).hex()}"

    def __enter__(self) -> Sweep:
        self._until = _now() + _ANNOUNCED
        try:
            self._bucket.put(f"{self._id}/announced", b"")
            time.sleep(WAIT)
        except BaseException:
            self.__exit__()
            raise
        self.is_announced = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_announced = False
        self._bucket.delete([f"{self._id}/announced"])

    @contextmanager
    def step(self, digests: Sequence[str]) -> Iterator[Callable[[], bool]]:
        """Tells what is about to be removed; what it gives says whether there is still time for it."""
        if _now() > self._until:
            self.__enter__()
        until = _now() + _STEP_SECONDS
        key = f"{self._id}/step"
        self._bucket.put(key, json.dumps({"digests": list(digests)}).encode())
        try:
            yield lambda: _now() < until
        finally:
            self._bucket.delete([key])

    def run(
        self,
        digests: Sequence[Digest],
        *,
        is_index: Callable[[], bool],
        start: int,
        grace: int,
        progress: Progress | None,
    ) -> Swept:
        """See ``Engine.sweep_blobs``. ``is_index()`` says whether the index is what it must be."""
        removed: list[BlobInfo] = []
        freed = 0

        def look(digest: Digest) -> BlobInfo | None:
            found = last_use(self._bucket, digest)
            if found is None or not found.is_unused(start, grace):
                return None
            return BlobInfo(digest, found.size)

        for position in range(0, len(digests), _STEP):
            group = digests[position : position + _STEP]
            with self.step(group) as in_time:
                unused = [blob for blob in self._bucket.map(look, group) if blob is not None]
                # Last, since an entry can have come while these were looked at.
                if not is_index() or not in_time():
                    return Swept(removed, list(digests[position:]))
                keys = [key_of(blob.digest) for blob in unused]
                self._bucket.delete(keys)
                self._bucket.delete([mark_key(blob.digest) for blob in unused])
            removed += unused
            freed += sum(blob.size for blob in unused)
            if progress is not None:
                progress(freed, None)
        return Swept(removed, [])


def last_use(bucket: Bucket, digest: Digest) -> StoredBlob | None:
    """A stored blob with the time of its last put, be it a mark; None where it isn't stored."""
    key = key_of(digest)
    try:
        meta = bucket.head(key)
    except Missing:
        return None
    when = nanoseconds(meta)
    try:
        when = max(when, nanoseconds(bucket.head(mark_key(digest))))
    except Missing:
        pass
    return StoredBlob("", digest, meta["size"], when, when, "blob")


def read_marks(bucket: Bucket) -> dict[Digest, int]:
    """When each blob that was found stored by a put was so last."""
    marks: dict[Digest, int] = {}
    for page in bucket.list(_MARKS):
        for meta in page:
            try:
                digest = Digest(meta["path"][len(_MARKS) + 1 :].replace("/", ":", 1))
            except InvalidError:
                continue
            marks[digest] = nanoseconds(meta)
    return marks
