"""Building images: layers in, a config and a manifest out, under a name.

Documents are written with the fields in the order of the specification's Go structs, so that equal
arguments give equal digests, whichever program made them. Nothing here looks at the clock or the
environment: times are what ``created`` says, and a command line that honours SOURCE_DATE_EPOCH hands
that on.

Source: OCI image-spec 1.1, config.md, manifest.md, image-index.md; specs-go/v1.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastcas import model
from fastcas.digest import shorten
from fastcas.errors import InvalidError, NotExistError
from fastcas.image.closure import name_of, rename, select_entry, shift
from fastcas.image.config import Config, History, RootFS
from fastcas.image.layer import Layer, put_layer
from fastcas.image.platform import parse_platform
from fastcas.image.publish import format_time, publish, put_document, to_seconds
from fastcas.image.reference import check_reference_name
from fastcas.image.walk import mark
from fastcas.jsonlibrary import UNSET, UnsetType, msgspec
from fastcas.model import Descriptor, Index, Manifest, Platform

if TYPE_CHECKING:
    from datetime import datetime

    from fastcas.contract import Progress
    from fastcas.engine import Engine
    from fastcas.image.layer import LayerSource
    from fastcas.results import PutResult

__all__ = ["append_layers", "build_image", "build_index"]

#: What a layer's history says where nothing else is given.
CREATED_BY = "fastcas"

# How often an image is appended to anew when its name has moved meanwhile.
_ATTEMPTS = 100


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """Go's struct{}."""


