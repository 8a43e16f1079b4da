"""The layers of an image stored by one call."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import bed
import fastcas
from fastcas import _core
from groups import Context, Group, Row, System, expect
from groups.sizes import Blobs, put_by, put_naive_files

LAYERS = (4 * bed.MIB, 32 * bed.MIB)


def put_many(context: Context) -> Iterator[Group]:
    for durability in context.durabilities:
        for size in LAYERS:
            if size <= context.scale.large:
                blobs = Blobs(context, size, context.scale.large)
                yield _put_many(context, blobs, durability)
                blobs.remove()


def _put_many(context: Context, blobs: Blobs, durability: str) -> Group:
    def ours() -> float:
        root = bed.fresh(context.base)
        with fastcas.create(root, durability=durability) as cas:
            context.settle(2 * blobs.total)
            started = time.perf_counter()
            results = cas.put_blobs(blobs.files)
            elapsed = time.perf_counter() - started
        expect([result.digest for result in results], blobs.digests)
        shutil.rmtree(root)
        return elapsed

    def lanes() -> float:
        """The same files read and hashed, in lanes and on two threads, and not stored."""
        directory = os.open(blobs.directory, os.O_RDONLY | os.O_DIRECTORY)
        items = [(directory, os.fsencode(file.name)) for file in blobs.files]
        started = time.perf_counter()
        found = _core.digest_many(items, "sha256", threads=2)
        elapsed = time.perf_counter() - started
        os.close(directory)
        expect([digest for digest, _ in found], [digest[7:] for digest in blobs.digests])
        return elapsed

    systems: dict[str, System] = {
        "fastcas": ours,
        "naive": put_naive_files(context, blobs, durability),
        "lanes": lanes,
    }
    context.add_peers(systems, "put", put_by(context, blobs), durability)
    # 2.6 where there are 16 vector registers.
    targets = (("umoci", 3.0 if "avx512" in fastcas.backend else 2.6),)
    row = Row(
        f"put {len(blobs.files)} files by one `put_blobs` (the peers: one by one)",
        "fastcas", "lanes", targets,
    )  # fmt: skip
    return Group("put many files", durability, systems, [row], blobs.total, blobs.size)
