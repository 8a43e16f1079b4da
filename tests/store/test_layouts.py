"""Layouts that are made and opened, and what a forked child may do with them."""

from __future__ import annotations

import json
import os
import signal
import threading

import obstore
import pytest

import fastcas
from conformance import descriptor_of, digest_of, noise
from fastcas import (
    ClobberError,
    InvalidError,
    NotExistError,
    UnsupportedError,
)
from fastcas.store import bucket as requests
from fastcas.store import conditions
from store.conftest import names, raw


@pytest.mark.parametrize("way", ["update", "put"])
def test_an_index_of_another_style_is_written_compact(store, url, way):
    indented = json.dumps({"schemaVersion": 2, "manifests": [], "unknown": [1.50, "a, b"]}, indent=2)
    obstore.put(raw(url), "x/index.json", indented.encode())
    if way == "update":
        store.update_reference("v1", descriptor_of())
    else:
        store.put_index(store.get_index().replace(annotations={"a": "b"}))
    written = bytes(obstore.get(raw(url), "x/index.json").bytes())
    assert written == json.dumps(json.loads(written), separators=(",", ":")).encode() + b"\n"
    assert store.get_index().raw == written


def test_create_and_open(url):
    with pytest.raises(NotExistError):
        fastcas.open(url)
    with fastcas.create(url) as engine:
        assert engine.url == url
        assert engine.durability == "full"
    assert names(url) == ["index.json", "oci-layout"]
    with pytest.raises(ClobberError):
        fastcas.create(url)
    with fastcas.open(url, durability="batch") as engine:
        assert engine.durability == "full"
    with pytest.raises(InvalidError):
        fastcas.open(url, durability="nosuch")
    obstore.put(raw(url), "x/oci-layout", b'{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(InvalidError, match="imageLayoutVersion"):
        fastcas.open(url)
    obstore.delete(raw(url), "x/oci-layout")
    with pytest.raises(InvalidError, match="no oci-layout"):
        fastcas.open(url)


def test_a_layout_can_be_made_where_a_probe_was(url, monkeypatch):
    monkeypatch.setattr(conditions, "STEPS", 2)
    fastcas.probe(url)
    with pytest.raises(NotExistError):
        fastcas.open(url)
    fastcas.create(url).close()


def test_what_makes_it_a_layout_is_written_last(url, monkeypatch):
    written = []
    real = obstore.put

    def put(client, key, content, **more):
        written.append(key)
        return real(client, key, content, **more)

    monkeypatch.setattr(requests.obstore, "put", put)
    fastcas.create(url).close()
    assert written == ["x/index.json", "x/oci-layout"]


def test_create_goes_on_where_another_was_interrupted(url):
    obstore.put(raw(url), "x/index.json", fastcas.layout.INDEX_BYTES)
    fastcas.create(url).close()
    other = url + "y"
    obstore.put(raw(other), "xy/index.json", b'{"schemaVersion":2,"manifests":[ ]}')
    with pytest.raises(ClobberError):
        fastcas.create(other)


def test_a_create_whose_reply_was_lost_has_succeeded(url, monkeypatch):
    real = obstore.put

    def put(client, key, content, **more):
        real(client, key, content, **more)
        if more.get("mode") == "create":
            raise requests.exceptions.AlreadyExistsError("asked twice")

    monkeypatch.setattr(requests.obstore, "put", put)
    fastcas.create(url).close()
    monkeypatch.undo()
    fastcas.open(url).close()


def test_a_forked_child_is_refused(store):
    store.put_blob(b"x")
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b"nothing"
        try:
            store.read_blob(digest_of(b"x"))
        except UnsupportedError as error:
            said = str(error).encode()
        finally:
            os.write(send, said)
            os._exit(0)
    os.close(send)
    with open(receive, "rb") as stream:
        assert b"forked child" in stream.read()
    os.waitpid(pid, 0)
    assert store.read_blob(digest_of(b"x")) == b"x"


@pytest.mark.parametrize("call", ["put_blobs", "scrub", "update_index", "close"])
def test_a_forked_child_never_waits(store, call):
    """For threads or locks of its parent, that is."""
    store.put_blobs([b"x", b"y"])
    calls = {
        "put_blobs": lambda: store.put_blobs([b"x"]),
        "scrub": store.scrub,
        "update_index": lambda: store.update_index(lambda index: index),
        "close": store.close,
    }
    with store._index._turn:  # another thread changes the index
        pid = os.fork()
        if pid == 0:
            code = 1
            signal.alarm(20)
            try:
                calls[call]()
                code = 2
            except UnsupportedError:
                code = 3
            finally:
                os._exit(code)
    assert os.waitpid(pid, 0)[1] == (2 if call == "close" else 3) << 8


@pytest.mark.parametrize("call", ["read", "close"])
def test_a_forked_child_never_waits_for_a_readers_threads(store, call):
    digest, _ = store.put_blob(noise(9 << 20))
    with store.get_blob(digest) as blob:
        blob.read(100)
        held, done = threading.Event(), threading.Event()

        def hold():  # as a thread of the reader does for a moment
            with blob._stream._hashed._lock:
                held.set()
                done.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(20)
        pid = os.fork()
        if pid == 0:
            code = 1
            signal.alarm(20)
            try:
                blob.close() if call == "close" else blob.readall()
                code = 2
            except UnsupportedError:
                code = 3
            finally:
                os._exit(code)
        done.set()
        thread.join()
        assert os.waitpid(pid, 0)[1] == (2 if call == "close" else 3) << 8
        assert len(blob.readall()) == (9 << 20) - 100


def test_a_child_that_is_forked_at_the_end_of_a_source_is_refused(store):
    """Whose last block is full: nothing of it is left for the child to send."""
    content = noise(9 << 23)
    digest = digest_of(content)
    pid = None

    def source():
        nonlocal pid
        yield content
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)

    code = 1
    try:
        store.put_blob(source(), expected_digest=digest, expected_size=len(content))
    except UnsupportedError:
        code = 3
    finally:
        if pid == 0:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 3 << 8
    assert store.stat_blob(digest).size == len(content)
