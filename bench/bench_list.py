"""Listing many blobs, beside a bare os.listdir of their directory."""

from __future__ import annotations

import os

import pytest

import bed
from conftest import LISTED, ROUNDS


@pytest.fixture
def listed(filesystem, targets):
    """An engine over a layout of empty files under well-formed names: only names are listed."""
    cas = targets.engine("none")
    directory = targets.latest / "blobs" / "sha256"
    directory.mkdir(exist_ok=True)
    for number in range(LISTED):
        (directory / bed.digest_of(number.to_bytes(8, "little"))[7:]).touch(mode=0o444)
    return cas, directory


def bench_list(benchmark, group, filesystem, listed):
    group(f"list {LISTED}")
    cas, _ = listed
    names = benchmark.pedantic(lambda: list(cas.list_blobs()), rounds=ROUNDS, warmup_rounds=1)
    assert len(names) == LISTED


def bench_list_listdir(benchmark, group, filesystem, listed):
    group(f"list {LISTED}")
    _, directory = listed
    names = benchmark.pedantic(lambda: os.listdir(directory), rounds=ROUNDS, warmup_rounds=1)
    assert len(names) == LISTED
