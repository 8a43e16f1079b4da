"""Graphs of images: walked, and collected with as many unused blobs as there are images.

An image is a manifest, a config and a layer of its own, tagged in the index. All systems are given the
same layout; the blobs that a collection removed are linked into it again before the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import bed
import fastcas
from groups import MANIFEST_TYPE, REF_NAME, Context, Group, Row, System, expect
from peers.naive import Store
from peers.program import Program

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG = (
    '{{"architecture":"amd64","os":"linux","author":"{}",'
    '"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}'
)

# On a filesystem made by mkfs.ext4 of the usual size there are no inodes for more.
DISK_LIMIT = 10_000


def make_images(root: Path, count: int) -> None:
    with fastcas.create(root, durability="none") as cas:
        entries = []
        for number in range(count):
            layer = cas.put_blob(b"layer %d" % number)
            config = cas.put_blob(CONFIG.format(number, layer.digest).encode())
            manifest = fastcas.Manifest(
                fastcas.Descriptor(CONFIG_TYPE, config.digest, config.size),
                [fastcas.Descriptor(LAYER_TYPE, layer.digest, layer.size)],
            )
            stored = cas.put_blob(manifest.to_json())
            names = {REF_NAME: f"v{number}"}
            entries.append(
                fastcas.Descriptor(MANIFEST_TYPE, stored.digest, stored.size, annotations=names)
            )
        cas.put_index(fastcas.Index(entries))


def make_litter(directory: Path, count: int) -> list[str]:
    """Files beside the layout, named and filled like blobs; the names."""
    directory.mkdir()
    names = []
    for number in range(count):
        content = b"litter %d" % number
        names.append(bed.digest_of(content)[7:])
        (directory / names[-1]).write_bytes(content)
    return names


def walk_images(context: Context) -> Iterator[Group]:
    for count in _counts(context):
        root = bed.fresh(context.base)
        make_images(root, count)
        yield _walk(context, root, count)


def _walk(context: Context, root: Path, count: int) -> Group:
    def ours() -> float:
        with fastcas.open(root, durability="none") as cas:
            started = time.perf_counter()
            met = sum(1 for _ in cas.walk(cas.get_index().manifests))
            elapsed = time.perf_counter() - started
        expect(met, 3 * count)
        return elapsed

    def naive() -> float:
        store = Store(root)
        started = time.perf_counter()
        met = sum(1 for _ in store.walk())
        elapsed = time.perf_counter() - started
        store.close()
        expect(met, 3 * count)
        return elapsed

    def theirs(peer: Program) -> System:
        def run() -> float:
            answer = peer.call("walk", root)
            expect(answer["count"], 3 * count)
            return answer["ns"] / 1e9

        return run

    systems: dict[str, System] = {"fastcas": ours, "naive": naive}
    context.add_peers(systems, "walk", theirs)
    name = f"walk {count} images, each descriptor"
    row = Row(name, "fastcas", None, (("umoci", 5.0), ("naive", 1.0)))
    return Group(name, "-", systems, [row], count=3 * count, rounds=_rounds(count))


def collect_images(context: Context) -> Iterator[Group]:
    for count in _counts(context):
        root = bed.fresh(context.base)
        make_images(root, count)
        litter = bed.fresh(context.base)
        yield _collect(context, root, litter, make_litter(litter, count))


def _collect(context: Context, root: Path, litter: Path, names: list[str]) -> Group:
    count = len(names)
    durability = "none" if context.filesystem == "tmpfs" else "full"
    blobs = root / "blobs" / "sha256"

    def prepare() -> None:
        for name in names:
            os.link(litter / name, blobs / name)
        context.settle()

    def check() -> None:
        left = os.listdir(blobs)
        expect(len(left), 3 * count)
        expect(set(left).isdisjoint(names), True)

    def ours() -> float:
        prepare()
        with fastcas.open(root, durability=durability) as cas:
            started = time.perf_counter()
            report = cas.gc(grace=0)
            elapsed = time.perf_counter() - started
        expect((len(report.deleted), report.kept), (count, 3 * count))
        check()
        return elapsed

    def naive() -> float:
        prepare()
        store = Store(root)
        started = time.perf_counter()
        removed = store.gc()
        elapsed = time.perf_counter() - started
        store.close()
        expect(removed, count)
        check()
        return elapsed

    def theirs(peer: Program) -> System:
        def run() -> float:
            prepare()
            answer = peer.call("gc", root)
            check()
            return answer["ns"] / 1e9

        return run

    systems: dict[str, System] = {"fastcas": ours, "naive": naive}
    # Of what ggcr takes for each blob the number of images is a factor: hours, at 100 000.
    context.add_peers(systems, "gc", theirs, without={"ggcr"} if count > 1000 else ())
    name = f"gc, {count} images, {count} of {4 * count} blobs unused, each blob"
    row = Row(name, "fastcas", None, (("umoci", 5.0), ("naive", 1.0)))
    return Group(name, durability, systems, [row], count=4 * count, rounds=_rounds(count))


def _counts(context: Context) -> list[int]:
    if context.filesystem == "tmpfs":
        return list(context.scale.images)
    return [count for count in context.scale.images if count <= DISK_LIMIT]


def _rounds(count: int) -> int:
    """How often at the most: what takes long enough needs no median of many."""
    return max(1, 30_000 // count)
