from typing import NamedTuple

from fastcas.digest import Digest

__all__ = ["BlobInfo", "CopyResult", "PutResult"]

class PutResult(NamedTuple):
    digest: Digest
    size: int

class BlobInfo(NamedTuple):
    digest: Digest
    size: int

class CopyResult(NamedTuple):
    method: str
    size: int
