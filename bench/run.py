"""fastcas beside umoci and a naive Python loop, interleaved in one run (`make bench-peers`).

In each round every system of a group runs twice back to back and the second is kept; the order
rotates from round to round. Reported are medians with their range, and ratios as the median of the
rounds' own ratios, so that a drift of the machine cancels. What is inside the timers: README.md.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import fastcas
import memory
import startup
from peers.naive import Store
from peers.umoci.client import Umoci, build

SMALL_BLOB = 4 * bed.KIB
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
README = bed.HERE / "README.md"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"

# Runs once, untimed set-up and checks included, and gives the seconds of its timed section.
System = Callable[[], float]


@dataclass(frozen=True)
class Scale:
    """Sizes of one run, bytes and counts."""

    large: int
    small_memory: int  # blobs of a put-small run that syncs nothing
    small_durable: int  # the same where each blob is synced
    small_get: int
    listed: int
    index_updates: int
    index_entries: int
    ext4: int
    memory_blob: int
    startup_runs: int


SCALES = {
    "full": Scale(512 * bed.MIB, 2000, 300, 2000, 100_000, 100, 10_000, 4 * bed.GIB, 4 * bed.GIB,
                  21),
    "small": Scale(8 * bed.MIB, 100, 20, 100, 2000, 5, 200, 256 * bed.MIB, 64 * bed.MIB,
                   5),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: one of our systems against others of the same group."""

    name: str
    ours: str
    umoci: str | None = None
    naive: str | None = None
    bound: str | None = None
    targets: tuple[tuple[str, float], ...] = ()  # (column, least ratio)


@dataclass
class Group:
    name: str
    durability: str
    systems: dict[str, System]
    rows: list[Row]
    size: int = 0  # bytes of one run: reported as GB/s
    count: int = 0  # operations of one run: reported as microseconds each
    notes: dict[str, str] = field(default_factory=dict)

    def figure(self, seconds: float) -> float:
        return self.size / seconds / 1e9 if self.size else seconds / self.count * 1e6

    @property
    def unit(self) -> str:
        return "GB/s" if self.size else "µs"


class Context:
    """What the groups of one filesystem share."""

    def __init__(self, base: Path, filesystem: str, scale: Scale, umoci: Umoci | None) -> None:
        self.base = base
        self.filesystem = filesystem
        self.scale = scale
        self.umoci = umoci
        self.content = bed.random_bytes(scale.large)
        self.digest = bed.digest_of(self.content)
        self.source = base / "source"
        self.source.write_bytes(self.content)
        bed.settle(base)

    def settle(self, memory: int = 0) -> None:
        """Before a timed section that will touch `memory` bytes for the first time."""
        bed.settle(self.base, memory)

    def with_umoci(self, systems: dict[str, System], system: System) -> str | None:
        """Adds umoci to a group where it can run; gives the system's name then."""
        if self.umoci is None:
            return None
        systems["umoci"] = system
        return "umoci"

    def call(self, command: str, *arguments: object) -> dict:
        assert self.umoci is not None
        return self.umoci.call(command, *arguments)

    def evp(self) -> float:
        return bed.evp_seconds(self.content)


def expect(actual: object, expected: object) -> None:
    if actual != expected:
        raise AssertionError(f"{actual!r} instead of {expected!r}")


def check_put(context: Context, root: Path, digest: str) -> None:
    """The stored bytes are the source's; then the target goes, one file."""
    expect(digest, context.digest)
    expect(bed.digest_of_file(bed.blob_path(root, digest)), context.digest)
    shutil.rmtree(root)


def put_ours(context: Context, durability: str, source: Callable[[], object]) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        cas = fastcas.create(root, durability=durability)
        given = source()
        context.settle(2 * context.scale.large)
        started = time.perf_counter()
        result = cas.put_blob(given)
        if durability == "batch":
            cas.sync()
        elapsed = time.perf_counter() - started
        cas.close()
        check_put(context, root, result.digest)
        return elapsed

    return run


def put_naive(context: Context, sync: str, *, reader: bool = False) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        store = Store.create(root, sync=sync)
        given = bed.ReadIntoSource(context.content)
        context.settle(2 * context.scale.large)
        started = time.perf_counter()
        digest = store.put_reader(given) if reader else store.put_file(context.source)
        elapsed = time.perf_counter() - started
        store.close()
        check_put(context, root, digest)
        return elapsed

    return run


