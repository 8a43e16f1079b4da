"""index.json as an object: read whole, replaced whole, changed by compare-and-swap.

A reply can get lost after the server has written: the request is then made again by the client below
us, and refused, since the index isn't what it was: it is ours. So each write carries a nonce as
metadata of the object, and after every failure the index is read again: a nonce of ours says that it
was written.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from fastcas.digest import Digest
from fastcas.errors import InvalidError
from fastcas.jsonstyle import compact
from fastcas.layout import INDEX_FILE
from fastcas.model import INDEX_LIMIT, Index
from fastcas.store.bucket import NONCE, Lost, Missing
from fastcas.store.conditions import version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastcas.store.bucket import Bucket
    from fastcas.store.conditions import Conditions
    from fastcas.store.sweep import Sweeps

# A change is tried until nothing has come of it for so long.
_PATIENCE = 120.0  # seconds
# After each refusal a pause of random length, on average twice as long each time.
_PAUSE = 0.005
_LONGEST_PAUSE = 1.0
# How often an error of the server, not a refusal, is met before it is raised.
_ERRORS = 3


class IndexObject:
    """The index of a bucket's layout."""

    def __init__(self, bucket: Bucket, conditions: Conditions, sweeps: Sweeps) -> None:
        self._bucket = bucket
        self._conditions = conditions
        self._sweeps = sweeps
        self._turn = threading.Lock()  # threads of one engine needn't outrun each other
        self._known: Index | None = None
        self._updating: int | None = None

    def read(self) -> Index:
        """The index as it is. InvalidError where it is missing, ambiguous, oversized or no index."""
        return self._read()[0]

    def read_raw(self) -> bytes:
        """Its bytes, b"" where it is missing."""
        try:
            return self._bucket.read(INDEX_FILE)[0]
        except Missing:
            return b""

    def _read(self) -> tuple[Index, dict[str, str], str | None]:
        """The index, what a write of it must find, and the nonce of who wrote it."""
        path = self._bucket.location.join(INDEX_FILE)
        try:
            found = self._bucket.get(INDEX_FILE)
        except Missing:
            raise InvalidError(f"{path}: no index", path=path) from None
        meta = found.meta
        if meta["size"] > INDEX_LIMIT:
            message = f"{path} has {meta['size']} bytes, more than the limit of {INDEX_LIMIT}"
            raise InvalidError(message, path=path)
        raw = self._bucket.read_body(INDEX_FILE, found)
        known = self._known
        if known is None or known.to_json() != raw:
            try:
                known = Index.from_json(raw)
            except InvalidError as error:
                error.path = path
                raise
            self._known = known
        return known, version_of(meta), found.attributes.get(NONCE)

    def replace(self, index: Index) -> None:
        """Puts ``index`` in the place of the one that is there, whichever that is."""
        raw = _encode(index)
        self._check_turn()
        self._conditions.check()
        self._bucket.put(INDEX_FILE, raw, nonce=os.urandom(16).hex())

    def update(self, function: Callable[[Index], Index | None]) -> Index:
        """Calls ``function`` and writes what it returns, if the index is still what it was given."""
        self._bucket.check_open()
        self._check_turn()
        with self._turn:
            self._updating = threading.get_ident()
            try:
                return self._update(function)
            finally:
                self._updating = None

    def _check_turn(self) -> None:
        if self._updating == threading.get_ident():
            raise InvalidError("the index can't be changed by the function that changes it")

    def _update(self, function: Callable[[Index], Index | None]) -> Index:
        # By nonce, what may have been written, if a reply was lost; what it names anew; and when.
        written: dict[str, tuple[Index, list[Digest], float]] = {}
        failure: OSError | None = None
        errors = tries = 0
        until = time.monotonic() + _PATIENCE
        while True:
            before, version, nonce = self._read()
            if nonce in written:
                return self._end(*written[nonce])
            if failure is not None and errors == _ERRORS:
                raise failure
            if time.monotonic() > until:
                path = self._bucket.location.join(INDEX_FILE)
                message = f"{path} was changed each time before it could be replaced"
                raise InvalidError(message, path=path)
            after = function(before)
            if after is None:
                return before
            raw = _encode(after)
            self._conditions.check()
            tries += 1
            nonce = os.urandom(16).hex()
            quiet_until = self._sweeps.quiet_until()
            watched = self._sweeps.watch(_new_in(after, before), quiet_until)
            written[nonce] = (after, watched, quiet_until)
            try:
                self._bucket.put(INDEX_FILE, raw, mode=version, nonce=nonce)
            except Lost:
                failure = None
                errors = 0
            except OSError as error:
                failure = error
                errors += 1
            else:
                self._known = Index.from_json(raw)
                return self._end(self._known, watched, quiet_until)
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE, _PAUSE * 2 ** min(tries, 10))))

    def _end(self, after: Index, watched: list[Digest], quiet_until: float) -> Index:
        """``after``, which was written, unless a sweep took meanwhile what is new in it."""
        self._sweeps.check_named(watched, quiet_until)
        return after


def _new_in(after: Index, before: Index) -> set[Digest]:
    """What is named now and wasn't; without what is embedded, which needn't be stored."""
    known = {entry.digest for entry in before.manifests}
    return {
        Digest(entry.digest)
        for entry in after.manifests
        if entry.data is None and entry.digest not in known
    }


def _encode(index: Any) -> bytes:
    """The bytes of an index, which can be read again; compact, where it was changed."""
    if not isinstance(index, Index):
        raise TypeError(f"an index must be a fastcas.Index, not {type(index).__name__}")
    raw = index.to_json()
    if index.raw is None:
        raw = compact(raw)
    Index.from_json(raw)
    return raw
