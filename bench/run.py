"""fastcas beside other stores and a naive Python loop, interleaved in one run (`make bench-peers`).

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
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
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
from groups.many import put_many
from groups.put import put_large, put_reader
from groups.scrub import algorithms, scrub
from groups.sizes import get_sizes, put_sizes
from groups.small import get_small, put_small
from peers import program
from table import markdown, rewrite_readme

# Groups of many small files last, list the very last: what they leave slows later creates down.
GROUPS: dict[str, Callable[[Context], Iterator[Group]]] = {
    "put-large": put_large,
    "put-reader": put_reader,
    "put-many": put_many,
    "get-large": get_large,
    "copy": copy_out,
    "scrub": scrub,
    "algorithms": algorithms,
    "index": index_update,
    "put-sizes": put_sizes,
    "get-sizes": get_sizes,
    "put-small": put_small,
    "get-small": get_small,
    "walk": walk_images,
    "gc": collect_images,
    "list": list_blobs,
}


class Budget:
    """Shares the time that a run may take among what is still to be measured."""

    def __init__(self, seconds: float, parts: int) -> None:
        self._end = time.monotonic() + seconds
        self._parts = parts
        self._part_end = self._end

    def next_part(self) -> None:
        """The next of the parts begins, which gets an equal share of the time that is left."""
        now = time.monotonic()
        self._part_end = now + (self._end - now) / self._parts
        self._parts -= 1

    def group_end(self) -> float:
        """When the next group of this part should end: it leaves half of the time for others."""
        now = time.monotonic()
        return now + (self._part_end - now) / 2


def measure(group: Group, rounds: int, end: float) -> dict[str, list[float]]:
    """Seconds of each system, one of each round; no new round that would end after `end`."""
    samples: dict[str, list[float]] = {name: [] for name in group.systems}
    order = list(group.systems)
    for _ in range(min(rounds, group.rounds) if group.rounds else rounds):
        started = time.monotonic()
        for name in order:
            system = group.systems[name]
            system()
            samples[name].append(system())
        order = [*order[1:], order[0]]
        if 2 * time.monotonic() - started > end:
            break
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
        ratios = {name: ratio(samples, row.ours, name) for name in group.peers}
        best = min(ratios, key=ratios.__getitem__, default=None)
        if best is not None:
            ratios["best"] = ratios[best]
        if row.bound is not None:
            ratios["bound"] = ratio(samples, row.ours, row.bound)
        records.append(
            {
                "name": row.name,
                "filesystem": filesystem,
                "durability": group.durability,
                "cache": group.cache,
                "unit": group.unit,
                "size": group.size,
                "blob": group.blob,
                "count": group.count,
                "ours": figures[row.ours],
                "peers": {name: figures[name] for name in group.peers},
                "best": best,
                "bound": figures[row.bound] if row.bound else None,
                "bound_name": row.bound,
                "ratios": ratios,
                "targets": {
                    column: {"least": least, "met": ratios[column] >= least}
                    for column, least in row.targets
                    if column in ratios
                },
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
    parser.add_argument(
        "--quick", dest="size", action="store_const", const="quick",
        help="the same as --size quick: smaller blobs, fewer files, about three minutes",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, help="at the most; default: 7, or 1 with --size small")
    parser.add_argument(
        "--budget", type=float, default=18,
        help="minutes for the table, more or less: fewer rounds where they don't fit, never less than "
        "one; default: 18",
    )  # fmt: skip
    parser.add_argument(
        "--filesystems", default="tmpfs,ext4,xfs", help="of tmpfs, disk, ext4, xfs; comma-separated"
    )
    parser.add_argument(
        "--peers", type=peers_of, default=",".join(program.STORES),
        help="which of them, comma-separated; empty, or naive: only the naive loop, which always runs",
    )  # fmt: skip
    parser.add_argument("--only", default="", help="regular expression on the groups' names")
    parser.add_argument("--output", type=Path, help="the JSON file; default: one in results/")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--no-processes", action="store_true", help="no memory, no start-up")
    return parser.parse_args()


def peers_of(text: str) -> list[str]:
    names = [name for name in text.split(",") if name not in ("", "naive")]
    for name in names:
        if name not in program.STORES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(program.STORES)}")
    return names


def main() -> int:
    options = arguments()
    scale = SCALES[options.size]
    rounds = options.rounds or (1 if options.size == "small" else 7)
    filesystems = options.filesystems.split(",")
    groups = {name: group for name, group in GROUPS.items() if re.search(options.only, name)}
    output = options.output
    if output is None:
        # A smoke run's figures mean nothing: keep them out of results/.
        folder = bed.HERE / "results" if options.size == "full" else bed.WORK
        output = folder / time.strftime("peers-%Y%m%d-%H%M%S.json", time.gmtime())
    output.parent.mkdir(parents=True, exist_ok=True)
    result: dict = {"environment": bed.environment(), "rounds": rounds, "rows": [], "failed": []}
    with ExitStack() as stack:
        peers = started(options.peers, stack)
        result["environment"]["peers"] = [peer.version for peer in peers]
        budget = Budget(60 * options.budget, len(filesystems) * len(groups))
        for name in filesystems:
            try:
                with bed.filesystem(name, capacity=scale.disk) as base:
                    context = Context(base, name, scale, peers)
                    rows, failed = run_groups(context, groups, rounds, budget)
                    result["rows"] += rows
                    result["failed"] += failed
            except bed.Unavailable as error:
                print(f"{name}: left out, {error}", file=sys.stderr)
            keep(result, output)
    whole = not options.only and not options.no_processes
    result["processes"] = processes(scale) if whole else []
    table = markdown(result)
    print(table)
    keep(result, output)
    print(f"written to {output}", file=sys.stderr)
    if whole:
        compare_compression(options.size)
    if options.readme:
        rewrite_readme(table)
    for part in result["failed"]:
        print(f"{part}: failed, see above; the rest of it is missing", file=sys.stderr)
    return 1 if result["failed"] else 0


def keep(result: dict, output: Path) -> None:
    """Also before the end: the run takes long."""
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def started(names: Sequence[str], stack: ExitStack) -> list[program.Program]:
    """The peers that can be had here, running until `stack` ends."""
    peers = []
    for name in names:
        try:
            peers.append(stack.enter_context(program.start(name, bed.WORK)))
        except program.Missing as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
    return peers


def compare_compression(size: str) -> None:
    """Compression beside pgzip, whose table is one of its own: prints it."""
    script = os.fspath(bed.HERE / "compress_peers.py")
    environment = {**bed.child_environment(), "FASTCAS_BENCH_SIZE": size}
    print(flush=True)
    subprocess.run([bed.python(), script], env=environment, check=True)


def run_groups(
    context: Context,
    generators: dict[str, Callable[[Context], Iterator[Group]]],
    rounds: int,
    budget: Budget,
) -> tuple[list[dict], list[str]]:
    """The rows, and the parts that failed: what was measured before isn't lost with them."""
    measured, failed = [], []
    for part, groups in generators.items():
        budget.next_part()
        try:
            for group in groups(context):
                print(
                    f"{context.filesystem}: {group.name}, {group.durability}, {group.cache}",
                    file=sys.stderr,
                )
                measured.append((group, measure(group, rounds, budget.group_end())))
        except Exception:
            traceback.print_exc()
            failed.append(f"{context.filesystem}: {part}")
    # Not inside the loop: a group's notes are complete when its generator has ended.
    rows = [
        record for group, samples in measured for record in report(group, context.filesystem, samples)
    ]
    return rows, failed


if __name__ == "__main__":
    sys.exit(main())
