"""The command line: arguments, one call of the engine, output, exit code.

Standard output carries the answer (one JSON document with ``--json``), standard error the rest.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from functools import partial

import click

from fastcas.console import (
    Progress,
    complain,
    flush,
    human,
    on_terminal,
    output,
    printable,
    refused,
    say,
    say_facts,
    say_json,
    say_table,
    shown_size,
    write,
)
from fastcas.targets import (
    as_digest,
    describe_document,
    descriptor_facts,
    find_digest,
    find_entry,
    image_facts,
    layout_facts,
    sized,
    split_source,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from fastcas.dir.engine import DirEngine
    from fastcas.engine import Engine

CHUNK = 1 << 20
# The reader of our output has gone: what the shell reports of a program that SIGPIPE ended.
PIPE_CLOSED = 128 + 13
HELP_WIDTH = 96

SECTIONS = {
    "Layouts": ("init", "stat", "clean"),
    "Blobs": ("put", "get", "ls", "cp", "rm"),
    "References": ("refs", "tag", "untag"),
}

EPILOG = """\b
Examples:
  fastcas init image
  tar c site | fastcas put image -            a layer from a pipe; prints its digest
  fastcas put image manifest.json --tag v1    a manifest, and a name for it
  fastcas get image sha256:9f86d0... | tar t  verified to its last byte
  fastcas cp image:v1 manifest.json           what v1 names, out to a file

\b
Exit codes:
  0 done   1 damaged content   2 wrong use   3 not found   4 invalid layout, digest or
  document   5 refused by the system   130 interrupted   141 the reader of the output left
"""


class Commands(click.Group):
    """The group of all commands, and the one place where errors become messages and exit codes."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in SECTIONS.items():
            with formatter.section(section):
                # One column for all sections: what stands left is at least as wide as "untag".
                rows = [(name.ljust(5), self.commands[name].get_short_help_str(70)) for name in names]
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
            flush()
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            status = exit_status(error)
            if status is None:
                raise
            with suppress(OSError):  # what was printed before; the first error counts
                flush()
            if status != PIPE_CLOSED:
                complain(describe(error))
            raise click.exceptions.Exit(status) from error
        except KeyboardInterrupt:
            complain("interrupted")
            raise click.exceptions.Exit(130) from None

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        # Left to itself, click imports shutil to learn this, for a twentieth of what --help may take.
        extra.setdefault("terminal_width", min(columns(), HELP_WIDTH))
        return super().make_context(*args, **extra)

    def main(self, *args: Any, **extra: Any) -> Any:
        extra.update(standalone_mode=False, prog_name="fastcas")
        try:
            status = super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = error.exit_code
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "fastcas"
            command = where.removeprefix("fastcas").lstrip()
            message = f"{error.format_message().rstrip('.')} (see: {where} --help)"
            complain(f"{command}: {message}" if command else message)
            status = error.exit_code
        except click.ClickException as error:
            complain(error.format_message())
            status = error.exit_code
        except click.Abort:
            status = 130
        sys.exit(status or 0)


def columns() -> int:
    """The width of the terminal, 80 where there is none."""
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns or 80)
    except (OSError, ValueError):
        return 80


def exit_status(error: BaseException) -> int | None:
    """The exit code of an error, None for what is a defect of the program and not an error."""
    from fastcas import errors

    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    if isinstance(error, errors.CorruptError):
        return 1
    if isinstance(error, FileNotFoundError):
        return 3
    if isinstance(error, OSError):
        return 5
    if isinstance(error, errors.FastCASError):
        return 4
    return None


def describe(error: Exception) -> str:
    from fastcas.errors import FastCASError

    if isinstance(error, OSError) and not isinstance(error, FastCASError):
        reason = error.strerror or str(error)
        return f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason
    return str(error)


def open_layout(path: str, durability: str = "full") -> DirEngine:
    import fastcas

    return fastcas.open(path, durability=durability)


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
layout_argument = click.argument("layout")


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND LAYOUT ...",
)
@click.version_option(package_name="fastcas", message="fastcas %(version)s")
def main() -> None:
    """A content-addressable store for OCI image layouts: fast, durable, verified.

    LAYOUT is the directory of an image layout, `-` standard input or output.
    Every command that prints takes --json; COMMAND --help says more.
    """


@main.command()
@layout_argument
@as_json
def init(layout: str, as_json: bool) -> None:
    """Make a new, empty layout.

    Missing parents are made too; LAYOUT itself must not exist, not even as an empty directory
    (exit code 5).
    """
    import fastcas

    fastcas.create(layout).close()
    if as_json:
        say_json({"path": layout})


