"""Images from one engine to another: whole, in a safe order, and named last."""

from __future__ import annotations

import json
import os
import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastcas import model
from fastcas.digest import Digest
from fastcas.dir.engine import DirEngine
from fastcas.errors import (
    CorruptError,
    DigestMismatchError,
    InvalidError,
    NotExistError,
    SizeMismatchError,
)
from fastcas.image import closure
from fastcas.image.copy import copy_image, copy_images
from fastcas.model import ANNOTATION_REF_NAME, Descriptor, Index, Manifest
from samples import KINDS, blobs_of, create, entries_of, put, put_image, put_index, put_platforms
from test_cases import own_names

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

AWAY = "sha256:" + "0" * 64


@pytest.fixture(params=KINDS)
def source(request, tmp_path):
    with create(request.param, tmp_path / "source") as engine:
        yield engine


@pytest.fixture(params=KINDS)
def target(request, tmp_path):
    with create(request.param, tmp_path / "target") as engine:
        yield engine


class Watched:
    """An engine that writes down what is done to it, and can fail."""

    def __init__(self, engine, fail_after=None):
        self._engine = engine
        self._fail_after = fail_after
        self.done = []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def put_copy(self, blob, **more):
        if self._fail_after is not None and len(self.done) >= self._fail_after:
            raise OSError(28, "No space left on device")
        self.done.append(blob.digest)
        return self._engine.put_copy(blob, **more)

    def put_copies(self, blobs, **more):
        return [self.put_copy(blob, **more) for blob in blobs]

    def update_index(self, function):
        self.done.append("index")
        return self._engine.update_index(function)


def test_an_image_with_all_that_it_needs(source, target):
    image = put_image(source, b"base", b"top")
    source.update_reference("v1", image)
    put_image(source, b"another")
    found = copy_image(source, "v1", target)
    assert entries_of(target) == [("v1", image.digest)]
    assert target.read_blob(image.digest) == source.read_blob(image.digest)
    assert len(blobs_of(target)) == 4
    assert blobs_of(target) < blobs_of(source)
    assert found.descriptor == target.get_index().manifests[0]
    assert (found.blobs, found.missing) == (4, [])
    assert found.bytes == sum(target.stat_blob(digest).size for digest in blobs_of(target))
    assert sum(found.methods.values()) == 4


def test_all_images(source, target):
    old = put_image(target, b"old")
    target.update_reference("v2", old)
    target.update_reference("kept", old)
    images = [put_image(source, b"base", name) for name in (b"one", b"two", b"three")]
    source.update_reference("v1", images[0])
    source.update_reference("v2", images[1])
    source.update_index(lambda index: index.replace(manifests=[*index.manifests, images[2]]))
    put_image(source, b"nothing leads here")
    found = copy_images(source, target)
    assert entries_of(target) == [
        ("kept", old.digest),
        ("v1", images[0].digest),
        ("v2", images[1].digest),
        (None, images[2].digest),
    ]
    assert [entry.digest for entry in found.entries] == [image.digest for image in images]
    assert (found.blobs, found.missing) == (10, [])
    before = entries_of(target)
    assert sum(copy_images(source, target).methods.values()) == 10
    assert entries_of(target) == before


def test_many_copies_at_once(pair):
    """Parts come in any order, more of them than are open at once, of two algorithms."""
    source, target = pair
    parts = [b"%d" % number * (number << (number % 13)) for number in range(80)]
    parts += [random.Random(number).randbytes(3 << 20) for number in range(3)]
    digests = [source.put_blob(part).digest for part in parts]
    digests += [source.put_blob(part, algorithm="sha512").digest for part in parts[:20]]
    target.put_blob(parts[7])
    calls = []
    with ExitStack() as stack:
        blobs = [stack.enter_context(source.get_blob(digest)) for digest in digests]
        copied = target.put_copies(blobs, progress=lambda done, _: calls.append(done))
    assert [copy.size for copy in copied] == [blob.size for blob in blobs]
    assert copied[7].method == "exists"
    assert {copy.method for copy in copied} == {"exists", "copy"}
    assert calls == sorted(calls)
    assert calls[-1] == sum(copy.size for copy in copied)
    for digest in digests:
        target.read_blob(digest)