def put_umoci(context: Context) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        context.call("create", root)
        context.settle(2 * context.scale.large)
        answer = context.call("put", root, context.source)
        check_put(context, root, answer["digest"])
        return answer["ns"] / 1e9

    return run


def put_large(context: Context) -> Iterator[Group]:
    for durability in ("full", "none"):
        systems: dict[str, System] = {
            "fastcas": put_ours(context, durability, lambda: context.source),
            "naive": put_naive(context, durability),
            "evp": context.evp,
        }
        umoci = None
        targets: tuple[tuple[str, float], ...] = (("bound", 0.90),)
        # umoci always syncs the file; on tmpfs that costs nothing, elsewhere `none` has no peer.
        if durability == "full" or context.filesystem == "tmpfs":
            umoci = context.with_umoci(systems, put_umoci(context))
            targets = (("umoci", 2.0), *targets)
        yield Group(
            "put one large file",
            durability,
            systems,
            [Row("put one large file", "fastcas", umoci, "naive", "evp", targets)],
            size=context.scale.large,
        )


def put_reader(context: Context) -> Iterator[Group]:
    for durability in ("full", "none"):
        systems = {
            "readinto": put_ours(context, durability, lambda: bed.ReadIntoSource(context.content)),
            "read": put_ours(context, durability, lambda: bed.ReadSource(context.content)),
            "naive": put_naive(context, durability, reader=True),
            "evp": context.evp,
        }
        rows = [
            Row("put from a Python `readinto`", "readinto", None, "naive", "evp",
                (("bound", 0.85),)),
            Row("put from a Python `read(n)`", "read", None, "naive", "evp", (("bound", 0.85),)),
        ]  # fmt: skip
        yield Group("put from a Python reader", durability, systems, rows, size=context.scale.large)


def get_large(context: Context) -> Iterator[Group]:
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    digest = cas.put_blob(context.source).digest
    size = len(context.content)
    store = Store(root)
    pages = mmap.mmap(-1, bed.MIB + mmap.PAGESIZE)
    view = memoryview(pages)

    def consume(read: Callable[[fastcas.BlobReader], int]) -> System:
        def run() -> float:
            context.settle(2 * size)
            started = time.perf_counter()
            with cas.get_blob(digest) as blob:
                total = read(blob)
            elapsed = time.perf_counter() - started
            expect((total, blob.verified), (size, True))
            return elapsed

        return run

    def by_chunks(blob: fastcas.BlobReader) -> int:
        total = 0
        while chunk := blob.read(bed.MIB):
            total += len(chunk)
        return total

    def into(buffer: memoryview) -> Callable[[fastcas.BlobReader], int]:
        def read(blob: fastcas.BlobReader) -> int:
            total = 0
            while count := blob.readinto(buffer):
                total += count
            return total

        return read

    def naive() -> float:
        started = time.perf_counter()
        total = store.get(digest)
        elapsed = time.perf_counter() - started
        expect(total, size)
        return elapsed

    def umoci() -> float:
        answer = context.call("get", root, digest)
        expect(answer["size"], size)
        return answer["ns"] / 1e9

    systems = {
        "readall": consume(lambda blob: len(blob.readall())),
        "chunks": consume(by_chunks),
        "aligned": consume(into(view[: bed.MIB])),
        "unaligned": consume(into(view[16 : 16 + bed.MIB])),
        "naive": naive,
        "evp": context.evp,
    }
    peer = context.with_umoci(systems, umoci)
    rows = [
        Row(f"verified get, large, {how}", name, peer, "naive", "evp", (("bound", 0.95),))
        for name, how in (
            ("aligned", "`readinto` 1 MiB, aligned"),
            ("unaligned", "`readinto` 1 MiB, 16 bytes into a page"),
            ("chunks", "`read(1 MiB)`"),
            ("readall", "`readall()`"),
        )
    ]
    yield Group("verified get, large", "-", systems, rows, size=size)
    store.close()
    cas.close()
    shutil.rmtree(root)


