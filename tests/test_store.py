"""The engine on an object store, against the client's own memory: URLs, secrets, marks, sweeps, replies
that get lost, connections that break. tests/objectstore does it against a server."""

from __future__ import annotations

import copy
import errno
import io
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import obstore
import pytest
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
)

import fastcas
from conformance import descriptor_of, digest_of, noise, store_image
from conftest import child_environment
from fastcas import (
    ClobberError,
    ClosedError,
    CorruptError,
    Digest,
    InvalidError,
    NotExistError,
    SizeMismatchError,
    UnsupportedError,
)
from fastcas.layout import LAYOUT_LIMIT
from fastcas.many import Many
from fastcas.model import INDEX_LIMIT
from fastcas.store import bucket as requests
from fastcas.store import conditions, ingest, location, sweep
from fastcas.store.location import connect, hide, parse, secrets

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


# ---- URLs and what is secret ----


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


def test_what_a_server_quotes_is_hidden(url, monkeypatch):
    def get(*_, **__):
        raise GenericError(f"401: the key {SECRET} is unknown")

    with fastcas.create(url, config=S3) as engine:
        monkeypatch.setattr(requests.obstore, "get", get)
        with pytest.raises(OSError, match=r"the key \*\*\* is unknown"):
            engine.get_index()


def test_missing_credentials_are_told(store, monkeypatch):
    def get(*_, **__):
        raise GenericError("Error performing PUT http://169.254.169.254/latest/api/token: timed out")

    monkeypatch.setattr(requests.obstore, "get", get)
    with pytest.raises(PermissionError, match="no credentials were found"):
        store.get_index()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NoSuchKey", NotExistError),
        ("BlobNotFound", NotExistError),  # Azure's
        ("ContainerNotFound", NotExistError),
        ("InvalidAccessKeyId", PermissionError),
    ],
)
def test_what_a_server_says_that_finds_nothing(store, monkeypatch, code, kind):
    def get(*_, **__):
        raise FileNotFoundError(
            f"404: <Error><Code>{code}</Code><Message>Some words.</Message></Error>"
        )

    monkeypatch.setattr(requests.obstore, "get", get)
    with pytest.raises(kind) as caught:
        store.get_blob(digest_of(b"x"))
    if code == "ContainerNotFound":
        assert "no such bucket" in str(caught.value)


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


class PanicException(BaseException):
    """As the client's."""


def test_a_panic_of_the_client_is_an_error(store, monkeypatch):
    def panic(*_, **__):
        raise PanicException(f"called `Result::unwrap()` on {SECRET}")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(location.stores, "S3Store", panic)
    with pytest.raises(InvalidError, match="unwrap") as caught:
        fastcas.open("s3://bucket/x")
    assert SECRET not in str(caught.value)
    monkeypatch.setattr(requests.obstore, "head", panic)
    with pytest.raises(OSError, match="unwrap") as failed:
        store.stat_blob(digest_of(b"x"))
    assert failed.value.errno == errno.EIO
    assert failed.value.filename.startswith(store.url)


def test_the_unsafe_index_is_asked_for_by_1(url, monkeypatch, store, ignoring):
    monkeypatch.setenv("FASTCAS_UNSAFE_INDEX", "0")
    with fastcas.open(url) as engine, pytest.raises(UnsupportedError):
        engine.update_reference("v1", descriptor_of())
    monkeypatch.setenv("FASTCAS_UNSAFE_INDEX", "1")
    with fastcas.open(url) as engine:
        engine.update_reference("v1", descriptor_of())


@pytest.mark.parametrize("error", [FileNotFoundError, PreconditionError])
@pytest.mark.parametrize("size", [10, 9 << 20])
def test_a_write_that_the_server_does_not_find_is_an_error_of_its(store, monkeypatch, size, error):
    """An upload that a lifecycle rule took in its middle."""

    def put(*_, **__):
        raise error("404: <Error><Code>NoSuchUpload</Code><Message>Gone.</Message></Error>")

    monkeypatch.setattr(requests.obstore, "put", put)
    with pytest.raises(OSError, match="NoSuchUpload: Gone") as caught:
        store.put_blob(noise(size))
    assert caught.value.errno == errno.EIO
    assert caught.value.filename.endswith(digest_of(noise(size)).partition(":")[2])


REFUSALS = [
    FileNotFoundError("404: <Error><Code>NoSuchKey</Code></Error>"),
    PreconditionError("412: <Error><Code>PreconditionFailed</Code></Error>"),
    AlreadyExistsError("409: <Error><Code>ConditionalRequestConflict</Code></Error>"),
]


