"""What the groups are made of: scales, rows, groups, what those of one filesystem share.

A group is a dictionary of systems that do the same work at the same durability, and rows that say
which of them is ours and which is the bound; every other one is a peer, under its own name, in each
row. To add a row, write a generator of groups beside these, and name it in GROUPS of run.py:

    def put_twice(context):
        def ours(): ...       # untimed set-up; the timed section; untimed checks
            return seconds
        def theirs(peer):     # the same by a program of peers/, which times itself
            def run():
                answer = peer.call("put", root, listing)
                return answer["ns"] / 1e9
            return run
        systems = {"fastcas": ours, "naive": naive, "evp": context.evp}
        context.add_peers(systems, "put", theirs, durability)
        rows = [Row("put twice", "fastcas", "evp", (("umoci", 2.0), ("best", 1.0), ("bound", 0.9)))]
        yield Group("put twice", durability, systems, rows, size=bytes_of_a_run)

What the generator made is removed after its `yield`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bed
from peers.program import Program

SMALL_BLOB = 4 * bed.KIB
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"

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
    sized: int  # blobs of each size, at the most
    index_updates: int
    index_entries: int
    images: tuple[int, ...]  # of each walk and each garbage collection
    disk: int  # capacity of a filesystem made for the run
    memory_blob: int
    startup_runs: int


SCALES = {
    "quick": Scale(64 * bed.MIB, 1000, 100, 1000, 20_000, 100, 20, 1000, (1000,),
                   2 * bed.GIB, 256 * bed.MIB, 5),
    "full": Scale(512 * bed.MIB, 2000, 300, 2000, 100_000, 500, 100, 10_000,
                  (1000, 10_000, 100_000), 4 * bed.GIB, 4 * bed.GIB, 21),
    "small": Scale(8 * bed.MIB, 100, 20, 100, 2000, 20, 5, 200, (20, 50),
                   320 * bed.MIB, 64 * bed.MIB, 5),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: one of our systems against the peers of its group, and a bound."""

    name: str
    ours: str
    bound: str | None = None
    # Least ratios: to a peer by its name, to "best" (of the peers) or to "bound".
    targets: tuple[tuple[str, float], ...] = ()


@dataclass
class Group:
    name: str
    durability: str
    systems: dict[str, System]
    rows: list[Row]
    size: int = 0  # bytes of one run: reported as GB/s
    blob: int = 0  # bytes of each blob, where several make up `size`
    count: int = 0  # operations of one run: reported as microseconds each
    cache: str = "warm"
    rounds: int = 0  # at the most; 0: as many as the run has
    notes: dict[str, str] = field(default_factory=dict)

    def figure(self, seconds: float) -> float:
        return self.size / seconds / 1e9 if self.size else seconds / self.count * 1e6

    @property
    def unit(self) -> str:
        return "GB/s" if self.size else "µs"

    @property
    def peers(self) -> list[str]:
        """The systems that are neither ours nor a bound in any row."""
        named = {name for row in self.rows for name in (row.ours, row.bound)}
        return [name for name in self.systems if name not in named]


class Context:
    """What the groups of one filesystem share."""

    def __init__(self, base: Path, filesystem: str, scale: Scale, peers: Sequence[Program]) -> None:
        self.base = base
        self.filesystem = filesystem
        self.scale = scale
        self.peers = peers
        self.content = bed.random_bytes(scale.large)
        self.digest = bed.digest_of(self.content)
        self.source = base / "source"
        self.source.write_bytes(self.content)
        self.large = self.listing("large", [(self.digest, len(self.content), self.source)])
        bed.settle(base)

    @property
    def on_disk(self) -> bool:
        """Whether a sync does anything here, and the cache can be cold."""
        return self.filesystem != "tmpfs"

    @property
    def durabilities(self) -> tuple[str, ...]:
        """What to measure a put at: where nothing is lost by not syncing, that alone."""
        return ("full", "none") if self.on_disk else ("none",)

    def settle(self, memory: int = 0) -> None:
        """Before a timed section that will touch `memory` bytes for the first time."""
        bed.settle(self.base, memory)

    def listing(self, name: str, blobs: Iterable[tuple]) -> Path:
        """A file that names blobs to the peers: digest, size and, for a put, the source of each."""
        path = self.base / f"{name}.list"
        path.write_text("".join("\t".join(map(str, blob)) + "\n" for blob in blobs))
        return path

    def add_peers(
        self,
        systems: dict[str, System],
        operation: str,
        run: Callable[[Program], System],
        durability: str | None = None,
        *,
        layouts_only: bool = False,
        without: Collection[str] = (),
    ) -> None:
        """Adds the peers that have `operation`; of those only the ones that sync something, or
        nothing, as `durability` asks. Where a sync is free all of them do the same."""
        for peer in self.peers:
            if operation not in peer.operations or (layouts_only and not peer.layout):
                continue
            if peer.name in without:
                continue
            if durability and self.on_disk and (durability == "none") != (peer.syncs == "nothing"):
                continue
            systems[peer.name] = run(peer)

    def evp(self) -> float:
        return bed.evp_seconds(self.content)


class Place:
    """Stores of the same blobs: a layout, and what those peers need that can't read one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir()
        self.layout = directory / "layout"

    def filled(self, peer: Program, request: str, *arguments: Path) -> Path:
        """Where `peer` finds the blobs; a store of its own is filled by `request`."""
        if peer.layout:
            return self.layout
        own = self._directory / peer.name
        if not own.exists():
            peer.call("create", own)
            peer.call(request, own, *arguments)
        return own

    def remove(self) -> None:
        shutil.rmtree(self._directory)


def expect(actual: object, expected: object) -> None:
    if actual != expected:
        raise AssertionError(f"{actual!r} instead of {expected!r}")