def copy_out(context: Context) -> Iterator[Group]:
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    digest = cas.put_blob(context.source).digest
    stored = bed.blob_path(root, digest)
    methods: set[str] = set()

    def copied(copy: Callable[[Path], float]) -> System:
        def run() -> float:
            target = bed.fresh(context.base)
            context.settle(2 * context.scale.large)
            elapsed = copy(target)
            expect(target.stat().st_size, len(context.content))
            target.unlink()
            return elapsed

        return run

    def ours(target: Path) -> float:
        started = time.perf_counter()
        result = cas.copy_blob(digest, target)
        elapsed = time.perf_counter() - started
        methods.add(result.method)
        return elapsed

    def copyfile(target: Path) -> float:
        started = time.perf_counter()
        shutil.copyfile(stored, target)
        return time.perf_counter() - started

    def umoci(target: Path) -> float:
        return context.call("copy", root, digest, target)["ns"] / 1e9

    systems = {"fastcas": copied(ours), "copyfile": copied(copyfile)}
    peer = context.with_umoci(systems, copied(umoci))
    row = Row("copy out, unverified (umoci's is verified)", "fastcas", peer, None, "copyfile")
    group = Group("copy out", "none", systems, [row], size=context.scale.large)
    yield group
    group.notes["method"] = ", ".join(sorted(methods))
    cas.close()
    shutil.rmtree(root)


def put_small(context: Context) -> Iterator[Group]:
    durable = context.filesystem != "tmpfs"
    count = context.scale.small_durable if durable else context.scale.small_memory
    content = context.content[: count * SMALL_BLOB]
    expect(len(content), count * SMALL_BLOB)
    blobs = [content[at : at + SMALL_BLOB] for at in range(0, len(content), SMALL_BLOB)]
    digests = [bed.digest_of(blob) for blob in blobs]
    packed = context.base / "small"
    packed.write_bytes(content)

    # Targets stay where they are: deleting many files slows ext4's creates down for a while.
    def ours(durability: str) -> System:
        def run() -> float:
            root = bed.fresh(context.base)
            cas = fastcas.create(root, durability=durability)
            context.settle()
            started = time.perf_counter()
            results = [cas.put_blob(blob) for blob in blobs]
            if durability == "batch":
                cas.sync()
            elapsed = time.perf_counter() - started
            cas.close()
            expect([result.digest for result in results], digests)
            return elapsed

        return run

    def naive(sync: str) -> System:
        def run() -> float:
            root = bed.fresh(context.base)
            store = Store.create(root, sync=sync)
            context.settle()
            started = time.perf_counter()
            names = [store.put_bytes(blob) for blob in blobs]
            elapsed = time.perf_counter() - started
            store.close()
            expect(names, digests)
            return elapsed

        return run

    def umoci() -> float:
        root = bed.fresh(context.base)
        context.call("create", root)
        context.settle()
        answer = context.call("put-small", root, packed, SMALL_BLOB)
        expect(answer["digests"], digests)
        return answer["ns"] / 1e9

    if durable:
        systems = {
            "full": ours("full"),
            "batch": ours("batch"),
            "naive-full": naive("full"),
            "naive-file": naive("file"),
        }
        peer = context.with_umoci(systems, umoci)
        rows = [
            Row("put 4 KiB one by one, file and directory synced (umoci: file)", "full", peer,
                "naive-full", None, (("umoci", 1.0),)),
            Row("put 4 KiB one by one, file synced, directory once at the end (umoci: file)",
                "batch", peer, "naive-file", None, (("umoci", 1.0),)),
        ]  # fmt: skip
        yield Group("put 4 KiB one by one", "full", systems, rows, count=count)
    else:
        systems = {"none": ours("none"), "naive": naive("none")}
        peer = context.with_umoci(systems, umoci)
        row = Row("put 4 KiB one by one", "none", peer, "naive", None, (("umoci", 2.0),))
        yield Group("put 4 KiB one by one", "none", systems, [row], count=count)


