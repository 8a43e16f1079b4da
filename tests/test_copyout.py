"""Copies to what is no regular file, and where the copy must not appear."""

import errno
import io
import os
import random
import socket
import subprocess
import threading
import time

import pytest

import fastcas
from fastcas.errors import DigestMismatchError

CONTENT = bytes(range(256)) * 9000


@pytest.fixture
def cas(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as engine:
        yield engine


@pytest.mark.parametrize("verify", [False, True])
def test_to_a_fifo_and_a_device(cas, tmp_path, verify):
    digest, size = cas.put_blob(CONTENT)
    assert cas.copy_blob(digest, "/dev/null", verify=verify).size == size
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    cas.copy_blob(digest, fifo, verify=verify)
    reader.join(60)
    assert got == [CONTENT]


def test_damage_leaves_the_destination_as_it_was(cas, tmp_path):
    digest, _ = cas.put_blob(CONTENT)
    path = os.path.join(cas.path, "blobs", *digest.split(":"))
    os.chmod(path, 0o644)
    with open(path, "r+b") as blob:
        blob.write(b"\xff")
    (tmp_path / "out").write_bytes(b"before")
    with pytest.raises(DigestMismatchError):
        cas.copy_blob(digest, tmp_path / "out", verify=True)
    assert (tmp_path / "out").read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["image", "out"]


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_an_error_names_the_destination(cas, tmp_path, verify, link):
    digest, _ = cas.put_blob(CONTENT)
    with pytest.raises(OSError) as caught:
        cas.copy_blob(digest, "/dev/full", verify=verify, link=link)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
    assert str(caught.value).endswith(" device: '/dev/full'")
    nowhere = str(tmp_path / "nowhere" / "out")
    with pytest.raises(FileNotFoundError) as caught:
        cas.copy_blob(digest, nowhere, verify=verify, link=link)
    assert (caught.value.filename, caught.value.filename2) == (nowhere, None)


def test_an_error_of_the_progress_callback_stays_as_it_is(cas, tmp_path):
    digest, _ = cas.put_blob(CONTENT)

    def watch(done, total):
        raise PermissionError(errno.EACCES, "no", "elsewhere")

    with pytest.raises(PermissionError) as caught:
        cas.copy_blob(digest, tmp_path / "out", verify=True, progress=watch)
    assert caught.value.filename == "elsewhere"
    assert os.listdir(tmp_path) == ["image"]


WAYS = [
    lambda cas, digest, path: cas.copy_blob(digest, path),
    lambda cas, digest, path: cas.copy_blob(digest, path, verify=True),
    lambda cas, digest, path: fastcas.export_archive(cas, path),
]


def expected_of(way, cas, digest, path):
    way(cas, digest, path)
    return path.read_bytes()


@pytest.mark.parametrize("verify", [False, True])
def test_a_destination_that_does_not_wait(cas, verify):
    """A terminal or socket that somebody else has made non-blocking."""
    content = random.Random(1).randbytes(3 << 20)
    digest, _ = cas.put_blob(content)
    assert received(lambda path: cas.copy_blob(digest, path, verify=verify)) == content


def test_an_archive_to_what_does_not_wait(cas):
    content = random.Random(2).randbytes(3 << 20)
    digest, size = cas.put_blob(content)
    cas.update_reference("v1", fastcas.Descriptor("text/plain", digest, size))
    whole = io.BytesIO()
    fastcas.export_archive(cas, whole)
    assert received(lambda path: fastcas.export_archive(cas, path)) == whole.getvalue()


def received(write):
    """What a slow reader gets of what is written to a path that stands for a non-blocking socket."""
    here, there = socket.socketpair()
    here.setblocking(False)
    found = []

    def read():
        time.sleep(0.05)
        found.extend(iter(lambda: there.recv(1 << 20), b""))

    with here, there:
        reader = threading.Thread(target=read)
        reader.start()
        write(f"/dev/fd/{here.fileno()}")
        here.shutdown(socket.SHUT_WR)
        reader.join(30)
    return b"".join(found)


def test_an_error_names_what_the_user_named(cas, tmp_path, monkeypatch):
    """Of a read-only filesystem, where there is nothing to remove either, and it says so."""
    digest, _ = cas.put_blob(b"1")
    folder = tmp_path / "gone"
    folder.mkdir()

    def refused(*arguments, **more):
        raise OSError(errno.EROFS, "Read-only file system", arguments[0])

    monkeypatch.setattr(os, "unlink", refused)
    folder.rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        cas.copy_blob(digest, folder / "out")
    assert caught.value.filename == str(folder / "out")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["/proc/self/fd/{}", "/dev/fd/{}", "link", "/proc/{pid}/fd/{}"])
