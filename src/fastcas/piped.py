"""Layers that come down a pipe: a stream can be looked at once, and is stored as it comes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from fastcas.contract import Progress
    from fastcas.engine import Engine
    from fastcas.image.layer import Layer, LayerSource
    from fastcas.model import Descriptor


class _Pushed:
    """A stream, whose first bytes were read, from its beginning."""

    def __init__(self, first: bytes, file: BinaryIO) -> None:
        self._first = first
        self._file = file

    def readinto(self, buffer: memoryview) -> int:
        if not self._first:
            return self._file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        count = min(len(buffer), len(self._first))
        buffer[:count] = self._first[:count]
        self._first = self._first[count:]
        return count


def take_layers(
    engine: Engine,
    layers: Iterable[str],
    stdin: BinaryIO | None,
    compress: str | None,
    level: int | None,
    progress: Progress | None,
) -> list[LayerSource]:
    """The layers that are named on the command line; ``-``, which is ``stdin``, is stored by now."""
    taken: list[LayerSource] = []
    for name in layers:
        if name == "-":
            assert stdin is not None
            taken.append(put_stream(engine, stdin, compress, level, progress))
        else:
            taken.append(name)
    return taken


def put_stream(
    engine: Engine,
    file: BinaryIO,
    compress: str | None,
    level: int | None,
    progress: Progress | None,
) -> Layer | Descriptor:
    """Stores a tar from a stream like ``put_layer`` stores one from a file; InvalidError for what is
    none."""
    from fastcas import model
    from fastcas.errors import InvalidError
    from fastcas.image import tar
    from fastcas.image.codec import layer_media_type, sniff
    from fastcas.image.layer import Layer
    from fastcas.model import Descriptor

    first = file.read(tar.BLOCK)
    found = sniff(first).name
    source = _Pushed(first, file)
    if found != "none":
        digest, size = engine.put_blob(source, progress=progress)
        return Descriptor(layer_media_type(found), digest, size)
    if not tar.is_tar_header(first):
        raise InvalidError("standard input is no tar, nor one that is compressed")
    if compress is None:
        digest, size = engine.put_blob(source, progress=progress)
        return Layer(Descriptor(model.MEDIA_TYPE_LAYER, digest, size), digest)
    stored = engine.put_blob(source, compress=compress, level=level, progress=progress)
    kind = layer_media_type(compress)
    return Layer(Descriptor(kind, stored.digest, stored.size), stored.diff_id)
