"""The server, and signed requests through the proxy: what the tests of the engine stand on."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, PreconditionError
from obstore.store import S3Store

from conformance import noise
from server import serving

MIB = 1 << 20
ONCE = itertools.count()


def store_of(bucket, endpoint=None, **more):
    config = {**bucket.config(endpoint), **more}
    options = config.pop("client_options")
    return S3Store(bucket.name, config=config, client_options=options)


@pytest.fixture
def store(bucket, proxy):
    return store_of(bucket, proxy.url)


def outcomes(store, path, count, mode):
    """How many of ``count`` threads that put at the same moment have won, how many were refused."""
    barrier = threading.Barrier(count)

    def race(number):
        barrier.wait()
        try:
            # What nobody has put before: the ETag is of the content, and A B A would look like A.
            store.put(path, b"%d %d" % (number, next(ONCE)), mode=mode)
        except (AlreadyExistsError, PreconditionError):
            return "refused"
        return "won"

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(race, range(count)))


def test_a_bucket_is_a_directory(bucket):
    store = store_of(bucket)
    assert not list(bucket.path.iterdir())
    store.put("layout/blobs/sha256/00", b"content")
    assert (bucket.layout / "blobs" / "sha256" / "00").read_bytes() == b"content"
    (bucket.layout / "planted").write_bytes(b"past the server")
    assert store.get("layout/planted").bytes().to_bytes() == b"past the server"
    listed = [entry["path"] for entry in store.list().collect()]
    assert sorted(listed) == ["layout/blobs/sha256/00", "layout/planted"]


def test_every_kind_of_signed_request_passes_the_proxy(bucket, proxy, store):
    content = noise(12 * MIB)
    attributes = {"fastcas-nonce": "one"}
    made = store.put("index.json", b"1", mode="create", attributes=attributes)
    store.put("index.json", b"2", mode={"e_tag": made["e_tag"]}, attributes=attributes)
    store.put("folder/a b+c%", iter([content[:MIB], content[MIB:]]), chunk_size=5 * MIB)
    assert proxy.counts() == {"PUT": 2 + 3, "POST": 2}
    got = store.get("folder/a b+c%")
    assert b"".join(got.stream(min_chunk_size=MIB)) == content
    assert store.get_range("folder/a b+c%", start=MIB, length=10).to_bytes() == content[MIB : MIB + 10]
    assert store.head("folder/a b+c%")["size"] == len(content)
    assert store.get("index.json").attributes["fastcas-nonce"] == "one"
    assert [entry["path"] for entry in store.list("folder").collect()] == ["folder/a b+c%"]
    store.delete("index.json")
    store.delete(["folder/a b+c%", "none"])
    assert not store.list().collect()
    counts = proxy.counts()
    assert (counts["GET"], counts["HEAD"], counts["LIST"]) == (3, 1, 2)
    assert all(request.status < 300 for request in proxy.requests)


def test_a_signature_of_someone_else_stays_wrong(bucket, proxy):
    with pytest.raises(PermissionDeniedError):
        store_of(bucket, proxy.url, secret_access_key="wrong").put("a", b"x")
    proxy.rule(strip_conditions=True)
    # versitygw says 404 of a key that it doesn't know, where others say 403.
    with pytest.raises((PermissionDeniedError, FileNotFoundError), match="access key"):
        store_of(bucket, proxy.url, access_key_id="nobody").put("a", b"x", mode="create")
    assert proxy.acted("strip_conditions") == 1
    assert not list(bucket.path.iterdir())


@pytest.mark.parametrize("seconds", [3600, -7200])
def test_skew_in_what_a_client_reads(bucket, proxy, store, seconds):
    store.put("folder/a", b"x")
    true = store.head("folder/a")["last_modified"]
    proxy.rule(skew=seconds)
    shifted = true + timedelta(seconds=seconds)
    assert store.head("folder/a")["last_modified"] == shifted
    (entry,) = store.list("folder").collect()
    assert entry["last_modified"].replace(microsecond=0) == shifted.replace(microsecond=0)
    assert proxy.acted("skew") == 2


def test_the_server_lets_one_of_many_win(bucket, store):
    for turn in range(5):
        assert outcomes(store, f"created-{turn}", 16, "create") == {"won": 1, "refused": 15}
        tag = store.head(f"created-{turn}")["e_tag"]
        assert outcomes(store, f"created-{turn}", 16, {"e_tag": tag}) == {"won": 1, "refused": 15}


def test_a_server_that_ignores_conditions_lets_all_win(bucket, proxy, store):
    store.put("a", b"x")
    with pytest.raises(AlreadyExistsError):
        store.put("a", b"y", mode="create")
    proxy.rule("PUT", strip_conditions=True)
    store.put("a", b"y", mode="create")
    store.put("a", b"z", mode={"e_tag": '"0"'})
    assert (bucket.path / "a").read_bytes() == b"z"
    assert outcomes(store, "b", 8, "create") == {"won": 8}


def test_a_server_that_checks_and_then_writes_lets_some_win(bucket, proxy, store):
    proxy.rule("PUT", check_then_write=0.2)
    made = store.put("a", b"x", mode="create")
    with pytest.raises(AlreadyExistsError):
        store.put("a", b"y", mode="create")
    with pytest.raises(PreconditionError):
        store.put("a", b"y", mode={"e_tag": '"0"'})
    assert (bucket.path / "a").read_bytes() == b"x"
    assert outcomes(store, "a", 8, {"e_tag": made["e_tag"]})["won"] > 1
    assert outcomes(store, "b", 8, "create")["won"] > 1


def test_what_a_client_makes_of_a_lost_reply(bucket, proxy, store):
    """Why an update of the index needs a mark of its own: the client tries again, and meets itself."""
    made = store.put("index.json", b"1")
    for number, fault in enumerate([{"drop_reply": True}, {"fail_after": 500}, {"fail_after": 503}]):
        proxy.clear()
        proxy.rule("PUT", nth=1, **fault)
        with pytest.raises(PreconditionError):
            store.put("index.json", b"new %d" % number, mode={"e_tag": made["e_tag"]})
        assert (bucket.path / "index.json").read_bytes() == b"new %d" % number
        assert proxy.counts() == {"PUT": 2}
        made = store.head("index.json")


def _serve_for_ever():
    with serving() as server:
        print(server.process.pid, server.root.parent, flush=True)
        time.sleep(600)


def test_the_server_ends_with_who_started_it(spawn):
    child = spawn(_serve_for_ever)
    pid, place = child.process.stdout.readline().split()
    assert os.path.exists(f"/proc/{int(pid)}")
    child.kill()
    while _runs(int(pid)):  # bounded by the timeout of every test
        time.sleep(0.01)
    assert place.startswith((b"/dev/shm/fastcas-", b"/tmp/"))
    for folder, _, names in os.walk(place, topdown=False):
        for name in names:
            os.remove(os.path.join(folder, name))
        os.rmdir(folder)


def _runs(pid):
    with suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False