def get_small(context: Context) -> Iterator[Group]:
    count = context.scale.small_get
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    view = memoryview(context.content)
    digests = [
        cas.put_blob(view[at * SMALL_BLOB : (at + 1) * SMALL_BLOB]).digest for at in range(count)
    ]
    store = Store(root)
    listing = context.base / "digests"
    listing.write_text("".join(f"{digest}\n" for digest in digests))

    def reader() -> float:
        total = 0
        started = time.perf_counter()
        for digest in digests:
            with cas.get_blob(digest) as blob:
                total += len(blob.read())
        elapsed = time.perf_counter() - started
        expect(total, count * SMALL_BLOB)
        return elapsed

    def bytes_from(get: Callable[[str], bytes]) -> System:
        def run() -> float:
            total = 0
            started = time.perf_counter()
            for digest in digests:
                total += len(get(digest))
            elapsed = time.perf_counter() - started
            expect(total, count * SMALL_BLOB)
            return elapsed

        return run

    def umoci() -> float:
        answer = context.call("get-small", root, listing)
        expect(answer["size"], count * SMALL_BLOB)
        return answer["ns"] / 1e9

    systems = {
        "reader": reader,
        "read_blob": bytes_from(cas.read_blob),
        "naive": bytes_from(store.get_bytes),
    }
    peer = context.with_umoci(systems, umoci)
    rows = [
        Row(f"verified get, 4 KiB, {how}", name, peer, "naive", None, (("umoci", 3.0),))
        for name, how in (("read_blob", "`read_blob`"), ("reader", "`get_blob` and `read`"))
    ]
    yield Group("verified get, 4 KiB", "-", systems, rows, count=count)
    store.close()
    cas.close()


def list_blobs(context: Context) -> Iterator[Group]:
    count = context.scale.listed
    root = bed.fresh(context.base)
    cas = fastcas.create(root, durability="none")
    directory = root / "blobs" / "sha256"
    directory.mkdir(exist_ok=True)
    for number in range(count):
        # Only names are listed: empty files under digests of nothing in particular will do.
        name = bed.digest_of(number.to_bytes(8, "little"))[7:]
        os.close(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444))
    store = Store(root)

    def listed(make: Callable[[], list]) -> System:
        def run() -> float:
            started = time.perf_counter()
            names = make()
            elapsed = time.perf_counter() - started
            expect(len(names), count)
            return elapsed

        return run

    def umoci() -> float:
        answer = context.call("list", root)
        expect(answer["count"], count)
        return answer["ns"] / 1e9

    def iterated() -> float:
        started = time.perf_counter()
        seen = sum(1 for _ in cas.list_blobs())
        elapsed = time.perf_counter() - started
        expect(seen, count)
        return elapsed

    systems = {
        "fastcas": iterated,
        "fastcas list": listed(lambda: list(cas.list_blobs())),
        "naive": listed(store.list),
        "listdir": listed(lambda: os.listdir(directory)),
    }
    peer = context.with_umoci(systems, umoci)
    targets = (("umoci", 8.0), ("bound", 1.0))
    rows = [
        Row(f"list {count} blobs, iterated, each", "fastcas", peer, "naive", "listdir", targets),
        Row(f"list {count} blobs, as a list, each", "fastcas list", peer, "naive", "listdir", targets),
    ]
    yield Group("list", "-", systems, rows, count=count)
    store.close()
    cas.close()


