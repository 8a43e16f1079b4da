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
    """``what`` completes "the store …"; ``shim`` is a name in shim.c; ``patch`` runs in the child;
    ``source`` is (file in native/, what stands there, what stands there instead), for gate K."""

    what: str
    shim: str | None
    patch: Callable[[], None]
    source: tuple[str, str, str] | None = None


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


def environment(name: str | None, *, steps: bool = False, io: str = "") -> dict[str, str]:
    """What a child needs in its environment for that mutant, for stops at steps, and for reads and
    writes under the condition ``io`` (shim.c)."""
    chosen = None if name is None else MUTANTS[name].shim
    if chosen is None and not steps and not io:
        return {}
    return {"LD_PRELOAD": str(shim()), "GATES_SHIM": chosen or "", "GATES_IO": io}


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
    from fastcas.dir.root import Root

    found = False
    sync, claim, put = Root.sync, Ingest.claim, Ingest.put

    def claiming(self, *arguments, **options):
        nonlocal found
        claimed = claim(self, *arguments, **options)
        found = not isinstance(claimed, int)
        return claimed

    def putting(self, *arguments, **options):
        nonlocal found
        found = False
        try:
            return put(self, *arguments, **options)
        finally:
            found = False

    Root.sync = lambda *arguments: None if found else sync(*arguments)
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
    from fastcas.dir import sweep
    from fastcas.results import StoredBlob

    StoredBlob.is_unused = lambda self, start, grace: True
    sweep.is_unused = lambda modified, changed, start, grace: True


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


@mutant("that doesn't compare a file's size with what was written", shim="no-size-check")
def no_size_check() -> None: ...


@mutant("that takes an interrupted call for a failed one", shim="interruptions-are-errors")
def interruptions_are_errors() -> None: ...


@mutant("that takes it that a write writes all")
def one_write() -> None:
    from fastcas.dir import index

    index.write_all = os.write


@mutant("that takes a short read for the end")
def one_read() -> None:
    from fastcas.dir import index

    index.read_all = lambda fd, limit, size: os.read(fd, limit)


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
    from fastcas.files import write_all

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


# ---- the core's C


def in_source(name: str, what: str, file: str, old: str, new: str) -> None:
    MUTANTS[name] = Mutant(what, None, lambda: None, (file, old, new))


in_source(
    "slot-end",
    "whose slots end a byte too late",
    "sink.c",
    "*size = sink->lane.slot_size - sink->fill;",
    "*size = sink->lane.slot_size - sink->fill + 1;",
)
in_source(
    "read-beyond",
    "that hashes whole blocks beyond a piece's end",
    "lanes.c",
    "return stream->left / FC_SHA256_BLOCK;",
    "return (stream->left + 63) / FC_SHA256_BLOCK;",
)
in_source(
    "used-after-free",
    "that frees its workers, then closes them",
    "many.c",
    "    for (int i = 0; many->workers && i <= threads; i++)\n",
    "    free(many->workers);\n    for (int i = 0; many->workers && i <= threads; i++)\n",
)
in_source(
    "lane-too-many",
    "that closes a lane more than there are",
    "many.c",
    "for (int lane = 0; lane < FC_LANES_MAX; lane++) {",
    "for (int lane = 0; lane <= FC_LANES_MAX; lane++) {",
)
in_source(
    "hex-end",
    "that ends a digest's digits a byte too late",
    "small.c",
    "name[2 * size] = 0;",
    "name[2 * size + 1] = 0;",
)
in_source(
    "ring-without-lock",
    "whose caller queues pieces without the lock",
    "ring.c",
    """    pthread_mutex_lock(&ring->mutex);
    ring->piece[ring->head % FC_SLOTS].data = data;
    ring->piece[ring->head % FC_SLOTS].size = size;
    __atomic_store_n(&ring->head, ring->head + 1, __ATOMIC_RELEASE);
    pthread_cond_signal(&ring->queued);
    pthread_mutex_unlock(&ring->mutex);
""",
    """    ring->head++;
    ring->piece[(ring->head - 1) % FC_SLOTS].data = data;
    ring->piece[(ring->head - 1) % FC_SLOTS].size = size;
    pthread_cond_signal(&ring->queued);
""",
)
in_source(
    "slot-taken-early",
    "that takes a slot which is being hashed",
    "ring.c",
    ">= FC_SLOTS)",
    "> FC_SLOTS)",
)
in_source(
    "items-without-lock",
    "whose two threads take blobs without a lock",
    "store.c",
    """    pthread_mutex_lock(&store->mutex);
    while (store->next < store->count && store->next > store->failed)
        store->items[store->next++].status = FC_EUNBEGUN;
    if (store->next < store->count && (store->count - store->next > FEW || is_single(store, seat) ||
                                       seat->active <= other_of(store, seat)->active)) {
        item = &store->items[store->next++];
        seat->active++;
    }
    pthread_mutex_unlock(&store->mutex);
""",
    """    if (store->next < store->count) {
        item = &store->items[store->next++];
        seat->active++;
    }
""",
)
in_source(
    "next-not-atomic",
    "whose threads count what they took in a plain variable",
    "many.c",
    "number = __atomic_fetch_add(&many->next, 1, __ATOMIC_RELAXED);",
    "number = many->next++;",
)


