"""Uploads beside each other, their memory, and their ends."""

from __future__ import annotations

import io
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import fastcas
from fastcas import (
    ClosedError,
)
from fastcas.many import Many
from fastcas.store import ingest


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
