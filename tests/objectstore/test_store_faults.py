"""What the engine makes of a server and a network that fail: every acknowledged blob is there, no
update of the index is lost, no wrong byte is delivered."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import pytest

import fastcas
from conformance import MANIFEST, REF_NAME, descriptor_of, digest_of, names_in, noise
from fastcas import CorruptError, Descriptor, Manifest
from fastcas.store import bucket as bucket_module
from fastcas.store import ingest, sweep

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
BLOB = r"/blobs/sha256/"
INDEX = r"/index\.json$"
SMALL, MIDDLE, LARGE = 4096, 3 * MIB, 20 * MIB  # without HEAD; after HEAD; in parts


@pytest.fixture
def cas(bucket, proxy):
    """An engine on a new layout behind the proxy, which has seen nothing of it yet."""
    with fastcas.create(bucket.url, config=bucket.config(proxy.url)) as engine:
        proxy.clear()
        yield engine


@pytest.fixture(params=["client tries again", "engine alone"])
def reading(request, bucket, proxy, cas):
    """The same layout, by the client's own resumption of reads and without it."""
    config = bucket.config(proxy.url)
    if request.param == "engine alone":
        config["retry_config"] = {"max_retries": 0}
    with fastcas.open(bucket.url, config=config) as engine:
        yield engine


def stored(bucket, digest):
    return bucket.layout.joinpath("blobs", *str(digest).split(":"))


def assert_sound(bucket):
    """By the directory engine, on the server's own files."""
    with fastcas.open(bucket.layout) as directory:
        assert directory.scrub().problems == []


def indexed(bucket):
    return names_in(fastcas.Index.from_json((bucket.layout / "index.json").read_bytes()))


# ---- after the commit ----

LOST = {"dropped": {"drop_reply": True}, "500": {"fail_after": 500}, "503": {"fail_after": 503}}
lost = pytest.mark.parametrize("fault", LOST.values(), ids=LOST.keys())


def sources(content):
    yield "bytes", content
    yield "reader", io.BytesIO(content)
    yield "iterable", iter([content[:1000], content[1000:]])


@lost
@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
def test_a_put_whose_reply_is_lost(bucket, proxy, cas, fault, size):
    content = noise(size)
    for expected in (None, digest_of(content)):
        for _, source in sources(content):
            proxy.clear()
            proxy.rule("PUT", BLOB, nth=1, **fault)
            assert cas.put_blob(source, expected_digest=expected) == (digest_of(content), size)
            (name,) = fault
            assert proxy.acted(name) == 1
            assert stored(bucket, digest_of(content)).read_bytes() == content
            cas.delete_blob(digest_of(content))


@lost
def test_the_end_of_an_upload_in_parts_whose_reply_is_lost(bucket, proxy, cas, fault):
    content = noise(LARGE)
    proxy.rule("POST", "uploadId=", nth=1, **fault)
    assert cas.put_blob(content) == (digest_of(content), LARGE)
    (name,) = fault
    assert proxy.acted(name) == 1
    assert stored(bucket, digest_of(content)).read_bytes() == content


@lost
def test_an_update_of_the_index_whose_reply_is_lost(bucket, proxy, cas, fault):
    calls = []

    def add(index):
        calls.append(index)
        entry = descriptor_of(annotations={REF_NAME: f"n{len(index.manifests)}"})
        return index.replace(manifests=(*index.manifests, entry))

    for number in range(3):
        proxy.rule("PUT", INDEX, nth=1, **fault)
        index = cas.update_index(add)
        assert names_in(index) == [f"n{n}" for n in range(number + 1)]
        assert indexed(bucket) == names_in(index)
    (name,) = fault
    assert proxy.acted(name) == 3
    assert len(calls) == 3  # it knows its own


@lost
def test_an_update_whose_reply_is_lost_and_which_is_overwritten_at_once(bucket, proxy, cas, fault):
    with fastcas.open(bucket.url, config=bucket.config()) as other:

        def overwrite(_):
            other.update_reference("theirs", descriptor_of(b"theirs"))

        proxy.rule("PUT", INDEX, nth=1, after=overwrite, **fault)
        cas.update_reference("ours", descriptor_of(b"ours"))
        assert sorted(indexed(bucket)) == ["ours", "theirs"]
        assert proxy.acted("after") == 1


