"""Digests of many files at once, by kernel and number of threads, beside libcrypto one after the other.

All in memory: the files on tmpfs, if there is one. Each row reads the same number of bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bed
from conftest import ROUNDS, SMALL
from fastcas import _core

TOTAL = 32 * bed.MIB if SMALL else 256 * bed.MIB
SIZES = (4 * bed.KIB, 64 * bed.KIB, 4 * bed.MIB, 32 * bed.MIB)


@pytest.fixture(scope="module", params=SIZES, ids=bed.short_size)
def blobs(request):
    """The contents, and the same as items for digest_many: names beneath an open directory."""
    size = request.param
    content = bed.random_bytes(min(TOTAL, 32 * bed.MIB))
    name = bed.available_filesystems()[0]
    with bed.filesystem(name) as base:
        directory = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        pieces, items = [], []
        for number in range(min(TOTAL // size, 8192)):
            at = number * size % len(content)
            pieces.append(memoryview(content)[at : at + size])
            Path(base, str(number)).write_bytes(pieces[-1])
            items.append((directory, str(number).encode()))
        yield pieces, items
        os.close(directory)


def _note(benchmark, pieces) -> None:
    benchmark.group = f"digest {len(pieces)} x {bed.short_size(len(pieces[0]))}"
    benchmark.extra_info["bytes"] = sum(map(len, pieces))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kernel", _core.KERNELS)
def bench_lanes(benchmark, blobs, kernel, threads):
    pieces, items = blobs
    _note(benchmark, pieces)
    found = benchmark.pedantic(
        lambda: _core.digest_many(items, "sha256", kernel=kernel, threads=threads),
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    assert found == [(bed.digest_of(piece)[7:], len(piece)) for piece in pieces]


def bench_lanes_evp(benchmark, blobs):
    """The bound of one thread without lanes: no file is opened or read."""
    pieces, _ = blobs
    _note(benchmark, pieces)

    def digest() -> None:
        for piece in pieces:
            bed.digest_of(piece)

    benchmark.pedantic(digest, rounds=ROUNDS, warmup_rounds=1)
