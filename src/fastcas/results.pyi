from typing import Any, NamedTuple

from typing_extensions import Self

from fastcas.digest import Digest
from fastcas.model import Descriptor

__all__ = [
    "BlobInfo",
    "CompressedPutResult",
    "CopyResult",
    "GCReport",
    "ParsedBlob",
    "Problem",
    "PutResult",
    "ScrubReport",
    "StoredBlob",
    "Swept",
]

class PutResult(NamedTuple):
    digest: Digest
    size: int

class CompressedPutResult(PutResult):
    def __new__(cls, digest: Digest, size: int, diff_id: Digest, plain_size: int) -> Self: ...
    @property
    def diff_id(self) -> Digest: ...
    @property
    def plain_size(self) -> int: ...

class BlobInfo(NamedTuple):
    digest: Digest
    size: int

class CopyResult(NamedTuple):
    method: str
    size: int

class StoredBlob(NamedTuple):
    place: str
    digest: Digest | None
    size: int
    modified: int
    changed: int
    kind: str
    @property
    def path(self) -> str: ...
    def is_unused(self, start: int, grace: int) -> bool: ...

def is_unused(modified: int, changed: int, start: int, grace: int) -> bool: ...

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

class _ScrubReport(NamedTuple):
    checked: int
    bytes: int
    problems: list[Problem]

class ScrubReport(_ScrubReport):
    def __new__(
        cls, checked: int, bytes: int, problems: list[Problem], by_checksum: int = 0
    ) -> Self: ...
    @property
    def by_checksum(self) -> int: ...

class ParsedBlob(NamedTuple):
    descriptor: Descriptor
    data: Any
    raw: bytes
