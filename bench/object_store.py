"""fastcas on an S3 server beside boto3, s3fs and a plain loop over obstore (`make bench-objectstore`).

One versitygw on loopback, over HTTP, its files on a tmpfs, serves them all. Each client is a process
that lives through the rounds and times itself, in seconds and in those of its CPU; in each round all
run once, in an order that rotates, after one round that doesn't count. Memory is measured in processes
of their own. The server and, for what is far away, the proxy share the processors with the client,
so that the CPU is the steadier figure. What is compared: README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))
sys.path.insert(1, os.fspath(Path(__file__).resolve().parents[1] / "tests" / "objectstore"))

import bed
import proxy
from peers.object_stores import BUCKET, PART, TASKS, THREADS
from peers.program import Program
from server import ACCESS_KEY, REGION, Server, serving

SYSTEMS = ("fastcas", "boto3", "s3fs", "obstore")
PAYLOADS = ("signed", "unsigned")


class Scale(NamedTuple):
    """Sizes of one run, bytes and counts."""

    large: int
    small: int  # of 4 KiB, one by one
    together_small: int  # of 4 KiB, in one call
    together_large: tuple[int, int]  # how many, of how many bytes
    listed: int
    far: int  # of 4 KiB, at FAR_SECONDS
    memory: tuple[int, ...]


FULL = Scale(512 * bed.MIB, 1000, 2000, (64, 8 * bed.MIB), 10_000, 100, (512 * bed.MIB, 2 * bed.GIB))
SMOKE = Scale(17 * bed.MIB, 20, 40, (4, bed.MIB), 1100, 5, (16 * bed.MIB,))
SMALL = 4 * bed.KIB
FAR_SECONDS = 0.02


class Way(NamedTuple):
    """How one system does it: a method of its class in peers/object_stores.py."""

    system: str
    method: str
    label: str
    # Of the first way of the bench: at least so many times as fast, at most so much of its CPU.
    speed: float | None = None
    cpu: float | None = None


class Bench(NamedTuple):
    """`ways` at the same work; the first one is what the others are compared with."""

    name: str
    kind: str  # put, get or list
    blobs: str  # the name of the listing: Bed.listings
    ways: tuple[Way, ...]
    payloads: tuple[str, ...] = ("signed",)
    seconds: float = 0  # how far away the server is


def benches(scale: Scale) -> list[Bench]:
    large = bed.binary_size(scale.large)
    many, each = scale.together_large
    one_by_one = (
        Way("boto3", "put", "put_object"),
        Way("fastcas", "put", "put_blob", speed=8),
        Way("s3fs", "put", "pipe_file"),
        Way("obstore", "put", "hashlib, put"),
    )
    gets = (
        Way("boto3", "read", "get_object, hashlib"),
        Way("fastcas", "read", "read_blob", speed=8),
        Way("fastcas", "get", "get_blob, readinto"),
        Way("s3fs", "read", "cat_file, hashlib"),
        Way("obstore", "read", "get, hashlib"),
    )
    together = (
        Way("boto3", "put", "one by one"),
        Way("boto3", "put_threads", f"{THREADS} threads"),
        Way("fastcas", "put_together", "put_blobs"),
        Way("fastcas", "put", "one by one"),
        Way("s3fs", "put_together", "its own call for many"),
        Way("obstore", "put_threads", f"hashlib, put, {THREADS} threads"),
        Way("obstore", "put_async", f"hashlib, put_async, {TASKS} tasks"),
    )
    far = f"{FAR_SECONDS * 1000:g} ms away"
    return [
        Bench(f"put {large}", "put", "large", (
            Way("boto3", "put_unhashed", "upload_file, unhashed"),
            Way("boto3", "put", "hashlib, upload_file"),
            Way("fastcas", "put_known", "file, digest given", speed=1.3, cpu=0.4),
            Way("fastcas", "put", "file, two passes"),
            Way("fastcas", "put_reader", "unseekable reader"),
            Way("s3fs", "put_unhashed", "put_file, unhashed"),
            Way("obstore", "put_unhashed", "put, unhashed"),
            Way("obstore", "put", "hashlib, put"),
        ), PAYLOADS),
        Bench(f"verified get {large}", "get", "large", (
            Way("boto3", "get", "download_fileobj, hashlib"),
            Way("boto3", "get_body", "get_object, hashlib"),
            Way("fastcas", "get", "get_blob, readinto", speed=1.5),
            Way("s3fs", "get", "open, hashlib"),
            Way("obstore", "get", "get, hashlib"),
            Way("obstore", "get_unhashed", "get, unhashed"),
        )),
        Bench(f"put {many} x {bed.binary_size(each)}", "put", "together_large", together, PAYLOADS),
        Bench("put 4 KiB one by one", "put", "small", one_by_one),
        Bench("verified get 4 KiB one by one", "get", "small", gets),
        Bench(f"put {scale.together_small} x 4 KiB", "put", "together_small", together),
        Bench(f"list {scale.listed}", "list", "listed", (
            Way("boto3", "list", "paginator"),
            Way("fastcas", "list", "list_blobs", speed=3.5),
            Way("s3fs", "list", "find"),
            Way("obstore", "list", "list"),
        )),
        Bench(f"put {scale.far} x 4 KiB, {far}", "put", "far", together, seconds=FAR_SECONDS),
        Bench(f"verified get 4 KiB one by one, {far}", "get", "far", gets, seconds=FAR_SECONDS),
    ]  # fmt: skip


@contextlib.contextmanager
def far_away(server: Server) -> Iterator[str]:
    """A proxy before it that makes each request wait: its URL."""
    process = subprocess.Popen(
        [sys.executable, proxy.__file__, server.address, "--delay", str(FAR_SECONDS)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()  # it ends with it
        process.wait()
        process.stdout.close()


# Of each system: a put and a get of one blob, of which the memory is measured.
MEMORY = (
    Way("boto3", "put_unhashed", "upload_file, unhashed"),
    Way("fastcas", "put_known", "put, digest given"),
    Way("fastcas", "put", "put, two passes"),
    Way("fastcas", "put_reader", "put, unseekable reader"),
    Way("s3fs", "put_unhashed", "put_file, unhashed"),
    Way("obstore", "put_unhashed", "put, unhashed"),
    Way("boto3", "get", "download_fileobj, hashlib"),
    Way("fastcas", "get", "get_blob, readinto"),
    Way("s3fs", "get", "open, hashlib"),
    Way("obstore", "get", "get, hashlib"),
)


class Place:
    """The server's bucket and files, what is put there, and the clients."""

    def __init__(self, base: Path, scale: Scale, server: Server, far: str) -> None:
        self.base = base
        self.scale = scale
        self.endpoint = server.url
        self.far_endpoint = far
        self._environment = {
            **bed.child_environment(),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,  # boto3's
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "TMPDIR": os.fspath(base),  # what must be spooled is, like all else, in memory
        }
        self._files = server.root / BUCKET
        self._files.mkdir()
        self._programs: dict[tuple[str, str], Program] = {}
        self._serial = 0
        # A listing, and the file that its blobs are cut from where they come from memory.
        self.listings: dict[str, tuple[Path, ...]] = {}
        self.expected: dict[str, dict[str, int]] = {}  # sizes of the blobs of each, by digest

    def start(self, system: str, payload: str) -> Program:
        script = bed.HERE / "peers" / "object_stores.py"
        command = [sys.executable, os.fspath(script), system, payload]
        return Program(system, command, self._environment)

    def program(self, system: str, payload: str) -> Program:
        if (system, payload) not in self._programs:
            self._programs[system, payload] = self.start(system, payload)
        return self._programs[system, payload]

    def close(self) -> None:
        for program in self._programs.values():
            program.close()

    def prefix(self) -> str:
        self._serial += 1
        return f"layout-{self._serial}"

    def add_listing(self, name: str, size: int, count: int, *, memory: bool) -> None:
        """`count` blobs of `size` random bytes, in files of their own or to be taken from memory."""
        content = bed.random_bytes(size * count, seed=len(self.listings))
        lines, expected = [], {}
        for number in range(count):
            piece = memoryview(content)[number * size : (number + 1) * size]
            source = self.base / (name if memory else f"{name}{number}")
            digest = bed.digest_of(piece)
            expected[digest.removeprefix("sha256:")] = size
            lines.append(f"{digest}\t{size}\t{source}\n")
            if not memory:
                source.write_bytes(piece)
        listing = self.base / f"{name}.list"
        listing.write_text("".join(lines))
        self.listings[name] = (listing,)
        if memory:
            (self.base / name).write_bytes(content)
            self.listings[name] = (listing, self.base / name)
        self.expected[name] = expected

    def store(self, name: str) -> str:
        """A layout that holds the blobs of a listing: its prefix. Whoever can makes it one."""
        prefix = self.prefix()
        try:
            self.program("fastcas", "signed").call("create", self.endpoint, prefix)
        except RuntimeError:
            pass  # said where it is to be measured
        putter = self.program("obstore", "signed")
        putter.call("put_threads", self.endpoint, prefix, *self.listings[name])
        return prefix

    def remove(self, prefix: str) -> None:
        """By the server's own files: it is quicker, and no client keeps anything of a prefix."""
        shutil.rmtree(self._files / prefix, ignore_errors=True)

    def check(self, prefix: str, name: str, *, content: bool) -> None:
        """That the server has those blobs, and with `content` the right ones."""
        folder = self._files / prefix / "blobs" / "sha256"
        found = {path.name: path.stat().st_size for path in folder.iterdir()}
        if found != self.expected[name]:
            raise AssertionError(f"{len(found)} blobs of other names or sizes are in {folder}")
        for digest in found if content else ():
            if bed.digest_of_file(folder / digest) != f"sha256:{digest}":
                raise AssertionError(f"{digest} is stored with other content")