@pytest.fixture(params=REFUSALS, ids=["404", "412", "409"])
def refuse(request, monkeypatch):
    """Makes all requests of one kind be refused."""

    def refuse(name):
        def answer(*_, **__):
            raise request.param

        monkeypatch.setattr(requests.obstore, name, answer)

    monkeypatch.setattr(requests, "_PAUSE", 0.0001)
    refuse.error = request.param
    return refuse


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("put", lambda store: fastcas.create(store.url + "y")),
        ("put", lambda store: fastcas.probe(store.url)),
        ("put", lambda store: store.update_reference("v1", descriptor_of())),
        ("put", lambda store: store.put_index(store.get_index())),
        ("get", lambda store: fastcas.open(store.url)),
        ("get", lambda store: fastcas.probe(store.url)),
        ("get", lambda store: store.get_index()),
        ("get", lambda store: store.get_blob(digest_of(b"x"))),
        ("head", lambda store: store.read_clock()),
        ("head", lambda store: store.stat_blob(digest_of(b"x"))),
        ("list", list),
    ],
)
def test_a_refusal_that_no_server_should_give_is_an_error(store, refuse, name, call):
    refuse(name)
    with pytest.raises((OSError, InvalidError, NotExistError)) as caught:
        call(store)
    if isinstance(caught.value, (InvalidError, NotExistError)):
        assert caught.value.path.startswith(store.url)
    else:
        assert caught.value.errno == errno.EIO
        assert caught.value.filename.startswith(store.url)


def test_a_deletion_that_is_refused_is_an_error(store, refuse):
    refuse("delete")
    if isinstance(refuse.error, FileNotFoundError):  # some servers say that of what isn't there
        store.delete_blob(digest_of(b"x"))
        return
    with pytest.raises(OSError, match=r"412|409|Failed|Conflict") as caught:
        store.delete_blob(digest_of(b"x"))
    assert caught.value.errno == errno.EIO
    assert caught.value.filename.startswith(store.url)


@pytest.mark.parametrize("key", ["x/oci-layout", "x/index.json", "x/.fastcas/probe/"])
def test_a_write_that_is_refused_before_another_has_written_is_made_again(url, monkeypatch, key):
    """ConditionalRequestConflict: another's create is under way, and nothing to be read yet."""
    real = obstore.put
    busy = []

    def put(client, where, content, **more):
        if where.startswith(key) and len(busy) < 3:
            busy.append(where)
            raise AlreadyExistsError("409: <Error><Code>ConditionalRequestConflict</Code></Error>")
        return real(client, where, content, **more)

    monkeypatch.setattr(requests.obstore, "put", put)
    monkeypatch.setattr(requests, "_PAUSE", 0.0001)
    with fastcas.create(url) as engine:
        engine.update_reference("v1", descriptor_of())
    assert len(busy) == 3


def test_an_index_that_goes_while_it_is_changed(store, monkeypatch):
    """Some servers say 404, and not 412, of a condition on what isn't there."""
    real = obstore.put

    def put(client, key, content, **more):
        if key == "x/index.json":
            obstore.delete(client, key)
            raise FileNotFoundError("404: <Error><Code>NoSuchKey</Code></Error>")
        return real(client, key, content, **more)

    monkeypatch.setattr(requests.obstore, "put", put)
    with pytest.raises(InvalidError, match="no index"):
        store.update_reference("v1", descriptor_of())


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


# ---- layouts ----


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


# ---- puts ----


class Unseekable:
    def __init__(self, content):
        self.content = memoryview(content)

    def read(self, size):
        piece, self.content = self.content[:size], self.content[size:]
        return bytes(piece)


@pytest.fixture
def small_parts(monkeypatch):
    """Uploads of parts are tried with little."""
    for module in (requests, ingest):
        monkeypatch.setattr(module, "PART", 64 << 10)
    monkeypatch.setattr(ingest, "IN_MEMORY", 128 << 10)


def test_every_way_into_the_store(store, small_parts, tmp_path):
    for number, size in enumerate((0, 1, 65535, 65536, 65537, 300_000, (1 << 20) + 7)):
        content = noise(size, number)
        path = tmp_path / str(number)
        path.write_bytes(content)
        for make in (bytes, Unseekable, io.BytesIO, lambda content: iter([content]), None):
            for expected in ({}, {"expected_digest": digest_of(content)}, {"expected_size": size}):
                found = store.put_blob(make(content) if make else path, **expected)
                assert found == (digest_of(content), size)
                assert store.read_blob(digest_of(content)) == content
                store.delete_blob(digest_of(content))
        with open(path, "rb") as file:
            assert store.put_blob(file) == (digest_of(content), size)


def test_wrong_content_is_never_published(store, small_parts, tmp_path):
    path = tmp_path / "source"
    path.write_bytes(noise(300_000))
    wrong = digest_of(b"other")
    for source in (noise(300_000), path, Unseekable(noise(300_000))):
        with pytest.raises(CorruptError):
            store.put_blob(source, expected_digest=wrong, expected_size=300_000)
    assert list(store) == []


def test_a_source_that_changes_between_two_readings_is_refused(
    store, small_parts, tmp_path, monkeypatch
):
    path = tmp_path / "source"
    path.write_bytes(noise(300_000))
    real = ingest.Put.hash

    def hash_and_change(self, source):
        found = real(self, source)
        path.write_bytes(noise(300_000, 9))
        return found

    monkeypatch.setattr(ingest.Put, "hash", hash_and_change)
    with pytest.raises(CorruptError):
        store.put_blob(path)
    assert list(store) == []