# ---- interruptions


@mutant("that doesn't end a lock when it is interrupted")
def lock_kept() -> None:
    from fastcas.dir import lock

    kept = []
    end = lock._Holder.__exit__

    def leave(self, *error):
        if error and error[0] is not None:
            kept.append(self.file)
            return
        end(self, *error)

    lock._Holder.__exit__ = leave
    lock._Holder.__del__ = lambda self: None


# ---- long files


@mutant("that counts what it writes in 32 bits", shim="offsets-of-32-bits")
def offsets_of_32_bits() -> None: ...


# ---- caps


@mutant("that parses documents of any size")
def no_caps() -> None:
    from fastcas import model

    model.INDEX_LIMIT = model.DOCUMENT_LIMIT = 1 << 40
    model.Index._limit = 1 << 40


@mutant("whose walk goes every way to a document")
def every_way_walked() -> None:
    from fastcas.image import walk

    walk.set = type("Forgetful", (set,), {"add": lambda self, item: None})


# ---- reads


class _Careless:
    """Reads as ``_core.Reader``, and compares nothing before it hands out the end.

    ``looks``: it does after that.
    """

    looks = False

    def __init__(self, fd: int, algorithm: str, size: int, expected: bytes) -> None:
        self._fd, self._size, self._expected = fd, size, expected
        self._state = hashlib.new(algorithm)
        self._position = 0
        self.verified = False

    def read(self, wanted: int = -1) -> bytes:
        left = self._size - self._position
        piece = os.pread(self._fd, left if wanted < 0 else min(wanted, left), self._position)
        self._position += len(piece)
        self._state.update(piece)
        if not piece and self.looks and self._state.digest() != self._expected:
            from fastcas import _core

            raise _core.VerifyError("mismatch", self._state.hexdigest(), self._size)
        self.verified = not piece
        return piece

    def readinto(self, buffer: memoryview) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None: ...


@mutant("that hands out what it reads")
def reads_unverified() -> None:
    from fastcas import _core

    _core.Reader = _Careless
    _core.verify_small = lambda fd, size, *digest: os.pread(fd, size, 0)


@mutant("that hands out the end of a blob, then verifies it")
def end_before_verdict() -> None:
    from fastcas import _core

    _core.Reader = type("_Late", (_Careless,), {"looks": True})


# ---- scrub


@mutant("whose scrub takes what could be read for right")
def digest_ignored() -> None:
    from fastcas.dir.check import Check

    run = Check._run

    def right(self, digests, algorithm, **options):
        for digest, (encoded, *rest) in run(self, digests, algorithm, **options):
            yield digest, (digest.encoded if options else encoded, *rest)

    Check._run = right


@mutant("whose scrub compares sizes")
def scrub_by_size() -> None:
    from fastcas.dir.check import Check
    from fastcas.image import scrub

    sizes: dict[str, int] = {}
    verify = scrub._verify

    def by_size(engine, blob, done, count):
        if sizes.setdefault(blob.digest, blob.size) == blob.size:
            return scrub.Verdict(blob, "good", "")
        return verify(engine, blob, done, count)

    scrub._verify = by_size
    Check.run = lambda self, digests, *, quick: iter([""] * len(digests))