def add_listings(place: Place, scale: Scale) -> None:
    many, each = scale.together_large
    place.add_listing("large", scale.large, 1, memory=False)
    place.add_listing("together_large", each, many, memory=False)
    for name in ("small", "together_small", "far"):
        place.add_listing(name, SMALL, getattr(scale, name), memory=True)
    place.add_listing("listed", 16, scale.listed, memory=True)


def run_once(place: Place, bench: Bench, way: Way, payload: str, stored: str, check: bool) -> dict:
    program = place.program(way.system, payload)
    near = place.endpoint
    endpoint = place.far_endpoint if bench.seconds else near
    bed.settle(place.base, sum(place.expected[bench.blobs].values()) + 64 * bed.MIB)
    blobs = place.listings[bench.blobs]
    if bench.kind == "put":
        prefix = place.prefix()
        try:
            program.call("create", near, prefix)
            answer = program.call(way.method, endpoint, prefix, *blobs)
            place.check(prefix, bench.blobs, content=check)
        finally:
            place.remove(prefix)
    elif bench.kind == "get":
        answer = program.call(way.method, endpoint, stored, blobs[0])
    else:
        answer = program.call(way.method, endpoint, stored)
        if answer["count"] != len(place.expected[bench.blobs]):
            raise AssertionError(f"{answer['count']} blobs were listed")
    return answer