def test_a_large_blob_that_is_stored_is_marked_and_not_sent(store, url, monkeypatch):
    content = noise(3 << 20)
    digest, _ = store.put_blob(content)
    assert not any(name.startswith(".fastcas/used") for name in names(url))
    sent = []
    real = obstore.put
    monkeypatch.setattr(
        requests.obstore, "put", lambda c, key, *a, **k: sent.append(key) or real(c, key, *a, **k)
    )
    assert store.put_blob(content) == (digest, len(content))
    assert sent == [f"x/.fastcas/used/sha256/{digest.encoded}"]
    store.delete_blob(digest)
    assert not any(name.startswith(".fastcas/used") for name in names(url))


@pytest.mark.parametrize("damage", [noise(3 << 20, 5), noise(100)], ids=["content", "size"])
def test_what_is_stored_and_damaged_is_stored_anew(store, url, damage):
    content = noise(3 << 20)
    digest, size = store.put_blob(content)
    obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", damage)
    store.put_blob(content, verify_existing=len(damage) == size)
    assert store.read_blob(digest) == content


def test_what_is_gathered_goes_to_a_file_when_it_is_much(small_parts):
    with ingest.Gathered(ingest.Budget(1 << 20)) as gathered:
        for _ in range(3):
            gathered.add(memoryview(noise(64 << 10)))
        assert not gathered.blocks
        assert os.fstat(gathered.file.fileno()).st_size == 3 * (64 << 10)


def test_what_is_gathered_goes_to_a_file_when_others_have_the_memory():
    budget = ingest.Budget(100)
    with ingest.Gathered(budget) as gathered, budget.take(60):
        gathered.add(memoryview(bytes(40)))
        assert gathered.file is None
        gathered.add(memoryview(bytes(1)))
        assert os.fstat(gathered.file.fileno()).st_size == 41
        assert budget.borrow(40, wait=False)  # what it had is free
        budget.give_back(40)
    with budget.take(100, wait=False) as taken:
        assert taken


@pytest.mark.timeout(60)
@pytest.mark.parametrize("known", [False, True], ids=["digest unknown", "digest known"])
def test_pipes_that_one_thread_feeds_in_turn(store, small_parts, monkeypatch, known):
    """None may wait for the others to end: its feeder waits for it."""
    monkeypatch.setattr(ingest, "_MEMORY", 256 << 10)
    store._ingest._memory = ingest.Budget(512 << 10)
    contents = [noise(1 << 20, seed) for seed in range(6)]
    pipes = [os.pipe() for _ in contents]

    def feed():
        for start in range(0, 1 << 20, 128 << 10):  # more than a pipe holds
            for (_, end), content in zip(pipes, contents, strict=True):
                left = memoryview(content)[start : start + (128 << 10)]
                while left:
                    left = left[os.write(end, left) :]
        for _, end in pipes:
            os.close(end)

    def put(pipe, content):
        expected = {"expected_digest": digest_of(content), "expected_size": 1 << 20} if known else {}
        with open(pipe[0], "rb", buffering=0) as file:
            return store.put_blob(file, **expected)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    with ThreadPoolExecutor(len(pipes)) as pool:
        found = list(pool.map(put, pipes, contents))
    assert [blob.digest for blob in found] == list(map(digest_of, contents))


def test_progress_is_asked_before_anything_is_sent(store, small_parts, tmp_path, monkeypatch):
    """A large file is hashed first; who stops then has sent nothing."""
    path = tmp_path / "large"
    path.write_bytes(noise(3 << 20))

    def stop(done, total):
        assert (done, total) == (0, 3 << 20)
        raise KeyboardInterrupt

    monkeypatch.setattr(requests.obstore, "put", lambda *_, **__: pytest.fail("something was sent"))
    with pytest.raises(KeyboardInterrupt):
        store.put_blob(path, progress=stop)


def test_a_put_that_expects_what_is_stored_reads_its_source_all_the_same(store):
    content = noise(9 << 20)
    digest, size = store.put_blob(content)
    with pytest.raises(CorruptError):
        store.put_blob(iter([noise(9 << 20, 4)]), expected_digest=digest, expected_size=size)


def test_put_blobs_is_in_order_and_names_the_first_that_fails(store, tmp_path):
    sources = [b"%d" % number for number in range(200)]
    assert [found.digest for found in store.put_blobs(sources)] == [digest_of(one) for one in sources]
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        store.put_blobs([b"a", missing, tmp_path / "too"])
    assert caught.value.source == missing


def test_readers_of_one_bucket_are_copied_within_it(url, monkeypatch):
    content = noise(3 << 20)
    other = url.removesuffix("x") + "other"
    with fastcas.create(url) as one, fastcas.create(other) as two:
        digest, size = one.put_blob(content)
        small, _ = one.put_blob(b"small")
        with one.get_blob(digest) as blob, one.get_blob(small) as little:
            assert [copied.method for copied in two.put_copies([blob, little])] == [
                "server-copy",
                "copy",
            ]
            assert two.put_copy(blob) == ("exists", size)
        assert two.read_blob(digest) == content
        two.delete_blob(digest)
        with one.get_blob(digest) as blob:
            assert two.put_copy(blob, verify=True).method == "copy"


