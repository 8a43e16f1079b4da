"""A whole store: every blob digested, or compared with the checksums that were recorded of them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import bed
import fastcas
from fastcas import _core
from groups import Context, Group, Row, System, expect
from peers.program import Program

BLOBS = 16
THREADS = (1, 2)


def scrub(context: Context) -> Iterator[Group]:
    """Hot and cold, on one thread and on two, of blobs that the peers read one after the other."""
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    step = len(context.content) // BLOBS
    pieces = [context.content[at : at + step] for at in range(0, BLOBS * step, step)]
    digests = [result.digest for result in cas.put_blobs(pieces)]
    size = BLOBS * step
    # What put_blobs recorded, and what it didn't.
    expect(cas.scrub(quick=True), (BLOBS, size, []))
    expect(cas.scrub(quick=True).by_checksum, BLOBS)
    bed.settle(context.base)
    paths = [bed.blob_path(root, digest) for digest in digests]
    states = ("hot",) if context.filesystem == "tmpfs" else ("hot", "cold")

    def prepared(state: str, run: System) -> System:
        def prepare() -> float:
            for path in paths:
                with path.open("rb") as file:
                    if state == "cold":
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    else:
                        while file.read(bed.MIB):
                            pass
            return run()

        return prepare

    def ours(quick: bool, threads: int) -> System:
        def run() -> float:
            started = time.perf_counter()
            report = cas.scrub(quick=quick, threads=threads)
            elapsed = time.perf_counter() - started
            expect((report, report.by_checksum), ((BLOBS, size, []), BLOBS if quick else 0))
            return elapsed

        return run

    def libcrypto(threads: int) -> System:
        def run() -> float:
            with _directory(root) as directory:
                items = [(directory, digest[7:].encode()) for digest in digests]
                started = time.perf_counter()
                found = _core.digest_many(items, "sha256", threads=threads, kernel="libcrypto")
                elapsed = time.perf_counter() - started
            expect([encoded for encoded, _ in found], [digest[7:] for digest in digests])
            return elapsed

        return run

    def read(threads: int) -> System:
        """Nothing but read(2), 1 MiB at once."""

        def part(mine: list[Path]) -> None:
            buffer = bytearray(bed.MIB)
            for path in mine:
                with path.open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass

        def run() -> float:
            others = [Thread(target=part, args=(paths[n::threads],)) for n in range(threads)]
            started = time.perf_counter()
            for other in others:
                other.start()
            for other in others:
                other.join()
            return time.perf_counter() - started

        return run

    listing = context.listing("scrub", [(digest, step, "-") for digest in digests])

    def gets(peer: Program) -> System:
        def run() -> float:
            answer = peer.call("get", root, listing)
            expect(answer["size"], size)
            return answer["ns"] / 1e9

        return run

    has_libcrypto = "libcrypto" in _core.KERNELS
    for state in states:
        systems: dict[str, System] = {}
        rows = []
        context.add_peers(
            systems, "get", lambda peer, state=state: prepared(state, gets(peer)), layouts_only=True
        )
        for threads in THREADS:
            systems[f"full {threads}"] = prepared(state, ours(False, threads))
            systems[f"quick {threads}"] = prepared(state, ours(True, threads))
            systems[f"read {threads}"] = prepared(state, read(threads))
            targets = (("umoci", 4.5),) if threads == 2 and state == "hot" else ()
            bound = None
            if has_libcrypto:
                bound = f"libcrypto {threads}"
                systems[bound] = prepared(state, libcrypto(threads))
                if state == "hot":
                    targets += (("bound", 1.7),)
            name = f"{state}, {threads} thread{'s' * (threads > 1)}"
            rows += [
                Row(f"scrub, {name}", f"full {threads}", bound, targets),
                Row(f"quick scrub, {name}", f"quick {threads}", f"read {threads}", (("bound", 0.8),)),
            ]
        yield Group("scrub", "-", systems, rows, size=size)
    cas.close()
    shutil.rmtree(root)


def _directory(root: Path) -> _core.File:
    return _core.open_path(root / "blobs" / "sha256", os.O_RDONLY | os.O_DIRECTORY)


def algorithms(context: Context) -> Iterator[Group]:
    """One large blob by each algorithm: put, read, scrubbed, copied out verified."""
    for algorithm in _core.algorithms():
        yield from one_algorithm(context, algorithm)


def one_algorithm(context: Context, algorithm: str) -> Iterator[Group]:
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    digest = cas.put_blob(context.source, algorithm=algorithm).digest
    size = len(context.content)

    def put() -> float:
        other = bed.fresh(context.base)
        with fastcas.create(other, durability="none") as target:
            context.settle(2 * size)
            started = time.perf_counter()
            result = target.put_blob(context.source, algorithm=algorithm)
            elapsed = time.perf_counter() - started
        expect(result, (digest, size))
        shutil.rmtree(other)
        return elapsed

    def get() -> float:
        buffer = bytearray(bed.MIB)
        started = time.perf_counter()
        with cas.get_blob(digest) as blob:
            while blob.readinto(buffer):
                pass
        elapsed = time.perf_counter() - started
        expect(blob.verified, True)
        return elapsed

    def whole() -> float:
        started = time.perf_counter()
        report = cas.scrub()
        elapsed = time.perf_counter() - started
        expect(report, (1, size, []))
        return elapsed

    def copy() -> float:
        target = bed.fresh(context.base)
        context.settle(2 * size)
        started = time.perf_counter()
        cas.copy_blob(digest, target, verify=True)
        elapsed = time.perf_counter() - started
        target.unlink()
        return elapsed

    def alone() -> float:
        state = _core.Digester(algorithm)
        view = memoryview(context.content)
        started = time.perf_counter()
        for at in range(0, size, bed.MIB):
            state.update(view[at : at + bed.MIB])
        return time.perf_counter() - started

    systems: dict[str, System] = {
        "put": put, "get": get, "scrub": whole, "copy": copy, "digest": alone
    }  # fmt: skip
    words = {"put": "put", "get": "verified get", "scrub": "scrub", "copy": "copy out, verified"}
    rows = [Row(f"{word}, {algorithm}", name, bound="digest") for name, word in words.items()]
    yield Group(f"algorithm {algorithm}", "none", systems, rows, size=size)
    cas.close()
    shutil.rmtree(root)
