"""The cases that need a full or read-only filesystem, a second user, or root.

Mounts are made in a namespace of a child's own: as root, or as a normal user who is root in a user
namespace.  What only bites a normal user runs, where the tests are run by root, as a second user.
"""

from __future__ import annotations

import errno
import gc
import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import fastcas
from conformance import descriptor_of, digest_of, noise
from test_cases import DEAD_TEMP, blob_path, foreign_layout, make_dead, own_names, plant, tree

pytestmark = pytest.mark.timeout(120)

NOBODY = 65534


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


def without_tmpfile():
    import fastcas.dir.temp

    fastcas.dir.temp.HAVE_O_TMPFILE = False


def refused(call, *errnos):
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno in errnos, repr(caught.value)
    return caught.value


# ---- 11: a full disk ----


def full_disk(place, named, durability):
    if named:
        without_tmpfile()
    place = Path(place)
    mount("-t", "tmpfs", "-o", "size=1m,mode=755", "none", place)
    with fastcas.create(place / "image", durability=durability) as cas:
        old, _ = cas.put_blob(noise(300_000))
        cas.update_reference("v1", descriptor_of())
        before = (place / "image" / "index.json").read_bytes()
        descriptors = len(os.listdir("/proc/self/fd"))
        large = Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") / f"fastcas-{os.getpid()}"
        large.write_bytes(noise(2 << 20))
        sources = (noise(5 << 20), iter([noise(1 << 18)] * 20), large)
        for source in sources:
            error = refused(lambda source=source: cas.put_blob(source), errno.ENOSPC)
            assert type(error) is OSError, "an OSError of the system stays one"
            assert own_names(place / "image") == set()
        large.unlink()
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert list(cas) == [old]
        assert cas.read_blob(old) == noise(300_000)
        large = fastcas.Index(tuple(descriptor_of(annotations={"k": "x" * 1000}) for _ in range(3000)))
        refused(lambda: cas.put_index(large), errno.ENOSPC)
        refused(lambda: cas.update_index(lambda index: large), errno.ENOSPC)
        assert (place / "image" / "index.json").read_bytes() == before
        assert own_names(place / "image") == set()
        # Freed, it works again.
        cas.delete_blob(old)
        new, _ = cas.put_blob(noise(400_000, 2))
        assert cas.read_blob(new) == noise(400_000, 2)
        cas.update_reference("v2", descriptor_of())
        assert list(cas.list_references()) == ["v1", "v2"]
    return "done"


@pytest.mark.parametrize("durability", ["full", "none"])
@pytest.mark.parametrize("named", [False, True], ids=["tmpfile", "named"])
def test_case_11_full_disk(with_mounts, shared_path, named, durability):
    assert with_mounts(full_disk, shared_path, named, durability) == "done"


def no_inodes(place):
    place = Path(place)
    mount("-t", "tmpfs", "-o", "size=1m,nr_inodes=12,mode=755", "none", place)
    with fastcas.create(place / "image", durability="none") as cas:
        stored = []
        for number in range(30):
            with suppress(OSError):
                stored.append(cas.put_blob(bytes([number])).digest)
        refused(lambda: cas.put_blob(b"one too many"), errno.ENOSPC)
        assert set(cas) == set(stored)
        assert own_names(place / "image") == set()
        for digest in list(cas):
            cas.delete_blob(digest)
        cas.put_blob(b"one too many")
    return "done"


def test_case_11_no_inodes(with_mounts, shared_path):
    assert with_mounts(no_inodes, shared_path) == "done"


def file_size_limit(place):
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    place = Path(place)
    with fastcas.create(place / "image", durability="none") as cas:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
        refused(lambda: cas.put_blob(noise(200_000)), errno.EFBIG)
        refused(lambda: cas.put_blob(iter([noise(50_000)] * 4)), errno.EFBIG)
        assert list(cas) == []
        assert own_names(place / "image") == set()
        cas.put_blob(noise(90_000))
    return "done"


def test_case_11_file_size_limit(spawn, tmp_path):
    assert spawn(file_size_limit, tmp_path).result() == "done"