def test_the_server_copies_within_one_bucket_of_one_server():
    def bucket(url, **more):
        return requests.Bucket(connect(parse(url), {**S3, **more}), parse(url), S3)

    one = bucket("s3://bucket/x")
    assert one.is_same(bucket("s3://bucket/y"))
    assert not one.is_same(bucket("s3://other/x"))
    assert not one.is_same(bucket("s3://bucket/x", endpoint="http://127.0.0.1:2"))
    assert not one.is_same(bucket("s3://bucket/x", access_key_id="another"))


@pytest.mark.parametrize(
    ("url", "variable", "values"),
    [
        ("s3://bucket/x", "AWS_ENDPOINT_URL", ("http://127.0.0.1:1", "http://127.0.0.1:2")),
        ("s3://bucket/x", "AWS_ENDPOINT_URL_S3", ("http://127.0.0.1:1", "http://127.0.0.1:2")),
        ("az://bucket/x", "AZURE_STORAGE_ACCOUNT_NAME", ("one", "two")),
    ],
)
def test_servers_are_told_apart_by_the_environment(monkeypatch, url, variable, values):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "one")

    def bucket(value):
        monkeypatch.setenv(variable, value)
        return requests.Bucket(connect(parse(url), {}), parse(url), {})

    one, again, other = map(bucket, (values[0], *values))
    assert one.is_same(again)
    assert not one.is_same(other)
    assert not other.is_same(one)


def test_a_copy_by_the_server_of_what_became_another_is_taken_back(url):
    with fastcas.create(url) as one, fastcas.create(url.removesuffix("x") + "other") as two:
        digest, _ = one.put_blob(noise(3 << 20))
        with one.get_blob(digest) as blob:
            blob.read()
            blob.seek(0)  # what it was found by is used up
            obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", noise(2 << 20))
            with pytest.raises(NotExistError, match="stored anew"):
                two.put_copy(blob)
        assert list(two) == []


# ---- readers ----


def test_the_last_bytes_of_a_damaged_blob_are_never_given(store, url):
    content = noise(5 << 20)
    digest, size = store.put_blob(content)
    obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", content[:-1] + b"?")
    given = 0
    with pytest.raises(CorruptError), store.get_blob(digest) as blob:
        while data := blob.read(1 << 20):
            given += len(data)
    assert given < size


def test_a_blob_that_is_replaced_before_it_is_read_again(store, url):
    digest, size = store.put_blob(noise(5 << 20))
    with store.get_blob(digest) as blob:
        blob.read()
        obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", noise(size, 7))
        blob.seek(0)
        with pytest.raises(NotExistError, match="stored anew"):
            blob.read()


class Breaks:
    """An answer whose body ends after so many bytes, in an error or as if that were all."""

    def __init__(self, found, after, error):
        self.found, self.after, self.error = found, after, error
        self.meta, self.attributes = found.meta, found.attributes

    def stream(self, min_chunk_size):
        left = self.after
        for chunk in self.found.stream(min_chunk_size=min_chunk_size):
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                break
        if self.error:
            raise GenericError("connection reset")


@pytest.mark.parametrize("error", [True, False])
def test_a_broken_body_is_taken_up_again(store, monkeypatch, error):
    content = noise(5 << 20)
    digest, _ = store.put_blob(content)
    real = obstore.get
    asked = []

    def get(client, key, *, options=None):
        asked.append((options or {}).get("range"))
        found = real(client, key, options=options)
        return Breaks(found, 2 << 20, error)

    monkeypatch.setattr(requests.obstore, "get", get)
    with store.get_blob(digest) as blob:
        assert blob.read() == content
        assert blob.verified
    assert asked == [(0, 1 << 20), {"offset": 1 << 20}, {"offset": 3 << 20}]


def test_a_body_that_never_comes_is_an_error(store, monkeypatch):
    digest, _ = store.put_blob(noise(3 << 20))
    real = obstore.get
    monkeypatch.setattr(
        requests.obstore,
        "get",
        lambda c, key, options=None: Breaks(real(c, key, options=options), 0, True),
    )
    monkeypatch.setattr("fastcas.store.reader._PAUSE", 0.001)
    with pytest.raises(OSError, match="connection reset"), store.get_blob(digest) as blob:
        blob.read()


@pytest.mark.parametrize("times", [1, 9])
def test_a_blob_that_is_stored_again_while_it_is_read(store, url, monkeypatch, times):
    """By another writer that found it absent: the etag is another, the bytes are the same."""
    content = noise(5 << 20)
    digest, _ = store.put_blob(content)
    real = obstore.get
    left = times

    def get(client, key, *, options=None):
        nonlocal left
        if left and options and "if_match" in options:
            left -= 1
            obstore.put(raw(url), key, content)
        return real(client, key, options=options)

    monkeypatch.setattr(requests.obstore, "get", get)
    monkeypatch.setattr("fastcas.store.reader._PAUSE", 0.001)
    with store.get_blob(digest) as blob:
        if times > 1:  # it never rests
            with pytest.raises(NotExistError, match="stored anew"):
                blob.read()
        else:
            assert blob.read() == content
            assert blob.verified


@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_a_blob_that_is_stored_again_or_removed_before_it_is_read_again(store, url, size):
    content = noise(size)
    digest, _ = store.put_blob(content)
    with store.get_blob(digest) as blob:
        for _ in range(2):
            assert blob.read() == content
            blob.seek(0)
            obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", content)
        store.delete_blob(digest)
        with pytest.raises(NotExistError, match="removed"):
            blob.read()


