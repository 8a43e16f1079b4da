"""What a server or its client says, and what a caller is told."""

from __future__ import annotations

import errno

import obstore
import pytest
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    PreconditionError,
)

import fastcas
from conformance import descriptor_of, digest_of, noise
from fastcas import (
    InvalidError,
    NotExistError,
)
from fastcas.store import bucket as requests
from fastcas.store import location
from store.conftest import S3, SECRET


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