@main.command()
@layout_argument
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--tag", metavar="NAME", help="Name the manifest or index that FILE is.")
@click.option("--expect", metavar="DIGEST", help="Store FILE only if it has this digest.")
@click.option(
    "--algorithm",
    metavar="NAME",
    default="sha256",
    show_default=True,
    help="sha256, sha512, ...; --expect names its own.",
)
@click.option(
    "--durability",
    type=click.Choice(["full", "batch", "none"]),
    default="full",
    show_default=True,
    help="full: synced one by one. batch: synced at the end. none: left to the kernel.",
)
@as_json
def put(
    layout: str,
    files: tuple[str, ...],
    tag: str | None,
    expect: str | None,
    algorithm: str,
    durability: str,
    as_json: bool,
) -> None:
    """Store files, or standard input (-), as blobs.

    Prints the digests, a line each in the order of the FILEs; on a terminal with sizes and names.
    They are printed when the blobs are as durable as asked for.

    \b
    tar c site | fastcas put image -
    fastcas put image manifest.json --tag v1
    """
    from pathlib import Path

    from fastcas.digest import Digest
    from fastcas.image.reference import check_reference_name

    if len(files) > 1 and (tag or expect):
        raise click.UsageError(f"{'--tag' if tag else '--expect'} goes with one FILE")
    if files.count("-") > 1:
        raise click.UsageError("standard input (-) can be read only once")
    if tag is not None:
        check_reference_name(tag)
    expected = None if expect is None else Digest(expect)

    sources = [standard_input() if name == "-" else Path(name) for name in files]
    what = files[0] if len(files) == 1 else f"{len(files)} files"
    with open_layout(layout, durability) as engine:
        with Progress("standard input" if what == "-" else what) as progress:
            if len(sources) == 1:
                stored = [
                    engine.put_blob(
                        sources[0],
                        algorithm=algorithm,
                        expected_digest=expected,
                        progress=progress,
                    )
                ]
            else:
                stored = engine.put_blobs(sources, algorithm=algorithm, progress=progress)
        if tag is not None:
            engine.update_reference(tag, describe_document(engine, stored[0].digest))

    if as_json:
        blobs = [
            {"digest": blob.digest, "size": blob.size, "source": name}
            for blob, name in zip(stored, files, strict=True)
        ]
        say_json({"blobs": blobs})
    else:
        for blob, name in zip(stored, files, strict=True):
            if on_terminal(sys.stdout):
                say(f"{blob.digest}  {human(blob.size):>10}  {printable(name)}")
            else:
                say(blob.digest)


def standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    return sys.stdin.buffer


@main.command()
@layout_argument
@click.argument("target", metavar="DIGEST")
@click.option(
    "-o", "--output", "file", metavar="FILE", help="Write to FILE instead of standard output."
)
@as_json
def get(layout: str, target: str, file: str | None, as_json: bool) -> None:
    """Write a blob out, verified.

    The content is checked against its digest while it is read: damaged content ends with exit
    code 1 and never with its last bytes. A reference's name in place of DIGEST gets what it names.
    """
    if file in (None, "-"):
        if as_json:
            raise click.UsageError("--json goes with -o FILE")
        file = None
    with open_layout(layout) as engine:
        digest = find_digest(engine, target)
        if file is None:
            write_out(engine, digest)
        else:
            copy_out(engine, digest, file, verify=True, as_json=as_json, keys=("digest", "size"))


def write_out(engine: Engine, digest: str) -> None:
    """A blob to standard output, past Python's buffers."""
    out = output()
    flush()
    try:
        descriptor = out.fileno()
    except OSError:  # a stand-in for it, such as that of click's test runner
        send = out.buffer.write
    else:
        send = partial(write_some, descriptor)
    buffer = memoryview(bytearray(CHUNK))
    done = 0
    with (
        engine.get_blob(digest) as blob,
        Progress(digest[:19], enabled=not on_terminal(out)) as progress,
    ):
        while count := blob.readinto(buffer):
            rest = buffer[:count]
            while rest:
                rest = rest[send(rest) :]
            done += count
            if progress:
                progress(done, blob.size)


def write_some(descriptor: int, data: memoryview) -> int:
    """Writes what goes; returns how many bytes."""
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        # Whoever shares the pipe may have made it non-blocking.
        import select

        select.select((), (descriptor,), ())
        return 0
    except OSError as error:
        raise refused(error) from error


def copy_out(
    engine: Engine,
    digest: str,
    file: str,
    *,
    verify: bool,
    as_json: bool,
    keys: tuple[str, ...],
    link: bool = False,
) -> None:
    from pathlib import Path

    with Progress(file) as progress:
        done = engine.copy_blob(digest, Path(file), link=link, verify=verify, progress=progress)
    if as_json:
        facts = {"digest": digest, "blobs": 1, "size": done.size, "bytes": done.size}
        say_json({**{key: facts[key] for key in keys}, "method": done.method})


