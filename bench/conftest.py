"""Fixtures of the benches; `pytest bench --benchmark-only`.

Every id names filesystem, durability and size. FASTCAS_BENCH_SIZE=small shrinks all sizes to a
smoke run of seconds, whose figures mean nothing; FASTCAS_BENCH_FILESYSTEMS=tmpfs,disk,ext4,xfs picks.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import fastcas
from peers.naive import Store

SMALL = os.environ.get("FASTCAS_BENCH_SIZE", "") == "small"
# Odd by 2123 bytes: no blob ends at the edge of a ring slot.
SIZES = (3 * bed.MIB + 2123,) if SMALL else (4 * bed.MIB, 512 * bed.MIB + 2123)
ROUNDS = 2 if SMALL else 5
SMALL_BLOBS = 20 if SMALL else 500
LISTED = 1000 if SMALL else 100_000
IMAGE = 320 * bed.MIB if SMALL else 4 * bed.GIB


def _chosen_filesystems() -> tuple[str, ...]:
    wanted = os.environ.get("FASTCAS_BENCH_FILESYSTEMS")
    available = bed.available_filesystems()
    return tuple(name for name in available if wanted is None or name in wanted.split(","))


def pytest_configure(config: pytest.Config) -> None:
    # pytest-randomly would tear apart the runs that are compared.
    if hasattr(config.option, "randomly_reorganize"):
        config.option.randomly_reorganize = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Bytes and loop mounts at full size take longer than a test may.
    for item in items:
        item.add_marker(pytest.mark.timeout(0))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["fastcas"] = bed.environment()


@pytest.fixture(scope="session", params=_chosen_filesystems())
def filesystem(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on the filesystem that the id names, emptied at the session's end."""
    try:
        with bed.filesystem(request.param, capacity=IMAGE) as base:
            yield base
    except bed.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=bed.DURABILITIES)
def durability(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=SIZES, ids=bed.short_size)
def content(request: pytest.FixtureRequest) -> bytes:
    """Random bytes of the size that the id names."""
    return bed.random_bytes(request.param)


@pytest.fixture
def source(filesystem: Path, content: bytes) -> Iterator[Path]:
    """The content as a file of the same filesystem, in the page cache and written back."""
    path = filesystem / "source"
    path.write_bytes(content)
    bed.settle(filesystem)
    yield path
    path.unlink()


@pytest.fixture
def group(benchmark, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Names the table in which a bench and its baselines stand together."""
    params = request.node.callspec.params

    def assign(name: str) -> None:
        parts = [name, params.get("filesystem"), params.get("durability")]
        if "content" in params:
            parts.append(bed.short_size(params["content"]))
            benchmark.extra_info["bytes"] = params["content"]
        benchmark.group = " ".join(part for part in parts if part)

    return assign


class Targets:
    """Fresh targets, made outside the timers; `remove` takes them away."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._made: list[Path] = []
        self._opened: list = []

    @property
    def latest(self) -> Path:
        return self._made[-1]

    def engine(self, durability: str, *, keep: bool = False) -> fastcas.Engine:
        """A new layout of ours. Older targets go, to bound disk use, unless `keep`: removing many
        files slows the next creates down."""
        return self.opened(fastcas.create(self._path(keep), durability=durability))

    def naive(self, sync: str, *, keep: bool = False) -> Store:
        """The same for the hashlib loop."""
        return self.opened(Store.create(self._path(keep), sync=sync))

    def opened(self, store):
        """Has `store` closed with the rest."""
        self._opened.append(store)
        return store

    def _path(self, keep: bool) -> Path:
        if not keep:
            self.remove()
        self._made.append(bed.fresh(self._base))
        bed.settle(self._base)
        return self.latest

    def remove(self) -> None:
        for store in self._opened:
            store.close()
        self._opened.clear()
        for target in self._made:
            shutil.rmtree(target)
        self._made.clear()


@pytest.fixture
def targets(filesystem: Path) -> Iterator[Targets]:
    made = Targets(filesystem)
    yield made
    made.remove()