def test_one_of_many_is_damaged(pair):
    source, target = pair
    good, bad = put(source, random.Random(1).randbytes(3 << 20)), put(source, b"bad" * (1 << 20))
    damage(source, bad.digest)
    with source.get_blob(good.digest) as first, source.get_blob(bad.digest) as second:
        with pytest.raises(DigestMismatchError) as caught:
            target.put_copies([first, second])
    assert caught.value.expected == bad.digest
    assert bad.digest not in target
    for digest in target.list_blobs():
        target.read_blob(digest)


def test_many_copies_share_what_can_be_shared(pair, reflinks):
    source, target = pair
    digests = [put(source, bytes([number]) * (2 << 20)).digest for number in range(3)]
    with ExitStack() as stack:
        blobs = [stack.enter_context(source.get_blob(digest)) for digest in digests]
        assert {copy.method for copy in target.put_copies(blobs)} == {"reflink"}
    assert len(reflinks) == 3


def test_under_another_name(source, target):
    image = put_image(source, b"base").replace(annotations={"a": "b"})
    source.update_reference("v1", image)
    copy_image(source, "v1", target, "other/name:2")
    (entry,) = target.get_index().manifests
    assert entry.annotations == {"a": "b", ANNOTATION_REF_NAME: "other/name:2"}
    with pytest.raises(InvalidError):
        copy_image(source, "v1", target, "not a name")
    assert len(target.get_index().manifests) == 1


def test_a_name_that_is_there_moves(source, target):
    old = put_image(target, b"old")
    target.update_reference("v1", old)
    target.update_reference("v0", old)
    image = put_image(source, b"new")
    source.update_reference("v1", image)
    copy_image(source, "v1", target)
    assert entries_of(target) == [("v0", old.digest), ("v1", image.digest)]


def test_by_digest_without_a_name(source, target):
    image = put_image(source, b"base")
    source.update_reference("v1", image)
    for _ in range(2):  # the second time, its entry is there
        copy_image(source, image.digest, target)
        assert entries_of(target) == [(None, image.digest)]
    copy_image(source, image.digest, target, "v2")
    assert entries_of(target) == [(None, image.digest), ("v2", image.digest)]


def test_a_digest_of_something_within_an_index(source, target):
    inner = put_platforms(source, "amd64", "arm64")
    source.update_reference("v1", put_index(source, [put_image(source, b"x"), inner]))
    arm = Index.from_json(source.read_blob(inner.digest)).manifests[1]
    for asked, expected in (
        (inner.digest, inner),
        (inner.digest.encoded[:12], inner),
        (arm.digest, arm),
        (f"v1@{inner.digest}", inner),
    ):
        found = copy_image(source, asked, target, "copy")
        assert found.descriptor.digest == expected.digest


def test_what_is_there_is_not_copied_again(tmp_path):
    with create("dir", tmp_path / "source") as source, create("dir", tmp_path / "target") as target:
        source.update_reference("v1", put_image(source, b"base", b"top"))
        source.update_reference("v2", put_image(source, b"base", b"other top"))
        assert copy_image(source, "v1", target).blobs == 4
        again = copy_image(source, "v2", target)
        assert (again.blobs, again.methods["exists"]) == (3, 1)
        again = copy_image(source, "v2", target, "v3")
        assert (again.blobs, again.bytes, again.methods) == (0, 0, {"exists": 4})
        assert target.list_references() == ["v1", "v2", "v3"]


