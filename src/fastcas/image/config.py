"""Image configs: what is run, and what the layers unpack to.

Source: OCI image-spec 1.1, config.md; Docker's is the same in what is read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from fastcas import jsonstyle, wire
from fastcas.digest import Digest
from fastcas.errors import InvalidError
from fastcas.model import DOCUMENT_LIMIT
from fastcas.value import Field, Many, Nested, Text, Texts, Value

__all__ = ["Config", "History", "RootFS"]


class _Flag(Field[Any]):
    def check(self, given: Any) -> bool:
        if not isinstance(given, bool):
            raise InvalidError(f"{self.name}: must be a bool, not {type(given).__name__}")
        return given


class _Digests(Texts):
    def read(self, value: Value) -> Any:
        found = super().read(value)
        return tuple([str.__new__(Digest, digest) for digest in found or ()])

    def check(self, given: Any) -> tuple[Digest, ...]:
        return tuple([Digest(digest) for digest in super().check(given)])


class _Settings(Field[Any]):
    """An object that is the application's own; every look at it is a copy."""

    def read(self, value: Value) -> Any:
        return deepcopy(super().read(value))

    def check(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            raise InvalidError(f"{self.name}: must be a mapping, not {type(given).__name__}")
        jsonstyle.encode_value(given)
        return deepcopy(dict(given))


class RootFS(Value, schema=wire.RootFS):
    """What the layers unpack to."""

    __slots__ = ()
    _what = "rootfs"
    _limit = DOCUMENT_LIMIT

    type: Field[str] = Text("Always ``layers`` in what is made today.", required=True)
    diff_ids: Field[tuple[Digest, ...]] = _Digests(
        "The digests of the layers' plain tars, the base first.", required=True
    )

    def __init__(self, diff_ids: Iterable[str], type: str = "layers") -> None:
        self._fill(diff_ids=diff_ids, type=type)


class History(Value, schema=wire.History):
    """How one layer came about, or a step that made none."""

    __slots__ = ()
    _what = "history"
    _limit = DOCUMENT_LIMIT

    created: Field[str | None] = Text("When, in the words of RFC 3339.")
    created_by: Field[str | None] = Text("The command.")
    author: Field[str | None] = Text("Who.")
    comment: Field[str | None] = Text("Anything else.")
    empty_layer: Field[bool | None] = _Flag("Whether there is no layer of this step.")

    def __init__(
        self,
        created: str | None = None,
        created_by: str | None = None,
        author: str | None = None,
        comment: str | None = None,
        empty_layer: bool | None = None,
    ) -> None:
        self._fill(
            created=created,
            created_by=created_by,
            author=author,
            comment=comment,
            empty_layer=empty_layer,
        )


class Config(Value, schema=wire.Config):
    """The config of an image: its platform, how it is run, the digests of its plain layers."""

    __slots__ = ()
    is_document = True
    _what = "config"
    _limit = DOCUMENT_LIMIT

    created: Field[str | None] = Text("When, in the words of RFC 3339.")
    author: Field[str | None] = Text("Who.")
    architecture: Field[str] = Text("Go's GOARCH.", required=True)
    os: Field[str] = Text("Go's GOOS.", required=True)
    os_version: Field[str | None] = Text("Such as a Windows build number.")
    os_features: Field[tuple[str, ...] | None] = Texts("Such as ``win32k``.")
    variant: Field[str | None] = Text("Such as ``v8`` of arm64.")
    config: Field[dict[str, Any] | None] = _Settings("How it is run: Env, Cmd and so on; a copy.")
    rootfs: Field[RootFS] = Nested(RootFS, "What the layers unpack to.", required=True)
    history: Field[tuple[History, ...]] = Many(History, "The steps, the first one first.")

    def __init__(
        self,
        architecture: str,
        os: str,
        rootfs: RootFS,
        *,
        created: str | None = None,
        author: str | None = None,
        os_version: str | None = None,
        os_features: Iterable[str] | None = None,
        variant: str | None = None,
        config: Mapping[str, Any] | None = None,
        history: Iterable[History] | None = None,
    ) -> None:
        self._fill(
            created=created,
            author=author,
            architecture=architecture,
            os=os,
            os_version=os_version,
            os_features=os_features,
            variant=variant,
            config=config,
            rootfs=rootfs,
            history=history,
        )
