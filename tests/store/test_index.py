"""The index: replies that get lost, changes beside each other, documents too large."""

from __future__ import annotations

import errno
import threading

import obstore
import pytest
from obstore.exceptions import (
    GenericError,
    PreconditionError,
)

import fastcas
from conformance import descriptor_of, store_image
from fastcas import (
    InvalidError,
    NotExistError,
)
from fastcas.layout import LAYOUT_LIMIT
from fastcas.model import INDEX_LIMIT
from fastcas.store import bucket as requests
from fastcas.store import sweep
from store.conftest import raw


def test_lost_replies_lose_no_update(store, monkeypatch):
    """The server has written, and the client is told that it hasn't."""
    real = obstore.put
    calls = []

    def put(client, key, content, **more):
        result = real(client, key, content, **more)
        if key == "x/index.json":
            calls.append(key)
            if len(calls) % 2:
                raise PreconditionError("asked twice") if len(calls) % 4 == 1 else GenericError("503")
        return result

    monkeypatch.setattr(requests.obstore, "put", put)
    ran = []
    for number in range(10):

        def add(index, number=number):
            ran.append(number)
            entry = descriptor_of(b"%d" % number)
            return index.replace(manifests=(*index.manifests, entry))

        store.update_index(add)
    assert len(store.get_index().manifests) == 10
    assert ran == list(range(10)), "what was written is not done again"


@pytest.mark.parametrize("lost", [False, True])
def test_what_an_update_named_is_looked_after(store, url, monkeypatch, lost):
    """A sweep removes it and ends before the update is told that it was made."""
    real = obstore.put
    tagged, _ = store_image(store, 1)
    store._sweeps._looked = -1000.0
    obstore.put(raw(url), "x/.fastcas/gc/other/announced", b"")

    def put(client, key, content, **more):
        result = real(client, key, content, **more)
        if key == "x/index.json":
            store.delete_blob(tagged.digest)
            obstore.delete(client, "x/.fastcas/gc/other/announced")
            if lost:
                raise GenericError("503")
        return result

    monkeypatch.setattr(requests.obstore, "put", put)
    with pytest.raises(NotExistError, match="put it again"):
        store.update_reference("v1", tagged)


def test_what_was_never_stored_can_be_named_beside_a_gc(store, url):
    """As without one: an index may lead to what is elsewhere, or embedded in it."""
    embedded = descriptor_of(b"{}", data=b"{}")
    stored = descriptor_of(b"x")
    store.put_blob(b"x")
    with fastcas.open(url) as other, other.announce_sweep():
        store._sweeps._looked = -1000.0
        for name, entry in ("a", embedded), ("b", descriptor_of(b"elsewhere")), ("c", stored):
            store.update_reference(name, entry)
    assert store.list_references() == ["a", "b", "c"]


def test_an_embedded_entry_is_not_looked_after(store, monkeypatch):
    """An update that takes longer than the look at the sweeps before it says something."""
    monkeypatch.setattr(sweep, "QUIET", -1.0)
    store.update_reference("a", descriptor_of(b"{}", data=b"{}"))


def test_an_update_that_is_refused_is_made_again(store, url):
    with fastcas.open(url) as other:
        tried = []

        def add(index):
            if not tried:
                other.update_reference("theirs", descriptor_of(b"theirs"))
            tried.append(len(index.manifests))
            return index.replace(manifests=(*index.manifests, descriptor_of(b"ours")))

        store.update_index(add)
    assert tried == [0, 1]
    assert len(store.get_index().manifests) == 2


def test_retries_of_the_index_pause(store, url, monkeypatch):
    """Each time twice as long at the most, so that the many who try don't keep each other from it."""
    pauses = []
    real = obstore.put

    def put(client, key, content, **more):
        if key == "x/index.json" and len(pauses) < 12:
            raise PreconditionError("412")
        return real(client, key, content, **more)

    store.update_reference("v1", descriptor_of())
    monkeypatch.setattr(requests.obstore, "put", put)
    monkeypatch.setattr("fastcas.store.index.time.sleep", pauses.append)
    monkeypatch.setattr("fastcas.store.index.random.uniform", lambda low, high: (low, high))
    store.update_reference("v2", descriptor_of())
    assert [low for low, _ in pauses] == [0] * 12
    longest = [high for _, high in pauses]
    assert longest[:3] == [0.01, 0.02, 0.04]
    assert longest == sorted(longest)
    assert longest[-1] == 1.0


@pytest.mark.parametrize(("name", "limit"), [("oci-layout", LAYOUT_LIMIT), ("index.json", INDEX_LIMIT)])
def test_a_document_that_is_too_large_is_not_read(store, url, monkeypatch, name, limit):
    real = obstore.get

    class Large:
        def __init__(self, found):
            self.meta = {**found.meta, "size": limit + 1}
            self.attributes = found.attributes

        def bytes(self):
            raise AssertionError("it was read")

    def get(client, key, *, options=None):
        found = real(client, key, options=options)
        return Large(found) if key == f"x/{name}" else found

    monkeypatch.setattr(requests.obstore, "get", get)
    with pytest.raises(InvalidError, match=r"limit|of that size") as caught:
        fastcas.open(url).get_index()
    assert caught.value.path == f"{url}/{name}"


def test_a_server_that_keeps_failing_is_told(store, monkeypatch):
    real = obstore.put

    def put(client, key, content, **more):
        if key == "x/index.json":
            raise GenericError("503 Service Unavailable")
        return real(client, key, content, **more)

    monkeypatch.setattr(requests.obstore, "put", put)
    monkeypatch.setattr("fastcas.store.index._PAUSE", 0.0001)
    with pytest.raises(OSError, match="503") as caught:
        store.update_reference("v1", descriptor_of())
    assert caught.value.errno == errno.EIO


def test_threads_lose_no_update(url):
    fastcas.create(url).close()

    def work(number):
        with fastcas.open(url) as cas:
            for count in range(10):
                cas.update_reference(f"v{number}-{count}", descriptor_of(b"%d" % number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with fastcas.open(url) as cas:
        assert len(cas.list_references()) == 80


def test_the_function_may_not_change_the_index(store):
    def change(index):
        store.put_index(index)

    with pytest.raises(InvalidError, match="function that changes it"):
        store.update_index(change)
