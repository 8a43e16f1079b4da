"""The graph of images: marking, walking, referrers, and documents with other descriptors."""

from __future__ import annotations

import os

import pytest

from fastcas import (
    CorruptError,
    Descriptor,
    InvalidError,
    SizeMismatchError,
    UnknownAlgorithmError,
)
from fastcas.image import walk as module
from fastcas.image.walk import Marked, mark
from images import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX,
    LAYER,
    MANIFEST,
    describe,
    put,
    put_document,
    put_index,
    put_manifest,
    put_nested,
)
from oracle import OracleEngine

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]


@pytest.fixture
def reads(cas, monkeypatch):
    """The digests that are read from the store, in order."""
    seen = []
    original = type(cas).read_blob

    def read(self, digest, **options):
        seen.append(str(digest))
        return original(self, digest, **options)

    monkeypatch.setattr(type(cas), "read_blob", read)
    return seen


# ---- mark ----


def test_mark_marks_every_descriptor(cas, tmp_path):
    engines = [cas, OracleEngine.create(tmp_path / "oracle")]
    for engine in engines:
        subject = put_manifest(engine, "subject")
        one = put_manifest(engine, "one", inner={"subject": subject})
        two = put_manifest(engine, "two")
        root = put_index(engine, one, put_index(engine, two), inner={"subject": subject})
        put(engine, b"not reachable", LAYER)
        assert mark(engine, [root]).digests == set(engine) - {describe(b"not reachable", "").digest}
    assert "x" not in mark(cas, [root])
    assert root.digest in mark(cas, [root])
    assert len(mark(cas, [root])) == 11


@pytest.mark.parametrize("outer", [INDEX, DOCKER_LIST])
def test_case_45_mark_opens_docker_documents(cas, outer):
    manifest = put_manifest(cas, "docker", media_type=DOCKER_MANIFEST)
    root = put_index(cas, manifest, media_type=outer)
    assert mark(cas, [root]).digests == set(cas)
    assert len(set(cas)) == 4


def test_case_46_mark_opens_what_was_first_met_as_an_unknown_type(cas):
    manifest = put_manifest(cas)
    unknown = Descriptor("application/x-unknown", manifest.digest, manifest.size)
    root = put_index(cas, unknown, manifest, unknown)
    assert mark(cas, [root]).digests == set(cas)


def test_mark_opens_a_digest_under_each_of_its_types(cas):
    """A document without mediaType that is both is ambiguous, so one reading fails: closed."""
    manifest = put_manifest(cas)
    wrong = Descriptor(DOCKER_MANIFEST, manifest.digest, manifest.size)
    with pytest.raises(InvalidError, match=manifest.digest):
        mark(cas, [put_index(cas, manifest, wrong)])
    config, layer = put(cas, b"{}", "m/config"), put(cas, b"l", LAYER)
    fields = {"schemaVersion": 2, "config": config, "layers": [layer]}
    silent = put_document(cas, fields, MANIFEST)
    both = [silent, Descriptor(DOCKER_MANIFEST, silent.digest, silent.size)]
    assert mark(cas, [put_index(cas, *both)]).digests >= {config.digest, layer.digest}


def test_mark_tolerates_what_is_not_stored(cas):
    platform = put_manifest(cas, "left out")
    root = put_index(cas, platform, put_manifest(cas, "here"))
    cas.delete_blob(platform.digest)
    far = Descriptor(MANIFEST, "sha256:" + "0" * 64, 5)
    huge = Descriptor(MANIFEST, "sha256:" + "1" * 64, 5 << 20)
    odd = Descriptor(MANIFEST, "multihash+base58:QmX", 5)
    marked = mark(cas, [far, root, huge, odd])
    assert {platform.digest, far.digest, huge.digest, odd.digest} <= marked.digests
    assert len(marked) == 8


def test_mark_goes_on_from_what_it_has(cas, reads):
    one, two = put_manifest(cas, "one"), put_manifest(cas, "two")
    index = put_index(cas, one)
    marked = mark(cas, [index])
    assert reads == [index.digest, one.digest]
    reads.clear()
    assert mark(cas, [index, two, one], marked) is marked
    assert reads == [two.digest]
    assert marked.digests == set(cas)


def test_mark_looks_again_for_what_was_missing(cas):
    manifest = put_manifest(cas)
    raw = cas.read_blob(manifest.digest)
    cas.delete_blob(manifest.digest)
    marked = mark(cas, [put_index(cas, manifest)])
    assert len(marked) == 2
    cas.put_blob(raw)
    assert mark(cas, [], marked).digests == set(cas)


