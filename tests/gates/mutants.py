"""Mutants: the store with one protection removed, in the process that asks for it.

Nothing of this is in the package. A mutant is a patch of the package's Python, or something that a
library does which is loaded before libc (shim.c), or both. A new one: a function with ``@mutant``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace


@dataclass(frozen=True)
class Mutant:
    """``what`` completes "the store …"; ``shim`` is a name in shim.c; ``patch`` runs in the child."""

    what: str
    shim: str | None
    patch: Callable[[], None]


MUTANTS: dict[str, Mutant] = {}


def mutant(what: str, *, shim: str | None = None) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(patch: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[patch.__name__.replace("_", "-")] = Mutant(what, shim, patch)
        return patch

    return register


@cache
def shim() -> Path:
    """The compiled shim.c; kept in a temporary directory as long as this process lives."""
    global _kept
    _kept = tempfile.TemporaryDirectory(prefix="gates-")
    library = Path(_kept.name, "shim.so")
    source = Path(__file__).with_name("shim.c")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-pthread"]
    subprocess.run(command, check=True, timeout=60)
    return library


def environment(name: str | None, *, steps: bool = False) -> dict[str, str]:
    """What a child needs in its environment for that mutant, and for stops at steps."""
    chosen = None if name is None else MUTANTS[name].shim
    if chosen is None and not steps:
        return {}
    return {"LD_PRELOAD": str(shim()), "GATES_SHIM": chosen or ""}


# ---- syncs


@mutant("without fsync of files", shim="no-file-sync")
def no_file_sync() -> None: ...


@mutant("without fsync of directories", shim="no-directory-sync")
def no_directory_sync() -> None: ...


@mutant("that names a blob, then syncs it", shim="name-before-sync")
def publish_before_sync() -> None: ...


@mutant("that takes a stored blob without syncing it", shim="no-found-file-sync")
def no_found_file_sync() -> None: ...


@mutant("that takes a stored blob without syncing its directory")
def no_found_name_sync() -> None:
    """In put_blob; put_blobs syncs the directory once for all."""
    from fastcas.dir.ingest import Ingest

    found = False
    fsync, claim, put = os.fsync, Ingest.claim, Ingest.put

    def claiming(self, *arguments, **options):
        nonlocal found
        fd = claim(self, *arguments, **options)
        found = fd >= 0
        return fd

    def putting(self, *arguments, **options):
        nonlocal found
        found = False
        try:
            return put(self, *arguments, **options)
        finally:
            found = False

    os.fsync = lambda fd: None if found and stat.S_ISDIR(os.fstat(fd).st_mode) else fsync(fd)
    Ingest.claim, Ingest.put = claiming, putting


@mutant("that takes a stored blob without any sync", shim="no-found-file-sync")
def no_dedupe_sync() -> None:
    no_found_name_sync()


@mutant("that doesn't sync the directories above a new blobs/<algorithm>")
def no_new_directory_sync() -> None:
    from fastcas.dir.durability import Durability

    Durability._sync_directory = lambda self, directory, algorithm: self._root.sync(
        directory, algorithm
    )


@mutant("that doesn't sync the directory in which a layout is made")
def no_parent_sync() -> None:
    from fastcas.dir import root

    real = root._sync_directory
    root._sync_directory = lambda path, fd: (path[0] in "./" and path != ".") or real(path, fd)


@mutant("that writes the index, then makes durable what it names")
def index_before_blobs() -> None:
    from fastcas.dir.index import IndexFile

    real = IndexFile._write

    def write(self, raw, only_if=None):
        waits = self._durability
        waits.sync = lambda: None
        try:
            return real(self, raw, only_if)
        finally:
            del waits.sync
            waits.sync()

    IndexFile._write = write


@mutant("whose gc removes before the index that allows it is durable")
def gc_without_index_sync() -> None:
    from fastcas.dir.sweep import _Witness

    _Witness._sync = lambda self: None


# ---- names and locks


@mutant("that writes a blob under its name")
def put_in_place() -> None:
    from fastcas import Digest, PutResult
    from fastcas.dir.ingest import Ingest

    def put(self, source, *, algorithm, **_):
        content = bytes(source)
        digest = Digest.of(algorithm, hashlib.new(algorithm, content).hexdigest())
        with open(self._root.join(f"blobs/{algorithm}/{digest.encoded}"), "wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            time.sleep(0.002)
            file.write(content[len(content) // 2 :])
        return PutResult(digest, len(content))

    Ingest.put = put


@mutant("without locks", shim="no-lock")
def no_lock() -> None: ...


@mutant("that makes a named temporary file, then locks it")
def lock_after_create() -> None:
    import fcntl

    from fastcas.dir.temp import Temp

    real, flock = Temp._open, fcntl.flock

    def opening(self):
        self._lock.shared = contextlib.nullcontext
        try:
            real(self)
        finally:
            del self._lock.shared

    def late(fd, operation):
        time.sleep(0.0005)
        flock(fd, operation)

    Temp._open = opening
    fcntl.flock = late


@mutant("whose clean takes the files of the living")
def clean_takes_all() -> None:
    from fastcas.dir import clean

    clean._take_flock = lambda fd: True


# ---- gc


@mutant("that doesn't mark a stored blob as used when it takes it")
def found_but_not_marked() -> None:
    utime = os.utime
    os.utime = lambda path, *times, **options: (
        None if type(path) is int else utime(path, *times, **options)
    )


@mutant("whose gc ignores how old a blob is")
def grace_ignored() -> None:
    from fastcas.results import StoredBlob

    StoredBlob.is_unused = lambda self, start, grace: True


@mutant("whose gc doesn't look at the index again under the lock")
def gc_without_index_check() -> None:
    from fastcas.dir.sweep import _Witness

    _Witness.holds = lambda self: True


# ---- errors


@mutant("that takes a failed fsync for a good one", shim="sync-errors-ignored")
def sync_errors_ignored() -> None: ...


@mutant("that tries a failed fsync again", shim="syncs-tried-again")
def syncs_tried_again() -> None: ...


@mutant("that leaves the temporary file of a put that failed")
def temps_kept() -> None:
    from fastcas.dir import temp

    temp.HAVE_O_TMPFILE = False
    discard = temp.Temp.discard

    def keep(self):
        self._name = None
        discard(self)

    temp.Temp.discard = keep


@mutant("that leaves files open after an error")
def errors_leak_files() -> None:
    from fastcas.dir.root import Root

    named = Root.named
    Root.named = lambda self, error, *name: (os.dup(2), named(self, error, *name))[1]


@mutant("whose errors are whatever comes up")
def wrong_errors() -> None:
    from fastcas.dir.root import Root

    Root.named = lambda self, error, *name: RuntimeError(str(error))


@mutant("whose errors name no file")
def errors_unnamed() -> None:
    from fastcas.dir.root import Root

    Root.named = lambda self, error, *name: OSError(error.errno, error.strerror)


@mutant("whose put_blobs forgets what failed")
def failures_of_put_blobs_forgotten() -> None:
    from fastcas.dir.batch import Batch

    Batch._fail = lambda self, number, source, error: None


@mutant("that forgets what got no name at a durability point")
def lost_forgotten() -> None:
    from fastcas.dir.pending import Pending

    lose = Pending._lose

    def forget(self, one, error):
        lose(self, one, error)
        self._lost.clear()

    Pending._lose = forget


@mutant("that writes the index in its place")
def index_in_place() -> None:
    from fastcas.dir.index import IndexFile
    from fastcas.dir.root import write_all

    def write(self, raw, only_if=None):
        self._pending.sync()
        with open(self._root.join("index.json"), "wb", buffering=0) as file:
            write_all(file.fileno(), raw)
        return True

    IndexFile._write = write


@mutant("that leaves half of a layout that couldn't be made")
def half_layouts_kept() -> None:
    from fastcas.dir import root

    root._remove_new_layout = lambda fd, path: None


@mutant("that fails where checksums for quick scrub can't be kept")
def checksums_required() -> None:
    from fastcas.dir import checksums

    checksums.OSError = ZeroDivisionError


# ---- containment


def _open_by(look: Callable[[int, str], None]) -> None:
    """Names are opened as they are, but for a link at their end, after a look at them."""
    from fastcas.dir import root

    def opening(dirfd, name, flags, mode):
        look(dirfd, name)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=dirfd)

    root.HAVE_OPENAT2 = False
    root._open_beneath = opening


@mutant("that opens with O_NOFOLLOW, which guards the last component only")
def links_of_leaves_refused() -> None:
    _open_by(lambda dirfd, name: None)


@mutant("that looks for links, then opens")
def looked_then_opened() -> None:
    def look(dirfd, name):
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat("/".join(parts[:count]), dir_fd=dirfd, follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    _open_by(look)


@mutant("that takes any string for a digest")
def digests_unchecked() -> None:
    from fastcas import Digest

    Digest.__new__ = str.__new__


@mutant("that marks a stored blob as used though it has a second name")
def second_names_taken() -> None:
    from fastcas.dir import ingest

    def fstat(fd):
        facts = os.fstat(fd)
        return os.stat_result((*facts[:3], 1, *facts[4:10]))

    ingest.os = SimpleNamespace(**{**vars(os), "fstat": fstat})


@mutant("that leaves files of root's in a user's layout")
def owner_ignored() -> None:
    from fastcas.dir.root import Root

    Root.owner = property(lambda self: None, lambda self, value: None)
