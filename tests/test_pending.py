"""Durability "batch" and "syncfs": blobs without a name until the durability point."""

import errno
import os
import resource
import threading
import time
from pathlib import Path

import pytest

import fastcas
from conformance import digest_of, noise
from conftest import patch_fsync
from fastcas import Digest, DurabilityError, Index, NotExistError, UnsupportedError
from fastcas.dir import durability, pending, publication, temp
from fastcas.dir.scan import read_file_clock
from preload import build_shim, run_with_shim
from test_cases import blob_path, own_names
from test_concurrency import ended, in_fork

pytestmark = [pytest.mark.timeout(100), pytest.mark.usefixtures("no_fd_leak")]


@pytest.fixture(params=["tmpfile", "named"])
def kind(request, monkeypatch):
    if request.param == "named":
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    return request.param


@pytest.fixture(params=["batch", "syncfs"])
def level(request):
    return request.param


class Core:
    """Stands for _core where blobs are synced and named: what was done, in order, and faults."""

    def __init__(self, monkeypatch):
        self.done = []
        self.statuses = {}  # number of a file among those that are synced → errno
        self.before = {}  # "sync", "synced", "name" or "named" → called once
        for module in (durability, pending, publication):
            monkeypatch.setattr(module, "_core", self, raising=True)
        self.real_fsync = os.fsync
        patch_fsync(monkeypatch, self.fsync)

    def __getattr__(self, name):
        return getattr(fastcas._core, name)

    def meet(self, moment):
        self.before.pop(moment, lambda: None)()

    def fault(self, statuses):
        for number, status in self.statuses.items():
            statuses[number] = status
        self.statuses = {}

    def sync_files(self, fds, statuses):
        self.done.append(("sync", len(fds)))
        self.meet("sync")
        fastcas._core.sync_files(fds, statuses)
        self.fault(statuses)
        self.meet("synced")

    def sync_filesystem(self, fd, fds, statuses):
        self.done.append(("sync", len(statuses)))
        self.meet("sync")
        fastcas._core.sync_filesystem(fd, fds, statuses)
        self.fault(statuses)
        self.meet("synced")

    def name_files(self, fds, directory, names):
        self.done.append(("name", len(fds)))
        self.meet("name")
        statuses = fastcas._core.name_files(fds, directory, names)
        self.meet("named")
        return statuses

    def fsync(self, fd):
        self.done.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
        self.real_fsync(fd)


@pytest.fixture
def core(monkeypatch):
    return Core(monkeypatch)


def on_disk(layout):
    return {f"sha256:{name}" for name in os.listdir(layout / "blobs" / "sha256")}


def interrupt():
    raise KeyboardInterrupt


SMALL, LARGE = b"small", noise(3 << 20)
BOTH = {digest_of(SMALL), digest_of(LARGE)}


def put_both(cas):
    for content in (SMALL, LARGE):
        cas.put_blob(content)


# ---- the order


def test_synced_together_then_named_then_the_directory(layout, core, level):
    with fastcas.create(layout, durability=level) as cas:
        core.done.clear()
        for content in (SMALL, LARGE, bytearray(b"buffer"), iter([b"pieces"]), noise(70_000)):
            cas.put_blob(content)
        assert core.done == []
        assert on_disk(layout) == set()
        cas.sync()
        assert core.done[:3] == [("sync", 5), ("name", 5), ("fsync", "sha256")]
        core.done.clear()
        cas.sync()
        assert core.done == []
        assert len(on_disk(layout)) == 5


def test_an_index_update_that_changes_nothing(layout, core, level):
    """Its blobs may be new all the same: a copy of an image whose entry is there already."""
    with fastcas.create(layout, durability=level) as cas:
        put_both(cas)
        core.done.clear()
        cas.update_index(lambda index: None)
        assert core.done[:3] == [("sync", 2), ("name", 2), ("fsync", "sha256")]
        assert on_disk(layout) == BOTH


