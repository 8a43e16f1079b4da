"""`python_stores.py NAME` drives stores written in Python for run.py. Requests and answers: program.py.

Neither is an OCI layout, verifies what it reads, or syncs anything.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import BinaryIO, Protocol

CHUNK = 1 << 20


class Store(Protocol):
    """What is timed of a store: nothing but these, and the reading of what `open` gives."""

    def __init__(self, root: str) -> None: ...
    def put_file(self, path: str) -> str: ...
    def put_bytes(self, content: bytes) -> str: ...
    def open(self, digest: str) -> BinaryIO: ...
    def path(self, digest: str) -> str: ...
    def list(self) -> Iterable[str]: ...


class Hashfs:
    package = "hashfs"

    def __init__(self, root: str) -> None:
        import hashfs

        # It makes its temporary files in /tmp, and copies them when that is another filesystem.
        tempfile.tempdir = os.path.dirname(root)
        self._store = hashfs.HashFS(root)

    def put_file(self, path: str) -> str:
        return self._store.put(path).id

    def put_bytes(self, content: bytes) -> str:
        return self._store.put(io.BytesIO(content)).id

    def open(self, digest: str) -> BinaryIO:
        return self._store.open(digest)

    def path(self, digest: str) -> str:
        return self._store.idpath(digest)

    def list(self) -> Iterable[str]:
        return (self._store.unshard(path) for path in self._store.files())


class Dvc:
    package = "dvc-data"

    def __init__(self, root: str) -> None:
        from dvc_data.hashfile.db.local import LocalHashFileDB
        from dvc_data.hashfile.hash import file_md5, fobj_md5
        from dvc_objects.fs import localfs

        self._files = localfs
        # Despite their names they take the name of any algorithm.
        self._hash_file, self._hash_object = file_md5, fobj_md5
        self._store = LocalHashFileDB(localfs, root, hash_name="sha256")

    def put_file(self, path: str) -> str:
        name = self._hash_file(path, self._files, name="sha256")
        self._store.add(path, self._files, name)
        return name

    def put_bytes(self, content: bytes) -> str:
        name = self._hash_object(io.BytesIO(content), name="sha256")
        self._store.add_bytes(name, content)
        return name

    def open(self, digest: str) -> BinaryIO:
        blob = self._store.get(digest)
        return blob.fs.open(blob.path, "rb")

    def path(self, digest: str) -> str:
        return self._store.oid_to_path(digest)

    def list(self) -> Iterable[str]:
        return self._store.all()


def put(store: Store, blobs: list[list[str]]) -> dict:
    started = time.perf_counter_ns()
    digests = [store.put_file(source) for _, _, source in blobs]
    return {"ns": time.perf_counter_ns() - started, "digests": ["sha256:" + name for name in digests]}


def put_pieces(store: Store, blobs: list[list[str]], file: str) -> dict:
    with open(file, "rb") as source:
        pieces = [source.read(int(size)) for _, size, *_ in blobs]
    started = time.perf_counter_ns()
    digests = [store.put_bytes(piece) for piece in pieces]
    return {"ns": time.perf_counter_ns() - started, "digests": ["sha256:" + name for name in digests]}


def get(store: Store, blobs: list[list[str]]) -> dict:
    """Verified here, into one buffer."""
    view = memoryview(bytearray(CHUNK))
    total = 0
    started = time.perf_counter_ns()
    for digest, *_ in blobs:
        state = hashlib.sha256()
        with store.open(digest) as blob:
            while count := blob.readinto(view):
                state.update(view[:count])
                total += count
        if state.hexdigest() != digest:
            raise ValueError(f"{digest} is corrupt")
    return {"ns": time.perf_counter_ns() - started, "size": total, "count": len(blobs)}


def touch(store: Store, blobs: list[list[str]]) -> dict:
    for digest, *_ in blobs:
        path = store.path(digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444))
    return {}


def list_all(store: Store) -> dict:
    started = time.perf_counter_ns()
    count = sum(1 for _ in store.list())
    return {"ns": time.perf_counter_ns() - started, "count": count}


def create(store: Store) -> dict:
    return {}


REQUESTS: dict[str, Callable[..., dict]] = {
    "create": create,
    "put": put,
    "put-pieces": put_pieces,
    "get": get,
    "touch": touch,
    "list": list_all,
}


def read_listing(name: str) -> list[list[str]]:
    """Digests without their algorithm, sizes and sources."""
    with open(name) as file:
        return [line.rstrip("\n").removeprefix("sha256:").split("\t") for line in file]


def perform(kind: type, name: str, arguments: list[str]) -> dict:
    if name == "hello":
        version = importlib.metadata.version(kind.package)
        return {
            "version": f"{kind.package} {version}",
            "operations": list(REQUESTS),
            "syncs": "nothing",
            "layout": False,
        }
    root, *rest = arguments
    os.makedirs(root, exist_ok=True)
    listings = [read_listing(listing) for listing in rest[:1]]
    return REQUESTS[name](kind(root), *listings, *rest[1:])


def main() -> None:
    kind = {"hashfs": Hashfs, "dvc-data": Dvc}[sys.argv[1]]
    for line in sys.stdin:
        name, *arguments = line.rstrip("\n").split("\t")
        try:
            answer = perform(kind, name, arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
