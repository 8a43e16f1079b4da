"""Many small blobs, one by one and by one call: stored, read and verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import bed
import fastcas
from groups import SMALL_BLOB, Context, Group, Row, System, expect
from peers.naive import Store


def put_small(context: Context) -> Iterator[Group]:
    durable = context.filesystem != "tmpfs"
    count = context.scale.small_durable if durable else context.scale.small_memory
    content = context.content[: count * SMALL_BLOB]
    expect(len(content), count * SMALL_BLOB)
    blobs = [content[at : at + SMALL_BLOB] for at in range(0, len(content), SMALL_BLOB)]
    digests = [bed.digest_of(blob) for blob in blobs]
    packed = context.base / "small"
    packed.write_bytes(content)

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

    def umoci() -> float:
        root = bed.fresh(context.base)
        context.call("create", root)
        context.settle()
        answer = context.call("put-small", root, packed, SMALL_BLOB)
        expect(answer["digests"], digests)
        return answer["ns"] / 1e9

    if durable:
        systems = {
            "full": ours("full"),
            "batch": ours("batch"),
            "syncfs": ours("syncfs"),
            "together": ours("full", together=True),
            "naive-full": naive("full"),
            "naive-file": naive("file"),
        }
        peer = context.with_umoci(systems, umoci)
        rows = [
            Row("put 4 KiB one by one, file and directory synced (umoci: file)", "full", peer,
                "naive-full", None, (("umoci", 1.0),)),
            Row("put 4 KiB one by one, batch: all durable at the end (umoci: file, each)",
                "batch", peer, "naive-file", None, (("umoci", 8.0),)),
            Row("put 4 KiB one by one, syncfs: all durable at the end (umoci: file, each)",
                "syncfs", peer, "naive-file", None, (("umoci", 8.0),)),
            Row("put 4 KiB by one `put_blobs`, files and directory synced (umoci: file, one by one)",
                "together", peer, "naive-full", None, (("umoci", 8.0),)),
        ]  # fmt: skip
        yield Group("put 4 KiB one by one", "full", systems, rows, count=count)
    else:
        systems = {
            "none": ours("none"),
            "together": ours("none", together=True),
            "naive": naive("none"),
        }
        peer = context.with_umoci(systems, umoci)
        rows = [
            Row("put 4 KiB one by one", "none", peer, "naive", None, (("umoci", 2.0),)),
            Row("put 4 KiB by one `put_blobs` (umoci: one by one)", "together", peer, "naive", None,
                (("umoci", 4.0),)),
        ]  # fmt: skip
        yield Group("put 4 KiB one by one", "none", systems, rows, count=count)


def get_small(context: Context) -> Iterator[Group]:
    count = context.scale.small_get
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    view = memoryview(context.content)
    digests = [
        cas.put_blob(view[at * SMALL_BLOB : (at + 1) * SMALL_BLOB]).digest for at in range(count)
    ]
    store = Store(root)
    listing = context.base / "digests"
    listing.write_text("".join(f"{digest}\n" for digest in digests))

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

    def umoci() -> float:
        answer = context.call("get-small", root, listing)
        expect(answer["size"], count * SMALL_BLOB)
        return answer["ns"] / 1e9

    systems = {
        "reader": reader,
        "read_blob": bytes_from(cas.read_blob),
        "naive": bytes_from(store.get_bytes),
    }
    peer = context.with_umoci(systems, umoci)
    rows = [
        Row(f"verified get, 4 KiB, {how}", name, peer, "naive", None, (("umoci", 3.0),))
        for name, how in (("read_blob", "`read_blob`"), ("reader", "`get_blob` and `read`"))
    ]
    yield Group("verified get, 4 KiB", "-", systems, rows, count=count)
    store.close()
    cas.close()