@pytest.mark.parametrize("write", ["put_index", "update_index", "update_reference", "close"])
def test_before_any_index_write_and_by_close(layout, core, level, write):
    cas = fastcas.create(layout, durability=level)
    put_both(cas)
    core.done.clear()
    with cas:
        if write == "put_index":
            cas.put_index(Index())
        elif write == "update_index":
            cas.update_index(lambda index: cas.put_blob(b"from within") and index)
        elif write == "update_reference":
            cas.update_reference("v1", fastcas.Descriptor("a/b", digest_of(SMALL), len(SMALL)))
    # The file of the index is synced, and gets its name, after the blobs and their directory.
    assert [what for what, _ in core.done[:2]] == ["sync", "name"]
    assert core.done[2] == ("fsync", "sha256")
    assert on_disk(layout) >= BOTH
    assert own_names(layout) == set()


def test_put_blobs_at_syncfs(layout, core):
    with fastcas.create(layout, durability="syncfs") as cas:
        put_both(cas)
        core.done.clear()
        cas.put_blobs([b"1", b"2", noise(100_000)])
        assert core.done[:3] == [("sync", 2), ("name", 2), ("sync", 3)]
        assert len(on_disk(layout)) == 5
        core.statuses = {0: errno.EIO}
        with pytest.raises(OSError) as caught:
            cas.put_blobs([b"3", b"4"])
        assert caught.value.errno == errno.EIO
        assert len(on_disk(layout)) == 5


# ---- who sees what


def get(cas):
    with cas.get_blob(digest_of(LARGE)) as blob:
        assert blob.read() == LARGE
    assert cas.read_blob(digest_of(SMALL)) == SMALL


def stat(cas):
    assert cas.stat_blob(digest_of(LARGE)) == (digest_of(LARGE), len(LARGE))
    assert digest_of(SMALL) in cas


def copy(cas):
    target = Path(cas.path).with_name("copied")
    cas.copy_blob(digest_of(LARGE), target)
    assert target.read_bytes() == LARGE


def put_copy(cas):
    with fastcas.create(Path(cas.path).with_name("other")) as other:
        for digest in BOTH:
            with cas.get_blob(digest) as blob:
                other.put_copy(blob)
        assert set(other) == BOTH


def put_blobs(cas):
    assert cas.put_blobs([SMALL, LARGE]) == [
        (digest_of(content), len(content)) for content in (SMALL, LARGE)
    ]


def list_(cas):
    assert set(cas.list_blobs()) == BOTH


def length(cas):
    assert len(cas) == 2


def scan(cas):
    assert {one.digest for one in cas.scan_blobs()} == BOTH


def scrub(cas):
    assert cas.scrub().checked == 2


def check(cas):
    assert list(cas.check_blobs([Digest(digest) for digest in BOTH], threads=1)) == ["digest"] * 2


def gc(cas):
    cas.gc(grace=0)
    assert set(cas) == set(), "what was put before is older than its start"


def sweep(cas):
    digests = [one.digest for one in cas.scan_blobs()]
    for content in (SMALL, LARGE):
        cas.delete_blob(digest_of(content))
        cas.put_blob(content)
    start = time.time_ns() + 10**10
    found = cas.sweep_blobs(digests, index=cas.get_index(), start=start, grace=0)
    assert {one.digest for one in found.removed} == BOTH


SEERS = {
    "get": get,
    "stat": stat,
    "list": list_,
    "len": length,
    "scan": scan,
    "check": check,
    "scrub": scrub,
    "copy": copy,
    "put_copy": put_copy,
    "put_blobs": put_blobs,
    "gc": gc,
    "sweep": sweep,
}


@pytest.mark.parametrize("seer", sorted(SEERS))
def test_the_same_engine_sees_them(layout, kind, seer):
    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        SEERS[seer](cas)
    assert own_names(layout) == set()


def test_nobody_else_does_before_the_durability_point(layout, kind):
    with fastcas.create(layout, durability="batch") as cas, fastcas.open(layout) as other:
        put_both(cas)
        assert set(other) == set()
        assert other.clean() == [], "a file that is waited for isn't dead"
        assert cas.clean() == []
        cas.sync()
        assert set(other) == BOTH


