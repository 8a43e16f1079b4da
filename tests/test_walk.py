"""The graph of images: marking, walking, referrers, and documents with other descriptors."""

from __future__ import annotations

import os

import pytest

from fastcas import (
    CorruptError,
    Descriptor,
    Index,
    InvalidError,
    Manifest,
    NotExistError,
    SizeMismatchError,
    UnknownAlgorithmError,
)
from fastcas.contract import Contract
from fastcas.image import walk as module
from fastcas.image.ahead import Ahead
from fastcas.image.parse import OLDER_MANIFESTS
from fastcas.image.walk import Marked, mark
from images import (
    CONFIG,
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

    start = type(cas).start_reading

    def start_reading(self, wanted):
        end = start(self, wanted)

        def contents():
            found = end()
            pairs = zip(wanted, found, strict=True)
            seen.extend(str(digest) for (digest, _), content in pairs if content is not None)
            return found

        return contents

    monkeypatch.setattr(type(cas), "read_blob", read)
    monkeypatch.setattr(type(cas), "start_reading", start_reading)
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


@pytest.mark.parametrize("turn", [1, -1])
def test_mark_reads_a_document_that_is_embedded_in_one_descriptor_of_two(cas, turn):
    manifest = put_manifest(cas)
    raw = cas.read_blob(manifest.digest)
    cas.delete_blob(manifest.digest)
    roots = [manifest, manifest.replace(data=raw)][::turn]
    assert mark(cas, roots).digests == {manifest.digest, *cas}


@pytest.mark.parametrize("media_type", sorted(OLDER_MANIFESTS))
@pytest.mark.parametrize("below", [False, True])
def test_mark_fails_closed_on_manifests_of_withdrawn_types(cas, media_type, below):
    """What they name would be swept."""
    digest, size = cas.put_blob(b'{"fsLayers":[],"blobs":[]}')
    older = Descriptor(media_type, digest, size)
    root = put_index(cas, older) if below else older
    with pytest.raises(InvalidError, match=media_type.replace("+", ".")) as caught:
        mark(cas, [root])
    assert caught.value.digest == digest
    cas.put_index(Index([root]))
    with pytest.raises(InvalidError):
        cas.gc(grace=0)
    assert digest in cas
    assert cas.referrers("sha256:" + "0" * 64) == []  # who only looks isn't stopped
    cas.delete_blob(digest)
    assert digest in mark(cas, [root])


def test_mark_is_linear_on_doubled_levels(cas, reads):
    node = put_manifest(cas)
    for _ in range(30):
        node = put_index(cas, node, node)
    assert mark(cas, [node]).digests == set(cas)
    assert len(reads) == 31


def test_mark_goes_any_way_down(cas):
    assert len(mark(cas, [put_nested(cas, put_manifest(cas), 10_000)])) == 10_003


def test_mark_of_what_is_no_descriptor(cas):
    with pytest.raises(TypeError):
        mark(cas, [put_manifest(cas).digest])


def test_mark_has_a_cap(cas, monkeypatch):
    root = put_index(cas, *[put_manifest(cas, f"{n}") for n in range(5)])
    monkeypatch.setattr(module, "NODE_LIMIT", 16)
    assert len(mark(cas, [root])) == 16
    monkeypatch.setattr(module, "NODE_LIMIT", 15)
    with pytest.raises(InvalidError, match="more than 15 descriptors"):
        mark(cas, [root])


# ---- walk ----


def test_walk_is_pre_order(cas):
    subject = put_manifest(cas, "subject")
    one = put_manifest(cas, "one", inner={"subject": subject})
    two = put_manifest(cas, "two")
    root = put_index(cas, one, two, inner={"subject": two})
    paths = list(cas.walk(root))
    documents = {d.digest: cas.read_descriptor(d).data for d in (one, two, subject)}
    expected = [(root,)]
    for above in ((root, one), (root, one, subject), (root, two)):
        document = documents[above[-1].digest]
        expected += [above, (*above, document.config), *[(*above, x) for x in document.layers]]
    assert paths == expected
    for path in paths:
        assert path[0] is root


def test_walk_asks_before_it_goes_down(cas, reads):
    one, two = put_manifest(cas, "one"), put_manifest(cas, "two")
    root = put_index(cas, one, two)
    asked = []

    def visit(path):
        asked.append(path)
        return path[-1] != one

    paths = list(cas.walk(root, visit))
    assert paths == asked
    assert [path[-1].digest for path in paths][:3] == [root.digest, one.digest, two.digest]
    assert reads == [root.digest, two.digest]
    reads.clear()
    assert list(cas.walk(root, lambda path: False)) == [(root,)]
    assert reads == []
    # Only False prunes, not what is merely false: a visitor that returns nothing sees all.
    assert list(cas.walk(root, lambda path: None)) == list(cas.walk(root))


def test_walk_is_lazy(cas, reads):
    walk = cas.walk(put_index(cas, put_manifest(cas)))
    assert reads == []
    next(walk)
    assert reads == []
    next(walk)
    assert len(reads) == 1


def test_case_42_doubled_levels_are_linear(cas, reads):
    node = put_manifest(cas)
    for _ in range(30):
        node = put_index(cas, node, node)
    paths = list(cas.walk(node))
    assert [len(path) for path in paths] == [*range(1, 32), 32, 32]
    assert len(reads) == 31


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 600])
def test_what_is_read_together_is_what_is_read_alone(cas, reads, monkeypatch, count):
    subject = put_manifest(cas, "subject")
    entries = [
        put_manifest(cas, str(number), inner={"subject": subject} if number % 3 != 1 else {})
        for number in range(count)
    ]
    root = put_index(cas, *entries)
    reads.clear()
    marked = mark(cas, [root])
    assert sorted(reads) == sorted({root.digest, subject.digest, *(e.digest for e in entries)})
    reads.clear()
    paths = list(cas.walk(root))
    assert sorted(reads) == sorted({root.digest, subject.digest, *(e.digest for e in entries)})
    assert list(cas.walk(entries)) == list(cas.walk(tuple(entries)))
    asked = len(reads)
    monkeypatch.setattr(type(cas), "start_reading", Contract.start_reading)
    assert mark(cas, [root]).digests == marked.digests
    alone = list(cas.walk(root))
    assert alone == paths
    assert [[d.raw for d in path] for path in alone] == [[d.raw for d in path] for path in paths]
    assert asked < len(reads)


