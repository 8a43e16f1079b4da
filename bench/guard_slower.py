"""Shows that each guard fails when the code is made slower (``make bench-guard`` is the guard).

Every pair is run as it is, and again with ours slowed down by something that a change could do by
mistake: an overlap lost, lanes lost, a second look at what was looked at. The table has both ratios and
the floor. Exit code 1 where a slowdown stays above its floor, so that nobody would notice it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import guard
from fastcas import _core
from fastcas.contract import Contract
from fastcas.dir.engine import DirEngine
from fastcas.dir.ingest import Ingest


@contextmanager
def one_processor() -> Iterator[None]:
    """What two threads do at a time comes one after the other."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def read_back(times: int = 1) -> object:
    stage = Ingest.stage

    def again(self, source, algorithm, **options):
        staged = stage(self, source, algorithm, **options)
        for _ in range(times):
            _core.digest_fd(staged[0].fd, algorithm)
        return staged

    return mock.patch.object(Ingest, "stage", again)


def read_back_twice() -> object:
    return read_back(2)


def verified_before() -> object:
    get = DirEngine.get_blob

    def after(self, digest):
        with get(self, digest) as blob:
            blob.verify()
        return get(self, digest)

    return mock.patch.object(DirEngine, "get_blob", after)


def small_steps() -> object:
    get = DirEngine.get_blob

    class Steps:
        def __init__(self, blob):
            self.blob = blob

        def __enter__(self):
            self.blob.__enter__()
            return self

        def __exit__(self, *error):
            return self.blob.__exit__(*error)

        def readall(self):
            content = b""
            while piece := self.blob.read(1 << 18):
                content += piece  # copied again and again
            return content

        verified = property(lambda self: self.blob.verified)

    return mock.patch.object(DirEngine, "get_blob", lambda self, digest: Steps(get(self, digest)))


def no_short_way_in() -> object:
    put = Ingest.put

    def twice(self, source, **options):
        put(self, bytes(source), **options)
        return put(self, source, **{**options, "verify_existing": True})

    return mock.patch.object(Ingest, "put", twice)


def no_short_way_out() -> object:
    return mock.patch.object(DirEngine, "read_blob", read_by_reader)


def read_by_reader(self: DirEngine, digest: str) -> bytes:
    self.stat_blob(digest)
    with self.get_blob(digest) as blob:
        return blob.read()


def stat_each() -> object:
    names = DirEngine.list_blobs

    def looked_at(self):
        for digest in names(self):
            self.stat_blob(digest)
            yield digest

    return mock.patch.object(DirEngine, "list_blobs", looked_at)


def nothing_ahead() -> object:
    return mock.patch.object(DirEngine, "start_reading", Contract.start_reading)


def no_lanes() -> object:
    many = _core.digest_many
    library = _core.KERNELS[-1]
    return mock.patch.object(_core, "digest_many", lambda *a, **k: many(*a, **k, kernel=library))


def checked_twice() -> object:
    check = DirEngine.check_blobs

    def twice(self, digests, **options):
        digests = list(digests)
        list(check(self, digests, **options))
        return check(self, digests, **options)

    return mock.patch.object(DirEngine, "check_blobs", twice)


def verified_first() -> object:
    copy = DirEngine.copy_blob

    def verified(self, digest, target, **options):
        return copy(self, digest, target, **{**options, "verify": True})

    return mock.patch.object(DirEngine, "copy_blob", verified)


#: By pair: what makes ours slower, and its name.
SLOWDOWNS: dict[str, tuple[str, Callable[[], object]]] = {
    "put file / EVP": ("one processor", one_processor),
    "put file / hashlib loop": ("read back and hashed again", read_back),
    "put file, full, disk / hashlib loop": ("read back and hashed, twice", read_back_twice),
    "put readinto / EVP": ("read back and hashed again", read_back),
    "put read / hashlib loop": ("read back and hashed, twice", read_back_twice),
    "get readinto aligned / EVP": ("verified, then read", verified_before),
    "get readinto unaligned / EVP": ("verified, then read", verified_before),
    "get readall / hashlib loop": ("pieces appended to bytes", small_steps),
    "copy out, verified / EVP": ("one processor", one_processor),
    "copy out / shutil.copyfile": ("verified where nobody asked", verified_first),
    "put 4 KiB / hashlib loop": ("put again, and compared", no_short_way_in),
    "get 4 KiB / hashlib loop": ("looked at, then by a reader", no_short_way_out),
    "list / os.listdir": ("a stat for each", stat_each),
    "walk / walk one by one": ("nothing read ahead", nothing_ahead),
    "mark / mark one by one": ("nothing read ahead", nothing_ahead),
    "put_blobs files / hashlib loop": ("one processor", one_processor),
    "digest_many memory / EVP": ("libcrypto instead of lanes", no_lanes),
    "digest_many files / EVP": ("libcrypto instead of lanes", no_lanes),
    "quick scrub / read": ("everything compared twice", checked_twice),
}


def slowed(ours: guard.Timed, slowdown: Callable[[], object]) -> guard.Timed:
    def run() -> float:
        with slowdown():
            return ours()

    return run


def main() -> int:
    unseen = []
    fast_name = "tmpfs" if "tmpfs" in bed.available_filesystems() else "disk"
    print(f"{'pair':38} {'ratio':>6} {'slower':>6} {'floor':>6}  slower by")
    with bed.filesystem(fast_name) as fast, bed.filesystem("disk") as disk, ExitStack() as cleanup:
        for name, ours, baseline in guard.Bench(fast, disk, cleanup).pairs():
            what, slowdown = SLOWDOWNS[name]
            floor = guard.FLOORS[name]
            usual = guard.measure(guard.Pair(name, ours, baseline, floor), 5, 1)
            slower = guard.Pair(name, slowed(ours, slowdown), baseline, floor)
            # As often as the guard looks, before it says that a pair is below its floor.
            ratio = max(guard.measure(slower, 5, 1) for _ in range(guard.ATTEMPTS))
            if ratio >= floor:
                unseen.append(name)
            verdict = "  NOT SEEN" if ratio >= floor else ""
            print(f"{name:38} {usual:6.2f} {ratio:6.2f} {floor:6.2f}  {what}{verdict}", flush=True)
    return int(bool(unseen))


if __name__ == "__main__":
    sys.exit(main())