def test_children_before_parents_and_the_index_last(source, target):
    index = put_platforms(source, "amd64", "arm64")
    source.update_reference("v1", put_index(source, [index, put_image(source, b"layer of amd64")]))
    watched = Watched(target)
    copy_image(source, "v1", watched)
    assert watched.done[-1] == "index"
    assert watched.done.count("index") == 1
    seen = set()
    for digest in watched.done[:-1]:
        assert digest not in seen, "each once"
        document = source.read_blob(digest)
        if b"schemaVersion" in document:
            children = json.loads(document)
            needed = [d["digest"] for d in children.get("manifests") or children.get("layers")]
            assert set(needed) <= seen
        seen.add(digest)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_copy_names_nothing(source, target, after):
    old = put_image(target, b"old")
    target.update_reference("v1", old)
    source.update_reference("v1", put_image(source, b"one", b"two"))
    before = target.get_index().to_json()
    with pytest.raises(OSError, match="No space"):
        copy_image(source, "v1", Watched(target, fail_after=after))
    assert target.get_index().to_json() == before
    for digest in target.list_blobs():
        target.read_blob(digest)
    copy_image(source, "v1", target)
    assert target.list_references() == ["v1"]


@pytest.mark.parametrize("what", ["layer", "manifest", "config"])
@pytest.mark.parametrize("damage", ["changed", "longer"])
def test_a_damaged_source_is_noticed(source, target, tmp_path, what, damage):
    layer = b"layer" * 100
    image = put_image(source, layer)
    source.update_reference("v1", image)
    manifest = Manifest.from_json(source.read_blob(image.digest))
    victim = {"layer": manifest.layers[0], "manifest": image, "config": manifest.config}[what]
    path = tmp_path / "source" / "blobs" / "sha256" / victim.digest.encoded
    content = bytearray(path.read_bytes())
    if damage == "longer":
        content += b" "
    else:
        content[7] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises((CorruptError, InvalidError)):
        copy_image(source, "v1", target)
    assert entries_of(target) == []
    assert victim.digest not in target


def test_a_platform_alone(source, target):
    index = put_platforms(source, "amd64", "arm64")
    source.update_reference("v1", index)
    arm = Index.from_json(source.read_blob(index.digest)).manifests[1]
    found = copy_image(source, "v1", target, platform="linux/arm64")
    assert entries_of(target) == [("v1", arm.digest)]
    assert len(blobs_of(target)) == 3
    assert found.descriptor.digest == arm.digest
    with pytest.raises(NotExistError):
        copy_image(source, "v1", target, platform="linux/s390x")


def test_an_index_as_one(source, target):
    index = put_platforms(source, "amd64", "arm64")
    source.update_reference("v1", index)
    copy_image(source, "v1", target)
    assert entries_of(target) == [("v1", index.digest)]
    assert blobs_of(target) == blobs_of(source)


def test_platforms_that_the_source_lacks_are_left_out(source, target):
    index = put_platforms(source, "amd64", "arm64")
    source.update_reference("v1", index)
    gone = Index.from_json(source.read_blob(index.digest)).manifests[0]
    source.delete_blob(gone.digest)
    found = copy_image(source, "v1", target)
    assert found.missing == [gone.digest]
    assert entries_of(target) == [("v1", index.digest)]
    assert gone.digest not in target


@pytest.mark.parametrize("what", ["layer", "config", "root"])
def test_what_an_image_needs_must_be_there(source, target, what):
    image = put_image(source, b"layer")
    source.update_reference("v1", image)
    manifest = Manifest.from_json(source.read_blob(image.digest))
    lost = {"layer": manifest.layers[0], "config": manifest.config, "root": image}[what]
    source.delete_blob(lost.digest)
    with pytest.raises(NotExistError) as caught:
        copy_image(source, "v1", target)
    assert caught.value.digest == lost.digest
    assert blobs_of(target) == set()
    assert entries_of(target) == []


def test_what_is_optional_in_one_place_is_needed_in_another(source, target):
    lost = Descriptor(model.MEDIA_TYPE_MANIFEST, AWAY, 10)
    holder = put_image(source, b"layer", subject=lost)
    source.update_reference("fine", holder)
    copy_image(source, "fine", target)
    config = put(source, {}, model.MEDIA_TYPE_CONFIG)
    needy = put(source, Manifest(config, [lost]).to_json(), model.MEDIA_TYPE_MANIFEST)
    source.update_reference("needy", put_index(source, [holder, needy]))
    with pytest.raises(NotExistError):
        copy_image(source, "needy", target)


