"""One large blob: read and verified, copied out."""

from __future__ import annotations

import mmap
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bed
import fastcas
from groups import Context, Group, Row, System, expect
from peers.naive import Store


def get_large(context: Context) -> Iterator[Group]:
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    digest = cas.put_blob(context.source).digest
    size = len(context.content)
    store = Store(root)
    pages = mmap.mmap(-1, bed.MIB + mmap.PAGESIZE)
    view = memoryview(pages)

    def consume(read: Callable[[fastcas.BlobReader], int]) -> System:
        def run() -> float:
            context.settle(2 * size)
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
        started = time.perf_counter()
        total = store.get(digest)
        elapsed = time.perf_counter() - started
        expect(total, size)
        return elapsed

    def umoci() -> float:
        answer = context.call("get", root, digest)
        expect(answer["size"], size)
        return answer["ns"] / 1e9

    systems = {
        "readall": consume(lambda blob: len(blob.readall())),
        "chunks": consume(by_chunks),
        "aligned": consume(into(view[: bed.MIB])),
        "unaligned": consume(into(view[16 : 16 + bed.MIB])),
        "naive": naive,
        "evp": context.evp,
    }
    peer = context.with_umoci(systems, umoci)
    rows = [
        Row(f"verified get, large, {how}", name, peer, "naive", "evp", (("bound", 0.95),))
        for name, how in (
            ("aligned", "`readinto` 1 MiB, aligned"),
            ("unaligned", "`readinto` 1 MiB, 16 bytes into a page"),
            ("chunks", "`read(1 MiB)`"),
            ("readall", "`readall()`"),
        )
    ]
    yield Group("verified get, large", "-", systems, rows, size=size)
    store.close()
    cas.close()
    shutil.rmtree(root)


def copy_out(context: Context) -> Iterator[Group]:
    root = bed.fresh(context.base)
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

    def umoci(target: Path) -> float:
        return context.call("copy", root, digest, target)["ns"] / 1e9

    systems = {"fastcas": copied(ours), "copyfile": copied(copyfile)}
    peer = context.with_umoci(systems, copied(umoci))
    row = Row("copy out, unverified (umoci's is verified)", "fastcas", peer, None, "copyfile")
    group = Group("copy out", "none", systems, [row], size=context.scale.large)
    yield group
    group.notes["method"] = ", ".join(sorted(methods))
    cas.close()
    shutil.rmtree(root)
