"""A reference of an index replaced."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import bed
import fastcas
from groups import MANIFEST_TYPE, REF_NAME, Context, Group, Row, System, expect
from peers.naive import Store
from peers.program import Program


def index_update(context: Context) -> Iterator[Group]:
    for durability in context.durabilities:
        for entries, updates in (
            (1, context.scale.index_updates),
            (context.scale.index_entries, max(1, context.scale.index_updates // 20)),
        ):
            yield _index_update(context, durability, entries, updates)


def _index_update(context: Context, durability: str, entries: int, updates: int) -> Group:
    manifests = [
        {
            # No blob stands behind it, and none is looked for where the type says nothing.
            "mediaType": "application/octet-stream",
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
    content = b"target"
    target = bed.digest_of(content)

    def prepared() -> Path:
        root = bed.fresh(context.base)
        store = Store.create(root, sync="none")
        store.put_bytes(content)
        store.close()
        (root / "index.json").write_text(document)
        context.settle()
        return root

    def check(root: Path) -> None:
        stored = json.loads((root / "index.json").read_bytes())["manifests"]
        expect(len(stored), entries + 1)
        named = [entry for entry in stored if entry["annotations"][REF_NAME] == "bench"]
        expect([entry["digest"] for entry in named], [target])

    def ours() -> float:
        root = prepared()
        cas = fastcas.open(root, durability=durability)
        descriptor = fastcas.Descriptor(MANIFEST_TYPE, target, len(content))
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
            store.update_reference("bench", target, len(content), MANIFEST_TYPE)
        elapsed = time.perf_counter() - started
        store.close()
        check(root)
        return elapsed

    def theirs(peer: Program) -> System:
        def run() -> float:
            root = prepared()
            answer = peer.call("index-update", root, target, len(content), updates)
            check(root)
            return answer["ns"] / 1e9

        return run

    systems: dict[str, System] = {"fastcas": ours, "naive": naive}
    context.add_peers(systems, "index-update", theirs, durability)
    name = f"index update, {entries} {'entry' if entries == 1 else 'entries'}"
    target_ratio = 1.0 if entries == 1 else 2.0
    row = Row(name, "fastcas", None, (("umoci", target_ratio),))
    return Group(name, durability, systems, [row], count=updates)
