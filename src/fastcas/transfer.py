"""cp: from a layout or an archive to a layout, an archive or a file, as the two names say."""

from __future__ import annotations

import os
import sys

from fastcas.console import (
    StandardOutput,
    complain,
    count,
    on_terminal,
    printable,
    standard_input,
)
from fastcas.facts import kind_of
from fastcas.layout import is_url
from fastcas.targets import (
    as_digest,
    find_descriptor,
    find_digest,
    find_entry,
    is_layout,
    split_place,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastcas.contract import Progress
    from fastcas.engine import Engine

STREAM = "-"


class Wrong(Exception):
    """The two names, or the options, don't go together."""


def copy(
    source: str,
    destination: str,
    *,
    platform: str | None = None,
    referrers: bool = False,
    verify: bool = False,
    link: bool = False,
    as_json: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Copies, and says what: ``blobs``, ``bytes`` and ``method``, of images also ``missing``."""
    import fastcas

    path, name = split_place(source)
    if name == "":
        raise Wrong(f"say which: {printable(path)}:NAME or {printable(path)}:DIGEST")
    from_archive = path == STREAM or (os.path.exists(path) and not os.path.isdir(path))
    to, to_name = (STREAM, None) if destination == STREAM else split_place(destination)
    if to_name == "":
        raise Wrong(f"say which: {printable(to)}:NAME")
    by_digest = name is not None and _is_digest(name)
    to_layout = is_layout(to) or _is_new_layout(to, to_name, name, by_digest)
    if link and (from_archive or to_layout):
        raise Wrong("--link goes with a blob and a file")
    if from_archive:
        if platform or referrers:
            raise Wrong("--platform and --referrers go with a layout as the source")
        return _from_archive(path, name, to, to_name, progress)
    with fastcas.open(path) as engine:
        if to_layout:
            if name is None:
                if platform or referrers or to_name is not None:
                    raise Wrong(f"say which image: {printable(path)}:NAME")
            else:
                find_descriptor(engine, name, platform)  # whose messages say more
            with _open_target(to) as target:
                return _to_layout(engine, name, target, to_name, platform, referrers, verify, progress)
        if to == STREAM or (not os.path.isdir(to) and to.endswith(".tar") and not by_digest):
            if by_digest:
                raise Wrong("a blob to standard output: fastcas get")
            if as_json and to == STREAM:
                raise Wrong("--json goes with a file as the destination")
            if link:
                raise Wrong("--link goes with a blob and a file")
            if to_name not in (None, name):
                raise Wrong("in an archive an image keeps its name: use tag before")
            if to == STREAM and on_terminal(sys.stdout):
                raise Wrong("an archive isn't for a terminal: use a pipe or a file")
            return _to_archive(engine, name, to, platform, referrers, progress)
        if name is None:
            if os.path.isdir(to):
                raise Wrong(_no_layout(to))
            raise Wrong(f"say which: {printable(path)}:NAME or {printable(path)}:DIGEST")
        if referrers:
            raise Wrong("--referrers goes with a layout or an archive as the destination")
        return _to_file(engine, name, destination, platform, verify, link, progress)


def _is_new_layout(to: str, to_name: str | None, name: str | None, by_digest: bool) -> bool:
    """Whether a layout is to be made there: nothing has that name, and no file is meant by it."""
    if to == STREAM or os.path.lexists(to):
        return False
    if to.endswith("/"):
        return True
    return not to.endswith(".tar") and (name is None or (to_name is not None and not by_digest))


def _open_target(path: str) -> Engine:
    """The layout of that name, made where nothing is. What is put waits for the change of its index."""
    import fastcas

    if not is_url(path):
        way = fastcas.open if os.path.lexists(path) else fastcas.create
        return way(path, durability="batch")
    try:
        return fastcas.open(path)
    except fastcas.NotExistError:
        return fastcas.create(path)


def _is_digest(name: str) -> bool:
    from fastcas.errors import InvalidError

    try:
        return as_digest(name) is not None
    except InvalidError:
        return False


def _from_archive(
    path: str, name: str | None, to: str, to_name: str | None, progress: Progress | None
) -> dict[str, Any]:
    from fastcas.image.archive import import_archive

    if to_name not in (None, name):
        raise Wrong("what comes from an archive keeps its name: use tag and untag then")
    with _open_target(to) as engine:
        done = import_archive(
            engine,
            standard_input() if path == STREAM else path,
            names=None if name is None else [name],
            progress=progress,
        )
    return {"blobs": done.blobs, "bytes": done.bytes, "method": "copy"}


def _to_layout(
    engine: Engine,
    name: str | None,
    target: Engine,
    to_name: str | None,
    platform: str | None,
    referrers: bool,
    verify: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    from fastcas.image.copy import ImageCopy, LayoutCopy, copy_image, copy_images

    done: ImageCopy | LayoutCopy
    if name is None:
        done = copy_images(engine, target, verify=verify, progress=progress)
    else:
        done = copy_image(
            engine,
            name,
            target,
            to_name,
            platform=platform,
            referrers=referrers,
            verify=verify,
            progress=progress,
        )
    _tell_missing(done.missing)
    # The dearest way that was taken.
    ways = ("copy", "server-copy", "reflink")
    method = next((way for way in ways if way in done.methods), "exists")
    return {
        "blobs": done.blobs,
        "bytes": done.bytes,
        "method": method,
        "missing": done.missing,
    }


def _to_archive(
    engine: Engine,
    name: str | None,
    to: str,
    platform: str | None,
    referrers: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    from fastcas.image.archive import export_archive

    if name is None and (platform or referrers):
        raise Wrong("--platform and --referrers go with SOURCE:NAME")
    if name is not None:
        find_descriptor(engine, name, platform)
    done = export_archive(
        engine,
        StandardOutput() if to == STREAM else to,
        names=None if name is None else [name],
        platform=platform,
        referrers=referrers,
        progress=progress,
    )
    _tell_missing(done.left_out)
    return {"blobs": done.blobs, "bytes": done.bytes, "method": "copy", "missing": done.left_out}


def _to_file(
    engine: Engine,
    name: str,
    destination: str,
    platform: str | None,
    verify: bool,
    link: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    digest = find_digest(engine, name, platform)
    folder = destination if os.path.isdir(destination) else None
    if folder is not None:
        destination = os.path.join(folder, digest.partition(":")[2])
    elif ":" in os.path.basename(destination) and not _is_digest(name):
        to, _ = split_place(destination)
        raise Wrong(f"{printable(to)} is no layout: init makes one")
    done = engine.copy_blob(digest, destination, link=link, verify=verify, progress=progress)
    _tell_document(engine, name, platform, destination, folder)
    return {"blobs": 1, "bytes": done.size, "method": done.method}


def _tell_document(
    engine: Engine, name: str, platform: str | None, path: str, folder: str | None
) -> None:
    """Says that an image's document alone became a file, which is seldom meant, least of all in a
    folder."""
    if _is_digest(name) or (entry := find_entry(engine, name)) is None:
        return
    kind = kind_of(entry.media_type) if platform is None else "manifest"
    wrote = f"wrote the {kind} of {name} to {path}"
    if folder is not None:
        complain(f"{wrote}: {_no_layout(folder)}")
    elif on_terminal(sys.stderr):
        complain(f"{wrote}: for a layout, {path}/")


def _no_layout(folder: str) -> str:
    example = os.path.join(folder, "NEW/")
    return printable(f"{folder} is no layout; one is made where nothing is, as {example}")


def _tell_missing(missing: list[str]) -> None:
    """Says on standard error what the source hasn't got either."""
    if missing:
        complain(f"{count(len(missing), 'blob')} left out, which the source doesn't have either")