class Failures:
    """What was left out, and why; said at once, and by the exit code."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, what: str, error: Exception) -> None:
        self.count += 1
        print(f"{what}: left out: {error}", file=sys.stderr, flush=True)


def measure(place: Place, bench: Bench, rounds: int, warmups: int, failures: Failures) -> list[dict]:
    """The bench's rows as plain values."""
    runs = [(way, payload) for payload in bench.payloads for way in bench.ways]
    stored = place.store(bench.blobs) if bench.kind != "put" else ""
    samples: dict[tuple[Way, str], list[dict]] = {run: [] for run in runs}
    order = list(runs)
    for number in range(-warmups, rounds):
        for run in list(order):
            way, payload = run
            try:
                answer = run_once(place, bench, way, payload, stored, check=number == -warmups)
            except (RuntimeError, AssertionError) as error:
                failures.add(f"{bench.name}: {way.system}, {way.label}, {payload}", error)
                order.remove(run)
                del samples[run]
                continue
            if number >= 0:
                samples[run].append(answer)
        order = [*order[1:], *order[:1]]
    if stored:
        place.remove(stored)
    first = samples.get(runs[0])
    return [row(place, bench, *run, answers, first) for run, answers in samples.items()]


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def row(
    place: Place, bench: Bench, way: Way, payload: str, answers: list[dict], first: list[dict] | None
) -> dict:
    sizes = place.expected[bench.blobs].values()
    record = {
        "benchmark": bench.name, "system": way.system, "way": way.label,
        "payload": payload if bench.kind == "put" else "-", "away": bench.seconds,
        "size": sum(sizes), "count": len(sizes),
    }  # fmt: skip
    for name, key in (("seconds", "ns"), ("cpu", "cpu_ns")):
        values = [answer[key] / 1e9 for answer in answers]
        record[name] = {**spread(values), "all": values}
        if first is not None:  # the median of the rounds' ratios, so that a drift cancels
            pairs = zip(first, answers, strict=True)
            ratios = [(a[key] / b[key]) if name == "seconds" else (b[key] / a[key]) for a, b in pairs]
            record[f"{name}_of_first"] = statistics.median(ratios)
    targets = {"speed": (way.speed, "seconds_of_first"), "cpu": (way.cpu, "cpu_of_first")}
    record["targets"] = {
        name: {"bound": bound, "met": record[key] >= bound if name == "speed" else record[key] <= bound}
        for name, (bound, key) in targets.items()
        if bound is not None and key in record and not bench.seconds
    }
    return record


