"""Descriptor, Platform, Index, Manifest: bytes to values and back."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import random

import pytest

from fastcas.digest import Digest
from fastcas.errors import InvalidError
from fastcas.jsonstyle import encode_go
from fastcas.model import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_DOCKER_LIST,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_LAYER,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "f" * 64
EMPTY_INDEX = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}\n' % MEDIA_TYPE_INDEX.encode()


def descriptor(**more):
    return {"mediaType": MEDIA_TYPE_MANIFEST, "digest": DIGEST, "size": 7, **more}


def index(*manifests, **more):
    return {"schemaVersion": 2, "manifests": list(manifests), **more}


def manifest(**more):
    return {"schemaVersion": 2, "config": descriptor(), "layers": [descriptor()], **more}


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def many(count, **more):
    """Enough descriptors that the checks go by columns."""
    return [descriptor(digest=f"sha256:{number:064x}", **more) for number in range(count)]


FULL = descriptor(
    urls=["https://example.org/a"],
    annotations={"b": "2", "a": "1"},
    data=base64.b64encode(b"content").decode(),
    platform={
        "architecture": "arm64",
        "os": "linux",
        "os.version": "10.0",
        "os.features": ["x", "y"],
        "variant": "v8",
    },
    artifactType="application/example",
)


# Making by hand.


def test_new_index_has_the_exact_bytes_of_go():
    assert Index().to_json() == EMPTY_INDEX
    assert Index.from_json(EMPTY_INDEX) == Index()
    assert Index().raw is None
    assert Index.from_json(EMPTY_INDEX).raw == EMPTY_INDEX


def test_descriptor_by_hand_is_written_in_the_order_of_go():
    platform = Platform("arm64", "linux", "10.0", ["x", "y"], "v8")
    made = Descriptor(
        MEDIA_TYPE_MANIFEST,
        DIGEST,
        7,
        ["https://example.org/a"],
        {"b": "2", "a": "1"},
        b"content",
        platform,
        "application/example",
    )
    expected = {**FULL, "annotations": {"a": "1", "b": "2"}}
    assert made.to_json() == compact(expected)
    read = Descriptor.from_json(compact(FULL))
    assert read == made
    assert hash(read) == hash(made)
    assert read.platform == platform
    assert read.data == b"content"
    assert read.urls == ("https://example.org/a",)
    assert type(read.digest) is type(made.digest) is Digest


def test_manifest_by_hand():
    config = Descriptor(MEDIA_TYPE_CONFIG, DIGEST, 2)
    layer = Descriptor(MEDIA_TYPE_LAYER, OTHER, 3)
    made = Manifest(config, [layer], annotations={"k": "<v>"}, subject=layer, artifact_type="a/b")
    assert made.to_json() == (
        b'{"schemaVersion":2,"mediaType":"%s","artifactType":"a/b","config":%s,"layers":[%s],'
        b'"subject":%s,"annotations":{"k":"\\u003cv\\u003e"}}\n'
        % (MEDIA_TYPE_MANIFEST.encode(), config.to_json(), layer.to_json(), layer.to_json())
    )
    assert Manifest(config, media_type=None).to_json() == (
        b'{"schemaVersion":2,"config":%s,"layers":[]}\n' % config.to_json()
    )
    assert Manifest.from_json(made.to_json()) == made


def test_absent_fields_stay_absent():
    made = Descriptor("m/t", DIGEST, 0, [], {}, None, None, "")
    assert made.to_json() == compact({"mediaType": "m/t", "digest": DIGEST, "size": 0})
    assert made == Descriptor("m/t", DIGEST, 0)
    assert (made.data, made.platform) == (None, None)
    # Embedded data that is empty isn't absent.
    assert Descriptor("m/t", DIGEST, 0, data=b"").to_json().endswith(b'"data":""}')


def test_callers_containers_are_copied():
    urls, annotations = ["a"], {"k": "v"}
    made = Descriptor("m/t", DIGEST, 0, urls, annotations)
    urls.append("b")
    annotations["k"] = "w"
    assert made.urls == ("a",)
    assert made.annotations == {"k": "v"}
    with pytest.raises(TypeError):
        made.annotations["k"] = "x"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("media_type", None),
        ("media_type", 5),
        ("media_type", "\ud800"),
        ("digest", None),
        ("digest", "sha256:abc"),
        ("digest", DIGEST + "\n"),
        ("size", None),
        ("size", -1),
        ("size", 1 << 63),
        ("size", True),
        ("size", "5"),
        ("size", 5.0),
        ("urls", "https://example.org"),
        ("urls", [1]),
        ("annotations", {"a": 1}),
        ("annotations", {1: "a"}),
        ("annotations", ["a"]),
        ("data", "text"),
        ("platform", {"architecture": "a", "os": "b"}),
        ("artifact_type", b"x"),
    ],
)
def test_bad_values_by_hand_name_the_field(field, value):
    values = {"media_type": "m/t", "digest": DIGEST, "size": 1}
    with pytest.raises(InvalidError, match=f"^{field}"):
        Descriptor(**{**values, field: value})
    with pytest.raises(InvalidError, match=f"^{field}"):
        Descriptor(**values).replace(**{field: value})


def test_bad_documents_by_hand():
    entry = Descriptor("m/t", DIGEST, 1)
    with pytest.raises(InvalidError, match=r"^manifests\[1\]"):
        Index([entry, {}])
    with pytest.raises(InvalidError, match=r"^manifests"):
        Index(entry)
    with pytest.raises(InvalidError, match=r"^manifests"):
        Index().replace(manifests=None)
    with pytest.raises(InvalidError, match=r"^media_type"):
        Index(media_type=MEDIA_TYPE_MANIFEST)
    with pytest.raises(InvalidError, match=r"^config"):
        Manifest(None)
    with pytest.raises(InvalidError, match=r"^subject"):
        Manifest(entry, subject="x")
    for change in ({"schema_version": 3}, {"nothing": 1}):
        with pytest.raises(TypeError):
            Index().replace(**change)


# Reading.

BAD_DESCRIPTORS = [
    ("size", descriptor(size=-1)),
    ("size", descriptor(size=1 << 63)),
    ("size", descriptor(size=1 << 64)),
    ("size", descriptor(size=True)),
    ("size", descriptor(size="5")),
    ("size", descriptor(size=5.0)),
    ("size", descriptor(size=1e3)),
    ("size", descriptor(size=None)),
    ("size", descriptor(size=[5])),
    ("size", {"mediaType": "m", "digest": DIGEST}),
    ("digest", {"mediaType": "m", "size": 1}),
    ("digest", descriptor(digest=None)),
    ("digest", descriptor(digest="sha256:" + "0" * 63)),
    ("digest", descriptor(digest="sha256:" + "0" * 65)),
    ("digest", descriptor(digest="sha256:" + "A" * 64)),
    ("digest", descriptor(digest="sha512:" + "0" * 64)),
    ("digest", descriptor(digest="sha256:../../x")),
    ("digest", descriptor(digest=DIGEST + "\n")),
    ("digest", descriptor(digest="")),
    ("mediaType", {"digest": DIGEST, "size": 1}),
    ("mediaType", descriptor(mediaType=None)),
    ("mediaType", descriptor(mediaType=1)),
    ("urls", descriptor(urls="x")),
    ("urls[1]", descriptor(urls=["x", 1])),
    ("annotations", descriptor(annotations=[])),
    ("annotations", descriptor(annotations={"a": 1})),
    ("annotations", descriptor(annotations={"a": None})),
    ("data", descriptor(data="not base64")),
    ("data", descriptor(data="aGk")),
    ("data", descriptor(data=[1])),
    ("platform", descriptor(platform="linux/amd64")),
    ("platform.architecture", descriptor(platform={"os": "linux"})),
    ("platform.os", descriptor(platform={"architecture": "amd64"})),
    ("platform.os.features", descriptor(platform={**FULL["platform"], "os.features": "x"})),
    ("artifactType", descriptor(artifactType=1)),
]
IDS = [f"{number}-{field}" for number, (field, _) in enumerate(BAD_DESCRIPTORS)]


@pytest.mark.parametrize(("field", "value"), BAD_DESCRIPTORS, ids=IDS)
def test_case_33_bad_descriptor_names_the_field(field, value):
    with pytest.raises(InvalidError) as caught:
        Descriptor.from_json(compact(value))
    assert f" {field}: " in str(caught.value)


@pytest.mark.parametrize(("field", "value"), BAD_DESCRIPTORS, ids=IDS)
@pytest.mark.parametrize("count", [0, 40], ids=["few", "many"])
def test_case_33_bad_descriptor_in_an_index(field, value, count):
    entries = many(count)
    raw = compact(index(*entries, value, descriptor()))
    with pytest.raises(InvalidError) as caught:
        Index.from_json(raw)
    assert f" manifests[{count}].{field}: " in str(caught.value)
    with pytest.raises(InvalidError) as caught:
        Manifest.from_json(compact(manifest(layers=[*entries, value])))
    assert f" layers[{count}].{field}: " in str(caught.value)


def test_bad_descriptor_elsewhere_names_the_field():
    bad = descriptor(size=-1)
    for where, read, value in [
        ("config", Manifest.from_json, manifest(config=bad)),
        ("subject", Manifest.from_json, manifest(subject=bad)),
        ("subject", Index.from_json, index(subject=bad)),
    ]:
        with pytest.raises(InvalidError, match=f" {where}.size: "):
            read(compact(value))


@pytest.mark.parametrize("number", ["1e3", "5.0", "5e0", "-0.0", "1e999", "1" * 5000, "01", "NaN"])
def test_case_33_odd_numbers(number):
    raw = compact(descriptor(size=424242)).replace(b"424242", number.encode())
    with pytest.raises(InvalidError):
        Descriptor.from_json(raw)


@pytest.mark.parametrize(
    "value",
    [
        descriptor(mediaType="", size=0),
        descriptor(mediaType="no such type", size=(1 << 63) - 1),
        descriptor(digest="foo:bar"),
        # Of another algorithm, though as long as a sha256.
        descriptor(digest="s" + DIGEST[:-1]),
        descriptor(digest="sha512:" + "0" * 128),
        descriptor(annotations=None, urls=None, data=None, platform=None, artifactType=None),
        descriptor(data=""),
    ],
)
def test_valid_descriptors(value):
    raw = compact(value)
    for read in (
        Descriptor.from_json(raw),
        *Index.from_json(compact(index(*many(20), value))).manifests[-1:],
    ):
        assert read.digest == value["digest"]
        assert read.size == value["size"]
        assert read.media_type == value["mediaType"]
        assert read.annotations is None
        assert read.platform is None
        assert read.data == (None if value.get("data") is None else b"")
        assert read.to_json() == read.raw == raw


AMBIGUOUS_INDEXES = {
    "config": index(config=descriptor()),
    "null config": index(config=None),
    "layers": index(layers=[]),
    "fsLayers": index(fsLayers=[]),
    "config and layers": index(config=descriptor(), layers=[descriptor()]),
    "manifest type": index(mediaType=MEDIA_TYPE_MANIFEST),
    "Docker type": index(mediaType=MEDIA_TYPE_DOCKER_LIST),
    "other type": index(mediaType="application/json"),
    "null type": index(mediaType=None),
    "empty type": index(mediaType=""),
    "number as type": index(mediaType=2),
    "version 1": index(schemaVersion=1),
    "version 3": index(schemaVersion=3),
    "version 2.0": index(schemaVersion=2.0),
    "version true": index(schemaVersion=True),
    "version as text": index(schemaVersion="2"),
    "version null": index(schemaVersion=None),
    "no version": {"manifests": []},
    "no manifests": {"schemaVersion": 2},
    "a manifest": manifest(),
    "manifests an object": index() | {"manifests": {}},
    "manifests a text": index() | {"manifests": "x"},
    "null as an entry": index(None),
    "list as an entry": index([]),
}


@pytest.mark.parametrize("value", AMBIGUOUS_INDEXES.values(), ids=AMBIGUOUS_INDEXES)
def test_case_32_ambiguous_index(value):
    with pytest.raises(InvalidError):
        Index.from_json(compact(value))


@pytest.mark.parametrize(
    "value",
    [
        manifest(manifests=[]),
        manifest(manifests=None),
        manifest(fsLayers=[]),
        manifest(mediaType=MEDIA_TYPE_INDEX),
        manifest(mediaType=MEDIA_TYPE_DOCKER_MANIFEST),
        manifest(schemaVersion=1),
        manifest(config=None),
        {"schemaVersion": 2, "config": descriptor()},
        {"schemaVersion": 2, "layers": []},
        index(),
    ],
)
def test_case_32_ambiguous_manifest(value):
    with pytest.raises(InvalidError):
        Manifest.from_json(compact(value))


def test_case_32_the_expected_type_wins():
    listed = compact(index(descriptor(), mediaType=MEDIA_TYPE_DOCKER_LIST))
    found = Index.from_json(listed, media_type=MEDIA_TYPE_DOCKER_LIST)
    assert found.media_type == MEDIA_TYPE_DOCKER_LIST
    v2s2 = compact(manifest(mediaType=MEDIA_TYPE_DOCKER_MANIFEST))
    assert Manifest.from_json(v2s2, media_type=MEDIA_TYPE_DOCKER_MANIFEST).layers
    with pytest.raises(InvalidError, match="mediaType"):
        Index.from_json(EMPTY_INDEX, media_type=MEDIA_TYPE_DOCKER_LIST)


@pytest.mark.parametrize("count", [1, 40], ids=["few", "many"])
def test_case_33_duplicate_keys_in_an_index(count):
    raw = compact(index(*many(count, annotations={"a": "x"}, platform=FULL["platform"])))
    Index.from_json(raw)
    for member in (
        b'"schemaVersion":2,',
        b'"size":7,',
        b'"a":"x"',
        b'"os":"linux",',
        b'"os.version":"10.0",',
    ):
        for again in (member, member.replace(b'":', b'" :')):
            twice = member.rstrip(b",") + b"," + again
            with pytest.raises(InvalidError, match="duplicate key"):
                Index.from_json(raw.replace(member, twice, 1))
    with pytest.raises(InvalidError, match="duplicate key"):
        Index.from_json(raw.replace(b'"size":7,', b'"size":7,"\\u0073ize":7,', 1))
    with pytest.raises(InvalidError, match="duplicate key"):
        Index.from_json(raw[:-1] + b',"x":{"y":1,"y":1}}')


@pytest.mark.parametrize("tail", [b"x", b"{}", b",", b"]", b"\0", b"\xef\xbb\xbf", b" 1"])
def test_case_33_trailing_bytes(tail):
    with pytest.raises(InvalidError):
        Index.from_json(EMPTY_INDEX + tail)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        EMPTY_INDEX[:-3],
        b"\xef\xbb\xbf" + EMPTY_INDEX,
        EMPTY_INDEX.decode().encode("utf-16"),
        EMPTY_INDEX.replace(b"oci", b"\xff"),
        EMPTY_INDEX.replace(b"[]", b"[" * 100_000),
        EMPTY_INDEX.replace(b"2,", b'2,"x":' + b"[" * 100_000 + b"]" * 100_000 + b","),
        EMPTY_INDEX.replace(b"2,", b'2,"x":' + b"[" * 500 + b"]" * 500 + b","),
        EMPTY_INDEX.replace(b"2,", b'2,"x":NaN,'),
        EMPTY_INDEX.replace(b"2,", b'2,"x":"\\ud800",'),
        EMPTY_INDEX.replace(b"2,", b'2,"annotations":{"x":"\\ud800"},'),
    ],
)
def test_case_33_bad_json(raw):
    with pytest.raises(InvalidError):
        Index.from_json(raw)


def test_limit():
    assert Index.from_json(EMPTY_INDEX, limit=len(EMPTY_INDEX)) == Index()
    with pytest.raises(InvalidError, match="limit"):
        Index.from_json(EMPTY_INDEX, limit=len(EMPTY_INDEX) - 1)
    with pytest.raises(InvalidError, match="limit"):
        Manifest.from_json(b" " * ((4 << 20) + 1))


def test_null_manifests_and_layers_are_empty():
    raw = b'{"schemaVersion":2,"manifests":null}'
    found = Index.from_json(raw)
    assert found.manifests == ()
    assert found.media_type is None
    assert found.to_json() == raw
    assert Manifest.from_json(compact(manifest(layers=None))).layers == ()


# Keeping what was read.


def odd(value):
    """The same JSON as an unusual tool may write it."""
    text = json.dumps(value, indent=3, ensure_ascii=False)
    return text.replace('": ', '"\t:  ').encode() + b" \n\n"


@pytest.mark.parametrize("dump", [compact, odd], ids=["compact", "odd"])
def test_what_was_read_is_written_byte_for_byte(dump):
    for cls, value in [
        (Descriptor, FULL),
        (Platform, FULL["platform"]),
        (Index, index(FULL, descriptor(), annotations={"b": "<>", "a": "é"})),
        (Manifest, manifest(subject=FULL, extra={"k": [1.50, 1e3]})),
    ]:
        raw = dump(value)
        found = cls.from_json(raw)
        assert found.to_json() == found.raw == raw
        assert encode_go(found) == (raw if found.is_document else raw + b"\n")
        assert cls.from_json(compact(value)) == found or dump is odd


def test_case_35_unknown_fields_survive_a_change():
    entry = b'{ "x-a" : 1.50, "mediaType":"m/t","digest":"%s", "size":7 ,"x-b":{"k" : [ ]}}'
    entry %= DIGEST.encode()
    raw = (
        b'{"x-first":[1e2, "\\u003c"],"schemaVersion":2,"manifests":[%s, %s],\n'
        b' "x-last" : { "deep" : { "a" : 0.10 } }, "annotations":{"k" : "v"}}' % (entry, entry)
    )
    found = Index.from_json(raw)
    assert found.extra == {"x-first": b'[1e2, "\\u003c"]', "x-last": b'{ "deep" : { "a" : 0.10 } }'}
    assert found.manifests[0].extra == {"x-a": b"1.50", "x-b": b'{"k" : [ ]}'}
    assert found.manifests[0].raw == entry
    new = Descriptor("m/t", OTHER, 1)
    changed = found.replace(manifests=[found.manifests[1], new])
    assert changed.to_json() == (
        b'{"x-first":[1e2, "\\u003c"],"schemaVersion":2,"manifests":[%s,%s],'
        b'"x-last":{ "deep" : { "a" : 0.10 } },"annotations":{"k" : "v"}}\n' % (entry, new.to_json())
    )
    assert changed.raw is None
    assert changed.extra == found.extra
    assert found.raw == raw
    renamed = found.manifests[0].replace(annotations={"a": "b"}, size=8)
    assert renamed.to_json() == (
        b'{"x-a":1.50,"mediaType":"m/t","digest":"%s","size":8,"annotations":{"a":"b"},'
        b'"x-b":{"k" : [ ]}}' % DIGEST.encode()
    )
    assert renamed.raw is None
    assert Descriptor.from_json(renamed.to_json()) == renamed


def test_case_35_through_two_changes_and_platform():
    raw = compact(descriptor(platform={**FULL["platform"], "features": ["sse4"]}, zzz=1))
    found = Descriptor.from_json(raw)
    assert found.platform.extra == {"features": b'["sse4"]'}
    changed = found.replace(platform=found.platform.replace(variant=None)).replace(size=9)
    expected = json.loads(raw)
    del expected["platform"]["variant"]
    expected["size"] = 9
    assert changed.to_json() == compact(expected)
    assert changed.replace(size=7, platform=found.platform) == found


def test_changing_and_removing_fields():
    found = Descriptor.from_json(compact(descriptor(annotations={}, urls=[])))
    # Untouched, even what we'd leave out ourselves.
    assert found.replace(size=8).to_json() == compact(descriptor(size=8, annotations={}, urls=[]))
    assert found.replace(annotations=None).to_json() == compact(descriptor(urls=[]))
    assert found.replace(annotations={}, urls=()).to_json() == compact(descriptor())
    assert found.replace() is found
    absent = Index.from_json(compact(index(descriptor())))
    text = absent.replace(annotations={"a": "b"}).to_json()
    assert text == compact(index(descriptor(), annotations={"a": "b"})) + b"\n"
    text = absent.replace(media_type=MEDIA_TYPE_INDEX, manifests=[]).to_json()
    assert text == EMPTY_INDEX
    made = Descriptor("m/t", DIGEST, 1, annotations={"a": "b"})
    assert made.replace(annotations=None) == Descriptor("m/t", DIGEST, 1)
    assert made.annotations == {"a": "b"}


def test_changes_match_a_model():
    """Random changes against the same changes of a plain dict."""
    random_ = random.Random(3)
    values = {
        "media_type": ("mediaType", ["m/t", "<&>"]),
        "digest": ("digest", [DIGEST, OTHER, "foo:bar"]),
        "size": ("size", [0, 1, (1 << 63) - 1]),
        "urls": ("urls", [None, ["a"], ["a", "b"]]),
        "annotations": ("annotations", [None, {"a": "1"}, {"a": "1", "b": "é"}]),
        "artifact_type": ("artifactType", [None, "a/t"]),
    }
    for _ in range(200):
        plain = descriptor(unknown=[1])
        found = Descriptor.from_json(compact(plain))
        for _ in range(random_.randrange(1, 5)):
            name, (wire, choices) = random_.choice(list(values.items()))
            value = random_.choice(choices)
            found = found.replace(**{name: value})
            if value is None:
                plain.pop(wire, None)
            else:
                plain[wire] = value
        assert json.loads(found.to_json()) == plain
        assert Descriptor.from_json(found.to_json()) == found
        assert found.extra == {"unknown": b"[1]"}


# Values are pleasant.


@pytest.mark.parametrize(
    "value",
    [
        Descriptor.from_json(compact(FULL)),
        Descriptor.from_json(compact(FULL)).replace(size=1),
        Descriptor("m/t", DIGEST, 1, annotations={"a": "b"}, platform=Platform("a", "b")),
        Platform("a", "b"),
        Index.from_json(compact(index(FULL, zzz=1))),
        Index.from_json(compact(index(FULL, zzz=1))).replace(manifests=[]),
        Index([Descriptor("m/t", DIGEST, 1)]),
        Index.from_json(
            compact(index(mediaType=MEDIA_TYPE_DOCKER_LIST)), media_type=MEDIA_TYPE_DOCKER_LIST
        ),
        Manifest.from_json(compact(manifest())),
    ],
    ids=repr,
)
def test_pickle_copy_freeze(value):
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert again == value
        assert hash(again) == hash(value)
        assert again.to_json() == value.to_json()
        assert again.raw == value.raw
        assert again.extra == value.extra
    with pytest.raises(AttributeError):
        value.media_type = "x"
    with pytest.raises(AttributeError):
        value.other = "x"
    with pytest.raises(AttributeError):
        del value.extra
    assert value != "x"
    assert value is not None


def test_equality_is_by_content():
    first = Descriptor.from_json(compact(descriptor(x=1)))
    assert first == Descriptor.from_json(odd(descriptor(x=1)))
    assert first != Descriptor.from_json(compact(descriptor(x=2)))
    assert first != Descriptor.from_json(compact(descriptor()))
    assert Descriptor.from_json(compact(descriptor())) == Descriptor(MEDIA_TYPE_MANIFEST, DIGEST, 7)
    assert len({Platform("a", "b"), Platform("a", "b"), Platform("a", "c")}) == 2


def test_repr():
    made = Descriptor("m/t", "foo:bar", 1, annotations={"a": "b"})
    expected = "Descriptor(media_type='m/t', digest='foo:bar', size=1, annotations={'a': 'b'})"
    assert repr(made) == expected
    assert eval(repr(made)) == made
    assert repr(Platform("a", "b")) == "Platform(architecture='a', os='b')"
    assert "9998 more" in repr(Index([made] * 10_000))
    assert len(repr(Index([made] * 10_000))) < 500


def test_reference_name_is_an_annotation_like_any():
    raw = compact(descriptor(annotations={ANNOTATION_REF_NAME: "v1"}))
    assert Descriptor.from_json(raw).annotations[ANNOTATION_REF_NAME] == "v1"


def test_damaged_index_gives_our_error_or_a_reading():
    """Bad input (promise 16): random damage to a rich index."""
    random_ = random.Random(3)
    raw = compact(index(*many(20), FULL, annotations={"a": "b"}, subject=FULL, zzz={"a": [1]}))
    Index.from_json(raw)
    read = 0
    for _ in range(1500):
        damaged = bytearray(raw)
        for _ in range(random_.randrange(1, 3)):
            place = random_.randrange(len(damaged))
            kind = random_.randrange(3)
            if kind == 0:
                damaged[place] = random_.choice(b'"{}[]:,\\0a \n\xff')
            elif kind == 1:
                del damaged[place : place + random_.randrange(1, 30)]
            else:
                damaged[place:place] = damaged[: random_.randrange(40)]
        try:
            found = Index.from_json(bytes(damaged))
        except InvalidError:
            continue
        read += 1
        json.loads(bytes(damaged))
        assert found.to_json() == damaged
        repr(found)
        hash(found)
        assert found == Index.from_json(bytes(damaged))
        assert len(found.replace(manifests=found.manifests[1:]).to_json()) > 0
    assert read


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("name", ["Manifests", "MANIFESTS", "SchemaVersion", "Layers", "Config"])
def test_names_that_differ_in_case_only_are_ambiguous(name, turn):
    """Go's decoder takes them for the field; others don't see them."""
    members = [b'"manifests":[]', b'"%s":[]' % name.encode()][::turn]
    raw = b'{"schemaVersion":2,%s}' % b",".join(members)
    with pytest.raises(InvalidError, match=name):
        Index.from_json(raw)
    assert Index.from_json(raw.replace(name.encode(), b"other")).manifests == ()