@lost
def test_create_whose_replies_are_lost(bucket, proxy, fault):
    proxy.rule("PUT", INDEX, nth=1, **fault)
    proxy.rule("PUT", "/oci-layout$", nth=1, **fault)
    with fastcas.create(bucket.url, config=bucket.config(proxy.url)) as cas:
        assert list(cas.list_references()) == []
        cas.put_blob(b"x")
    assert_sound(bucket)
    with pytest.raises(fastcas.ClobberError):
        fastcas.create(bucket.url, config=bucket.config(proxy.url))


@lost
def test_a_deletion_whose_reply_is_lost(bucket, proxy, cas, fault):
    digest, _ = cas.put_blob(b"x")
    proxy.rule("POST", "delete", nth=1, **fault)
    cas.delete_blob(digest)
    assert not stored(bucket, digest).exists()
    (name,) = fault
    assert proxy.acted(name) == 1


def test_a_server_that_refuses_everything_for_a_while(bucket, proxy, cas):
    proxy.rule(fail_before=503, nth=range(1, 3))
    digest, _ = cas.put_blob(b"x")
    proxy.clear()
    proxy.rule(fail_before=500, nth=range(1, 3))
    assert cas.read_blob(digest) == b"x"
    proxy.clear()
    proxy.rule(fail_before=503, nth=range(1, 3))
    cas.update_reference("a", descriptor_of())
    assert indexed(bucket) == ["a"]


@pytest.mark.parametrize("code", [404, 409, 412])
@pytest.mark.parametrize("operation", ["GET", "HEAD", "PUT", "POST", "LIST"])
def test_a_refusal_that_no_server_should_give_is_an_error_of_ours(
    bucket, proxy, cas, monkeypatch, operation, code
):
    monkeypatch.setattr(bucket_module, "_PAUSE", 0.0)
    monkeypatch.setattr(sweep, "WAIT", 0.0)
    config = {"config": bucket.config(proxy.url)}
    digest, _ = cas.put_blob(b"x")
    calls = [
        lambda: fastcas.create(bucket.url + "y", **config),
        lambda: fastcas.open(bucket.url, **config),
        lambda: fastcas.probe(bucket.url, **config),
        lambda: cas.update_reference("a", descriptor_of()),
        lambda: cas.read_blob(digest),
        lambda: cas.stat_blob(digest),
        lambda: cas.put_blob(b"y"),
        lambda: cas.delete_blob(digest_of(b"none")),
        lambda: list(cas),
        cas.get_index,
        cas.read_clock,
        cas.gc,
        cas.scrub,
        cas.clean,
    ]
    proxy.rule(operation, fail_before=code)
    failed = 0
    for call in calls:
        try:
            call()
        except (OSError, fastcas.FastCASError) as error:
            failed += 1
            where = error.filename if isinstance(error, OSError) else error.path
            assert where.startswith(bucket.url)
    # A deletion of what isn't there has succeeded.
    assert failed or (operation, code) == ("POST", 404)


