"""The test bed that every bench shares: filesystems, bytes, bounds, the environment's description.

Nothing here is timed except where it says so; `fastcas` is imported only by what measures it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import itertools
import mmap
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"
SHM = Path("/dev/shm")

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
CHUNK = MIB

FILESYSTEMS = ("tmpfs", "disk", "ext4", "xfs")
DURABILITIES = ("none", "batch", "full")

_serial = itertools.count()


class Unavailable(Exception):
    """This machine can't offer that filesystem or peer; the message says why."""


@contextlib.contextmanager
def filesystem(name: str, *, capacity: int = 4 * GIB) -> Iterator[Path]:
    """An empty directory on the filesystem called `name`, removed with all it holds afterwards.

    tmpfs: under /dev/shm. disk: beside this file, whatever the checkout lies on. ext4, xfs: a fresh
    one of `capacity` bytes, journaled, in an image file on the checkout's disk, mounted by loop
    (needs root): a disk without a journal flatters fsync.
    """
    signal.signal(signal.SIGTERM, _end)
    if name == "tmpfs":
        if not SHM.is_dir():
            raise Unavailable("no /dev/shm")
        base = SHM
    else:
        WORK.mkdir(exist_ok=True)
        base = WORK
    directory = Path(tempfile.mkdtemp(prefix="fastcas-bench-", dir=base))
    try:
        if name in _MAKE:
            with _loop_mounted(directory, capacity, _MAKE[name]) as mounted:
                yield mounted
        else:
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _end(*_: object) -> None:
    """On SIGTERM: what is mounted must be unmounted, without being interrupted again."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


# With lazy initialisation the kernel would go on writing inode tables during the runs; with discard
# the image would get its holes back. Both programs make a journal and, xfs, reflinks.
_MAKE = {
    "ext4": (
        *("mkfs.ext4", "-q", "-F", "-i", "8192"),  # inodes for all that a run leaves there
        *("-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"),
    ),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
}


@contextlib.contextmanager
def _loop_mounted(directory: Path, capacity: int, make: tuple[str, ...]) -> Iterator[Path]:
    if os.geteuid() != 0:
        raise Unavailable("mounting an image needs root")
    image, mounted = directory / "image", directory / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(capacity)
        # An image with holes makes the disk below allocate inside the first fsyncs; fill it now,
        # as a disk in use would be.
        zeros = bytes(8 * MIB)
        for _ in range(capacity // len(zeros)):
            file.write(zeros)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        try:
            _run(*make, os.fspath(image))
            # Without direct I/O each byte would be copied once more on its way to the disk, into the
            # page cache of the image.
            device = _run("losetup", "--find", "--show", "--direct-io=on", os.fspath(image)).strip()
            try:
                _run("mount", device, os.fspath(mounted))
            finally:
                _run("losetup", "--detach", device)  # once it isn't mounted any more
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"{make[0]} or its mount failed: {error}") from error
        yield mounted
    finally:
        if mounted.is_mount():  # also when it was interrupted right after mounting
            _unmount(mounted)


def _unmount(mounted: Path) -> None:
    for attempt in range(10):
        if subprocess.run(["umount", os.fspath(mounted)], capture_output=True).returncode == 0:
            return
        time.sleep(0.1 * attempt)
    # After an error the traceback keeps files open: it goes with the process.
    _run("umount", "--lazy", os.fspath(mounted))


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def available_filesystems() -> tuple[str, ...]:
    """Names that `filesystem` can offer here, found without mounting anything."""
    names = ["tmpfs"] if SHM.is_dir() and os.access(SHM, os.W_OK) else []
    names.append("disk")
    # Where /sbin isn't in PATH, a user without root gets here too.
    if os.geteuid() == 0 and Path("/dev/loop-control").exists():
        names += [name for name, make in _MAKE.items() if shutil.which(make[0])]
    return tuple(names)


def fresh(base: Path) -> Path:
    """A path under `base` that doesn't exist: a put into a used target measures the dedupe path."""
    return base / f"target-{next(_serial)}"


