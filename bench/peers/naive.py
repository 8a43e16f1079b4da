"""The honest Python baseline: the loop over hashlib, os.write and os.rename that one would write.

It does what the engine's happy path does and no more: no lock, no containment, no dedupe, no check
of what is already there. `sync` is "none", "file" (fsync of the file: what umoci does) or "full"
(the file, then its directory: what fastcas's `full` does).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

CHUNK = 1 << 20
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_DOCUMENT_TYPES = {_INDEX_TYPE, "application/vnd.oci.image.manifest.v1+json"}


class Store:
    """One layout; `close` it. Its read buffer is allocated once, as a tuned loop would."""

    def __init__(self, root: Path, *, sync: str = "full") -> None:
        self._root = os.fspath(root)
        self._blobs = os.path.join(self._root, "blobs", "sha256")
        self._sync = sync
        self._serial = 0
        self._view = memoryview(bytearray(CHUNK))
        self._directory = os.open(self._blobs, os.O_RDONLY | os.O_DIRECTORY)
        self._root_directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)

    @classmethod
    def create(cls, root: Path, *, sync: str = "full") -> Store:
        os.makedirs(os.path.join(root, "blobs", "sha256"))
        with open(os.path.join(root, "oci-layout"), "w") as file:
            file.write('{"imageLayoutVersion":"1.0.0"}\n')
        with open(os.path.join(root, "index.json"), "w") as file:
            json.dump({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": []}, file)
        return cls(root, sync=sync)

    def close(self) -> None:
        os.close(self._directory)
        os.close(self._root_directory)

    def put_file(self, source: Path) -> str:
        with open(source, "rb", buffering=0) as file:
            return self.put_reader(file)

    def put_reader(self, source) -> str:
        """Stores what `source.readinto` gives, 1 MiB at a time."""
        return self._put(self._chunks(source))

    def put_bytes(self, content: bytes) -> str:
        return self._put((content,))

    def _chunks(self, source) -> Iterable[memoryview]:
        while count := source.readinto(self._view):
            yield self._view[:count]

    def _put(self, chunks: Iterable[bytes | memoryview]) -> str:
        temporary = self._temporary()
        state = hashlib.sha256()
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for chunk in chunks:
                state.update(chunk)
                _write_all(target, chunk)
            if self._sync != "none":
                os.fsync(target)
        finally:
            os.close(target)
        encoded = state.hexdigest()
        os.rename(temporary, os.path.join(self._blobs, encoded))
        if self._sync == "full":
            os.fsync(self._directory)
        return "sha256:" + encoded

    def _temporary(self) -> str:
        self._serial += 1
        return os.path.join(self._root, f".naive-{os.getpid()}-{self._serial}")

    def get(self, digest: str) -> int:
        """Reads a blob to its end, 1 MiB at a time, and checks it; returns its size."""
        state = hashlib.sha256()
        total = 0
        with open(os.path.join(self._blobs, digest[7:]), "rb", buffering=0) as file:
            for chunk in self._chunks(file):
                state.update(chunk)
                total += len(chunk)
        _check(state, digest)
        return total

    def get_bytes(self, digest: str) -> bytes:
        """A small blob in one read, checked."""
        with open(os.path.join(self._blobs, digest[7:]), "rb", buffering=0) as file:
            content = file.read()
        _check(hashlib.sha256(content), digest)
        return content

    def list(self) -> list[str]:
        return ["sha256:" + name for name in os.listdir(self._blobs)]

    def walk(self) -> Iterable[dict]:
        """Every descriptor, from the index down; what is met again is passed over, nothing checked."""
        with open(os.path.join(self._root, "index.json"), "rb") as file:
            stack = json.load(file)["manifests"]
        seen = set()
        while stack:
            descriptor = stack.pop()
            digest = descriptor["digest"]
            if digest in seen:
                continue
            seen.add(digest)
            yield descriptor
            if descriptor["mediaType"] in _DOCUMENT_TYPES:
                with open(os.path.join(self._blobs, digest[7:]), "rb") as file:
                    document = json.load(file)
                stack += document.get("manifests") or ()
                if "config" in document:
                    stack.append(document["config"])
                stack += document.get("layers") or ()

    def gc(self) -> int:
        """Unlinks what the index doesn't lead to; returns how many. No lock, no grace."""
        used = {descriptor["digest"][7:] for descriptor in self.walk()}
        unused = [name for name in os.listdir(self._blobs) if name not in used]
        for name in unused:
            os.unlink(os.path.join(self._blobs, name))
        return len(unused)

    def update_reference(self, name: str, digest: str, size: int, media_type: str) -> None:
        """Replaces the index entries called `name` by one; no lock."""
        path = os.path.join(self._root, "index.json")
        with open(path, "rb") as file:
            index = json.load(file)
        key = "org.opencontainers.image.ref.name"
        kept = [
            entry for entry in index["manifests"] if (entry.get("annotations") or {}).get(key) != name
        ]
        kept.append(
            {"mediaType": media_type, "digest": digest, "size": size, "annotations": {key: name}}
        )
        index["manifests"] = kept
        temporary = self._temporary()
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _write_all(target, json.dumps(index, separators=(",", ":")).encode() + b"\n")
            if self._sync != "none":
                os.fsync(target)
        finally:
            os.close(target)
        os.rename(temporary, path)
        if self._sync == "full":
            os.fsync(self._root_directory)


def _write_all(target: int, content: bytes | memoryview) -> None:
    written = os.write(target, content)
    if written != len(content):
        rest = memoryview(content)[written:]
        while len(rest):
            rest = rest[os.write(target, rest) :]


def _check(state, digest: str) -> None:
    if state.hexdigest() != digest[7:]:
        raise ValueError(f"{digest} is corrupt")