def test_delete(layout, kind):
    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        for digest in BOTH:
            cas.delete_blob(digest)
            with pytest.raises(NotExistError):
                cas.stat_blob(digest)
        cas.sync()
        assert set(cas) == set()
        assert own_names(layout) == set()


def test_an_engine_that_is_dropped_publishes_nothing(layout, kind):
    cas = fastcas.create(layout, durability="batch")
    put_both(cas)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del cas
    assert on_disk(layout) == set()
    assert own_names(layout) == set()


# ---- dedupe, and the times that gc goes by


def test_twice(layout, core, kind):
    with fastcas.create(layout, durability="batch") as cas:
        for _ in range(3):
            put_both(cas)
        cas.sync()
        assert ("sync", 2) in core.done
        inodes = {name: blob_path(layout, name).stat().st_ino for name in BOTH}
        core.done.clear()
        for _ in range(3):
            put_both(cas)
        cas.sync()
        # What was found is synced too, once, and the directory.
        assert core.done == [("sync", 2), ("name", 0), ("fsync", "sha256")]
        assert {name: blob_path(layout, name).stat().st_ino for name in BOTH} == inodes


def test_times_count_from_the_name_on_and_from_a_dedupe_hit(layout, kind):
    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        named = read_file_clock()
        cas.sync()
        for digest in BOTH:
            assert blob_path(layout, digest).stat().st_mtime_ns >= named
            os.utime(blob_path(layout, digest), (1, 1))
        for _ in range(2):
            put_both(cas)
            for digest in BOTH:
                assert blob_path(layout, digest).stat().st_mtime > 1
                os.utime(blob_path(layout, digest), (1, 1))


def test_another_writer_is_quicker(layout, kind):
    with fastcas.create(layout, durability="batch") as cas, fastcas.open(layout) as other:
        put_both(cas)
        put_both(other)
        inodes = {name: blob_path(layout, name).stat().st_ino for name in BOTH}
        cas.sync()
        assert {name: blob_path(layout, name).stat().st_ino for name in BOTH} == inodes
        assert own_names(layout) == set()


def test_what_was_found_is_deleted_and_put_again(layout):
    with fastcas.create(layout, durability="batch") as cas, fastcas.open(layout) as other:
        put_both(cas)
        cas.sync()
        put_both(cas)
        for digest in BOTH:
            other.delete_blob(digest)
        put_both(cas)
        cas.sync()
        assert set(other) == BOTH


def test_something_wrong_is_replaced_at_once(layout, core):
    with fastcas.create(layout, durability="batch") as cas:
        path = blob_path(layout, digest_of(SMALL))
        path.write_bytes(b"other")
        cas.put_blob(SMALL)
        assert path.read_bytes() == SMALL
        path = blob_path(layout, digest_of(LARGE))
        path.mkdir()
        with pytest.raises(fastcas.InvalidError, match="directory"):
            cas.put_blob(LARGE)
        path.rmdir()


# ---- too many, threads, forks


def test_the_set_is_bounded(layout, core, monkeypatch, kind):
    monkeypatch.setattr(temp, "MOST_FILES", 4)
    with fastcas.create(layout, durability="batch") as cas:
        core.done.clear()
        for number in range(10):
            cas.put_blob(b"%d" % number)
        named = 4 if kind == "tmpfile" else 0
        assert [one for one in core.done if one[0] != "fsync"] == [("sync", 4), ("name", named)] * 2
        assert len(on_disk(layout)) == 8


def test_few_descriptors(spawn, tmp_path):
    assert spawn(with_few_descriptors, tmp_path).result() == "done"


def with_few_descriptors(place):
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    with fastcas.create(Path(place, "image"), durability="batch") as cas:
        for number in range(200):
            cas.put_blob(b"%d" % number)
            cas.put_blob(bytearray(b"x%d" % number))
        cas.sync()
        taken = []
        try:  # others have most of them
            while True:
                taken.append(os.dup(1))
        except OSError:
            pass
        for fd in taken[-8:]:
            os.close(fd)
        for number in range(200):
            cas.put_blob(b"y%d" % number)
        cas.sync()
        for fd in taken[:-8]:
            os.close(fd)
        assert len(cas) == 600
    return "done"