def test_what_is_of_two_objects_is_called_neither_damaged_nor_right(store, url):
    digest, size = store.put_blob(noise(5 << 20))
    blob = store.get_blob(digest)
    obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", noise(size, 7))
    with pytest.raises(NotExistError, match="stored anew"), blob:
        blob.read()
    assert not blob.verified


class Cut(Breaks):
    def bytes(self):
        raise GenericError("connection reset")


@pytest.mark.parametrize("how", ["read", "readinto"])
def test_what_is_small_and_of_two_objects_is_neither(store, url, monkeypatch, how):
    digest, size = store.put_blob(noise(1000))
    real = obstore.get
    asked = 0

    def get(client, key, *, options=None):
        nonlocal asked
        found = real(client, key, options=options)
        asked += 1
        if asked == 2:
            obstore.put(raw(url), key, noise(size, 7))
        return Cut(found, 10, True) if asked <= 2 else found

    monkeypatch.setattr(requests.obstore, "get", get)
    monkeypatch.setattr("fastcas.store.reader._PAUSE", 0.001)
    blob = store.get_blob(digest)
    with pytest.raises(NotExistError, match="stored anew"), blob:
        blob.read() if how == "read" else blob.readinto(bytearray(size))
    assert asked == 3


def test_a_blob_that_is_stored_again_and_removed_while_it_is_read(store, url, monkeypatch):
    digest, _ = store.put_blob(noise(5 << 20))
    blob = store.get_blob(digest)
    obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", noise(5 << 20))

    def head(*_):
        raise FileNotFoundError("404")

    monkeypatch.setattr(requests.obstore, "head", head)
    with pytest.raises(NotExistError, match="removed"), blob:
        blob.read()


@pytest.mark.parametrize(
    "said",
    [
        "416 Range Not Satisfiable: <Error><Code>InvalidRange</Code></Error>",
        "416 Range Not Satisfiable",
        "Received non-partial response when range requested",
    ],
)
def test_servers_that_give_no_range_are_asked_for_all(store, monkeypatch, said):
    digests = [store.put_blob(noise(size)).digest for size in (0, 10, 3 << 20)]
    real = obstore.get

    def get(client, key, *, options=None):
        if options and "range" in options:
            raise GenericError(said)
        return real(client, key, options=options)

    monkeypatch.setattr(requests.obstore, "get", get)
    for digest in digests:
        with store.get_blob(digest) as blob:
            blob.verify()
        store.read_blob(digest)


class Longer(Breaks):
    """An answer with a byte more than it says."""

    def __init__(self, found):
        super().__init__(found, 0, False)

    def stream(self, min_chunk_size):
        yield from self.found.stream(min_chunk_size=min_chunk_size)
        yield b"x"

    def bytes(self):
        return b"".join(self.stream(1))


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_a_body_with_more_than_it_says_gives_no_more(store, monkeypatch, size):
    content = noise(size)
    digest, _ = store.put_blob(content)
    real = obstore.get
    monkeypatch.setattr(requests.obstore, "get", lambda c, key, options=None: Longer(real(c, key)))
    got = []
    with pytest.raises(SizeMismatchError), store.get_blob(digest) as blob:
        while piece := blob.read(100_000):
            got.append(piece)
    assert len(b"".join(got)) < size


def test_a_blob_that_is_replaced_while_it_is_read(store, monkeypatch):
    digest, _ = store.put_blob(noise(5 << 20))
    real = obstore.get

    def get(client, key, *, options=None):
        if options and "range" in options:
            obstore.put(client, key, noise(5 << 20, 7))
        return Breaks(real(client, key, options=options), 2 << 20, True)

    monkeypatch.setattr(requests.obstore, "get", get)
    with store.get_blob(digest) as blob:
        with pytest.raises(NotExistError, match="stored anew"):
            blob.read()
        assert not blob.verified


# ---- the index ----


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


# ---- gc ----


def test_a_mark_keeps_a_blob(store):
    large = noise(3 << 20)
    digest, _ = store.put_blob(large)
    start = store.read_clock()
    store.put_blob(large)
    found = {blob.digest: blob for blob in store.scan_blobs()}
    assert found[digest].changed >= start
    assert store.sweep_blobs([digest], index=store.get_index(), start=start, grace=0) == ([], [])
    assert store.gc(grace=3600).deleted == []
    assert [blob.digest for blob in store.gc(grace=0).deleted] == [digest]


def test_an_announced_sweep_is_seen_and_leaves_nothing(store, url):
    store.put_blob(b"x")
    seen = []
    real = sweep.Sweep.run

    def run(self, *args, **more):
        seen.extend(name for name in names(url) if name.startswith(".fastcas/gc"))
        return real(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.Sweep, "run", run)
        assert len(store.gc(grace=0).deleted) == 1
    assert len(seen) == 1
    assert not any(name.startswith((".fastcas/gc", ".fastcas/clock")) for name in names(url))


