"""What a user's type checker says of fastcas: ``make lint`` checks this file, and nothing runs it.

A hint that became wider fails an ``assert_type``; one that became too wide to refuse anything leaves a
``type: ignore`` unused, and one that became too narrow is an error of its own.
"""

from __future__ import annotations

from array import array
from gzip import GzipFile
from io import BytesIO
from mmap import mmap
from pathlib import Path
from tempfile import NamedTemporaryFile, SpooledTemporaryFile
from typing import TYPE_CHECKING
from urllib.request import urlopen

import fastcas

if TYPE_CHECKING:
    import os
    import socket
    from typing import IO, Any, BinaryIO

    from typing_extensions import assert_type


def engines(path: os.PathLike[str], config: dict[str, Any], some: dict[str, Any] | None) -> None:
    assert_type(fastcas.open("image"), fastcas.DirEngine)
    assert_type(fastcas.create(path, durability="batch"), fastcas.DirEngine)
    assert_type(fastcas.open(path).path, str)
    assert_type(fastcas.open("s3://bucket/image", config=config), fastcas.StoreEngine)
    assert_type(fastcas.create("memory://image", config={}).url, str)
    assert_type(fastcas.open("s3://bucket/image", config=some), fastcas.DirEngine | fastcas.StoreEngine)
    assert_type(fastcas.StoreEngine.open("s3://bucket/image"), fastcas.StoreEngine)
    assert_type(fastcas.StoreEngine.create("s3://bucket/image", config), fastcas.StoreEngine)
    either: fastcas.Engine = fastcas.open("s3://bucket/image")
    either.sync()
    with fastcas.open("image") as cas:
        assert_type(cas, fastcas.DirEngine)

    fastcas.open(path, config=config)  # type: ignore[call-overload]
    fastcas.open(b"image")  # type: ignore[call-overload]
    fastcas.create(5)  # type: ignore[call-overload]


def values(descriptor: fastcas.Descriptor, index: fastcas.Index, config: fastcas.Config) -> None:
    assert_type(descriptor.size, int)
    assert_type(descriptor.digest, fastcas.Digest)
    assert_type(descriptor.platform, fastcas.Platform | None)
    assert_type(index.manifests, tuple[fastcas.Descriptor, ...])
    assert_type(descriptor.replace(size=5), fastcas.Descriptor)

    descriptor.size = 5  # type: ignore[assignment]
    index.manifests = ()  # type: ignore[assignment]
    config.architecture = "arm64"  # type: ignore[assignment]
    descriptor.kind = 5  # type: ignore[assignment]


def readers(cas: fastcas.Engine, descriptor: fastcas.Descriptor) -> None:
    for reader in (
        cas.get_blob(descriptor.digest),
        cas.get_verified_blob(descriptor),
        cas.get_plain_blob(descriptor),
    ):
        assert_type(reader.read(), bytes)
        assert_type(reader.read(None), bytes)
        assert_type(reader.readall(), bytes)
        assert_type(reader.readinto(bytearray(5)), int)


class Readinto:
    def readinto(self, buffer: memoryview) -> int:
        return 0


class Read:
    def read(self, size: int = -1) -> bytes:
        return b""


def puts(
    cas: fastcas.Engine,
    layout: fastcas.DirEngine,
    bucket: fastcas.StoreEngine,
    some: str | None,
    path: os.PathLike[str] | os.PathLike[bytes],
    stream: BinaryIO,
    pipe: IO[bytes],
    connection: socket.socket,
) -> None:
    assert_type(cas.put_blob(b"content"), fastcas.PutResult)
    assert_type(cas.put_blob(b"content", compress=some), fastcas.PutResult)
    assert_type(cas.put_blob(b"content", compress="gzip"), fastcas.CompressedPutResult)
    assert_type(layout.put_blob(path, compress="zstd", level=5).diff_id, fastcas.Digest)
    assert_type(bucket.put_blob(path, compress="gzip", algorithm="sha512").plain_size, int)
    assert_type(layout.put_blob(path, expected_size=5), fastcas.PutResult)
    assert_type(bucket.put_blob(path, progress=lambda done, total: None), fastcas.PutResult)
    assert_type(cas.put_blobs([b"content", path, stream]), list[fastcas.PutResult])

    cas.put_blob(bytearray(b"content"))
    cas.put_blob(memoryview(b"content"))
    cas.put_blob(array("I"))
    cas.put_blob(mmap(-1, 5))
    cas.put_blob(Path("file"))
    cas.put_blob(stream)
    cas.put_blob(pipe)
    cas.put_blob(connection)
    cas.put_blob(BytesIO())
    cas.put_blob(open("file", "rb"))
    cas.put_blob(open("file", "rb", buffering=0))
    cas.put_blob(GzipFile("file.gz"))
    cas.put_blob(NamedTemporaryFile())
    cas.put_blob(SpooledTemporaryFile())
    cas.put_blob(urlopen("https://example.com"))
    cas.put_blob(Readinto())
    cas.put_blob(Read())
    cas.put_blob([b"con", bytearray(b"tent")])
    cas.put_blob(piece for piece in (b"con", b"tent"))
    cas.put_blob(cas.get_blob("sha256:"))
    layout.put_blobs(Path("folder").iterdir())
    bucket.put_blobs(iter([stream]))

    cas.put_blob("content")  # type: ignore[arg-type]
    cas.put_blob(5)  # type: ignore[call-overload]
    cas.put_blob(None)  # type: ignore[call-overload]
    cas.put_blob(open("file"))  # type: ignore[arg-type]
    cas.put_blob(["content"])  # type: ignore[list-item]
    cas.put_blob([5])  # type: ignore[list-item]
    cas.put_blob(b"content", expected=5)  # type: ignore[call-overload]
    layout.put_blob("content", compress="gzip")  # type: ignore[arg-type]
    bucket.put_blob("content")  # type: ignore[arg-type]
    cas.put_blobs(b"content")  # type: ignore[arg-type]
    cas.put_blobs("content")  # type: ignore[arg-type]
    layout.put_blobs(["content"])  # type: ignore[list-item]
    bucket.put_blobs([Path("file"), 5])  # type: ignore[list-item]


def documents(
    cas: fastcas.Engine,
    descriptor: fastcas.Descriptor,
    index: fastcas.Index,
    either: fastcas.Index | fastcas.Manifest,
) -> None:
    def same(descriptor: fastcas.Descriptor) -> fastcas.Descriptor:
        return descriptor

    assert_type(cas.map_descriptors(index, same), fastcas.Index)
    assert_type(cas.map_descriptors(either, same), fastcas.Index | fastcas.Manifest)
    assert_type(cas.map_descriptors(descriptor, same), fastcas.Descriptor)
    assert_type(cas.map_descriptors(b"content", same), bytes)
    assert_type(cas.read_descriptor(descriptor).raw, bytes)

    cas.map_descriptors(index, lambda descriptor: None)  # type: ignore[arg-type, return-value]
