"""Blobs as values: by the descriptor's media type, exact, and never with a crash."""

from __future__ import annotations

import json

import pytest

import fastcas
from fastcas import (
    ClobberError,
    Config,
    CorruptError,
    Descriptor,
    DigestMismatchError,
    Index,
    InvalidError,
    Manifest,
    ParsedBlob,
    SizeMismatchError,
)
from fastcas.image import parse as module
from fastcas.image.walk import mark
from images import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX,
    LAYER,
    MANIFEST,
    put,
    put_config,
    put_index,
    put_manifest,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_fd_leak")]

DESCRIPTOR = "application/vnd.oci.descriptor.v1+json"


@pytest.fixture
def registry(monkeypatch):
    """Parsers that are registered last for one test."""
    monkeypatch.setattr(module, "_registered", {})


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_LIST])
def test_indexes(cas, media_type):
    stored = put_index(cas, put_manifest(cas), media_type=media_type, inner={"x": [1.0]})
    parsed = cas.read_descriptor(stored)
    assert type(parsed) is ParsedBlob
    assert parsed.descriptor is stored
    assert type(parsed.data) is Index
    assert parsed.raw == cas.read_blob(stored.digest) == parsed.data.to_json() == parsed.data.raw
    assert parsed.data.media_type == media_type


@pytest.mark.parametrize("media_type", [MANIFEST, DOCKER_MANIFEST])
def test_manifests(cas, media_type):
    stored = put_manifest(cas, media_type=media_type)
    descriptor, data, raw = cas.read_descriptor(stored)
    assert descriptor is stored
    assert type(data) is Manifest
    assert raw == data.to_json()
    assert type(cas.read_descriptor(data.config).data) is Config


@pytest.mark.parametrize("media_type", [CONFIG, DOCKER_CONFIG])
def test_configs(cas, media_type):
    layer = "sha256:" + "a" * 64
    history = [{"created": "2020-01-01T00:00:00Z", "created_by": "sh"}, {"empty_layer": True}]
    fields = {
        "created": "2021-01-01T00:00:00Z",
        "config": {"Env": ["A=b"], "Labels": None},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": history,
        "variant": "v3",
        "os.features": ["f"],
        "unknown": {"kept": 1},
    }
    parsed = cas.read_descriptor(put_config(cas, media_type=media_type, **fields))
    config = parsed.data
    assert (config.os, config.architecture, config.variant) == ("linux", "amd64", "v3")
    assert config.os_features == ("f",)
    assert config.rootfs.diff_ids == (layer,)
    assert config.rootfs.diff_ids[0].algorithm == "sha256"
    assert [step.empty_layer for step in config.history] == [None, True]
    assert config.history[0].created_by == "sh"
    assert config.config == fields["config"]
    config.config["Env"].append("changed")
    assert config.config == fields["config"]
    assert json.loads(config.extra["unknown"]) == {"kept": 1}
    assert config.raw == config.to_json() == parsed.raw
    changed = config.replace(os="windows", history=[])
    assert (changed.os, changed.history, changed.config) == ("windows", (), fields["config"])


def test_configs_as_others_write_them(cas):
    for rootfs in ({"type": "layers", "diff_ids": None}, {"type": "layers", "diff_ids": []}):
        config = cas.read_descriptor(put_config(cas, rootfs=rootfs, history=None, config=None)).data
        assert (config.rootfs.diff_ids, config.history, config.config) == ((), (), None)


WRONG_CONFIGS = [
    {"rootfs": {"type": "layers", "diff_ids": ["x"]}},
    {"rootfs": {"type": "layers", "diff_ids": [1]}},
    {"rootfs": []},
    {"os": 1},
    {"history": {}},
    {"history": [{"empty_layer": "yes"}]},
    {"config": []},
]


@pytest.mark.parametrize("fields", WRONG_CONFIGS, ids=str)
def test_configs_that_are_wrong(cas, fields):
    stored = put_config(cas, **fields)
    with pytest.raises(InvalidError) as caught:
        cas.read_descriptor(stored)
    assert caught.value.digest == stored.digest
    assert stored.digest in str(caught.value)


def test_new_configs():
    from fastcas.image.config import History, RootFS

    made = Config("arm64", "linux", RootFS(["sha256:" + "a" * 64]), history=[History("2020")])
    assert Config.from_json(made.to_json()) == made
    for bad in (
        lambda: RootFS(["x"]),
        lambda: History(empty_layer=1),
        lambda: made.replace(config=[]),
        lambda: made.replace(config={"a": float("nan")}),
        lambda: made.replace(os=None),
    ):
        with pytest.raises(InvalidError):
            bad()


def test_descriptors_and_opaque_blobs(cas):
    inner = put_manifest(cas)
    stored = put(cas, inner.to_json(), DESCRIPTOR)
    assert cas.read_descriptor(stored).data == inner
    assert len(mark(cas, [stored])) == 4
    for content in (b"", b"\xff{", b"{}"):
        opaque = put(cas, content, "application/x-unknown")
        assert cas.read_descriptor(opaque) == (opaque, content, content)
    large = put(cas, bytes((4 << 20) + 1), LAYER)
    with pytest.raises(InvalidError, match="limit") as caught:
        cas.read_descriptor(large)
    assert caught.value.digest == large.digest
    with pytest.raises(TypeError):
        cas.read_descriptor(large.digest)