def descriptor_limit(place):
    import resource

    place = Path(place)
    with fastcas.create(place / "image", durability="none") as cas:
        digest, _ = cas.put_blob(noise(100_000))
        cas.update_reference("v1", descriptor_of())
        with cas.get_blob(digest) as reader:
            reader.read()
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        for spare in range(4):
            held = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit + spare, hard))
            with suppress(OSError):
                while len(held) < 100:
                    held.append(os.open("/", os.O_RDONLY))
            for _ in range(min(spare, len(held))):
                os.close(held.pop())
            before = len(held)
            for call in (
                lambda: cas.put_blob(b"more"),
                lambda: cas.get_blob(digest).close(),
                lambda: cas.update_reference("v2", descriptor_of()),
                lambda: list(cas),
                cas.clean,
            ):
                raised = None
                try:
                    call()
                except OSError as error:
                    raised = error
                assert raised is None or raised.errno == errno.EMFILE, repr(raised)
                del raised
            gc.collect()
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit + 200, hard))
            for fd in held:
                os.close(fd)
            assert len(held) == before
            assert cas.read_blob(digest) == noise(100_000)
            assert own_names(place / "image") == set()
        left = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            cas.put_blob(b"again")
            cas.update_reference("v3", descriptor_of())
        assert len(os.listdir("/proc/self/fd")) == left
    return "done"


def test_case_11_too_many_open_files(spawn, tmp_path):
    assert spawn(descriptor_limit, tmp_path).result() == "done"


# ---- 20, 21: a normal user ----


def unreadable_directory(place):
    layout = Path(place) / "image"
    with fastcas.create(layout, durability="none") as cas:
        digest, _ = cas.put_blob(b"x")
        folder = layout / "blobs" / "sha256"
        folder.chmod(0)
        try:
            for call in (
                lambda: list(cas),
                lambda: len(cas),
                lambda: cas.get_blob(digest),
                lambda: cas.stat_blob(digest),
                lambda: cas.put_blob(b"y"),
                lambda: cas.delete_blob(digest),
                lambda: digest in cas,
            ):
                error = refused(call, errno.EACCES)
                assert isinstance(error, PermissionError)
                assert error.filename is not None
            assert own_names(layout) == set()
        finally:
            folder.chmod(0o755)
        (layout / "blobs").chmod(0o311)
        try:
            refused(lambda: list(cas), errno.EACCES)
        finally:
            (layout / "blobs").chmod(0o755)
        assert list(cas) == [digest]
    return "done"


def test_case_20_unreadable_directory(as_normal_user, shared_path):
    assert as_normal_user(unreadable_directory, shared_path) == "done"


def unreadable_files(place):
    layout = Path(place) / "image"
    with fastcas.create(layout, durability="none") as cas:
        digest, _ = cas.put_blob(b"x")
        blob_path(layout, digest).chmod(0)
        for call in (lambda: cas.get_blob(digest), lambda: cas.read_blob(digest)):
            assert isinstance(refused(call, errno.EACCES), PermissionError)
        assert cas.stat_blob(digest).size == 1
        assert digest in cas
        assert list(cas) == [digest]
        (layout / "index.json").chmod(0)
        refused(cas.get_index, errno.EACCES)
        refused(lambda: cas.update_reference("v1", descriptor_of()), errno.EACCES)
        (layout / "oci-layout").chmod(0)
        refused(lambda: fastcas.open(layout), errno.EACCES)
    layout.chmod(0)
    refused(lambda: fastcas.open(layout), errno.EACCES)
    layout.chmod(0o755)
    return "done"


def test_case_21_files_of_mode_000(as_normal_user, shared_path):
    assert as_normal_user(unreadable_files, shared_path) == "done"


def reader_without_rights(place):
    """Somebody who may only read: writes fail clearly and reading leaves no trace."""
    layout, content = Path(place), noise(70_000)
    before = tree(layout)
    with fastcas.open(layout) as cas:
        assert list(cas) == [digest_of(content)]
        assert cas.read_blob(digest_of(content)) == content
        assert list(cas.list_references()) == []
        for call in (
            lambda: cas.put_blob(b"new"),
            lambda: cas.put_blob(content),
            lambda: cas.delete_blob(digest_of(content)),
            lambda: cas.put_index(cas.get_index()),
            lambda: cas.update_reference("v1", descriptor_of()),
            lambda: cas.put_blob(b"new", algorithm="sha512"),
        ):
            refused(call, errno.EACCES, errno.EPERM)
    refused(lambda: fastcas.create(layout / "inner"), errno.EACCES)
    assert tree(layout) == before
    return "done"


def test_case_22_a_user_who_may_only_read(as_normal_user, shared_path):
    layout = foreign_layout(shared_path / "image")
    plant(layout, digest_of(noise(70_000)), noise(70_000))
    for path in [*layout.rglob("*"), layout]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert as_normal_user(reader_without_rights, layout) == "done"


