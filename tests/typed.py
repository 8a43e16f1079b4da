"""What a user's type checker says of fastcas: ``make lint`` checks this file, and nothing runs it.

A hint that became wider fails an ``assert_type``; one that became too wide to refuse anything leaves a
``type: ignore`` unused, and one that became too narrow is an error of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import fastcas

if TYPE_CHECKING:
    import os
    from typing import Any

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
