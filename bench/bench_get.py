"""Verified reads of one blob, by every way of reading, beside raw EVP and a hashlib loop."""

from __future__ import annotations

import mmap

import pytest

import bed
import fastcas
from conftest import ROUNDS
from peers.naive import Store


@pytest.fixture
def stored(filesystem, content, targets):
    """An engine that holds the content, its digest, its layout."""
    cas = targets.engine("none")
    digest = cas.put_blob(content).digest
    assert digest == bed.digest_of(content)
    return cas, digest


def _buffer(offset: int) -> memoryview:
    """1 MiB that begins `offset` bytes into a page."""
    return memoryview(mmap.mmap(-1, bed.MIB + mmap.PAGESIZE))[offset : offset + bed.MIB]


def _measure(benchmark, stored, size: int, read) -> None:
    cas, digest = stored

    def verified() -> tuple[int, bool]:
        with cas.get_blob(digest) as blob:
            return read(blob), blob.verified

    assert benchmark.pedantic(verified, rounds=ROUNDS, warmup_rounds=1) == (size, True)


# An mmap begins at a page, a large bytearray 16 bytes into one.
@pytest.mark.parametrize("offset", [0, 16], ids=["aligned", "unaligned"])
def bench_get_readinto(benchmark, group, filesystem, content, stored, offset):
    group("get")
    buffer = _buffer(offset)

    def read(blob: fastcas.BlobReader) -> int:
        total = 0
        while count := blob.readinto(buffer):
            total += count
        return total

    _measure(benchmark, stored, len(content), read)


def bench_get_read(benchmark, group, filesystem, content, stored):
    group("get")

    def read(blob: fastcas.BlobReader) -> int:
        total = 0
        while chunk := blob.read(bed.MIB):
            total += len(chunk)
        return total

    _measure(benchmark, stored, len(content), read)


def bench_get_readall(benchmark, group, filesystem, content, stored):
    group("get")
    _measure(benchmark, stored, len(content), lambda blob: len(blob.readall()))


def bench_get_hashlib_loop(benchmark, group, filesystem, content, stored, targets):
    group("get")
    _, digest = stored
    store = targets.opened(Store(targets.latest))
    assert benchmark.pedantic(
        store.get, args=(digest,), rounds=ROUNDS, warmup_rounds=1
    ) == len(content)  # fmt: skip


def bench_get_evp(benchmark, group, filesystem, content):
    group("get")
    benchmark.pedantic(bed.hash_by_core, args=(content,), rounds=ROUNDS, warmup_rounds=1)
