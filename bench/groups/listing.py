"""The digests of a store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import bed
import fastcas
from groups import Context, Group, Row, System, expect
from peers.naive import Store


def list_blobs(context: Context) -> Iterator[Group]:
    count = context.scale.listed
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    directory = root / "blobs" / "sha256"
    directory.mkdir(exist_ok=True)
    for number in range(count):
        # Only names are listed: empty files under digests of nothing in particular will do.
        name = bed.digest_of(number.to_bytes(8, "little"))[7:]
        os.close(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444))
    store = Store(root)

    def listed(make: Callable[[], list]) -> System:
        def run() -> float:
            started = time.perf_counter()
            names = make()
            elapsed = time.perf_counter() - started
            expect(len(names), count)
            return elapsed

        return run

    def umoci() -> float:
        answer = context.call("list", root)
        expect(answer["count"], count)
        return answer["ns"] / 1e9

    def iterated() -> float:
        started = time.perf_counter()
        seen = sum(1 for _ in cas.list_blobs())
        elapsed = time.perf_counter() - started
        expect(seen, count)
        return elapsed

    systems = {
        "fastcas": iterated,
        "fastcas list": listed(lambda: list(cas.list_blobs())),
        "naive": listed(store.list),
        "listdir": listed(lambda: os.listdir(directory)),
    }
    peer = context.with_umoci(systems, umoci)
    targets = (("umoci", 8.0), ("bound", 1.0))
    rows = [
        Row(f"list {count} blobs, iterated, each", "fastcas", peer, "naive", "listdir", targets),
        Row(f"list {count} blobs, as a list, each", "fastcas list", peer, "naive", "listdir", targets),
    ]
    yield Group("list", "-", systems, rows, count=count)
    store.close()
    cas.close()
