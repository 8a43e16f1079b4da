"""The contract on filesystems that lack what the store likes to use; see mounts.py.

As a normal user, and where a program lacks, they are skipped; with CI=true as root that fails.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import time
import traceback
import uuid
from pathlib import Path

import pytest

import conformance
import fastcas
import mounts
from conformance import digest_of, noise
from fastcas.digest import Digest
from images import put_manifest
from test_cases import DEAD_TEMP, blob_path, half_put, own_names, plant, tree
from test_concurrency import add_references, ended, in_fork
from test_conformance import DirStore

OLD = time.time() // 2 * 2 - 7200  # longer ago than gc's grace

#: The sources that a disk may stand behind.
SOURCES = ("bytes", "path", "file-consumed", "pipe", "generator")

#: Checks that collect what was put a moment ago; see test_gc_by_whole_seconds.
WITHOUT_GRACE = {"gc", "gc_policies", "gc_fails_closed", "sweep"}

STORES = [
    ("overlay", "full"),
    ("overlay-of-two", "batch"),
    ("bindfs", "full"),
    ("bindfs", "batch"),
    ("exfat", "full"),
    ("exfat", "none"),
]


@pytest.fixture
def on(with_mounts, shared_path):
    """Calls a function with a filesystem's name and an empty directory, where it may be mounted."""

    def call(function, name, *arguments):
        if why := mounts.missing(name):
            if os.geteuid() == 0 and os.environ.get("CI"):
                pytest.fail(f"{name}: {why}")
            pytest.skip(f"{name}: {why}")
        return with_mounts(function, name, shared_path, *arguments)

    return call


class MountedStore(DirStore):
    """The layout is there; sources, which may be pipes or links, are elsewhere."""

    def __init__(self, disk, durability, elsewhere):
        super().__init__(elsewhere, durability)
        self.layout = disk / "image"

    def plant(self, digest, content):
        temporary = self.layout.parent / uuid.uuid4().hex
        temporary.write_bytes(content)
        temporary.replace(blob_path(self.layout, Digest(digest)))


def conform(name, place, durability):
    """What of the contract isn't kept, with a traceback."""
    broken = {}
    checks = dict(conformance.CHECKS)
    for check in WITHOUT_GRACE if name == "exfat" else ():
        del checks[check]
    for kind in SOURCES:
        checks[f"source {kind}"] = lambda store, kind=kind: conformance.check_source(store, kind)
    with mounts.mounted(name, place) as disk:
        for check, function in checks.items():
            elsewhere = Path(place, "elsewhere")
            store = MountedStore(disk, durability, elsewhere)
            try:
                function(store)
                assert own_names(store.layout) == set()
            except (Exception, pytest.fail.Exception):
                broken[check] = traceback.format_exc()
            gc.collect()  # what a traceback keeps open of what was expected to fail
            shutil.rmtree(store.layout, ignore_errors=True)
            shutil.rmtree(elsewhere, ignore_errors=True)
    return broken


@pytest.mark.parametrize(("name", "durability"), STORES)
def test_conformance(on, name, durability):
    broken = on(conform, name, durability)
    assert not broken, "\n\n".join(f"{check}: {text}" for check, text in broken.items())


def lacks(name, place):
    """Whether the filesystem is what the test takes it for."""
    found = set()
    with mounts.mounted(name, place) as disk:
        try:
            fastcas.create(disk / "image", durability="syncfs").close()
        except fastcas.UnsupportedError:
            found.add("syncfs")
        (disk / "a").write_bytes(b"")
        try:
            os.close(os.open(disk, os.O_TMPFILE | os.O_RDWR, 0o600))
        except OSError:
            found.add("O_TMPFILE")
        try:
            os.link(disk / "a", disk / "b")
        except OSError:
            found.add("hard links")
        if (disk / "A").exists():
            found.add("case")
        (disk / "a").chmod(0o444)
        if (disk / "a").stat().st_mode & 0o777 != 0o444:
            found.add("modes")
    return sorted(found)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("overlay", {"syncfs"}),
        ("overlay-of-two", {"syncfs"}),
        ("bindfs", {"O_TMPFILE", "syncfs"}),
        ("exfat", {"O_TMPFILE", "case", "hard links", "modes", "syncfs"}),
    ],
)
def test_what_they_lack(on, name, wanted):
    """At least; an older kernel's overlay lacks O_TMPFILE too."""
    assert wanted <= set(on(lacks, name))


