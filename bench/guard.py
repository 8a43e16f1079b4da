"""Fails when fastcas has become slower than it may be (`make bench-guard`).

Each pair runs ours and a baseline of the same process in turn, warm, on the same bytes; the median
of the rounds' speed ratios must reach the pair's floor. Never an absolute time: machines differ. A
floor lies below what was measured by more than the noise of small sizes on a shared machine, so it
catches a lost overlap, a copy, a quadratic step; it isn't the target. A pair below its floor is
measured again before it counts.

--slower 2 makes our side twice as slow on paper: every guard that can see a factor of two fails.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import fastcas
from fastcas import _core
from fastcas.contract import Contract
from fastcas.image.walk import mark
from groups.images import make_images
from peers.naive import Store

LARGE = 64 * bed.MIB
SMALL_BLOB = 4 * bed.KIB
SMALL_BLOBS = 400
LISTED = 20_000
IMAGES = 2_000
LANES_BLOB = 4 * bed.MIB
ROUNDS = 9
ATTEMPTS = 3

Timed = Callable[[], float]


@dataclass(frozen=True)
class Pair:
    name: str
    ours: Timed
    baseline: Timed
    floor: float


HAS_LANES = "; lanes: " in fastcas.backend

# Speed of ours over the baseline's. Both threads of a put or get on one CPU give 0.45-0.5 of EVP: the
# floors against EVP stand above that.
FLOORS = {
    "put file / EVP": 0.55,
    "put file / hashlib loop": 1.00,
    "put file, full, disk / hashlib loop": 1.00,
    "put readinto / EVP": 0.50,
    "put read / hashlib loop": 0.90,
    "get readinto aligned / EVP": 0.60,
    "get readinto unaligned / EVP": 0.60,
    "get readall / hashlib loop": 0.40,
    "put 4 KiB / hashlib loop": 0.40,
    "get 4 KiB / hashlib loop": 0.80,
    "list / os.listdir": 0.30,
    "copy out / shutil.copyfile": 0.80,
    # Of documents that are read one by one: 1 where nothing is read ahead.
    "walk / walk one by one": 1.15,
    "mark / mark one by one": 1.15,
    # On one thread. Without lanes it is libcrypto's, and reading comes on top.
    # One thread gives 1.4. Lanes add less than the noise: the next two hold those.
    "put_blobs files / hashlib loop": 1.50 if HAS_LANES else 1.30,
    "digest_many memory / EVP": 1.40 if HAS_LANES else 0.80,
    "digest_many files / EVP": 0.90 if HAS_LANES else 0.50,
    # What is digested instead of compared runs at a tenth of this.
    "quick scrub / read": 0.50,
    "copy out, verified / EVP": 0.55,
}
# Below two CPUs nothing overlaps and these say nothing.
NEEDS_TWO_CPUS = {
    "put file / EVP",
    "put file / hashlib loop",
    "put_blobs files / hashlib loop",
    "put readinto / EVP",
    "get readinto aligned / EVP",
    "get readinto unaligned / EVP",
    "copy out, verified / EVP",
}


class Bench:
    """Makes the pairs over two work directories: `fast` in memory where there is one, and `disk`."""

    def __init__(self, fast: Path, disk: Path, cleanup: ExitStack) -> None:
        self.fast = fast
        self.disk = disk
        self.cleanup = cleanup
        self.content = bed.random_bytes(LARGE)
        self.digest = bed.digest_of(self.content)
        self.blobs = [
            self.content[at : at + SMALL_BLOB] for at in range(0, SMALL_BLOBS * SMALL_BLOB, SMALL_BLOB)
        ]

    def pairs(self) -> Iterator[tuple[str, Timed, Timed]]:
        yield from self._puts()
        yield from self._gets()
        yield from self._small()
        yield self._list()
        yield from self._images()
        yield from self._lanes()
        yield self._quick_scrub()

    def _source(self, base: Path) -> Path:
        path = base / "source"
        if not path.exists():
            path.write_bytes(self.content)
            bed.settle(base)
        return path

    def _put(self, base: Path, durability: str, make: Callable[[], object]) -> Timed:
        def run() -> float:
            with self._target(base) as root, fastcas.create(root, durability=durability) as cas:
                source = make()
                started = time.perf_counter()
                result = cas.put_blob(source)
                elapsed = time.perf_counter() - started
                assert result == (self.digest, LARGE)
            return elapsed

        return run

    def _put_loop(self, base: Path, sync: str, put: Callable[[Store], str]) -> Timed:
        def run() -> float:
            with self._target(base) as root:
                store = Store.create(root, sync=sync)
                started = time.perf_counter()
                digest = put(store)
                elapsed = time.perf_counter() - started
                store.close()
                assert digest == self.digest
            return elapsed

        return run

    @contextmanager
    def _target(self, base: Path) -> Iterator[Path]:
        root = bed.fresh(base)
        bed.settle(base, 2 * LARGE)
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _evp(self) -> float:
        return bed.evp_seconds(self.content)

    def _puts(self) -> Iterator[tuple[str, Timed, Timed]]:
        source, slow = self._source(self.fast), self._source(self.disk)
        file = self._put(self.fast, "none", lambda: source)
        reader = self._put(self.fast, "none", lambda: bed.ReadIntoSource(self.content))
        read = self._put(self.fast, "none", lambda: bed.ReadSource(self.content))
        durable = self._put(self.disk, "full", lambda: slow)
        loop = self._put_loop(self.fast, "none", lambda store: store.put_file(source))
        durable_loop = self._put_loop(self.disk, "full", lambda store: store.put_file(slow))
        reader_loop = self._put_loop(
            self.fast, "none", lambda store: store.put_reader(bed.ReadIntoSource(self.content))
        )
        yield "put file / EVP", file, self._evp
        yield "put file / hashlib loop", file, loop
        yield "put file, full, disk / hashlib loop", durable, durable_loop
        yield "put readinto / EVP", reader, self._evp
        yield "put read / hashlib loop", read, reader_loop

    def _gets(self) -> Iterator[tuple[str, Timed, Timed]]:
        root = bed.fresh(self.fast)
        cas = self.cleanup.enter_context(fastcas.create(root, durability="none"))
        cas.put_blob(self.content)
        store = Store(root)
        self.cleanup.callback(store.close)
        pages = memoryview(mmap.mmap(-1, bed.MIB + mmap.PAGESIZE))

        def into(buffer: memoryview) -> Timed:
            def run() -> float:
                total = 0
                started = time.perf_counter()
                with cas.get_blob(self.digest) as blob:
                    while count := blob.readinto(buffer):
                        total += count
                elapsed = time.perf_counter() - started
                assert (total, blob.verified) == (LARGE, True)
                return elapsed

            return run

        def readall() -> float:
            started = time.perf_counter()
            with cas.get_blob(self.digest) as blob:
                total = len(blob.readall())
            elapsed = time.perf_counter() - started
            assert (total, blob.verified) == (LARGE, True)
            return elapsed

        def loop() -> float:
            started = time.perf_counter()
            assert store.get(self.digest) == LARGE
            return time.perf_counter() - started

        def copy(copied: Callable[[Path], object]) -> Timed:
            def run() -> float:
                target = bed.fresh(self.fast)
                started = time.perf_counter()
                copied(target)
                elapsed = time.perf_counter() - started
                assert target.stat().st_size == LARGE
                target.unlink()
                return elapsed

            return run

        yield "get readinto aligned / EVP", into(pages[: bed.MIB]), self._evp
        yield "get readinto unaligned / EVP", into(pages[16 : 16 + bed.MIB]), self._evp
        yield "get readall / hashlib loop", readall, loop
        stored = bed.blob_path(root, self.digest)
        yield (
            "copy out, verified / EVP",
            copy(lambda target: cas.copy_blob(self.digest, target, verify=True)),
            self._evp,
        )
        yield (
            "copy out / shutil.copyfile",
            copy(lambda target: cas.copy_blob(self.digest, target)),
            copy(lambda target: shutil.copyfile(stored, target)),
        )

    def _small(self) -> Iterator[tuple[str, Timed, Timed]]:
        def put() -> float:
            with fastcas.create(bed.fresh(self.fast), durability="none") as cas:
                started = time.perf_counter()
                for blob in self.blobs:
                    cas.put_blob(blob)
                return time.perf_counter() - started

        def put_loop() -> float:
            store = Store.create(bed.fresh(self.fast), sync="none")
            started = time.perf_counter()
            for blob in self.blobs:
                store.put_bytes(blob)
            elapsed = time.perf_counter() - started
            store.close()
            return elapsed

        root = bed.fresh(self.fast)
        cas = self.cleanup.enter_context(fastcas.create(root, durability="none"))
        store = Store(root)
        self.cleanup.callback(store.close)
        digests = [cas.put_blob(blob).digest for blob in self.blobs]
        assert digests == [bed.digest_of(blob) for blob in self.blobs]

        def get(read: Callable[[str], bytes]) -> Timed:
            def run() -> float:
                started = time.perf_counter()
                contents = [read(digest) for digest in digests]
                elapsed = time.perf_counter() - started
                assert contents == self.blobs
                return elapsed

            return run

        def read_blob(digest: str) -> bytes:
            return cas.read_blob(digest)  # as the class has it at that time: guard_slower changes it

        yield "put 4 KiB / hashlib loop", put, put_loop
        yield "get 4 KiB / hashlib loop", get(read_blob), get(store.get_bytes)

    def _lanes(self) -> Iterator[tuple[str, Timed, Timed]]:
        pieces = [self.content[at : at + LANES_BLOB] for at in range(0, LARGE, LANES_BLOB)]
        paths = [self.fast / f"lane{number}" for number in range(len(pieces))]
        for path, piece in zip(paths, pieces, strict=True):
            path.write_bytes(piece)
        expected = [(bed.digest_of(piece)[7:], len(piece)) for piece in pieces]
        files = [self.cleanup.enter_context(path.open("rb")).fileno() for path in paths]

        def many(items: list) -> Timed:
            def run() -> float:
                started = time.perf_counter()
                found = _core.digest_many(items, "sha256")
                elapsed = time.perf_counter() - started
                assert found == expected
                return elapsed

            return run

        def put() -> float:
            with self._target(self.fast) as root, fastcas.create(root, durability="none") as cas:
                started = time.perf_counter()
                results = cas.put_blobs(paths)
                elapsed = time.perf_counter() - started
                assert [(result.digest[7:], result.size) for result in results] == expected
            return elapsed

        def put_loop(store: Store) -> str:
            for path in paths:
                store.put_file(path)
            return self.digest

        yield (
            "put_blobs files / hashlib loop",
            put,
            self._put_loop(self.fast, "none", put_loop),
        )
        yield "digest_many memory / EVP", many(pieces), self._evp
        yield "digest_many files / EVP", many(files), self._evp

    def _quick_scrub(self) -> tuple[str, Timed, Timed]:
        root = bed.fresh(self.fast)
        cas = self.cleanup.enter_context(fastcas.create(root, durability="none"))
        pieces = [self.content[at : at + LANES_BLOB] for at in range(0, LARGE, LANES_BLOB)]
        digests = [cas.put_blob(piece).digest for piece in pieces]

        def ours() -> float:
            started = time.perf_counter()
            report = cas.scrub(quick=True, threads=1)
            elapsed = time.perf_counter() - started
            assert (report, report.by_checksum) == ((len(pieces), LARGE, []), len(pieces))
            return elapsed

        def read() -> float:
            buffer = bytearray(bed.MIB)
            started = time.perf_counter()
            for digest in digests:
                with bed.blob_path(root, digest).open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass
            return time.perf_counter() - started

        return "quick scrub / read", ours, read

    def _images(self) -> Iterator[tuple[str, Timed, Timed]]:
        root = bed.fresh(self.fast)
        make_images(root, IMAGES)
        cas = self.cleanup.enter_context(fastcas.open(root, durability="none"))
        entries = cas.get_index().manifests

        class OneByOne(fastcas.DirEngine):
            start_reading = Contract.start_reading

        alone = self.cleanup.enter_context(OneByOne.open(root, durability="none"))

        def walked(engine: fastcas.DirEngine) -> Timed:
            def run() -> float:
                started = time.perf_counter()
                count = sum(1 for _ in engine.walk(entries))
                elapsed = time.perf_counter() - started
                assert count == 3 * IMAGES
                return elapsed

            return run

        def marked(engine: fastcas.DirEngine) -> Timed:
            def run() -> float:
                started = time.perf_counter()
                count = len(mark(engine, entries))
                elapsed = time.perf_counter() - started
                assert count == 3 * IMAGES
                return elapsed

            return run

        yield "walk / walk one by one", walked(cas), walked(alone)
        yield "mark / mark one by one", marked(cas), marked(alone)

    def _list(self) -> tuple[str, Timed, Timed]:
        root = bed.fresh(self.fast)
        cas = self.cleanup.enter_context(fastcas.create(root, durability="none"))
        directory = root / "blobs" / "sha256"
        directory.mkdir(exist_ok=True)
        for number in range(LISTED):
            (directory / bed.digest_of(number.to_bytes(8, "little"))[7:]).touch()

        def listed(names: Callable[[], list]) -> Timed:
            def run() -> float:
                started = time.perf_counter()
                count = len(names())
                elapsed = time.perf_counter() - started
                assert count == LISTED
                return elapsed

            return run

        return (
            "list / os.listdir",
            listed(lambda: list(cas.list_blobs())),
            listed(lambda: os.listdir(directory)),
        )


def measure(pair: Pair, rounds: int, slower: float) -> float:
    """Median speed ratio; the first round warms up and isn't counted."""
    ratios = []
    for number in range(rounds + 1):
        # Whoever runs second may find caches warmer: take turns.
        if number % 2:
            mine, theirs = pair.ours(), pair.baseline()
        else:
            theirs, mine = pair.baseline(), pair.ours()
        if number:
            ratios.append(theirs / (mine * slower))
    return statistics.median(ratios)


