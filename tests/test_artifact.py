"""Files of any kind as an artifact."""

from __future__ import annotations

import json
import os

import pytest

from fastcas import model
from fastcas.errors import InvalidError, NotExistError
from fastcas.image.artifact import build_artifact
from fastcas.model import Manifest
from samples import KINDS, blobs_of, create, entries_of, put_image, put_platforms

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

KIND = "application/vnd.example.model"
EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
EMPTY_DESCRIPTOR = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": EMPTY,
    "size": 2,
    "data": "e30=",
}


@pytest.fixture(params=KINDS)
def cas(request, tmp_path):
    with create(request.param, tmp_path / "image") as engine:
        yield engine


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    (place / "sub").mkdir(parents=True)
    (place / "weights.bin").write_bytes(b"w" * 100_000)
    (place / "config.json").write_bytes(b"{}")
    (place / "sub" / "vocab").write_bytes(b"v")
    (place / "sub-2").write_bytes(b"s")
    return place


def titles(engine, descriptor):
    layers = Manifest.from_json(engine.read_blob(descriptor.digest)).layers
    return [layer.annotations["org.opencontainers.image.title"] for layer in layers]


def test_a_folder_becomes_a_tagged_artifact(cas, folder):
    found = build_artifact(cas, folder, artifact_type=KIND, reference="model", annotations={"a": "b"})
    assert entries_of(cas) == [("model", found.digest)]
    assert found.artifact_type == KIND
    raw = cas.read_blob(found.digest)
    manifest = json.loads(raw)
    assert list(manifest) == [
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "annotations",
    ]
    assert manifest["artifactType"] == KIND
    assert manifest["config"] == EMPTY_DESCRIPTOR
    assert cas.read_blob(EMPTY) == b"{}"
    assert titles(cas, found) == ["config.json", "sub-2", "sub/vocab", "weights.bin"]
    for layer in manifest["layers"]:
        title = layer["annotations"]["org.opencontainers.image.title"]
        assert layer["mediaType"] == "application/octet-stream"
        assert cas.read_blob(layer["digest"]) == (folder / title).read_bytes()
    assert manifest["annotations"] == {"a": "b"}


def test_equal_files_give_equal_digests(tmp_path, folder):
    made = []
    for kind in KINDS:
        with create(kind, tmp_path / kind) as engine:
            made.append(build_artifact(engine, folder, artifact_type=KIND, created=5))
            os.utime(folder / "weights.bin", (1, 1))
    assert made[0] == made[1]


def test_files_with_their_types(cas, folder):
    found = build_artifact(
        cas,
        [(folder / "config.json", "application/json"), str(folder / "weights.bin"), folder / "sub"],
        artifact_type=KIND,
        media_type="application/x-weights",
        created=5,
    )
    manifest = Manifest.from_json(cas.read_blob(found.digest))
    assert titles(cas, found) == ["config.json", "weights.bin", "vocab"]
    assert [layer.media_type for layer in manifest.layers] == [
        "application/json",
        "application/x-weights",
        "application/x-weights",
    ]
    assert manifest.annotations == {"org.opencontainers.image.created": "1970-01-01T00:00:05Z"}
    assert entries_of(cas) == []


def test_nothing_is_one_empty_layer(cas, tmp_path):
    (tmp_path / "empty").mkdir()
    for files in ([], tmp_path / "empty"):
        found = build_artifact(cas, files, artifact_type=KIND)
        manifest = json.loads(cas.read_blob(found.digest))
        assert manifest["layers"] == [EMPTY_DESCRIPTOR]


def test_a_subject_by_descriptor_name_and_digest(cas, folder):
    index = put_platforms(cas, "amd64", "arm64")
    cas.update_reference("v1", index.replace(annotations={"more": "x"}))
    for number, subject in enumerate((index, "v1", index.digest)):
        found = build_artifact(
            cas, folder / "config.json", artifact_type=f"{KIND}{number}", subject=subject
        )
        manifest = json.loads(cas.read_blob(found.digest))
        assert manifest["subject"] == {
            "mediaType": model.MEDIA_TYPE_INDEX,
            "digest": index.digest,
            "size": index.size,
        }
        # Without a name, so that referrers finds it.
        assert entries_of(cas)[-1] == (None, found.digest)
        assert found.digest in {entry.digest for entry in cas.referrers(index.digest)}
    named = build_artifact(cas, [], artifact_type=KIND, subject="v1", reference="sig")
    assert entries_of(cas)[-1] == ("sig", named.digest)
    with pytest.raises(NotExistError):
        build_artifact(cas, [], artifact_type=KIND, subject="none")


@pytest.mark.parametrize("wrong", ["", "model", "a/b/c", "a b/c", "a/b; c=d", "a/b\n", None, 5])
def test_media_types(cas, folder, wrong):
    with pytest.raises(InvalidError):
        build_artifact(cas, folder, artifact_type=wrong, reference="v1")
    with pytest.raises(InvalidError):
        build_artifact(cas, folder, artifact_type=KIND, media_type=wrong, reference="v1")
    with pytest.raises(InvalidError):
        build_artifact(cas, [(folder, wrong)], artifact_type=KIND, reference="v1")
    assert entries_of(cas) == []


def test_what_is_refused(cas, folder, tmp_path):
    def refused(files, error=InvalidError):
        with pytest.raises(error):
            build_artifact(cas, files, artifact_type=KIND, reference="v1")
        assert entries_of(cas) == []

    refused([folder / "config.json", folder / "config.json"])
    refused(tmp_path / "none", FileNotFoundError)
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo")
    (folder / "sub" / "link").symlink_to("/etc/passwd")
    refused(folder)
    (folder / "sub" / "link").unlink()
    os.mkfifo(folder / "fifo")
    refused(folder)
    with pytest.raises(InvalidError):
        build_artifact(cas, [], artifact_type=KIND, reference="not a name")


def test_a_file_that_changes_meanwhile(tmp_path, folder):
    with create("dir", tmp_path / "image") as cas:

        def grow(done, total):
            with (folder / "weights.bin").open("ab") as file:
                file.write(b"more")

        (folder / "weights.bin").write_bytes(b"w" * 3_000_000)
        with pytest.raises(InvalidError):
            build_artifact(cas, folder, artifact_type=KIND, reference="v1", progress=grow)
        assert entries_of(cas) == []


def test_progress(cas, folder):
    calls = []
    build_artifact(cas, folder, artifact_type=KIND, progress=lambda *call: calls.append(call))
    assert calls[-1] == (100_004, None)


def test_an_image_may_be_a_subject_that_is_not_here(cas):
    image = put_image(cas, b"layer")
    cas.delete_blob(image.digest)
    found = build_artifact(cas, [], artifact_type=KIND, subject=image)
    assert found.digest in blobs_of(cas)
