from typing import Any, NamedTuple

from fastcas.digest import Digest
from fastcas.model import Descriptor

__all__ = ["BlobInfo", "CopyResult", "ParsedBlob", "PutResult"]

class PutResult(NamedTuple):
    digest: Digest
    size: int

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
