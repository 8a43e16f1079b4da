"""The facts that the command line tells of layouts and images: plain values, ready for JSON."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastcas.engine import Engine
    from fastcas.model import Descriptor, Manifest, Platform

_KINDS = {
    "application/vnd.oci.image.index.v1+json": "index",
    "application/vnd.oci.image.manifest.v1+json": "manifest",
    "application/vnd.oci.image.config.v1+json": "config",
    "application/vnd.oci.empty.v1+json": "empty",
    "application/vnd.oci.image.layer.v1.tar": "layer tar",
    "application/vnd.oci.image.layer.v1.tar+gzip": "layer tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "layer tar+zstd",
    "application/vnd.docker.distribution.manifest.list.v2+json": "Docker index",
    "application/vnd.docker.distribution.manifest.v2+json": "Docker manifest",
    "application/vnd.docker.container.image.v1+json": "Docker config",
    "application/vnd.docker.image.rootfs.diff.tar": "Docker layer tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "Docker layer tar+gzip",
}
_TITLE = "org.opencontainers.image.title"

# What a config says of how the image is run, in the order of the specification.
_SETTINGS = ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels")


def kind_of(media_type: str) -> str:
    """A media type in a word or two, if it is a usual one."""
    return _KINDS.get(media_type, media_type)


def short(digest: str) -> str:
    """The beginning of a digest, long enough to be given to a command again."""
    algorithm, _, digits = digest.partition(":")
    return f"{algorithm}:{digits[:12]}"


def sized(engine: Engine) -> Iterator[tuple[str, int]]:
    from fastcas.errors import NotExistError

    for digest in engine.list_blobs():
        try:
            yield digest, engine.stat_blob(digest).size
        except NotExistError:
            continue  # deleted since it was listed


def layout_facts(engine: Engine, layout: str) -> dict[str, Any]:
    entries = len(engine.get_index().manifests)
    references = len(engine.list_references())
    blobs = size = 0
    for _, length in sized(engine):
        blobs += 1
        size += length
    return {
        "path": layout,
        "blobs": blobs,
        "size": size,
        "entries": entries,
        "references": references,
    }


def image_facts(engine: Engine, entry: Descriptor, name: str) -> dict[str, Any]:
    """Of an image or index; ``problem`` says why a config tells nothing."""
    from fastcas.model import Index, Manifest

    facts = {"name": name, **manifest_facts(entry), "stored": entry.digest in engine}
    if not facts["stored"]:
        return facts
    document = engine.read_descriptor(entry).data
    if isinstance(document, Manifest):
        facts |= _facts_of_manifest(engine, document)
        parts = {part.digest: part.size for part in (entry, document.config, *document.layers)}
        facts["total"] = sum(parts.values())
    elif isinstance(document, Index):
        facts["manifests"] = [
            {**manifest_facts(manifest), "stored": manifest.digest in engine}
            for manifest in document.manifests
        ]
    if annotations := getattr(document, "annotations", None):
        facts["annotations"] = dict(annotations)
    return facts


def _facts_of_manifest(engine: Engine, manifest: Manifest) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if manifest.artifact_type:
        facts["artifactType"] = manifest.artifact_type
    if manifest.subject is not None:
        facts["subject"] = descriptor_facts(manifest.subject)
    facts |= _facts_of_config(engine, manifest.config)
    facts["config"] = descriptor_facts(manifest.config)
    facts["layers"] = []
    for layer in manifest.layers:
        told = {**descriptor_facts(layer), "stored": layer.data is not None or layer.digest in engine}
        if title := (layer.annotations or {}).get(_TITLE):
            told["title"] = title
        facts["layers"].append(told)
    return facts


def _facts_of_config(engine: Engine, descriptor: Descriptor) -> dict[str, Any]:
    from fastcas.errors import CorruptError, InvalidError, NotExistError
    from fastcas.image.config import Config
    from fastcas.model import Platform

    try:
        config = engine.read_descriptor(descriptor).data
    except NotExistError:
        return {"problem": f"config {descriptor.digest} isn't stored"}
    except CorruptError:
        raise
    except InvalidError as error:
        return {"problem": f"config: {error}"}
    if not isinstance(config, Config):
        return {}
    platform = Platform(config.architecture, config.os, variant=config.variant)
    facts: dict[str, Any] = {"platform": platform_text(platform)}
    if config.created is not None:
        facts["created"] = config.created
    if config.author is not None:
        facts["author"] = config.author
    settings = config.config or {}
    facts["run"] = {name: settings[name] for name in _SETTINGS if settings.get(name)}
    facts["history"] = [
        {
            "created": step.created,
            "createdBy": step.created_by,
            "comment": step.comment,
            "emptyLayer": bool(step.empty_layer),
        }
        for step in config.history
    ]
    return facts


def descriptor_facts(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "digest": descriptor.digest,
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
    }


def manifest_facts(descriptor: Descriptor) -> dict[str, Any]:
    facts = descriptor_facts(descriptor)
    if descriptor.platform is not None:
        facts["platform"] = platform_text(descriptor.platform)
    return facts


def platform_text(platform: Platform) -> str:
    parts = (platform.os, platform.architecture, platform.variant)
    return "/".join(part for part in parts if part)


def tree_facts(engine: Engine, roots: list[Descriptor]) -> Iterator[dict[str, Any]]:
    """What is below each root, pre-order, with its depth; each (digest, media type) once for a root."""
    for root in roots:
        if root.digest not in engine and root.data is None:
            yield _node_facts(root, 0, False)
            continue
        for path in engine.walk(root):
            node = path[-1]
            stored = node.data is not None or node.digest in engine
            yield _node_facts(node, len(path) - 1, stored)


def _node_facts(node: Descriptor, depth: int, stored: bool) -> dict[str, Any]:
    from fastcas.model import ANNOTATION_REF_NAME

    facts = {"depth": depth, **manifest_facts(node), "stored": stored}
    notes = node.annotations or {}
    for key, note in (("name", ANNOTATION_REF_NAME), ("title", _TITLE)):
        if note in notes:
            facts[key] = notes[note]
    if node.artifact_type:
        facts["artifactType"] = node.artifact_type
    return facts