HEAD = b'{"schemaVersion":2,'
ENTRY = b'{"mediaType":"m/t","digest":"a:b","size":1}'
WRONG = {
    "empty": b"",
    "not JSON": b"x",
    "null": b"null",
    "array": b"[]",
    "truncated": HEAD + b'"manifests":[' + ENTRY[:-3],
    "truncated string": HEAD[:9],
    "trailing": HEAD + b'"manifests":[]}{}',
    "duplicate": HEAD + b'"manifests":[],"manifests":[]}',
    "duplicate escaped": HEAD + b'"manifests":[],"manifest\\u0073":[]}',
    "duplicate below": HEAD + b'"manifests":[],"annotations":{"a":"1","a":"2"}}',
    "layers too": HEAD + b'"manifests":[],"layers":[]}',
    "manifests too": HEAD + b'"config":%s,"layers":[],"manifests":[]}' % ENTRY,
    "Docker v1 too": HEAD + b'"config":%s,"layers":[],"fsLayers":[]}' % ENTRY,
    "version 1": b'{"schemaVersion":1,"manifests":[],"layers":[]}',
    "deep": HEAD + b'"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"manifests":[]}',
    "deep and open": HEAD + b'"x":' + b"[" * 100_000,
    "not UTF-8": HEAD + b'"x":"\xff"}',
    "types": HEAD + b'"config":[],"layers":{},"manifests":1}',
}


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST, CONFIG])
@pytest.mark.parametrize("raw", WRONG.values(), ids=WRONG)
def test_case_33_documents_that_are_no_documents(cas, raw, media_type):
    stored = put(cas, raw, media_type)
    with pytest.raises(InvalidError) as caught:
        cas.read_descriptor(stored)
    assert caught.value.digest == stored.digest
    assert stored.digest in str(caught.value)
    assert not isinstance(caught.value, CorruptError)
    assert len(str(caught.value)) < 500


def test_case_32_the_descriptors_type_wins(cas):
    index, manifest = put_index(cas), put_manifest(cas)
    for stored, wrong in [
        (index, MANIFEST),
        (index, DOCKER_LIST),
        (index, DOCKER_MANIFEST),
        (index, CONFIG),
        (manifest, INDEX),
        (manifest, DOCKER_MANIFEST),
        (manifest, CONFIG),
    ]:
        with pytest.raises(InvalidError) as caught:
            cas.read_descriptor(Descriptor(wrong, stored.digest, stored.size))
        assert caught.value.digest == stored.digest
    # Without a type of its own, only its fields can contradict.
    silent = put(cas, b'{"schemaVersion":2,"manifests":[]}', INDEX)
    for fitting in (INDEX, DOCKER_LIST):
        assert cas.read_descriptor(Descriptor(fitting, silent.digest, silent.size)).data.manifests == ()
    with pytest.raises(InvalidError):
        cas.read_descriptor(Descriptor(MANIFEST, silent.digest, silent.size))


def test_content_is_verified(cas, layout):
    stored = put_manifest(cas)
    with pytest.raises(SizeMismatchError):
        cas.read_descriptor(Descriptor(MANIFEST, stored.digest, stored.size + 1))
    raw = cas.read_blob(stored.digest)
    assert cas.read_descriptor(stored.replace(data=raw)).raw == raw
    path = layout / "blobs" / "sha256" / stored.digest[7:]
    path.unlink()
    path.write_bytes(raw.replace(b"2", b"3", 1))
    with pytest.raises(DigestMismatchError):
        cas.read_descriptor(stored)


@pytest.mark.usefixtures("registry")
def test_registered_parsers(cas):
    kind = "application/x-wrapped"
    manifest = put_manifest(cas)
    stored = put(cas, b"WRAPPED" + manifest.to_json(), kind)

    def parse(raw, descriptor):
        assert descriptor.media_type == kind
        if not raw.startswith(b"WRAPPED"):
            raise InvalidError("not wrapped")
        return Descriptor.from_json(raw[7:])

    assert len(mark(cas, [stored])) == 1
    fastcas.register_parser(kind, parse)
    assert cas.read_descriptor(stored).data == manifest
    assert mark(cas, [stored]).digests == set(cas)
    root = put_index(cas, stored)
    assert mark(cas, [root]).digests == set(cas)
    assert [len(path) for path in cas.walk(stored)] == [1, 2, 3, 3]
    bad = put(cas, b"?", kind)
    for use in (cas.read_descriptor, lambda d: mark(cas, [d])):
        with pytest.raises(InvalidError, match="not wrapped") as caught:
            use(bad)
        assert caught.value.digest == bad.digest
    for taken in (kind, INDEX, CONFIG):
        with pytest.raises(ClobberError):
            fastcas.register_parser(taken, parse)
    with pytest.raises(TypeError):
        fastcas.register_parser("m/t", None)
    with pytest.raises(InvalidError):
        fastcas.register_parser("", parse)
