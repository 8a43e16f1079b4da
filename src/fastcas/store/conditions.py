"""Whether a server keeps the conditions of a write, without which an index update may be lost.

Before the first change of an index an engine looks what is known of its server: a note in the bucket,
``.fastcas/conditions.json``. Where there is none it tries, one after the other, what must be refused;
``fastcas.probe`` also tries who wins where many ask at once, and writes the note. What only a race
shows such a trial can't disprove: what was noted as wrong stays so until a probe finds it right, by
whichever of its names the server is called.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from fastcas.errors import UnsupportedError
from fastcas.store.bucket import NONCE, Bucket, Lost, Missing
from fastcas.store.location import find_endpoint, normalise
from fastcas.store.sweep import OURS

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOTE = f"{OURS}/conditions.json"
_TRIALS = f"{OURS}/probe"

RACERS = 16
ROUNDS = 8
STEPS = 25


class Finding(NamedTuple):
    """One thing that was tried: what, whether it is as it must be, and if not, what was seen."""

    name: str
    right: bool
    detail: str


def _find(name: str, right: bool, detail: str) -> Finding:
    return Finding(name, right, "" if right else detail)


class Conditions:
    """What is known of the conditions of one bucket's server."""

    def __init__(self, bucket: Bucket, config: Mapping[str, Any], *, unsafe: bool) -> None:
        self._bucket = bucket
        self._server = normalise(find_endpoint(bucket.location, config) or bucket.location.scheme)
        self._known = unsafe
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises UnsupportedError where the server was seen to break a condition."""
        if self._known:
            return
        with self._lock:
            if self._known:
                return
            wrong, version = self._read_note()
            if wrong is None:
                findings = try_conditions(self._bucket)
                wrong = describe(findings)
                try:
                    self.write_note(findings, mode=version)
                except Lost:  # somebody has noted something meanwhile
                    wrong = wrong or self._read_note()[0]
            if wrong:
                raise UnsupportedError(
                    f"{self._bucket.location}: index updates may get lost on this server: {wrong}; "
                    "'fastcas probe' says more, config={'unsafe_index': True} goes on all the same",
                    path=str(self._bucket.location),
                )
            self._known = True

    def _read_note(self) -> tuple[str | None, Any]:
        """What was found wrong, "" for nothing, None where nothing is known of this server; and the
        mode of a write that replaces no other note."""
        try:
            raw, found = self._bucket.read(_NOTE)
        except Missing:
            return None, "create"
        version = version_of(found.meta) or "overwrite"  # without an etag the trial refuses the server
        try:
            note = json.loads(raw)
            wrong, server = str(note["wrong"]), normalise(str(note["server"]))
        except (ValueError, TypeError, KeyError):
            return None, version
        return (wrong if wrong or server == self._server else None), version

    def write_note(self, findings: list[Finding], *, mode: Any = "overwrite") -> None:
        note = {"server": self._server, "wrong": describe(findings)}
        self._bucket.put(_NOTE, json.dumps(note).encode() + b"\n", mode=mode)


def describe(findings: list[Finding]) -> str:
    """What isn't as it must be, in one sentence; "" where all is."""
    return "; ".join(f"{one.name}: {one.detail}" for one in findings if not one.right)


def try_all(bucket: Bucket, config: Mapping[str, Any]) -> list[Finding]:
    """Tries the conditions one by one and in races, and notes in the bucket what came of it."""
    findings = try_conditions(bucket)
    if not describe(findings):
        findings += [race_to_create(bucket), race_to_change(bucket)]
    Conditions(bucket, config, unsafe=True).write_note(findings)
    return findings


def try_conditions(bucket: Bucket) -> list[Finding]:
    """What must be refused, and what must not, without anybody beside."""
    key = f"{_TRIALS}/{os.urandom(8).hex()}"
    try:
        _is_refused(bucket, key, b"1", "create", nonce="one")
        again = _is_refused(bucket, key, b"2", "create")
        found = bucket.get_written(key)
        nonce = found.attributes.get(NONCE)
        version = version_of(found.meta)
        findings = [
            _find("create-only", again, "an object that is there was replaced"),
            _find("metadata", nonce == "one", f"{NONCE} came back as {nonce!r}"),
            _find("etag", bool(version), "the server gives none"),
        ]
        if version:
            changed = not _is_refused(bucket, key, b"3", version)
            stale = _is_refused(bucket, key, b"4", version)
            read = bucket.read_body(key, bucket.get_written(key))
            findings += [
                _find("if-match", changed, "a write was refused though the object was the same"),
                _find("stale if-match", stale, "a write onto a changed object was accepted"),
                _find("read after write", read == b"3", f"{read[:9]!r} was read instead of b'3'"),
            ]
        return findings
    finally:
        bucket.discard(key)


def version_of(meta: Mapping[str, Any]) -> dict[str, str]:
    """What a conditional write of obstore must find."""
    return {key: meta[key] for key in ("e_tag", "version") if meta.get(key) is not None}


def _is_refused(bucket: Bucket, key: str, content: bytes, mode: Any, nonce: str | None = None) -> bool:
    nonce = nonce or os.urandom(8).hex()
    return bucket.put_if(key, content, mode=mode, nonce=nonce) is not None


def race_to_create(bucket: Bucket) -> Finding:
    """Of many who create one object, one wins; some rounds of it."""
    worst = 1
    with ThreadPoolExecutor(RACERS) as pool:
        for _ in range(ROUNDS):
            key = f"{_TRIALS}/{os.urandom(8).hex()}"
            start = threading.Barrier(RACERS)

            def create(number: int, key: str = key, start: threading.Barrier = start) -> bool:
                start.wait()
                return not _is_refused(bucket, key, b"%d" % number, "create")

            try:
                won = sum(pool.map(create, range(RACERS)))
            finally:
                bucket.discard(key)
            if won != 1:
                worst = won
    return _find(
        "create-only, raced", worst == 1, f"{worst} of {RACERS} writers were told that they created it"
    )


def race_to_change(bucket: Bucket) -> Finding:
    """Many count in one object by compare-and-swap; none of their steps may be lost."""
    key = f"{_TRIALS}/{os.urandom(8).hex()}"
    wanted = RACERS * STEPS
    bucket.put(key, b"0")

    def count(_: int) -> None:
        done = 0
        for _ in range(2 * wanted):  # each refusal is another's step
            found = bucket.get_written(key)
            value = int(bucket.read_body(key, found))
            try:
                bucket.put(key, b"%d" % (value + 1), mode=version_of(found.meta))
            except Lost:
                continue
            done += 1
            if done == STEPS:
                return

    try:
        with ThreadPoolExecutor(RACERS) as pool:
            list(pool.map(count, range(RACERS)))
        counted = int(bucket.read_body(key, bucket.get_written(key)))
    finally:
        bucket.discard(key)
    # One whose reply got lost is made twice.
    return _find("if-match, raced", counted >= wanted, f"{counted} of {wanted} changes are in it")
