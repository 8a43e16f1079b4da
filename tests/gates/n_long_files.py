"""Gate N: files around 2 and 4 GiB, through every way in and out.

They are sparse, with marks where a counter of 32 bits would turn over, signed or not. What is stored
has the digest that hashlib finds, comes out as it went in, and costs no more memory than a short one.
On tmpfs, and as root on ext4. A soak does more that counts bytes: content in memory, other digests,
copies, compression, archives.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import fastcas
from fastcas.image.archive import export_archive, import_archive
from gates import child, disks
from gates.harness import Gate, Run
from gates.invariants import REF_NAME

GIB = 1 << 30
SIZES = (2 * GIB - 1, 2 * GIB, 2 * GIB + 1, 4 * GIB + 1)
MARKS = (0, 2 * GIB - 5, 4 * GIB - 5)  # of ten bytes

#: MiB that a process may need above what it has after importing us, whatever the size.
MEMORY = 24

CHUNK = 1 << 20

#: What is removed there gives its memory back.
EXT4 = disks.Kind("ext4", "mkfs.ext4 -q -F", 6 * GIB, "discard")


class OnlyRead:
    def __init__(self, path: str) -> None:
        self._file = io.FileIO(path)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, CHUNK) if size >= 0 else CHUNK)


class Into:
    def __init__(self, path: str) -> None:
        self._file = io.FileIO(path)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0


def pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            yield piece


@contextlib.contextmanager
def piped(write: Callable[[io.FileIO], object]) -> Iterator[io.FileIO]:
    """The end of a pipe from which what ``write`` writes can be read."""
    receive, send = os.pipe()

    def write_all() -> None:
        with io.FileIO(send, "w") as file:
            write(file)

    with io.FileIO(receive) as file, ThreadPoolExecutor(1) as pool:
        done = pool.submit(write_all)
        yield file
        done.result()


def put_pipe(cas: fastcas.DirEngine, path: str, progress: Any) -> Any:
    with open(path, "rb") as source, piped(lambda file: shutil.copyfileobj(source, file)) as file:
        return cas.put_blob(file, progress=progress)


WAYS: dict[str, Callable[[fastcas.DirEngine, str, Any], Any]] = {
    "path": lambda cas, path, progress: cas.put_blob(Path(path), progress=progress),
    "put_blobs": lambda cas, path, progress: cas.put_blobs([Path(path)], progress=progress)[0],
    "file": lambda cas, path, progress: cas.put_blob(open(path, "rb"), progress=progress),
    "readinto": lambda cas, path, progress: cas.put_blob(Into(path), progress=progress),
    "read": lambda cas, path, progress: cas.put_blob(OnlyRead(path), progress=progress),
    "pieces": lambda cas, path, progress: cas.put_blob(pieces(path), progress=progress),
    "pipe": put_pipe,
    "put_blobs of a file": lambda cas, path, progress: cas.put_blobs(
        [open(path, "rb")], progress=progress
    )[0],
}


# ---- what a soak does besides; each in a new layout


def put_wrong_sizes(cas: fastcas.DirEngine, source: Path, size: int, digest: str) -> None:
    """Those that are the same in 32 bits."""
    for content, expected in (source, size % 2**32), (b"x", 2**32 + 1):
        try:
            cas.put_blob(content, expected_size=expected)
        except fastcas.SizeMismatchError:
            continue
        raise AssertionError(f"took {size} bytes for {expected}")


def put_over_short(cas: fastcas.DirEngine, source: Path, size: int, digest: str) -> None:
    """What is there is as long, in 32 bits."""
    blob = Path(cas.path, "blobs", digest.replace(":", "/"))
    blob.write_bytes(b"x" * (size % 2**32))
    assert cas.put_blob(source) == (digest, size)
    assert blob.stat().st_size == size


def put_again(cas: fastcas.DirEngine, source: Path, size: int, digest: str) -> None:
    """A stored blob, here one with holes, is found by its content."""
    blob = Path(cas.path, "blobs", digest.replace(":", "/"))
    subprocess.run(["cp", "--sparse=always", source, blob], check=True)
    before = blob.stat().st_ino
    assert cas.put_blob(source, verify_existing=True) == (digest, size)
    assert blob.stat().st_ino == before


def put_memory(cas: fastcas.DirEngine, source: Path, size: int, digest: str) -> None:
    """Bytes, alone and with others, and a map: zeros, which take no room until they are stored."""
    expected = hashlib.sha256()
    for start in range(0, size, CHUNK):
        expected.update(bytes(min(CHUNK, size - start)))
    zeros = f"sha256:{expected.hexdigest()}", size
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    for put in (
        lambda: cas.put_blob(bytes(size)),
        lambda: cas.put_blobs([b"first", bytes(size), b"last"])[1],
        lambda: cas.put_blob(mmap.mmap(-1, size, flags=private)),
    ):
        assert put() == zeros
        cas.delete_blob(zeros[0])


def put_sha512(cas: fastcas.DirEngine, source: Path, size: int, digest: str) -> None:
    expected = hashlib.sha512()
    for piece in pieces(os.fspath(source)):
        expected.update(piece)
    assert cas.put_blob(source, algorithm="sha512") == (f"sha512:{expected.hexdigest()}", size)


def copy_out(cas: fastcas.DirEngine, source: Path, size: int, digest: str) -> None:
    cas.put_blob(source)
    assert cas.copy_blob(digest, "/dev/null", verify=True).size == size


def compress(cas: fastcas.DirEngine, source: Path, size: int, digest: str) -> None:
    for name in "gzip", "zstd":
        result = cas.put_blob(source, compress=name)
        assert (result.diff_id, result.plain_size) == (digest, size)
        with cas.get_plain_blob(result.digest, diff_id=digest, ratio=1 << 20) as plain:
            assert sum(map(len, iter(partial(plain.read, CHUNK), b""))) == size


def put_archive(cas: fastcas.DirEngine, source: Path, size: int, digest: str) -> None:
    """An archive of a layout, piece by piece, into ours; and ours into an archive."""
    entry = {"mediaType": "a/b", "digest": digest, "size": size, "annotations": {REF_NAME: "long"}}
    members = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }

    def write(file: io.FileIO) -> None:
        with tarfile.open(fileobj=file, mode="w|") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            tar.add(source, f"blobs/{digest.replace(':', '/')}")

    with piped(write) as file:
        import_archive(cas, file)
    assert cas.stat_blob(digest).size == size
    found = {}
    with (
        piped(lambda file: export_archive(cas, file)) as file,
        tarfile.open(fileobj=file, mode="r|") as tar,
    ):
        for member in tar:
            if member.isfile():
                state = hashlib.sha256()
                content = tar.extractfile(member)
                while piece := content.read(CHUNK):
                    state.update(piece)
                found[member.name] = f"sha256:{state.hexdigest()}"
    assert found[f"blobs/{digest.replace(':', '/')}"] == digest


OTHERS = {
    function.__name__: function
    for function in (
        put_wrong_sizes,
        put_over_short,
        put_again,
        put_memory,
        put_sha512,
        copy_out,
        compress,
        put_archive,
    )
}


def otherwise(place: str, name: str, size: int, digest: str) -> None:
    """Does one of those and tells what is wrong."""
    problems = []
    with fastcas.open(f"{place}/layout", durability="none") as cas:
        try:
            OTHERS[name](cas, Path(place, "source"), size, digest)
        except (fastcas.FastCASError, OSError, AssertionError) as error:
            problems.append(repr(error))
    child.tell(problems)


def make(path: Path, size: int) -> str:
    """The sparse file; its digest."""
    with path.open("wb") as file:
        file.truncate(size)
        for mark in MARKS:
            if mark + 10 <= size:
                file.seek(mark)
                file.write(b"mark%06d" % (mark % 999_983))
    state = hashlib.sha256()
    for piece in pieces(os.fspath(path)):
        state.update(piece)
    return f"sha256:{state.hexdigest()}"


def peak() -> int:
    """KiB."""
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmHWM")))


def through(place: str, way: str, size: int, digest: str) -> None:
    """Stores the source and reads it back in every way; tells what is wrong."""
    problems = []
    source = f"{place}/source"
    counts: list[tuple[int, int | None]] = []
    try:
        with fastcas.open(f"{place}/layout", durability="none") as cas:
            cas.put_blob(b"first")
            before = peak()
            result = WAYS[way](cas, source, lambda *count: counts.append(count))
            if result != (digest, size):
                problems.append(f"stored {result}, not {digest} of {size}")
            done = [count[0] for count in counts]
            if done != sorted(done) or not done or done[-1] != size:
                problems.append(f"progress to {done[-1:]}")
            if cas.stat_blob(digest).size != size:
                problems.append("stat tells another size")
            buffer = memoryview(bytearray(CHUNK))
            total = 0
            with cas.get_blob(digest) as blob:
                while count := blob.readinto(buffer):
                    total += count
                if (total, blob.verified) != (size, True):
                    problems.append(f"a read of {total} bytes")
                blob.seek(size - 3)
                if len(blob.read()) != 3:
                    problems.append("a read of the end")
            for options in ({"quick": True}, {"threads": 2}):
                report = cas.scrub(**options)
                if report.problems:
                    problems.append(f"scrub: {report.problems}")
            if peak() - before > MEMORY << 10:
                problems.append(f"{peak() - before} KiB of memory")
    except (fastcas.FastCASError, OSError) as error:
        problems.append(repr(error))
    child.tell(problems)


def run(gate: Run) -> None:
    on(gate, "tmpfs", gate.place, gate.pick(SIZES[-1:], SIZES))
    if os.geteuid() == 0:
        image = gate.place / "image"
        disks.make(EXT4, image)
        with disks.Mounted(EXT4, image, gate.place / "ext4") as disk:
            on(gate, "ext4", disk.path, gate.pick(SIZES[2:3], SIZES))


def on(gate: Run, filesystem: str, place: Path, sizes: Sequence[int]) -> None:
    """All that is tried in a directory of the filesystem."""
    ways = list(WAYS) if gate.soak else ["path"]
    for size in sizes:
        digest = make(place / "source", size)
        for way in ways:
            try_one(gate, filesystem, place, through, way, size, digest)
    for name in OTHERS if gate.soak else ():
        try_one(gate, filesystem, place, otherwise, name, size, digest)
    (place / "source").unlink()


def try_one(
    gate: Run,
    filesystem: str,
    place: Path,
    function: Callable[..., None],
    name: str,
    size: int,
    digest: str,
) -> None:
    layout = place / "layout"
    fastcas.create(layout, durability="none").close()
    process = child.start(function, place, name, size, digest, mutant=gate.mutant)
    output, _ = process.communicate()
    results = list(child.events(output))
    gate.trials += 1
    gate.faults += len(MARKS)
    shutil.rmtree(layout)
    gate.check(f"{filesystem}, {size} bytes by {name}", results[0][0] if results else ["it died"])


def missing() -> str | None:
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    if free < 6 * GIB:
        return "needs 6 GiB of tmpfs at /dev/shm"
    return disks.missing() if os.geteuid() == 0 else None


GATE = Gate(
    letter="N",
    title="files of more than 2 and 4 GiB",
    run=run,
    mutants=("offsets-of-32-bits",),
    missing=missing,
)
