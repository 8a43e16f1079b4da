"""What several commands take: arguments, options, and the kinds of their values."""

from __future__ import annotations

import os
import re

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from fastcas.engine import Engine

    Function = TypeVar("Function", bound=Callable[..., Any])

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhdw]?)")
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?(?:([KMGT])(i?B)?|B)?", re.IGNORECASE)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or a number with one of s, m, h, d and w."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, (int, float)):
            return value
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no duration, such as 90, 12h or 30d.", param, ctx)
        return float(match[1]) * SECONDS[match[2]]


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, or a number with a unit: KiB and K are 1024, KB is 1000."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no size, such as 5000, 300MB or 20GiB.", param, ctx)
        number, unit, rest = match.groups()
        step = 1000 if (rest or "").upper() == "B" else 1024
        times = step ** ("KMGT".index(unit.upper()) + 1) if unit else 1
        return int(number) * times if number.isdigit() else int(float(number) * times)


class Pair(click.ParamType):  # type: ignore[type-arg]
    """KEY=VALUE."""

    name = "pair"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not KEY=VALUE.", param, ctx)
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} isn't UTF-8.", param, ctx)
        return key, text


class Checked(click.ParamType):  # type: ignore[type-arg]
    """A text that the library takes; ``check`` raises a FastCASError for others."""

    def __init__(self, name: str, check: Callable[[str], object]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        from fastcas.errors import FastCASError

        try:
            self._check(value)
        except FastCASError as error:
            self.fail(f"{error}.", param, ctx)
        return str(value)


def _check_platform(text: str) -> None:
    from fastcas.image.platform import parse_platform

    parse_platform(text)


def _check_compression(text: str) -> None:
    from fastcas.image.codec import find_compression

    find_compression(text)


def _check_algorithm(text: str) -> None:
    from fastcas.digest import REGISTERED
    from fastcas.errors import InvalidError

    if text not in REGISTERED:
        raise InvalidError(f"unknown algorithm {text!r}; there are {', '.join(map(repr, REGISTERED))}")


DURATION = Duration()
SIZE = Size()
PAIR = Pair()
PLATFORM = Checked("platform", _check_platform)
COMPRESSION = Checked("compression", _check_compression)
ALGORITHM = Checked("algorithm", _check_algorithm)

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
layout_argument = click.argument("layout")
layers_argument = click.argument("layers", nargs=-1, required=True, metavar="LAYER...")
platform_option = click.option(
    "--platform",
    type=PLATFORM,
    metavar="OS/ARCH",
    help="Of an index, the image for it: linux/arm64, linux/arm/v7.",
)
annotation_option = click.option(
    "--annotation",
    "annotations",
    type=PAIR,
    multiple=True,
    metavar="KEY=VALUE",
    help="An annotation of the manifest. May be repeated.",
)


def compress_options(function: Function) -> Function:
    """``--compress`` and ``--level``."""
    level = click.option(
        "--level", type=int, metavar="N", help="Of --compress: gzip 1 to 9 (5), zstd 1 to 22 (3)."
    )
    compress = click.option(
        "--compress", type=COMPRESSION, metavar="NAME", help="Store it compressed: gzip or zstd."
    )
    return compress(level(function))


def check_level(compress: str | None, level: int | None) -> None:
    if level is not None and compress is None:
        raise click.UsageError("--level goes with --compress")
    if compress is not None:
        from fastcas.errors import InvalidError
        from fastcas.image.codec import find_compression

        try:
            find_compression(compress).check_level(level)
        except InvalidError as error:
            raise click.BadParameter(str(error), param_hint="'--level'") from None


def open_layout(path: str, durability: str = "full") -> Engine:
    import fastcas

    return fastcas.open(path, durability=durability)


def created() -> int | None:
    """The time that SOURCE_DATE_EPOCH gives to what is built; None without it."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise click.UsageError(f"SOURCE_DATE_EPOCH={text!r} is no number of seconds")
    return int(text)
