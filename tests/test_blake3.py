"""BLAKE3: computed by the package of that name, on every path that a digest is computed on."""

from __future__ import annotations

import subprocess
import sys

import pytest
from blake3 import blake3

import fastcas
from conformance import LAYER, damaged, kinds_in, noise
from fastcas import _core
from fastcas.errors import DigestMismatchError
from fastcas.image.copy import copy_image
from images import CONFIG
from test_cases import blob_path, plant

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

SIZES = (0, 1, 1024, 1025, 65_536, 65_537, 1 << 20, (2 << 20) - 1, 2 << 20, 5_000_001, 40 << 20)


def digest_of(content):
    return "blake3:" + blake3(content).hexdigest()


def chunks(content):
    view = memoryview(content)
    return (bytes(view[at : at + 100_001]) for at in range(0, len(content), 100_001))


@pytest.mark.parametrize("size", SIZES)
def test_put_and_get(cas, layout, tmp_path, size):
    content = noise(size)
    (tmp_path / "source").write_bytes(content)
    for source in (tmp_path / "source", content, bytearray(content), chunks(content)):
        assert cas.put_blob(source, algorithm="blake3") == (digest_of(content), size)
        blob_path(layout, digest_of(content)).unlink()
    results = cas.put_blobs(
        [tmp_path / "source", content, b"small", chunks(content)], algorithm="blake3"
    )
    assert [result.digest for result in results] == [
        digest_of(c) for c in (content, content, b"small", content)
    ]
    assert cas.read_blob(digest_of(content), limit=size + (1 << 20)) == content
    with cas.get_blob(digest_of(content)) as blob:
        assert b"".join(iter(lambda: blob.read(70_000), b"")) == content
        assert blob.verified
    cas.copy_blob(digest_of(content), tmp_path / "copy", verify=True)
    assert (tmp_path / "copy").read_bytes() == content
    assert (
        _core.digest_many([content, str(size)[:0].encode()], "blake3")[0][0] == digest_of(content)[7:]
    )


@pytest.mark.parametrize("size", [1000, 70_000, 3 << 20])
def test_damage_is_found(cas, layout, tmp_path, size):
    content = noise(size)
    digest, _ = cas.put_blob(content, algorithm="blake3")
    for _, wrong in damaged(content):
        plant(layout, digest, wrong)
        for quick in (True, False):
            assert kinds_in(cas.scrub(quick=quick)) == [("corrupt", digest)]
        with pytest.raises(fastcas.CorruptError), cas.get_blob(digest) as blob:
            blob.verify()
    plant(layout, digest, damaged(content).__next__()[1])
    with pytest.raises(DigestMismatchError):
        cas.copy_blob(digest, tmp_path / "copy", verify=True)
    cas.put_blob(content, expected_digest=digest, verify_existing=True)
    assert cas.scrub(quick=True).problems == []


def test_images(tmp_path):
    with fastcas.create(tmp_path / "one") as one, fastcas.create(tmp_path / "two") as two:
        layer, config = (one.put_blob(noise(size), algorithm="blake3") for size in (3 << 20, 100))
        manifest = fastcas.Manifest(
            fastcas.Descriptor(CONFIG, *config), [fastcas.Descriptor(LAYER, *layer)]
        )
        stored = one.put_blob(manifest.to_json(), algorithm="blake3")
        one.update_reference("v1", fastcas.Descriptor(fastcas.model.MEDIA_TYPE_MANIFEST, *stored))
        unused, _ = one.put_blob(noise(80_000), algorithm="blake3")
        assert [blob.digest for blob in one.gc(grace=0).deleted] == [unused]
        copy_image(one, "v1", two)
        assert set(one) == set(two) == {layer.digest, config.digest, stored.digest}
        packed = one.put_blob(noise(1 << 20), algorithm="blake3", compress="gzip")
        assert packed.diff_id == digest_of(noise(1 << 20))
        for cas in (one, two):
            assert cas.scrub().problems == []


def test_without_the_package(layout):
    """Valid to hold, to list and to delete; what would compute it says what to install."""
    with fastcas.create(layout) as cas:
        digest, _ = cas.put_blob(b"content", algorithm="blake3")
    program = """
import sys
sys.modules["blake3"] = None
real = list(sys.meta_path)
sys.meta_path[:] = [type("", (), {"find_spec": staticmethod(
    lambda name, path, target=None: None if name == "blake3" else next(
        (spec for finder in real if (spec := finder.find_spec(name, path, target))), None))})]
import fastcas
with fastcas.open(sys.argv[1]) as cas:
    (digest,) = cas
    for call in (lambda: cas.put_blob(b"x", algorithm="blake3"), lambda: cas.read_blob(digest),
                 lambda: cas.put_blobs([b"x"], algorithm="blake3"), lambda: cas.get_blob(digest)):
        try:
            call()
        except fastcas.UnknownTypeError as error:
            assert error.algorithm == "blake3"
            assert "pip install 'fastcas[blake3]'" in str(error), error
        else:
            raise AssertionError("computed")
    assert cas.scrub() == (0, 0, [])
    cas.delete_blob(digest)
"""
    subprocess.run([sys.executable, "-c", program, layout], check=True)
    with fastcas.open(layout) as cas:
        assert list(cas) == [], digest
