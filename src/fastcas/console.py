"""What the command line prints, and where: answers on standard output, the rest on standard error.

A terminal gets aligned columns, sizes for people and progress; a pipe gets exact fields.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from fastcas.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, BinaryIO

# What ends within this many seconds shows no progress.
PATIENCE = 1.0


def printable(text: str) -> str:
    """The text on one line and without control characters; bytes that aren't UTF-8 as ``\\xNN``."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable()
        else f"\\x{ord(c) - 0xDC00:02x}"
        if "\udc80" <= c <= "\udcff"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def _unescape(message: str) -> str:
    """Bytes of names that aren't UTF-8 as ``printable`` shows them, also where repr() came first."""
    if "\\udc" not in message:
        return message
    import re

    return re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", message)


def complain(message: str) -> None:
    if sys.stderr is None:
        return
    try:
        print(f"fastcas: {printable(_unescape(message))}", file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)  # no one is there to be told; the exit code still says it


def output() -> Any:
    """Standard output as text, which a closed file descriptor 1 leaves None."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
    return sys.stdout


def write(text: str) -> None:
    out = output()
    try:
        out.write(text)
    except UnicodeEncodeError:
        out.write(text.encode("ascii", "backslashreplace").decode())
    except OSError as error:
        raise refused(error) from error


def say(line: str) -> None:
    write(line + "\n")


def say_json(document: dict[str, Any]) -> None:
    import json

    text = json.dumps(document)
    # Bytes that aren't UTF-8 came as lone surrogates, which strict parsers refuse.
    say(json.dumps(_as_text(document)) if "\\udc" in text else text)


def _as_text(value: Any) -> Any:
    """``value`` with bytes of file names that aren't UTF-8 as ``\\xNN``."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def flush() -> None:
    """Everything out now, where an error still has an exit code."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        raise refused(error) from error


def refused(error: OSError) -> OSError:
    """The error of a write to standard output, saying so; nothing more is written there."""
    drop(sys.stdout)
    return OSError(error.errno, error.strerror, "standard output")


def drop(stream: Any) -> None:
    """Point a standard stream nowhere, so that the interpreter's last flush can't complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass


class StandardOutput:
    """Standard output for bytes, past Python's buffers; ``write`` takes all that it is given."""

    def __init__(self) -> None:
        out = output()
        flush()
        self._descriptor = -1
        try:
            self._descriptor = out.fileno()
        except OSError:  # a stand-in for it, such as that of click's test runner
            self._file = out.buffer

    def write(self, data: bytes | memoryview) -> int:
        if self._descriptor < 0:
            return int(self._file.write(data))
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            raise refused(error) from error
        return len(data)


def standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    return sys.stdin.buffer


def on_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def human(size: float) -> str:
    """A size for people, of eight characters at most, up to a thousand TiB."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1023.5 or unit == "TiB":
            break
    return f"{size:.1f} {unit}" if size < 99.95 else f"{size:.0f} {unit}"


def shown_size(size: int) -> str:
    """A size for people on a terminal, exact for programs behind a pipe."""
    return f"{human(size):>8}" if on_terminal(sys.stdout) else str(size)


def count(number: int, what: str) -> str:
    """``1 blob``, ``2 blobs``."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number} {what if number == 1 else plural}"


def say_table(rows: Iterable[tuple[str, ...]]) -> None:
    """Aligned columns on a terminal, tabs in a pipe."""
    table = [tuple(printable(cell) for cell in row) for row in rows]
    if on_terminal(sys.stdout) and table:
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            say("  ".join(cells).rstrip())
    else:
        for row in table:
            say("\t".join(row))


class Progress:
    """A ``progress=`` callback that draws a bar on a terminal once the work takes long.

    Drawn from the callback itself: no thread runs beside the engine's. ``total`` is of use where the
    engine doesn't know it.
    """

    def __init__(self, what: str, *, enabled: bool = True, total: int | None = None) -> None:
        self._what = what
        self._total = total
        self._enabled = enabled and on_terminal(sys.stderr)
        self._start = self._drawn = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._done = 0

    def __enter__(self) -> Callable[[int, int | None], None] | None:
        return self if self._enabled else None

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        self._done = done
        total = total or self._total
        if self._bar is None:
            if now - self._start < PATIENCE:
                return
            self._open(total)
        elif now - self._drawn < 0.1 and done != total:
            return
        self._drawn = now
        amount = human(done) if total is None else f"{human(done)} of {human(total)}"
        rate = f"{human(done / (now - self._start))}/s"
        self._bar.update(self._task, completed=done, total=total, amount=amount, rate=rate)
        self._bar.refresh()

    def _open(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[amount]}  {task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        what = printable(self._what)
        # Long names leave no place for the bar.
        what = what if len(what) <= 24 else f"…{what[-23:]}"
        self._task = self._bar.add_task(what, total=total, amount="", rate="")
        self._bar.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is None:
            return
        self._bar.stop()
        if error is None:
            seconds = time.monotonic() - self._start
            rate = human(self._done / seconds)
            print(
                f"{printable(self._what)}: {human(self._done)} in {seconds:.1f} s, {rate}/s",
                file=sys.stderr,
            )
