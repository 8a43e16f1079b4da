"""The contract on a server, unchanged; and its folder is a layout of the directory engine."""

from __future__ import annotations

import obstore
import pytest

import conformance
import fastcas
from fastcas import Digest
from fastcas.store import sweep
from fastcas.store.location import connect, parse

pytestmark = pytest.mark.timeout(180)

PREFIX = "some/where"


class ServerStore:
    """A layout below a prefix of a bucket, and the folder where the server keeps it."""

    def __init__(self, path, bucket):
        self.path = path
        self.url = f"s3://{bucket.name}/{PREFIX}"
        self.config = bucket.config()
        self.folder = bucket.path / PREFIX

    def create(self):
        return fastcas.create(self.url, config=self.config)

    def open(self):
        return fastcas.open(self.url, config=self.config)

    def plant(self, digest, content):
        digest = Digest(digest)
        key = f"{PREFIX}/blobs/{digest.algorithm}/{digest.encoded}"
        obstore.put(connect(parse(self.url), self.config), key, content)


@pytest.fixture
def store(tmp_path, bucket):
    return ServerStore(tmp_path, bucket)


@pytest.mark.parametrize("name", sorted(conformance.CHECKS))
def test_conformance(store, name, monkeypatch):
    monkeypatch.setattr(sweep, "WAIT", 0.0)  # nobody is beside
    conformance.CHECKS[name](store)
    left = {path.relative_to(store.folder).parts for path in store.folder.rglob("*") if path.is_file()}
    known = {("oci-layout",), ("index.json",), (".fastcas", "conditions.json")}
    assert {n for n in left - known if n[0] != "blobs" and n[:2] != (".fastcas", "used")} == set()


@pytest.mark.parametrize("kind", sorted(conformance.SOURCES))
def test_source(store, kind):
    conformance.check_source(store, kind)


def test_the_bucket_is_a_layout_of_the_directory_engine(store):
    contents = [conformance.noise(size, size) for size in (0, 10, 70_000, 9 << 20, 20 << 20)]
    with store.create() as cas:
        tagged, digests = conformance.store_image(cas)
        cas.update_reference("v1", tagged)
        digests |= {cas.put_blob(content).digest for content in contents}
    with fastcas.open(store.folder) as cas:
        assert set(cas) == digests
        assert cas.scrub().problems == []
        assert cas.list_references() == ["v1"]
        cas.put_blob(b"put into the folder")
    with store.open() as cas:
        assert cas.read_blob(conformance.digest_of(b"put into the folder"))
        assert cas.scrub().problems == []


def test_images_go_both_ways(store, bucket, tmp_path):
    other = f"s3://{bucket.name}/other"
    with fastcas.create(tmp_path / "here") as here, store.create() as there:
        layer, size = here.put_blob(conformance.noise(20 << 20))
        tagged, digests = conformance.store_image(here)
        config = fastcas.Descriptor(conformance.CONFIG, *here.put_blob(b'{"os":"linux"}'))
        manifest = fastcas.Manifest(config, [fastcas.Descriptor(conformance.LAYER, layer, size)])
        big = fastcas.Descriptor(conformance.MANIFEST, *here.put_blob(manifest.to_json()))
        here.update_reference("v1", tagged)
        here.update_reference("big", big)
        digests |= {layer, config.digest, big.digest}
        assert fastcas.copy_images(here, there).blobs == 7
        assert set(there) == digests
        again = fastcas.copy_images(here, there)
        assert (again.bytes, again.methods) == (0, {"exists": 7})
        with fastcas.create(other, config=store.config) as near:
            copied = fastcas.copy_images(there, near)
            assert copied.methods["server-copy"] == 1
            assert set(near) == digests
            assert near.scrub().problems == []
        with fastcas.create(tmp_path / "back") as back:
            fastcas.copy_image(there, "big", back)
            assert set(back) == {layer, config.digest, big.digest}
            assert back.scrub().problems == []


def test_what_lies_in_another_prefix_is_left_alone(store, bucket):
    with (
        store.create() as cas,
        fastcas.create(f"s3://{bucket.name}/some", config=store.config) as outer,
    ):
        digest, _ = cas.put_blob(b"inner")
        outer.put_blob(b"outer")
        assert len(outer) == 1
        assert outer.gc(grace=0).deleted == [(conformance.digest_of(b"outer"), 5)]
        assert cas.read_blob(digest) == b"inner"


@pytest.mark.parametrize("call", [fastcas.open, fastcas.create, fastcas.probe])
def test_a_bucket_that_is_missing(server, bucket, call):
    with pytest.raises(fastcas.NotExistError, match="no such bucket"):
        call("s3://no-such-bucket/x", config=bucket.config())


@pytest.mark.parametrize("call", [fastcas.open, fastcas.create, fastcas.probe])
@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_credentials_that_are_refused(bucket, call, wrong):
    config = {**bucket.config(), wrong: "wrongwrongwrong"}
    with pytest.raises(PermissionError) as caught:
        call(f"s3://{bucket.name}/x", config=config)
    assert caught.value.filename.startswith(f"s3://{bucket.name}/x")
    assert bucket.config()["secret_access_key"] not in str(caught.value)
    assert "wrongwrongwrong" not in str(caught.value)


def test_the_probe_trusts_the_server(bucket):
    findings = fastcas.probe(f"s3://{bucket.name}/x", config=bucket.config())
    assert [one for one in findings if not one.right] == []
    assert len(findings) == 8