@pytest.mark.parametrize("size", [10, 3 << 20])
@pytest.mark.timeout(60)
def test_a_put_beside_a_step_waits_and_stores_anew(store, url, size):
    """The put comes when the sweep has looked at its blob and not removed it yet."""
    content = noise(size)
    digest, _ = store.put_blob(content)
    looked, go = threading.Event(), threading.Event()
    with fastcas.open(url) as other, pytest.MonkeyPatch.context() as patch:
        real = other._bucket.delete

        def delete(keys):
            if keys and keys[0].startswith("blobs/"):
                looked.set()
                assert go.wait(20)
            real(keys)

        patch.setattr(other._bucket, "delete", delete)
        collected = []
        gc = threading.Thread(target=lambda: collected.append(other.gc(grace=0)))
        gc.start()
        assert looked.wait(20)
        put = threading.Thread(target=lambda: store.put_blob(content))
        store._sweeps._looked = -1000.0
        put.start()
        put.join(0.5)
        assert put.is_alive(), "it must wait: what it finds may go"
        go.set()
        put.join(20)
        gc.join(20)
    assert [blob.digest for blob in collected[0].deleted] == [digest]
    assert store.read_blob(digest) == content


@pytest.mark.parametrize("way", ["small", "marked", "damaged"])
@pytest.mark.timeout(60)
def test_a_step_that_ends_before_the_put_looks_takes_nothing(store, url, small_parts, way):
    """What a put does last comes after the sweep's look, and the sweep is over when the put looks."""
    content = noise(10 if way == "small" else 3 << 20)
    digest, size = store.put_blob(content)
    key = f"blobs/sha256/{digest.encoded}"
    if way == "damaged":
        obstore.put(raw(url), f"x/{key}", noise(size, 1))
    looked, go = threading.Event(), threading.Event()
    with fastcas.open(url) as other, pytest.MonkeyPatch.context() as patch:
        delete, put, upload = other._bucket.delete, store._bucket.put, store._bucket.upload
        gc = threading.Thread(target=lambda: other.gc(grace=0))

        def delete_late(keys):
            if keys and keys[0] == key:
                looked.set()
                assert go.wait(20)
            delete(keys)

        def end_gc():
            go.set()
            gc.join(20)

        def put_early(where, *args, **more):
            put(where, *args, **more)
            if where == (key if way == "small" else sweep.mark_key(digest)):
                end_gc()

        def upload_early(*args):
            upload(*args)
            end_gc()

        patch.setattr(other._bucket, "delete", delete_late)
        patch.setattr(store._bucket, "put", put_early)
        patch.setattr(store._bucket, "upload", upload_early)
        gc.start()
        assert looked.wait(20)
        store._sweeps._looked = -1000.0
        assert store.put_blob(content, verify_existing=way == "damaged") == (digest, size)
        assert not gc.is_alive()
    assert store.read_blob(digest) == content


def test_an_entry_that_comes_while_blobs_are_looked_at_keeps_them(store, url):
    tagged, digests = store_image(store, 1)
    with fastcas.open(url) as other, pytest.MonkeyPatch.context() as patch:
        real = sweep.last_use

        def last_use(bucket, digest):
            if not other.list_references():
                other.update_reference("v1", tagged)
            return real(bucket, digest)

        patch.setattr(sweep, "last_use", last_use)
        patch.setattr(other._sweeps, "check_named", lambda *_: None)  # it would wait for this sweep
        assert store.gc(grace=0).deleted == []
    assert set(store) == digests


def test_what_a_sweep_took_while_it_was_named_is_told(store, url, monkeypatch):
    tagged, _ = store_image(store, 1)
    with fastcas.open(url) as other:
        with other.announce_sweep() as announced:
            with announced.step([tagged.digest]):
                real = sweep.Sweeps._is_in_a_step
                looks = []

                def look(self, digest):
                    looks.append(digest)
                    if len(looks) == 2:
                        other.delete_blob(tagged.digest)
                    return real(self, digest) if len(looks) < 2 else False

                monkeypatch.setattr(sweep.Sweeps, "_is_in_a_step", look)
                store._sweeps._looked = -1000.0
                with pytest.raises(NotExistError, match="put it again"):
                    store.update_reference("v1", tagged)


def test_a_sweep_that_ended_long_ago_stops_nobody(store, url, monkeypatch):
    digest, _ = store.put_blob(b"x")
    obstore.put(raw(url), "x/.fastcas/gc/dead/step", b'{"digests":["%s"]}' % digest.encode())
    monkeypatch.setattr(sweep, "_DEAD", -1)
    assert store.put_blob(b"x").digest == digest
    assert store.clean() == []
    monkeypatch.setattr("fastcas.store.engine._LEFT_BEHIND", -1)
    assert store.clean() == [".fastcas/gc/dead/step"]
    assert not any(name.startswith(".fastcas/gc") for name in names(url))


def test_sweeps_of_two_threads_are_two(store, url, monkeypatch):
    ran = []
    monkeypatch.setattr(sweep.Sweep, "run", lambda self, *_, **__: ran.append(self))
    arguments = {"index": store.get_index(), "start": 0, "grace": 0}
    with store.announce_sweep() as announced:
        store.sweep_blobs([], **arguments)
        other = threading.Thread(target=lambda: store.sweep_blobs([], **arguments))
        other.start()
        other.join()
    assert ran[0] is announced
    assert ran[1] is not announced


