"""fastcas: a fast and safe content-addressable store for OCI image layouts.

    import fastcas

    with fastcas.create("image") as cas:
        digest, size = cas.put_blob(b"hello")
        with cas.get_blob(digest) as blob:
            blob.read()

Start with ``create`` and ``open``; ``Engine`` says what every engine does.
"""

from __future__ import annotations

from fastcas import _core
from fastcas.digest import Digest
from fastcas.dir.durability import check_level
from fastcas.dir.engine import DirEngine
from fastcas.engine import Engine
from fastcas.errors import (
    ClobberError,
    ClosedError,
    CorruptError,
    DigestMismatchError,
    DurabilityError,
    FastCASError,
    InvalidError,
    NotExistError,
    SizeMismatchError,
    UnknownAlgorithmError,
    UnknownTypeError,
    UnsupportedError,
)
from fastcas.layout import is_url
from fastcas.reader import BlobReader
from fastcas.results import (
    BlobInfo,
    CompressedPutResult,
    CopyResult,
    GCReport,
    ParsedBlob,
    Problem,
    PutResult,
    ScrubReport,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import Any, overload

    from fastcas.image.archive import export_archive, import_archive
    from fastcas.image.artifact import build_artifact
    from fastcas.image.build import append_layers, build_image, build_index
    from fastcas.image.compress import register_compression
    from fastcas.image.config import Config, History
    from fastcas.image.copy import copy_image, copy_images
    from fastcas.image.layer import Layer, put_layer
    from fastcas.image.parse import register_parser
    from fastcas.image.retention import apply_retention, plan_retention
    from fastcas.model import Descriptor, Index, Manifest, Platform
    from fastcas.store.engine import StoreEngine, probe

__all__ = [
    "BlobInfo",
    "BlobReader",
    "ClobberError",
    "ClosedError",
    "CompressedPutResult",
    "Config",
    "CopyResult",
    "CorruptError",
    "Descriptor",
    "Digest",
    "DigestMismatchError",
    "DirEngine",
    "DurabilityError",
    "Engine",
    "FastCASError",
    "GCReport",
    "History",
    "Index",
    "InvalidError",
    "Layer",
    "Manifest",
    "NotExistError",
    "ParsedBlob",
    "Platform",
    "Problem",
    "PutResult",
    "ScrubReport",
    "SizeMismatchError",
    "StoreEngine",
    "UnknownAlgorithmError",
    "UnknownTypeError",
    "UnsupportedError",
    "append_layers",
    "apply_retention",
    "backend",
    "build_artifact",
    "build_image",
    "build_index",
    "copy_image",
    "copy_images",
    "create",
    "export_archive",
    "import_archive",
    "open",
    "plan_retention",
    "probe",
    "put_layer",
    "register_compression",
    "register_parser",
]

#: Which SHA-256 is in use: "libcrypto …", or "hashlib …" where no libcrypto was found; then, where
#: this CPU has one, the kernel that hashes many blobs at once: "…; lanes: avx512vl-x4".
backend: str = _core.BACKEND

# The models need msgspec, whose import costs more than that of all the rest.
_LAZY = {
    **dict.fromkeys(("Descriptor", "Index", "Manifest", "Platform"), "fastcas.model"),
    **dict.fromkeys(("Config", "History"), "fastcas.image.config"),
    **dict.fromkeys(("Layer", "put_layer"), "fastcas.image.layer"),
    **dict.fromkeys(("append_layers", "build_image", "build_index"), "fastcas.image.build"),
    **dict.fromkeys(("export_archive", "import_archive"), "fastcas.image.archive"),
    "build_artifact": "fastcas.image.artifact",
    "copy_image": "fastcas.image.copy",
    "copy_images": "fastcas.image.copy",
    "register_compression": "fastcas.image.compress",
    "register_parser": "fastcas.image.parse",
    **dict.fromkeys(("apply_retention", "plan_retention"), "fastcas.image.retention"),
    **dict.fromkeys(("StoreEngine", "probe"), "fastcas.store.engine"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fastcas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


if TYPE_CHECKING:

    @overload
    def create(
        path: str | os.PathLike[str], *, durability: str = "full", config: None = None
    ) -> DirEngine: ...
    @overload
    def create(path: str, *, durability: str = "full", config: Mapping[str, Any]) -> StoreEngine: ...


def create(
    path: str | os.PathLike[str],
    *,
    durability: str = "full",
    config: Mapping[str, Any] | None = None,
) -> Engine:
    """Makes an empty OCI image layout at ``path`` and opens it; parents are made.

    ``path`` and ``config`` as for ``open``, and ``durability``: unless it is "none", the new layout
    survives power loss. Raises ClobberError where anything is at ``path``, be it an empty directory; of
    a URL, where a layout is. Source: OCI image-spec, image-layout.md.
    """
    engine = _store_engine(path, durability, config)
    if engine is None:
        return DirEngine.create(path, durability=durability)
    return engine.create(str(path), config)


if TYPE_CHECKING:

    @overload
    def open(
        path: str | os.PathLike[str], *, durability: str = "full", config: None = None
    ) -> DirEngine: ...
    @overload
    def open(path: str, *, durability: str = "full", config: Mapping[str, Any]) -> StoreEngine: ...


def open(
    path: str | os.PathLike[str],
    *,
    durability: str = "full",
    config: Mapping[str, Any] | None = None,
) -> Engine:
    """Opens the OCI image layout at ``path``; writes nothing, so that a read-only one opens.

    ``durability`` says what a put, and everything else that changes the layout, waits for:

    - "full": file and directories are synced before it returns.
    - "batch": a put only writes; ``sync()``, the next change of the index, or ``close()`` syncs all
      files together, then names them, then syncs the directory. Until then this engine alone, in
      this process, sees them (some hundreds are enough for some to be named before); a crash, or an
      engine that is dropped without ``close``, loses them. One that can't be synced is dropped, and
      told by DurabilityError there and from then on, until it is put again or deleted.
    - "syncfs": the same with one syncfs(2) in place of the files' syncs. It flushes everything that is
      unwritten on the whole filesystem, other programs' data too, and waits for it. UnsupportedError
      unless Linux is 5.8 or newer and the filesystem ext4, xfs, btrfs, f2fs or tmpfs.
    - "none": nothing is synced. After power loss a blob put lately may be missing or damaged.

    ``path`` may be the URL of an object store, as a str: ``s3://BUCKET/PREFIX``, ``az://``, ``gs://``,
    or ``memory://NAME`` for as long as this process lives. Credentials and endpoint come from the
    environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AZURE_STORAGE_ACCOUNT_NAME, …), and from
    ``config``: the keys of ``obstore``'s stores, ``client_options``, ``retry_config``, and
    ``unsafe_index``. What a put has returned of is as durable as the store makes it, at any
    ``durability``. The engine is a StoreEngine then; UnsupportedError without ``obstore``.

    Type checkers can't see what a str says: without ``config`` they take the engine for a DirEngine. Of
    a URL, annotate it as an Engine, or call ``StoreEngine.open`` or ``create``, whose type is exact.

    Raises NotExistError where there is no such path, layout or bucket; InvalidError where it is no
    layout: no ``oci-layout`` of version 1.0.0, no ``blobs`` directory, no regular file
    ``index.json``, and for a URL or config that can't be; PermissionError for credentials that the
    server refuses.
    """
    engine = _store_engine(path, durability, config)
    if engine is None:
        return DirEngine.open(path, durability=durability)
    return engine.open(str(path), config)


def _store_engine(
    path: Any, durability: str, config: Mapping[str, Any] | None
) -> type[StoreEngine] | None:
    """The class of the engine for a URL; None for a directory."""
    if not is_url(path):
        if config is not None:
            raise InvalidError("config goes with the URL of an object store")
        return None
    check_level(durability, None)
    from fastcas.store.engine import StoreEngine

    return StoreEngine
