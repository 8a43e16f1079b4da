"""Copying a blob out, unverified and verified, beside shutil.copyfile. Nothing is synced."""

from __future__ import annotations

import shutil

import pytest

import bed
from conftest import ROUNDS


@pytest.fixture
def stored(filesystem, content, targets):
    """An engine that holds the content, its digest, and the blob's own path."""
    cas = targets.engine("none")
    digest = cas.put_blob(content).digest
    return cas, digest, bed.blob_path(targets.latest, digest)


@pytest.fixture
def destination(filesystem):
    """A path that is free again before each round."""
    path = bed.fresh(filesystem)

    def free():
        path.unlink(missing_ok=True)
        bed.settle(filesystem)
        return (path,), {}

    yield free
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("verify", [False, True], ids=["unverified", "verified"])
def bench_copy(benchmark, group, filesystem, content, stored, destination, verify):
    group("copy out")
    cas, digest, _ = stored
    result = benchmark.pedantic(
        lambda path: cas.copy_blob(digest, path, verify=verify),
        setup=destination,
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    assert result.size == len(content)
    benchmark.extra_info["method"] = result.method


def bench_copy_copyfile(benchmark, group, filesystem, content, stored, destination):
    group("copy out")
    _, _, path = stored
    copied = benchmark.pedantic(
        lambda target: shutil.copyfile(path, target),
        setup=destination,
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    assert copied.stat().st_size == len(content)
