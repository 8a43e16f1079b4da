"""Whether a server keeps conditions, and what is noted of it."""

from __future__ import annotations

import json
import time

import obstore
import pytest
from obstore.exceptions import (
    PermissionDeniedError,
    PreconditionError,
)

import fastcas
from conformance import descriptor_of
from fastcas import (
    UnsupportedError,
)
from fastcas.store import bucket as requests
from fastcas.store import conditions, location, sweep
from store.conftest import names, raw


def test_the_unsafe_index_is_asked_for_by_1(url, monkeypatch, store, ignoring):
    monkeypatch.setenv("FASTCAS_UNSAFE_INDEX", "0")
    with fastcas.open(url) as engine, pytest.raises(UnsupportedError):
        engine.update_reference("v1", descriptor_of())
    monkeypatch.setenv("FASTCAS_UNSAFE_INDEX", "1")
    with fastcas.open(url) as engine:
        engine.update_reference("v1", descriptor_of())


@pytest.fixture
def ignoring(monkeypatch):
    """A server that ignores conditions."""
    real = obstore.put

    def put(client, key, content, *, mode="overwrite", **more):
        return real(client, key, content, mode="overwrite", **more)

    monkeypatch.setattr(requests.obstore, "put", put)


def test_a_server_that_ignores_conditions_is_refused(url, store, ignoring):
    with pytest.raises(UnsupportedError, match="create-only"):
        store.update_reference("v1", descriptor_of())
    assert store.list_references() == []
    found = {one.name: one.right for one in fastcas.probe(url)}
    assert not found["create-only"]
    assert not found["stale if-match"]
    with fastcas.open(url) as again, pytest.raises(UnsupportedError):
        again.update_reference("v1", descriptor_of())
    with fastcas.open(url) as again, pytest.raises(UnsupportedError):
        again.put_index(again.get_index())
    with fastcas.open(url, config={"unsafe_index": True}) as again:
        again.put_index(again.get_index())
        again.update_reference("v1", descriptor_of())
        assert again.list_references() == ["v1"]


@pytest.mark.parametrize("number", range(4))
def test_a_lost_reply_is_no_broken_condition(url, store, monkeypatch, number):
    real = obstore.put
    conditional = []

    def put(client, key, content, *, mode="overwrite", **more):
        result = real(client, key, content, mode=mode, **more)
        if mode != "overwrite" and ".fastcas/probe" in key:
            conditional.append(key)
            if len(conditional) == number + 1:
                raise PreconditionError("asked twice")
        return result

    monkeypatch.setattr(requests.obstore, "put", put)
    monkeypatch.setattr(conditions, "STEPS", 2)
    store.update_reference("v1", descriptor_of())
    conditional.clear()
    assert all(one.right for one in fastcas.probe(url))


NOTE = "x/.fastcas/conditions.json"


def test_what_was_found_right_of_another_server_says_nothing(store, url, ignoring):
    obstore.put(raw(url), NOTE, b'{"server": "http://another", "wrong": ""}')
    with pytest.raises(UnsupportedError, match="create-only"):
        store.update_reference("v1", descriptor_of())


@pytest.mark.parametrize("server", ["memory", "http://another"])
def test_what_was_found_wrong_stays_until_a_probe_finds_it_right(url, store, server, monkeypatch):
    """A trial, which tries one after the other, can't disprove it, whichever the server's name is."""
    monkeypatch.setattr(conditions, "STEPS", 2)
    note = b'{"server": "%s", "wrong": "create-only, raced: 2 of 16"}' % server.encode()
    obstore.put(raw(url), NOTE, note)
    for _ in range(2):
        with fastcas.open(url) as engine, pytest.raises(UnsupportedError, match="raced"):
            engine.update_reference("v1", descriptor_of())
    assert obstore.get(raw(url), NOTE).bytes() == note
    assert all(one.right for one in fastcas.probe(url))
    store.update_reference("v1", descriptor_of())


