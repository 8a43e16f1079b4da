"""What must hold of a layout, whatever has happened: the checker that all gates share.

It reads with ``json`` and ``hashlib``, not with the store. ``Expected`` is what may be there by what
the writers told; ``check`` compares a tree with it; ``recover`` is what the store itself must still do.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import fastcas

REF_NAME = "org.opencontainers.image.ref.name"
TEMP = re.compile(r"\.fastcas-[0-9a-f]{16}\.tmp")
OURS = {".fastcas.lock", ".fastcas.xxh128"}
KNOWN = {"sha256": 64, "sha512": 128}


class Content:
    """The bytes of a file; what is asked of them often is found once."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._digests: dict[str, str] = {}

    def digest(self, algorithm: str) -> str:
        if algorithm not in self._digests:
            self._digests[algorithm] = hashlib.new(algorithm, self.data).hexdigest()
        return self._digests[algorithm]

    @cached_property
    def document(self) -> dict[str, Any] | None:
        """The JSON object that it is, or None."""
        try:
            found = json.loads(self.data)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


#: A layout: what stands at each path relative to its root; None is a directory.
Tree = Mapping[str, "Content | None"]


def snapshot(layout: Path) -> dict[str, Content | None]:
    """The tree that is there. Symbolic links and the like count as files of their own kind."""
    tree: dict[str, Content | None] = {}
    for folder, folders, files in os.walk(layout):
        for name in folders:
            tree[os.path.relpath(os.path.join(folder, name), layout)] = None
        for name in files:
            path = os.path.join(folder, name)
            special = os.path.islink(path) or not os.path.isfile(path)
            try:
                content = b"not a regular file" if special else Path(path).read_bytes()
            except OSError as error:  # what is unreadable is as good as torn
                content = f"unreadable: {error.strerror}".encode()
            tree[os.path.relpath(path, layout)] = Content(content)
    return tree


class Expected:
    """What may be there after a crash, as the events say that were told until then.

    Events, LEVEL being the durability of the engine:
    ``created``                        create() has returned, at a level that syncs
    ``storing`` LEVEL DIGESTS          is about to put them
    ``stored`` LEVEL DIGESTS           the put has returned
    ``synced`` LEVEL                   sync() or close() has returned
    ``tagging`` LEVEL {NAME: DIGEST}   is about to change these entries of the index; null: removed
    ``tagged`` LEVEL {NAME: DIGEST}    that has returned
    ``deleting`` LEVEL DIGESTS         is about to delete them, or to collect them
    ``died``                           the writer has ended without a close
    Writers with blobs and names of their own may share an Expected, one after the other. Where the
    filesystem ``reuses_blocks``, what was deleted may come back with any content.
    """

    def __init__(self, *, reuses_blocks: bool = False) -> None:
        self._reuses_blocks = reuses_blocks  # those of a file whose removal isn't durable yet
        self.created = False
        self.last = ""  # kind of event
        self.durable: set[str] = set()  # must be there
        self.loose: set[str] = set()  # put at "none": may be anything after a crash
        self.names: dict[str, set[str | None]] = {}  # what each entry of the index may lead to
        self.loose_index = False  # the index was written at "none"
        self._waiting: set[str] = set()  # put at "batch", not synced

    def feed(self, events: Iterable[list[Any]]) -> None:
        for kind, *facts in events:
            getattr(self, f"_{kind}")(*facts)
            self.last = kind

    def _created(self) -> None:
        self.created = True

    def _storing(self, level: str, digests: list[str]) -> None:
        if level == "none":
            self.loose |= set(digests) - self.durable

    def _stored(self, level: str, digests: list[str]) -> None:
        if level == "full":
            self._endure(digests)
        elif level != "none":
            self._waiting |= set(digests)

    def _synced(self, level: str) -> None:
        if level not in ("full", "none"):
            self._endure(self._waiting)
            self._waiting = set()

    def _tagging(self, level: str, entries: dict[str, str | None]) -> None:
        for name, digest in entries.items():
            self.names.setdefault(name, {None}).add(digest)
        self.loose_index |= level == "none"

    def _tagged(self, level: str, entries: dict[str, str | None]) -> None:
        if level == "none":
            return
        self._synced(level)
        self.loose_index = False
        for name, digest in entries.items():
            self.names[name] = {digest}

    def _deleting(self, level: str, digests: list[str]) -> None:
        self.durable -= set(digests)
        self._waiting -= set(digests)
        if level == "none" or self._reuses_blocks:
            self.loose |= set(digests)

    def _died(self) -> None:
        self._waiting = set()

    def _endure(self, digests: Iterable[str]) -> None:
        self.durable |= set(digests)
        self.loose -= set(digests)