@mutant("whose quick scrub takes what has a recorded checksum for right")
def checksum_believed() -> None:
    from fastcas.dir.check import Check

    def compare(self, digests, records, means):
        means.update((digest, "checksum") for digest in digests)

    Check._compare = compare


@mutant("whose quick scrub doesn't digest what has another checksum than the recorded one")
def checksum_damns() -> None:
    from fastcas.image import scrub

    verify = scrub._verify

    def damn(engine, blob, done, count):
        verdict = verify(engine, blob, done, count)
        return verdict._replace(state="corrupt") if verdict.state == "good" else verdict

    from fastcas.dir.check import Check

    digest = Check._digest
    Check._digest = lambda self, digests, records, means: digest(
        self, [d for d in digests if d not in records], records, means
    )
    scrub._verify = damn


@mutant("whose scrub passes over what it can't read")
def scrub_errors_swallowed() -> None:
    from fastcas.image import scrub

    verify = scrub._verify

    def swallow(*arguments):
        verdict = verify(*arguments)
        return verdict._replace(state="gone") if verdict.state == "unreadable" else verdict

    scrub._verify = swallow


# ---- parsers


@mutant("that reads documents of any size")
def size_cap_removed() -> None:
    from fastcas import jsonstyle

    check = jsonstyle.check_bytes
    jsonstyle.check_bytes = lambda raw, *, limit, what: check(raw, limit=1 << 62, what=what)


@mutant("that reads documents of any depth")
def depth_cap_removed() -> None:
    from fastcas import jsonstyle

    jsonstyle._check_depth = lambda raw, what: None


@mutant("that decompresses without a limit")
def output_cap_removed() -> None:
    from fastcas.image.decompress import PlainReader

    real = PlainReader.__init__
    PlainReader.__init__ = lambda self, reader, compression, diff_id, limit, ratio: real(
        self, reader, compression, diff_id, 1 << 62, 1 << 62
    )


@mutant("that takes the last of equal keys")
def duplicate_keys_accepted() -> None:
    from fastcas import jsonstyle

    jsonstyle.has_distinct_keys = lambda raw, keys: True


@mutant("whose parsers raise KeyError for a field that is missing")
def parser_raises_key_error() -> None:
    from fastcas import jsonstyle

    real = jsonstyle._raise_field

    def raising(error, what):
        if "missing" in str(error):
            raise KeyError(what)
        real(error, what)

    jsonstyle._raise_field = raising


@mutant("that lets a RecursionError through")
def recursion_error_raised() -> None:
    from fastcas import jsonstyle

    jsonstyle.decode = lambda decoder, raw, *, what: decoder.decode(raw)


@mutant("that reads archives with names that lead out of them")
def traversal_accepted() -> None:
    from fastcas.image import tar

    tar._check_name = lambda name, what, is_file: name


# ---- what an engine remembers


@mutant("that loses a change of the index now and then")
def index_update_lost() -> None:
    from fastcas.dir.index import IndexFile

    write = IndexFile._write
    count = iter(range(1 << 30))
    IndexFile._write = lambda self, *arguments: next(count) % 4 == 3 or write(self, *arguments)


@mutant("whose gc forgets an entry of the index")
def gc_forgets_an_entry() -> None:
    from fastcas.image import gc

    roots = gc._roots
    gc._roots = lambda index: roots(index)[1:]


@mutant("that takes a stored blob as it is, damaged or not")
def damaged_accepted() -> None:
    from fastcas.dir.ingest import Ingest

    Ingest._judge = lambda self, fd, *_: fd


@mutant("that names a blob before its durability point")
def waiting_is_visible() -> None:
    from fastcas.dir.pending import Pending

    add = Pending.add

    def named(self, *arguments):
        add(self, *arguments)
        self.settle()

    Pending.add = named


@mutant("that publishes what was deleted while it waited")
def delete_keeps_what_waits() -> None:
    from fastcas.dir.pending import Pending

    Pending.forget = lambda self, digest: None


def _open_by(look: Callable[[int, str], None]) -> None:
    """Names are opened as they are, but for a link at their end, after a look at them."""
    from fastcas import _core
    from fastcas.dir import root

    def opening(dirfd, name, flags, mode):
        look(dirfd, name)
        return _core.File(os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=dirfd))

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