def test_a_long_sweep_announces_itself_again(store, url, monkeypatch):
    """Somebody's clean takes an announcement for one that was left behind."""
    monkeypatch.setattr("fastcas.store.engine._LEFT_BEHIND", -1)
    waited = []
    monkeypatch.setattr(sweep.time, "sleep", waited.append)
    with store.announce_sweep() as announced:
        assert len(waited) == 1
        (key,) = store.clean()
        with announced.step([]):
            assert len(waited) == 1
        real = time.monotonic
        monkeypatch.setattr(sweep.time, "monotonic", lambda: real() + 1801)
        with announced.step([]):
            assert f"{key}" in names(url)
            assert len(waited) == 2


def test_a_step_that_takes_too_long_removes_nothing(store, monkeypatch):
    """Its client was stopped: who has waited for its end may have gone on."""
    digest = store.put_blob(b"x").digest
    late, real, look = [], time.monotonic, sweep.last_use

    def last_use(*arguments):
        late.append(61)
        return look(*arguments)

    monkeypatch.setattr(sweep, "last_use", last_use)
    monkeypatch.setattr(sweep.time, "monotonic", lambda: real() + sum(late))
    start = store.read_clock()
    left = store.sweep_blobs([digest], index=store.get_index(), start=start, grace=0).left
    assert left == [digest]
    assert list(store) == [digest]


def test_a_writer_looks_again_for_sweeps(store, monkeypatch):
    store.put_blob(b"x")
    now = time.monotonic()
    with store.announce_sweep():
        assert store._sweeps.quiet_until() > now
        monkeypatch.setattr(sweep.time, "monotonic", lambda: now + 2.1)
        assert store._sweeps.quiet_until() < 0


def test_a_clock_of_whole_seconds_tells_before_from_after(store, monkeypatch):
    real = sweep.nanoseconds
    for module in (sweep, sys.modules["fastcas.store.engine"]):
        monkeypatch.setattr(module, "nanoseconds", lambda meta: real(meta) // 10**9 * 10**9)
    store.put_blob(b"before")
    start = store.read_clock()
    store.put_blob(b"after")
    early = {blob.digest for blob in store.scan_blobs() if blob.changed < start}
    assert early == {digest_of(b"before")}


@pytest.mark.parametrize("replaced", [False, True])
def test_quarantine_takes_what_is_damaged_still(store, url, tmp_path, monkeypatch, replaced):
    digest = store.put_blob(b"right").digest
    key = f"x/blobs/sha256/{digest.encoded}"
    obstore.put(raw(url), key, b"wrong")
    steps = []
    real = sweep.Sweep.step

    def step(self, digests):
        steps.extend(digests)
        if replaced:
            obstore.put(raw(url), key, b"right")
        return real(self, digests)

    monkeypatch.setattr(sweep.Sweep, "step", step)
    store.scrub(quarantine=tmp_path / "q")
    assert steps == [digest], "writers are told"
    assert list(store) == ([digest] if replaced else [])
    assert len(os.listdir(tmp_path / "q")) == (0 if replaced else 2)


def test_a_quarantine_announces_one_sweep_and_leaves_no_marks(store, url, tmp_path, monkeypatch):
    for number in range(3):
        content = noise(3 << 20, number)
        store.put_blob(content)
        digest, _ = store.put_blob(content)  # which marks it
        obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", b"wrong")
    announced = []
    real = sweep.Sweep.__enter__
    monkeypatch.setattr(sweep.Sweep, "__enter__", lambda self: announced.append(self) or real(self))
    assert len(store.scrub(quarantine=tmp_path / "q").problems) == 3
    assert len(announced) == 1
    assert names(url) == ["index.json", "oci-layout"]
    store.put_blob(b"right")
    assert store.scrub(quarantine=tmp_path / "q").problems == []
    assert len(announced) == 1, "nothing is damaged"


@pytest.mark.parametrize("directory", [False, True])
def test_a_quarantine_is_a_local_directory(store, tmp_path, monkeypatch, directory):
    monkeypatch.chdir(tmp_path)
    with fastcas.create(tmp_path / "layout") if directory else nullcontext(store) as engine:
        with pytest.raises(InvalidError, match="local directory"):
            engine.scrub(quarantine="s3://bucket/quarantine")
    assert not (tmp_path / "s3:").exists()


def test_clean_leaves_marks(store, url, monkeypatch):
    content = noise(3 << 20)
    store.put_blob(content)
    store.put_blob(content)
    monkeypatch.setattr("fastcas.store.engine._LEFT_BEHIND", -1)
    assert store.clean() == []
    assert any(name.startswith(".fastcas/used/") for name in names(url))


def test_the_clock_is_the_stores(store, monkeypatch):
    """A client whose clock is wrong collects nothing that is young."""
    store.put_blob(b"young")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(time, "time_ns", lambda: 4 * 10**18)
    assert store.gc(grace=3600).deleted == []


def test_a_blob_that_another_gc_removes_first_is_no_error(store, url, monkeypatch):
    """Some servers tell of a key that goes while they remove it, and leave the others."""
    digests = [store.put_blob(b"%d" % number).digest for number in range(3)]
    real = obstore.delete

    def delete(client, paths):
        if isinstance(paths, list) and len(paths) == 3:
            real(client, paths[0])
            raise GenericError(
                f"DeleteObjects request failed for key {paths[0]}: The specified key does not exist. "
                "(code: NoSuchKey)"
            )
        real(client, paths)

    monkeypatch.setattr(requests.obstore, "delete", delete)
    assert {blob.digest for blob in store.gc(grace=0).deleted} == set(digests)
    assert list(store) == []


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


class Server:
    """Takes an upload; ``published`` says what came of it."""

    published = None

    def upload(self, key, blocks, part):
        self.published = b"".join(blocks)


@pytest.mark.timeout(30)
def test_an_upload_that_is_interrupted_at_its_end_is_aborted(monkeypatch):
    server = Server()
    with pytest.raises(KeyboardInterrupt), ingest.Upload(server, "key", 1) as upload:
        upload.give(memoryview(b"a"))
        upload.give(memoryview(b"b"))
        real = upload._blocks.put

        def put(block):
            if block is None:
                raise KeyboardInterrupt
            return real(block)

        monkeypatch.setattr(upload._blocks, "put", put)
        upload.end()
    assert not upload._thread.is_alive()
    assert server.published is None


class Refusing:
    def upload(self, key, blocks, part):
        next(blocks)
        raise OSError("refused")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("end", [False, True])
def test_an_upload_that_fails_keeps_no_source_waiting(end):
    with pytest.raises(OSError, match="refused"), ingest.Upload(Refusing(), "key", 1) as upload:
        upload.give(memoryview(b"a"))
        while not end:
            upload.give(memoryview(b"b"))
        upload.end()
    assert not upload._thread.is_alive()


def test_many_that_are_interrupted_leave_none_at_work():
    ended = []

    def put(item, told):
        time.sleep(0.15)  # by now it is waited for
        told(1, None)
        time.sleep(0.3)
        ended.append(item)

    def interrupt(*_):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(KeyboardInterrupt):
            Many(pool, interrupt).run([1], put)
        assert ended == [1]


def test_an_engine_that_is_closed_beside_many_says_so(url):
    with fastcas.create(url) as one:
        digests = [one.put_blob(b"%d" % number).digest for number in range(200)]
        found = one.claim_blobs([(digest, 1) for digest in digests])
        next(found)
        one.close()
        with pytest.raises(ClosedError):
            list(found)

    def sources(engine):
        yield b"x"
        engine.close()
        yield b"y"

    with fastcas.open(url) as two, pytest.raises(ClosedError):
        two.put_blobs(sources(two))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["interrupted", "failed"])
