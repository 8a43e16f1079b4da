"""One large blob stored: from a file, from a Python reader; blobs of every size."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bed
import fastcas
from groups import Context, Group, Row, System, expect
from peers.naive import Store
from peers.program import Program


def check_put(context: Context, root: Path, digest: str) -> None:
    """The stored bytes are the source's; then the target goes, one file."""
    expect(digest, context.digest)
    expect(bed.digest_of_file(bed.blob_path(root, digest)), context.digest)
    shutil.rmtree(root)


def put_ours(
    context: Context, durability: str, source: Callable[[], object], *, cold: bool = False
) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        cas = fastcas.create(root, durability=durability)
        given = source()
        context.settle(2 * context.scale.large)
        if cold:
            bed.drop(context.source)
        started = time.perf_counter()
        result = cas.put_blob(given)
        if durability == "batch":
            cas.sync()
        elapsed = time.perf_counter() - started
        cas.close()
        check_put(context, root, result.digest)
        return elapsed

    return run


def put_naive(context: Context, sync: str, *, reader: bool = False, cold: bool = False) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        store = Store.create(root, sync=sync)
        given = bed.ReadIntoSource(context.content)
        context.settle(2 * context.scale.large)
        if cold:
            bed.drop(context.source)
        started = time.perf_counter()
        digest = store.put_reader(given) if reader else store.put_file(context.source)
        elapsed = time.perf_counter() - started
        store.close()
        check_put(context, root, digest)
        return elapsed

    return run


def put_peer(context: Context, peer: Program, *, cold: bool = False) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        peer.call("create", root)
        context.settle(2 * context.scale.large)
        if cold:
            bed.drop(context.source)
        answer = peer.call("put", root, context.large)
        expect(answer["digests"], [context.digest])
        if peer.layout:
            check_put(context, root, answer["digests"][0])
        else:
            expect(peer.call("get", root, context.large)["size"], len(context.content))
            shutil.rmtree(root)
        return answer["ns"] / 1e9

    return run


def put_large(context: Context) -> Iterator[Group]:
    for durability in context.durabilities:
        yield _put_large(context, durability)
    if context.on_disk:
        yield _put_large(context, "full", cold=True)


def _put_large(context: Context, durability: str, *, cold: bool = False) -> Group:
    systems: dict[str, System] = {
        "fastcas": put_ours(context, durability, lambda: context.source, cold=cold),
        "naive": put_naive(context, durability, cold=cold),
        "evp": context.evp,
    }
    context.add_peers(systems, "put", lambda peer: put_peer(context, peer, cold=cold), durability)
    targets = () if cold else (("umoci", 2.0), ("bound", 0.90))
    row = Row("put one large file", "fastcas", "evp", targets)
    cache = "cold" if cold else "warm"
    return Group("put one large file", durability, systems, [row], context.scale.large, cache=cache)


def put_reader(context: Context) -> Iterator[Group]:
    for durability in context.durabilities:
        systems = {
            "readinto": put_ours(context, durability, lambda: bed.ReadIntoSource(context.content)),
            "read": put_ours(context, durability, lambda: bed.ReadSource(context.content)),
            "naive": put_naive(context, durability, reader=True),
            "evp": context.evp,
        }
        rows = [
            Row("put from a Python `readinto`", "readinto", "evp", (("bound", 0.85),)),
            Row("put from a Python `read(n)`", "read", "evp", (("bound", 0.85),)),
        ]
        yield Group("put from a Python reader", durability, systems, rows, size=context.scale.large)
