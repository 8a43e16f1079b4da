"""What is listed, and what isn't."""

from __future__ import annotations

import obstore
import pytest
from obstore.exceptions import (
    GenericError,
)

import fastcas
from conformance import digest_of
from fastcas import (
    Digest,
    NotExistError,
)
from fastcas.store import bucket as requests
from store.conftest import raw


def test_strange_keys_among_the_blobs_are_told(store, url):
    obstore.put(raw(url), "x/blobs/sha256/short", b"x")
    obstore.put(raw(url), "x/blobs/stray", b"x")
    digest = Digest(digest_of(b"y"))
    obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}/below", b"x")
    assert list(store) == []
    assert [problem.kind for problem in store.scrub().problems] == ["bad-name"] * 3


def listing(monkeypatch, change):
    """What the server lists from now on."""
    real = obstore.list

    def changed(client, prefix, **more):
        return iter([change(real(client, prefix).collect(), prefix)])

    monkeypatch.setattr(requests.obstore, "list", changed)


def test_markers_of_folders_are_no_blobs(store, url, monkeypatch):
    """Some tools make them: empty objects whose keys end with a slash, which the client cuts off."""
    kept = {store.put_blob(content).digest for content in (b"x", b"")}
    encoded = digest_of(b"y").partition(":")[2]
    damaged = store.put_blob(b"z").digest
    obstore.put(raw(url), f"x/blobs/sha256/{damaged.encoded}", b"")

    def add_markers(listed, prefix):
        when = listed[0]["last_modified"] if listed else None
        keys = ["x/blobs", "x/blobs/sha256", f"x/blobs/sha256/{encoded}"]
        return [
            *listed,
            *({"path": key, "size": 0, "last_modified": when} for key in keys if prefix == "x/blobs"),
        ]

    listing(monkeypatch, add_markers)
    assert set(store) == {*kept, damaged}
    report = store.scrub()
    assert [(one.digest, one.kind) for one in report.problems] == [(damaged, "corrupt")]
    assert {blob.digest for blob in store.gc(grace=0).deleted} == {*kept, damaged}


def test_a_layout_can_be_made_in_an_empty_folder(url, monkeypatch):
    listing(monkeypatch, lambda listed, _: [*listed, {"path": "x", "size": 0}])
    with pytest.raises(NotExistError):
        fastcas.open(url)


def test_a_key_that_the_client_cannot_take_is_named(store, monkeypatch):
    def unreadable(*_, **__):
        raise GenericError(
            'Encountered object with invalid path: Error parsing Path "x/blobs/sha256/a\nb": '
            'Encountered illegal character sequence "\n"'
        )

    monkeypatch.setattr(requests.obstore, "list", unreadable)
    with pytest.raises(OSError, match=r"'x/blobs/sha256/a\\nb': remove it with another tool"):
        list(store)
