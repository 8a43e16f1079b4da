"""Images: tree, build, append, artifact, cp."""

from __future__ import annotations

import json
import shlex
import sys

import click

from fastcas.commands.options import (
    PAIR,
    PLATFORM,
    annotation_option,
    as_json,
    check_level,
    compress_options,
    created,
    layers_argument,
    layout_argument,
    open_layout,
    platform_option,
)
from fastcas.console import (
    Progress,
    on_terminal,
    say,
    say_json,
    standard_input,
    write,
)
from fastcas.display import say_tree
from fastcas.facts import descriptor_facts, tree_facts
from fastcas.piped import take_layers
from fastcas.targets import find_descriptor, find_document
from fastcas.transfer import Wrong, copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from fastcas.model import Descriptor


@click.command()
@layout_argument
@click.argument("target", metavar="[NAME]", required=False)
@platform_option
@as_json
def tree(layout: str, target: str | None, platform: str | None, as_json: bool) -> None:
    """Show what an image is made of.

    From NAME, or from every entry of the index, down to configs and layers; what stands in several
    places is shown once. Kind, platform, digest and size of each; what isn't stored is marked.

    \b
    fastcas tree image v1
    fastcas tree image --json | jq '.nodes[] | select(.stored | not)'
    """
    with open_layout(layout) as engine:
        if target is not None:
            roots = [find_document(engine, target, platform)]
        elif platform is not None:
            raise click.UsageError("--platform goes with NAME")
        else:
            roots = list(engine.get_index().manifests)
        nodes = tree_facts(engine, roots)
        if as_json:
            stream_nodes(nodes)
        else:
            say_tree(nodes)


def stream_nodes(nodes: Iterator[dict[str, Any]]) -> None:
    """Flat, each node with its depth: a graph may be deeper than JSON may be nested."""
    write('{"nodes": [')
    comma = ""
    for node in nodes:
        write(f"{comma}{json.dumps(node)}")
        comma = ", "
    write("]}\n")


