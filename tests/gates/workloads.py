"""What writers do, telling it: functions for child processes (``child.start``)."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import fastcas
from fastcas import Descriptor, Digest
from gates import child
from gates.child import tell
from gates.invariants import REF_NAME

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"


def noise(size: int, seed: object) -> bytes:
    return random.Random(str(seed)).randbytes(size)


OLD = noise(2000, "old")


class Writer:
    """An engine that tells what is done with it. ``seed`` makes its content its own."""

    def __init__(self, layout: str, level: str, seed: object = 0) -> None:
        self.cas = fastcas.open(layout, durability=level)
        self.level = level
        self.seed = seed

    def put(self, source: Any, **options: Any) -> Digest:
        digest = digest_of(source, options.get("algorithm", "sha256"))
        tell("storing", self.level, [digest])
        self.cas.put_blob(source, **options)
        tell("stored", self.level, [digest])
        return digest

    def put_blobs(self, sources: list[Any]) -> list[Digest]:
        digests = [digest_of(source) for source in sources]
        tell("storing", self.level, digests)
        self.cas.put_blobs(sources)
        # One durability point at its end, at "batch" as well.
        tell("stored", self.level if self.level == "none" else "full", digests)
        return digests

    def image(self, name: str) -> Descriptor:
        """An image of a config and two layers, tagged."""
        config = b'{"architecture":"amd64","os":"linux","note":"%s"}' % f"{self.seed}{name}".encode()
        layers = [noise(3000, (self.seed, name, n)) for n in range(2)]
        digests = self.put_blobs([config, *layers])
        parts = zip([CONFIG, LAYER, LAYER], digests, [config, *layers], strict=True)
        first, *rest = (Descriptor(kind, digest, len(data)) for kind, digest, data in parts)
        document = fastcas.Manifest(first, rest, media_type=MANIFEST).to_json()
        manifest = Descriptor(MANIFEST, self.put(document), len(document))
        self.tag({name: manifest})
        return manifest

    def tag(self, entries: dict[str, Descriptor | None]) -> None:
        """Sets and removes entries of the index, in one update."""
        told = {name: entry and entry.digest for name, entry in entries.items()}

        def change(index: fastcas.Index) -> fastcas.Index:
            kept = [d for d in index.manifests if d.annotations[REF_NAME] not in entries]
            new = [d.replace(annotations={REF_NAME: name}) for name, d in entries.items() if d]
            return index.replace(manifests=[*kept, *new])

        tell("tagging", self.level, told)
        self.cas.update_index(change)
        tell("tagged", self.level, told)

    def delete(self, *digests: str) -> None:
        tell("deleting", self.level, digests)
        for digest in digests:
            self.cas.delete_blob(digest)

    def gc(self) -> None:
        """Removes what nothing refers to, whatever its age."""
        unused = [blob.digest for blob in self.cas.gc(grace=0, dry_run=True).deleted]
        tell("deleting", self.level, unused)
        self.cas.gc(grace=0)

    def compress(self, content: bytes, scratch: fastcas.DirEngine) -> Digest:
        """``scratch`` gets it first: the digest is known afterwards only."""
        digest = scratch.put_blob(content, compress="gzip").digest
        tell("storing", self.level, [digest])
        self.cas.put_blob(content, compress="gzip")
        tell("stored", self.level, [digest])
        return digest

    def copy(self, source: fastcas.DirEngine, name: str) -> None:
        """An image of another layout."""
        manifest = source.resolve_reference(name)[0][-1]
        digests = [path[-1].digest for path in source.walk(manifest)]
        tell("storing", self.level, digests)
        tell("tagging", self.level, {name: manifest.digest})
        fastcas.copy_image(source, name, self.cas)
        tell("stored", self.level, digests)
        tell("tagged", self.level, {name: manifest.digest})

    def sync(self) -> None:
        self.cas.sync()
        tell("synced", self.level)

    def close(self) -> None:
        self.cas.close()
        tell("synced", self.level)


def digest_of(source: Any, algorithm: str = "sha256") -> Digest:
    """Of a path or something like bytes; by hashlib."""
    content = source.read_bytes() if isinstance(source, Path) else bytes(source)
    return Digest.of(algorithm, hashlib.new(algorithm, content).hexdigest())


def prepare(layout: str, images: list[str]) -> None:
    """A new layout, durable: the blob OLD and some images."""
    fastcas.create(layout).close()
    writer = Writer(layout, "full", "prepared")
    tell("created")
    writer.put(OLD)
    for image in images:
        writer.image(image)
    writer.close()


def prepare_layouts(place: Path) -> tuple[Path, list[Any]]:
    """Makes the layouts "source", with the image "copied", and "layout", with "one" and "two", in a new
    directory; returns that, and what was told of the latter."""
    prepared = place / "prepared"
    prepared.mkdir()
    child.start(prepare, prepared / "source", ["copied"]).communicate()
    output, _ = child.start(prepare, prepared / "layout", ["one", "two"]).communicate()
    return prepared, list(child.events(output))


def use_named_files() -> None:
    """As where files can't be made without a name."""
    from fastcas.dir import temp

    temp.HAVE_O_TMPFILE = False
