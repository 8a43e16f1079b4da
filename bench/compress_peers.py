"""Compressed puts beside pgzip, in one run: `python bench/compress_peers.py [--json]`.

Each row is a level. Both sides read the same file from the page cache, compress it on every
processor, write the result to a file without a sync, and take both digests on the way: put_blob into
a layout on tmpfs with durability "none" here, io.Copy into pgzip there. The sides alternate; a figure
is the median of ROUNDS. FASTCAS_BENCH_SIZE=small makes a smoke run of it, whose figures mean nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import fastcas
from fastcas.image.compress import library
from peers import program

SMALL = os.environ.get("FASTCAS_BENCH_SIZE", "") == "small"
CORPUS = (4 if SMALL else 64) * bed.MIB
ROUNDS = 1 if SMALL else 3
# pgzip's 9 takes 40 times as long as its 6.
LEVELS = (1, 6) if SMALL else (1, 2, 3, 4, 5, 6, 7, 8)
ZSTD_LEVELS = (3,) if SMALL else (1, 3, 9)


def corpus(size: int) -> bytes:
    """The first `size` bytes of a tar of Python's standard library, sorted: source text, bytecode and
    some shared objects."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            root = Path(os.__file__).resolve().parent
            for path in sorted(root.rglob("*")):
                if "site-packages" not in path.parts and path.is_file():
                    tar.add(path, os.fspath(path.relative_to(root)))
                if file.tell() > size:
                    break
        file.seek(0)
        return file.read(size)


def measure_put(base: Path, source: Path, name: str, level: int) -> tuple[float, fastcas.PutResult]:
    """Seconds of one put into a new layout, and its result."""
    root = bed.fresh(base)
    with fastcas.create(root, durability="none") as cas:
        started = time.perf_counter()
        result = cas.put_blob(source, compress=name, level=level)
        seconds = time.perf_counter() - started
        cas.delete_blob(result.digest)
    return seconds, result


def measure(base: Path, pgzip: program.Program | None) -> list[dict]:
    """One row for each compression and level."""
    source = base / "corpus.tar"
    content = corpus(CORPUS)
    source.write_bytes(content)
    diff_id = bed.digest_of(content)
    rows = []
    for name, level in [("gzip", n) for n in LEVELS] + [("zstd", n) for n in ZSTD_LEVELS]:
        ours, theirs = [], []
        row = {"compression": name, "level": level, "library": library(name, level)}
        for _ in range(ROUNDS):
            seconds, result = measure_put(base, source, name, level)
            assert result.diff_id == diff_id
            ours.append(seconds)
            row["ratio"] = len(content) / result.size
            if pgzip is not None and name == "gzip":
                answer = pgzip.call("compress", level, source, base / "pgzip.gz")
                assert answer["diff_id"] == diff_id
                theirs.append(answer["ns"] / 1e9)
                row["pgzip_ratio"] = len(content) / answer["size"]
        row["mb_s"] = len(content) / statistics.median(ours) / 1e6
        if theirs:
            row["pgzip_mb_s"] = len(content) / statistics.median(theirs) / 1e6
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    lines = [
        "| level | library | MB/s | ratio | pgzip MB/s | pgzip ratio |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        peer = "| - | - |"
        if "pgzip_mb_s" in row:
            peer = f"| {row['pgzip_mb_s']:.0f} | {row['pgzip_ratio']:.3f} |"
        lines.append(
            f"| {row['compression']} {row['level']} | {row['library']} | {row['mb_s']:.0f} "
            f"| {row['ratio']:.3f} {peer}"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    with bed.filesystem(bed.available_filesystems()[0]) as base:
        try:
            with program.start("pgzip", bed.WORK) as pgzip:
                rows, version = measure(base, pgzip), pgzip.version
        except program.Missing as error:
            rows, version = measure(base, None), f"pgzip left out, {error}"
    if "--json" in arguments:
        print(json.dumps({"environment": bed.environment(), "peer": version, "rows": rows}, indent=1))
    else:
        print(f"{CORPUS // bed.MIB} MiB of a tar of the standard library; {version}\n\n{table(rows)}")


if __name__ == "__main__":
    main(sys.argv[1:])
