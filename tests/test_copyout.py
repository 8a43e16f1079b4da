"""Copies to what is no regular file, and where the copy must not appear."""

import errno
import os
import threading

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