def measure_memory(place: Place, ways: Sequence[Way], failures: Failures) -> list[dict]:
    """Peaks of processes that do nothing else, above what they had after the same with 4 KiB."""
    place.add_listing("tiny", SMALL, 1, memory=False)
    for size in place.scale.memory:
        source = place.base / f"memory{size}"
        with source.open("wb") as file:
            file.truncate(size)
        digest = bed.digest_of_file(source)
        listing = place.base / f"{source.name}.list"
        listing.write_text(f"{digest}\t{size}\t{source}\n")
        place.listings[source.name] = (listing,)
        place.expected[source.name] = {digest.removeprefix("sha256:"): size}
    records = []
    for way in ways:
        peaks = []
        for size in place.scale.memory:
            try:
                peaks.append(peak_memory(place, way, f"memory{size}"))
            except RuntimeError as error:
                failures.add(f"memory: {way.system}, {way.label}", error)
                break
        else:
            records.append({
                "benchmark": "memory", "system": way.system, "way": way.label,
                "sizes": place.scale.memory, "before_kib": [before for before, _ in peaks],
                "peak_kib": [peak for _, peak in peaks],
            })  # fmt: skip
    return records


def peak_memory(place: Place, way: Way, name: str) -> tuple[int, int]:
    """KiB: after one of 4 KiB, and after the large one."""
    is_get = way.method.startswith("get")
    peaks, prefixes = [], []
    program = place.start(way.system, "signed")
    try:
        for blobs in ("tiny", name):
            if is_get:
                prefixes.append(place.store(blobs))
            else:
                prefixes.append(place.prefix())
                program.call("create", place.endpoint, prefixes[-1])
            answer = program.call(way.method, place.endpoint, prefixes[-1], *place.listings[blobs])
            peaks.append(answer["peak_kib"])
    finally:
        program.close()
        for prefix in prefixes:
            place.remove(prefix)
    return peaks[0], peaks[1]


def conditions(environment: dict, rounds: int) -> str:
    return (
        "{date}; {cpu}, {cpus} CPUs, load {loadavg:.1f}; Linux {kernel}; Python {python}; {backend}; "
        .format_map(environment) + "; ".join(environment["systems"])
        + f". Median (least-most) of {rounds} rounds.\n"
    )  # fmt: skip