@pytest.mark.parametrize(
    "layer",
    [
        Descriptor(model.MEDIA_TYPE_LAYER, AWAY, 10, urls=["https://example.org/layer"]),
        Descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", AWAY, 10),
        Descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", AWAY, 10),
    ],
)
def test_layers_that_are_kept_elsewhere_may_be_missing(source, target, layer):
    config = put(source, {"os": "windows"}, model.MEDIA_TYPE_CONFIG)
    raw = Manifest(config, [layer]).to_json()
    source.update_reference("v1", put(source, raw, model.MEDIA_TYPE_MANIFEST))
    assert copy_image(source, "v1", target).missing == [AWAY]
    assert target.list_references() == ["v1"]


def test_a_size_that_is_not_the_descriptors(source, target):
    config = put(source, {}, model.MEDIA_TYPE_CONFIG)
    layer = put(source, b"layer")
    raw = Manifest(config, [layer.replace(size=4)]).to_json()
    source.update_reference("v1", put(source, raw, model.MEDIA_TYPE_MANIFEST))
    with pytest.raises(SizeMismatchError):
        copy_image(source, "v1", target)
    assert entries_of(target) == []


def test_embedded_content_that_is_not_stored(source, target):
    config = put(source, {"os": "linux"}, model.MEDIA_TYPE_CONFIG)
    content = source.read_blob(config.digest)
    source.delete_blob(config.digest)
    raw = Manifest(config.replace(data=content), []).to_json()
    source.update_reference("v1", put(source, raw, model.MEDIA_TYPE_MANIFEST))
    copy_image(source, "v1", target)
    assert target.read_blob(config.digest) == content
    bad = Manifest(config.replace(data=b"x" * len(content)), []).to_json()
    source.update_reference("bad", put(source, bad, model.MEDIA_TYPE_MANIFEST))
    with create("dir", target_path(target)) as other:
        with pytest.raises(CorruptError):
            copy_image(source, "bad", other)
        assert entries_of(other) == []


def test_a_document_that_is_missing_here_and_embedded_there(source, target):
    image = put_image(source, b"layer")
    content = source.read_blob(image.digest)
    source.delete_blob(image.digest)
    both = put_index(source, [image, image.replace(data=content)])
    source.update_reference("v1", both)
    assert copy_image(source, "v1", target).missing == []
    assert blobs_of(target) == blobs_of(source) | {image.digest}


def test_a_blob_that_goes_from_the_target_meanwhile(source, target, monkeypatch):
    """A copy that takes longer than the grace of a gc of the target."""
    image = put_image(source, b"layer")
    source.update_reference("v1", image)
    lost = Manifest.from_json(source.read_blob(image.digest)).layers[0].digest
    update = target.update_index

    def remove_first(function):
        target.delete_blob(lost)
        return update(function)

    monkeypatch.setattr(target, "update_index", remove_first)
    with pytest.raises(NotExistError) as caught:
        copy_image(source, "v1", target)
    assert caught.value.digest == lost
    assert entries_of(target) == []


def target_path(target):
    path = getattr(target, "path", None) or target._root
    return type(target._root)(f"{path}-2") if path is target._root else f"{path}-2"


def test_docker_types_and_unknown_ones(source, target):
    layer = put(source, b"layer", model.MEDIA_TYPE_DOCKER_LAYER_GZIP)
    config = put(source, {}, model.MEDIA_TYPE_DOCKER_CONFIG)
    raw = Manifest(config, [layer], media_type=model.MEDIA_TYPE_DOCKER_MANIFEST).to_json()
    manifest = put(source, raw, model.MEDIA_TYPE_DOCKER_MANIFEST)
    raw = Index([manifest], media_type=model.MEDIA_TYPE_DOCKER_LIST).to_json()
    docker = put(source, raw, model.MEDIA_TYPE_DOCKER_LIST)
    opaque = put(source, b"\0\1", "application/x-unknown")
    source.update_reference("v1", put_index(source, [docker, opaque]))
    copy_image(source, "v1", target)
    assert blobs_of(target) == blobs_of(source)


