"""Small images, made by hand, and engines to keep them in."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import fastcas
from fastcas import model
from fastcas.model import Descriptor, Index, Manifest
from oracle import OracleEngine

KINDS = ["dir", "oracle"]


def create(kind: str, path: Path):
    """An engine on a new layout."""
    if kind == "oracle":
        return OracleEngine.create(path)
    return fastcas.create(path, durability="none")


def put(engine, content, media_type=model.MEDIA_TYPE_LAYER, **more) -> Descriptor:
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    digest, size = engine.put_blob(content)
    return Descriptor(media_type, digest, size, **more)


def put_index(engine, manifests, **more) -> Descriptor:
    return put(engine, Index(manifests, **more).to_json(), model.MEDIA_TYPE_INDEX)


def put_image(engine, *layers: bytes, architecture="amd64", **more) -> Descriptor:
    """An image of these layers; ``more`` is the manifest's."""
    found = [put(engine, content) for content in layers]
    config = {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(layer.digest) for layer in found]},
    }
    descriptor = put(engine, config, model.MEDIA_TYPE_CONFIG)
    manifest = Manifest(descriptor, found, **more)
    return put(engine, manifest.to_json(), model.MEDIA_TYPE_MANIFEST)


def put_platforms(engine, *architectures: str) -> Descriptor:
    """An index of images, one for each architecture."""
    return put_index(
        engine,
        [
            put_image(engine, f"layer of {name}".encode(), architecture=name).replace(
                platform=model.Platform(name, "linux")
            )
            for name in architectures
        ],
    )


def make_tar(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def blobs_of(engine) -> set[str]:
    return set(engine.list_blobs())


def entries_of(engine) -> list[tuple[str | None, str]]:
    """The names and digests of the index."""
    return [
        ((entry.annotations or {}).get(model.ANNOTATION_REF_NAME), str(entry.digest))
        for entry in engine.get_index().manifests
    ]