# ---- in the middle of a body ----


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
def test_a_connection_cut_in_the_middle_of_an_upload(bucket, proxy, cas, size):
    content = noise(size)
    for expected in (None, digest_of(content)):
        for _, source in sources(content):
            proxy.clear()
            proxy.rule("PUT", BLOB, nth=1, cut_request=size // 8)
            assert cas.put_blob(source, expected_digest=expected) == (digest_of(content), size)
            assert proxy.acted("cut_request") == 1
            assert stored(bucket, digest_of(content)).read_bytes() == content
            cas.delete_blob(digest_of(content))


def test_an_update_of_the_index_cut_in_its_middle(bucket, proxy, cas):
    proxy.rule("PUT", INDEX, nth=1, cut_request=20)
    cas.update_reference("a", descriptor_of())
    assert proxy.acted("cut_request") == 1
    assert indexed(bucket) == ["a"]


# The first answer is of 1 MiB, the second of all the rest.
@pytest.mark.parametrize(
    ("answer", "after"), [(1, 0), (1, 1), (1, MIB - 1), (2, 0), (2, MIB), (2, LARGE - MIB - 1)]
)
def test_a_connection_cut_in_the_middle_of_a_read(proxy, reading, cas, answer, after):
    content = noise(LARGE)
    digest, _ = cas.put_blob(content)
    proxy.rule("GET", BLOB, nth=answer, cut_reply=after)
    with reading.get_blob(digest) as reader:
        assert reader.read() == content
    assert proxy.acted("cut_reply") == 1
    # It went on from where it was.
    assert sum(request.sent for request in proxy.requests) <= LARGE + 2 * MIB


def test_a_connection_that_is_cut_again_and_again(proxy, reading, cas):
    content = noise(LARGE)
    digest, _ = cas.put_blob(content)
    proxy.rule("GET", BLOB, cut_reply=6 * MIB)
    with reading.get_blob(digest) as reader:
        assert reader.read() == content
    assert proxy.acted("cut_reply") == 3


def test_a_blob_that_becomes_another_while_it_is_read(bucket, proxy, reading, cas):
    """Only a stranger can do that; what it resumes with must not be that."""
    content = noise(LARGE)
    digest, _ = cas.put_blob(content)

    def replace(_):
        place = stored(bucket, digest)
        new = place.with_name("new")
        new.write_bytes(noise(LARGE, 1))
        new.replace(place)

    proxy.rule("GET", BLOB, nth=1, cut_reply=MIB)
    proxy.rule("GET", BLOB, nth=2, before=replace)
    with pytest.raises((CorruptError, OSError)), reading.get_blob(digest) as reader:
        reader.read()
    assert proxy.acted("before") == 1


# ---- wrong bytes ----


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_byte_is_never_delivered_as_the_blob(proxy, cas, size, place):
    content = noise(size)
    digest, _ = cas.put_blob(content)
    proxy.rule("GET", BLOB, corrupt=place)
    with pytest.raises(CorruptError), cas.get_blob(digest) as reader:
        reader.read()
    got = []  # who takes exactly its size doesn't get the last byte either
    with pytest.raises(CorruptError), cas.get_blob(digest) as reader:
        got.extend(iter(lambda: reader.read(min(65536, size - sum(map(len, got)))), b""))
    assert sum(map(len, got)) < size
    with pytest.raises(CorruptError):
        cas.read_blob(digest, limit=size)
    assert proxy.acted("corrupt") >= 3
    proxy.clear()
    assert cas.read_blob(digest, limit=size) == content


@pytest.mark.parametrize("admitted", [False, True])
@pytest.mark.parametrize("fewer", [1, 2000])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_fewer_bytes_than_there_are(proxy, cas, size, fewer, admitted):
    content = noise(size)
    digest, _ = cas.put_blob(content)
    proxy.rule("GET", BLOB, truncate_range=fewer, admitted=admitted)
    with pytest.raises((CorruptError, OSError)), cas.get_blob(digest) as reader:
        reader.read()
    assert proxy.acted("truncate_range") >= 1


@pytest.mark.parametrize("admitted", [False, True])
def test_fewer_bytes_in_what_a_read_is_resumed_with(proxy, reading, cas, admitted):
    content = noise(LARGE)
    digest, _ = cas.put_blob(content)
    proxy.rule("GET", BLOB, nth=1, cut_reply=MIB)
    proxy.rule("GET", BLOB, nth=2, truncate_range=MIB, admitted=admitted)
    with reading.get_blob(digest) as reader:
        try:
            assert reader.read() == content
        except (CorruptError, OSError):
            pass
    assert proxy.acted("truncate_range") == 1


def test_nothing_more_comes_of_a_read_that_is_resumed(proxy, reading, cas):
    content = noise(LARGE)
    digest, _ = cas.put_blob(content)
    proxy.rule("GET", BLOB, nth=1, cut_reply=MIB)
    proxy.rule("GET", BLOB, nth=range(2, 100), truncate_range=LARGE)
    with pytest.raises((CorruptError, OSError)), reading.get_blob(digest) as reader:
        reader.read()
    assert proxy.acted("truncate_range") >= 1


def test_scrub_through_a_server_that_gives_wrong_bytes(proxy, cas):
    right, _ = cas.put_blob(noise(SMALL))
    wrong, _ = cas.put_blob(noise(MIDDLE))
    proxy.rule("GET", wrong.encoded, corrupt=5)
    report = cas.scrub()
    assert [(problem.digest, problem.kind) for problem in report.problems] == [(wrong, "corrupt")]
    assert report.checked == 2
    assert right in cas


# ---- slow, far, and with another time ----


def test_a_slow_server_far_away(bucket, proxy, cas):
    proxy.rule(delay=0.05, slow=0.1)
    content = noise(MIDDLE)
    digest, _ = cas.put_blob(content)
    assert cas.read_blob(digest) == content
    cas.update_reference("a", descriptor_of())
    assert proxy.acted("slow") >= 2
    assert proxy.acted("delay") == len(proxy.requests)


@pytest.mark.parametrize("seconds", [86_400, -86_400])
def test_gc_goes_by_the_time_of_the_server(bucket, proxy, cas, seconds):
    proxy.rule(skew=seconds)
    young, _ = cas.put_blob(b"young")
    old, _ = cas.put_blob(b"old")
    then = time.time() - 7200
    os.utime(stored(bucket, old), (then, then))
    assert [info.digest for info in cas.gc(grace=3600).deleted] == [old]
    assert cas.read_blob(young) == b"young"
    assert proxy.acted("skew") > 0


# ---- many writers of the index ----


def _add(url, config, worker, count):
    with fastcas.open(url, config=config) as cas:
        for number in range(count):
            cas.update_reference(f"{worker}-{number}", descriptor_of(b"%d" % number))


def _wanted(workers, count):
    return sorted(f"{worker}-{number}" for worker in range(workers) for number in range(count))


def test_sixteen_threads_on_the_index(bucket, cas):
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda worker: _add(bucket.url, bucket.config(), worker, 50), range(16)))
    assert sorted(indexed(bucket)) == _wanted(16, 50)


