"""4 KiB blobs from memory, stored and read one by one, beside a hashlib loop. Times are of all."""

from __future__ import annotations

import pytest

import bed
from conftest import ROUNDS, SMALL_BLOBS
from peers.naive import Store

SIZE = 4 * bed.KIB
SYNC = {"none": "none", "batch": "file", "full": "full"}


@pytest.fixture(scope="module")
def blobs() -> list[bytes]:
    content = bed.random_bytes(SMALL_BLOBS * SIZE, seed=2)
    return [content[at : at + SIZE] for at in range(0, len(content), SIZE)]


def _note(benchmark) -> None:
    benchmark.extra_info.update(blobs=SMALL_BLOBS, bytes=SMALL_BLOBS * SIZE)


def bench_put_small(benchmark, group, filesystem, durability, blobs, targets):
    group(f"put {SMALL_BLOBS} x 4 KiB")
    _note(benchmark)

    def put(cas) -> list[str]:
        digests = [cas.put_blob(blob).digest for blob in blobs]
        if durability == "batch":
            cas.sync()
        return digests

    digests = benchmark.pedantic(
        put,
        setup=lambda: ((targets.engine(durability, keep=True),), {}),
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    assert digests == [bed.digest_of(blob) for blob in blobs]


def bench_put_small_hashlib_loop(benchmark, group, filesystem, durability, blobs, targets):
    group(f"put {SMALL_BLOBS} x 4 KiB")
    _note(benchmark)
    digests = benchmark.pedantic(
        lambda store: [store.put_bytes(blob) for blob in blobs],
        setup=lambda: ((targets.naive(SYNC[durability], keep=True),), {}),
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    assert digests == [bed.digest_of(blob) for blob in blobs]


@pytest.fixture
def stored(filesystem, blobs, targets):
    cas = targets.engine("none")
    return cas, [cas.put_blob(blob).digest for blob in blobs]


@pytest.mark.parametrize("how", ["read_blob", "get_blob"])
def bench_get_small(benchmark, group, filesystem, blobs, stored, how):
    group(f"get {SMALL_BLOBS} x 4 KiB")
    _note(benchmark)
    cas, digests = stored

    def by_reader(digest: str) -> bytes:
        with cas.get_blob(digest) as blob:
            return blob.read()

    get = cas.read_blob if how == "read_blob" else by_reader
    contents = benchmark.pedantic(
        lambda: [get(digest) for digest in digests], rounds=ROUNDS, warmup_rounds=1
    )
    assert contents == blobs


def bench_get_small_hashlib_loop(benchmark, group, filesystem, blobs, stored, targets):
    group(f"get {SMALL_BLOBS} x 4 KiB")
    _note(benchmark)
    _, digests = stored
    store = targets.opened(Store(targets.latest))
    contents = benchmark.pedantic(
        lambda: [store.get_bytes(digest) for digest in digests], rounds=ROUNDS, warmup_rounds=1
    )
    assert contents == blobs
