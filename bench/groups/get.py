"""One large blob: read and verified, copied out."""

from __future__ import annotations

import mmap
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bed
import fastcas
from groups import Context, Group, Place, Row, System, expect
from peers.naive import Store
from peers.program import Program


def get_large(context: Context) -> Iterator[Group]:
    yield from _get_large(context, cold=False)
    if context.on_disk:
        yield from _get_large(context, cold=True)


def _get_large(context: Context, *, cold: bool) -> Iterator[Group]:
    place = Place(bed.fresh(context.base))
    root = place.layout
    cas = fastcas.create(root, durability="none")
    digest = cas.put_blob(context.source).digest
    size = len(context.content)
    store = Store(root)
    pages = mmap.mmap(-1, bed.MIB + mmap.PAGESIZE)
    view = memoryview(pages)

    def prepare(stored: Path) -> None:
        context.settle(2 * size)
        if cold:
            bed.drop(stored)

    def consume(read: Callable[[fastcas.BlobReader], int]) -> System:
        def run() -> float:
            prepare(root)
            started = time.perf_counter()
            with cas.get_blob(digest) as blob:
                total = read(blob)
            elapsed = time.perf_counter() - started
            expect((total, blob.verified), (size, True))
            return elapsed

        return run

    def by_chunks(blob: fastcas.BlobReader) -> int:
        total = 0
        while chunk := blob.read(bed.MIB):
            total += len(chunk)
        return total

    def into(buffer: memoryview) -> Callable[[fastcas.BlobReader], int]:
        def read(blob: fastcas.BlobReader) -> int:
            total = 0
            while count := blob.readinto(buffer):
                total += count
            return total

        return read

    def naive() -> float:
        prepare(root)
        started = time.perf_counter()
        total = store.get(digest)
        elapsed = time.perf_counter() - started
        expect(total, size)
        return elapsed

    def theirs(peer: Program) -> System:
        store = place.filled(peer, "put", context.large)

        def run() -> float:
            prepare(store)
            answer = peer.call("get", store, context.large)
            expect(answer["size"], size)
            return answer["ns"] / 1e9

        return run

    def page_cache() -> float:
        """Reading and nothing else: what bounds a get whose blob isn't in the page cache."""
        prepare(root)
        started = time.perf_counter()
        with bed.blob_path(root, digest).open("rb", buffering=0) as file:
            while file.readinto(view[: bed.MIB]):
                pass
        return time.perf_counter() - started

    systems = {
        "readall": consume(lambda blob: len(blob.readall())),
        "chunks": consume(by_chunks),
        "aligned": consume(into(view[: bed.MIB])),
        "unaligned": consume(into(view[16 : 16 + bed.MIB])),
        "naive": naive,
    }
    if cold:
        systems = {"aligned": systems["aligned"], "naive": naive, "cold read": page_cache}
        rows = [Row("verified get, large, `readinto` 1 MiB, aligned", "aligned", "cold read")]
    else:
        systems["evp"] = context.evp
        rows = [
            Row(f"verified get, large, {how}", name, "evp", (("bound", 0.95),))
            for name, how in (
                ("aligned", "`readinto` 1 MiB, aligned"),
                ("unaligned", "`readinto` 1 MiB, 16 bytes into a page"),
                ("chunks", "`read(1 MiB)`"),
                ("readall", "`readall()`"),
            )
        ]
    context.add_peers(systems, "get", theirs)
    cache = "cold" if cold else "warm"
    yield Group("verified get, large", "-", systems, rows, size=size, cache=cache)
    store.close()
    cas.close()
    place.remove()


def copy_out(context: Context) -> Iterator[Group]:
    place = Place(bed.fresh(context.base))
    root = place.layout
    cas = fastcas.create(root, durability="none")
    digest = cas.put_blob(context.source).digest
    stored = bed.blob_path(root, digest)
    methods: set[str] = set()

    def copied(copy: Callable[[Path], float]) -> System:
        def run() -> float:
            target = bed.fresh(context.base)
            context.settle(2 * context.scale.large)
            elapsed = copy(target)
            expect(target.stat().st_size, len(context.content))
            target.unlink()
            return elapsed

        return run

    def ours(target: Path) -> float:
        started = time.perf_counter()
        result = cas.copy_blob(digest, target)
        elapsed = time.perf_counter() - started
        methods.add(result.method)
        return elapsed

    def copyfile(target: Path) -> float:
        started = time.perf_counter()
        shutil.copyfile(stored, target)
        return time.perf_counter() - started

    def theirs(peer: Program) -> System:
        store = place.filled(peer, "put", context.large)

        def copy(target: Path) -> float:
            return peer.call("copy", store, context.large, target)["ns"] / 1e9

        return copied(copy)

    systems = {"fastcas": copied(ours), "copyfile": copied(copyfile)}
    context.add_peers(systems, "copy", theirs)
    row = Row("copy out, unverified (the peers verify)", "fastcas", "copyfile")
    group = Group("copy out", "none", systems, [row], size=context.scale.large)
    yield group
    group.notes["method"] = ", ".join(sorted(methods))
    cas.close()
    place.remove()