def test_four_processes_on_the_index(bucket, cas, spawn):
    children = [spawn(_add, bucket.url, bucket.config(), worker, 200) for worker in range(4)]
    for child in children:
        child.result(100)
    assert sorted(indexed(bucket)) == _wanted(4, 200)


def test_many_writers_of_the_index_whose_replies_are_lost_now_and_then(bucket, proxy, cas):
    chance = random.Random(4)
    proxy.rule("PUT", INDEX, nth={n for n in range(1000) if chance.random() < 0.1}, drop_reply=True)
    proxy.rule("PUT", INDEX, nth={n for n in range(1000) if chance.random() < 0.1}, fail_after=503)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda worker: _add(bucket.url, bucket.config(proxy.url), worker, 10), range(8)))
    assert sorted(indexed(bucket)) == _wanted(8, 10)
    assert proxy.acted("drop_reply") > 3
    assert proxy.acted("fail_after") > 3


# ---- servers that don't keep the conditions ----


def test_the_probe_finds_nothing_wrong_with_the_server(bucket, proxy):
    assert all(finding.right for finding in fastcas.probe(bucket.url, config=bucket.config(proxy.url)))


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ({"strip_conditions": True}, {"create-only", "stale if-match"}),
        ({"check_then_write": 0.02}, {"create-only, raced", "if-match, raced"}),
    ],
)
def test_a_server_that_fails_the_probe_is_refused(bucket, proxy, cas, fault, wrong):
    proxy.rule("PUT", **fault)
    findings = fastcas.probe(bucket.url, config=bucket.config(proxy.url))
    assert {finding.name for finding in findings if not finding.right} >= wrong
    with pytest.raises(fastcas.UnsupportedError):
        cas.update_reference("a", descriptor_of())
    assert indexed(bucket) == []


def test_a_server_is_known_again_by_another_spelling(bucket, proxy, cas):
    """What only a race shows the trial of the first change doesn't see."""
    proxy.rule("PUT", check_then_write=0.02)
    fastcas.probe(bucket.url, config=bucket.config(proxy.url))
    for url in (f"{proxy.url}/", proxy.url):
        with fastcas.open(bucket.url, config=bucket.config(url)) as engine:
            with pytest.raises(fastcas.UnsupportedError):
                engine.update_reference("a", descriptor_of())
    assert indexed(bucket) == []


def test_updates_are_lost_there_by_who_goes_on_all_the_same(bucket, proxy, cas):
    """So the tests above would see it."""
    proxy.rule("PUT", INDEX, check_then_write=0.02)
    config = {**bucket.config(proxy.url), "unsafe_index": True}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda worker: _add(bucket.url, config, worker, 5), range(8)))
    assert len(indexed(bucket)) < 40


# ---- put and tag beside gc ----

GRACE = 4.0  # seconds, in which an image is put and tagged


def _hurry():
    """What is agreed between writers and gc, in less time than usual."""
    sweep.LOOK_AGAIN, sweep.QUIET, sweep.WAIT = 0.3, 0.45, 0.6


def _put_and_tag(url, config, worker, seconds):
    """How many images it has put, and found whole when they were tagged; they share layers."""
    _hurry()
    chance = random.Random(worker)
    end = time.monotonic() + seconds
    count = 0
    with fastcas.open(url, config=config) as cas:
        while time.monotonic() < end:
            count += 1
            blobs = [b'{"worker": %d, "count": %d}' % (worker, count)]
            blobs += [noise(5000, seed) for seed in chance.sample(range(8), 2)]
            put = [Descriptor("application/x", *cas.put_blob(blob)) for blob in blobs]
            digest, size = cas.put_json(Manifest(put[0], put[1:]))
            cas.update_reference(f"worker-{worker}", Descriptor(MANIFEST, digest, size))
            for entry in (digest, *(descriptor.digest for descriptor in put)):
                cas.read_blob(entry)
    return count