def layout_below(name, place):
    """A layout in what is below an overlay: used, changed and collected; itself it stays as it was."""
    contents = [noise(size, size) for size in (10, 70_000, 3 << 20)]
    unused, damaged, lost = noise(80_000, 7), noise(5_000, 8), noise(90_000, 9)

    def prepare(lower):
        with fastcas.create(lower / "image") as cas:
            cas.update_reference("old", put_manifest(cas, "old"))
            for content in (*contents, unused, damaged, lost):
                cas.put_blob(content)
        for content in (damaged, lost):
            plant(lower / "image", digest_of(content), b"x" * len(content))
        for blob in (lower / "image/blobs/sha256").iterdir():
            os.utime(blob, (OLD, OLD))
        (lower / "image" / DEAD_TEMP).write_bytes(b"")

    with mounts.mounted(name, place, prepare) as disk:
        lower, layout = Path(place, "lower"), disk / "image"
        before = tree(lower)
        with fastcas.open(layout) as cas:
            assert len(cas) == 9
            with cas.get_blob(digest_of(contents[2])) as blob:
                head = blob.read(1 << 20)
                start = time.time()
                for content in contents:  # found, and marked as used, which copies them up
                    assert cas.put_blob(content).digest == digest_of(content)
                    assert blob_path(layout, digest_of(content)).stat().st_mtime > start - 1
                assert head + blob.read() == contents[2]
                assert blob.verified
            assert cas.clean() == [DEAD_TEMP]
            assert cas.put_blob(damaged).digest == digest_of(damaged)
            report = cas.scrub(quarantine=disk / "quarantine")
            assert [problem.digest for problem in report.problems] == [digest_of(lost)]
            assert cas.scrub().problems == []
            cas.update_reference("new", put_manifest(cas, "new"))
            assert list(cas.list_references()) == ["old", "new"]
            assert [blob.digest for blob in cas.gc().deleted] == [digest_of(unused)]
            assert digest_of(unused) not in set(cas)
            cas.put_blob(unused)  # where a whiteout stands now
            assert cas.read_blob(digest_of(unused)) == unused
            cas.delete_reference("old")
            cas.put_blobs([*contents, lost])
            assert cas.scrub().problems == []
            assert own_names(layout) == set()
        assert tree(lower) == before
    return "done"


@pytest.mark.parametrize("name", ["overlay", "overlay-of-two"])
def test_a_layout_below_an_overlay(on, name):
    assert on(layout_below, name) == "done"


def writers(name, place):
    """Beside each other, and killed. Returns what a living and a killed one had in the layout."""
    with mounts.mounted(name, place) as disk:
        layout = disk / "image"

        def add(worker):
            add_references(layout, worker, 20)

        def dies():
            yield noise(50_000)
            os.kill(os.getpid(), signal.SIGKILL)

        with fastcas.create(layout) as cas, fastcas.open(layout) as other:
            with half_put(cas, noise(200_000)):
                live = own_names(layout)
                assert other.clean() == []
                assert own_names(layout) == live
            pid = in_fork(lambda: other.put_blob(dies()))
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
            left = own_names(layout)
            assert cas.clean() == sorted(left)
            assert own_names(layout) == set()
            children = [in_fork(lambda worker=worker: add(worker)) for worker in range(2)]
            add(2)
            for child in children:
                ended(child)
            assert len(set(cas.list_references())) == 60
            assert list(cas) == [digest_of(noise(200_000))]
    return len(live), len(left)


@pytest.mark.parametrize("name", mounts.FILESYSTEMS)
def test_writers_lock_each_other_out(on, name):
    found = on(writers, name)
    if "overlay" not in name:  # which has O_TMPFILE, if the kernel isn't old
        assert found == [1, 1]


def seconds(name, place):
    """gc where times are in whole seconds, and the change of an inode has none: what is old goes, and
    nothing of the last seconds, even without grace."""
    with mounts.mounted(name, place) as disk:
        with fastcas.create(disk / "image", durability="none") as cas:
            cas.update_reference("v1", put_manifest(cas, "used"))
            used = set(cas)
            old, new = (cas.put_blob(content).digest for content in (b"old", b"new"))
            for digest in (*used, old):
                os.utime(blob_path(disk / "image", digest), (OLD, OLD))
            assert {blob.digest for blob in cas.gc(grace=0).deleted} == {old}
            assert set(cas) == {*used, new}
            cas.put_blob(b"new")
            os.utime(blob_path(disk / "image", new), (OLD, OLD))
            assert [blob.digest for blob in cas.gc().deleted] == [new]
            assert set(cas) == used
    return "done"


def test_gc_by_whole_seconds(on):
    assert on(seconds, "exfat") == "done"


def capitals(name, place):
    """A blob whose file somebody called by its digest in capitals: found, right, and not listed."""
    content = noise(70_000)
    with mounts.mounted(name, place) as disk:
        layout = disk / "image"
        with fastcas.create(layout) as cas:
            digest, _ = cas.put_blob(content)
            path = blob_path(layout, digest)
            path.rename(path.with_name("between"))
            path.with_name("between").rename(path.with_name(path.name.upper()))
            assert cas.read_blob(digest) == content
            assert cas.put_blob(content).digest == digest
            assert list(cas) == []
            assert cas.gc(grace=0).deleted == []
            assert [problem.kind for problem in cas.scrub().problems] == ["bad-name"]
            cas.delete_blob(digest)
            assert digest not in cas
            cas.put_blob(content)
            assert list(cas) == [digest]
            # No hard link, though one was asked for.
            assert cas.copy_blob(digest, disk / "copy", link=True).method != "hardlink"
            assert (disk / "copy").read_bytes() == content
    return "done"


def test_names_that_differ_in_case(on):
    assert on(capitals, "exfat") == "done"
