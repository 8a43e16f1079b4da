"""BlobReader: what interruptions, forks and verify() leave of its promise."""

import hashlib
import os

import pytest

import fastcas
from fastcas.errors import DigestMismatchError

CONTENT = bytes(range(256)) * 1200  # more than a slot


@pytest.fixture
def cas(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as engine:
        yield engine


def flip(cas, digest):
    path = os.path.join(cas.path, "blobs", *digest.split(":"))
    os.chmod(path, 0o644)
    with open(path, "r+b") as blob:
        blob.write(b"\xff")


@pytest.mark.parametrize("taken", [0, 1000, 100_000])
def test_a_failed_call_leaves_the_reader_verified(cas, taken):
    digest, _ = cas.put_blob(CONTENT)
    with cas.get_blob(digest) as blob:
        assert blob.read(taken) == CONTENT[:taken]
        with pytest.raises(BufferError):
            blob.readinto(b"read-only")
        assert blob.read() == CONTENT[taken:]
        assert blob.verified


def test_a_failed_call_doesnt_let_damage_pass(cas):
    digest, _ = cas.put_blob(CONTENT)
    flip(cas, digest)
    blob = cas.get_blob(digest)
    with pytest.raises(BufferError):
        blob.readinto(b"read-only")
    for call in (blob.read, blob.read, blob.close):
        with pytest.raises(DigestMismatchError):
            call()


def test_reading_after_verify_is_verified_anew(cas):
    digest, _ = cas.put_blob(CONTENT)
    with cas.get_blob(digest) as blob:
        blob.verify()
        assert blob.verified
        assert blob.read() == CONTENT
        assert blob.verified
    blob = cas.get_blob(digest)
    blob.verify()
    flip(cas, digest)
    with pytest.raises(DigestMismatchError):
        blob.read()
    with pytest.raises(DigestMismatchError):
        blob.close()


def test_reads_from_elsewhere_are_unverified(cas):
    digest, _ = cas.put_blob(CONTENT)
    with cas.get_blob(digest) as blob:
        blob.verify()
        blob.seek(10)
        assert blob.read(5) == CONTENT[10:15]
        assert not blob.verified
        blob.seek(0)
        assert hashlib.sha256(blob.read()).hexdigest() == digest.encoded
        assert blob.verified


def test_a_forked_child_reads_on_beside_a_held_lock(cas):
    digest, _ = cas.put_blob(CONTENT)
    with cas.get_blob(digest) as blob:
        blob.read(1000)
        with blob._lock:  # as another thread of the parent would
            child = os.fork()
            if child == 0:
                right = blob.read() == CONTENT[1000:] and blob.verified
                blob.close()
                os._exit(0 if right else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert blob.read() == CONTENT[1000:]