def settle(directory: Path, memory: int = 0) -> None:
    """Writes back what earlier runs left dirty on this filesystem, so that none pays another's.

    `memory`: that many bytes are touched and given back. A virtual machine's host takes back what is
    free for a second or two; the next who uses it waits for the host, several times longer than for
    anything that is measured here.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
    finally:
        os.close(descriptor)
    if memory:
        with mmap.mmap(-1, memory, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
            for start in range(0, memory, mmap.PAGESIZE):
                pages[start] = 1


def drop(path: Path) -> None:
    """Takes a file, or all files beneath a directory, out of the page cache; what is dirty must have
    been written back. Nothing of a tmpfs can be taken out."""
    for file in (found for found in path.rglob("*") if found.is_file()) if path.is_dir() else (path,):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def random_bytes(size: int, seed: int = 1) -> bytes:
    """`size` bytes that don't repeat, the same for the same seed."""
    generator = random.Random(seed)
    buffer = bytearray(size)
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        buffer[start:stop] = generator.randbytes(stop - start)
    return bytes(buffer)


def digest_of(content: bytes | memoryview) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        state = hashlib.sha256()
        while chunk := file.read(CHUNK):
            state.update(chunk)
        return "sha256:" + state.hexdigest()


def blob_path(root: Path, digest: str) -> Path:
    algorithm, _, encoded = digest.partition(":")
    return root / "blobs" / algorithm / encoded


def evp_seconds(content: bytes) -> float:
    """Seconds that raw SHA-256 takes over `content` in memory: the bound of whatever hashes it.

    The faster of the core's own Digester over 1 MiB chunks and of one hashlib call.
    """
    started = time.perf_counter()
    hashlib.sha256(content).digest()
    best = time.perf_counter() - started
    started = time.perf_counter()
    hash_by_core(content)
    return min(best, time.perf_counter() - started)


def hash_by_core(content: bytes) -> str:
    """Digest of `content` by the core's Digester, 1 MiB at a time."""
    from fastcas._core import Digester

    state = Digester("sha256")
    view = memoryview(content)
    for start in range(0, len(view), CHUNK):
        state.update(view[start : start + CHUNK])
    return "sha256:" + state.hexdigest()


class ReadIntoSource:
    """A Python reader over memory that offers only `readinto`, and no file descriptor."""

    def __init__(self, content: bytes) -> None:
        self._view = memoryview(content)
        self._position = 0

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._view) - self._position)
        buffer[:count] = self._view[self._position : self._position + count]
        self._position += count
        return count


class ReadSource:
    """A Python reader over memory that offers only `read(n)`: each call makes a bytes object."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        start = self._position
        stop = len(self._content) if size < 0 else min(start + size, len(self._content))
        self._position = stop
        return self._content[start:stop]


def environment() -> dict[str, object]:
    """What a figure depends on and a reader can't guess."""
    facts: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "cpu": _cpuinfo("model name") or platform.machine(),
        "cpu_features": sorted(
            {"sha_ni", "avx2", "avx512f", "avx512vl"} & set(_cpuinfo("flags").split())
        ),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "loadavg": os.getloadavg()[0],
        "disk": disk_description(),
    }
    try:
        import fastcas

        facts["backend"] = fastcas.backend
        facts["fastcas"] = importlib.metadata.version("fastcas")
    except importlib.metadata.PackageNotFoundError:
        facts["fastcas"] = "from the source tree"
    except (ImportError, AttributeError) as error:
        facts["fastcas"] = f"not importable: {error}"
    return facts


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def disk_description() -> str:
    """Type of the filesystem of the checkout, with its journal where that can be seen."""
    device = os.stat(HERE).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] != wanted:
            continue
        kind, source = rest.split()[:2]
        if kind != "ext4":
            return kind
        journals = Path("/proc/fs/jbd2")
        if not journals.is_dir():
            return kind
        name = os.path.basename(os.path.realpath(source))
        journaled = any(entry.name.startswith(name + "-") for entry in journals.iterdir())
        return "ext4 with a journal" if journaled else "ext4 without a journal"
    return "unknown"


def child_environment() -> dict[str, str]:
    """Environment for child interpreters that must find the same `fastcas` as this one."""
    import fastcas

    package = os.path.dirname(os.path.dirname(os.path.abspath(fastcas.__file__)))
    known = os.environ.get("PYTHONPATH")
    path = package if not known else package + os.pathsep + known
    return {**os.environ, "PYTHONPATH": path}


def binary_size(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def short_size(size: int) -> str:
    """For ids: a size that is odd on purpose is called by what it is near."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size // unit}{name}" + ("+" if size % unit else "")
    return f"{size}B"


def python() -> str:
    return sys.executable