def _collect(url, config, seconds):
    """How many blobs it has removed."""
    _hurry()
    end = time.monotonic() + seconds
    count = 0
    with fastcas.open(url, config=config) as cas:
        while time.monotonic() < end:
            count += len(cas.gc(grace=GRACE).deleted)
    return count


def test_put_and_tag_beside_gc(bucket, cas, spawn):
    writers = [spawn(_put_and_tag, bucket.url, bucket.config(), worker, 15) for worker in range(3)]
    collectors = [spawn(_collect, bucket.url, bucket.config(), 15) for _ in range(2)]
    assert min(child.result() for child in writers) > 3
    assert sum(child.result() for child in collectors) > 10
    assert sorted(indexed(bucket)) == ["worker-0", "worker-1", "worker-2"]
    assert_sound(bucket)  # nothing that the index leads to is missing


def _start(started, pool, function, *arguments):
    """What starts something beside a request that is held until it is done, or waits for it."""

    def start(_):
        started.append(pool.submit(function, *arguments))
        wait(started, 2)

    return start


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
@pytest.mark.parametrize("moment", [("PUT", "/announced$"), ("PUT", "/step$"), ("HEAD", BLOB)])
def test_a_blob_that_is_put_again_when_gc_is_about_to_remove_it(
    bucket, proxy, cas, monkeypatch, size, moment
):
    monkeypatch.setattr(sweep, "WAIT", 0.0)
    digest, _ = cas.put_blob(noise(size))
    then = time.time() - 7200
    os.utime(stored(bucket, digest), (then, then))
    with fastcas.open(bucket.url, config=bucket.config()) as other, ThreadPoolExecutor(1) as beside:
        puts = []
        proxy.rule(*moment, nth=1, before=_start(puts, beside, other.put_blob, noise(size)))
        cas.gc(grace=3600)
        assert proxy.acted("before") == 1
        puts[0].result(60)  # it may have waited for the end of the step
        assert cas.read_blob(digest) == noise(size)


@pytest.mark.parametrize("moment", [("PUT", "/announced$"), ("PUT", "/step$"), ("HEAD", BLOB)])
def test_an_image_that_is_copied_when_gc_is_about_to_remove_its_blobs(
    bucket, proxy, cas, monkeypatch, tmp_path, moment
):
    monkeypatch.setattr(sweep, "WAIT", 0.0)
    with fastcas.create(tmp_path / "source") as source:
        entry, digests = _image(source, [noise(SMALL), noise(MIDDLE)])
        assert fastcas.copy_image(source, "v1", cas).blobs == len(digests)
        cas.delete_reference("v1")
        then = time.time() - 7200
        for digest in digests:
            os.utime(stored(bucket, digest), (then, then))
        with fastcas.open(bucket.url, config=bucket.config()) as other:
            with ThreadPoolExecutor(1) as beside:
                copies = []
                start = _start(copies, beside, fastcas.copy_image, source, "v1", other)
                proxy.rule(*moment, nth=1, before=start)
                cas.gc(grace=3600)
                assert proxy.acted("before") == 1
                assert copies[0].result(60).descriptor.digest == entry.digest
    assert indexed(bucket) == ["v1"]
    assert_sound(bucket)


@pytest.mark.parametrize("moment", [("PUT", "/announced$"), ("PUT", "/step$"), ("HEAD", BLOB)])
def test_an_image_that_is_tagged_when_gc_is_about_to_remove_it(bucket, proxy, cas, monkeypatch, moment):
    monkeypatch.setattr(sweep, "WAIT", 0.0)
    digest, size = cas.put_json(Manifest(descriptor_of(), []))
    then = time.time() - 7200
    os.utime(stored(bucket, digest), (then, then))
    with fastcas.open(bucket.url, config=bucket.config()) as other:
        entry = Descriptor(MANIFEST, digest, size)
        with ThreadPoolExecutor(1) as beside:
            tags = []
            start = _start(tags, beside, other.update_reference, "a", entry)
            proxy.rule(*moment, nth=1, before=start)
            assert cas.gc(grace=3600).deleted == []
            tags[0].result(60)
    assert indexed(bucket) == ["a"]
    assert digest in cas


# ---- what other tools leave there ----