def test_referrers_come_along_if_asked(source, target):
    image = put_image(source, b"layer")
    index = put_index(source, [image])
    source.update_reference("v1", index)
    signature = put_image(source, b"signature", subject=image, artifact_type="application/x-sig")
    of_index = put_image(source, b"sbom", subject=index, artifact_type="application/x-sbom")
    of_signature = put_image(source, b"stamp", subject=signature, artifact_type="application/x-stamp")
    source.update_reference("sig", signature)
    for entry in (of_index, of_signature):
        source.update_index(lambda i, entry=entry: i.replace(manifests=[*i.manifests, entry]))
    copy_image(source, "v1", target)
    assert entries_of(target) == [("v1", index.digest)]
    copy_image(source, "v1", target, referrers=True)
    names = entries_of(target)
    assert names[0] == ("v1", index.digest)
    others = {(None, d.digest) for d in (signature, of_index, of_signature)}
    assert set(names[1:]) == others
    assert {d.digest for d in target.referrers(image.digest)} == {signature.digest}
    copy_image(source, "v1", target, referrers=True)
    assert set(entries_of(target)) == {*others, ("v1", index.digest)}


def test_a_subject_comes_along_where_it_is_stored(source, target):
    image = put_image(source, b"layer")
    source.update_reference("sig", put_image(source, b"signature", subject=image))
    copy_image(source, "sig", target)
    assert image.digest in target


def test_names_that_say_nothing_or_too_much(source, target):
    for absent in ("v1", AWAY):
        with pytest.raises(NotExistError):
            copy_image(source, absent, target)
    entries = [
        put_image(source, content).replace(annotations={ANNOTATION_REF_NAME: "v1"})
        for content in (b"one", b"two")
    ]
    source.put_index(Index(entries))
    with pytest.raises(InvalidError):
        copy_image(source, "v1", target)
    source.put_index(
        Index([entries[0], entries[0].replace(annotations={ANNOTATION_REF_NAME: "v1", "more": "x"})])
    )
    copy_image(source, "v1", target)
    assert target.list_references() == ["v1"]


def test_within_one_engine(source):
    source.update_reference("v1", put_image(source, b"layer"))
    before = blobs_of(source)
    copy_image(source, "v1", source, "v2")
    assert blobs_of(source) == before
    assert source.list_references() == ["v1", "v2"]


def test_other_algorithms(source, target):
    config = put(source, {}, model.MEDIA_TYPE_CONFIG)
    digest, size = source.put_blob(b"layer", algorithm="sha512")
    raw = Manifest(config, [Descriptor(model.MEDIA_TYPE_LAYER, digest, size)]).to_json()
    source.update_reference("v1", put(source, raw, model.MEDIA_TYPE_MANIFEST))
    copy_image(source, "v1", target)
    assert target.read_blob(digest) == b"layer"


def test_progress_counts_to_the_whole(source, target):
    layer = random.Random(1).randbytes(3_000_000)
    source.update_reference("v1", put_image(source, layer, b"x"))
    calls = []
    copy_image(source, "v1", target, progress=lambda done, total: calls.append((done, total)))
    total = sum(source.stat_blob(digest).size for digest in blobs_of(target))
    assert {call[1] for call in calls} == {total}
    counts = [call[0] for call in calls]
    assert counts == sorted(counts)
    assert counts[-1] == total


