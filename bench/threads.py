"""Threads and processes that put and get at once, and small gets beside a large put.

Throughput must rise to what the processors give and never fall. All threads of a run share one
engine; processes have one each. The work of a run is the same, whatever the number of workers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import fastcas

WORKERS = (1, 2, 4, 8)
SIZES = {"large": (64 * bed.MIB, 16), "small": (4 * bed.KIB, 4000)}  # bytes, how many


def put(cas: fastcas.Engine, sources: list[Path]) -> None:
    for source in sources:
        cas.put_blob(source)


def put_memory(cas: fastcas.Engine, contents: list[bytes]) -> None:
    for content in contents:
        cas.put_blob(content)


def get(cas: fastcas.Engine, digests: list[str]) -> None:
    buffer = bytearray(bed.MIB)
    for digest in digests:
        with cas.get_blob(digest) as blob:
            while blob.readinto(buffer):
                pass
            assert blob.verified


def get_memory(cas: fastcas.Engine, digests: list[str]) -> None:
    for digest in digests:
        cas.read_blob(digest)


def by_threads(root: Path, durability: str, work: Callable, shares: list[list]) -> float:
    with fastcas.open(root, durability=durability) as cas:
        threads = [threading.Thread(target=work, args=(cas, share)) for share in shares]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started


def in_process(root: Path, durability: str, work: Callable, share: list, ready, go) -> None:
    with fastcas.open(root, durability=durability) as cas:
        ready.release()
        go.wait()
        work(cas, share)


def by_processes(root: Path, durability: str, work: Callable, shares: list[list]) -> float:
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Event()
    processes = [
        context.Process(target=in_process, args=(root, durability, work, share, ready, go))
        for share in shares
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    started = time.perf_counter()
    go.set()
    for process in processes:
        process.join()
    elapsed = time.perf_counter() - started
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed")
    return elapsed


def throughput(base: Path, durability: str, kind: str, rounds: int) -> list[dict]:
    """Rows of puts and gets of one size, by so many workers, interleaved."""
    size, count = SIZES[kind]
    content = bed.random_bytes(size * count)
    contents = [content[at : at + size] for at in range(0, len(content), size)]
    stored = bed.fresh(base)
    with fastcas.create(stored, durability="none") as cas:
        digests = [cas.put_blob(one).digest for one in contents]
    if kind == "large":
        sources: list = [base / f"source{number}" for number in range(count)]
        for source, one in zip(sources, contents, strict=True):
            source.write_bytes(one)
        works: dict[str, Callable] = {"put": put, "get": get}
    else:
        sources = contents
        works = {"put": put_memory, "get": get_memory}
    ways = {"threads": by_threads, "processes": by_processes}
    runs = [(op, way, n) for op in works for way in ways for n in WORKERS if way == "threads" or n < 3]
    samples: dict[tuple[str, str, int], list[float]] = {run: [] for run in runs}
    for number in range(rounds + 1):
        for run in runs:
            operation, way, workers = run
            items = sources if operation == "put" else digests
            root = stored
            if operation == "put":
                root = bed.fresh(base)
                fastcas.create(root).close()
            bed.settle(base, size * count + (64 << 20))
            shares = [items[first::workers] for first in range(workers)]
            elapsed = ways[way](root, durability, works[operation], shares)
            if number:
                samples[run].append(elapsed)
            if operation == "put" and kind == "large":
                for path in (root / "blobs" / "sha256").iterdir():
                    path.unlink()
        runs = [*runs[1:], runs[0]]
    if kind == "large":
        for source in sources:
            source.unlink()
    records = []
    for (operation, way, workers), seconds in samples.items():
        figures = [size * count / s / 1e9 if kind == "large" else s / count * 1e6 for s in seconds]
        alone = samples[operation, way, 1]
        records.append({
            "benchmark": f"{operation} {bed.binary_size(size)}", "durability": durability,
            "workers": f"{workers} {way}", "unit": "GB/s" if kind == "large" else "µs",
            "median": statistics.median(figures), "least": min(figures), "most": max(figures),
            "of_one": statistics.median(a / s for a, s in zip(alone, seconds, strict=True)),
        })  # fmt: skip
    return records


def latency(base: Path, durability: str) -> list[dict]:
    """Small gets one by one, alone and beside a large put by another thread."""
    root = bed.fresh(base)
    source = base / "large"
    source.write_bytes(bed.random_bytes(512 * bed.MIB))
    records = []
    with fastcas.create(root, durability=durability) as cas:
        digests = [cas.put_blob(bed.random_bytes(4096, seed)).digest for seed in range(1000)]
        for beside in (False, True):
            bed.settle(base, 600 * bed.MIB)
            putting = threading.Thread(target=cas.put_blob, args=(source,))
            if beside:
                putting.start()
            times = []
            while putting.is_alive() if beside else len(times) < 20_000:
                for digest in digests:
                    started = time.perf_counter()
                    cas.read_blob(digest)
                    times.append((time.perf_counter() - started) * 1e6)
            if beside:
                putting.join()
            for name, part in (("p50", 50), ("p99", 99)):
                figure = statistics.quantiles(times, n=100)[part - 1]
                records.append({
                    "benchmark": f"get 4 KiB, {name}", "durability": durability,
                    "workers": "beside a put of 512 MiB" if beside else "alone", "unit": "µs",
                    "median": figure, "least": min(times), "most": max(times), "of_one": None,
                })  # fmt: skip
    source.unlink()
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--filesystems", default="tmpfs,ext4", help="of tmpfs, disk, ext4")
    parser.add_argument("--only", default="large,small,latency")
    parser.add_argument("--output", type=Path, help="the JSON file; default: one in results/")
    options = parser.parse_args()
    wanted = options.only.split(",")
    records: list[dict] = []
    for name in options.filesystems.split(","):
        durability = "none" if name == "tmpfs" else "full"
        with bed.filesystem(name) as base:
            found = []
            for kind in SIZES:
                if kind in wanted:
                    found += throughput(base, durability, kind, options.rounds)
            if "latency" in wanted:
                found += latency(base, durability)
            records += [{"filesystem": name, **record} for record in found]
    print("| benchmark | filesystem | durability | workers | unit | median (least-most) | x one |")
    print("|---|---|---|---|---|---:|---:|")
    for r in records:
        figure = f"{r['median']:.2f} ({r['least']:.2f}-{r['most']:.2f})"
        ratio = "-" if r["of_one"] is None else f"{r['of_one']:.2f}"
        print(f"| {r['benchmark']} | {r['filesystem']} | {r['durability']} | {r['workers']} "
              f"| {r['unit']} | {figure} | {ratio} |")  # fmt: skip
    result = {"environment": bed.environment(), "rounds": options.rounds, "rows": records}
    output = options.output or bed.HERE / "results" / time.strftime(
        "threads-%Y%m%d-%H%M%S.json", time.gmtime()
    )
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