@pytest.mark.parametrize("kind", ["flipped", "truncated", "longer", "directory", "fifo"])
def test_mark_fails_on_a_document_that_it_cannot_trust(cas, layout, kind):
    manifest = put_manifest(cas)
    root = put_nested(cas, manifest, 2)
    raw = cas.read_blob(manifest.digest)
    path = layout / "blobs" / "sha256" / manifest.digest.partition(":")[2]
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        damaged = {"flipped": b"[" + raw[1:], "truncated": raw[:-1], "longer": raw + b" "}
        path.write_bytes(damaged[kind])
    marked = Marked()
    with pytest.raises(InvalidError) as caught:
        mark(cas, [root], marked)
    assert caught.value.digest == manifest.digest
    assert kind in ("directory", "fifo") or isinstance(caught.value, CorruptError)
    with pytest.raises(InvalidError, match="incomplete"):
        mark(cas, [], marked)


DOCUMENTS = {
    "no JSON": b"x",
    "empty": b"",
    "truncated": b'{"schemaVersion":2,"config":',
    "duplicate key": b'{"schemaVersion":2,"schemaVersion":2,"manifests":[]}',
    "trailing data": b'{"schemaVersion":2,"manifests":[]}{}',
    "ambiguous": b'{"schemaVersion":2,"manifests":[],"layers":[]}',
    "other type": b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % MANIFEST.encode(),
    "version": b'{"schemaVersion":1,"manifests":[]}',
    "deep": b'{"schemaVersion":2,"manifests":[],"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "bad digest": b'{"schemaVersion":2,"manifests":[{"mediaType":"m","digest":"x","size":1}]}',
    "negative": b'{"schemaVersion":2,"manifests":[{"mediaType":"m","digest":"a:b","size":-1}]}',
    "a manifest": b'{"schemaVersion":2,"config":{},"layers":[]}',
    "too large": b'{"schemaVersion":2,"manifests":[]}' + b" " * (4 << 20),
}


@pytest.mark.parametrize("raw", DOCUMENTS.values(), ids=DOCUMENTS)
def test_mark_fails_on_documents_that_are_wrong(cas, raw):
    index = put(cas, raw, INDEX)
    with pytest.raises(InvalidError) as caught:
        mark(cas, [put_index(cas, index)])
    assert caught.value.digest == index.digest
    assert index.digest in str(caught.value)


@pytest.mark.parametrize("more", [-1, 1])
def test_mark_fails_on_a_descriptor_of_another_size(cas, more):
    manifest = put_manifest(cas)
    wrong = Descriptor(MANIFEST, manifest.digest, manifest.size + more)
    with pytest.raises(SizeMismatchError) as caught:
        mark(cas, [wrong])
    assert caught.value.digest == manifest.digest
    assert (caught.value.expected, caught.value.actual) == (wrong.size, manifest.size)


def test_mark_fails_on_a_document_that_nobody_can_verify(cas, layout):
    odd = Descriptor(MANIFEST, "odd:abc", 2)
    (layout / "blobs" / "odd").mkdir()
    (layout / "blobs" / "odd" / "abc").write_bytes(b"{}")
    with pytest.raises(UnknownAlgorithmError) as caught:
        mark(cas, [odd])
    assert caught.value.digest == odd.digest


def test_mark_reads_embedded_documents(cas):
    manifest = put_manifest(cas)
    raw = cas.read_blob(manifest.digest)
    cas.delete_blob(manifest.digest)
    assert len(mark(cas, [put_index(cas, manifest.replace(data=raw))])) == 4
    with pytest.raises(CorruptError) as caught:
        mark(cas, [put_index(cas, manifest.replace(data=b"[" + raw[1:]))])
    assert caught.value.digest == manifest.digest


def test_mark_is_linear_on_doubled_levels(cas, reads):
    node = put_manifest(cas)
    for _ in range(30):
        node = put_index(cas, node, node)
    assert mark(cas, [node]).digests == set(cas)
    assert len(reads) == 31


def test_mark_goes_any_way_down(cas):
    assert len(mark(cas, [put_nested(cas, put_manifest(cas), 10_000)])) == 10_003


def test_mark_has_a_cap(cas, monkeypatch):
    root = put_index(cas, *[put_manifest(cas, f"{n}") for n in range(5)])
    monkeypatch.setattr(module, "NODE_LIMIT", 16)
    assert len(mark(cas, [root])) == 16
    monkeypatch.setattr(module, "NODE_LIMIT", 15)
    with pytest.raises(InvalidError, match="more than 15 descriptors"):
        mark(cas, [root])