def guard(pairs: Iterator[Pair], rounds: int, slower: float) -> list[str]:
    """Prints each pair's ratio; gives the names of those below their floor."""
    failed = []
    print(f"{'pair':38} {'ratio':>6} {'floor':>6}")
    for pair in pairs:
        best = 0.0
        for _ in range(ATTEMPTS):
            best = max(best, measure(pair, rounds, slower))
            if best >= pair.floor:
                break
        else:
            failed.append(pair.name)
        verdict = "" if best >= pair.floor else "  BELOW"
        print(f"{pair.name:38} {best:6.2f} {pair.floor:6.2f}{verdict}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="part of a pair's name")
    parser.add_argument(
        "--floor-scale", type=float,
        default=float(os.environ.get("FASTCAS_BENCH_FLOOR_SCALE", "1")),
        help="multiplies every floor; also FASTCAS_BENCH_FLOOR_SCALE",
    )  # fmt: skip
    parser.add_argument(
        "--slower", type=float, default=1.0, help="our times count this many times over"
    )
    options = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    fast_name = "tmpfs" if "tmpfs" in bed.available_filesystems() else "disk"

    def chosen(bench: Bench) -> Iterator[Pair]:
        for name, ours, baseline in bench.pairs():
            if options.only not in name:
                continue
            if cpus < 2 and name in NEEDS_TWO_CPUS:
                print(f"{name:38} left out: one CPU")
                continue
            yield Pair(name, ours, baseline, FLOORS[name] * options.floor_scale)

    started = time.perf_counter()
    with bed.filesystem(fast_name) as fast, bed.filesystem("disk") as disk, ExitStack() as cleanup:
        failed = guard(chosen(Bench(fast, disk, cleanup)), options.rounds, options.slower)
    print(f"{time.perf_counter() - started:.0f} s, {cpus} CPUs, {fastcas.backend}")
    if failed:
        print(f"below the floor: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
