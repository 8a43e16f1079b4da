"""The digests of a store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import bed
import fastcas
from groups import Context, Group, Place, Row, System, expect
from peers.naive import Store
from peers.program import Program


def list_blobs(context: Context) -> Iterator[Group]:
    count = context.scale.listed
    place = Place(bed.fresh(context.base))
    root = place.layout
    cas = fastcas.create(root, durability="none")
    directory = root / "blobs" / "sha256"
    directory.mkdir(exist_ok=True)
    # Only names are listed: empty files under digests of nothing in particular will do.
    digests = [bed.digest_of(number.to_bytes(8, "little")) for number in range(count)]
    for digest in digests:
        os.close(os.open(directory / digest[7:], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444))
    listing = context.listing("listed", ((digest, 0) for digest in digests))
    store = Store(root)

    def listed(make: Callable[[], list]) -> System:
        def run() -> float:
            started = time.perf_counter()
            names = make()
            elapsed = time.perf_counter() - started
            expect(len(names), count)
            return elapsed

        return run

    def theirs(peer: Program) -> System:
        listed_by_peer = place.filled(peer, "touch", listing)

        def run() -> float:
            answer = peer.call("list", listed_by_peer)
            expect(answer["count"], count)
            return answer["ns"] / 1e9

        return run

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
    # Stores of their own would take more inodes than a filesystem that was made for the run has.
    context.add_peers(systems, "list", theirs, layouts_only=context.on_disk)
    targets = (("umoci", 8.0), ("bound", 1.0))
    rows = [
        Row(f"list {count} blobs, iterated, each", "fastcas", "listdir", targets),
        Row(f"list {count} blobs, as a list, each", "fastcas list", "listdir", targets),
    ]
    yield Group("list", "-", systems, rows, count=count)
    store.close()
    cas.close()