class _Runtime(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """How an image is run: specs-go/v1, ImageConfig, in its order."""

    user: str | UnsetType = UNSET
    exposed_ports: dict[str, _Nothing] | UnsetType = UNSET
    env: list[str] | UnsetType = UNSET
    entrypoint: list[str] | UnsetType = UNSET
    cmd: list[str] | UnsetType = UNSET
    volumes: dict[str, _Nothing] | UnsetType = UNSET
    working_dir: str | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    stop_signal: str | UnsetType = UNSET
    args_escaped: bool | UnsetType = UNSET


class _Image(msgspec.Struct):
    """specs-go/v1, Image, in its order; its values are checked before."""

    created: Any
    author: Any
    architecture: str
    os: str
    os_version: Any = msgspec.field(name="os.version")
    os_features: Any = msgspec.field(name="os.features")
    variant: Any
    config: _Runtime
    rootfs: RootFS
    history: Any


def build_image(
    engine: Engine,
    layers: Iterable[LayerSource],
    *,
    reference: str | None = None,
    platform: Platform | str | None = None,
    config: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: int | datetime | None = None,
    author: str | None = None,
    history: Iterable[History | str] | None = None,
    compress: str | None = None,
    level: int | None = None,
    owner: tuple[int, int] | None = (0, 0),
    progress: Progress | None = None,
) -> Descriptor:
    """Makes an image of layers, the base first; returns its manifest's descriptor.

    A layer is what ``put_layer`` takes: the path of a tar or of a folder, the descriptor of a stored
    blob, or a Layer; ``compress``, ``level`` and ``owner`` are for those that are paths. With
    ``reference`` the image gets that name; else it is only stored, and it is for the caller to name it.

    ``platform`` is a Platform or ``os/architecture[/variant]``, by default Linux on this machine.
    ``config`` says how it is run, by the names of the specification: User, ExposedPorts, Env,
    Entrypoint, Cmd, Volumes, WorkingDir, Labels, StopSignal, ArgsEscaped. ``annotations`` are the
    manifest's. ``history`` has a History, or its ``created_by``, for each layer.

    ``created`` is when: seconds since the epoch, as SOURCE_DATE_EPOCH has it, or a datetime with a
    zone. It is the time of the image and of its history, and no file of a folder is younger than that.
    Without it no time is written. Equal arguments give equal digests.

    Raises InvalidError for a name outside the grammar, an unknown or wrong setting, and what
    ``put_layer`` refuses; nothing is named then.
    """
    if reference is not None:
        check_reference_name(reference)
    where = _choose_platform(platform)
    runtime = _check_config(config)
    when = None if created is None else format_time(created)
    made = _put_layers(engine, layers, created, compress, level, owner, progress)
    image = _Image(
        created=_or_unset(when),
        author=_or_unset(author),
        architecture=where.architecture,
        os=where.os,
        os_version=_or_unset(where.os_version),
        os_features=_or_unset(where.os_features),
        variant=_or_unset(where.variant),
        config=runtime,
        rootfs=RootFS([layer.diff_id for layer in made]),
        history=_or_unset(_make_history(history, len(made), when, author)),
    )
    stored = engine.put_json(image)
    manifest = Manifest(
        Descriptor(model.MEDIA_TYPE_CONFIG, stored.digest, stored.size),
        [layer.descriptor for layer in made],
        annotations=annotations,
    )
    needs = [stored.digest, *(layer.descriptor.digest for layer in made)]
    return publish(engine, put_document(engine, manifest), reference, needs)


def append_layers(
    engine: Engine,
    reference: str,
    layers: Iterable[LayerSource],
    *,
    new_reference: str | None = None,
    platform: Platform | str | None = None,
    annotations: Mapping[str, str] | None = None,
    created: int | datetime | None = None,
    author: str | None = None,
    history: Iterable[History | str] | None = None,
    compress: str | None = None,
    level: int | None = None,
    owner: tuple[int, int] | None = (0, 0),
    progress: Progress | None = None,
) -> Descriptor:
    """Puts layers on top of the image ``reference``; returns what the new reference stands for.

    That is ``new_reference``, or else ``reference`` itself, which then must be a name; should another
    writer have moved the name meanwhile, the layers go on top of what it stands for by then.
    ``platform`` chooses among the images of an index, which is rewritten with the new one in the
    place of the old. Everything that the manifest and the config had is kept, unknown fields too,
    with the new layers, their history and digests, ``created`` and ``author`` where they are given,
    and ``annotations`` in addition. The other arguments are those of ``build_image``.

    Raises NotExistError where there is no such image, InvalidError where the reference stands for
    several and no platform is given, for what isn't an image, and like ``build_image``.
    """
    name = check_reference_name(reference if new_reference is None else new_reference)
    path = _find_image(engine, reference, platform)
    if new_reference is None and name_of(path[0]) != reference:
        raise InvalidError(f"{shorten(reference)} is no name to give to the result: say a new one")
    when = None if created is None else format_time(created)
    made = _put_layers(engine, layers, created, compress, level, owner, progress)
    steps = _make_history(history, len(made), when, author)
    for _ in range(_ATTEMPTS):
        path = _find_image(engine, reference, platform)
        image = _extend_image(engine, path[-1], made, steps, when, author, annotations)
        root = rename(_replace_in_parents(engine, path, image), name)
        needs = [root.digest, image.digest, *(layer.descriptor.digest for layer in made)]
        if _swap_entry(engine, path[0], root, needs):
            return root
    raise InvalidError(f"{shorten(reference)} was moved by others {_ATTEMPTS} times")


def build_index(
    engine: Engine,
    manifests: Iterable[Descriptor | str],
    *,
    reference: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Descriptor:
    """Makes an index of images, such as one for each platform; returns its descriptor.

    ``manifests`` are descriptors, references or digests. The platform of each, unless its descriptor
    has one, is that of its config. With ``reference`` the index gets that name. Raises NotExistError
    for an image that isn't there, InvalidError for a name outside the grammar.
    """
    if reference is not None:
        check_reference_name(reference)
    entries = []
    for given in manifests:
        entry = rename(select_entry(engine, given) if isinstance(given, str) else given, None)
        document = engine.read_descriptor(entry).data
        if entry.platform is None and isinstance(document, Manifest):
            entry = entry.replace(platform=_platform_of(engine, document))
        entries.append(entry)
    index = Index(entries, annotations=annotations)
    needs = [] if reference is None else _stored(engine, mark(engine, entries).digests)
    return publish(engine, put_document(engine, index), reference, needs)


def _stored(engine: Engine, digests: Iterable[str]) -> list[str]:
    """Those of the digests that are stored: an image may lack some of its parts."""
    return [digest for digest in digests if digest in engine]


def _put_layers(
    engine: Engine,
    layers: Iterable[LayerSource],
    created: int | datetime | None,
    compress: str | None,
    level: int | None,
    owner: tuple[int, int] | None,
    progress: Progress | None,
) -> list[Layer]:
    made: list[Layer] = []
    done = 0
    latest = None if created is None else to_seconds(created)
    for source in layers:
        layer = put_layer(
            engine,
            source,
            compress=compress,
            level=level,
            latest=latest,
            owner=owner,
            progress=shift(progress, done, None),
        )
        done += layer.descriptor.size
        made.append(layer)
    return made


def _choose_platform(platform: Platform | str | None) -> Platform:
    if platform is None:
        machine = os.uname().machine
        return Platform(_ARCHITECTURES.get(machine, machine), "linux")
    return parse_platform(platform)


# What uname(2) and Go call the same machine.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def _check_config(config: Mapping[str, Any] | None) -> _Runtime:
    try:
        runtime = msgspec.convert(dict(config or {}), _Runtime)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise InvalidError(f"config: {error}") from None
    for setting in runtime.env or ():
        if setting.find("=") < 1:
            raise InvalidError(f"config: Env: {shorten(setting)} isn't NAME=value")
    names = runtime.__struct_fields__
    empty = {name: UNSET for name in names if not getattr(runtime, name)}
    return msgspec.structs.replace(runtime, **empty)


def _make_history(
    history: Iterable[History | str] | None, layers: int, when: str | None, author: str | None
) -> list[History]:
    given = [CREATED_BY] * layers if history is None else list(history)
    if len(given) != layers:
        raise InvalidError(f"history: {len(given)} entries for {layers} layers")
    return [
        step if isinstance(step, History) else History(created=when, created_by=step, author=author)
        for step in given
    ]


def _or_unset(value: Any) -> Any:
    return value if value else UNSET


def _platform_of(engine: Engine, manifest: Manifest) -> Platform | None:
    config = engine.read_descriptor(manifest.config).data
    if not isinstance(config, Config):
        return None
    return Platform(
        config.architecture, config.os, config.os_version, config.os_features, config.variant
    )


def _find_image(
    engine: Engine, reference: str, platform: Platform | str | None
) -> tuple[Descriptor, ...]:
    paths = engine.resolve_reference(reference, platform=platform)
    if not paths:
        raise NotExistError(f"{shorten(reference)}: no such reference")
    if len(paths) > 1 and platform is None:
        raise InvalidError(f"{shorten(reference)} stands for {len(paths)} images: choose a platform")
    return paths[0]


def _extend_image(
    engine: Engine,
    descriptor: Descriptor,
    layers: list[Layer],
    steps: list[History],
    when: str | None,
    author: str | None,
    annotations: Mapping[str, str] | None,
) -> Descriptor:
    """Stores the config and the manifest of an image with more layers; its new descriptor."""
    manifest = engine.read_descriptor(descriptor).data
    if not isinstance(manifest, Manifest):
        raise InvalidError(f"{descriptor.digest} is no image, but {descriptor.media_type}")
    config = engine.read_descriptor(manifest.config).data
    if not isinstance(config, Config):
        raise InvalidError(
            f"{descriptor.digest} is no image: its config is {manifest.config.media_type}"
        )
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise InvalidError(
            f"{descriptor.digest}: {len(manifest.layers)} layers, and {len(diff_ids)} in its config"
        )
    # Readers match the history with the layers: there is none, or one for each.
    before = config.history or [History()] * len(diff_ids)
    changes: dict[str, Any] = {"created": when, "author": author}
    config = config.replace(
        rootfs=config.rootfs.replace(diff_ids=[*diff_ids, *(layer.diff_id for layer in layers)]),
        history=[*before, *steps],
        **{name: value for name, value in changes.items() if value is not None},
    )
    stored = engine.put_blob(config.to_json())
    added = [layer.descriptor for layer in layers]
    if manifest.media_type == model.MEDIA_TYPE_DOCKER_MANIFEST:
        added = [_to_docker(layer) for layer in added]
    manifest = manifest.replace(
        config=_moved(manifest.config, stored), layers=[*manifest.layers, *added]
    )
    if annotations:
        manifest = manifest.replace(annotations={**(manifest.annotations or {}), **annotations})
    return _put_again(engine, descriptor, manifest)


_DOCKER_LAYERS = {
    model.MEDIA_TYPE_LAYER: "application/vnd.docker.image.rootfs.diff.tar",
    model.MEDIA_TYPE_LAYER_GZIP: model.MEDIA_TYPE_DOCKER_LAYER_GZIP,
    model.MEDIA_TYPE_LAYER_ZSTD: "application/vnd.docker.image.rootfs.diff.tar.zstd",
}


def _to_docker(layer: Descriptor) -> Descriptor:
    kind = layer.media_type
    return layer.replace(media_type=_DOCKER_LAYERS.get(kind, kind))


def _replace_in_parents(engine: Engine, path: tuple[Descriptor, ...], image: Descriptor) -> Descriptor:
    """Rewrites the indexes above an image, from the lowest up; the new descriptor of the first."""
    old, new = path[-1], image
    for parent in reversed(path[:-1]):
        index = engine.read_descriptor(parent).data
        if not isinstance(index, Index) or old not in index.manifests:
            raise InvalidError(f"{parent.digest} is no index of {old.digest}")
        entries = [new if entry == old else entry for entry in index.manifests]
        old, new = parent, _put_again(engine, parent, index.replace(manifests=entries))
    return new


def _put_again(engine: Engine, descriptor: Descriptor, document: Manifest | Index) -> Descriptor:
    """Stores what ``descriptor`` stood for, changed; all else that it says is kept."""
    stored = put_document(engine, document, descriptor.media_type)
    return _moved(descriptor, stored)


def _moved(descriptor: Descriptor, stored: PutResult | Descriptor) -> Descriptor:
    return descriptor.replace(digest=stored.digest, size=stored.size, data=None, urls=None)


def _swap_entry(engine: Engine, old: Descriptor, new: Descriptor, needs: Sequence[str]) -> bool:
    """Puts ``new`` in the place of all entries of its name, if ``old`` is still in the index: else gc
    may have taken what the two share. NotExistError where one of ``needs``, which only ``new`` leads
    to, isn't stored any more."""
    swapped = False

    def change(index: Index) -> Index | None:
        nonlocal swapped
        swapped = old in index.manifests
        if not swapped:
            return None
        for digest in needs:
            engine.stat_blob(digest)
        kept = [entry for entry in index.manifests if name_of(entry) != name_of(new)]
        return index.replace(manifests=[*kept, new])

    engine.update_index(change)
    return swapped