@pytest.mark.parametrize("before", [None, b'{"server": "http://another", "wrong": ""}', b"{}"])
def test_a_trial_beside_a_probe_replaces_nothing(url, store, monkeypatch, before):
    if before:
        obstore.put(raw(url), NOTE, before)
    real = conditions.try_conditions

    def try_conditions(bucket):
        found = real(bucket)
        obstore.put(raw(url), NOTE, b'{"server": "http://a", "wrong": "if-match, raced: 2 of 400"}')
        return found

    monkeypatch.setattr(conditions, "try_conditions", try_conditions)
    with pytest.raises(UnsupportedError, match="raced"):
        store.update_reference("v1", descriptor_of())
    assert b"raced" in bytes(obstore.get(raw(url), NOTE).bytes())


@pytest.mark.parametrize("wrong", [False, True])
def test_what_the_first_change_finds_is_noted(url, store, monkeypatch, request, wrong):
    if wrong:
        request.getfixturevalue("ignoring")
        with pytest.raises(UnsupportedError):
            store.update_reference("v1", descriptor_of())
    else:
        store.update_reference("v1", descriptor_of())
    note = json.loads(bytes(obstore.get(raw(url), NOTE).bytes()))
    assert note["server"] == "memory"
    assert bool(note["wrong"]) == wrong
    monkeypatch.setattr(conditions, "try_conditions", None)
    with fastcas.open(url) as other:
        if wrong:
            with pytest.raises(UnsupportedError):
                other.update_reference("v2", descriptor_of())
        else:
            other.update_reference("v2", descriptor_of())


def test_who_may_not_delete_may_tag(store, url, monkeypatch):
    """What is left of the trials, and of asking for the time, clean removes."""

    def delete(*_, **__):
        raise PermissionDeniedError("403: <Error><Code>AccessDenied</Code></Error>")

    monkeypatch.setattr(conditions, "STEPS", 2)
    entry = descriptor_of(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(requests.obstore, "delete", delete)
        obstore.put(raw(url), "x/.fastcas/gc/dead/step", b'{"digests":["%s"]}' % entry.digest.encode())
        patch.setattr(sweep, "_DEAD", -1)
        store.put_blob(b"x")
        store.update_reference("v1", entry)
        assert all(one.right for one in fastcas.probe(url))
        with pytest.raises(PermissionError):
            store.delete_blob(entry.digest)
    monkeypatch.setattr("fastcas.store.engine._LEFT_BEHIND", -1)
    assert {key.split("/")[1] for key in store.clean()} == {"gc", "clock", "probe"}
    assert not any(name.startswith((".fastcas/probe", ".fastcas/clock")) for name in names(url))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("HTTP://Host:1/", "http://host:1"),
        ("https://h/Path/", "https://h/Path"),
        ("s3", "s3"),
    ],
)
def test_an_endpoint_has_one_spelling(written, meant):
    assert location.normalise(written) == meant


def test_the_probe_finds_a_race(url, monkeypatch):
    """Conditions that are looked at before the write, and not with it."""
    real = obstore.put

    def put(client, key, content, *, mode="overwrite", **more):
        if mode == "create":
            try:
                obstore.head(client, key)
            except FileNotFoundError:
                time.sleep(0.002)
                return real(client, key, content, **more)
        elif mode != "overwrite" and obstore.head(client, key)["e_tag"] == mode["e_tag"]:
            time.sleep(0.002)
            return real(client, key, content, **more)
        return real(client, key, content, mode=mode, **more)

    monkeypatch.setattr(requests.obstore, "put", put)
    monkeypatch.setattr(conditions, "STEPS", 5)
    found = {one.name: one.right for one in fastcas.probe(url)}
    wrong = {name for name, right in found.items() if not right}
    assert wrong == {"create-only, raced", "if-match, raced"}
    monkeypatch.undo()
    assert all(one.right for one in fastcas.probe(url))
    assert not any("probe" in name for name in names(url))