def index_update(context: Context) -> Iterator[Group]:
    durability = "none" if context.filesystem == "tmpfs" else "full"
    for entries, updates in (
        (1, context.scale.index_updates),
        (context.scale.index_entries, max(1, context.scale.index_updates // 20)),
    ):
        yield from _index_update(context, durability, entries, updates)


def _index_update(context: Context, durability: str, entries: int, updates: int) -> Iterator[Group]:
    manifests = [
        {
            "mediaType": MANIFEST_TYPE,
            "digest": bed.digest_of(str(number).encode()),
            "size": number,
            "annotations": {REF_NAME: f"v{number}"},
        }
        for number in range(entries)
    ]
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    }
    document = json.dumps(index, separators=(",", ":")) + "\n"
    target = bed.digest_of(b"target")

    def prepared() -> Path:
        root = bed.fresh(context.base)
        Store.create(root).close()
        (root / "index.json").write_text(document)
        context.settle()
        return root

    def check(root: Path) -> None:
        stored = json.loads((root / "index.json").read_bytes())["manifests"]
        expect(len(stored), entries + 1)
        expect((stored[-1]["digest"], stored[-1]["annotations"][REF_NAME]), (target, "bench"))

    def ours() -> float:
        root = prepared()
        cas = fastcas.open(root, durability=durability)
        descriptor = fastcas.Descriptor(MANIFEST_TYPE, target, 6)
        started = time.perf_counter()
        for _ in range(updates):
            cas.update_reference("bench", descriptor)
        elapsed = time.perf_counter() - started
        cas.close()
        check(root)
        return elapsed

    def naive() -> float:
        root = prepared()
        store = Store(root, sync=durability)
        started = time.perf_counter()
        for _ in range(updates):
            store.update_reference("bench", target, 6, MANIFEST_TYPE)
        elapsed = time.perf_counter() - started
        store.close()
        check(root)
        return elapsed

    def umoci() -> float:
        root = prepared()
        answer = context.call("index-update", root, target, 6, updates)
        check(root)
        return answer["ns"] / 1e9

    systems = {"fastcas": ours, "naive": naive}
    peer = context.with_umoci(systems, umoci)
    name = f"index update, {entries} {'entry' if entries == 1 else 'entries'}"
    target_ratio = 1.0 if entries == 1 else 2.0
    row = Row(name, "fastcas", peer, "naive", None, (("umoci", target_ratio),))
    yield Group(name, durability, systems, [row], count=updates)


# Groups of many small files last, list the very last: what they leave slows later creates down.
GROUPS: dict[str, Callable[[Context], Iterator[Group]]] = {
    "put-large": put_large,
    "put-reader": put_reader,
    "get-large": get_large,
    "copy": copy_out,
    "index": index_update,
    "put-small": put_small,
    "get-small": get_small,
    "list": list_blobs,
}


def measure(group: Group, rounds: int) -> dict[str, list[float]]:
    """Seconds of each system, one of each round."""
    samples: dict[str, list[float]] = {name: [] for name in group.systems}
    order = list(group.systems)
    for _ in range(rounds):
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


def _figure(record: dict, column: str) -> str:
    figures = record.get(column)
    if figures is None:
        return "-"
    digits = 2 if record["unit"] == "GB/s" or figures["median"] < 10 else 0
    low, middle, high = (f"{figures[key]:.{digits}f}" for key in ("least", "median", "most"))
    return f"{middle} ({low}-{high})"


def _target(record: dict) -> str:
    words = []
    for column, target in record["targets"].items():
        against = record["bound_name"] if column == "bound" else column
        verdict = "met" if target["met"] else "**missed**"
        words.append(f"≥ {target['least']:g} x {against}: {verdict}")
    return "; ".join(words) or "-"


def markdown(result: dict) -> str:
    facts = result["environment"]
    lines = [
        f"{facts['date']}; {facts['cpu']}, {facts['cpus']} CPUs, "
        f"{' '.join(facts['cpu_features']) or 'no SHA extension'}; Linux {facts['kernel']}; Python "
        f"{facts['python']}; fastcas {facts['fastcas']}, {facts['backend']}; {facts['umoci']}. "
        f"{result['rounds']} rounds; median (least-most).",
        "",
        "| benchmark | filesystem | durability | unit | fastcas | umoci | naive Python | bound "
        "| x umoci | x naive | x bound | target |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in result["rows"]:
        ratios = record["ratios"]
        size = f" {bed.binary_size(record['size'])}" if record["size"] else ""
        notes = "".join(f", {key}: {value}" for key, value in record["notes"].items() if value)
        bound = _figure(record, "bound")
        if record["bound_name"]:
            bound += f" {record['bound_name']}"
        cells = [
            record["name"] + size + notes,
            record["filesystem"],
            record["durability"],
            record["unit"],
            _figure(record, "ours"),
            _figure(record, "umoci"),
            _figure(record, "naive"),
            bound,
            *(f"{ratios[c]:.2f}" if c in ratios else "-" for c in ("umoci", "naive", "bound")),
            _target(record),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if result["processes"]:
        lines += ["", "| above a bare interpreter | measured | limit | |", "|---|---|---|---|"]
        for record in result["processes"]:
            verdict = "met" if record["value"] <= record["limit"] else "**missed**"
            unit = record["unit"]
            lines.append(
                f"| {record['name']} | {record['value']:.1f} {unit} | {record['limit']:g} {unit} "
                f"| {verdict} |"
            )
    return "\n".join(lines) + "\n"


def rewrite_readme(table: str) -> None:
    """Replaces what stands between the markers of README.md."""
    text = README.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README} has lost its markers")
    README.write_text(f"{before}{begin}\n{table}{end}{after}")


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
    program = None if options.no_umoci else build(bed.WORK)
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
    if options.readme:
        rewrite_readme(table)
    return 0


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
