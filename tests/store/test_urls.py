"""URLs, settings and what is secret."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections import UserDict

import pytest

import fastcas
from conformance import digest_of
from conftest import child_environment
from fastcas import (
    InvalidError,
    UnsupportedError,
)
from fastcas.store import location
from fastcas.store.location import connect, hide, parse, secrets
from store.conftest import FAST, S3, SECRET


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://bucket", ("s3", "bucket", "")),
        ("s3://bucket/", ("s3", "bucket", "")),
        ("gs://b/a/b c", ("gs", "b", "a/b c")),
        ("az://container/x/", ("az", "container", "x")),
    ],
)
def test_a_url_is_taken_apart(url, parts):
    assert parse(url) == parts
    assert str(parse(url)).rstrip("/") == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3://b//x", "s3://b/x//", "s3://b/../x", "s3://b/.", "s3://b?x", "s3://b/x?y=1",
     "s3://b/x#y", "s3://b:9000/x", "s3://b/x\ny", "memory://", "s3://b x/y", "s3://b\tx/y"],
)  # fmt: skip
def test_a_url_that_names_no_place_is_refused(url):
    for call in (fastcas.open, fastcas.create, fastcas.probe):
        with pytest.raises(InvalidError):
            call(url)


def test_credentials_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(InvalidError) as caught:
        fastcas.open(f"s3://AKID:{SECRET}@bucket/x")
    assert SECRET not in str(caught.value)


def test_other_schemes_are_refused(tmp_path):
    for url in ("http://x/y", "S3://AKID:" + SECRET + "@bucket/x"):
        with pytest.raises(InvalidError, match="unknown scheme") as caught:
            fastcas.open(url)
        assert SECRET not in str(caught.value)
    with pytest.raises(InvalidError):
        fastcas.open(tmp_path, config={})


def test_nothing_secret_is_seen(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "tokentokentoken")
    config = {**S3, **FAST}
    with pytest.raises(OSError) as caught:
        fastcas.open("s3://bucket/x", config=config)
    assert caught.value.filename == "s3://bucket/x/oci-layout"
    shown = "".join(map(str, [caught.value, caught.value.__cause__, caught.value.__context__]))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert SECRET not in shown
    with pytest.raises(InvalidError) as caught:
        fastcas.open("s3://bucket", config={**config, "no_such_key": SECRET})
    assert "no_such_key" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert hide(f"a {SECRET} tokentokentoken b", secrets(config)) == "a *** *** b"


def test_an_engine_pickles_without_secrets(url, monkeypatch):
    with fastcas.create(url) as engine:
        engine.put_blob(b"x")
        with pickle.loads(pickle.dumps(engine)) as again:
            assert again.read_blob(digest_of(b"x")) == b"x"
        assert repr(again).startswith("<fastcas.StoreEngine 'memory://")
    monkeypatch.setattr(fastcas.StoreEngine, "_config", S3, raising=False)
    engine = copy.copy(engine)
    engine._config = S3
    assert SECRET not in repr(engine)
    with pytest.raises(UnsupportedError) as caught:
        pickle.dumps(engine)
    assert "secret_access_key" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"client_options": {"proxy_url": f"http://me:{SECRET}@proxy"}},
        {"client_options": {"default_headers": {"Authorization": SECRET}}},
        {"client_options": {"default_headers": {"Authorization": SECRET.encode()}}},
        {"client_options": UserDict(proxy_url=f"http://me:{SECRET}@proxy")},
        {"AWS_SECRET_ACCESS_KEY": SECRET},
    ],
)
def test_secrets_of_the_client_are_secrets(url, more):
    with fastcas.create(url, config=more) as engine:
        with pytest.raises(UnsupportedError) as caught:
            pickle.dumps(engine)
        assert SECRET not in str(caught.value)
    assert hide(f"a {SECRET} b".replace(SECRET, secrets(more)[0]), secrets(more)) == "a *** b"


@pytest.mark.parametrize(
    "more",
    [
        {"endpoint": f"http://me:{SECRET}@127.0.0.1:1"},
        {"client_options": None, "nosuch": 1},
        {5: 5},
        {"client_options": 5},
        {"retry_config": "abc"},
        {"endpoint": "localhost:9000"},
        {"endpoint": " http://localhost"},
        {"endpoint": "http://"},
        {"endpoint": "http://[::1"},
        {"endpoint": "http://localhost:x"},
        {"endpoint": "http://localhost:99999"},
        {"endpoint": "http://local host"},
        {"endpoint": "ftp://localhost"},
        {"region": "eu\n"},
        {"access_key_id": "AKIDXXXXX\n"},
        {"secret_access_key": f"{SECRET}\n"},
        {"session_token": f"{SECRET}\r"},
    ],
)
def test_a_config_that_cannot_be_is_refused(more):
    with pytest.raises(InvalidError) as caught:
        fastcas.open("s3://bucket/x", config={**S3, **FAST, **more})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("config", ["abc", 5, [], {5: 5}, {"client_options": 5}])
@pytest.mark.parametrize("place", ["memory://x/y", "s3://x/y"])
def test_a_config_is_a_mapping(place, config):
    for call in (fastcas.open, fastcas.create, fastcas.probe):
        with pytest.raises(InvalidError, match="mapping"):
            call(place, config=config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000"),
        ("AWS_REGION", "eu\n"),
        ("AWS_SESSION_TOKEN", f"{SECRET}\n"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidError, match=f"endpoint|{name}") as caught:
        fastcas.open("s3://bucket/x", config=FAST)
    assert SECRET not in str(caught.value)


def test_settings_are_told_apart():
    for name in (
        "secret_access_key",
        "AWS_SECRET_ACCESS_KEY",
        "session_token",
        "sas_key",
        "account_key",
    ):
        assert location.is_secret(name)
    for name in (
        "region",
        "endpoint",
        "container_authorization_token_file",
        "virtual_hosted_style_request",
    ):
        assert not location.is_secret(name)


def test_an_http_endpoint_may_be_used_and_tls_is_signed_once(monkeypatch):
    seen = []
    monkeypatch.setattr(location.stores, "S3Store", lambda *a, **k: seen.append(k))
    connect(parse("s3://b"), {"endpoint": "HTTP://here"})
    connect(parse("s3://b"), {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://there")
    connect(parse("s3://b"), {})
    assert [one["client_options"].get("allow_http") for one in seen] == [True, None, True]
    assert [one["config"].get("unsigned_payload") for one in seen] == [None, True, None]


@pytest.mark.parametrize("name", ["open", "create", "probe", "StoreEngine.open"])
def test_the_missing_extra_is_named(name):
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "import fastcas\n"
        "from fastcas import *\n"
        f"try: fastcas.{name}('s3://bucket/x')\n"
        "except fastcas.UnsupportedError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    assert "pip install 'fastcas[objectstore]'" in done.stdout, done.stderr