def test_walk_of_several_is_the_walk_of_each(cas):
    entries = [
        put_manifest(cas, "one"),
        put_index(cas, put_manifest(cas, "two")),
        put_manifest(cas, "3"),
    ]
    assert list(cas.walk(entries)) == [path for entry in entries for path in cas.walk(entry)]
    assert list(cas.walk([*entries, *entries])) == list(cas.walk(entries))
    assert list(cas.walk([])) == []
    cas.delete_blob(entries[2].digest)
    with pytest.raises(NotExistError):
        list(cas.walk(entries))


@pytest.mark.parametrize("kind", ["flipped", "truncated", "longer", "size", "type", "twice", "spaces"])
def test_one_of_many_that_cannot_be_trusted(cas, layout, kind):
    """It fails in its turn, by its own digest; what comes before it is handed out."""
    entries = [put_manifest(cas, str(number)) for number in range(40)]
    bad, raw = entries[30], cas.read_blob(entries[30].digest)
    path = layout / "blobs" / "sha256" / bad.digest.encoded
    if kind == "flipped":
        path.chmod(0o644)
        path.write_bytes(b"[" + raw[1:])
    elif kind == "truncated":
        path.chmod(0o644)
        path.write_bytes(raw[:-1])
    elif kind == "longer":
        path.chmod(0o644)
        path.write_bytes(raw + b" ")
    elif kind == "size":
        bad = entries[30] = bad.replace(size=bad.size + 1)
    elif kind == "type":
        bad = entries[30] = bad.replace(media_type=DOCKER_MANIFEST)
    else:
        changed = {
            "twice": raw.replace(b'"layers":', b'"layers":[],"layers":'),
            "spaces": raw.replace(b'"layers":', b'"layers" :[],"layers" :'),
        }[kind]
        bad = entries[30] = Descriptor(MANIFEST, *cas.put_blob(changed))
    with pytest.raises(InvalidError) as caught:
        mark(cas, entries)
    assert caught.value.digest == bad.digest
    met = []
    with pytest.raises(InvalidError) as caught:
        for found in cas.walk(entries):
            met.append(found[-1].digest)  # noqa: PERF401  what came before the error
    assert caught.value.digest == bad.digest
    assert met[-1] == bad.digest
    assert set(met) >= {entry.digest for entry in entries[:30]}


def test_documents_that_wait_are_few(cas, monkeypatch):
    monkeypatch.setattr("fastcas.image.ahead._WAITING", 8)
    ahead = Ahead(cas, 256)
    entries = [put_manifest(cas, str(number)) for number in range(20)]
    ahead.fetch([entry._fields for entry in entries], [])
    waiting = [entry for entry in entries if (entry.digest, entry.media_type) in ahead]
    assert waiting == entries[12:]
    for entry in entries:
        ahead.read(entry._fields)
    assert ahead._bytes == 0