def check(tree: Tree, expected: Expected) -> Iterator[str]:
    """What is wrong with the tree of a layout, before anybody has opened it again."""
    if expected.created:
        content = tree.get("oci-layout")
        if content is None or content.document != {"imageLayoutVersion": "1.0.0"}:
            yield "lost: oci-layout"
        if tree.get("blobs", content) is not None:
            yield "lost: blobs/"
        if tree.get("index.json") is None:
            yield "lost: index.json"
    for digest in expected.durable:
        if tree.get(_path(digest)) is None:
            yield f"lost: {digest}, which was acknowledged as durable"
    for path, content in tree.items():
        yield from _check_place(path, content, expected)
    yield from _check_index(tree, expected)


def _check_place(path: str, content: Content | None, expected: Expected) -> Iterator[str]:
    top, _, rest = path.partition("/")
    algorithm, _, encoded = rest.partition("/")
    if top != "blobs":
        known = path in {"oci-layout", "index.json", *OURS} or TEMP.fullmatch(path)
        if not known or content is None:
            yield f"nobody's: {path}"
    elif not rest or (not encoded and algorithm in KNOWN):
        if content is not None:
            yield f"no directory: {path}"
    elif content is None or not re.fullmatch(f"[0-9a-f]{{{KNOWN.get(algorithm, 0)}}}", encoded):
        yield f"nobody's: {path}"
    elif f"{algorithm}:{encoded}" not in expected.loose and content.digest(algorithm) != encoded:
        yield f"wrong content: {algorithm}:{encoded}, {len(content.data)} bytes"


def _check_index(tree: Tree, expected: Expected) -> Iterator[str]:
    content = tree.get("index.json")
    if content is None:
        return  # said above, if it has to be there
    index = content.document
    if index is None or index.get("schemaVersion") != 2:
        if expected.created and not expected.loose_index:
            yield f"torn: index.json, {len(content.data)} bytes"
        return
    found: dict[str, str | None] = dict.fromkeys(expected.names)
    for entry in index["manifests"]:
        found[entry["annotations"][REF_NAME]] = entry["digest"]
        yield from _check_present(tree, entry, expected)
    for name, digest in found.items():
        allowed = expected.names.get(name, {None})
        if digest not in allowed and not expected.loose_index:
            yield f"index: {name} leads to {digest}, not to {' or '.join(map(str, allowed))}"


def _check_present(tree: Tree, descriptor: dict[str, Any], expected: Expected) -> Iterator[str]:
    """The blob that a descriptor names, and what that leads to; their content is judged above."""
    digest = descriptor["digest"]
    if digest in expected.loose:
        return
    content = tree.get(_path(digest))
    if content is None:
        yield f"dangling: the index leads to {digest}"
    elif len(content.data) != descriptor["size"]:
        yield f"dangling: {digest} has {len(content.data)} bytes, not {descriptor['size']}"
    elif "manifest" in descriptor["mediaType"] and content.document is not None:
        for child in [content.document["config"], *content.document["layers"]]:
            yield from _check_present(tree, child, expected)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def recover(layout: Path, expected: Expected) -> Iterator[str]:
    """What is wrong with how the store goes on with that layout: it opens, cleans up, reads what was
    acknowledged, stores again, and leaves no descriptor open."""
    before = open_files()
    try:
        with fastcas.open(layout) as cas:
            cas.clean()
            for digest in sorted(expected.durable):
                with cas.get_blob(digest) as blob:
                    blob.verify()
            if not expected.loose_index:
                cas.get_index()
            stored = cas.put_blob(b"after the crash")
            if cas.read_blob(stored.digest) != b"after the crash":
                yield "after the crash a put stores something else"
            cas.delete_blob(stored.digest)
    except (OSError, fastcas.FastCASError) as error:
        yield f"the store doesn't go on: {error!r}"
    strays = set(os.listdir(layout)) - {"oci-layout", "index.json", "blobs", *OURS}
    if strays:
        yield f"strays after clean: {sorted(strays)}"
    if open_files() != before:
        yield f"open before: {before}, now: {open_files()}"


def open_files() -> list[str]:
    """What this process has open, but for the directory that is read to know."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return sorted(found)
