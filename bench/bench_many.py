"""Files and small blobs by one put_blobs, by durability, beside a hashlib loop. Times are of all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import bed
from conftest import ROUNDS, SMALL
from peers.naive import Store

TOTAL = 16 * bed.MIB if SMALL else 256 * bed.MIB
SIZES = (4 * bed.KIB, 4 * bed.MIB, 32 * bed.MIB)
MOST = 2000
SYNC = {"none": "none", "batch": "file", "full": "full"}


@pytest.fixture(params=SIZES, ids=bed.short_size)
def files(request, filesystem):
    """Files of that size, and their digests."""
    size = min(request.param, TOTAL // 2)
    content = bed.random_bytes(TOTAL, seed=3)
    folder = filesystem / "many"
    folder.mkdir()
    paths, digests = [], []
    for number in range(min(TOTAL // size, MOST)):
        piece = content[number * size : (number + 1) * size]
        paths.append(Path(folder, str(number)))
        paths[-1].write_bytes(piece)
        digests.append(bed.digest_of(piece))
    bed.settle(filesystem)
    yield paths, digests, size
    shutil.rmtree(folder)


def _measure(benchmark, group, files, put, setup) -> None:
    paths, digests, size = files
    group(f"put {len(paths)} x {bed.short_size(size)}")
    benchmark.extra_info["bytes"] = size * len(paths)
    found = benchmark.pedantic(put, setup=setup, rounds=ROUNDS, warmup_rounds=1)
    assert found == digests


def bench_put_many(benchmark, group, filesystem, durability, files, targets):
    def put(cas) -> list[str]:
        return [result.digest for result in cas.put_blobs(files[0])]

    _measure(benchmark, group, files, put, lambda: ((targets.engine(durability),), {}))


def bench_put_many_hashlib_loop(benchmark, group, filesystem, durability, files, targets):
    def put(store: Store) -> list[str]:
        return [store.put_file(path) for path in files[0]]

    _measure(benchmark, group, files, put, lambda: ((targets.naive(SYNC[durability]),), {}))
