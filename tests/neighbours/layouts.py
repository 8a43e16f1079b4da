"""What a layout holds, by a reading of the image specification that shares nothing with fastcas."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

REF_NAME = "org.opencontainers.image.ref.name"
_DOCUMENTS = {
    f"application/vnd.{name}+json"
    for name in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
    )
}


def entries(layout: Path) -> list[dict]:
    return json.loads((layout / "index.json").read_bytes()).get("manifests") or []


def names(layout: Path) -> list[str]:
    notes = [entry.get("annotations") or {} for entry in entries(layout)]
    return [note[REF_NAME] for note in notes if REF_NAME in note]


def named(layout: Path, name: str) -> dict:
    """The one entry of that name."""
    (found,) = [e for e in entries(layout) if (e.get("annotations") or {}).get(REF_NAME) == name]
    return found


def file_of(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/", 1)


def read(layout: Path, descriptor: dict) -> dict:
    return json.loads(file_of(layout, descriptor["digest"]).read_bytes())


def stored(layout: Path) -> set[str]:
    """The digests of the files under ``blobs``, each of which is what it is called."""
    found = set()
    for path in (layout / "blobs").glob("*/*"):
        algorithm = path.parent.name
        assert hashlib.new(algorithm, path.read_bytes()).hexdigest() == path.name
        found.add(f"{algorithm}:{path.name}")
    return found


def reachable(layout: Path, roots: list[dict]) -> set[str]:
    """The stored digests that ``roots`` lead to, their own among them."""
    found = set()
    left = list(roots)
    while left:
        descriptor = left.pop()
        digest = descriptor["digest"]
        if digest in found or not file_of(layout, digest).exists():
            continue
        found.add(digest)
        if descriptor["mediaType"] in _DOCUMENTS:
            document = read(layout, descriptor)
            left += document.get("manifests") or []
            left += document.get("layers") or []
            left += [document[field] for field in ("config", "subject") if document.get(field)]
    return found