def test_shared_levels_are_visited_once_and_depth_is_bounded(source, target, monkeypatch):
    node = put_image(source, b"layer")
    for _ in range(30):
        node = put_index(source, [node, node])
    source.update_reference("deep", node)
    found = copy_image(source, "deep", target)
    assert sum(found.methods.values()) == 33
    monkeypatch.setattr(closure, "DEPTH_LIMIT", 32)
    closure.find_closure(source, [node])
    monkeypatch.setattr(closure, "DEPTH_LIMIT", 31)
    with pytest.raises(InvalidError):
        closure.find_closure(source, [node])
    monkeypatch.setattr(closure, "NODE_LIMIT", 5)
    with pytest.raises(InvalidError):
        closure.find_closure(source, [node])


def test_a_manifest_that_is_first_met_as_an_unknown_type(source, target):
    image = put_image(source, b"layer")
    unknown = image.replace(media_type="application/x-unknown")
    source.update_reference("v1", put_index(source, [unknown, image]))
    copy_image(source, "v1", target)
    assert blobs_of(target) == blobs_of(source)


def test_a_put_while_the_index_of_the_target_moves(source, target):
    source.update_reference("v1", put_image(source, b"layer"))

    class Busy(Watched):
        def put_copy(self, blob, **more):
            self._engine.update_reference(f"n{len(self.done)}", put_image(self._engine, b"x"))
            return super().put_copy(blob, **more)

    copy_image(source, "v1", Busy(target))
    assert target.list_references() == ["n0", "n1", "n2", "v1"]


def test_a_blob_of_the_target_that_is_damaged_is_healed(tmp_path):
    with create("dir", tmp_path / "source") as source, create("dir", tmp_path / "target") as target:
        layer = random.Random(2).randbytes(2 << 20)
        source.update_reference("v1", put_image(source, b"small", layer))
        copy_image(source, "v1", target)
        big = target.put_blob(layer).digest
        small = target.put_blob(b"small").digest
        for digest, verify in ((small, False), (big, True)):
            path = tmp_path / "target" / "blobs" / "sha256" / Digest(digest).encoded
            content = bytearray(path.read_bytes())
            content[0] ^= 1
            path.chmod(0o600)
            path.write_bytes(content)
            copy_image(source, "v1", target, verify=verify)
            assert target.stat_blob(digest).size == len(content)
            target.read_blob(digest)


@pytest.fixture
def reflinks(monkeypatch):
    """Files share blocks, as on XFS and btrfs, though this filesystem may not know how."""
    made = []

    def clone(source, target):
        content = os.pread(source, os.fstat(source).st_size, 0)
        os.pwrite(target, content, 0)
        made.append(len(content))
        return True

    monkeypatch.setattr("fastcas.dir.ingest._reflink", clone)
    return made


@pytest.fixture
def pair(tmp_path):
    with create("dir", tmp_path / "source") as source, create("dir", tmp_path / "target") as target:
        yield source, target


def damage(engine, digest, position=0, more=b""):
    path = Path(engine.path) / "blobs" / "sha256" / Digest(digest).encoded
    content = bytearray(path.read_bytes()) + more
    content[position] ^= not more
    path.chmod(0o600)
    path.write_bytes(content)


def test_reflinks_between_directories(pair, reflinks):
    source, target = pair
    layer = random.Random(3).randbytes(2 << 20)
    source.update_reference("v1", put_image(source, layer, b"small"))
    found = copy_image(source, "v1", target)
    assert found.methods == {"reflink": 4}
    assert len(reflinks) == 4
    for digest in target.list_blobs():
        target.read_blob(digest)
        assert target.stat_blob(digest) == source.stat_blob(digest)
    assert copy_image(source, "v1", target, "v2").methods == {"exists": 4}
    assert len(reflinks) == 4
    assert own_names(target.path) == set()