def test_what_is_being_read_is_at_hand_or_read_alone(cas):
    ahead = Ahead(cas, 8)
    links = [put_manifest(cas, str(number))._fields for number in range(20)]
    ahead.fetch(links[:2], links[2:])
    assert [link in links[:2] for link in links] == [
        (link.digest, link.media_type) in ahead for link in links
    ]
    assert ahead.read(links[5])[1] == cas.read_blob(links[5].digest)  # on its way still
    ahead.fetch([], links[2:])
    assert {digest for digest, _ in ahead._found} == {link.digest for link in links[:10]}


def test_walk_10_000_levels(cas):
    longest = 0
    for path in cas.walk(put_nested(cas, put_manifest(cas), 10_000)):
        longest = max(longest, len(path))
    assert longest == 10_002


def test_walk_has_caps(cas, monkeypatch):
    root = put_nested(cas, put_manifest(cas), 4)
    monkeypatch.setattr(module, "DEPTH_LIMIT", 6)
    monkeypatch.setattr(module, "NODE_LIMIT", 7)
    assert len(list(cas.walk(root))) == 7
    monkeypatch.setattr(module, "NODE_LIMIT", 6)
    with pytest.raises(InvalidError, match="more than 6 descriptors") as caught:
        list(cas.walk(root))
    assert caught.value.digest
    monkeypatch.setattr(module, "DEPTH_LIMIT", 5)
    with pytest.raises(InvalidError, match="nested more than 5") as caught:
        list(cas.walk(root))
    assert caught.value.digest


def test_case_46_walk_of_what_was_first_met_as_an_unknown_type(cas):
    manifest = put_manifest(cas)
    unknown = Descriptor("application/x-unknown", manifest.digest, manifest.size)
    paths = list(cas.walk(put_index(cas, unknown, manifest, unknown)))
    assert [path[-1].media_type for path in paths[1:3]] == [unknown.media_type, MANIFEST]
    assert [len(path) for path in paths] == [1, 2, 2, 3, 3]


def test_walk_of_sparse_layouts(cas):
    absent = Descriptor(MANIFEST, "sha256:" + "5" * 64, 7)
    here = put_manifest(cas, inner={"subject": absent})
    root = put_index(cas, Descriptor(INDEX, "sha256:" + "6" * 64, 7), absent, here)
    assert [len(path) for path in cas.walk(root)] == [1, 2, 2, 2, 3, 3]
    walk = cas.walk(absent)
    assert next(walk) == (absent,)
    with pytest.raises(NotExistError):
        next(walk)
    layer = Descriptor(LAYER, "sha256:" + "5" * 64, 7)
    assert list(cas.walk(layer)) == [(layer,)]
    with pytest.raises(TypeError):
        cas.walk(root.digest)


def test_walk_of_a_damaged_document(cas):
    bad = put(cas, b'{"schemaVersion":2,"manifests":[],"layers":[]}', INDEX)
    walk = cas.walk(put_index(cas, bad))
    assert len([next(walk), next(walk)]) == 2
    with pytest.raises(InvalidError) as caught:
        next(walk)
    assert caught.value.digest == bad.digest


def test_walk_never_opens_configs(cas, reads):
    manifest = put_manifest(cas)
    list(cas.walk(manifest))
    mark(cas, [manifest])
    assert reads == [manifest.digest] * 2


# ---- map_descriptors ----


def test_map_descriptors_keeps_all_else(cas):
    raw = (
        b'{"schemaVersion":2, "x":{"y" : 1.0},'
        b'"config":{"mediaType":"m/c","digest":"a:b","size":1,"z":[ ]},'
        b'"layers":[{"mediaType":"m/l","digest":"a:c","size":2}],'
        b'"subject":{"mediaType":"m/s","digest":"a:d","size":3}}'
    )
    manifest = Manifest.from_json(raw)
    seen = []
    same = cas.map_descriptors(manifest, lambda d: seen.append(str(d.digest)) or d)
    assert seen == ["a:b", "a:c", "a:d"]
    assert same.to_json() == raw
    mapped = cas.map_descriptors(manifest, lambda d: d.replace(media_type="new"))
    assert manifest.to_json() == raw
    text = mapped.to_json()
    assert text.count(b'"mediaType":"new"') == 3
    assert b'"x":{"y" : 1.0}' in text
    assert b'"z":[ ]' in text
    index = Index([mapped.config], subject=mapped.subject)
    gone = cas.map_descriptors(index, lambda d: d.replace(size=9))
    assert [d.size for d in (*gone.manifests, gone.subject)] == [9, 9]
    assert cas.map_descriptors(mapped.config, lambda d: d.replace(size=4)).size == 4
    other = {"config": 1}
    assert cas.map_descriptors(other, lambda d: None) is other
    with pytest.raises(TypeError):
        cas.map_descriptors(manifest, lambda d: None)


