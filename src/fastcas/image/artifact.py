"""Artifacts: files of any kind as an OCI manifest.

Source: OCI image-spec 1.1, manifest.md, "Guidelines for Artifact Usage"; annotations.md.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastcas.digest import shorten
from fastcas.errors import InvalidError
from fastcas.image.closure import select_entry, shift
from fastcas.image.folder import Entry, scan_folder
from fastcas.image.publish import format_time, publish, put_document
from fastcas.image.reference import check_reference_name
from fastcas.model import MEDIA_TYPE_EMPTY, Descriptor, Manifest

if TYPE_CHECKING:
    from datetime import datetime

    from fastcas.contract import Progress
    from fastcas.engine import Engine

    Path = str | os.PathLike[str]

__all__ = ["build_artifact"]

ANNOTATION_TITLE = "org.opencontainers.image.title"
ANNOTATION_CREATED = "org.opencontainers.image.created"

_FILE_TYPE = "application/octet-stream"
_EMPTY = b"{}"

# RFC 6838, section 4.2, which the image specification asks for.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(f"{_NAME}/{_NAME}")


def build_artifact(
    engine: Engine,
    files: Path | Iterable[Path | tuple[Path, str]],
    *,
    artifact_type: str,
    subject: Descriptor | str | None = None,
    annotations: Mapping[str, str] | None = None,
    media_type: str = _FILE_TYPE,
    created: int | datetime | None = None,
    reference: str | None = None,
    progress: Progress | None = None,
) -> Descriptor:
    """Stores files as an artifact of the type ``artifact_type``; returns its manifest's descriptor.

    ``files`` is the path of a file or folder, or several of them; a pair (path, media type) says what
    a file is, ``media_type`` what the others are. Each file is a layer whose title is its name, or,
    in a folder, its path relative to that, in the order of the names' bytes; folders within are
    only part of names. ``subject`` is what the artifact refers to: a descriptor, or a
    reference or digest of the index. ``created`` as for ``build_image``, as an annotation.

    With ``reference`` the artifact gets that name. Without, one that has a subject becomes an entry
    of the index without a name, so that ``referrers`` finds it; any other is only stored, and it is
    for the caller to name it. Equal arguments give equal digests.

    Raises InvalidError for a name outside the grammar, a media type outside RFC 6838's, two files of
    one title, a file's name that isn't UTF-8, and what a folder has that is neither a file nor a
    folder; NotExistError for a subject that isn't there.
    """
    if reference is not None:
        check_reference_name(reference)
    for given in (artifact_type, media_type):
        _check_media_type(given)
    notes = dict(annotations or {})
    if created is not None:
        notes[ANNOTATION_CREATED] = format_time(created)
    if isinstance(subject, str):
        subject = select_entry(engine, subject)
    if subject is not None:
        subject = Descriptor(subject.media_type, subject.digest, subject.size)
    layers: dict[str, Descriptor] = {}
    done = 0
    for title, path, kind, open_file in _list_files(files, media_type):
        if title in layers:
            raise InvalidError(f"two files have the title {shorten(title)}")
        _check_title(title, path)
        with open_file() as file:
            digest, size = engine.put_blob(file, progress=shift(progress, done, None))
        layers[title] = Descriptor(kind, digest, size, annotations={ANNOTATION_TITLE: title})
        done += size
    empty = engine.put_blob(_EMPTY)
    config = Descriptor(MEDIA_TYPE_EMPTY, empty.digest, empty.size, data=_EMPTY)
    manifest = Manifest(
        config,
        list(layers.values()) or [config],
        artifact_type=artifact_type,
        subject=subject,
        annotations=notes or None,
    )
    found = put_document(engine, manifest).replace(artifact_type=artifact_type)
    needs = [config.digest, *(layer.digest for layer in layers.values())]
    return publish(engine, found, reference, needs, anyhow=subject is not None)


def _check_title(title: str, path: str) -> None:
    try:
        title.encode()
    except UnicodeEncodeError:
        raise InvalidError(f"{path!r}: the name of the file isn't UTF-8", path=path) from None


def _list_files(files: Any, media_type: str) -> Iterator[tuple[str, str, str, Any]]:
    """Title, path, media type and what opens it, of each file."""
    for item in [files] if isinstance(files, (str, os.PathLike)) else files:
        path, kind = item if isinstance(item, tuple) else (item, media_type)
        path = os.fsdecode(path)
        _check_media_type(kind)
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            yield os.path.basename(path), path, kind, partial(open, path, "rb", buffering=0)
        elif stat.S_ISDIR(mode):
            for entry in scan_folder(path):
                if stat.S_ISREG(entry.facts.st_mode):
                    yield entry.name, entry.path, kind, partial(_open_entry, entry)
                elif not stat.S_ISDIR(entry.facts.st_mode):
                    raise InvalidError(
                        f"{entry.path!r} is neither a file nor a folder", path=entry.path
                    )
        else:
            raise InvalidError(f"{path!r} is neither a file nor a folder", path=path)


@contextmanager
def _open_entry(entry: Entry) -> Iterator[io.FileIO]:
    with entry.open_file() as fd:
        yield io.FileIO(fd, closefd=False)
        entry.check_unchanged(fd)


def _check_media_type(given: object) -> None:
    if not isinstance(given, str) or _MEDIA_TYPE.fullmatch(given) is None:
        raise InvalidError(f"{shorten(given)} is no media type, such as {_FILE_TYPE}")