# ---- 22: a read-only mount ----


def read_only_mount(place, fresh, drop):
    """`fresh`: made by another program and never written by us, so there is no lock file."""
    layout, content = Path(place) / "image", noise(70_000)
    if fresh:
        foreign_layout(layout)
        plant(layout, digest_of(content), content)
    else:
        with fastcas.create(layout) as cas:
            cas.put_blob(content)
            make_dead(layout / DEAD_TEMP)
    writable = fastcas.open(layout)
    mount("--bind", layout, layout)
    mount("-o", "remount,ro,bind", layout)
    if drop:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    before = tree(layout)
    for durability in ("full", "batch", "none"):
        with fastcas.open(layout, durability=durability) as cas:
            assert list(cas) == [digest_of(content)]
            assert cas.read_blob(digest_of(content)) == content
            assert cas.stat_blob(digest_of(content)).size == 70_000
            assert list(cas.get_index().manifests) == []
            assert list(cas.list_references()) == []
            assert digest_of(b"no") not in cas
            cas.sync()
            for call in (
                lambda: cas.put_blob(b"new"),
                lambda: cas.put_blob(content),  # umoci 1: stored already, and refused all the same
                lambda: cas.put_blob(iter([content]), verify_existing=True),
                lambda: cas.put_blobs([content]),
                lambda: cas.delete_blob(digest_of(content)),
                lambda: cas.put_index(cas.get_index()),
                lambda: cas.update_index(lambda index: index.replace(manifests=(descriptor_of(),))),
                lambda: cas.update_reference("v1", descriptor_of()),
            ):
                refused(call, errno.EROFS)
            if not fresh:
                refused(cas.clean, errno.EROFS)
        assert tree(layout) == before
    writable.close()
    return "done"


@pytest.mark.parametrize("fresh", [False, True], ids=["ours", "foreign"])
def test_case_22_read_only_mount(with_mounts, shared_path, fresh):
    assert with_mounts(read_only_mount, shared_path, fresh, False) == "done"


def test_case_22_read_only_mount_as_a_normal_user(with_mounts, shared_path):
    if os.geteuid() != 0:
        pytest.skip("the test above ran as one already")
    assert with_mounts(read_only_mount, shared_path, True, True) == "done"


def test_umoci_1_stored_blob_on_a_read_only_layout(with_mounts, shared_path):
    assert with_mounts(read_only_mount, shared_path, False, False) == "done"


def turns_read_only(place):
    """umoci 2: the mount becomes read-only while the process runs."""
    layout = Path(place) / "image"
    mount("-t", "tmpfs", "none", place)
    with fastcas.create(layout) as cas:
        digest, _ = cas.put_blob(b"x")
    mount("-o", "remount,bind,ro", place)
    with fastcas.open(layout) as cas:
        assert cas.read_blob(digest) == b"x"
        refused(lambda: cas.put_blob(b"x"), errno.EROFS)
        refused(lambda: cas.put_blob(b"y"), errno.EROFS)
        refused(lambda: cas.delete_blob(digest), errno.EROFS)
        refused(lambda: cas.put_index(cas.get_index()), errno.EROFS)
    mount("-o", "remount,bind,rw", place)
    with fastcas.open(layout) as cas:
        cas.put_blob(b"y")
        assert len(cas) == 2
    return "done"


def test_umoci_2_mount_becomes_read_only(with_mounts, shared_path):
    assert with_mounts(turns_read_only, shared_path) == "done"


# ---- 54 and umoci 6: owners ----


def second_reader(place, digest):
    with fastcas.open(place) as cas:
        return cas.read_blob(digest).decode(), list(cas.list_references())


def test_case_54_others_can_read(as_normal_user, shared_path):
    old = os.umask(0o022)
    try:
        with fastcas.create(shared_path / "image") as cas:
            digest, _ = cas.put_blob(b"for everyone")
            cas.update_reference("v1", descriptor_of())
    finally:
        os.umask(old)
    answer = as_normal_user(second_reader, shared_path / "image", digest)
    assert list(answer) == ["for everyone", ["v1"]]


