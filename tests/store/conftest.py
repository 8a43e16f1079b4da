"""The engine on an object store, against the client's own memory: what its tests share.
tests/objectstore does it against a server."""

from __future__ import annotations

import uuid

import obstore
import pytest

import fastcas
from fastcas.store import bucket as requests
from fastcas.store import ingest, sweep
from fastcas.store.location import connect, parse

SECRET = "sEcReT/+key"


S3 = {"endpoint": "http://127.0.0.1:1", "access_key_id": "AKIDXXXXX", "secret_access_key": SECRET}


FAST = {"retry_config": {"max_retries": 0}}


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    monkeypatch.setattr(sweep, "WAIT", 0.0)


@pytest.fixture
def url():
    return f"memory://{uuid.uuid4().hex}/x"


@pytest.fixture
def store(url):
    with fastcas.create(url) as engine:
        yield engine


def raw(url):
    """The client of a URL's bucket, for what an engine doesn't do."""
    return connect(parse(url), {})


def names(url):
    return sorted(meta["path"].removeprefix("x/") for meta in obstore.list(raw(url)).collect())


@pytest.fixture
def small_parts(monkeypatch):
    """Uploads of parts are tried with little."""
    for module in (requests, ingest):
        monkeypatch.setattr(module, "PART", 64 << 10)
    monkeypatch.setattr(ingest, "IN_MEMORY", 128 << 10)
