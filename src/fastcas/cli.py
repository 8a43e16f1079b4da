"""The command line: which commands there are, and what becomes of their errors.

The commands stand in ``fastcas.commands``, a module for each section of the help; only the one that
is called is loaded. Standard output carries the answer (one JSON document with ``--json``), standard
error the rest.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module

import click

from fastcas.console import complain, drop, flush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# The reader of our output has gone: what the shell reports of a program that SIGPIPE ended.
PIPE_CLOSED = 128 + 13
HELP_WIDTH = 96
DEFAULT_WIDTH = 80
LEAST_WIDTH = 20  # click's formatter fails where no word has a place

# Section, the module of fastcas.commands, and each command with the first sentence of its help.
SECTIONS = (
    (
        "Layouts",
        "layouts",
        {
            "init": "Make a new, empty layout.",
            "stat": "Facts of a layout, an image or a blob.",
            "gc": "Remove what nothing in the index leads to.",
            "scrub": "Digest everything again; is it all there?",
            "clean": "Remove what interrupted writers left.",
            "probe": "Can an object store be trusted with an index?",
        },
    ),
    (
        "Blobs",
        "blobs",
        {
            "put": "Store files, or standard input (-), as blobs.",
            "get": "Write a blob out, verified.",
            "ls": "List the blobs, in no order.",
            "rm": "Delete blobs.",
        },
    ),
    (
        "References",
        "references",
        {
            "refs": "List the references.",
            "tag": "Name a manifest or index.",
            "untag": "Remove a name; the blobs stay.",
            "referrers": "List what refers to an image: signatures and the like.",
        },
    ),
    (
        "Images",
        "images",
        {
            "tree": "Show what an image is made of.",
            "build": "Make an image of tars and folders.",
            "append": "Put layers on top of an image.",
            "artifact": "Make an artifact of files of any kind.",
            "cp": "Copy an image to a layout or archive, or a blob to a file.",
        },
    ),
)
MODULES = {name: module for _, module, commands in SECTIONS for name in commands}

EPILOG = """\b
Examples:
  fastcas init image
  tar c site | fastcas build image - --tag site   a layer from a pipe, an image, a name
  fastcas stat image site                         its platform, layers and history
  fastcas cp image:site site.tar                  out, as an archive that podman loads
  fastcas gc image --older-than 30d --dry-run     what would go, and how much is freed

\b
Exit codes:
  0 done   1 problems found   2 wrong use   3 not found   4 invalid layout, digest or
  document   5 refused by the system   130 interrupted   141 the reader of the output left
"""


class Commands(click.Group):
    """The group of all commands, and the one place where errors become messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in MODULES:
            return None
        command = getattr(import_module(f"fastcas.commands.{MODULES[name]}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, MODULES))
        for section, _, commands in SECTIONS:
            with formatter.section(section):
                # One column for all sections.
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def invoke(self, ctx: click.Context) -> None:
        ended = None
        try:
            try:
                super().invoke(ctx)
            except click.exceptions.Exit as exit:
                ended = exit
            flush()
        except (click.ClickException, click.Abort):
            raise
        except Exception as error:
            end(error)
        except KeyboardInterrupt:
            complain("interrupted")
            raise click.exceptions.Exit(130) from None
        if ended is not None:
            raise ended

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        # Left to itself, click imports shutil to learn this, for a twentieth of what --help may take.
        extra.setdefault("terminal_width", min(columns(), HELP_WIDTH))
        try:
            return super().make_context(*args, **extra)
        except OSError as error:  # of --help and --version, which print from here
            end(error)

    def main(self, *args: Any, **extra: Any) -> Any:
        extra.update(standalone_mode=False, prog_name="fastcas")
        try:
            status = super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            try:
                error.show()
            except OSError:  # as for complain
                drop(sys.stderr)
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
            complain("interrupted")
            status = 130
        sys.exit(status or 0)


def columns() -> int:
    """The width of the terminal, 80 where there is none or it can't be."""
    try:
        width = int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns)
    except (OSError, ValueError):
        return DEFAULT_WIDTH
    return width if width >= LEAST_WIDTH else DEFAULT_WIDTH


def end(error: Exception) -> NoReturn:
    """Says what is wrong, if it is no defect of the program, and ends with its exit code."""
    status = exit_status(error)
    if status is None:
        raise error
    with suppress(OSError):  # what was printed before; the first error counts
        flush()
    if status != PIPE_CLOSED:
        complain(describe(error))
    raise click.exceptions.Exit(status) from error


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
    path = getattr(error, "path", None)
    # Whoever asks for a digest knows of which layout.
    if not path or getattr(error, "digest", None):
        return str(error)
    return place(str(error), os.fsdecode(path))


def place(message: str, path: str) -> str:
    """The message, with the path that it is about; most have it, or the layout's, others begin with a
    name in the layout."""
    folder = os.path.dirname(path) if os.path.isabs(path) else ""
    if any(known in message or repr(known) in message for known in (path, folder) if len(known) > 1):
        return message
    name, _, rest = message.partition(": ")
    named = name in ("archive", "index") or path.endswith(f"/{name}")
    return f"{path}: {rest if named and rest else message}"


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND LAYOUT ...",
)
@click.version_option(package_name="fastcas", message="fastcas %(version)s")
def main() -> None:
    """A content-addressable store for OCI image layouts: fast, durable, verified.

    LAYOUT is the directory of an image layout, or the URL of one: s3://BUCKET/PREFIX, az://, gs://.
    `-` is standard input or output. NAME is a reference, a digest or the first seven or more digits
    of one. COMMAND --help says more.
    """
