"""Layers: tars, folders and stored blobs, each with the digest of its plain tar."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from fastcas import _core, model
from fastcas.digest import Digest
from fastcas.errors import InvalidError, SizeMismatchError
from fastcas.image import tar
from fastcas.image.codec import layer_media_type, sniff
from fastcas.image.folder import pack_folder
from fastcas.model import Descriptor

if TYPE_CHECKING:
    from fastcas.contract import Progress
    from fastcas.engine import Engine

__all__ = ["Layer", "LayerSource", "put_layer"]

_CHUNK = 256 << 10
_PLAIN = "none"
_PLAIN_TYPES = (model.MEDIA_TYPE_LAYER, "application/vnd.docker.image.rootfs.diff.tar")


class Layer(NamedTuple):
    """A stored layer: its descriptor, and the digest of its plain tar, as an image's config has it."""

    descriptor: Descriptor
    diff_id: Digest


Layer.descriptor.__doc__ = "The Descriptor of what is stored: the tar, perhaps compressed."
Layer.diff_id.__doc__ = "The Digest of the tar when it isn't compressed."

LayerSource = str | os.PathLike[str] | Descriptor | Layer


def put_layer(
    engine: Engine,
    source: LayerSource,
    *,
    compress: str | None = None,
    level: int | None = None,
    latest: int | None = None,
    owner: tuple[int, int] | None = (0, 0),
    progress: Progress | None = None,
) -> Layer:
    """Stores a layer; returns its descriptor and its diffID.

    ``source`` is the path of a tar, plain or compressed by gzip or zstd, as its first bytes say; the
    path of a folder, which is packed as ``pack_folder`` does with ``latest`` and ``owner``; the
    descriptor of a blob that is stored; or a Layer that is, whose diffID is believed.

    A plain tar or folder is compressed by ``compress`` at ``level``, as ``put_blob`` does; by default
    it is stored as it is, which gives equal digests whatever libraries there are. What is compressed is
    stored as it is, and its diffID found by decompressing what was stored, with the caps of
    ``get_plain_blob``. Raises InvalidError for what is no tar, NotExistError and SizeMismatchError
    for a descriptor of what isn't stored so.
    """
    if isinstance(source, (Layer, Descriptor)):
        descriptor = source if isinstance(source, Descriptor) else source.descriptor
        _check_stored(engine, descriptor)
        if isinstance(source, Layer):
            return source
        return Layer(descriptor, _find_diff_id(engine, descriptor))
    path = os.fsdecode(source)
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        packed = pack_folder(path, latest=latest, owner=owner)
        return _put_plain(engine, packed, compress, level, progress)
    if not stat.S_ISREG(mode):
        raise InvalidError(f"{path!r} is neither a file nor a folder", path=path)
    with open(path, "rb", buffering=0) as file:
        head = os.pread(file.fileno(), tar.BLOCK, 0)
        compression = sniff(head).name
        if compression == _PLAIN:
            if not tar.is_tar_header(head):
                raise InvalidError(f"{path!r} is no tar, nor one that is compressed", path=path)
            return _put_plain(engine, file, compress, level, progress)
        digest, size = engine.put_blob(file, progress=progress)
    descriptor = Descriptor(layer_media_type(compression), digest, size)
    return Layer(descriptor, _hash_plain(engine, digest))


def _put_plain(
    engine: Engine, source: Any, compress: str | None, level: int | None, progress: Progress | None
) -> Layer:
    if compress is None and level is None:
        digest, size = engine.put_blob(source, progress=progress)
        return Layer(Descriptor(model.MEDIA_TYPE_LAYER, digest, size), digest)
    stored: Any = engine.put_blob(source, compress=compress, level=level, progress=progress)
    kind = layer_media_type(_PLAIN if compress is None else compress)
    return Layer(Descriptor(kind, stored.digest, stored.size), stored.diff_id)


def _check_stored(engine: Engine, descriptor: Descriptor) -> None:
    found = engine.stat_blob(descriptor.digest).size
    if found != descriptor.size:
        raise SizeMismatchError(
            f"{descriptor.digest}: {found} bytes are stored, its descriptor says {descriptor.size}",
            digest=descriptor.digest,
            expected=descriptor.size,
            actual=found,
        )


def _find_diff_id(engine: Engine, descriptor: Descriptor) -> Digest:
    if descriptor.media_type in _PLAIN_TYPES:
        return descriptor.digest
    return _hash_plain(engine, descriptor.digest)


def _hash_plain(engine: Engine, digest: Digest) -> Digest:
    digester = _core.Digester("sha256")
    buffer = bytearray(_CHUNK)
    with engine.get_plain_blob(digest) as plain, memoryview(buffer) as view:
        is_first = True
        while count := plain.readinto(buffer):
            if is_first and not tar.is_tar_header(bytes(view[: tar.BLOCK])):
                raise InvalidError(f"{digest} is no compressed tar", digest=digest)
            is_first = False
            digester.update(view[:count])
    return Digest.of("sha256", digester.hexdigest())
