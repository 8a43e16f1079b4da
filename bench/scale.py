"""Layouts of 10 000, 100 000 and 1 000 000 blobs, and an index of 100 000 entries: what each
operation takes, and how far it raises the memory of its process.

Each operation runs in a process of its own, warm, at durability `none`; a peak is VmHWM, above that of
a process that has imported fastcas and opened the layout. A million blobs of tmpfs need about 5 GiB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import fastcas

PROGRAM = """
import itertools, os, sys, time
import fastcas
from fastcas import Descriptor

def peak():
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmHWM")))

root, count, known = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with fastcas.open(root, durability="none") as cas:
    before = peak()
    started = time.perf_counter()
    {operation}
    elapsed = time.perf_counter() - started
    print(elapsed, peak() - before)
"""

# What it is called, what runs, how often (of "count" blobs), whether it should be linear in them.
OPERATIONS = (
    ("list_blobs, all of it", "assert sum(1 for _ in cas.list_blobs()) >= count", 0, True),
    ("list_blobs, the first", "next(cas.list_blobs())", 1, False),
    ("stat_blob", "[cas.stat_blob(known) for _ in range(1000)]", 1000, False),
    ("put_blob", "[cas.put_blob(b'%d' % -n) for n in range(1, 1001)]", 1000, False),
    ("gc, dry run", "cas.gc(dry_run=True)", 0, True),
    ("gc, half of them removed", "cas.gc(grace=0, keep=[lambda blob: blob.digest[-1] < '8'])",
     0, True),
    ("scrub", "assert not cas.scrub(threads=1).problems", 0, True),
)  # fmt: skip

INDEX = (
    ("get_index", "assert len(cas.get_index().manifests) >= count"),
    ("list_references", "assert len(cas.list_references()) >= count"),
    ("resolve_reference", "assert cas.resolve_reference('v%d' % (count // 2))"),
    ("update_reference", "cas.update_reference('new', cas.get_index().manifests[0])"),
)


def measure(operation: str, root: Path, count: int, known: str) -> tuple[float, int]:
    """Seconds, and KiB of memory above what the process had when it began."""
    done = subprocess.run(
        [bed.python(), "-c", PROGRAM.format(operation=operation), root, str(count), known],
        env=bed.child_environment(), check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    elapsed, kib = done.stdout.split()
    return float(elapsed), int(kib)


def make_blobs(root: Path, count: int) -> str:
    """`count` blobs of a few bytes; the digest of one."""
    fastcas.create(root, durability="none").close()
    folder = root / "blobs" / "sha256"
    folder.mkdir(exist_ok=True)
    names = os.fspath(folder) + "/"
    digits = ""
    for number in range(count):
        content = b"%d" % number
        digits = hashlib.sha256(content).hexdigest()
        with open(names + digits, "xb", buffering=0) as file:
            file.write(content)
    return f"sha256:{digits}"


def make_index(root: Path, entries: int) -> str:
    with fastcas.create(root, durability="none") as cas:
        image = fastcas.build_image(cas, [], platform="linux/amd64")
        name = "org.opencontainers.image.ref.name"
        cas.put_index(fastcas.Index([
            image.replace(annotations={name: f"v{number}"}) for number in range(entries)
        ]))  # fmt: skip
        return image.digest


def row(name: str, scale: int, times: int, measured: tuple[float, int], linear: bool) -> dict:
    elapsed, kib = measured
    return {"operation": name, "scale": scale, "seconds": elapsed, "peak_kib": kib,
            "microseconds": elapsed / (times or scale) * 1e6, "linear": linear}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blobs", default="10000,100000,1000000")
    parser.add_argument("--entries", default="10000,100000")
    parser.add_argument("--filesystem", default="tmpfs", choices=bed.FILESYSTEMS)
    parser.add_argument("--output", type=Path, help="the JSON file; default: one in results/")
    options = parser.parse_args()
    records = []
    for count in map(int, filter(None, options.blobs.split(","))):
        with bed.filesystem(options.filesystem) as base:
            root = base / "layout"
            known = make_blobs(root, count)
            for name, operation, times, linear in OPERATIONS:
                print(f"{count} blobs: {name}", file=sys.stderr)
                measured = measure(operation, root, count, known)
                # What gc left: half of them.
                scale = len(os.listdir(root / "blobs" / "sha256")) if name == "scrub" else count
                records.append(row(name, scale, times, measured, linear))
    for count in map(int, filter(None, options.entries.split(","))):
        with bed.filesystem(options.filesystem) as base:
            known = make_index(base / "layout", count)
            for name, operation in INDEX:
                measured = measure(operation, base / "layout", count, known)
                records.append(row(f"{name}, index", count, 0, measured, True))
    print("| operation | blobs or entries | s | µs each | memory, MiB |")
    print("|---|---:|---:|---:|---:|")
    for r in records:
        print(f"| {r['operation']} | {r['scale']} | {r['seconds']:.4f} | {r['microseconds']:.2f} "
              f"| {r['peak_kib'] / 1024:.1f} |")  # fmt: skip
    output = options.output or bed.HERE / "results" / time.strftime(
        "scale-%Y%m%d-%H%M%S.json", time.gmtime()
    )
    result = {"environment": bed.environment(), "filesystem": options.filesystem, "rows": records}
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
