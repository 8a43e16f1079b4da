"""What lies under blobs/, apart from what is known."""

import pytest

import fastcas


@pytest.fixture
def cas(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        yield cas


def test_known_blobs_are_left_out_and_nothing_else(cas, tmp_path):
    known, other, unknown = (cas.put_blob(b"%d" % number).digest for number in range(3))
    blobs = tmp_path / "image" / "blobs" / "sha256"
    (blobs / other.encoded).unlink()
    (blobs / other.encoded).mkdir()
    (blobs / "stray").touch()
    (blobs.parent / f"sha256:{known.encoded}").touch()
    everything = {(found.digest, found.kind) for found in cas.scan_blobs()}
    left = {(found.digest, found.kind) for found in cas.scan_blobs(known={known, other, "stray"})}
    assert everything - left == {(known, "blob")}
    assert left == {(other, "non-regular"), (unknown, "blob"), (None, "bad-name")}


def test_what_is_no_file_isnt_kept_by_gc(cas, tmp_path):
    layer = cas.put_blob(b"layer")
    cas.put_index(fastcas.Index([fastcas.Descriptor("application/x", layer.digest, layer.size)]))
    stored = tmp_path / "image" / "blobs" / "sha256" / layer.digest.encoded
    assert cas.gc(grace=0).kept == 1
    stored.unlink()
    stored.mkdir()
    assert cas.gc(grace=0).kept == 0
