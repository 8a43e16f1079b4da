"""From names, digests and platforms to paths of descriptors."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcas import ClosedError, Descriptor, Index, InvalidError, NotExistError, Platform
from fastcas.image import resolve as module
from fastcas.image.reference import check_reference_name
from images import (
    EMPTY_JSON,
    INDEX,
    MANIFEST,
    REF_NAME,
    digests,
    on,
    put,
    put_config,
    put_index,
    put_manifest,
    put_nested,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]


def resolved(cas, name, platform=None):
    """The digests along each path."""
    return [digests(path) for path in cas.resolve_reference(name, platform=platform)]


def add(cas, *entries):
    cas.update_index(lambda index: index.replace(manifests=[*index.manifests, *entries]))


def test_case_39_absent_twice_and_duplicates(cas):
    one, two = put_manifest(cas, "one"), put_manifest(cas, "two")
    name = {REF_NAME: "v1"}
    add(cas, one.replace(annotations=name), two, two.replace(annotations=name))
    add(cas, one.replace(annotations={**name, "more": "x"}))
    assert resolved(cas, "v2") == []
    assert resolved(cas, "") == []
    assert resolved(cas, "v1") == [[one.digest], [two.digest]]
    index = put_index(cas, one, one, put_index(cas, one))
    cas.update_reference("i", index)
    assert resolved(cas, "i") == [[index.digest, one.digest]]


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 6])
def test_case_41_paths_never_alias(cas, levels):
    one, two = put_manifest(cas, "one"), put_manifest(cas, "two")
    root = put_nested(cas, put_index(cas, one, two), levels - 1)
    cas.update_reference("v1", root)
    first, second = resolved(cas, "v1")
    assert first[:-1] == second[:-1]
    assert (first[-1], second[-1]) == (one.digest, two.digest)
    assert len(first) == levels + 1
    assert first[0] == root.digest


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_case_43_unknown_types_are_resolved_unopened(cas, levels):
    absent = Descriptor("application/x-unknown", "sha256:" + "1" * 64, 10)
    odd = Descriptor("application/x-unknown", "multihash+base58:Qm", 10)
    for target in (absent, odd, put(cas, b"not { JSON", "application/vnd.oci.image.config.v1+json")):
        cas.update_reference("v1", put_nested(cas, target, levels))
        (path,) = cas.resolve_reference("v1")
        assert len(path) == levels + 1
        assert path[-1].digest == target.digest
        assert path[-1].media_type == target.media_type


def test_case_55_a_reference_to_an_index_is_to_the_index(cas):
    index = put_index(cas, put_manifest(cas))
    cas.update_reference("v1", index)
    ((root, _),) = cas.resolve_reference("v1")
    assert root.digest == index.digest
    cas.update_reference("v2", root)
    assert resolved(cas, "v2") == resolved(cas, "v1")
    assert cas.get_index().manifests[1].digest == index.digest


def test_doubled_and_crossed_levels_are_linear(cas):
    left = right = put_manifest(cas)
    for level in range(30):
        both = [left, right, left]
        left, right = (put_index(cas, *both, inner={"annotations": {"n": f"{level}{x}"}}) for x in "lr")
    cas.update_reference("v1", left)
    assert len(resolved(cas, "v1")) == 1


def test_deep_levels_and_caps(cas, monkeypatch):
    target = put_manifest(cas)
    cas.update_reference("v1", put_nested(cas, target, 10_000))
    ((path),) = cas.resolve_reference("v1")
    assert len(path) == 10_001
    monkeypatch.setattr(module, "DEPTH_LIMIT", 100)
    with pytest.raises(InvalidError, match="nested more than 100"):
        cas.resolve_reference("v1")
    monkeypatch.setattr(module, "NODE_LIMIT", 50)
    with pytest.raises(InvalidError, match="more than 50 descriptors"):
        cas.resolve_reference("v1")
    monkeypatch.undo()
    monkeypatch.setattr(module, "_KEPT_LIMIT", 10_000)
    with pytest.raises(InvalidError, match="too many targets"):
        cas.resolve_reference("v1")


def test_digests(cas):
    one, two = put_manifest(cas, "one"), put_manifest(cas, "two")
    index = put_index(cas, one, put_index(cas, two))
    cas.update_reference("multi", index)
    untagged = put_manifest(cas, "untagged")
    add(cas, untagged, untagged.replace(annotations={REF_NAME: "also"}))
    assert resolved(cas, untagged.digest) == [[untagged.digest]]
    assert resolved(cas, index.digest) == resolved(cas, "multi")
    assert resolved(cas, one.digest) == [[index.digest, one.digest]]
    assert resolved(cas, two.digest)[0][-1] == two.digest
    assert len(resolved(cas, two.digest)[0]) == 3
    assert resolved(cas, "sha256:" + "0" * 64) == []
    assert resolved(cas, f"multi@{index.digest}") == resolved(cas, "multi")
    assert resolved(cas, f"multi@{two.digest}") == resolved(cas, two.digest)
    assert resolved(cas, f"multi@{untagged.digest}") == []
    assert resolved(cas, f"absent@{one.digest}") == []
    assert resolved(cas, "multi@sha256:12") == []
    for text in (
        untagged.digest[7:14],
        untagged.digest[7:19],
        untagged.digest[:20],
        untagged.digest[7:],
    ):
        assert resolved(cas, text) == [[untagged.digest]]
    assert resolved(cas, two.digest[7:19])[0][-1] == two.digest
    assert resolved(cas, untagged.digest[7:13]) == []
    assert resolved(cas, "sha512:" + untagged.digest[7:19]) == []


def test_short_digests_that_begin_several(cas):
    one, two = (Descriptor("m/t", f"sha256:{'ab' * 31}{n}", 1) for n in ("00", "11"))
    add(cas, one, one, two)
    with pytest.raises(InvalidError, match=re.escape(one.digest)):
        cas.resolve_reference("ab" * 10)
    assert resolved(cas, "ab" * 31 + "0") == [[one.digest]]
    cas.update_reference("abababab", two)
    assert resolved(cas, "abababab") == [[two.digest]]


def test_names_that_look_like_digests(cas):
    one, two = put_manifest(cas, "one"), put_manifest(cas, "two")
    cas.update_reference(one.digest, two)
    assert resolved(cas, one.digest) == [[two.digest]]
    cas.update_reference("v1", one)
    assert resolved(cas, one.digest) == [[one.digest]], "content of that digest comes first"
    pinned = f"host:5000/app@{two.digest}"
    cas.update_reference(pinned, one)
    assert resolved(cas, pinned) == [[one.digest]]
    cas.update_reference("host:5000/app", two)
    assert resolved(cas, pinned) == [[two.digest]]
    cas.update_reference("host:5000", one)
    assert resolved(cas, "host:5000") == [[one.digest]]


@pytest.mark.parametrize("name", ["a b", "-", "a//b", "v1\n", "\u00e9", "a@b@c", "*", " "])
def test_case_38_foreign_names_resolve(cas, name):
    target = put_manifest(cas)
    add(cas, target.replace(annotations={REF_NAME: name}))
    assert resolved(cas, name) == [[target.digest]]
    assert resolved(cas, name + "x") == []


def test_what_is_not_stored_or_broken(cas):
    absent = Descriptor(INDEX, "sha256:" + "2" * 64, 3)
    cas.update_reference("absent", absent)
    with pytest.raises(NotExistError):
        cas.resolve_reference("absent")
    target = put_manifest(cas)
    sparse = put_index(cas, absent, target)
    cas.update_reference("sparse", sparse)
    assert resolved(cas, "sparse") == [[sparse.digest, target.digest]]
    assert resolved(cas, target.digest) == [[sparse.digest, target.digest]]
    bad = put(cas, b'{"schemaVersion":2,"manifests":[],"config":{}}', INDEX)
    cas.update_reference("bad", bad)
    with pytest.raises(InvalidError) as caught:
        cas.resolve_reference("bad")
    assert caught.value.digest == bad.digest
    for wrong in (None, 1, b"v1"):
        with pytest.raises(InvalidError):
            cas.resolve_reference(wrong)
    cas.close()
    with pytest.raises(ClosedError):
        cas.resolve_reference("v1")


# ---- platforms ----


def test_platform_of_an_index(cas):
    names = ["linux/amd64", "linux/arm/v7", "linux/arm/v6", "linux/arm64/v8", "windows/amd64"]
    images = {name: put_manifest(cas, name, platform=on(name)) for name in names}
    index = put_index(cas, *images.values())
    cas.update_reference("v1", index)

    def picked(wanted):
        found = resolved(cas, "v1", wanted)
        assert len(found) <= 1
        return next((name for path in found for name in names if images[name].digest == path[-1]), None)

    assert picked("linux/amd64") == "linux/amd64"
    assert picked("linux/x86_64/v3") == "linux/amd64"
    assert picked("linux/arm") == "linux/arm/v7"
    assert picked("linux/arm/v8") == "linux/arm/v7"
    assert picked("linux/arm/v6") == "linux/arm/v6"
    assert picked("linux/arm/v5") is None
    assert picked("linux/aarch64") == "linux/arm64/v8"
    assert picked(Platform("amd64", "windows")) == "windows/amd64"
    assert picked("darwin/arm64") is None
    assert resolved(cas, "absent", "linux/amd64") == []
    for bad in ("linux", "", "/", "linux/", "a/b/c/d", "linux//v8"):
        with pytest.raises(InvalidError):
            cas.resolve_reference("v1", platform=bad)
    with pytest.raises(TypeError):
        cas.resolve_reference("v1", platform=5)


def test_platform_that_only_the_config_tells(cas):
    arm = put_manifest(cas, "arm", config=put_config(cas, architecture="arm", variant="v6"))
    amd = put_manifest(cas, "amd", config=put_config(cas))
    index = put_index(cas, amd, arm)
    cas.update_reference("v1", index)
    cas.update_reference("single", arm)
    assert resolved(cas, "v1", "linux/arm/v7") == [[index.digest, arm.digest]]
    assert resolved(cas, "v1", "linux/amd64") == [[index.digest, amd.digest]]
    assert resolved(cas, "single", "linux/arm/v6") == [[arm.digest]]
    assert resolved(cas, "single", "linux/amd64") == []


def test_platform_of_nested_indexes(cas):
    inside = put_manifest(cas, "inside", platform=on("linux/arm64"))
    windows = put_index(cas, inside, platform=on("windows/arm64"))
    linux = put_index(cas, inside, platform=on("linux/arm64"))
    other = put_index(cas, put_manifest(cas, "v9", platform=on("linux/arm64/v9")))
    index = put_index(cas, windows, other, linux)
    cas.update_reference("v1", index)
    (path,) = cas.resolve_reference("v1", platform="linux/arm64")
    assert path[1].platform == on("linux/arm64")
    assert path[-1].digest == inside.digest
    assert resolved(cas, "v1", "linux/arm64/v9")[0][1] == other.digest


def test_the_first_of_equals_is_picked(cas):
    one, two = (put_manifest(cas, n, platform=on("linux/amd64")) for n in ("one", "two"))
    index = put_index(cas, one, two)
    cas.update_reference("v1", index)
    assert resolved(cas, "v1", "linux/amd64") == [[index.digest, one.digest]]


def test_one_manifest_on_two_platforms(cas):
    manifest = put_manifest(cas)
    index = put_index(
        cas, manifest.replace(platform=on("linux/arm64")), manifest.replace(platform=on("linux/amd64"))
    )
    cas.update_reference("v1", index)
    (path,) = cas.resolve_reference("v1", platform="linux/amd64")
    assert path[-1].platform == on("linux/amd64")


def test_what_has_no_platform(cas):
    artifact = put_manifest(cas, "files", config=put(cas, b"{}", EMPTY_JSON))
    unknown = Descriptor("application/x-unknown", "sha256:" + "1" * 64, 10)
    unspoken = put_manifest(cas, "unspoken", config=put_config(cas, os="", architecture=""))
    sparse = put_manifest(cas, "sparse")
    cas.delete_blob(cas.read_descriptor(sparse).data.config.digest)
    absent = Descriptor(MANIFEST, "sha256:" + "3" * 64, 10)
    for target in (artifact, unknown, unspoken, sparse, absent):
        cas.put_index(Index([target.replace(annotations={REF_NAME: "v1"})]))
        assert resolved(cas, "v1", "linux/amd64") == [[target.digest]]
        cas.update_reference("v1", put_index(cas, target))
        assert resolved(cas, "v1", "linux/amd64") == []
        assert len(resolved(cas, "v1")) == 1


def test_a_config_that_is_broken(cas):
    config = put(cas, b'{"os":1}', "application/vnd.oci.image.config.v1+json")
    cas.update_reference("v1", put_manifest(cas, config=config))
    with pytest.raises(InvalidError, match=config.digest):
        cas.resolve_reference("v1", platform="linux/amd64")


# ---- names, against the grammar in plain Python ----

ALPHANUMERIC = set(string.ascii_letters + string.digits)


def is_component(text: str) -> bool:
    """Groups of letters and digits, joined by one of ``-._:@+`` or by ``--``."""
    at = 0
    while True:
        start = at
        while at < len(text) and text[at] in ALPHANUMERIC:
            at += 1
        if at == start:
            return False
        if at == len(text):
            return True
        if text[at : at + 2] == "--":
            at += 2
        elif text[at] in "-._:@+":
            at += 1
        else:
            return False


def is_reference_name(text: str) -> bool:
    return all(is_component(part) for part in text.split("/"))


near = st.lists(
    st.sampled_from([*"aZ09-._:@+/", "--", "---", "\n", " ", "\u00e9", "\u0661"]), max_size=12
)
valid = st.lists(
    st.lists(st.from_regex(r"[A-Za-z0-9]{1,3}(([-._:@+]|--)[A-Za-z0-9]{1,3}){0,3}", fullmatch=True))
    .filter(bool)
    .map("+".join),
    min_size=1,
    max_size=3,
).map("/".join)


@given(st.one_of(near.map("".join), st.text(max_size=12), valid))
@settings(max_examples=500, deadline=None)
def test_case_38_names_by_the_grammar(text):
    try:
        check_reference_name(text)
    except InvalidError:
        assert not is_reference_name(text)
    else:
        assert is_reference_name(text)


@given(valid)
@settings(max_examples=100, deadline=None)
def test_case_38_valid_names_by_the_grammar(text):
    assert is_reference_name(text)
    assert check_reference_name(text) == text