def words(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    """The words of a command, as a shell takes them."""
    if value is None:
        return None
    try:
        return shlex.split(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


@click.command()
@layout_argument
@layers_argument
@click.option("--tag", required=True, metavar="NAME", help="The name of the image.")
@click.option(
    "--platform",
    type=PLATFORM,
    metavar="OS/ARCH",
    help="What it runs on: linux/arm64. Else Linux on this machine.",
)
@compress_options
@click.option("--entrypoint", callback=words, metavar="COMMAND", help="What is run, in one argument.")
@click.option(
    "--cmd", callback=words, metavar="ARGUMENTS", help="Its arguments, unless others are given."
)
@click.option("--env", type=PAIR, multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--label", type=PAIR, multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--workdir", metavar="DIR", help="Where it is run.")
@click.option("--user", metavar="USER", help="As whom it is run.")
@annotation_option
@as_json
def build(
    layout: str,
    layers: tuple[str, ...],
    tag: str,
    platform: str | None,
    compress: str | None,
    level: int | None,
    entrypoint: list[str] | None,
    cmd: list[str] | None,
    env: tuple[tuple[str, str], ...],
    label: tuple[tuple[str, str], ...],
    workdir: str | None,
    user: str | None,
    annotations: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Make an image of tars and folders.

    Each LAYER is a tar, plain or compressed, a folder, or standard input (-); the base comes first.
    Prints the digest of the manifest. Equal input gives equal digests: no time is written but
    that of SOURCE_DATE_EPOCH, and files of folders belong to root.

    \b
    fastcas build image rootfs.tar app/ --tag v1 --cmd "/bin/app --serve"
    tar c site | fastcas build image - --tag site --compress zstd
    """
    from fastcas.image.build import build_image
    from fastcas.image.reference import check_reference_name

    check_reference_name(tag)
    check_level(compress, level)
    when = created()
    settings: dict[str, Any] = {
        "User": user,
        "Env": [f"{key}={value}" for key, value in env],
        "Entrypoint": entrypoint,
        "Cmd": cmd,
        "WorkingDir": workdir,
        "Labels": dict(label),
    }
    stdin = piped(layers)
    with open_layout(layout, "batch") as engine, Progress(f"build of {tag}") as progress:
        built = build_image(
            engine,
            take_layers(engine, layers, stdin, compress, level, progress),
            reference=tag,
            platform=platform,
            config={name: value for name, value in settings.items() if value},
            annotations=dict(annotations) or None,
            created=when,
            compress=compress,
            level=level,
            progress=progress,
        )
    say_built(built, tag, as_json)


def piped(layers: tuple[str, ...]) -> BinaryIO | None:
    """Standard input, if it is among them."""
    if layers.count("-") > 1:
        raise click.UsageError("standard input (-) can be read only once")
    return standard_input() if "-" in layers else None


def say_built(descriptor: Descriptor, name: str | None, as_json: bool) -> None:
    if as_json:
        say_json({"name": name, **descriptor_facts(descriptor)})
    else:
        say(descriptor.digest)


@click.command()
@layout_argument
@click.argument("name", metavar="NAME")
@layers_argument
@click.option("--tag", metavar="NEWNAME", help="Name the result so, and leave NAME as it is.")
@platform_option
@compress_options
@annotation_option
@as_json
def append(
    layout: str,
    name: str,
    layers: tuple[str, ...],
    tag: str | None,
    platform: str | None,
    compress: str | None,
    level: int | None,
    annotations: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Put layers on top of an image.

    NAME then stands for the result, unless --tag names that. A LAYER is what build takes. Of an
    index say --platform: it gets the new image in the place of the old one. Prints the digest
    that the name has then.

    \b
    fastcas append image v1 patch/ --tag v1.1
    """
    from fastcas.image.build import append_layers

    check_level(compress, level)
    when = created()
    stdin = piped(layers)
    with open_layout(layout, "batch") as engine, Progress(f"append to {name}") as progress:
        find_descriptor(engine, name, platform)
        built = append_layers(
            engine,
            name,
            take_layers(engine, layers, stdin, compress, level, progress),
            new_reference=tag,
            platform=platform,
            annotations=dict(annotations) or None,
            created=when,
            compress=compress,
            level=level,
            progress=progress,
        )
    say_built(built, tag or name, as_json)


@click.command()
@layout_argument
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--type", "artifact_type", required=True, metavar="TYPE", help="What the artifact is.")
@click.option("--tag", metavar="NAME", help="The name of the artifact; needed without --subject.")
@click.option("--subject", metavar="NAME", help="The image that it is about: see referrers.")
@click.option(
    "--media-type",
    default="application/octet-stream",
    show_default=True,
    metavar="TYPE",
    help="What each file is.",
)
@annotation_option
@as_json
def artifact(
    layout: str,
    files: tuple[str, ...],
    artifact_type: str,
    tag: str | None,
    subject: str | None,
    media_type: str,
    annotations: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Make an artifact of files of any kind.

    A FILE may be a folder: what is in it becomes a blob each, titled with its path. Prints the
    digest of the manifest.

    \b
    fastcas artifact image model/ --type application/vnd.example.model --tag llm
    fastcas artifact image sbom.json --type application/spdx+json --subject v1
    """
    from fastcas.image.artifact import build_artifact

    if tag is None and subject is None:
        raise click.UsageError("say --tag, --subject or both: else nothing leads to it")
    if "-" in files:
        raise click.UsageError("a file's name is its title, and standard input (-) has none: see put")
    when = created()
    with open_layout(layout, "batch") as engine, Progress(f"artifact {tag or ''}".rstrip()) as progress:
        built = build_artifact(
            engine,
            files,
            artifact_type=artifact_type,
            subject=None if subject is None else find_document(engine, subject),
            annotations=dict(annotations) or None,
            media_type=media_type,
            created=when,
            reference=tag,
            progress=progress,
        )
    say_built(built, tag, as_json)


@click.command()
@click.argument("source", metavar="SOURCE[:NAME]")
@click.argument("destination", metavar="DESTINATION[:NAME]")
@platform_option
@click.option("--referrers", is_flag=True, help="Also what refers to the image: signatures, ...")
@click.option("--verify", is_flag=True, help="Digest also what could be shared without reading it.")
@click.option("--link", is_flag=True, help="For a file: allow a hard link, which shares the blob.")
@as_json
def cp(
    source: str,
    destination: str,
    platform: str | None,
    referrers: bool,
    verify: bool,
    link: bool,
    as_json: bool,
) -> None:
    """Copy an image to a layout or archive, or a blob to a file.

    \b
    image:v1 other          to a layout: what it lacks, then the name
    image:v1 other:v2       under another name
    image other             all that the index leads to
    image:v1 v1.tar         to an archive (oci-archive); with - to a pipe
    image all.tar           all that the index leads to
    all.tar image           from an archive, all that it names; also - image
    all.tar:v1 image        one name of it; of a pipe: /dev/stdin:v1
    image:v1 manifest.json  what the name stands for, as a file
    image:sha256:... FILE   any blob, as a file, also one that is called .tar

    Where nothing is, other:v2 and other/ make a layout, and so does a copy of more than an image.

    Where the filesystem can, storage is shared and no byte moves. A blob that becomes a file is
    verified only if asked for (get -o always does); all that arrives in a layout is, but for what is
    shared.

    \b
    fastcas cp image:v1 - --platform linux/arm64 | ssh host fastcas cp - image
    """
    try:
        drawn = destination != "-" or not on_terminal(sys.stdout)
        with Progress(f"copy of {source}", enabled=drawn) as progress:
            done = copy(
                source,
                destination,
                platform=platform,
                referrers=referrers,
                verify=verify,
                link=link,
                as_json=as_json,
                progress=progress,
            )
    except Wrong as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        say_json(done)