@main.command()
@layout_argument
@click.option("-l", "--long", is_flag=True, help="Sizes too: one look at each file.")
@as_json
def ls(layout: str, long: bool, as_json: bool) -> None:
    """List the blobs, in no order.

    The list is printed while it is read. On a terminal and with --long sizes stand beside the
    digests.
    """
    long = long or as_json or on_terminal(sys.stdout)
    with open_layout(layout) as engine:
        if as_json:
            stream_blobs(engine)
        elif long:
            for digest, size in sized(engine):
                say(f"{digest}  {shown_size(size)}")
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


@main.command()
@layout_argument
@click.argument("target", metavar="[DIGEST|NAME]", required=False)
@as_json
def stat(layout: str, target: str | None, as_json: bool) -> None:
    """Facts of a layout, a blob or an image."""
    with open_layout(layout) as engine:
        if target is None:
            facts = layout_facts(engine, layout)
        elif as_digest(target) is None and (entry := find_entry(engine, target)):
            facts = image_facts(engine, entry, target)
        else:
            digest = find_digest(engine, target)
            facts = {"digest": digest, "size": engine.stat_blob(digest).size}
    if as_json:
        say_json(facts)
    else:
        say_facts(facts)


@main.command()
@click.argument("source", metavar="LAYOUT:NAME")
@click.argument("destination", metavar="FILE")
@click.option("--verify", is_flag=True, help="Check the content against its digest.")
@click.option("--link", is_flag=True, help="Allow a hard link, which shares the stored file.")
@as_json
def cp(source: str, destination: str, verify: bool, link: bool, as_json: bool) -> None:
    """Copy a blob out, the quickest way there is.

    NAME is a digest or a reference: image:sha256:9f86d0..., image:v1. Where the filesystem can,
    FILE shares the blob's storage and no byte moves. Nothing is verified unless asked for; get -o
    always is.
    """
    layout, name = split_source(source)
    if not name:
        raise click.UsageError(f"say which blob: {printable(source)}:DIGEST or :NAME")
    with open_layout(layout) as engine:
        digest = find_digest(engine, name)
        if os.path.isdir(destination):
            destination = os.path.join(destination, digest.partition(":")[2])
        if destination == "-":
            raise click.UsageError("to standard output: fastcas get")
        copy_out(
            engine,
            digest,
            destination,
            verify=verify,
            link=link,
            as_json=as_json,
            keys=("blobs", "bytes"),
        )


@main.command()
@layout_argument
@click.argument("digests", nargs=-1, required=True, metavar="DIGEST...")
@as_json
def rm(layout: str, digests: tuple[str, ...], as_json: bool) -> None:
    """Delete blobs.

    References to them stay. What isn't there counts as deleted, and isn't in the JSON.
    """
    from fastcas.digest import Digest

    wanted = [Digest(text) for text in digests]
    deleted = []
    with open_layout(layout) as engine:
        for digest in wanted:
            there = digest in engine
            engine.delete_blob(digest)
            if there:
                deleted.append(digest)
    if as_json:
        say_json({"deleted": deleted})


@main.command()
@layout_argument
@as_json
def refs(layout: str, as_json: bool) -> None:
    """List the references.

    Columns: name, digest, size, media type.
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
    else:
        say_table((f["name"], f["digest"], shown_size(f["size"]), f["mediaType"]) for f in named)


@main.command()
@layout_argument
@click.argument("name", metavar="NEWNAME")
@click.argument("target", metavar="TARGET")
@as_json
def tag(layout: str, name: str, target: str, as_json: bool) -> None:
    """Name a manifest or index.

    TARGET is a name that exists or a digest; whatever had NEWNAME before loses it.
    """
    from fastcas.image.reference import check_reference_name

    check_reference_name(name)
    with open_layout(layout) as engine:
        descriptor = find_entry(engine, target)
        if descriptor is None:
            descriptor = describe_document(engine, find_digest(engine, target))
        engine.update_reference(name, descriptor)
    if as_json:
        say_json({"name": name, "digest": descriptor.digest})


@main.command()
@layout_argument
@click.argument("name", metavar="NAME")
@as_json
def untag(layout: str, name: str, as_json: bool) -> None:
    """Remove a name; the blobs stay."""
    from fastcas.errors import NotExistError

    with open_layout(layout) as engine:
        removed = engine.delete_reference(name)
    if not removed:
        raise NotExistError(f"{name}: no reference of that name")
    if as_json:
        say_json({"name": name, "digest": removed[-1].digest})


@main.command()
@layout_argument
@as_json
def clean(layout: str, as_json: bool) -> None:
    """Remove what interrupted writers left.

    Neither a blob, nor a reference, nor a file of a live writer. Prints the names removed.
    """
    with open_layout(layout) as engine:
        removed = engine.clean()
    if as_json:
        say_json({"removed": list(removed)})
    else:
        for name in removed:
            say(printable(name))