def table(records: list[dict]) -> str:
    lines = [
        "| benchmark | system | payload | (least-most) | speed, x first | client CPU s | CPU, x first "
        "| target |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for r in records:
        seconds, cpu = r["seconds"], r["cpu"]
        if r["size"] / r["count"] > PART // 2:
            unit = "GB/s"
            figures = [r["size"] / seconds[key] / 1e9 for key in ("median", "most", "least")]
        else:
            unit = "µs"
            figures = [seconds[key] / r["count"] * 1e6 for key in ("median", "least", "most")]
        digits = 2 if unit == "GB/s" else 0
        middle, low, high = (f"{figure:.{digits}f}" for figure in figures)
        keys = ("seconds_of_first", "cpu_of_first")
        speed, used = (f"{r[key]:.2f}" if key in r else "-" for key in keys)
        words = [
            f"{'≥' if name == 'speed' else 'CPU ≤'} {target['bound']:g}: "
            f"{'met' if target['met'] else '**missed**'}"
            for name, target in r["targets"].items()
        ]
        lines.append(
            f"| {r['benchmark']} | {r['system']}: {r['way']} | {r['payload']} "
            f"| {middle} {unit} ({low}-{high}) | {speed} "
            f"| {cpu['median']:.2f} ({cpu['least']:.2f}-{cpu['most']:.2f}) | {used} "
            f"| {'; '.join(words) or '-'} |"
        )
    return "\n".join(lines)


def memory_table(records: list[dict], sizes: Sequence[int]) -> str:
    names = " | ".join(f"peak, {bed.binary_size(size)}" for size in sizes)
    lines = [
        f"| memory, MiB | system | after 4 KiB | {names} |",
        "|---|---|---:" + "|---:" * len(sizes) + "|",
    ]
    for r in records:
        peaks = " | ".join(f"{kib / 1024:.0f}" for kib in r["peak_kib"])
        lines.append(f"| {r['way']} | {r['system']} | {r['before_kib'][0] / 1024:.0f} | {peaks} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="small, one round: figures mean nothing")
    parser.add_argument("--only", default="", help="only what has this in its name; memory is one")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="of " + ", ".join(SYSTEMS))
    parser.add_argument("--output", type=Path, help="the JSON file; default: one in results/")
    options = parser.parse_args()
    scale, rounds, warmups = (SMOKE, 1, 0) if options.smoke else (FULL, options.rounds, 1)
    output = options.output
    if output is None and not options.smoke:
        name = time.strftime("object-store-%Y%m%d-%H%M%S.json", time.gmtime())
        output = bed.HERE / "results" / name
    wanted = options.systems.split(",")
    failures = Failures()
    records: list[dict] = []
    environment = bed.environment()

    def keep(rows: list[dict], text: str) -> None:
        """Shows and writes what there is, so that an end before the end loses no row."""
        print(text, flush=True)
        records.extend(rows)
        if output is not None:
            result = {"environment": environment, "rounds": rounds, "rows": records}
            output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")

    # What ends it, ends it through the exits of all that follows: gigabytes of memory are given back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        base = stack.enter_context(bed.filesystem("tmpfs"))
        server = stack.enter_context(serving())
        far = stack.enter_context(far_away(server))
        place = Place(base, scale, server, far)
        stack.callback(place.close)
        add_listings(place, scale)
        environment["systems"] = [place.program(name, "signed").version for name in wanted]
        print(conditions(environment, rounds))
        for bench in benches(scale):
            # The first one is compared with, whatever else is wanted.
            ways = (bench.ways[0], *(way for way in bench.ways[1:] if way.system in wanted))
            if options.only in bench.name:
                rows = measure(place, bench._replace(ways=ways), rounds, warmups, failures)
                keep(rows, table(rows))
        if options.only in "memory":
            ways = tuple(way for way in MEMORY if way.system in wanted)
            rows = measure_memory(place, ways, failures)
            keep(rows, memory_table(rows, scale.memory))
    if output is not None:
        print(f"written to {output}", file=sys.stderr)
    return 1 if failures.count else 0


if __name__ == "__main__":
    sys.exit(main())