def test_markers_of_folders_are_no_blobs(bucket, cas):
    kept, _ = cas.put_blob(b"")
    folder = stored(bucket, digest_of(b"y"))
    folder.mkdir()
    for place in (folder, *folder.parents[:3]):
        os.setxattr(place, "user.etag", b"d41d8cd98f00b204e9800998ecf8427e")  # what makes it a marker
    assert list(cas) == [kept]
    assert cas.scrub().problems == []
    assert cas.gc(grace=0).deleted == [(kept, 0)]


def test_a_key_that_the_client_cannot_take_is_named(bucket, cas):
    digest, _ = cas.put_blob(b"x")
    strange = stored(bucket, digest).with_name("a\nb")
    strange.write_bytes(b"x")
    for call in (cas.scrub, cas.gc, lambda: len(cas)):
        with pytest.raises(OSError, match=r"a\\nb': remove it with another tool"):
            call()
    strange.unlink()
    assert list(cas) == [digest]


# ---- SIGKILL ----


def _put(url, config, size):
    with fastcas.open(url, config=config) as cas:
        cas.put_blob(noise(size), expected_digest=digest_of(noise(size)))


KILLED = {
    "in the second part": (LARGE, "PUT", "partNumber=2"),
    "at the end of the parts": (LARGE, "POST", "uploadId="),
    "in the one request": (MIDDLE, "PUT", BLOB),
}


@pytest.mark.parametrize("when", KILLED)
def test_a_writer_killed_in_the_middle_of_an_upload(bucket, proxy, cas, spawn, monkeypatch, when):
    monkeypatch.setattr(sweep, "WAIT", 0.0)
    size, operation, pattern = KILLED[when]
    kept, _ = cas.put_blob(b"kept")
    reached, dead = threading.Event(), threading.Event()

    def hold(_):
        reached.set()
        dead.wait(60)

    proxy.rule(operation, pattern, nth=1, before=hold, cut_request=0)
    child = spawn(_put, bucket.url, bucket.config(proxy.url), size)
    assert reached.wait(60)
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()
    dead.set()
    assert list(cas) == [kept]
    uploads = [place for place in bucket.path.glob(".sgwtmp/multipart/*/*") if place.is_dir()]
    assert len(uploads) == (size == LARGE)  # which a lifecycle rule removes: no client can see it
    assert cas.clean() == []
    assert cas.gc(grace=0).deleted == [(kept, 4)]
    _put(bucket.url, bucket.config(), size)
    assert cas.read_blob(digest_of(noise(size)), limit=size) == noise(size)
    assert_sound(bucket)


@pytest.mark.parametrize("how", ["refused", "raised", "interrupted"])
def test_an_upload_that_is_given_up_leaves_nothing(bucket, cas, how):
    """Not even parts that were on their way when it was."""
    content = noise(LARGE)

    def source():
        for start in range(0, LARGE, MIB):
            yield content[start : start + MIB]
        if how == "raised":
            raise OSError("gone")
        if how == "interrupted":
            raise KeyboardInterrupt

    errors = {"refused": CorruptError, "raised": OSError, "interrupted": KeyboardInterrupt}
    for _ in range(8):
        with pytest.raises(errors[how]):
            cas.put_blob(source(), expected_digest=digest_of(b""), expected_size=LARGE)
    assert list(cas) == []
    assert not any(place.is_dir() for place in bucket.path.glob(".sgwtmp/multipart/*/*"))


def _put_many(url, config, folder):
    with fastcas.open(url, config=config) as cas:
        cas.put_blobs([Path(folder, name) for name in os.listdir(folder)])
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


def test_the_memory_of_many_uploads_is_bounded(bucket, cas, spawn, tmp_path):
    """In MiB, of a process of its own; what its threads gave back, malloc would keep."""
    for number in range(24):
        with open(tmp_path / str(number), "wb") as file:
            file.write(b"%d" % number)
            file.truncate(32 * MIB)
    peak = spawn(_put_many, bucket.url, bucket.config(), tmp_path).result()
    assert len(cas) == 24
    assert peak < 128 + 120


def test_the_blocks_of_an_upload_are_used_again(bucket, cas, monkeypatch):
    made = []
    new_block = ingest._new_block
    monkeypatch.setattr(ingest, "_new_block", lambda size: made.append(size) or new_block(size))
    content = noise(8 * MIB)
    digest = hashlib.sha256(content * 24).hexdigest()
    cas.put_blob(iter([content] * 24), expected_digest=f"sha256:{digest}", expected_size=24 * 8 * MIB)
    # Four parts are on their way; one waits, one is handed over, one is filled, one may be let go late.
    assert len(made) <= ingest.PARTS_AT_ONCE + 4