@pytest.mark.parametrize("named", [False, True], ids=["tmpfile", "named"])
def test_umoci_6_root_gives_everything_to_the_layouts_owner(tmp_path, monkeypatch, named):
    if named:
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    # Whoever isn't root can only own what he makes: then the owner is he himself.
    owner = (1234, 4321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    layout = foreign_layout(tmp_path / "image")
    shutil.rmtree(layout / "blobs" / "sha256")
    for path in [layout, *layout.rglob("*")]:
        os.chown(path, *owner)
    outside = tmp_path / "outside"
    outside.write_bytes(b"linked")
    (layout / "blobs" / "sha256").mkdir()
    os.link(outside, blob_path(layout, digest_of(b"linked")))
    os.chown(layout / "blobs" / "sha256", *owner)
    before = outside.stat()
    with fastcas.open(layout) as cas:
        cas.put_blob(b"one")
        cas.put_blob(b"two", algorithm="sha512")
        cas.put_blob(iter([noise(3 << 20)]))
        cas.put_blob(b"linked")
        cas.update_reference("v1", descriptor_of())
        cas.put_index(cas.get_index())
    for path in [layout, *layout.rglob("*")]:
        if not path.samefile(outside):
            assert (path.stat().st_uid, path.stat().st_gid) == owner, path
    after = outside.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )


def owner_of_layout_can_go_on(place):
    with fastcas.open(place) as cas:
        cas.put_blob(b"mine", algorithm="sha512")
        cas.put_blob(b"roots")
        cas.update_reference("v2", descriptor_of())
        cas.clean()
        cas.delete_blob(digest_of(b"roots"))
        return sorted(cas.list_references())


def test_umoci_6_owner_goes_on_after_root(as_normal_user, shared_path):
    layout = foreign_layout(shared_path / "image")
    if os.geteuid() == 0:
        for path in [layout, *layout.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    with fastcas.open(layout) as cas:
        cas.put_blob(b"roots")
        cas.put_blob(b"other", algorithm="sha512")
        cas.update_reference("v1", descriptor_of())
        cas.clean()
    assert as_normal_user(owner_of_layout_can_go_on, layout) == ["v1", "v2"]


# ---- 21: devices ----


def device_as_a_blob(place):
    layout = Path(place) / "image"
    foreign_layout(layout)
    digest = digest_of(b"device")
    path = blob_path(layout, digest)
    if Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    else:
        path.write_bytes(b"")
        mount("--bind", "/dev/zero", path)
    # What is mounted over a file shows only to who looks at it, and a listing doesn't.
    listed = [digest] if os.path.ismount(path) else []
    with fastcas.open(layout, durability="none") as cas:
        for method in (cas.get_blob, cas.stat_blob, cas.read_blob):
            with pytest.raises(fastcas.InvalidError) as caught:
                method(digest)
            assert caught.value.digest == digest
        assert digest not in cas
        assert list(cas) == listed
        with suppress(fastcas.InvalidError, OSError):
            cas.put_blob(b"device")
        assert own_names(layout) == set()
    return "done"


def test_case_21_device_as_a_blob(with_mounts, shared_path):
    assert with_mounts(device_as_a_blob, shared_path) == "done"


def device_as_index(place, name):
    layout = foreign_layout(Path(place) / "image")
    mount("--bind", "/dev/zero", layout / name)
    try:
        with fastcas.open(layout) as cas:
            cas.get_index()
    except fastcas.InvalidError:
        return "done"
    return "no error"


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_case_21_device_as_a_document(with_mounts, shared_path, name):
    assert with_mounts(device_as_index, shared_path, name) == "done"


# ---- the environment ----


def closed_standard_descriptors(place):
    for fd in range(3):
        os.close(fd)
    with fastcas.create(Path(place) / "image") as cas:
        digest, _ = cas.put_blob(noise(3 << 20))
        cas.update_reference("v1", descriptor_of())
        good = cas.read_blob(digest) == noise(3 << 20)
        good = good and not [fd for fd in range(3) if _points_into(fd, place)]
    # Descriptors 0 to 2 are free again: put something harmless there to print through.
    report = os.open(Path(place) / "report", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(report, b"good" if good else b"bad")
    os._exit(0)


def _points_into(fd, place):
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}").endswith(".json")
    return False


def test_closed_standard_descriptors(spawn, tmp_path):
    child = spawn(closed_standard_descriptors, tmp_path)
    child.process.wait(60)
    assert (tmp_path / "report").read_bytes() == b"good"


def test_no_home_and_no_tmpdir(tmp_path):
    code = "import sys, fastcas\nwith fastcas.create(sys.argv[1]) as cas:\n cas.put_blob(b'x')"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "image"],
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
