"""Put of one blob, from a file and from a Python reader.

Beside it in each table: raw EVP over the same bytes in memory, and a loop that reads 1 MiB, hashes,
writes a temporary file, syncs as the durability says and renames.
"""

from __future__ import annotations

import pytest

import bed
from conftest import ROUNDS
from peers.naive import Store

# What the loop syncs where ours is asked for that durability.
SYNC = {"none": "none", "batch": "file", "full": "full"}


def _put(cas, durability: str, source) -> str:
    digest = cas.put_blob(source).digest
    if durability == "batch":
        cas.sync()
    return digest


def _measure(benchmark, content: bytes, function, setup) -> None:
    digest = benchmark.pedantic(function, setup=setup, rounds=ROUNDS, warmup_rounds=1)
    assert digest == bed.digest_of(content)


def bench_put_file(benchmark, group, filesystem, durability, content, source, targets):
    group("put file")
    _measure(benchmark, content, _put, lambda: ((targets.engine(durability), durability, source), {}))


def bench_put_file_hashlib_loop(benchmark, group, filesystem, durability, content, source, targets):
    group("put file")

    def setup():
        return (targets.naive(SYNC[durability]), source), {}

    _measure(benchmark, content, Store.put_file, setup)


def bench_put_file_evp(benchmark, group, filesystem, durability, content):
    group("put file")
    _measure(benchmark, content, bed.hash_by_core, lambda: ((content,), {}))


@pytest.mark.parametrize("kind", [bed.ReadIntoSource, bed.ReadSource], ids=["readinto", "read"])
def bench_put_reader(benchmark, group, filesystem, durability, content, targets, kind):
    group("put reader")

    def setup():
        return (targets.engine(durability), durability, kind(content)), {}

    _measure(benchmark, content, _put, setup)


def bench_put_reader_hashlib_loop(benchmark, group, filesystem, durability, content, targets):
    group("put reader")

    def setup():
        return (targets.naive(SYNC[durability]), bed.ReadIntoSource(content)), {}

    _measure(benchmark, content, Store.put_reader, setup)


def bench_put_reader_evp(benchmark, group, filesystem, durability, content):
    group("put reader")
    _measure(benchmark, content, bed.hash_by_core, lambda: ((content,), {}))