@pytest.mark.parametrize("content", ["small", "found", "large", "path", "iterable"])
def test_no_descriptor_is_left(spawn, tmp_path, content):
    assert spawn(with_no_descriptor, tmp_path, content).result() == 6


def with_no_descriptor(place, content):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    source = Path(place, "source")
    source.write_bytes(LARGE)
    with fastcas.create(Path(place, "image"), durability="batch") as cas:
        cas.put_blob(b"found")
        cas.sync()
        for number in range(3):
            cas.put_blob(b"%d" % number)
        taken = []
        try:
            while True:
                taken.append(os.dup(1))
        except OSError:
            pass
        contents = {
            "small": SMALL,
            "found": b"found",
            "large": LARGE,
            "path": source,
            "iterable": iter([LARGE]),
        }
        cas.put_blob(contents[content])
        for fd in taken:
            os.close(fd)
        cas.put_blob(SMALL)
        return len(cas) + (content in ("small", "found"))


def test_threads_put_into_one_engine(layout, monkeypatch, kind):
    monkeypatch.setattr(temp, "MOST_FILES", 8)
    failures = []

    def put(first):
        try:
            for number in range(first, first + 60):
                content = b"%d" % number
                digest = cas.put_blob(content if number % 3 else bytearray(content)).digest
                if number % 7 == 0:
                    assert cas.read_blob(digest) == content
                if number % 11 == 0:
                    cas.sync()
                    assert digest in on_disk(layout)
                if number % 13 == 0:
                    cas.update_reference(f"r{number}", fastcas.Descriptor("a/b", digest, len(content)))
        except BaseException as error:
            failures.append(error)

    with fastcas.create(layout, durability="batch") as cas:
        threads = [threading.Thread(target=put, args=[30 * number]) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert set(cas) == {digest_of(b"%d" % number) for number in range(180)}
    assert own_names(layout) == set()


def test_a_settle_beside_an_index_update(layout, core, kind):
    """The update has the layout's lock, which the other thread needs to publish what the update
    must not be written before."""
    in_sync, may_go = threading.Event(), threading.Event()

    def stop():
        in_sync.set()
        may_go.wait()

    def update(index):
        other.start()
        in_sync.wait()
        may_go.set()
        time.sleep(0.1)  # the other one comes to where it needs the lock
        cas.put_blob(b"from within")
        return index

    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        core.before["sync"] = stop
        other = threading.Thread(target=cas.sync)
        cas.update_index(update)
        assert len(on_disk(layout)) == 3
        other.join()


def test_a_child_leaves_its_parents_alone(layout, kind):
    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)

        def child():
            with pytest.raises(NotExistError):
                cas.read_blob(digest_of(SMALL))
            assert digest_of(LARGE) not in cas
            cas.delete_blob(digest_of(LARGE))
            cas.put_blob(b"the child's")
            cas.sync()
            assert on_disk(layout) == {digest_of(b"the child's")}
            cas.put_blob(SMALL)
            cas.close()

        ended(in_fork(child))
        assert set(cas) == {digest_of(b"the child's"), *BOTH}
    assert own_names(layout) == set()


def test_a_child_that_only_closes(layout, kind):
    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        ended(in_fork(cas.close))
        assert on_disk(layout) == set()
        cas.sync()
        assert on_disk(layout) == BOTH
    assert own_names(layout) == set()


# ---- interruptions


@pytest.mark.parametrize("moment", ["sync", "synced", "name", "named"])
def test_interrupted(layout, core, level, kind, moment):
    with fastcas.create(layout, durability=level) as cas:
        put_both(cas)
        core.before[moment] = interrupt
        with pytest.raises(KeyboardInterrupt):
            cas.sync()
        assert all(digest in cas for digest in BOTH)
        cas.sync()
        assert on_disk(layout) == BOTH
        assert own_names(layout) == set()


