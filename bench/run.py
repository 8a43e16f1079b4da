"""fastcas beside umoci and a naive Python loop, interleaved in one run (`make bench-peers`).

In each round every system of a group runs twice back to back and the second is kept; the order
rotates from round to round. Reported are medians with their range, and ratios as the median of the
rounds' own ratios, so that a drift of the machine cancels. What is inside the timers: README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import memory
import startup
from groups import SCALES, Context, Group, Scale
from groups.get import copy_out, get_large
from groups.images import collect_images, walk_images
from groups.index import index_update
from groups.listing import list_blobs
from groups.put import put_large, put_many, put_reader
from groups.small import get_small, put_small
from peers.program import Umoci
from table import markdown, rewrite_readme

# Groups of many small files last, list the very last: what they leave slows later creates down.
GROUPS: dict[str, Callable[[Context], Iterator[Group]]] = {
    "put-large": put_large,
    "put-reader": put_reader,
    "put-many": put_many,
    "get-large": get_large,
    "copy": copy_out,
    "index": index_update,
    "put-small": put_small,
    "get-small": get_small,
    "walk": walk_images,
    "gc": collect_images,
    "list": list_blobs,
}


def measure(group: Group, rounds: int) -> dict[str, list[float]]:
    """Seconds of each system, one of each round."""
    samples: dict[str, list[float]] = {name: [] for name in group.systems}
    order = list(group.systems)
    for _ in range(min(rounds, group.rounds) if group.rounds else rounds):
        for name in order:
            system = group.systems[name]
            system()
            samples[name].append(system())
        order = [*order[1:], order[0]]
    return samples


def ratio(samples: dict[str, list[float]], ours: str, other: str) -> float:
    """How many times as fast as `other`: the median of the rounds' ratios."""
    return statistics.median(
        theirs / mine for mine, theirs in zip(samples[ours], samples[other], strict=True)
    )


def report(group: Group, filesystem: str, samples: dict[str, list[float]]) -> list[dict]:
    """The group's rows as plain values, for the JSON file and the table."""
    figures = {
        name: {
            "median": group.figure(statistics.median(seconds)),
            "least": min(map(group.figure, seconds)),
            "most": max(map(group.figure, seconds)),
            "seconds": seconds,
        }
        for name, seconds in samples.items()
    }
    records = []
    for row in group.rows:
        others = {"umoci": row.umoci, "naive": row.naive, "bound": row.bound}
        ratios = {
            column: ratio(samples, row.ours, other)
            for column, other in others.items()
            if other is not None
        }
        targets = {
            column: {"least": least, "met": ratios[column] >= least}
            for column, least in row.targets
            if column in ratios
        }
        records.append(
            {
                "name": row.name,
                "filesystem": filesystem,
                "durability": group.durability,
                "unit": group.unit,
                "size": group.size,
                "count": group.count,
                "ours": figures[row.ours],
                **{column: figures[other] for column, other in others.items() if other},
                "bound_name": row.bound,
                "ratios": ratios,
                "targets": targets,
                "notes": dict(group.notes),
            }
        )
    return records


def processes(scale: Scale) -> list[dict]:
    """Memory and start-up: figures of whole processes, against absolute limits."""
    records = []
    for operation, kib in memory.measure(scale.memory_blob).items():
        records.append(
            {
                "name": f"peak memory, {operation}",
                "value": kib / 1024,
                "limit": 8.0,
                "unit": "MiB",
            }
        )
    for name, milliseconds in startup.measure(scale.startup_runs).items():
        records.append(
            {
                "name": f"start-up, `{name}`",
                "value": milliseconds,
                "limit": startup.LIMITS[name],
                "unit": "ms",
            }
        )
    return records


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--size", choices=SCALES, default=os.environ.get("FASTCAS_BENCH_SIZE", "full"),
        help="small: seconds, to see that everything runs; its figures mean nothing",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, help="default: 7, or 1 with --size small")
    parser.add_argument(
        "--filesystems", default="tmpfs,ext4", help="of tmpfs, disk, ext4; comma-separated"
    )
    parser.add_argument("--only", default="", help="regular expression on the groups' names")
    parser.add_argument("--output", type=Path, help="the JSON file; default: one in results/")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--no-umoci", action="store_true")
    parser.add_argument("--no-processes", action="store_true", help="no memory, no start-up")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    scale = SCALES[options.size]
    rounds = options.rounds or (7 if options.size == "full" else 1)
    pattern = re.compile(options.only)
    program = None if options.no_umoci else Umoci.build(bed.WORK)
    result: dict = {"environment": bed.environment(), "rounds": rounds, "rows": []}
    umoci = None
    if program is not None:
        umoci = Umoci(program)
        result["environment"]["umoci"] = umoci.call("version")["version"]
    else:
        result["environment"]["umoci"] = "umoci not run"
    try:
        for name in options.filesystems.split(","):
            result["rows"] += run_filesystem(name, scale, umoci, pattern, rounds)
    finally:
        if umoci is not None:
            umoci.close()
    whole = not options.only and not options.no_processes
    result["processes"] = processes(scale) if whole else []
    table = markdown(result)
    print(table)
    output = options.output
    if output is None:
        # A smoke run's figures mean nothing: keep them out of results/.
        folder = bed.HERE / "results" if options.size == "full" else bed.WORK
        output = folder / time.strftime("peers-%Y%m%d-%H%M%S.json", time.gmtime())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {output}", file=sys.stderr)
    if whole and not options.no_umoci:
        compare_compression(options.size)
    if options.readme:
        rewrite_readme(table)
    return 0


def compare_compression(size: str) -> None:
    """Compression beside pgzip, whose table is one of its own: prints it."""
    program = os.fspath(bed.HERE / "compress_peers.py")
    environment = {**bed.child_environment(), "FASTCAS_BENCH_SIZE": size}
    print(flush=True)
    subprocess.run([bed.python(), program], env=environment, check=True)


def run_filesystem(
    name: str, scale: Scale, umoci: Umoci | None, pattern: re.Pattern, rounds: int
) -> list[dict]:
    try:
        with bed.filesystem(name, capacity=scale.ext4) as base:
            return run_groups(Context(base, name, scale, umoci), pattern, rounds)
    except bed.Unavailable as error:
        print(f"{name}: left out, {error}", file=sys.stderr)
        return []


def run_groups(context: Context, pattern: re.Pattern, rounds: int) -> list[dict]:
    measured = []
    for name, groups in GROUPS.items():
        if not pattern.search(name):
            continue
        for group in groups(context):
            print(f"{context.filesystem}: {group.name}, {group.durability}", file=sys.stderr)
            measured.append((group, measure(group, rounds)))
    # Not inside the loop: a group's notes are complete when its generator has ended.
    return [
        record for group, samples in measured for record in report(group, context.filesystem, samples)
    ]


if __name__ == "__main__":
    sys.exit(main())