# ---- what an operation costs ----


@pytest.fixture
def asked(bucket, proxy, monkeypatch):
    """Runs something; returns the requests that it made. Without the looks at the sweeps of others, one
    LIST every two seconds, and gc's wait."""
    monkeypatch.setattr(sweep, "LOOK_AGAIN", 1e12)
    monkeypatch.setattr(sweep, "QUIET", 1e12)
    monkeypatch.setattr(sweep, "WAIT", 0.0)

    def count(function, *arguments, **options):
        proxy.clear()
        result = function(*arguments, **options)
        return dict(proxy.counts()), result

    return count


def test_what_each_operation_asks(bucket, proxy, asked):
    where = {"config": bucket.config(proxy.url)}
    said, cas = asked(fastcas.create, bucket.url, **where)
    assert said == {"HEAD": 1, "PUT": 2}
    with cas:
        assert asked(cas.put_blob, noise(SMALL))[0] == {"PUT": 1, "LIST": 1}  # the one look
        said, (small, _) = asked(cas.put_blob, noise(SMALL))
        assert said == {"PUT": 1}
        said, (middle, _) = asked(cas.put_blob, noise(MIDDLE))
        assert said == {"HEAD": 1, "PUT": 1}
        assert asked(cas.put_blob, noise(MIDDLE))[0] == {"HEAD": 1, "PUT": 1}  # the mark
        assert sum(request.received for request in proxy.requests) == 0
        said, (large, _) = asked(cas.put_blob, noise(LARGE))
        assert said == {"HEAD": 1, "POST": 2, "PUT": 3}
        assert asked(cas.put_blob, noise(LARGE))[0] == {"HEAD": 1, "PUT": 1}
        for digest, times in (small, 1), (middle, 2), (large, 2):
            assert asked(cas.read_blob, digest, limit=LARGE)[0] == {"GET": times}
            said, reader = asked(cas.get_blob, digest)
            reader.close()
            assert said == {"GET": 1}
            assert sum(request.sent for request in proxy.requests) <= MIB + 4096  # with its head
            assert asked(cas.stat_blob, digest)[0] == {"HEAD": 1}
        assert asked(cas.get_index)[0] == {"GET": 1}
        cas.update_reference("first", descriptor_of())  # looks what its server is like
        assert asked(cas.update_reference, "second", descriptor_of())[0] == {"GET": 1, "PUT": 1}
        assert asked(cas.put_blobs, [noise(100, n) for n in range(50)])[0] == {"PUT": 50}
        assert asked(lambda: list(cas.list_blobs()))[0] == {"LIST": 1}
        assert asked(cas.delete_blob, small)[0] == {"POST": 1}
    said, cas = asked(fastcas.open, bucket.url, **where)
    assert said == {"GET": 1, "HEAD": 1}
    cas.close()


def _image(cas, layers):
    """Puts an image of ``layers`` and a config, which its descriptor embeds and which isn't stored."""
    config = descriptor_of(b"{}", "application/x", data=b"{}")
    layers = [Descriptor("application/x", *cas.put_blob(layer)) for layer in layers]
    entry = Descriptor(MANIFEST, *cas.put_json(Manifest(config, layers)))
    cas.update_reference("v1", entry)
    return entry, [entry.digest, config.digest, *(layer.digest for layer in layers)]


def _bodies(proxy):
    """The bytes that were sent to the keys of blobs."""
    return sum(r.received for r in proxy.requests if "/blobs/sha256/" in r.path)


def test_what_a_copy_asks(bucket, proxy, cas, asked, tmp_path):
    """Of many small blobs, one of 3 MiB and one of 20: only what is missing is sent."""
    layers = [noise(SMALL, seed) for seed in range(40)]
    with fastcas.create(tmp_path / "source") as source:
        _, digests = _image(source, [*layers, noise(MIDDLE), noise(LARGE)])
        count = len(digests)
        cas.update_reference("first", descriptor_of())  # looks what its server is like
        said, done = asked(fastcas.copy_image, source, "v1", cas)
        assert (done.blobs, done.methods) == (count, {"copy": count})
        assert said == {
            "HEAD": count + 2 + count,  # looks, the large ones again before they are sent; at the end
            "PUT": count - 1 + 3 + 1,  # each one, the largest in three parts; the index
            "POST": 2,
            "GET": 1,
        }
        for way, name in (fastcas.copy_image, ["v1"]), (fastcas.copy_images, []):
            said, done = asked(way, source, *name, cas)
            assert (done.blobs, done.bytes, done.methods) == (0, 0, {"exists": count})
            assert said == {"HEAD": 2 * count, "PUT": count, "GET": 1}  # the marks
            assert sum(request.received for request in proxy.requests) == 0
        _image(source, [*layers, b"new"])
        said, done = asked(fastcas.copy_images, source, cas)
        assert done.methods == {"exists": 41, "copy": 2}
        assert _bodies(proxy) == done.bytes
        with fastcas.open(bucket.layout) as directory:
            assert directory.scrub().problems == []


