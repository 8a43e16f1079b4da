from typing import NamedTuple

from fastcas.digest import Digest

__all__ = [
    "BlobInfo",
    "CopyResult",
    "GCReport",
    "Problem",
    "PutResult",
    "ScrubReport",
    "StoredBlob",
    "Swept",
]

class PutResult(NamedTuple):
    digest: Digest
    size: int

class BlobInfo(NamedTuple):
    digest: Digest
    size: int

class CopyResult(NamedTuple):
    method: str
    size: int

class StoredBlob(NamedTuple):
    path: str
    digest: Digest | None
    size: int
    modified: int
    changed: int
    kind: str
    def is_unused(self, start: int, grace: int) -> bool: ...

class Swept(NamedTuple):
    removed: list[BlobInfo]
    left: list[Digest]

class GCReport(NamedTuple):
    deleted: list[BlobInfo]
    freed: int
    kept: int
    dry_run: bool

class Problem(NamedTuple):
    digest: Digest | None
    path: str
    kind: str
    detail: str

class ScrubReport(NamedTuple):
    checked: int
    bytes: int
    problems: list[Problem]
