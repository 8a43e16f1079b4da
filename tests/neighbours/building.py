"""A layout of ours with all that is built here, and what others made of it held against that."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import fastcas
import layouts
from fastcas import (
    Descriptor,
    Manifest,
    append_layers,
    build_artifact,
    build_image,
    build_index,
    copy_image,
)
from trees import FOREIGN, PLATFORM, TIME, look

IMAGES = ["plain", "gzip", "zstd", "appended"]
TYPE = "application/vnd.example.model"
SIGNATURE = "application/vnd.example.signature"


def build(layout: Path, tree: Path, place: Path) -> None:
    more = place / "more"
    (more / "srv").mkdir(parents=True)
    (more / "srv" / "new").write_bytes(b"in the second layer\n")
    (more / "srv" / ".wh.zero").write_bytes(b"")
    model = place / "model"
    (model / "weights").mkdir(parents=True)
    (model / "config.json").write_bytes(b"{}\n")
    (model / "weights" / "part-1").write_bytes(bytes(100_000))
    signature = place / "signature"
    signature.write_bytes(b"signed")
    config = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": {"a": "<&>"}}
    with fastcas.create(layout) as cas:
        for name in ("plain", "gzip", "zstd"):
            compress = None if name == "plain" else name
            build_image(
                cas,
                [tree],
                reference=name,
                platform=PLATFORM,
                config=config,
                created=TIME,
                compress=compress,
                owner=None,
            )
        append_layers(cas, "gzip", [more], new_reference="appended", created=TIME, compress="gzip")
        foreign = build_image(cas, [more], platform=FOREIGN, created=TIME, compress="gzip")
        build_index(cas, ["gzip", foreign], reference="multi")
        build_artifact(cas, model, artifact_type=TYPE, reference="model")
        for subject in ("gzip", "model"):
            build_artifact(cas, signature, artifact_type=SIGNATURE, subject=subject)


def build_long(cas, place: Path) -> Descriptor:
    """An image of sha512 digests under the name "long"."""
    (place / "tree").mkdir()
    (place / "tree" / "file").write_bytes(b"in an image of sha512\n")
    tar = place / "long.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(place / "tree", ".")
    layer = cas.put_blob(tar, algorithm="sha512", compress="gzip")
    system, architecture = PLATFORM.split("/")
    rootfs = {"type": "layers", "diff_ids": [layer.diff_id]}
    config = {"architecture": architecture, "os": system, "config": {}, "rootfs": rootfs}
    stored = cas.put_blob(json.dumps(config).encode(), algorithm="sha512")
    manifest = Manifest(
        Descriptor("application/vnd.oci.image.config.v1+json", *stored),
        [Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer.digest, layer.size)],
    )
    document = cas.put_blob(manifest.to_json(), algorithm="sha512")
    descriptor = Descriptor("application/vnd.oci.image.manifest.v1+json", *document)
    cas.update_reference("long", descriptor)
    return descriptor


def build_docker(cas) -> None:
    """The image "gzip" in Docker's types, under the name "docker"."""
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    (path,) = cas.resolve_reference("gzip")
    image = cas.read_descriptor(path[-1]).data
    manifest = image.replace(
        media_type=kind,
        config=image.config.replace(media_type="application/vnd.docker.container.image.v1+json"),
        layers=[
            layer.replace(media_type="application/vnd.docker.image.rootfs.diff.tar.gzip")
            for layer in image.layers
        ],
    )
    cas.update_reference("docker", Descriptor(kind, *cas.put_blob(manifest.to_json())))


def alone(built: Path, name: str, place: Path) -> Path:
    """A layout that has nothing but the one image, as crane's push wants it."""
    with fastcas.open(built) as source, fastcas.create(place) as target:
        copy_image(source, name, target)
    return place


def digest_of(layout: Path, name: str) -> str:
    return layouts.named(layout, name)["digest"]


def expect(made: Path, tree: Path, name: str = "plain") -> None:
    """``made`` is the tree of the image ``name``."""
    found = look(made)
    wanted = look(tree)
    if name == "appended":
        content = (made / "srv" / "new").read_bytes()
        assert content == b"in the second layer\n"
        del found["srv/new"], wanted["srv/zero"]
    assert found == wanted


def check_same(layout: Path, name: str, built: Path, original: str) -> None:
    """The layout of another program has, under ``name``, what ours has under ``original``, whole."""
    entry, known = layouts.named(layout, name), layouts.named(built, original)
    assert entry["digest"] == known["digest"]
    assert layouts.reachable(layout, [entry]) == layouts.reachable(built, [known])
    layouts.stored(layout)
    with fastcas.open(layout) as cas:
        assert name in cas.list_references()
        assert cas.scrub().problems == []
