"""References on any engine: an index in memory is enough of one."""

from __future__ import annotations

import pytest

from fastcas.errors import InvalidError
from fastcas.image.reference import (
    check_reference_name,
    delete_reference,
    find_entries,
    list_references,
    update_reference,
)
from fastcas.model import ANNOTATION_REF_NAME, Descriptor, Index

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


class MemoryEngine:
    """get_index and update_index as the contract says; ``interfere`` is another writer's index,
    found when the first result is about to be written."""

    def __init__(self, index=None):
        self.index = index or Index()
        self.writes = 0
        self.interfere = None

    def get_index(self):
        return self.index

    def update_index(self, function):
        changed = function(self.index)
        if self.interfere is not None:
            self.index, self.interfere = self.interfere, None
            changed = function(self.index)
        if changed is not None:
            self.index = Index.from_json(changed.to_json())
            self.writes += 1
        return self.index


def entry(digest=A, name=None, **more):
    annotations = {**more, ANNOTATION_REF_NAME: name} if name is not None else more or None
    return Descriptor("application/example", digest, 1, annotations=annotations)


VALID = [
    "v1",
    "V1",
    "0",
    "latest",
    "a-b",
    "a.b_c:d@e+f-g",
    "a--b",
    "a/b/c:v1",
    "v1@sha256",
    "host:5000/repo:tag",
    "example.org/team/app:1.0",
    "sha256:" + "0" * 64,
    "a" * 10_000,
    "/".join("a" * 1000),
]

INVALID = [
    "",
    " ",
    "/",
    "a/",
    "/a",
    "a//b",
    "-a",
    "a-",
    ".",
    "..",
    "a/../b",
    "a..b",
    "a---b",
    "a__b",
    "a-.b",
    "a::b",
    "a b",
    "a\n",
    "a\nb",
    "a/b\n",
    "\na",
    "a\0",
    "a*",
    "a#b",
    "a\\b",
    "\u00e9",
    "\uff41",
    "\u0661",
    "a\u0301",
    "\ud800",
    "a" * 10_000 + "-",
    ("a-" * 10_000) + "-",
    None,
    5,
    b"v1",
]


@pytest.mark.parametrize("name", VALID, ids=lambda name: repr(name)[:20])
def test_case_38_reference_names(name):
    assert check_reference_name(name) == name
    engine = MemoryEngine()
    assert update_reference(engine, name, entry()) == []
    assert list_references(engine) == [name]


@pytest.mark.parametrize("name", INVALID, ids=lambda name: repr(name)[:20])
def test_case_38_reference_names_that_are_invalid(name):
    with pytest.raises(InvalidError) as caught:
        check_reference_name(name)
    assert len(str(caught.value)) < 400
    engine = MemoryEngine()
    with pytest.raises(InvalidError):
        update_reference(engine, name, entry())
    assert engine.writes == 0


@pytest.mark.parametrize("name", [n for n in INVALID if isinstance(n, str) and n != "\ud800"])
def test_case_38_foreign_names_are_listed_found_and_removed(name):
    engine = MemoryEngine(Index([entry(A, name), entry(B, "v1")]))
    assert list_references(engine) == [name, "v1"]
    assert find_entries(engine, name) == [entry(A, name)]
    assert delete_reference(engine, name) == [entry(A, name)]
    assert list_references(engine) == ["v1"]


def test_case_39_absent():
    engine = MemoryEngine(Index([entry(A, "v1"), entry(B)]))
    assert find_entries(engine, "v2") == []
    assert find_entries(engine, C) == []
    assert delete_reference(engine, "v2") == []
    assert engine.writes == 0
    assert list_references(engine) == ["v1"]


def test_case_39_same_name_twice():
    engine = MemoryEngine(Index([entry(A, "v1"), entry(B, "v2"), entry(C, "v1"), entry(A)]))
    assert list_references(engine) == ["v1", "v2", "v1"]
    assert find_entries(engine, "v1") == [entry(A, "v1"), entry(C, "v1")]
    assert update_reference(engine, "v1", entry(B)) == [entry(A, "v1"), entry(C, "v1")]
    assert list(engine.index.manifests) == [entry(B, "v2"), entry(A), entry(B, "v1")]
    assert delete_reference(engine, "v1") == [entry(B, "v1")]
    assert delete_reference(engine, "v1") == []
    assert engine.writes == 2


def test_case_39_same_digest_twice():
    engine = MemoryEngine(Index([entry(A, "v1"), entry(B, "v2"), entry(A, "v3"), entry(A)]))
    assert find_entries(engine, A) == [entry(A, "v1"), entry(A, "v3"), entry(A)]
    assert delete_reference(engine, "v1") == [entry(A, "v1")]
    assert find_entries(engine, A) == [entry(A, "v3"), entry(A)]


@pytest.mark.parametrize("annotations", [{}, {"other": "kept"}, {ANNOTATION_REF_NAME: "old"}])
def test_case_40_callers_descriptor_is_untouched(annotations):
    given = Descriptor("application/example", A, 1, annotations=annotations, data=b"x")
    before = given.to_json()
    engine = MemoryEngine()
    update_reference(engine, "v1", given)
    assert given.to_json() == before
    (stored,) = engine.index.manifests
    assert stored.annotations == {**annotations, ANNOTATION_REF_NAME: "v1"}
    assert stored.data == b"x"


def test_case_35_unknown_fields_survive_a_reference_update():
    old = b'{"mediaType":"m/t","digest":"%s","size":1,"x":{"y" : 1.0}}' % A.encode()
    raw = b'{"schemaVersion":2,"z":[ 1 ],"manifests":[%s]}' % old
    engine = MemoryEngine(Index.from_json(raw))
    given = Descriptor.from_json(old.replace(b"1.0", b"2.0"))
    update_reference(engine, "v1", given)
    new = old.replace(b"1.0", b"2.0").replace(
        b',"x"', b',"annotations":{"%s":"v1"},"x"' % ANNOTATION_REF_NAME.encode()
    )
    expected = b'{"schemaVersion":2,"z":[ 1 ],"manifests":[%s,%s]}\n' % (old, new)
    assert engine.index.to_json() == expected
    delete_reference(engine, "v1")
    assert engine.index.to_json() == b'{"schemaVersion":2,"z":[ 1 ],"manifests":[%s]}\n' % old


def test_an_update_that_runs_again_reports_the_last_run():
    engine = MemoryEngine(Index([entry(A, "v1")]))
    engine.interfere = Index([entry(B, "v1"), entry(C, "other")])
    assert update_reference(engine, "v1", entry(A)) == [entry(B, "v1")]
    assert list_references(engine) == ["other", "v1"]
    engine.interfere = Index([entry(C, "other")])
    assert delete_reference(engine, "v1") == []
    assert list_references(engine) == ["other"]


def test_wrong_types():
    with pytest.raises(TypeError):
        update_reference(MemoryEngine(), "v1", A)
    with pytest.raises(InvalidError):
        delete_reference(MemoryEngine(), None)
