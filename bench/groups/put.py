"""One large blob stored: from a file, from a Python reader; and many by one call."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bed
import fastcas
from groups import Context, Group, Row, System, expect
from peers.naive import Store


def check_put(context: Context, root: Path, digest: str) -> None:
    """The stored bytes are the source's; then the target goes, one file."""
    expect(digest, context.digest)
    expect(bed.digest_of_file(bed.blob_path(root, digest)), context.digest)
    shutil.rmtree(root)


def put_ours(context: Context, durability: str, source: Callable[[], object]) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        cas = fastcas.create(root, durability=durability)
        given = source()
        context.settle(2 * context.scale.large)
        started = time.perf_counter()
        result = cas.put_blob(given)
        if durability == "batch":
            cas.sync()
        elapsed = time.perf_counter() - started
        cas.close()
        check_put(context, root, result.digest)
        return elapsed

    return run


def put_naive(context: Context, sync: str, *, reader: bool = False) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        store = Store.create(root, sync=sync)
        given = bed.ReadIntoSource(context.content)
        context.settle(2 * context.scale.large)
        started = time.perf_counter()
        digest = store.put_reader(given) if reader else store.put_file(context.source)
        elapsed = time.perf_counter() - started
        store.close()
        check_put(context, root, digest)
        return elapsed

    return run


def put_umoci(context: Context) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        context.call("create", root)
        context.settle(2 * context.scale.large)
        answer = context.call("put", root, context.source)
        check_put(context, root, answer["digest"])
        return answer["ns"] / 1e9

    return run


def put_large(context: Context) -> Iterator[Group]:
    for durability in ("full", "none"):
        systems: dict[str, System] = {
            "fastcas": put_ours(context, durability, lambda: context.source),
            "naive": put_naive(context, durability),
            "evp": context.evp,
        }
        umoci = None
        targets: tuple[tuple[str, float], ...] = (("bound", 0.90),)
        # umoci always syncs the file; on tmpfs that costs nothing, elsewhere `none` has no peer.
        if durability == "full" or context.filesystem == "tmpfs":
            umoci = context.with_umoci(systems, put_umoci(context))
            targets = (("umoci", 2.0), *targets)
        yield Group(
            "put one large file",
            durability,
            systems,
            [Row("put one large file", "fastcas", umoci, "naive", "evp", targets)],
            size=context.scale.large,
        )


def put_reader(context: Context) -> Iterator[Group]:
    for durability in ("full", "none"):
        systems = {
            "readinto": put_ours(context, durability, lambda: bed.ReadIntoSource(context.content)),
            "read": put_ours(context, durability, lambda: bed.ReadSource(context.content)),
            "naive": put_naive(context, durability, reader=True),
            "evp": context.evp,
        }
        rows = [
            Row("put from a Python `readinto`", "readinto", None, "naive", "evp",
                (("bound", 0.85),)),
            Row("put from a Python `read(n)`", "read", None, "naive", "evp", (("bound", 0.85),)),
        ]  # fmt: skip
        yield Group("put from a Python reader", durability, systems, rows, size=context.scale.large)


def put_many(context: Context) -> Iterator[Group]:
    """Files by one put_blobs; the others store them one by one."""
    for count in (16, 128):
        size = context.scale.large // count
        folder = context.base / f"many-{count}"
        folder.mkdir()
        sources, digests = [], []
        for number in range(count):
            piece = context.content[number * size : (number + 1) * size]
            sources.append(folder / str(number))
            sources[-1].write_bytes(piece)
            digests.append(bed.digest_of(piece))
        bed.settle(context.base)
        for durability in ("full", "none"):
            yield many_group(context, durability, sources, digests, size)
        shutil.rmtree(folder)


def many_group(
    context: Context, durability: str, sources: list[Path], digests: list[str], size: int
) -> Group:
    def timed(put: Callable[[Path], tuple[float, list[str]]]) -> System:
        def run() -> float:
            root = bed.fresh(context.base)
            elapsed, found = put(root)
            expect(found, digests)
            shutil.rmtree(root)
            return elapsed

        return run

    def ours(root: Path) -> tuple[float, list[str]]:
        with fastcas.create(root, durability=durability) as cas:
            context.settle(2 * context.scale.large)
            started = time.perf_counter()
            results = cas.put_blobs(sources)
            return time.perf_counter() - started, [result.digest for result in results]

    def naive(root: Path) -> tuple[float, list[str]]:
        store = Store.create(root, sync=durability)
        context.settle(2 * context.scale.large)
        started = time.perf_counter()
        found = [store.put_file(source) for source in sources]
        elapsed = time.perf_counter() - started
        store.close()
        return elapsed, found

    def umoci(root: Path) -> tuple[float, list[str]]:
        context.call("create", root)
        context.settle(2 * context.scale.large)
        answers = [context.call("put", root, source) for source in sources]
        return sum(answer["ns"] for answer in answers) / 1e9, [one["digest"] for one in answers]

    systems = {"fastcas": timed(ours), "naive": timed(naive), "evp": context.evp}
    peer, targets = None, ()
    if durability == "full" or context.filesystem == "tmpfs":
        peer = context.with_umoci(systems, timed(umoci))
        targets = (("umoci", 3.0 if "avx512vl" in fastcas.backend else 2.6),)
    name = f"put {len(sources)} x {bed.short_size(size)} by one `put_blobs` (others: one by one)"
    row = Row(name, "fastcas", peer, "naive", "evp", targets)
    return Group(name, durability, systems, [row], size=context.scale.large)