def test_many_that_end_early_stop_those_at_work(how):
    begun = threading.Barrier(3)

    def put(item, told):
        if item == 0:
            begun.wait()
            raise OSError("refused")
        begun.wait()
        for done in itertools.count(1):  # for ever, if nobody stops it
            told(done, None)
            time.sleep(0.001)

    def interrupt(*_):
        if how == "interrupted":
            raise KeyboardInterrupt

    error = KeyboardInterrupt if how == "interrupted" else OSError
    with ThreadPoolExecutor(3) as pool, pytest.raises(error):
        Many(pool, interrupt).run([1, 2, 0] if how == "interrupted" else [0, 1, 2], put)


def test_an_error_that_takes_no_attribute_stays():
    class Refused(Exception):
        __slots__ = ()

        def __setattr__(self, name, value):
            raise TypeError("frozen")

    def put(item, told):
        raise Refused

    with ThreadPoolExecutor(1) as pool, pytest.raises(Refused):
        Many(pool, None).run([1], put)


def test_uploads_share_a_budget():
    budget = ingest.Budget(10)
    order = []
    with budget.take(6):

        def take():
            with budget.take(6):
                order.append("second")

        thread = threading.Thread(target=take)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    with budget.take(1000):  # more than there is: all of it
        pass


def test_who_had_nothing_to_gather_waits_like_others():
    budget = ingest.Budget(10)
    order = []
    empty, go = threading.Event(), threading.Event()

    def put():
        with ingest.Gathered(budget) as gathered:
            gathered.reserve(0)
        empty.set()
        go.wait(10)
        with budget.take(1):
            order.append("second")

    thread = threading.Thread(target=put)
    thread.start()
    empty.wait(10)
    with budget.take(10):
        go.set()
        thread.join(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


class Putting(io.RawIOBase):
    """A source that puts others into the store before it gives its bytes."""

    def __init__(self, store, content, inner):
        self._put = lambda: [store.put_blob(source) for source in inner]
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, view):
        self._put()
        self._put = list
        return self._content.readinto(view)


@pytest.mark.parametrize("count", [1, 3])
def test_sources_that_put_into_their_own_store(store, count):
    """None of them can go on before what it puts is put."""
    everyone = threading.Barrier(count)

    def put(name):
        source = []
        for depth in range(5):
            source = [Putting(store, b"%d %d" % (name, depth), source)]
        everyone.wait(20)
        store.put_blob(*source)

    threads = [threading.Thread(target=put, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(list(store.list_blobs())) == 5 * count
    with store._ingest._memory.take(ingest._MEMORY_OF_ALL):  # all was given back
        pass