def test_interrupted_between_two_names(layout, monkeypatch):
    """Of a file that has one until it gets the other."""
    monkeypatch.setattr(temp, "HAVE_O_TMPFILE", False)
    real = os.unlink
    calls = []

    def unlink(name, *args, **options):
        if not calls:
            calls.append(name)
            raise KeyboardInterrupt
        real(name, *args, **options)

    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", unlink)
            with pytest.raises(KeyboardInterrupt):
                cas.sync()
        cas.sync()
        assert set(cas) == BOTH
        assert own_names(layout) == set()
        assert {blob_path(layout, digest).stat().st_nlink for digest in BOTH} == {1}


def test_a_failure_that_an_interruption_hides(layout, core):
    """The kernel tells it once: a second fsync would succeed."""
    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        core.statuses = {0: errno.EIO}
        core.before["synced"] = interrupt
        with pytest.raises(KeyboardInterrupt):
            cas.sync()
        with pytest.raises(DurabilityError) as caught:
            cas.sync()
        assert caught.value.lost == (digest_of(SMALL),)
        assert on_disk(layout) == {digest_of(LARGE)}
        cas.put_blob(SMALL)


# ---- failures


def test_a_failed_sync_is_final_until_it_is_put_again(layout, core, kind):
    with fastcas.create(layout, durability="batch") as cas:
        before = cas.get_index().to_json()
        put_both(cas)
        core.statuses = {0: errno.EIO}
        cas.list_blobs()
        for attempt in (
            lambda: cas.put_index(Index()),
            cas.sync,
            lambda: cas.update_reference("v1", fastcas.Descriptor("a/b", digest_of(SMALL), 5)),
        ):
            with pytest.raises(DurabilityError, match=digest_of(SMALL)) as caught:
                attempt()
            assert caught.value.errno == errno.EIO
            assert caught.value.lost == (digest_of(SMALL),)
        assert cas.get_index().to_json() == before
        assert set(cas) == {digest_of(LARGE)}, "the others are stored"
        assert own_names(layout) == set()
        cas.put_blob(SMALL)
        cas.update_reference("v1", fastcas.Descriptor("a/b", digest_of(SMALL), 5))
        assert set(cas) == BOTH


@pytest.mark.parametrize("how", ["delete", "put_blobs", "other"])
def test_what_was_lost_can_be_given_up_or_stored_otherwise(layout, core, how):
    with fastcas.create(layout, durability="batch") as cas, fastcas.open(layout) as other:
        cas.put_blob(SMALL)
        core.statuses = {0: errno.ENOSPC}
        with pytest.raises(DurabilityError, match="No space"):
            cas.sync()
        if how == "delete":
            cas.delete_blob(digest_of(SMALL))
        elif how == "put_blobs":
            cas.put_blobs([SMALL])
        else:
            other.put_blob(SMALL)
            with pytest.raises(DurabilityError):
                cas.sync()
            cas.put_blob(SMALL)
        cas.sync()


def test_close_tells_what_was_lost_and_closes(layout, core):
    cas = fastcas.create(layout, durability="batch")
    put_both(cas)
    core.statuses = {0: errno.EIO, 1: errno.EIO}
    with pytest.raises(DurabilityError) as caught:
        cas.close()
    assert set(caught.value.lost) == BOTH
    assert "and 1 more" in str(caught.value)
    cas.close()
    with pytest.raises(fastcas.ClosedError):
        cas.sync()


def test_at_syncfs_a_failure_is_everyones(layout, core):
    with fastcas.create(layout, durability="syncfs") as cas:
        put_both(cas)
        core.statuses = {0: errno.EIO, 1: errno.EIO}
        with pytest.raises(DurabilityError) as caught:
            cas.sync()
        assert set(caught.value.lost) == BOTH
        assert set(cas) == set()
        put_both(cas)


