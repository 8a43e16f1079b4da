"""References: refs, tag, untag, referrers."""

from __future__ import annotations

import sys

import click

from fastcas.commands.options import as_json, layout_argument, open_layout, platform_option
from fastcas.console import human, on_terminal, say_json, say_table
from fastcas.facts import descriptor_facts, kind_of, short
from fastcas.targets import find_digest, find_document


@click.command()
@layout_argument
@as_json
def refs(layout: str, as_json: bool) -> None:
    """List the references.

    Columns: name, digest, size, media type. A terminal gets short digests and types.

    \b
    fastcas refs image
    """
    from fastcas.model import ANNOTATION_REF_NAME

    with open_layout(layout) as engine:
        named = [
            {"name": (entry.annotations or {})[ANNOTATION_REF_NAME], **descriptor_facts(entry)}
            for entry in engine.get_index().manifests
            if ANNOTATION_REF_NAME in (entry.annotations or {})
        ]
    if as_json:
        say_json({"references": named})
    elif on_terminal(sys.stdout):
        say_table(
            (f["name"], short(f["digest"]), f"{human(f['size']):>8}", kind_of(f["mediaType"]))
            for f in named
        )
    else:
        say_table((f["name"], f["digest"], str(f["size"]), f["mediaType"]) for f in named)


@click.command()
@layout_argument
@click.argument("name", metavar="NEWNAME")
@click.argument("target", metavar="TARGET")
@platform_option
@as_json
def tag(layout: str, name: str, target: str, platform: str | None, as_json: bool) -> None:
    """Name a manifest or index.

    TARGET is a name that exists or a digest; whatever had NEWNAME before loses it. The name of an
    index leads to the index, unless --platform picks an image of it.

    \b
    fastcas tag image latest v1
    fastcas tag image latest-arm v1 --platform linux/arm64
    """
    from fastcas.image.reference import check_reference_name

    check_reference_name(name)
    with open_layout(layout) as engine:
        descriptor = find_document(engine, target, platform)
        engine.update_reference(name, descriptor)
    if as_json:
        say_json({"name": name, "digest": descriptor.digest})


@click.command()
@layout_argument
@click.argument("name", metavar="NAME")
@as_json
def untag(layout: str, name: str, as_json: bool) -> None:
    """Remove a name; the blobs stay.

    gc removes those that nothing else leads to.

    \b
    fastcas untag image v1
    """
    from fastcas.errors import NotExistError

    with open_layout(layout) as engine:
        removed = engine.delete_reference(name)
    if not removed:
        raise NotExistError(f"{name}: no reference of that name")
    if as_json:
        say_json({"name": name, "digest": removed[-1].digest})


@click.command()
@layout_argument
@click.argument("target", metavar="NAME")
@click.option("--type", "artifact_type", metavar="TYPE", help="Only those of this artifact type.")
@platform_option
@as_json
def referrers(
    layout: str, target: str, artifact_type: str | None, platform: str | None, as_json: bool
) -> None:
    """List what refers to an image: signatures and the like.

    That is what has it as its subject, and what the reference sha256-... of a registry lists.
    Columns: digest, size, artifact type. The image itself need not be stored.

    \b
    fastcas referrers image v1
    fastcas referrers image v1 --type application/spdx+json
    """
    with open_layout(layout) as engine:
        digest = find_digest(engine, target, platform)
        found = engine.referrers(digest, artifact_type=artifact_type)
    if as_json:
        say_json(
            {
                "referrers": [
                    {
                        **descriptor_facts(referrer),
                        "artifactType": referrer.artifact_type,
                        "annotations": dict(referrer.annotations or {}),
                    }
                    for referrer in found
                ]
            }
        )
        return
    terminal = on_terminal(sys.stdout)
    say_table(
        (
            short(r.digest) if terminal else r.digest,
            f"{human(r.size):>8}" if terminal else str(r.size),
            r.artifact_type or r.media_type,
        )
        for r in found
    )
