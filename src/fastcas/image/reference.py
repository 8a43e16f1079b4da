"""References: the names that an index gives to its entries.

A reference is an entry of the index with the annotation ``org.opencontainers.image.ref.name``.
Names that are created keep to the specification's grammar; names that others made are listed, found
and removed whatever they look like.

Source: OCI image-spec, annotations.md and image-layout.md, "index.json file".
"""

from __future__ import annotations

import re

from fastcas.digest import shorten
from fastcas.errors import InvalidError
from fastcas.model import ANNOTATION_REF_NAME, Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcas.engine import Engine
    from fastcas.model import Index

__all__ = [
    "check_reference_name",
    "delete_reference",
    "find_entries",
    "list_references",
    "update_reference",
]

_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


def check_reference_name(name: str) -> str:
    """``name``, found to be in the specification's grammar; InvalidError where it isn't."""
    if not isinstance(name, str):
        raise InvalidError(f"reference name must be a str, not {type(name).__name__}")
    if _NAME.fullmatch(name) is None:
        raise InvalidError(
            f"invalid reference name {shorten(name)}: letters and digits, joined by one of "
            "-._:@+/ or by --"
        )
    return name


def list_references(engine: Engine) -> list[str]:
    """The names in the order of the index; a name stands there as often as the index has it."""
    names = [_name_of(entry) for entry in engine.get_index().manifests]
    return [name for name in names if name is not None]


def find_entries(engine: Engine, name_or_digest: str) -> list[Descriptor]:
    """The entries of the index that have this reference name or this digest, in order.

    Any string may be asked for; [] where there is none.
    """
    return [
        entry
        for entry in engine.get_index().manifests
        if name_or_digest in (_name_of(entry), entry.digest)
    ]


def update_reference(engine: Engine, name: str, descriptor: Descriptor) -> list[Descriptor]:
    """Makes ``name`` refer to ``descriptor``, as the last entry; returns the entries replaced.

    Durable as the engine's ``update_index`` is.  The descriptor itself stays as it is: a copy gets
    the name, and keeps all its other annotations and fields.  Raises InvalidError for a name
    outside the grammar, and TypeError for what isn't a Descriptor; nothing is written then.
    """
    check_reference_name(name)
    if not isinstance(descriptor, Descriptor):
        raise TypeError(f"expected a Descriptor, not {type(descriptor).__name__}")
    annotations = {**(descriptor.annotations or {}), ANNOTATION_REF_NAME: name}
    entry = descriptor.replace(annotations=annotations)
    replaced: list[Descriptor] = []

    def change(index: Index) -> Index:
        # The engine calls this again if the index has changed under it.
        replaced[:], kept = _split(index, name)
        return index.replace(manifests=[*kept, entry])

    engine.update_index(change)
    return replaced


def delete_reference(engine: Engine, name: str) -> list[Descriptor]:
    """Removes all entries of ``name``, whatever it looks like; returns them.

    Where there are none, nothing is written and [] returned.
    """
    if not isinstance(name, str):
        raise InvalidError(f"reference name must be a str, not {type(name).__name__}")
    removed: list[Descriptor] = []

    def change(index: Index) -> Index | None:
        removed[:], kept = _split(index, name)
        return index.replace(manifests=kept) if removed else None

    engine.update_index(change)
    return removed


def _split(index: Index, name: str) -> tuple[list[Descriptor], list[Descriptor]]:
    entries = index.manifests
    # Of the structs behind the values, whose attributes cost a tenth: of thousands, one has the name.
    notes = [entry._fields.annotations for entry in entries]
    places = {at for at, found in enumerate(notes) if found and found.get(ANNOTATION_REF_NAME) == name}
    if not places:
        return [], list(entries)
    named = [entry for at, entry in enumerate(entries) if at in places]
    return named, [entry for at, entry in enumerate(entries) if at not in places]


def _name_of(entry: Descriptor) -> str | None:
    notes = entry._fields.annotations
    return notes.get(ANNOTATION_REF_NAME) if notes else None
