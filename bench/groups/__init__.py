"""What the groups are made of: scales, rows, groups, what those of one filesystem share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import bed
from peers.program import Umoci

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
    index_updates: int
    index_entries: int
    images: tuple[int, ...]  # of each walk and each garbage collection
    ext4: int
    memory_blob: int
    startup_runs: int


SCALES = {
    "full": Scale(512 * bed.MIB, 2000, 300, 2000, 100_000, 100, 10_000,
                  (1000, 10_000, 100_000), 4 * bed.GIB, 4 * bed.GIB, 21),
    "small": Scale(8 * bed.MIB, 100, 20, 100, 2000, 5, 200, (20, 50),
                   256 * bed.MIB, 64 * bed.MIB, 5),
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
    rounds: int = 0  # at the most; 0: as many as the run has
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
