"""Throughput over the size of a blob: for the plot (`plot.py`)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import bed
import fastcas
from groups import Context, Group, Place, Row, System, expect
from peers.naive import Store
from peers.program import Program

SIZES = (4 * bed.KIB, 16 * bed.KIB, 64 * bed.KIB, 256 * bed.KIB, bed.MIB, 4 * bed.MIB, 32 * bed.MIB)
# As many blobs of a size as make this, within limits.
TOTAL = 64 * bed.MIB
# The rows that plot.py looks for.
PUT, GET = "put files one by one", "verified get, one by one"


class Blobs:
    """Files of one size, and what they hold."""

    def __init__(self, context: Context, size: int, total: int = TOTAL) -> None:
        count = min(max(1, min(total, len(context.content)) // size), context.scale.sized)
        self.size = size
        self.total = count * size
        self.directory = bed.fresh(context.base)
        self.directory.mkdir()
        self.files: list[Path] = []
        self.digests: list[str] = []
        view = memoryview(context.content)
        for number in range(count):
            piece = view[number * size : (number + 1) * size]
            self.files.append(self.directory / str(number))
            self.files[-1].write_bytes(piece)
            self.digests.append(bed.digest_of(piece))
        blobs = [(digest, size, file) for digest, file in zip(self.digests, self.files, strict=True)]
        self.listing = context.listing(f"size-{size}", blobs)

    def group(self, name: str, durability: str, systems: dict[str, System]) -> Group:
        rows = [Row(name, "fastcas")]
        return Group(name, durability, systems, rows, size=self.total, blob=self.size)

    def remove(self) -> None:
        shutil.rmtree(self.directory)


def _each_size(context: Context) -> Iterator[Blobs]:
    for size in (*SIZES, context.scale.large):
        if size <= context.scale.large:
            blobs = Blobs(context, size)
            yield blobs
            blobs.remove()


def put_sizes(context: Context) -> Iterator[Group]:
    durability = context.durabilities[0]
    for blobs in _each_size(context):
        systems = {
            "fastcas": _put_ours(context, blobs, durability),
            "naive": put_naive_files(context, blobs, durability),
        }
        context.add_peers(systems, "put", put_by(context, blobs), durability)
        yield blobs.group(PUT, durability, systems)


def _put_ours(context: Context, blobs: Blobs, durability: str) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        with fastcas.create(root, durability=durability) as cas:
            context.settle(2 * blobs.total)
            started = time.perf_counter()
            digests = [cas.put_blob(file).digest for file in blobs.files]
            elapsed = time.perf_counter() - started
        expect(digests, blobs.digests)
        shutil.rmtree(root)
        return elapsed

    return run


def put_naive_files(context: Context, blobs: Blobs, durability: str) -> System:
    def run() -> float:
        root = bed.fresh(context.base)
        store = Store.create(root, sync=durability)
        context.settle(2 * blobs.total)
        started = time.perf_counter()
        digests = [store.put_file(file) for file in blobs.files]
        elapsed = time.perf_counter() - started
        store.close()
        expect(digests, blobs.digests)
        shutil.rmtree(root)
        return elapsed

    return run


def put_by(context: Context, blobs: Blobs):
    def theirs(peer: Program) -> System:
        def run() -> float:
            root = bed.fresh(context.base)
            peer.call("create", root)
            context.settle(2 * blobs.total)
            answer = peer.call("put", root, blobs.listing)
            expect(answer["digests"], blobs.digests)
            shutil.rmtree(root)
            return answer["ns"] / 1e9

        return run

    return theirs


def get_sizes(context: Context) -> Iterator[Group]:
    for blobs in _each_size(context):
        place = Place(bed.fresh(context.base))
        with fastcas.create(place.layout, durability="none") as cas:
            cas.put_blobs(blobs.files)
            systems = _gets(blobs, place, cas)
            context.add_peers(systems, "get", _get_by(blobs, place))
            yield blobs.group(GET, "-", systems)
        place.remove()


def _gets(blobs: Blobs, place: Place, cas: fastcas.Engine) -> dict[str, System]:
    buffer = memoryview(bytearray(bed.MIB))

    def ours() -> float:
        total = 0
        started = time.perf_counter()
        for digest in blobs.digests:
            with cas.get_blob(digest) as blob:
                while count := blob.readinto(buffer):
                    total += count
        elapsed = time.perf_counter() - started
        expect(total, blobs.total)
        return elapsed

    def naive() -> float:
        store = Store(place.layout)
        started = time.perf_counter()
        total = sum(map(store.get, blobs.digests))
        elapsed = time.perf_counter() - started
        store.close()
        expect(total, blobs.total)
        return elapsed

    return {"fastcas": ours, "naive": naive}


def _get_by(blobs: Blobs, place: Place):
    def theirs(peer: Program) -> System:
        root = place.filled(peer, "put", blobs.listing)

        def run() -> float:
            answer = peer.call("get", root, blobs.listing)
            expect((answer["size"], answer["count"]), (blobs.total, len(blobs.digests)))
            return answer["ns"] / 1e9

        return run

    return theirs
