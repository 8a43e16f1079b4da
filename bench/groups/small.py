"""Many small blobs, one by one and by one call: stored, read and verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import bed
import fastcas
from groups import SMALL_BLOB, Context, Group, Place, Row, System, expect
from peers.naive import Store
from peers.program import Program


def put_small(context: Context) -> Iterator[Group]:
    durable = context.on_disk
    count = context.scale.small_durable if durable else context.scale.small_memory
    content = context.content[: count * SMALL_BLOB]
    expect(len(content), count * SMALL_BLOB)
    blobs = [content[at : at + SMALL_BLOB] for at in range(0, len(content), SMALL_BLOB)]
    digests = [bed.digest_of(blob) for blob in blobs]
    packed = context.base / "small"
    packed.write_bytes(content)
    listing = context.listing("small", ((digest, SMALL_BLOB) for digest in digests))

    # Targets stay where they are: deleting many files slows ext4's creates down for a while.
    def ours(durability: str, *, together: bool = False) -> System:
        def run() -> float:
            root = bed.fresh(context.base)
            cas = fastcas.create(root, durability=durability)
            context.settle()
            started = time.perf_counter()
            results = cas.put_blobs(blobs) if together else [cas.put_blob(blob) for blob in blobs]
            if durability in ("batch", "syncfs"):
                cas.sync()
            elapsed = time.perf_counter() - started
            cas.close()
            expect([result.digest for result in results], digests)
            return elapsed

        return run

    def naive(sync: str) -> System:
        def run() -> float:
            root = bed.fresh(context.base)
            store = Store.create(root, sync=sync)
            context.settle()
            started = time.perf_counter()
            names = [store.put_bytes(blob) for blob in blobs]
            elapsed = time.perf_counter() - started
            store.close()
            expect(names, digests)
            return elapsed

        return run

    def theirs(peer: Program) -> System:
        def run() -> float:
            root = bed.fresh(context.base)
            peer.call("create", root)
            context.settle()
            answer = peer.call("put-pieces", root, listing, packed)
            expect(answer["digests"], digests)
            return answer["ns"] / 1e9

        return run

    def measured(durability: str, sync: str, systems: dict[str, System], *rows: Row) -> Group:
        systems["naive"] = naive(sync)
        context.add_peers(systems, "put-pieces", theirs, durability)
        return Group("put 4 KiB one by one", durability, systems, list(rows), count=count)

    if durable:
        yield measured(
            "full", "full", {"full": ours("full"), "together": ours("full", together=True)},
            Row("put 4 KiB one by one", "full", None, (("umoci", 1.0),)),
            Row("put 4 KiB by one `put_blobs` (the peers: one by one)", "together", None,
                (("umoci", 8.0),)),
        )  # fmt: skip
        yield measured(
            "batch", "file", {"batch": ours("batch")},
            Row("put 4 KiB one by one, all durable at the end", "batch", None, (("umoci", 8.0),)),
        )  # fmt: skip
        yield measured(
            "syncfs", "file", {"syncfs": ours("syncfs")},
            Row("put 4 KiB one by one, all durable at the end", "syncfs", None, (("umoci", 8.0),)),
        )  # fmt: skip
    yield measured(
        "none", "none", {"none": ours("none"), "together": ours("none", together=True)},
        Row("put 4 KiB one by one", "none", None, (("umoci", 2.0),)),
        Row("put 4 KiB by one `put_blobs` (the peers: one by one)", "together", None,
            (("umoci", 4.0),)),
    )  # fmt: skip


def get_small(context: Context) -> Iterator[Group]:
    count = context.scale.small_get
    place = Place(bed.fresh(context.base))
    root = place.layout
    cas = fastcas.create(root, durability="none")
    packed = context.base / "small"
    packed.write_bytes(context.content[: count * SMALL_BLOB])
    view = memoryview(context.content)
    digests = [
        cas.put_blob(view[at * SMALL_BLOB : (at + 1) * SMALL_BLOB]).digest for at in range(count)
    ]
    store = Store(root)
    listing = context.listing("small", ((digest, SMALL_BLOB) for digest in digests))

    def reader() -> float:
        total = 0
        started = time.perf_counter()
        for digest in digests:
            with cas.get_blob(digest) as blob:
                total += len(blob.read())
        elapsed = time.perf_counter() - started
        expect(total, count * SMALL_BLOB)
        return elapsed

    def bytes_from(get: Callable[[str], bytes]) -> System:
        def run() -> float:
            total = 0
            started = time.perf_counter()
            for digest in digests:
                total += len(get(digest))
            elapsed = time.perf_counter() - started
            expect(total, count * SMALL_BLOB)
            return elapsed

        return run

    def theirs(peer: Program) -> System:
        own = place.filled(peer, "put-pieces", listing, packed)

        def run() -> float:
            answer = peer.call("get", own, listing)
            expect(answer["size"], count * SMALL_BLOB)
            return answer["ns"] / 1e9

        return run

    systems = {
        "reader": reader,
        "read_blob": bytes_from(cas.read_blob),
        "naive": bytes_from(store.get_bytes),
    }
    context.add_peers(systems, "get", theirs)
    rows = [
        Row(f"verified get, 4 KiB, {how}", name, None, (("umoci", 3.0), ("cacache", 1.0)))
        for name, how in (("read_blob", "`read_blob`"), ("reader", "`get_blob` and `read`"))
    ]
    yield Group("verified get, 4 KiB", "-", systems, rows, count=count)
    store.close()
    cas.close()
