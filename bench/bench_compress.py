"""Compressed puts and plain reads, at the levels that docs/design.md speaks of."""

from __future__ import annotations

import pytest

import bed
from compress_peers import CORPUS, corpus

LEVELS = [("gzip", 1), ("gzip", 5), ("gzip", 8), ("zstd", 3)]


@pytest.fixture(scope="session")
def plain() -> bytes:
    return corpus(CORPUS)


@pytest.mark.parametrize(("name", "level"), LEVELS)
def bench_put_compressed(benchmark, targets, plain, name, level):
    benchmark.group = f"put compressed {bed.short_size(len(plain))}"
    benchmark.extra_info["bytes"] = len(plain)

    def setup():
        return (targets.engine("none"),), {}

    def put(engine):
        return engine.put_blob(plain, compress=name, level=level)

    result = benchmark.pedantic(put, setup=setup, rounds=3)
    assert result.plain_size == len(plain)
    benchmark.extra_info["ratio"] = len(plain) / result.size


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def bench_read_plain(benchmark, targets, plain, name):
    benchmark.group = f"read plain {bed.short_size(len(plain))}"
    benchmark.extra_info["bytes"] = len(plain)
    engine = targets.engine("none")
    stored = engine.put_blob(plain, compress=name)
    buffer = bytearray(1 << 20)

    def read():
        with engine.get_plain_blob(stored.digest, diff_id=stored.diff_id) as reader:
            while reader.readinto(buffer):
                pass
            return reader.plain_size

    assert benchmark.pedantic(read, rounds=3) == len(plain)
