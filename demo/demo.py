"""The Python interpreter's own library as an OCI image: stored, tagged, read back verified, timed.

Run by `make demo`; leaves the image in build/demo/image to try the command line on.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import fastcas
from fastcas.model import MEDIA_TYPE_CONFIG, MEDIA_TYPE_LAYER, MEDIA_TYPE_MANIFEST

CHUNK = 1 << 20
DURABILITY = "full"
# Not the interpreter's own, or different on every machine.
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}
HERE = Path(__file__).resolve().parent.parent / "build" / "demo"


def pack(folder: Path, archive: Path) -> int:
    """Packs a folder so that the same files give the same bytes; returns how many."""
    count = 0
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path, folders, files in os.walk(folder):
            folders[:] = sorted(set(folders) - LEFT_OUT)
            for name in sorted(files):
                source = Path(path, name)
                info = tar.gettarinfo(source, f"lib/{source.relative_to(folder)}")
                if info is None:
                    continue
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime = 0
                if info.isreg():
                    with source.open("rb") as content:
                        tar.addfile(info, content)
                else:
                    tar.addfile(info)
                count += 1
    return count


def store_image(layout: Path, layer: Path, tag: str) -> dict[str, fastcas.PutResult]:
    """A new layout with one image of one layer."""
    with fastcas.create(layout, durability=DURABILITY) as cas:
        stored = {"layer": cas.put_blob(layer)}
        stored["config"] = cas.put_json(
            {
                "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(
                    platform.machine(), platform.machine()
                ),
                "os": "linux",
                # The layer isn't compressed, so the digest of its content is its own.
                "rootfs": {"type": "layers", "diff_ids": [stored["layer"].digest]},
            }
        )
        manifest = fastcas.Manifest(
            config=fastcas.Descriptor(MEDIA_TYPE_CONFIG, *stored["config"]),
            layers=[fastcas.Descriptor(MEDIA_TYPE_LAYER, *stored["layer"])],
        )
        stored["manifest"] = cas.put_json(manifest)
        cas.update_reference(tag, fastcas.Descriptor(MEDIA_TYPE_MANIFEST, *stored["manifest"]))
    return stored


def read_image(layout: Path, tag: str, unpacked: Path) -> int:
    """Reads all that the tag names, every byte verified; returns how many bytes."""
    with fastcas.open(layout) as cas:
        ((entry,),) = cas.resolve_reference(tag)
        manifest = cas.read_descriptor(entry).data
        total = entry.size + len(cas.read_blob(manifest.config.digest))
        for layer in manifest.layers:
            with cas.get_blob(layer.digest) as blob, unpacked.open("wb") as target:
                shutil.copyfileobj(blob, target, CHUNK)
                assert blob.verified
            total += layer.size
    return total


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


class Hashing:
    """A file that is hashed while shutil reads it: the plain way to store under a digest."""

    def __init__(self, source: BinaryIO) -> None:
        self.source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        chunk = self.source.read(size)
        self.digest.update(chunk)
        return chunk


def plain_put(folder: Path, source: Path) -> None:
    """hashlib and shutil, as durable as fastcas: the file synced, renamed, its directory synced."""
    temp = folder / "temp"
    with source.open("rb", buffering=0) as content, temp.open("wb", buffering=0) as target:
        hashing = Hashing(content)
        shutil.copyfileobj(hashing, target, CHUNK)
        os.fsync(target.fileno())
    temp.rename(folder / hashing.digest.hexdigest())
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def plain_get(path: Path) -> None:
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            digest.update(view[:count])
    assert digest.hexdigest() == path.name


def fast_get(cas: fastcas.Engine, digest: str) -> None:
    buffer = bytearray(CHUNK)
    with cas.get_blob(digest) as blob:
        while blob.readinto(buffer):
            pass
        assert blob.verified


def seconds(action: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def race(layer: Path, digest: str) -> dict[str, tuple[float, float]]:
    """Seconds of fastcas and of the plain loop: both twice in turn, the second time counts."""
    for turn in ("first", "second"):
        plain = HERE / f"plain-{turn}"
        plain.mkdir()
        with fastcas.create(HERE / f"race-{turn}", durability=DURABILITY) as cas:
            put = seconds(cas.put_blob, layer), seconds(plain_put, plain, layer)
            stored = plain / digest.partition(":")[2]
            get = seconds(fast_get, cas, digest), seconds(plain_get, stored)
        shutil.rmtree(plain)
        shutil.rmtree(HERE / f"race-{turn}")
    return {f"put (durability {DURABILITY})": put, "get, verified": get}


def mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB" if size >= 1 << 20 else f"{size} bytes"


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    library = Path(sysconfig.get_paths()["stdlib"])
    layer, layout, back = HERE / "layer.tar", HERE / "image", HERE / "back.tar"
    tag = f"python-{sys.version_info.major}.{sys.version_info.minor}"
    filesystem = subprocess.run(
        ["df", "--output=fstype", HERE], capture_output=True, text=True, check=False
    ).stdout.split()[-1:]

    print(f"fastcas {version('fastcas')}, Python {platform.python_version()}, {fastcas.backend}\n")

    files = pack(library, layer)
    size = layer.stat().st_size
    print(f"packed    {library}: {files} files, a layer of {mebibytes(size)}")

    stored = store_image(layout, layer, tag)
    print(f"stored    a new layout in {os.path.relpath(layout)}")
    for what, (digest, length) in stored.items():
        print(f"          {what:8}  {digest[:19]}...  {mebibytes(length):>10}")
    print(f"tagged    {tag}")

    total = read_image(layout, tag, back)
    print(f"reopened  read back {mebibytes(total)}, every byte verified")

    digest = stored["layer"].digest
    by_hashlib = {sha256(layer), sha256(back)}
    if by_hashlib != {digest}:
        sys.exit(f"hashlib disagrees: {by_hashlib} is not {digest}")
    print(f"hashlib   finds the same digest of what went in and what came out:\n          {digest}")
    back.unlink()

    print(
        f"\n{', '.join(['the layer', *filesystem, 'warm']):30}{'fastcas':>12}{'hashlib + shutil':>20}"
    )
    for what, (fast, plain) in race(layer, digest).items():
        rates = f"{size / fast / 1e9:7.2f} GB/s{size / plain / 1e9:15.2f} GB/s"
        print(f"{what:30}{rates}{plain / fast:9.2f} x")
    layer.unlink()

    command = os.path.relpath(Path(sys.executable).with_name("fastcas"))
    print(f"\nNow try: {command} stat {os.path.relpath(layout)} {tag}")


if __name__ == "__main__":
    main()
