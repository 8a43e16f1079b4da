"""A reference of an index replaced."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import bed
import fastcas
from groups import MANIFEST_TYPE, REF_NAME, Context, Group, Row, expect
from peers.naive import Store


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
