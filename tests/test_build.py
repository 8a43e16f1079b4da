"""Images from layers: right configs and manifests, the same bytes for the same arguments."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import fastcas
from fastcas import model
from fastcas.errors import InvalidError, NotExistError, SizeMismatchError
from fastcas.image import build
from fastcas.image.build import append_layers, build_image, build_index
from fastcas.image.config import History
from fastcas.image.layer import Layer, put_layer
from fastcas.model import ANNOTATION_REF_NAME, Descriptor, Index, Manifest, Platform
from samples import (
    KINDS,
    blobs_of,
    create,
    entries_of,
    make_tar,
    put,
    put_image,
    put_index,
    put_platforms,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

TIME = 1_700_000_000
TIME_TEXT = "2023-11-14T22:13:20Z"
AWAY = "sha256:" + "0" * 64


@pytest.fixture(params=KINDS)
def cas(request, tmp_path):
    with create(request.param, tmp_path / "image") as engine:
        yield engine


@pytest.fixture
def dir_cas(tmp_path):
    with create("dir", tmp_path / "image") as engine:
        yield engine


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "rootfs"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "tool").write_bytes(b"#!/bin/sh\n")
    for path in (place / "bin" / "tool", place / "bin", place):
        path.chmod(0o755)
        os.utime(path, (TIME + 10, TIME + 10))
    return place


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parts(engine, descriptor):
    """The manifest and the config of an image, as others would parse them."""
    manifest = json.loads(engine.read_blob(descriptor.digest))
    return manifest, json.loads(engine.read_blob(manifest["config"]["digest"]))


def layer_file(tmp_path, content: bytes, name="layer.tar"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_tar_becomes_a_tagged_image(cas, tmp_path):
    tar = make_tar(hello=b"world")
    path = layer_file(tmp_path, tar)
    image = build_image(cas, [path], reference="v1", platform="linux/arm64/v8")
    assert entries_of(cas) == [("v1", image.digest)]
    manifest, config = parts(cas, image)
    assert manifest == {
        "schemaVersion": 2,
        "mediaType": model.MEDIA_TYPE_MANIFEST,
        "config": manifest["config"],
        "layers": [{"mediaType": model.MEDIA_TYPE_LAYER, "digest": digest_of(tar), "size": len(tar)}],
    }
    assert manifest["config"]["mediaType"] == model.MEDIA_TYPE_CONFIG
    assert config == {
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]},
        "history": [{"created_by": "fastcas"}],
    }


def test_the_bytes_are_those_of_the_go_structs(cas, tmp_path):
    image = build_image(
        cas,
        [layer_file(tmp_path, make_tar(a=b"<&>"))],
        platform=Platform("amd64", "windows", "10.0", ["win32k"]),
        config={
            "Cmd": ["-c", "a<b"],
            "Env": ["PATH=/bin", "B=2"],
            "User": "me",
            "Entrypoint": ("/bin/sh",),
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/data": {}},
            "WorkingDir": "/",
            "Labels": {"b": "2", "a": "1"},
            "StopSignal": "SIGTERM",
            "ArgsEscaped": True,
        },
        annotations={"b": "2", "a": "1"},
        created=TIME,
        author="me",
        history=[History(created_by="COPY", comment="c", author="x")],
    )
    manifest = cas.read_blob(image.digest)
    config = cas.read_blob(Manifest.from_json(manifest).config.digest)
    diff_id = digest_of(make_tar(a=b"<&>"))
    assert config.decode() == (
        f'{{"created":"{TIME_TEXT}","author":"me","architecture":"amd64","os":"windows",'
        '"os.version":"10.0","os.features":["win32k"],"config":{"User":"me","ExposedPorts":'
        '{"53/udp":{},"80/tcp":{}},"Env":["PATH=/bin","B=2"],"Entrypoint":["/bin/sh"],'
        '"Cmd":["-c","a\\u003cb"],"Volumes":{"/data":{}},"WorkingDir":"/","Labels":{"a":"1","b":"2"},'
        f'"StopSignal":"SIGTERM","ArgsEscaped":true}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},'
        '"history":[{"created_by":"COPY","author":"x","comment":"c"}]}\n'
    )
    assert manifest.decode().endswith('"annotations":{"a":"1","b":"2"}}\n')


def test_equal_arguments_give_equal_digests(tmp_path, folder):
    made = []
    for kind in KINDS:
        with create(kind, tmp_path / kind) as engine:
            image = build_image(engine, [folder], created=TIME, platform="linux/amd64")
            made.append((image, blobs_of(engine)))
            assert build_image(engine, [folder], created=TIME, platform="linux/amd64") == image
    assert made[0] == made[1]
    # Pinned: another version of Python, or of fastcas, has to make the same.
    assert made[0][0].digest == (
        "sha256:195cbd4bbed5b5737b4a2013407e10e4d895f206c3374d701a27a16d3f093b6f"
    )


def test_a_folder_is_packed_no_later_than_created(cas, folder, tmp_path):
    image = build_image(cas, [folder], created=TIME)
    manifest, config = parts(cas, image)
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == model.MEDIA_TYPE_LAYER
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["created"] == config["history"][0]["created"] == TIME_TEXT
    with tarfile.open(fileobj=io.BytesIO(cas.read_blob(layer["digest"]))) as tar:
        assert {(m.name, m.mtime, m.uid) for m in tar} == {("bin", TIME, 0), ("bin/tool", TIME, 0)}


def zstd(content):
    return pytest.importorskip("backports.zstd").compress(content)


@pytest.mark.parametrize(
    ("compress", "media_type"),
    [(gzip.compress, model.MEDIA_TYPE_LAYER_GZIP), (zstd, model.MEDIA_TYPE_LAYER_ZSTD)],
)
def test_compressed_tars_are_kept_and_looked_into(cas, tmp_path, compress, media_type):
    tar = make_tar(a=b"x" * 300_000)
    path = layer_file(tmp_path, compress(tar))
    layer = put_layer(cas, path)
    assert layer.descriptor.media_type == media_type
    assert cas.read_blob(layer.descriptor.digest) == path.read_bytes()
    assert layer.diff_id == digest_of(tar)
    # The same by the descriptor of what is stored now.
    assert put_layer(cas, layer.descriptor) == layer
    assert put_layer(cas, layer) == layer


@pytest.mark.parametrize("compress", ["gzip", "zstd", "none"])
def test_layers_are_compressed_if_asked(dir_cas, folder, tmp_path, compress):
    tar = make_tar(a=b"x" * 100_000)
    path = layer_file(tmp_path, tar)
    plain = put_layer(dir_cas, folder)
    kind = {
        "gzip": model.MEDIA_TYPE_LAYER_GZIP,
        "zstd": model.MEDIA_TYPE_LAYER_ZSTD,
        "none": model.MEDIA_TYPE_LAYER,
    }[compress]
    image = build_image(dir_cas, [path, folder], compress=compress)
    manifest, config = parts(dir_cas, image)
    assert [layer["mediaType"] for layer in manifest["layers"]] == [kind, kind]
    assert config["rootfs"]["diff_ids"] == [digest_of(tar), plain.diff_id]
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        with dir_cas.get_plain_blob(layer["digest"], diff_id=diff_id) as reader:
            reader.readall()


@pytest.mark.parametrize(
    "content", [b"", b"no tar", b"x" * 2000, gzip.compress(b"no tar"), gzip.compress(make_tar())[:-3]]
)
def test_what_is_no_tar(cas, tmp_path, content):
    with pytest.raises(InvalidError):
        build_image(cas, [layer_file(tmp_path, content)], reference="v1")
    assert entries_of(cas) == []


def test_what_is_no_layer(cas, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for wrong, error in (
        (tmp_path / "none", FileNotFoundError),
        (tmp_path / "fifo", InvalidError),
        (Descriptor(model.MEDIA_TYPE_LAYER, AWAY, 3), NotExistError),
        (Layer(Descriptor(model.MEDIA_TYPE_LAYER, AWAY, 3), AWAY), NotExistError),
        (put(cas, b"x").replace(size=2), SizeMismatchError),
        (5, TypeError),
    ):
        with pytest.raises(error):
            build_image(cas, [wrong], reference="v1")
    assert entries_of(cas) == []


def test_an_image_of_no_layers(cas):
    image = build_image(cas, [], reference="v1")
    manifest, config = parts(cas, image)
    assert manifest["layers"] == []
    assert config["rootfs"] == {"type": "layers", "diff_ids": []}
    assert "history" not in config


@pytest.mark.parametrize(
    "wrong",
    [
        {"reference": "not a name"},
        {"platform": "linux"},
        {"platform": "linux/amd64/v1/x"},
        {"platform": "/amd64"},
        {"config": {"Entripoint": ["/bin/sh"]}},
        {"config": {"Cmd": "/bin/sh"}},
        {"config": {"Env": ["PATH"]}},
        {"config": {"Env": ["=x"]}},
        {"config": {"ExposedPorts": {"80/tcp": {"x": 1}}}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"User": "\ud800"}},
        {"config": 5},
        {"created": -1},
        {"created": 1 << 40},
        {"created": True},
        {"created": "2023"},
        {"created": 1.5},
        {"created": datetime(2023, 1, 1)},
        {"history": ["one", "two"]},
        {"annotations": {"a": 1}},
    ],
)
def test_wrong_arguments(cas, tmp_path, wrong):
    path = layer_file(tmp_path, make_tar(a=b"a"))
    with pytest.raises(InvalidError):
        build_image(cas, [path], **{"reference": "v1", **wrong})
    assert entries_of(cas) == []


def test_moments(cas):
    zone = timezone(timedelta(hours=2))
    for created, text in (
        (0, "1970-01-01T00:00:00Z"),
        (TIME, TIME_TEXT),
        (datetime(2023, 11, 15, 0, 13, 20, 999_999, tzinfo=zone), TIME_TEXT),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc), "9999-12-31T23:59:59Z"),
    ):
        assert parts(cas, build_image(cas, [], created=created))[1]["created"] == text


def test_the_platform_of_this_machine(cas):
    _, config = parts(cas, build_image(cas, []))
    machine = os.uname().machine
    expected = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine)
    assert config["os"] == "linux"
    if expected is not None:
        assert config["architecture"] == expected


# append_layers


def test_layers_on_top(cas, tmp_path):
    base = build_image(
        cas,
        [layer_file(tmp_path, make_tar(a=b"a"))],
        reference="v1",
        created=5,
        config={"Cmd": ["x"]},
        annotations={"a": "1", "b": "1"},
    )
    path = layer_file(tmp_path, make_tar(b=b"b"))
    top = append_layers(
        cas,
        "v1",
        [path],
        new_reference="v2",
        created=TIME,
        author="me",
        history=["ADD b"],
        annotations={"b": "2"},
    )
    assert entries_of(cas) == [("v1", base.digest), ("v2", top.digest)]
    manifest, config = parts(cas, top)
    assert [layer["digest"] for layer in manifest["layers"]] == config["rootfs"]["diff_ids"]
    assert config["rootfs"]["diff_ids"] == [digest_of(make_tar(a=b"a")), digest_of(make_tar(b=b"b"))]
    assert config["created"] == TIME_TEXT
    assert config["author"] == "me"
    assert config["config"] == {"Cmd": ["x"]}
    assert [step.get("created_by") for step in config["history"]] == ["fastcas", "ADD b"]
    assert manifest["annotations"] == {"a": "1", "b": "2"}


def test_what_is_unknown_is_kept(cas, tmp_path):
    layer = put(cas, b"base layer", annotations={"x": "y"})
    config = put(
        cas,
        {
            "future": {"a": [1]},
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [str(layer.digest)], "more": 1},
            "config": {"OnBuild": ["x"]},
            "created": "2001-01-01T00:00:00.5Z",
        },
        model.MEDIA_TYPE_CONFIG,
    )
    raw = Manifest(config, [layer]).to_json()
    raw = raw.replace(b'"schemaVersion":2', b'"schemaVersion":2,"future":[{}]')
    image = put(cas, raw, model.MEDIA_TYPE_MANIFEST)
    cas.update_reference("v1", image.replace(annotations={"kept": "yes"}))
    top = append_layers(cas, "v1", [layer_file(tmp_path, make_tar(b=b"b"))])
    assert top.annotations == {"kept": "yes", ANNOTATION_REF_NAME: "v1"}
    manifest, found = parts(cas, top)
    assert manifest["future"] == [{}]
    assert manifest["layers"][0]["annotations"] == {"x": "y"}
    assert found["future"] == {"a": [1]}
    assert found["rootfs"]["more"] == 1
    assert found["config"] == {"OnBuild": ["x"]}
    assert found["created"] == "2001-01-01T00:00:00.5Z"
    # One entry for each layer, also for those that had none.
    assert found["history"] == [{}, {"created_by": "fastcas"}]


def test_one_platform_of_an_index(cas, tmp_path):
    index = put_platforms(cas, "amd64", "arm64")
    outer = put_index(cas, [index, put_image(cas, b"x").replace(platform=Platform("s390x", "linux"))])
    cas.update_reference("v1", outer)
    path = layer_file(tmp_path, make_tar(b=b"b"))
    with pytest.raises(InvalidError):
        append_layers(cas, "v1", [path])
    with pytest.raises(NotExistError):
        append_layers(cas, "v1", [path], platform="linux/riscv64")
    root = append_layers(cas, "v1", [path], platform="linux/arm64")
    assert entries_of(cas) == [("v1", root.digest)]
    assert root.media_type == model.MEDIA_TYPE_INDEX
    new_outer = Index.from_json(cas.read_blob(root.digest))
    old_outer = Index.from_json(cas.read_blob(outer.digest))
    assert new_outer.manifests[1] == old_outer.manifests[1]
    new = Index.from_json(cas.read_blob(new_outer.manifests[0].digest))
    old = Index.from_json(cas.read_blob(index.digest))
    assert new.manifests[0] == old.manifests[0]
    assert new.manifests[1].platform == Platform("arm64", "linux")
    assert new.manifests[1].digest != old.manifests[1].digest
    assert len(parts(cas, new.manifests[1])[0]["layers"]) == 2


def test_docker_images_stay_docker_images(dir_cas, tmp_path):
    cas = dir_cas
    config = put(
        cas,
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}},
        model.MEDIA_TYPE_DOCKER_CONFIG,
    )
    raw = Manifest(config, [], media_type=model.MEDIA_TYPE_DOCKER_MANIFEST).to_json()
    cas.update_reference("v1", put(cas, raw, model.MEDIA_TYPE_DOCKER_MANIFEST))
    path = layer_file(tmp_path, make_tar(b=b"b"))
    top = append_layers(cas, "v1", [path], compress="gzip")
    manifest, _ = parts(cas, top)
    assert top.media_type == manifest["mediaType"] == model.MEDIA_TYPE_DOCKER_MANIFEST
    assert manifest["config"]["mediaType"] == model.MEDIA_TYPE_DOCKER_CONFIG
    assert manifest["layers"][0]["mediaType"] == model.MEDIA_TYPE_DOCKER_LAYER_GZIP


def test_embedded_configs_are_not_left_behind(cas, tmp_path):
    image = put_image(cas, b"base")
    manifest = Manifest.from_json(cas.read_blob(image.digest))
    content = cas.read_blob(manifest.config.digest)
    raw = manifest.replace(config=manifest.config.replace(data=content)).to_json()
    cas.update_reference("v1", put(cas, raw, model.MEDIA_TYPE_MANIFEST))
    top = append_layers(cas, "v1", [layer_file(tmp_path, make_tar(b=b"b"))])
    manifest, config = parts(cas, top)
    assert "data" not in manifest["config"]
    assert len(config["rootfs"]["diff_ids"]) == 2


def test_an_image_that_is_collected_while_it_is_appended_to(cas, tmp_path, monkeypatch):
    """Its name goes, and gc takes the layers that the new image shares with it."""
    image = put_image(cas, b"base")
    cas.update_reference("v1", image)
    base = parts(cas, image)[0]["layers"][0]["digest"]
    update = cas.update_index

    def collect_first(function):
        monkeypatch.setattr(cas, "update_index", update)
        cas.delete_reference("v1")
        cas.delete_blob(base)
        cas.delete_blob(image.digest)
        return update(function)

    monkeypatch.setattr(cas, "update_index", collect_first)
    with pytest.raises(NotExistError):
        append_layers(cas, "v1", [layer_file(tmp_path, make_tar(b=b"b"))], new_reference="v2")
    assert entries_of(cas) == []


@pytest.mark.parametrize("what", ["image", "index", "append"])
def test_what_is_collected_before_it_has_a_name(cas, tmp_path, monkeypatch, what):
    """A put and the name that needs it were further apart than the grace of a gc."""
    base = put_image(cas, b"base")
    cas.update_reference("base", base)
    content = make_tar(b=b"b")
    layer = put(cas, content)
    lost = parts(cas, base)[0]["layers"][0]["digest"] if what == "index" else layer.digest
    update = cas.update_index

    def collect_first(function):
        cas.delete_blob(lost)
        return update(function)

    monkeypatch.setattr(cas, "update_index", collect_first)
    with pytest.raises(NotExistError) as caught:
        if what == "image":
            build_image(cas, [layer], reference="v1")
        elif what == "index":
            build_index(cas, [base], reference="v1")
        else:
            append_layers(cas, "base", [layer])
    assert caught.value.digest == lost
    assert entries_of(cas) == [("base", base.digest)]


def test_what_can_not_be_appended_to(cas, tmp_path):
    path = layer_file(tmp_path, make_tar(b=b"b"))
    opaque = put(cas, b"x", "application/x-unknown")
    artifact = put(
        cas,
        Manifest(put(cas, {}, "application/x-config"), []).to_json(),
        model.MEDIA_TYPE_MANIFEST,
    )
    config = put(
        cas,
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [AWAY]}},
        model.MEDIA_TYPE_CONFIG,
    )
    uneven = put(cas, Manifest(config, []).to_json(), model.MEDIA_TYPE_MANIFEST)
    for name, entry in (("opaque", opaque), ("artifact", artifact), ("uneven", uneven)):
        cas.update_reference(name, entry)
        with pytest.raises(InvalidError):
            append_layers(cas, name, [path])
        assert dict(entries_of(cas))[name] == entry.digest
    with pytest.raises(NotExistError):
        append_layers(cas, "none", [path])
    with pytest.raises(InvalidError):
        append_layers(cas, "opaque", [path], new_reference="not a name")
    # A digest is no name that the result could have.
    image = build_image(cas, [path], reference="v1")
    with pytest.raises(InvalidError):
        append_layers(cas, image.digest, [path])
    assert append_layers(cas, image.digest, [path], new_reference="v2").digest != image.digest


def test_a_name_that_moves_meanwhile(dir_cas, tmp_path, monkeypatch):
    cas = dir_cas
    build_image(cas, [layer_file(tmp_path, make_tar(a=b"a"))], reference="v1")
    path = layer_file(tmp_path, make_tar(b=b"b"))
    other = layer_file(tmp_path, make_tar(c=b"c"), "other.tar")
    real = build._swap_entry

    def late(*arguments):
        monkeypatch.setattr(build, "_swap_entry", real)
        append_layers(cas, "v1", [other])
        return real(*arguments)

    monkeypatch.setattr(build, "_swap_entry", late)
    top = append_layers(cas, "v1", [path])
    _, config = parts(cas, top)
    expected = [digest_of(make_tar(**{name: name.encode()})) for name in "acb"]
    assert config["rootfs"]["diff_ids"] == expected
    assert entries_of(cas) == [("v1", top.digest)]
    monkeypatch.setattr(build, "_swap_entry", lambda *_: False)
    with pytest.raises(InvalidError):
        append_layers(cas, "v1", [path])


def _append_often(path, tar, times):
    with fastcas.open(path, durability="none") as cas:
        for _ in range(times):
            append_layers(cas, "v1", [Path(tar)])


def test_several_processes_append_to_one_name(dir_cas, tmp_path, spawn):
    build_image(dir_cas, [], reference="v1")
    path = layer_file(tmp_path, make_tar(a=b"a"))
    children = [spawn(_append_often, dir_cas.path, str(path), 5) for _ in range(3)]
    for child in children:
        child.result()
    (entry,) = dir_cas.get_index().manifests
    manifest, config = parts(dir_cas, entry)
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == 15


# build_index


def test_an_index_of_platforms(cas):
    images = [
        build_image(cas, [], platform=f"linux/{name}", reference=name)
        for name in ("amd64", "arm64", "arm/v7")
        if "/" not in name
    ]
    third = build_image(cas, [], platform=Platform("arm", "linux", variant="v7"))
    index = build_index(cas, ["amd64", images[1], third], reference="all", annotations={"a": "b"})
    assert dict(entries_of(cas))["all"] == index.digest
    document = Index.from_json(cas.read_blob(index.digest))
    assert [entry.platform for entry in document.manifests] == [
        Platform("amd64", "linux"),
        Platform("arm64", "linux"),
        Platform("arm", "linux", variant="v7"),
    ]
    assert document.annotations == {"a": "b"}
    # A name of index.json isn't one of this index.
    assert [entry.annotations for entry in document.manifests] == [None] * 3
    assert cas.resolve_reference("all", platform="linux/arm64")[0][-1].digest == images[1].digest


def test_a_platform_that_is_given_stays(cas):
    image = build_image(cas, [], platform="linux/amd64")
    given = image.replace(platform=Platform("unknown", "unknown"))
    index = build_index(cas, [given])
    assert Index.from_json(cas.read_blob(index.digest)).manifests == (given,)


def test_an_index_of_what_is_not_there(cas):
    for absent in ("none", Descriptor(model.MEDIA_TYPE_MANIFEST, AWAY, 5)):
        with pytest.raises(NotExistError):
            build_index(cas, [absent], reference="all")
    with pytest.raises(InvalidError):
        build_index(cas, [], reference="not a name")
    assert entries_of(cas) == []


def test_indexes_and_artifacts_have_no_platform(cas):
    inner = put_platforms(cas, "amd64")
    artifact = put(
        cas,
        Manifest(put(cas, {}, "application/x-config"), []).to_json(),
        model.MEDIA_TYPE_MANIFEST,
    )
    index = build_index(cas, [inner, artifact])
    found = Index.from_json(cas.read_blob(index.digest)).manifests
    assert [entry.platform for entry in found] == [None, None]


def test_documents_have_a_limit(cas, monkeypatch):
    monkeypatch.setattr("fastcas.image.publish.DOCUMENT_LIMIT", 300)
    with pytest.raises(InvalidError):
        build_image(cas, [], annotations={"a": "x" * 300}, reference="v1")
    assert entries_of(cas) == []
