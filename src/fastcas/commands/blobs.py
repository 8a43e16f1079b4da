"""Blobs: put, get, ls, rm."""

from __future__ import annotations

import os
import stat
import sys

import click

from fastcas.commands.options import (
    ALGORITHM,
    as_json,
    check_level,
    compress_options,
    layout_argument,
    open_layout,
    platform_option,
)
from fastcas.console import (
    Progress,
    StandardOutput,
    human,
    on_terminal,
    output,
    printable,
    say,
    say_json,
    shown_size,
    standard_input,
    write,
)
from fastcas.facts import sized
from fastcas.targets import describe_document, find_blob, find_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastcas.engine import Engine

CHUNK = 1 << 20


@click.command()
@layout_argument
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--tag", metavar="NAME", help="Name the manifest or index that FILE is.")
@click.option("--expect", metavar="DIGEST", help="Store FILE only if it has this digest.")
@click.option(
    "--algorithm",
    type=ALGORITHM,
    metavar="NAME",
    default="sha256",
    show_default=True,
    help="sha256, sha512, ...; --expect names its own.",
)
@compress_options
@click.option(
    "--durability",
    type=click.Choice(["full", "batch", "syncfs", "none"]),
    default="full",
    show_default=True,
    help="full: synced one by one. batch: together, at the end. syncfs: the same by one flush of the "
    "whole filesystem, other programs' data too. none: left to the kernel.",
)
@as_json
def put(
    layout: str,
    files: tuple[str, ...],
    tag: str | None,
    expect: str | None,
    algorithm: str,
    compress: str | None,
    level: int | None,
    durability: str,
    as_json: bool,
) -> None:
    """Store files, or standard input (-), as blobs.

    Prints the digests, a line each in the order of the FILEs; on a terminal with sizes and, of
    several, names. They are printed when the blobs are as durable as asked for. With --compress the
    blob is the compressed content; --json then has the digest and size of the plain one too.

    \b
    tar c site | fastcas put image - --compress zstd
    fastcas put image manifest.json --tag v1
    """
    from pathlib import Path

    from fastcas.digest import Digest
    from fastcas.image.reference import check_reference_name

    if len(files) > 1 and (tag or expect):
        raise click.UsageError(f"{'--tag' if tag else '--expect'} goes with one FILE")
    if files.count("-") > 1:
        raise click.UsageError("standard input (-) can be read only once")
    check_level(compress, level)
    if tag is not None:
        check_reference_name(tag)
    expected = None if expect is None else Digest(expect)

    sources = [standard_input() if name == "-" else Path(name) for name in files]
    what = files[0] if len(files) == 1 else f"{len(files)} files"
    shown = "standard input" if what == "-" else what
    stored: list[Any]
    with open_layout(layout, durability) as engine:
        with Progress(shown, total=total_size(files)) as progress:
            if len(sources) > 1 and compress is None:
                stored = list(engine.put_blobs(sources, algorithm=algorithm, progress=progress))
            else:
                stored = [
                    engine.put_blob(
                        source,
                        algorithm=algorithm,
                        expected_digest=expected,
                        progress=progress if len(sources) == 1 else None,
                        compress=compress,
                        level=level,
                    )
                    for source in sources
                ]
        if tag is not None:
            engine.update_reference(tag, describe_document(engine, stored[0].digest))

    if as_json:
        blobs = []
        for blob, name in zip(stored, files, strict=True):
            facts = {"digest": blob.digest, "size": blob.size, "source": name}
            if compress is not None:
                facts |= {"diffId": blob.diff_id, "plainSize": blob.plain_size}
            blobs.append(facts)
        say_json({"blobs": blobs})
        return
    for blob, name in zip(stored, files, strict=True):
        if on_terminal(sys.stdout):
            source = f"  {printable(name)}" if len(files) > 1 else ""
            say(f"{blob.digest} {human(blob.size):>8}{source}")
        else:
            say(blob.digest)