def test_a_file_behind_a_descriptor_is_written_from_where_that_stands(cas, tmp_path, way, name):
    digest, _ = cas.put_blob(CONTENT)
    content = expected_of(way, cas, digest, tmp_path / "plain")
    for flags in (0, os.O_APPEND):
        shared = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC | flags)
        inode = os.fstat(shared).st_ino
        os.write(shared, b"before")
        path = name.format(shared, pid=os.getpid())
        if name == "link":
            path = tmp_path / f"link{flags}"
            path.symlink_to(f"/dev/fd/{shared}")
        way(cas, digest, path)
        os.write(shared, b"after")
        os.close(shared)
        assert (tmp_path / "out").read_bytes() == b"before" + content + b"after"
        assert os.stat(tmp_path / "out").st_ino == inode
        assert not [entry for entry in os.listdir(tmp_path) if entry.endswith("-part")]


@pytest.mark.parametrize("way", WAYS)
def test_a_pipe_behind_a_descriptor(cas, tmp_path, way):
    digest, _ = cas.put_blob(CONTENT)
    content = expected_of(way, cas, digest, tmp_path / "plain")
    receive, send = os.pipe()
    got = []

    def read():
        with open(receive, "rb") as stream:
            got.append(stream.read())

    reader = threading.Thread(target=read)
    reader.start()
    way(cas, digest, f"/dev/fd/{send}")
    os.close(send)
    reader.join(60)
    assert got == [content]


@pytest.mark.parametrize("way", WAYS)
def test_a_file_behind_the_descriptor_of_another_process(cas, tmp_path, way):
    digest, _ = cas.put_blob(CONTENT)
    content = expected_of(way, cas, digest, tmp_path / "plain")
    with open(tmp_path / "out", "wb") as out:
        out.write(b"before")
        out.flush()
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out)
    with child:
        way(cas, digest, f"/proc/{child.pid}/fd/1")
    assert (tmp_path / "out").read_bytes() == b"before" + content


@pytest.mark.parametrize("way", WAYS)
def test_a_link_stays_and_its_target_is_replaced(cas, tmp_path, way):
    digest, _ = cas.put_blob(CONTENT)
    content = expected_of(way, cas, digest, tmp_path / "plain")
    (tmp_path / "link").symlink_to("target")
    for _ in range(2):  # the link dangles at first
        way(cas, digest, tmp_path / "link")
        assert os.readlink(tmp_path / "link") == "target"
        assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("way", WAYS)
def test_errors_name_what_the_user_named(cas, tmp_path, monkeypatch, way):
    digest, _ = cas.put_blob(CONTENT)
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    os.symlink("/dev/full", "full")
    for path, error in (
        ("full", errno.ENOSPC),
        ("nowhere/out", errno.ENOENT),
        ("folder", errno.EISDIR),
        ("", errno.ENOENT),
    ):
        with pytest.raises(OSError) as caught:
            way(cas, digest, path)
        assert (caught.value.errno, caught.value.filename) == (error, path)
    assert sorted(os.listdir()) == ["folder", "full", "image"]


def into_a_locked_folder(place):
    os.mkdir(f"{place}/locked")
    found = []
    with fastcas.create(f"{place}/image", durability="none") as cas:
        digest, _ = cas.put_blob(CONTENT)
        os.chmod(f"{place}/locked", 0o555)
        for way in WAYS:
            try:
                way(cas, digest, f"{place}/locked/out")
            except PermissionError as error:
                found.append(error.filename)
    return found


def test_a_permission_error_names_what_the_user_named(as_normal_user, shared_path):
    found = as_normal_user(into_a_locked_folder, shared_path)
    assert found == [f"{shared_path}/locked/out"] * len(WAYS)
