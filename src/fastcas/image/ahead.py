"""Documents that are about to be opened, read and decoded many at a time.

A graph is opened document by document, and what comes next is known: the siblings. One by one, reading
and decoding them is most of what a walk costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastcas.image.parse import decode_fields, decode_plain, has_fields, read_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fastcas.engine import Engine
    from fastcas.image.parse import Link

__all__ = ["WAVE", "WAVE_BYTES", "Ahead"]

#: The most documents, and bytes of them, that are read at once.
WAVE = 256
WAVE_BYTES = 1 << 20
# The most that wait to be asked for: a few waves, as siblings wait while what is below one is opened.
_WAITING = 4 * WAVE
_WAITING_BYTES = 4 * WAVE_BYTES

_NOTHING = (None, None)


class Ahead:
    """Reads documents as ``read_source`` does, many of them before they are asked for: while those of
    one wave are decoded and looked at, the next is read.

    Whatever is wrong with one is said when it is asked for: it is read, or decoded, alone then. At
    first only ``wave`` are read in advance, twice as many each time: whoever stops early has had little
    read in vain.
    """

    def __init__(self, engine: Engine, wave: int = 1) -> None:
        self._engine = engine
        self._wave = wave
        # By digest and media type: content, if it could be had, and struct, if nothing is unusual.
        self._found: dict[tuple[str, str], tuple[bytes | None, Any]] = {}
        self._bytes = 0
        # What is being read: sizes, and the call that ends it.
        self._flying: dict[tuple[str, str], int] = {}
        self._end: Callable[[], Sequence[bytes | None]] = list

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._found

    def fetch(self, now: Iterable[Link], later: Iterable[Link]) -> None:
        """Has ``now``, the documents that are asked for next, at hand, and begins with some of
        ``later``, which are asked for after those."""
        self._land()
        self._begin(now, WAVE)
        self._land()
        self._begin(later, self._wave)
        self._wave = min(2 * self._wave, WAVE)

    def _begin(self, links: Iterable[Link], count: int) -> None:
        wave = {}
        room = WAVE_BYTES
        for link in links:
            key = (link.digest, link.media_type)
            if key in self._found or not has_fields(link.media_type) or isinstance(link.data, bytes):
                continue
            wave[key] = size = int(link.size)
            room -= size
            if room <= 0 or len(wave) == count:
                break
        if wave:
            self._end = self._engine.start_reading([(key[0], size) for key, size in wave.items()])
            self._flying = wave

    def _land(self) -> None:
        if not self._flying:
            return
        wave, self._flying = self._flying, {}
        contents = self._end()
        for kind in {media_type for _, media_type in wave}:
            some = [item for item in zip(wave, contents, strict=True) if item[0][1] == kind]
            raws = [raw for _, raw in some if raw is not None]
            documents = iter(decode_plain(kind, raws) or [None] * len(raws))
            for key, raw in some:
                self._found[key] = _NOTHING if raw is None else (raw, next(documents))
            self._bytes += sum(map(len, raws))
        while len(self._found) > _WAITING or self._bytes > _WAITING_BYTES:
            # What waits longest is asked for last, if at all.
            self._take(next(iter(self._found)))

    def read(self, link: Link) -> tuple[Any, bytes | None]:
        """See ``read_source``."""
        raw, fields = self._take((link.digest, link.media_type))
        if raw is None or len(raw) != link.size or isinstance(link.data, bytes):
            return read_source(self._engine, link)
        return decode_fields(link, raw) if fields is None else fields, raw

    def _take(self, key: tuple[str, str]) -> tuple[bytes | None, Any]:
        found = self._found.pop(key, _NOTHING)
        if found[0] is not None:
            self._bytes -= len(found[0])
        return found
