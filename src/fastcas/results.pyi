from typing import Any, NamedTuple

from typing_extensions import Self

from fastcas.digest import Digest
from fastcas.model import Descriptor

__all__ = ["BlobInfo", "CompressedPutResult", "CopyResult", "ParsedBlob", "PutResult"]

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

class ParsedBlob(NamedTuple):
    descriptor: Descriptor
    data: Any
    raw: bytes