def test_what_a_reflink_verifies(pair, reflinks):
    source, target = pair
    large = put(source, random.Random(4).randbytes((1 << 20) + 1))
    small = put(source, b"small")
    wrong = put(source, b"x" * 100)
    for descriptor in (large, small):
        damage(source, descriptor.digest)
    damage(source, wrong.digest, more=b"y")
    with source.get_blob(small.digest) as blob, pytest.raises(DigestMismatchError):
        target.put_copy(blob)
    with source.get_blob(large.digest) as blob, pytest.raises(DigestMismatchError):
        target.put_copy(blob, verify=True)
    with source.get_blob(wrong.digest) as blob, pytest.raises(DigestMismatchError):
        target.put_copy(blob)
    assert blobs_of(target) == set()
    # Stated: of a large one only the size is looked at.
    with source.get_blob(large.digest) as blob:
        assert target.put_copy(blob).method == "reflink"


@pytest.mark.parametrize("durability", ["full", "batch"])
def test_a_reflink_takes_the_place_of_nothing(pair, reflinks, durability):
    """It is the source that is damaged, and nobody reads what is shared."""
    source, good = pair
    content = random.Random(6).randbytes(3 << 20)
    large = put(source, content)
    put(good, content)
    path = Path(source.path) / "blobs" / "sha256" / large.digest.encoded
    path.chmod(0o600)
    os.truncate(path, 2 << 20)
    with DirEngine.open(good.path, durability=durability) as target:
        with source.get_blob(large.digest) as blob, pytest.raises(DigestMismatchError):
            target.put_copy(blob)
        target.sync()
        assert target.read_blob(large.digest) == content
    assert not reflinks


def test_a_copy_that_fails_names_its_blob(pair, monkeypatch):
    """Not the path by which its open file is opened again."""
    source, target = pair
    blobs = [put(source, random.Random(seed).randbytes(100_000)) for seed in range(2)]
    place = Path(target.path) / "blobs" / "sha256"
    place.rmdir()
    place.write_bytes(b"")
    monkeypatch.setattr(target._ingest, "share", lambda *_args, **_options: None)
    with ExitStack() as stack:
        readers = [stack.enter_context(source.get_blob(blob.digest)) for blob in blobs]
        with pytest.raises((InvalidError, OSError)) as caught:
            target.put_copies(readers)
    if hasattr(caught.value, "__notes__"):
        assert caught.value.__notes__ == [f"source 0 of put_blobs: '{blobs[0].digest}'"]


def test_a_reflink_of_another_size(pair, monkeypatch):
    source, target = pair
    large = put(source, bytes(2 << 20))

    def clone(_, fd):
        os.pwrite(fd, b"short", 0)
        return True

    monkeypatch.setattr("fastcas.dir.ingest._reflink", clone)
    with source.get_blob(large.digest) as blob, pytest.raises(SizeMismatchError):
        target.put_copy(blob)
    assert blobs_of(target) == set()


def test_what_exists_is_judged_as_by_a_put(pair):
    source, target = pair
    large = put(source, random.Random(5).randbytes(2 << 20))
    small = put(source, b"small")
    for descriptor in (large, small):
        with source.get_blob(descriptor.digest) as blob:
            assert target.put_copy(blob).method == "copy"
            path = Path(target.path) / "blobs" / "sha256" / descriptor.digest.encoded
            os.utime(path, (1, 1))
        with source.get_blob(descriptor.digest) as blob:
            assert target.put_copy(blob) == ("exists", descriptor.size)
            assert path.stat().st_mtime > 1, "marked as used: a collector spares it"
    damage(target, small.digest)
    with source.get_blob(small.digest) as blob:
        assert target.put_copy(blob).method == "copy"
    damage(target, large.digest)
    with source.get_blob(large.digest) as blob:
        assert target.put_copy(blob).method == "exists"
    with source.get_blob(large.digest) as blob:
        assert target.put_copy(blob, verify=True).method == "copy"
    for digest in target.list_blobs():
        target.read_blob(digest)


def test_readers_of_other_engines_are_read(tmp_path, reflinks):
    with create("oracle", tmp_path / "source") as source, create("dir", tmp_path / "target") as target:
        source.update_reference("v1", put_image(source, b"layer"))
        assert copy_image(source, "v1", target).methods == {"copy": 3}
    assert reflinks == []