def total_size(files: tuple[str, ...]) -> int | None:
    """What the files have together; None where one is no regular file, or can't be looked at, which
    whoever puts it will say."""
    total = 0
    for name in files if on_terminal(sys.stderr) else ():
        try:
            facts = os.stat(name)
        except OSError:
            return None
        if name == "-" or not stat.S_ISREG(facts.st_mode):
            return None
        total += facts.st_size
    return total


@click.command()
@layout_argument
@click.argument("target", metavar="DIGEST")
@click.option(
    "-o", "--output", "file", metavar="FILE", help="Write to FILE instead of standard output."
)
@platform_option
@as_json
def get(layout: str, target: str, file: str | None, platform: str | None, as_json: bool) -> None:
    """Write a blob out, verified.

    The content is checked against its digest while it is read: damaged content ends with exit
    code 1 and never with its last bytes. The first seven or more digits of a DIGEST are enough. A
    reference's name in its place gets what it names.

    \b
    fastcas get image sha256:9f86d081884c | tar t
    fastcas get image v1 --platform linux/arm64 -o manifest.json
    """
    from pathlib import Path

    if file in (None, "-"):
        if as_json:
            raise click.UsageError("--json goes with -o FILE")
        file = None
    with open_layout(layout) as engine:
        digest = find_digest(engine, target, platform)
        if file is None:
            write_out(engine, digest)
            return
        with Progress(file) as progress:
            done = engine.copy_blob(digest, Path(file), verify=True, progress=progress)
    if as_json:
        say_json({"digest": digest, "size": done.size, "method": done.method})


def write_out(engine: Engine, digest: str) -> None:
    """A blob to standard output, past Python's buffers."""
    out = StandardOutput()
    buffer = memoryview(bytearray(CHUNK))
    done = 0
    with (
        engine.get_blob(digest) as blob,
        Progress(digest[:19], enabled=not on_terminal(output())) as progress,
    ):
        while count := blob.readinto(buffer):
            out.write(buffer[:count])
            done += count
            if progress:
                progress(done, blob.size)


@click.command()
@layout_argument
@click.option("-l", "--long", is_flag=True, help="Sizes too: one look at each file.")
@as_json
def ls(layout: str, long: bool, as_json: bool) -> None:
    """List the blobs, in no order.

    The list is printed while it is read. On a terminal and with --long sizes stand beside the
    digests.

    \b
    fastcas ls --long image | sort -k 2 -n | tail     the largest ones
    """
    long = long or as_json or on_terminal(sys.stdout)
    gap = " " if on_terminal(sys.stdout) else "  "
    with open_layout(layout) as engine:
        if as_json:
            stream_blobs(engine)
        elif long:
            for digest, size in sized(engine):
                say(f"{digest}{gap}{shown_size(size)}")
        else:
            for digest in engine.list_blobs():
                say(digest)


def stream_blobs(engine: Engine) -> None:
    """The JSON document of ls, however many blobs there are, without holding it."""
    write('{"blobs": [')
    comma = ""
    for digest, size in sized(engine):
        write(f'{comma}{{"digest": "{digest}", "size": {size}}}')
        comma = ", "
    write("]}\n")


@click.command()
@layout_argument
@click.argument("digests", nargs=-1, required=True, metavar="DIGEST...")
@as_json
def rm(layout: str, digests: tuple[str, ...], as_json: bool) -> None:
    """Delete blobs.

    References to them stay. A DIGEST may be the first seven or more digits of one; a whole one that
    isn't there counts as deleted, and isn't in the JSON. To remove an image, untag it and let gc
    find what is unused.

    \b
    fastcas rm image sha256:9f86d081884c
    """
    deleted = []
    with open_layout(layout) as engine:
        for digest in [find_blob(engine, text) for text in digests]:
            there = digest in engine
            engine.delete_blob(digest)
            if there:
                deleted.append(digest)
    if as_json:
        say_json({"deleted": deleted})