def test_a_copy_looks_at_many_at_once(bucket, proxy, cas, tmp_path):
    """All looks are held until there are sixteen."""
    together = threading.Barrier(16)
    with fastcas.create(tmp_path / "source") as source:
        _image(source, [noise(SMALL, seed) for seed in range(14)])
        for _ in range(2):
            proxy.clear()
            proxy.rule("HEAD", BLOB, before=lambda _: together.wait(60))
            assert sum(fastcas.copy_image(source, "v1", cas).methods.values()) == 16
            assert proxy.acted("before") == 32


@pytest.mark.parametrize("way", ["directory", "another bucket", "archive", "from an archive"])
def test_small_blobs_are_asked_for_and_sent_at_once(bucket, proxy, cas, tmp_path, way):
    """All are held until there are sixteen."""
    come, together = itertools.count(1), threading.Event()

    def hold(_):
        if next(come) == 16:
            together.set()
        assert together.wait(20)

    layers = [noise(SMALL, seed) for seed in range(32)]
    with fastcas.create(tmp_path / "source") as source:
        _image(source, layers)
        fastcas.export_archive(source, tmp_path / "image.tar")
        if way != "from an archive":
            fastcas.copy_images(source, cas)
    keys = "|".join(digest_of(layer).partition(":")[2] for layer in layers)
    proxy.rule("PUT" if way == "from an archive" else "GET", keys, before=hold)
    if way == "from an archive":
        fastcas.import_archive(cas, tmp_path / "image.tar")
    elif way == "archive":
        fastcas.export_archive(cas, tmp_path / "out.tar")
        assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "image.tar").read_bytes()
    else:
        path = tmp_path / "there" if way == "directory" else "memory://copies-at-once/x"
        with fastcas.create(path) as target:
            fastcas.copy_images(cas, target)
            assert target.scrub().problems == []
    assert proxy.acted("before") == 32


def test_copies_of_small_blobs_are_sent_at_once(proxy, cas, tmp_path):
    """All are held until there are sixteen."""
    together = threading.Barrier(16)
    with fastcas.create(tmp_path / "source") as source, ExitStack() as stack:
        put = source.put_blobs([noise(SMALL, seed) for seed in range(16)])
        blobs = [stack.enter_context(source.get_blob(digest)) for digest, _ in put]
        proxy.rule("PUT", BLOB, before=lambda _: together.wait(20))
        assert {copied.method for copied in cas.put_copies(blobs)} == {"copy"}
        assert proxy.acted("before") == 16


def _many(bucket, count):
    """Plants so many blobs that nothing leads to, past the server."""
    folder = bucket.layout / "blobs" / "sha256"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        content = b"%d" % number
        (folder / digest_of(content).partition(":")[2]).write_bytes(content)


@pytest.mark.parametrize("count", [1, 900, 2100])
def test_what_gc_asks(bucket, proxy, cas, asked, count):
    """One image, which stays, and ``count`` blobs that go."""
    cas.update_reference("kept", Descriptor(MANIFEST, *cas.put_json(Manifest(descriptor_of(), []))))
    _many(bucket, count)
    said, report = asked(cas.gc, grace=0)
    assert (len(report.deleted), report.kept) == (count, 1)
    # How often the clock is asked, by PUT, HEAD and POST, depends on when in its second the server is.
    clock = sum(r.operation == "PUT" and "/.fastcas/clock/" in r.path for r in proxy.requests)
    steps, pages = -(-count // 1000), -(-(count + 1) // 1000)
    assert said == {
        "GET": 4 + steps,
        "HEAD": 2 * count + clock,
        "PUT": 1 + steps + clock,
        "POST": 1 + 3 * steps + clock,
        "LIST": 4 + pages,
    }


def test_listing_asks_for_a_thousand_at_a_time(bucket, cas, asked):
    _many(bucket, 2100)
    said, found = asked(lambda: list(cas.list_blobs()))
    assert len(found) == 2100
    assert said == {"LIST": 3}
