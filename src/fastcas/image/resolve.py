"""From a name or a digest to what it refers to.

Indexes are opened, once each, whatever their number of levels; targets, which is everything that is
no index, aren't, except to learn the platform of one that no descriptor tells.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fastcas.digest import REGISTERED, Digest, shorten
from fastcas.errors import InvalidError, NotExistError
from fastcas.image.parse import is_index, is_manifest, read_document
from fastcas.image.platform import parse_platform, rank
from fastcas.image.verified import read_content
from fastcas.image.walk import DEPTH_LIMIT, NODE_LIMIT
from fastcas.jsonlibrary import msgspec
from fastcas.jsonstyle import decode_document
from fastcas.model import (
    ANNOTATION_REF_NAME,
    DOCUMENT_LIMIT,
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_DOCKER_CONFIG,
    Descriptor,
    Manifest,
    Platform,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fastcas.engine import Engine

    Path = tuple[Descriptor, ...]

__all__ = ["find_stored", "is_short", "resolve_reference"]

#: The least number of digits that are taken for the beginning of a digest: fewer are a tag's.
SHORTEST = 7

# With more digits it is rather a whole one that has lost some.
_LONGEST_SHORT = 40
_SHORT = re.compile(rf"(?:({'|'.join(REGISTERED)}):)?([0-9a-f]{{{SHORTEST},}})")

# Paths are kept: so many descriptors all together, 80 MB.
_KEPT_LIMIT = 10_000_000


def resolve_reference(
    engine: Engine, name: str, *, platform: str | Platform | None = None
) -> list[Path]:
    """See ``Engine.resolve_reference``.

    A whole digest, alone or behind ``name@``, is first looked for as such, and only if there is
    none as a name that looks like one.
    """
    if not isinstance(name, str):
        raise InvalidError(f"reference name must be a str, not {type(name).__name__}")
    wanted = None if platform is None else parse_platform(platform)
    starts = _find(engine, name)
    if wanted is None:
        return _targets(engine, starts)
    best = _best(engine, starts, wanted)
    return [] if best is None else [best]


def _find(engine: Engine, name: str) -> list[Path]:
    """The paths to what ``name`` names itself."""
    entries = engine.get_index().manifests
    named = [entry for entry in entries if _name_of(entry) == name]
    base, _, tail = name.rpartition("@")
    digest = _registered(tail)
    if digest is not None:
        among = [entry for entry in entries if _name_of(entry) in (base, name)] if base else entries
        return _with_digest(engine, among, digest) or [(entry,) for entry in named]
    if named:
        return [(entry,) for entry in named]
    unregistered: list[Path] = [(entry,) for entry in entries if entry.digest == name]
    return unregistered or _beginning_with(engine, entries, name)


def _name_of(entry: Descriptor) -> str | None:
    return (entry.annotations or {}).get(ANNOTATION_REF_NAME)


def _registered(text: str) -> Digest | None:
    if text.partition(":")[0] not in REGISTERED:
        return None
    try:
        return Digest(text)
    except InvalidError:
        return None


def _with_digest(engine: Engine, entries: Iterable[Descriptor], digest: Digest) -> list[Path]:
    found: list[Path] = [(entry,) for entry in entries if entry.digest == digest]
    return found or _search(engine, entries, lambda node: node.digest == digest)


def _beginning_with(engine: Engine, entries: Iterable[Descriptor], text: str) -> list[Path]:
    begins = _beginning(text)
    if begins is None:
        return []
    paths = _search(engine, entries, lambda node: begins(node.digest))
    _check_one(text, {path[-1].digest for path in paths})
    return paths


def is_short(text: str) -> bool:
    """Whether a short digest is meant, and not a whole one that has lost some digits."""
    match = _SHORT.fullmatch(text)
    return match is not None and len(match[2]) <= _LONGEST_SHORT


def find_stored(engine: Engine, text: str) -> Digest | None:
    """The digest of the stored blob that ``text`` is the beginning of; None where there is none, or it
    is too short or no beginning. All blobs are listed. InvalidError where there are several."""
    begins = _beginning(text)
    if begins is None:
        return None
    found = {digest for digest in engine.list_blobs() if begins(digest)}
    _check_one(text, found)
    return found.pop() if found else None


def _beginning(text: str) -> Callable[[Digest], bool] | None:
    """What tells the digests that begin with ``text``; None for what is no beginning of one."""
    match = _SHORT.fullmatch(text)
    if match is None:
        return None
    algorithm, digits = match.groups()

    def begins(digest: Digest) -> bool:
        return digest.encoded.startswith(digits) and algorithm in (None, digest.algorithm)

    return begins


def _check_one(text: str, found: set[Digest]) -> None:
    if len(found) > 1:
        first, second = sorted(found)[:2]
        raise InvalidError(f"{shorten(text)} begins {len(found)} digests: {first}, {second}")


def _search(
    engine: Engine, entries: Iterable[Descriptor], fits: Callable[[Descriptor], bool]
) -> list[Path]:
    """The paths to descriptors that fit, among the entries and below; each (digest, type) once."""
    opened: set[tuple[str, str]] = set()
    found: dict[tuple[str, str], Path] = {}
    for entry in entries:
        for path in _descend(engine, (entry,), opened, sparse=True):
            if fits(path[-1]):
                found.setdefault(_key(path[-1]), path)
    return list(found.values())


def _targets(engine: Engine, starts: list[Path]) -> list[Path]:
    opened: set[tuple[str, str]] = set()
    found: dict[tuple[str, str], Path] = {}
    kept = 0
    for start in starts:
        for path in _descend(engine, start, opened):
            target = path[-1]
            if is_index(target.media_type) or _key(target) in found:
                continue
            kept += len(path)
            if kept > _KEPT_LIMIT:
                raise InvalidError(f"{start[0].digest} leads to too many targets, too deep down")
            found[_key(target)] = path
    return list(found.values())


def _best(engine: Engine, starts: list[Path], wanted: Platform) -> Path | None:
    opened: set[tuple[str, str]] = set()
    best: tuple[int, Path] | None = None
    whatever = None
    for start in starts:
        for path in _descend(engine, start, opened, wanted):
            target = path[-1]
            if is_index(target.media_type):
                continue
            platform = target.platform or _platform_of(engine, target)
            if platform is None:
                if path == start and whatever is None:
                    whatever = path
                continue
            found = rank(wanted, platform)
            if found is not None and (best is None or found < best[0]):
                best = found, path
    return whatever if best is None else best[1]


def _descend(
    engine: Engine,
    start: Path,
    opened: set[tuple[str, str]],
    wanted: Platform | None = None,
    sparse: bool = False,
) -> Iterator[Path]:
    """The paths from ``start`` down through indexes, itself first, pre-order; of an index that was
    opened before nothing below; of descriptors for other platforms than ``wanted`` nothing."""
    path = list(start[:-1])
    levels = [iter(start[-1:])]
    met = 0
    while levels:
        node = next(levels[-1], None)
        if node is None:
            levels.pop()
            if levels:
                path.pop()
            continue
        digest = node.digest
        met += 1
        if met > NODE_LIMIT:
            message = f"{digest}: the graph has more than {NODE_LIMIT} descriptors"
            raise InvalidError(message, digest=digest)
        if len(path) == DEPTH_LIMIT:
            message = f"{digest}: nested more than {DEPTH_LIMIT} descriptors deep"
            raise InvalidError(message, digest=digest)
        platform = node.platform if wanted is not None else None
        if wanted is not None and platform is not None and rank(wanted, platform) is None:
            continue
        yield (*path, node)
        if not is_index(node.media_type) or _key(node) in opened:
            continue
        opened.add(_key(node))
        try:
            index = read_document(engine, node)
        except NotExistError:
            if len(levels) == 1 and not sparse:
                raise
            continue
        path.append(node)
        levels.append(iter(index.manifests))


def _key(node: Descriptor) -> tuple[str, str]:
    return node.digest, node.media_type


class _ConfigPlatform(msgspec.Struct):
    architecture: str = ""
    os: str = ""
    os_version: str | None = msgspec.field(default=None, name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")
    variant: str | None = None


def _platform_of(engine: Engine, target: Descriptor) -> Platform | None:
    """What the config of an image says; None where there is none, or it doesn't say."""
    if not is_manifest(target.media_type):
        return None
    try:
        manifest: Manifest = read_document(engine, target)
        config = manifest.config
        if config.media_type not in (MEDIA_TYPE_CONFIG, MEDIA_TYPE_DOCKER_CONFIG):
            return None
        raw = read_content(engine, config, limit=DOCUMENT_LIMIT)
    except NotExistError:
        return None
    decode_document(raw, limit=DOCUMENT_LIMIT, what=f"config {config.digest}")
    try:
        said = msgspec.json.decode(raw, type=_ConfigPlatform)
    except msgspec.ValidationError as error:
        raise InvalidError(f"config {config.digest}: {error}", digest=config.digest) from None
    if not said.architecture or not said.os:
        return None
    return Platform(said.architecture, said.os, said.os_version, said.os_features, said.variant)
