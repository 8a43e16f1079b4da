"""Ways into the store, and from bucket to bucket."""

from __future__ import annotations

import io
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest

import fastcas
from conformance import digest_of, noise
from fastcas import (
    CorruptError,
    NotExistError,
)
from fastcas.store import bucket as requests
from fastcas.store import ingest
from fastcas.store.location import connect, parse
from store.conftest import S3, names, raw


class Unseekable:
    def __init__(self, content):
        self.content = memoryview(content)

    def read(self, size):
        piece, self.content = self.content[:size], self.content[size:]
        return bytes(piece)


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
        with budget.take(40, wait=False) as taken:  # what it had is free
            assert taken
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


def test_what_may_take_for_ever_leaves_memory_to_the_rest(store, small_parts, monkeypatch):
    """Pipes that nobody ends."""
    monkeypatch.setattr(ingest, "_MEMORY", 256 << 10)
    store._ingest._memory = ingest.Budget(512 << 10, reserve=256 << 10)
    pipes = [os.pipe() for _ in range(6)]
    content = noise(128 << 10)

    def put(pipe):
        with open(pipe, "rb", buffering=0) as file:
            return store.put_blob(file)

    with ThreadPoolExecutor(len(pipes)) as pool:
        waiting = [pool.submit(put, pipe) for pipe, _ in pipes]
        for _, end in pipes:
            left = memoryview(content)
            while left:
                left = left[os.write(end, left) :]
        other = threading.Thread(target=store.put_blob, args=(noise(3 << 20),), daemon=True)
        other.start()
        other.join(20)
        ended = not other.is_alive()
        for _, end in pipes:
            os.close(end)
        assert ended
        assert {blob.result().digest for blob in waiting} == {digest_of(content)}
    with store._ingest._memory.take(512 << 10, wait=False) as taken:
        assert not taken  # it leaves the reserve
    with store._ingest._memory.take(512 << 10) as taken:
        assert taken


def test_sources_that_put_many_into_their_own_store(store, small_parts, monkeypatch, tmp_path):
    """What those are put by waits for memory that the sources have."""
    monkeypatch.setattr(ingest, "_MEMORY", 256 << 10)
    store._ingest._memory = ingest.Budget(512 << 10, reserve=256 << 10)
    path = tmp_path / "inner"
    path.write_bytes(noise(300_000))
    everyone = threading.Barrier(4)

    def source(number):
        for part in range(4):
            yield noise(64 << 10, 4 * number + part)
        everyone.wait(20)
        store.put_blobs([path])

    threads = [
        threading.Thread(target=lambda n=n: store.put_blob(source(n)), daemon=True) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(list(store.list_blobs())) == 5


def test_an_interrupt_loses_no_memory(store, small_parts):
    """Wherever it comes."""
    path = "fastcas/store/budget.py"

    def put_interrupted(line):
        seen = 0

        def trace(frame, event, _):
            nonlocal seen
            if not frame.f_code.co_filename.endswith(path):
                return None
            if event in ("line", "return"):
                seen += 1
                if seen == line:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            store.put_blob(noise(2 << 20, 1))
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    line = 1
    while put_interrupted(line):
        with store._ingest._memory.take(ingest._MEMORY_OF_ALL - ingest._MEMORY, wait=False) as taken:
            assert taken, line
        store.delete_blob(digest_of(noise(2 << 20, 1)))
        line += 1
    assert line > 20


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


def test_a_damaged_blob_takes_the_place_of_nothing(url):
    """It is the source that is damaged, and nobody reads what the server copies."""
    content = noise(3 << 20)
    digest = digest_of(content)
    place = f"x/blobs/{digest.replace(':', '/')}"
    with fastcas.create(url) as one, fastcas.create(url.replace("/x", "/y")) as two:
        for engine in (one, two):
            engine.put_blob(content)
        obstore.put(raw(url), place, content[: 2 << 20])
        with pytest.raises(CorruptError), one.get_blob(digest) as blob:
            two.put_copy(blob)
        assert two.read_blob(digest) == content
        with pytest.raises((CorruptError, NotExistError)), one.get_blob(digest) as blob:
            obstore.put(raw(url), place, content)  # mended
            one.put_copy(blob)
        assert one.read_blob(digest) == content


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
