"""The graph of an image: descriptors, the documents behind them, the descriptors in those.

Followed are the manifests and the subject of an index, the config, the layers and the subject of a
manifest. Other content isn't opened, configs neither. Each (digest, media type) is opened once,
however many ways lead to it: a digest that is first met under an unknown type is opened when it is
met under its own. Nothing here recurses.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from fastcas.errors import InvalidError, NotExistError, UnknownAlgorithmError
from fastcas.image.parse import children, is_document, read_document, read_fields
from fastcas.image.verified import check_descriptor
from fastcas.model import Descriptor, Index, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fastcas.engine import Engine
    from fastcas.image.parse import Link

__all__ = ["DEPTH_LIMIT", "NODE_LIMIT", "Marked", "map_descriptors", "mark", "referrers", "walk"]

#: How long a path may be, in descriptors.
DEPTH_LIMIT = 16_384
#: How many different descriptors one walk may meet.
NODE_LIMIT = 10_000_000


class Marked:
    """What ``mark`` has met: ``digest in marked``, and ``digests``, the set of them.

    One that ``mark`` has failed on is incomplete, and can't be used for another call.
    """

    __slots__ = ("_missing", "_opened", "_whole", "digests")

    def __init__(self) -> None:
        self.digests: set[str] = set()
        self._opened: set[tuple[str, str]] = set()
        # Documents that weren't stored.
        self._missing: dict[tuple[str, str], Link] = {}
        self._whole = True

    def __contains__(self, digest: object) -> bool:
        return digest in self.digests

    def __len__(self) -> int:
        return len(self.digests)


def mark(engine: Engine, roots: Iterable[Descriptor], marked: Marked | None = None) -> Marked:
    """Marks all that is reachable from ``roots``: their digests, and those of every descriptor in
    the documents behind them, subjects and embedded content included.

    With ``marked`` goes on from there: opened is only what is new, and what wasn't stored before.
    A document that isn't stored is marked and passed over, as platforms may be left out of a layout.
    One that can't be read, is damaged, too large (4 MiB) or ambiguous fails the call: InvalidError,
    CorruptError or UnknownAlgorithmError, with its digest, or OSError. InvalidError also above
    NODE_LIMIT descriptors.
    """
    marked = Marked() if marked is None else marked
    if not marked._whole:
        raise InvalidError("the marking failed before, so what it has is incomplete")
    marked._whole = False
    again = list(marked._missing.values())
    marked._missing.clear()
    for _ in _open_all(engine, chain(again, roots), marked):
        pass
    marked._whole = True
    return marked


def _open_all(
    engine: Engine, roots: Iterable[Link], marked: Marked
) -> Iterator[tuple[Link, Any]]:
    """Every document that is reachable, once for each type that it is met under, pre-order: what
    leads to it, and what ``read_fields`` made of it."""
    digests, opened, missing = marked.digests, marked._opened, marked._missing
    for root in roots:
        stack: list[Link] = [root]
        while stack:
            link = stack.pop()
            digest = link.digest
            media_type = link.media_type
            digests.add(digest)
            if not is_document(media_type):
                continue
            key = (digest, media_type)
            if key in opened or key in missing:
                continue
            try:
                document = read_fields(engine, link)
            except NotExistError:
                missing[key] = link
                continue
            except UnknownAlgorithmError:
                if digest in engine:
                    raise
                missing[key] = link
                continue
            opened.add(key)
            found = children(document)
            digests.update([child.digest for child in found])
            if len(digests) > NODE_LIMIT:
                raise _too_many(digest)
            yield link, document
            # Most have nothing behind them.
            found = [child for child in reversed(found) if is_document(child.media_type)]
            stack += found


def _too_many(digest: str) -> InvalidError:
    message = f"{digest}: the graph has more than {NODE_LIMIT} descriptors"
    return InvalidError(message, digest=digest)
