"""Small images for the tests, put into any engine."""

from __future__ import annotations

import hashlib
import json

from fastcas import Descriptor, Platform

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY_JSON = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
REF_NAME = "org.opencontainers.image.ref.name"
SUBJECT_OF_NOTHING = "sha256:" + "5" * 64


def describe(content: bytes, media_type: str, **more) -> Descriptor:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Descriptor(media_type, digest, len(content), **more)


def put(cas, content: bytes, media_type: str, **more) -> Descriptor:
    """Stores it; its descriptor."""
    cas.put_blob(content)
    return describe(content, media_type, **more)


def as_dict(descriptor: Descriptor) -> dict:
    return json.loads(descriptor.to_json())


def put_document(cas, fields: dict, media_type: str, **more) -> Descriptor:
    """A document as another program would write it; descriptors in it as values."""

    def plain(value):
        if isinstance(value, Descriptor):
            return as_dict(value)
        raise TypeError

    return put(cas, json.dumps(fields, default=plain).encode(), media_type, **more)


def put_config(cas, os="linux", architecture="amd64", media_type=CONFIG, **fields) -> Descriptor:
    fields = {"os": os, "architecture": architecture, **fields}
    fields.setdefault("rootfs", {"type": "layers", "diff_ids": []})
    return put_document(cas, fields, media_type)


def put_manifest(cas, name="m", *, config=None, layers=None, media_type=MANIFEST, inner=None, **more):
    """An image of one layer that is called ``name``."""
    docker = media_type == DOCKER_MANIFEST
    if config is None:
        config = put_config(cas, author=name, media_type=DOCKER_CONFIG if docker else CONFIG)
    if layers is None:
        layers = [put(cas, f"layer of {name}".encode(), DOCKER_LAYER if docker else LAYER)]
    fields = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}
    return put_document(cas, {**fields, **(inner or {})}, media_type, **more)


def put_index(cas, *manifests, media_type=INDEX, inner=None, **more) -> Descriptor:
    fields = {"schemaVersion": 2, "mediaType": media_type, "manifests": list(manifests)}
    return put_document(cas, {**fields, **(inner or {})}, media_type, **more)


def put_nested(cas, descriptor: Descriptor, levels: int) -> Descriptor:
    """``descriptor`` below that many indexes."""
    for _ in range(levels):
        descriptor = put_index(cas, descriptor)
    return descriptor


def on(platform: str) -> Platform:
    os, architecture, *variant = platform.split("/")
    return Platform(architecture, os, variant=variant[0] if variant else None)


def digests(descriptors) -> list[str]:
    return [descriptor.digest for descriptor in descriptors]
