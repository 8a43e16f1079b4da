"""Marks, sweeps and quarantine."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import nullcontext

import obstore
import pytest
from obstore.exceptions import (
    GenericError,
)

import fastcas
from conformance import digest_of, noise, store_image
from fastcas import (
    InvalidError,
    NotExistError,
)
from fastcas.store import bucket as requests
from fastcas.store import sweep
from store.conftest import names, raw


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
        real = sweep._now
        monkeypatch.setattr(sweep, "_now", lambda: real() + 1801)
        with announced.step([]):
            assert f"{key}" in names(url)
            assert len(waited) == 2


def test_a_step_that_takes_too_long_removes_nothing(store, monkeypatch):
    """Its client was stopped: who has waited for its end may have gone on."""
    digest = store.put_blob(b"x").digest
    late, real, look = [], sweep._now, sweep.last_use

    def last_use(*arguments):
        late.append(61)
        return look(*arguments)

    monkeypatch.setattr(sweep, "last_use", last_use)
    monkeypatch.setattr(sweep, "_now", lambda: real() + sum(late))
    start = store.read_clock()
    left = store.sweep_blobs([digest], index=store.get_index(), start=start, grace=0).left
    assert left == [digest]
    assert list(store) == [digest]


def test_a_writer_looks_again_for_sweeps(store, monkeypatch):
    store.put_blob(b"x")
    now = sweep._now()
    with store.announce_sweep():
        assert store._sweeps.quiet_until() > now
        monkeypatch.setattr(sweep, "_now", lambda: now + 2.1)
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


@pytest.mark.parametrize("most", [1, 3])
def test_a_scrub_takes_so_many_threads_at_most(store, monkeypatch, most):
    store.put_blobs([b"%d" % number for number in range(200)])
    seen, real = set(), store._check
    at_once = threading.Semaphore(most)

    def check(digest):
        seen.add(digest)
        assert at_once.acquire(blocking=False)
        try:
            return real(digest)
        finally:
            at_once.release()

    monkeypatch.setattr(store, "_check", check)
    assert not store.scrub(threads=most).problems
    assert len(seen) == 200


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
