"""Digest: the name of content, ``algorithm:encoded``."""

from __future__ import annotations

from fastcas._core import algorithms, are_digests, split_digest
from fastcas.errors import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["COMPUTABLE", "REGISTERED", "Digest"]

#: Registered algorithms and the number of lower-case hexadecimal digits that each must have.
REGISTERED = {"sha256": 64, "sha512": 128, "blake3": 64}

#: Algorithms that can be computed here.
COMPUTABLE = frozenset(algorithms())

_SHOWN = 100


class Digest(str):
    """A digest that is valid by construction: a ``str`` that compares and hashes as one.

    ``Digest(value)`` accepts what the image specification's grammar does (``sha256:`` and 64
    lower-case hexadecimal digits, ``sha512:`` and 128, ``blake3:`` and 64).  An algorithm that
    isn't registered is valid to hold and to list.  Raises InvalidError for everything else, other
    types included.

    Source: OCI image-spec, descriptor.md, "Digests".
    """

    __slots__ = ()

    def __new__(cls, value: object) -> Digest:
        if type(value) is cls:
            return value
        if not isinstance(value, str):
            raise InvalidError(f"digest must be a str, not {type(value).__name__}")
        colon = split_digest(value)
        if colon < 0:
            raise InvalidError(f"invalid digest {shorten(value)}: not algorithm:encoded")
        length = REGISTERED.get(value[:colon])
        if length is not None and not are_digests([value], value[: colon + 1], length):
            raise InvalidError(
                f"invalid digest {shorten(value)}: {value[:colon]} has {length} "
                "lower-case hexadecimal digits"
            )
        return str.__new__(cls, value)

    @classmethod
    def of(cls, algorithm: str, encoded: str) -> Digest:
        """The digest of two parts that are known to be right; nothing is checked."""
        return str.__new__(cls, f"{algorithm}:{encoded}")

    @property
    def algorithm(self) -> str:
        """What stands before the colon, such as ``sha256``."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """What stands behind the colon: for registered algorithms, hexadecimal digits."""
        return self.partition(":")[2]

    def __repr__(self) -> str:
        return f"Digest({str.__repr__(self)})"


def shorten(value: Any) -> str:
    """``repr(value)``, cut to what fits in a message however long a hostile value is."""
    if isinstance(value, (str, bytes)) and len(value) > _SHOWN:
        kept = value[:_SHOWN]
        text = str.__repr__(kept) if isinstance(kept, str) else repr(kept)
        return f"{text}... ({len(value)} long)"
    return str.__repr__(value) if isinstance(value, str) else repr(value)