# ---- referrers ----


def put_artifact(cas, subject, name, kind="application/x-sbom", **more):
    inner = {"subject": subject, "annotations": {"name": name}, **more}
    if kind:
        inner["artifactType"] = kind
    return put_manifest(cas, name, inner=inner)


def found(cas, digest, **options):
    return [
        (str(d.digest), d.artifact_type, dict(d.annotations or {}))
        for d in cas.referrers(digest, **options)
    ]


def test_referrers_by_subject(cas):
    image = put_manifest(cas, "image")
    sbom = put_artifact(cas, image, "sbom")
    plain = put_artifact(cas, image, "plain", kind=None)
    index = put_index(cas, inner={"subject": image, "artifactType": "application/x-list"})
    other = put_artifact(cas, sbom, "of the sbom")
    cas.update_reference("v1", put_index(cas, image, plain))
    cas.put_index(cas.get_index().replace(manifests=[*cas.get_index().manifests, sbom, index, other]))
    assert found(cas, image.digest) == [
        (plain.digest, CONFIG, {"name": "plain"}),
        (sbom.digest, "application/x-sbom", {"name": "sbom"}),
        (index.digest, "application/x-list", {}),
    ]
    assert found(cas, image.digest, artifact_type="application/x-list") == [
        (index.digest, "application/x-list", {})
    ]
    assert found(cas, image.digest, artifact_type="none") == []
    assert [d.digest for d in cas.referrers(sbom.digest)] == [other.digest]
    assert cas.referrers("sha256:" + "7" * 64) == []
    with pytest.raises(InvalidError):
        cas.referrers("v1")


def test_referrers_by_the_fallback_tag(cas):
    image = put_manifest(cas, "image")
    sbom = put_artifact(cas, image, "sbom")
    silent = put_artifact(cas, put_manifest(cas, "another"), "old")
    away = Descriptor(
        MANIFEST, "sha256:" + "8" * 64, 5, artifact_type="application/x-away", annotations={"a": "b"}
    )
    silent_away = Descriptor(MANIFEST, "sha256:" + "9" * 64, 5)
    index = put_index(cas, away, sbom, silent, silent_away, sbom)
    cas.update_reference(image.digest.replace(":", "-"), index)
    assert found(cas, image.digest) == [
        (sbom.digest, "application/x-sbom", {"name": "sbom"}),
        (away.digest, "application/x-away", {"a": "b"}),
        (silent.digest, "application/x-sbom", {"name": "old"}),
        (silent_away.digest, None, {}),
    ]
    assert found(cas, image.digest, artifact_type="application/x-away") == [
        (away.digest, "application/x-away", {"a": "b"})
    ]


def test_referrers_are_in_the_order_of_the_graph(cas):
    image = put_manifest(cas, "image")
    one, two, three = (put_artifact(cas, image, name) for name in ("one", "two", "three"))
    cas.update_reference("v1", put_index(cas, two, put_index(cas, three), one))
    assert [d.digest for d in cas.referrers(image.digest)] == [two.digest, three.digest, one.digest]


def test_referrers_that_state_no_type(cas):
    image = put_manifest(cas, "image")
    index = put_index(cas, inner={"subject": image})
    listed = put_index(cas, inner={"annotations": {"n": "listed"}})
    cas.update_reference("v1", index)
    assert found(cas, image.digest) == [(index.digest, None, {})]
    cas.update_reference(image.digest.replace(":", "-"), put_index(cas, listed))
    assert found(cas, image.digest)[1:] == [(listed.digest, None, {"n": "listed"})]
    cas.update_reference(image.digest.replace(":", "-"), listed.replace(media_type="m/t"))
    assert len(found(cas, image.digest)) == 1


def test_referrers_fail_on_what_cannot_be_trusted(cas):
    bad = put(cas, b'{"schemaVersion":2,"manifests":[],"layers":[]}', INDEX)
    cas.update_reference("v1", bad)
    with pytest.raises(InvalidError) as caught:
        cas.referrers("sha256:" + "7" * 64)
    assert caught.value.digest == bad.digest