def test_an_error_that_put_blobs_is_told_is_told_again(layout, core, monkeypatch):
    """The kernel tells it once to each descriptor."""
    told = []

    def sync_filesystem(fd, fds, statuses):
        if fd not in told:
            told.append(fd)
            for number in range(len(statuses)):
                statuses[number] = errno.EIO

    def sources(cas):
        yield iter([b"1"])
        cas.put_blob(SMALL)

    cas = fastcas.create(layout, durability="syncfs")
    monkeypatch.setattr(core, "sync_filesystem", sync_filesystem)
    with pytest.raises(OSError, match="Input/output"):
        cas.put_blobs(sources(cas))
    with pytest.raises(DurabilityError) as caught:
        cas.close()
    assert caught.value.lost == (digest_of(SMALL),)


def test_at_syncfs_each_file_is_asked(tmp_path, layout):
    """Another syncfs, of a thread that settles or of an engine, may have been told of its error."""
    done = run_with_shim(build_shim(tmp_path, FAILING_WAIT), PUT_TWO, layout)
    assert (done.stdout, done.stderr) == (f"{digest_of(SMALL)}\n", "")
    assert on_disk(layout) == {digest_of(LARGE)}


FAILING_WAIT = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int sync_file_range(int fd, off_t offset, off_t size, unsigned flags)
{
    struct stat facts;

    if (flags != SYNC_FILE_RANGE_WAIT_BEFORE || fstat(fd, &facts) || facts.st_size != 5)
        return 0;
    errno = EIO;
    return -1;
}
"""

PUT_TWO = """
import sys

import fastcas

cas = fastcas.create(sys.argv[1], durability="syncfs")
cas.put_blob(b"small")
cas.put_blob(__import__("conformance").noise(3 << 20))
try:
    cas.close()
except fastcas.DurabilityError as error:
    print(*error.lost)
"""


def test_a_name_that_cannot_be_given(layout, kind):
    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        blob_path(layout, digest_of(SMALL)).mkdir()
        with pytest.raises(DurabilityError) as caught:
            cas.sync()
        assert caught.value.lost == (digest_of(SMALL),)
        assert isinstance(caught.value.__cause__, fastcas.InvalidError)
        assert on_disk(layout) == BOTH
        blob_path(layout, digest_of(SMALL)).rmdir()
        cas.put_blob(SMALL)


def test_a_directory_that_is_gone_comes_back(layout):
    with fastcas.create(layout, durability="batch") as cas:
        put_both(cas)
        (layout / "blobs" / "sha256").rmdir()
        cas.sync()
        assert on_disk(layout) == BOTH


def test_a_put_that_ends_after_close(layout, kind):
    cas = fastcas.create(layout, durability="batch")

    def pieces():
        yield b"1"
        cas.close()
        yield b"2"

    with pytest.raises(fastcas.ClosedError):
        cas.put_blob(pieces())
    assert on_disk(layout) == set()
    assert own_names(layout) == set()


def test_a_close_in_the_last_moment_of_a_put(layout, monkeypatch, kind):
    cas = fastcas.create(layout, durability="batch")
    real = pending.Pending._prepare

    def prepare(self):
        real(self)
        cas.close()

    monkeypatch.setattr(pending.Pending, "_prepare", prepare)
    for content in (SMALL, bytearray(SMALL)):
        with pytest.raises(fastcas.ClosedError):
            cas.put_blob(content)
    assert not cas._pending._waiting
    assert on_disk(layout) == set()
    assert own_names(layout) == set()


# ---- where syncfs can't be had


def test_syncfs_is_refused_where_it_tells_nothing(tmp_path, monkeypatch):
    with pytest.raises(UnsupportedError, match="syncfs"):
        fastcas.open("/proc", durability="syncfs")
    old = os.uname_result(("Linux", "n", "5.7.19-arch1", "v", "m"))
    monkeypatch.setattr(os, "uname", lambda: old)
    with pytest.raises(UnsupportedError, match=r"5\.7\.19"):
        fastcas.create(tmp_path / "image", durability="syncfs")
    assert not (tmp_path / "image").exists()
