"""gc: what stays and what goes, on hostile layouts, and beside writers at each edge of its lock."""

from __future__ import annotations

import os
import random
import resource
import shutil
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import fastcas
from conformance import LAYER, MANIFEST, REF_NAME, descriptor_of, digest_of, noise, store_image
from conftest import patch_fsync
from fastcas import Descriptor, Digest, Index, InvalidError, Manifest, _core
from fastcas.dir import scan, sweep
from fastcas.dir.lock import Lock
from fastcas.image import gc, walk
from test_cases import blob_path, foreign_layout, half_put, own_names, plant, running, tree

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

WAIT = 60  # seconds after which something hangs
OLD = 7200  # seconds: more than the grace that gc has by itself

INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def age(layout, *digests, seconds=OLD):
    """Sets the time of these blobs, or of all, to so long ago."""
    then = time.time() - seconds
    places = [blob_path(layout, digest) for digest in digests]
    for place in places or Path(layout, "blobs").glob("*/*"):
        os.utime(place, (then, then), follow_symlinks=False)


def deleted_by(cas, **options):
    return {blob.digest for blob in cas.gc(**options).deleted}


def put_index_of(cas, *descriptors, media_type=INDEX, **more) -> Descriptor:
    index = Index(descriptors, media_type=media_type, **more)
    return Descriptor(media_type, *cas.put_blob(index.to_json()))


# ---- cases ----


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_case_16_gc_and_list_of_every_algorithm(cas, layout, algorithm):
    tagged, kept = store_image(cas, 1, algorithm=algorithm)
    _, gone = store_image(cas, 2, algorithm=algorithm)
    cas.update_reference("v1", tagged)
    assert set(cas) == kept | gone
    assert deleted_by(cas, grace=0) == gone
    assert set(cas) == kept
    assert cas.scrub() == (4, sum(cas.stat_blob(digest).size for digest in kept), [])


def test_unknown_algorithm_is_swept_by_name(cas, layout):
    used, unused = "multihash+base58:QmUsed", "multihash+base58:QmUnused"
    for digest in (used, unused):
        plant(layout, digest, b"x")
    manifest = Manifest(descriptor_of(), [Descriptor(LAYER, used, 1)])
    cas.update_reference("v1", Descriptor(MANIFEST, *cas.put_blob(manifest.to_json())))
    assert deleted_by(cas, grace=0) == {unused}
    assert used in set(cas)


def test_a_document_of_an_unknown_algorithm_deletes_nothing(cas, layout):
    plant(layout, "multihash+base58:QmManifest", b"{}")
    cas.put_blob(b"garbage")
    cas.put_index(Index([Descriptor(MANIFEST, "multihash+base58:QmManifest", 2)]))
    with pytest.raises(fastcas.UnknownAlgorithmError) as caught:
        cas.gc(grace=0)
    assert caught.value.digest == "multihash+base58:QmManifest"
    assert len(cas) == 2


def test_case_19_strays(cas, layout):
    tagged, kept = store_image(cas, 1)
    gone, _ = cas.put_blob(b"garbage")
    cas.update_reference("v1", tagged)
    folder = layout / "blobs" / "sha256"
    encoded = Digest(gone).encoded
    for name in (".DS_Store", f"{encoded}.tmp", f"{encoded}12345", "X.tmp", "f\udcff"):
        (folder / name).write_bytes(b"stray")
    (folder / "folder").mkdir()
    (layout / "blobs" / ".DS_Store").write_bytes(b"stray")
    (layout / "blobs" / "not an algorithm").mkdir()
    (layout / "blobs" / "not an algorithm" / encoded).write_bytes(b"stray")
    (layout / "manifest.json").write_bytes(b"[]")
    (layout / "ingest").mkdir()
    before = set(tree(layout))
    assert deleted_by(cas, grace=0) == {gone}
    assert set(tree(layout)) == before - {f"blobs/sha256/{encoded}"}
    assert set(cas) == kept


def test_case_44_sparse_layouts(cas):
    """An absent platform, an absent layer, a dangling subject, a dangling entry."""
    here, kept = store_image(cas, 1)
    subject = descriptor_of(b"absent subject")
    attached, more = store_image(cas, 2, subject=subject)
    partial = Manifest(here, [descriptor_of(b"absent layer", LAYER)])
    partial = Descriptor(MANIFEST, *cas.put_blob(partial.to_json()))
    index = put_index_of(cas, here, descriptor_of(b"absent platform"), attached, partial)
    gone, _ = cas.put_blob(b"garbage")
    cas.put_index(Index([index, descriptor_of(b"absent entry")]))
    assert deleted_by(cas, grace=0) == {gone}
    assert set(cas) == kept | more | {index.digest, partial.digest}


def test_a_subject_that_is_there_is_kept(cas):
    image, digests = store_image(cas, 1)
    signature, more = store_image(cas, 2, subject=image)
    cas.put_index(Index([signature]))
    assert deleted_by(cas, grace=0) == set()
    assert set(cas) == digests | more


def test_case_45_docker_manifest_and_list(cas):
    image, digests = store_image(cas, 1)
    inner = Manifest(image, [Descriptor(LAYER, d, cas.stat_blob(d).size) for d in digests])
    inner = inner.replace(media_type=DOCKER_MANIFEST)
    inner = Descriptor(DOCKER_MANIFEST, *cas.put_blob(inner.to_json()))
    listed = put_index_of(cas, inner, media_type=DOCKER_LIST)
    outer = put_index_of(cas, listed)
    gone, _ = cas.put_blob(b"garbage")
    cas.put_index(Index([outer]))
    assert deleted_by(cas, grace=0) == {gone}
    assert set(cas) == digests | {inner.digest, listed.digest, outer.digest}


def test_case_46_a_manifest_first_listed_as_an_unknown_type(cas):
    image, digests = store_image(cas, 1)
    odd = Descriptor("application/octet-stream", image.digest, image.size)
    index = put_index_of(cas, odd, image)
    cas.put_index(Index([odd, index]))
    assert deleted_by(cas, grace=0) == set()
    assert set(cas) == digests | {index.digest}


def test_case_47_untagged_entry(cas):
    image, digests = store_image(cas, 1)
    cas.put_index(Index([image]))
    assert deleted_by(cas, grace=0) == set()
    assert set(cas) == digests


def test_case_48_policies(cas):
    """umoci's say with false that a blob is kept; ours are called ``keep``, and say it with True."""
    image, digests = store_image(cas, 1)
    asked = []

    def policy(answer):
        return lambda blob: asked.append(blob) or answer

    assert deleted_by(cas, grace=0, keep=[policy(True)]) == set()
    assert {blob.digest for blob in asked} == digests
    assert sorted(asked) == sorted(cas.stat_blob(digest) for digest in digests)
    kept_manifest = deleted_by(cas, grace=0, keep=[lambda blob: blob.digest == image.digest])
    assert kept_manifest == digests - {image.digest}, "the children of what is kept aren't"
    cas.put_blob(b"more")

    def fails(blob):
        raise KeyError("mine")

    before = set(cas)
    with pytest.raises(KeyError, match="mine"):
        cas.gc(grace=0, keep=[policy(False), fails])
    with pytest.raises(TypeError):
        cas.gc(grace=0, keep=[policy(None)])
    assert set(cas) == before
    assert deleted_by(cas, grace=0, keep=[policy(False)]) == before


# ---- age ----


def test_grace(cas, layout):
    young, middle, old = (cas.put_blob(content).digest for content in (b"1", b"2", b"3"))
    age(layout, middle, seconds=100)
    age(layout, old, seconds=4000)
    assert deleted_by(cas) == {old}
    assert deleted_by(cas, grace=101.5) == set()
    assert deleted_by(cas, grace=99) == {middle}
    assert deleted_by(cas, grace=10**30) == set()
    assert deleted_by(cas, grace=0) == {young}


def test_times_in_the_future_are_young(cas, layout):
    digest, _ = cas.put_blob(b"x")
    age(layout, digest, seconds=-1000)
    for grace in (0, 3600):
        assert deleted_by(cas, grace=grace) == set()
    age(layout, digest)
    assert deleted_by(cas) == {digest}


def test_what_was_put_at_once_before_goes_and_at_once_after_stays(layout, monkeypatch):
    """Files get their times from a clock that stands still for milliseconds."""
    late = []
    monkeypatch.setattr(
        gc, "mark", lambda *args: late.append(cas.put_blob(noise(10, len(late)))) or walk.Marked()
    )
    with fastcas.create(layout, durability="none") as cas:
        for turn in range(40):
            before, _ = cas.put_blob(f"before {turn}".encode())
            # From the turn before comes what had been put after its start.
            assert deleted_by(cas, grace=0) == {before, *(digest for digest, _ in late[-2:-1])}
            assert late[-1].digest in cas


def test_a_dedupe_hit_is_a_put(cas, layout):
    small, large = noise(1000), noise(2 << 20)
    digests = {cas.put_blob(content).digest for content in (small, large)}
    age(layout)
    cas.put_blob(small)
    cas.put_blob(large)
    assert deleted_by(cas) == set()
    age(layout)
    assert deleted_by(cas) == digests


def test_a_put_that_takes_long_is_young(cas, layout, monkeypatch):
    """Its bytes were written, and its time set, long before it gets its name, after gc has begun."""

    def mark(*_):
        finish.set()
        thread.join(WAIT)
        age(layout, digest_of(b"content"))
        return walk.Marked()

    def publish(temp, directory, name):
        assert finish.wait(WAIT)
        real(temp, directory, name)

    from fastcas.dir.temp import Temp

    real, finish = Temp.publish, threading.Event()
    monkeypatch.setattr(Temp, "publish", publish)
    monkeypatch.setattr(gc, "mark", mark)
    with running(lambda: cas.put_blob(b"content")) as thread:
        assert deleted_by(cas, grace=0) == set()
    assert digest_of(b"content") in cas


@pytest.mark.parametrize("wrong", [False, True])
def test_grace_counts_from_the_end_of_a_put(cas, layout, wrong):
    """The source stays open long after its last byte, or the sync takes long."""
    content = noise(100_000)
    digest = digest_of(content)
    if wrong:
        plant(layout, digest, b"wrong")

    def source():
        yield content
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if os.path.dirname(os.readlink(link)) == str(layout):
                    os.utime(link, (1, 1))

    cas.put_blob(source())
    assert deleted_by(cas, grace=100) == set()


def test_times_in_whole_units_are_taken_for_their_end():
    assert scan.times_of(5 * 10**9, 7 * 10**9) == (5 * 10**9, 7_999_999_999)
    assert scan.times_of(6 * 10**9, 5 * 10**9) == (6 * 10**9, 7_999_999_999)  # FAT
    assert scan.times_of(0, 7_010_000_000) == (0, 7_019_999_999)  # exFAT
    assert scan.times_of(5 * 10**9, 7 * 10**9 + 1) == (5 * 10**9, 7_000_000_001)


def test_a_clock_that_is_set_back_doesn_t_hang(monkeypatch):
    monkeypatch.setattr(scan, "_TICKS", 3)
    monkeypatch.setattr(scan, "_CLOCK_REALTIME_COARSE", time.CLOCK_MONOTONIC)
    assert abs(scan.read_file_clock() - time.time_ns()) < 60 * 10**9


# ---- fails closed ----


def test_documents_that_delete_nothing(cas, layout):
    image, digests = store_image(cas, 1)
    right = cas.read_blob(image.digest)
    garbage, _ = cas.put_blob(b"garbage")
    cas.update_reference("v1", image)
    both = right[:-2] + b',"manifests":[]}\n'
    twice = right[:-2] + b',"config":{}}\n'
    for content in (both, twice, right[:-9], b"[]", b"null", b"", right + b"{}", b"[" * 100_000):
        entry = Descriptor(MANIFEST, *cas.put_blob(content))
        cas.put_index(Index([image, put_index_of(cas, entry)]))
        before = set(cas)
        with pytest.raises(InvalidError) as caught:
            cas.gc(grace=0)
        assert caught.value.digest == entry.digest
        assert set(cas) == before
    large = right[:-2] + b" " * (5 << 20) + b"}"
    cas.put_index(Index([Descriptor(MANIFEST, *cas.put_blob(large))]))
    with pytest.raises(InvalidError) as caught:
        cas.gc(grace=0)
    assert caught.value.digest == digest_of(large)
    assert garbage in cas
    (layout / "index.json").write_bytes(b'{"schemaVersion":2,"manifests":[],"layers":[]}')
    with pytest.raises(InvalidError):
        cas.gc(grace=0)
    assert garbage in cas
    assert digests <= set(cas)


def gc_of_unreadable(layout):
    with fastcas.open(layout, durability="none") as cas:
        with pytest.raises(PermissionError) as caught:
            cas.gc(grace=0)
        return str(caught.value.filename)


def test_what_can_t_be_read_deletes_nothing(shared_path, as_normal_user):
    layout = shared_path / "image"
    as_normal_user(make_layout, layout)
    with fastcas.open(layout) as cas:
        digest = cas.get_index().manifests[0].digest
        count = len(cas)
    place = blob_path(layout, digest)
    place.chmod(0)
    assert as_normal_user(gc_of_unreadable, layout) == str(place)
    place.chmod(0o444)
    folder = layout / "blobs" / "sha512"
    folder.mkdir(mode=0o700)
    folder.chmod(0)
    assert as_normal_user(gc_of_unreadable, layout) == str(folder)
    folder.rmdir()
    # Nothing can be unlinked here.
    (layout / "blobs" / "sha256").chmod(0o555)
    garbage = digest_of(b"garbage")
    assert as_normal_user(gc_of_unreadable, layout) == str(blob_path(layout, garbage))
    (layout / "blobs" / "sha256").chmod(0o755)
    with fastcas.open(layout) as cas:
        assert len(cas) == count


def make_layout(layout):
    with fastcas.create(layout, durability="none") as cas:
        image, _ = store_image(cas, 1)
        cas.update_reference("v1", image)
        cas.put_blob(b"garbage")


def gc_of_read_only(mount):
    import subprocess

    layout = Path(mount, "image")
    make_layout(layout)
    for _ in range(2):  # without a lock file, and with one
        subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
        with fastcas.open(layout) as cas:
            assert len(cas.gc(grace=0, dry_run=True).deleted) == 1
            with pytest.raises(OSError) as caught:
                cas.gc(grace=0)
            assert caught.value.errno == 30  # EROFS
            assert str(layout) in str(caught.value.filename)
            assert len(cas) == 5
        subprocess.run(["mount", "-o", "remount,bind,rw", mount], check=True)
        Path(layout, ".fastcas.lock").unlink(missing_ok=True)
    return True


def run_on_tmpfs(function_name, mount):
    import subprocess

    subprocess.run(["mount", "-t", "tmpfs", "none", mount], check=True)
    return globals()[function_name](mount)


def test_a_read_only_layout(with_mounts, tmp_path):
    assert with_mounts(run_on_tmpfs, "gc_of_read_only", tmp_path)


def test_a_dry_run_writes_nothing(tmp_path):
    layout = foreign_layout(tmp_path / "foreign")
    plant(layout, digest_of(b"garbage"), b"garbage")
    age(layout)
    before = tree(layout)
    with fastcas.open(layout) as cas:
        report = cas.gc(dry_run=True)
    assert report == ([(digest_of(b"garbage"), 7)], 7, 0, True)
    assert tree(layout) == before


def test_gc_inside_update_index_is_refused(cas):
    cas.put_blob(b"garbage")
    with pytest.raises(InvalidError):
        cas.update_index(lambda index: cas.gc(grace=0))
    assert len(cas) == 1
    assert len(cas.gc(grace=0).deleted) == 1


def test_gc_ends_with_clean(cas, layout):
    dead = layout / ".fastcas-0123456789abcdef.tmp"
    dead.write_bytes(b"dead")
    with half_put(cas, noise(100_000)):
        cas.gc(grace=0, dry_run=True)
        assert dead.exists()
        cas.gc(grace=0)
        assert not dead.exists()
    assert own_names(layout) == set()


# ---- hostile layouts ----


def test_nothing_outside_is_touched(cas, layout, canary):
    garbage, _ = cas.put_blob(b"garbage")
    folder = layout / "blobs" / "sha256"
    names = [digest_of(bytes([n]))[7:] for n in range(6)]
    (folder / names[0]).symlink_to(canary.path / "secret")
    (folder / names[1]).symlink_to(canary.path / "folder")
    os.mkfifo(folder / names[2])
    (folder / names[3]).mkdir()
    (folder / names[3] / names[3]).write_bytes(b"inside")
    (folder / names[4]).symlink_to("/nonexistent")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket must be short
        listener.bind(names[5])
        os.chdir(here)
    (layout / "blobs" / "sha512").symlink_to(canary.path / "folder" / "sha256")
    outside = digest_of(b"a blob outside", "sha512")
    (canary.path / "folder" / "sha256" / outside[7:]).write_bytes(b"a blob outside")
    canary.remember()
    before = set(tree(layout)) | {".fastcas.lock"}
    assert deleted_by(cas, grace=0) == {garbage}
    # Nor where a blob became such a thing since it was listed.
    start = time.time_ns() + 10**12
    places = [f"sha256:{name}" for name in names] + [outside]
    assert cas.sweep_blobs(places, index=cas.get_index(), start=start, grace=0) == ([], [])
    assert set(tree(layout)) == before - {f"blobs/sha256/{garbage.encoded}"}
    canary.check()


def test_digests_are_validated(cas, layout, tmp_path):
    (layout / "oci-layout").touch()
    then = {"index": cas.get_index(), "start": time.time_ns() + 10**12, "grace": 0}
    for bad in ("sha256:../../oci-layout", "x", "sha256:" + "A" * 64, None):
        with pytest.raises(InvalidError):
            cas.sweep_blobs([bad], **then)
        with pytest.raises(InvalidError):
            cas.open_quarantine(str(tmp_path / "q"))(bad, {})
    assert (layout / "oci-layout").exists()


def test_a_hard_link_is_a_name_like_any_other(cas, layout, tmp_path):
    digest, _ = cas.put_blob(b"content")
    outside = tmp_path / "outside"
    os.link(blob_path(layout, digest), outside)
    assert deleted_by(cas, grace=0) == {digest}
    assert outside.read_bytes() == b"content"


def test_the_algorithm_s_folder_becomes_a_link_after_the_listing(cas, layout, canary, monkeypatch):
    digest, _ = cas.put_blob(b"content")
    outside = canary.path / "folder" / "sha256" / digest.encoded
    outside.write_bytes(b"content")
    age(layout)
    os.utime(outside, (1, 1))
    canary.remember()
    real = gc._sweep

    def swap(*arguments):
        (layout / "blobs" / "sha256").rename(layout / "aside")
        (layout / "blobs" / "sha256").symlink_to(canary.path / "folder" / "sha256")
        return real(*arguments)

    monkeypatch.setattr(gc, "_sweep", swap)
    assert deleted_by(cas) == set()
    canary.check()


def before_unlink(set_attribute, function):
    """Lets the sweep call ``function(names)`` between its look at some blobs and their removal."""

    class Files:
        def __init__(self, directory, names, until):
            self.names = [name.decode() for name in names]
            self.files = _core.Held(directory, names, until)
            self.facts = self.files.facts
            self.close = self.files.close

        def unlink(self, *arguments):
            function(self.names)
            return self.files.unlink(*arguments)

    class Core:
        Held = Files

    set_attribute(sweep, "_core", Core)


def test_no_descriptor_is_lost_on_an_error(cas, layout, monkeypatch):
    for seed in range(5):
        cas.put_blob(noise(10, seed))
    places = []

    def break_third(names):
        third = blob_path(layout, f"sha256:{names[2]}")
        places.append(third)
        third.unlink()
        third.mkdir()

    before_unlink(monkeypatch.setattr, break_third)
    with pytest.raises(OSError) as caught:
        cas.gc(grace=0)
    assert isinstance(caught.value, IsADirectoryError)
    assert [Path(caught.value.filename)] == places
    assert len(cas) == 2


def test_few_descriptors(spawn, layout):
    assert spawn(collect_with_few_descriptors, layout).result() == 300


def collect_with_few_descriptors(layout):
    with fastcas.create(layout) as cas:
        cas.put_blobs([b"%d" % number for number in range(300)])
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        return len(cas.gc(grace=0).deleted)


@pytest.mark.parametrize("durability", ["full", "batch", "none"])
def test_the_index_is_durable_before_a_blob_goes(layout, monkeypatch, durability):
    """After power loss an older index would name what is gone."""
    calls = []
    real = os.fsync

    def fsync(fd):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    with fastcas.create(layout, durability=durability) as cas:
        cas.put_blob(b"garbage")
        before_unlink(monkeypatch.setattr, lambda names: calls.append("unlink"))
        patch_fsync(monkeypatch, fsync)
        cas.gc(grace=0)
    order = calls[: calls.index("unlink")]
    assert order == ([] if durability == "none" else ["index.json", layout.name])


# ---- beside writers: barriers at each edge ----
#
# A child runs gc and stops at one edge; then this process acts as a writer; then gc goes on.

EDGES = ["marked", "listed", "compared", "locked", "unlinking", "batch"]


def gc_with_stop(layout, edge, mutant=""):
    """Runs gc, stops once at `edge` until a line comes, and returns what was deleted."""
    stopped = []

    def stop():
        if not stopped:
            stopped.append(True)
            print("stopped", flush=True)
            sys.stdin.readline()

    def before(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **options):
            stop()
            return real(*arguments, **options)

        setattr(owner, name, call)

    sweep._BATCH = 1
    if edge == "marked":
        before(gc, "_plan")
    elif edge == "listed":
        before(gc, "_sweep")
    elif edge == "compared":
        before(Lock, "exclusive")
    elif edge == "locked":
        before(sweep._Witness, "holds")
    elif edge == "unlinking":
        before_unlink(setattr, lambda names: stop())
    progress = (lambda *_: stop()) if edge == "batch" else None
    if mutant == "no index check":
        sweep._Witness.holds = lambda self: True
    elif mutant == "no look at the time":
        sweep.times_of = lambda modified, changed: (0, 0)
    elif mutant == "no lock":
        Lock.exclusive = Lock.shared
    elif mutant == "no second mark":
        real = gc.mark
        gc.mark = lambda engine, roots, marked=None: marked or real(engine, roots)
    with fastcas.open(layout, durability="none") as cas:
        return [blob.digest for blob in cas.gc(progress=progress).deleted]


def stopped_gc(spawn, layout, edge, mutant=""):
    child = spawn(gc_with_stop, layout, edge, mutant)
    line = child.process.stdout.readline()
    assert line.strip() == b"stopped", child.result(WAIT)
    return child


def go_on(child):
    child.process.stdin.write(b"\n")
    child.process.stdin.flush()


contents: dict[str, bytes] = {}


@pytest.fixture
def doomed(layout):
    """A layout with a tagged image and two that nothing refers to, all old; their descriptors."""
    with fastcas.create(layout, durability="none") as cas:
        images = [store_image(cas, seed) for seed in range(3)]
        contents.update({digest: cas.read_blob(digest) for digest in cas})
        cas.update_reference("kept", images[0][0])
    age(layout)
    return images


def lost(cas, *images):
    """Which blobs of these images can't be read."""
    missing = set()
    for _, digests in images:
        for digest in digests:
            try:
                cas.read_blob(digest)
            except fastcas.NotExistError:
                missing.add(digest)
    return missing


def unharmed_first(cas, images):
    """Which image gc has begun with depends on the order of the directory."""
    if lost(cas, images[1]):
        images[1], images[2] = images[2], images[1]
    assert not lost(cas, images[1])


def tag_only(cas, images):
    """Tags an old image that nobody referred to, without putting anything."""
    cas.update_reference("again", images[1][0])


def put_again(cas, images):
    """Puts an old image once more, each put a dedupe hit, and tags it when gc has ended."""
    for digest in images[1][1]:
        cas.put_blob(contents[digest], algorithm=digest.partition(":")[0])


def put_new(cas, images):
    store_image(cas, 7)


# While gc holds its lock, only puts of something new get through.
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("write", [tag_only, put_again, put_new])
def test_writer_at_each_edge(spawn, layout, doomed, edge, write):
    child = stopped_gc(spawn, layout, edge)
    with fastcas.open(layout, durability="none") as cas:
        unharmed_first(cas, doomed)
        with running(lambda: write(cas, doomed)) as writing:
            if edge in ("locked", "unlinking") and write is not put_new:
                writing.join(0.3)
                assert writing.is_alive(), "the lock was not held"
            else:
                writing.join(WAIT)
            go_on(child)
            deleted = set(child.result(WAIT))
        assert lost(cas, doomed[0]) == set()
        assert doomed[2][1] - doomed[1][1] <= deleted, "gc did nothing"
        if write is put_new:
            assert lost(cas, store_image(cas, 7)) == set()
            assert doomed[1][1] <= deleted
        elif write is put_again:
            assert lost(cas, doomed[1]) == set(), "a put was acknowledged"
        elif edge in ("locked", "unlinking"):
            # The tag came when the lock was free again, between two removals: the image was garbage
            # until then, and some of it may be gone.
            assert lost(cas, doomed[1]) == deleted & doomed[1][1]
        else:
            assert lost(cas, doomed[1]) == set(), "it was tagged"
        assert own_names(layout) == set()


@pytest.mark.parametrize(
    ("mutant", "edge", "write"),
    [
        ("no index check", "marked", tag_only),
        ("no index check", "listed", tag_only),
        ("no index check", "compared", tag_only),
        ("no second mark", "listed", tag_only),
        ("no look at the time", "listed", put_again),
        ("no look at the time", "batch", put_again),
        ("no lock", "unlinking", put_again),
    ],
)
def test_the_barriers_find_a_missing_protection(spawn, layout, doomed, mutant, edge, write):
    child = stopped_gc(spawn, layout, edge, mutant)
    with fastcas.open(layout, durability="none") as cas:
        unharmed_first(cas, doomed)
        with running(lambda: write(cas, doomed)) as writing:
            writing.join(WAIT)
            go_on(child)
            child.result(WAIT)
        assert lost(cas, doomed[1]), "nothing was lost"


@pytest.mark.parametrize("edge", EDGES)
def test_a_killed_gc_leaves_blobs_whole_or_gone(spawn, layout, doomed, edge):
    child = stopped_gc(spawn, layout, edge)
    child.kill()
    assert own_names(layout) == set()
    with fastcas.open(layout, durability="none") as cas:
        assert cas.scrub().problems == []
        assert lost(cas, doomed[0]) == set()
        cas.gc()
        assert set(cas) == doomed[0][1], "nobody holds the lock any more"


def test_an_index_that_always_changes_ends(cas, layout, monkeypatch):
    cas.put_blob(b"garbage")
    monkeypatch.setattr(gc, "ATTEMPTS", 5)
    real, count = cas.sweep_blobs, []

    def change_first(digests, **options):
        count.append(digests)
        cas.update_reference(f"n{len(count)}", descriptor_of())
        return real(digests, **options)

    monkeypatch.setattr(cas, "sweep_blobs", change_first, raising=False)
    assert cas.gc(grace=0) == ([], 0, 1, False)
    assert len(count) == 5


@pytest.mark.parametrize("at_rest", [True, False])
def test_an_index_written_in_place_is_noticed(cas, layout, at_rest, monkeypatch):
    """As skopeo does; within one tick of the clock its times and size may be the same."""
    path = layout / "index.json"
    cas.update_reference("one", descriptor_of())
    index = cas.get_index()
    raw = path.read_bytes()
    if at_rest:
        time.sleep(0.11)
    else:
        monkeypatch.setattr(sweep, "_version", lambda facts: "as if within one tick")
    with sweep._open_index(cas._root) as fd:
        witness = sweep._Witness(cas._root, fd, index.raw, True)
        assert witness.holds()
        assert witness._at_rest == at_rest
        with open(path, "r+b") as file:
            file.write(raw.replace(b'"one"', b'"two"'))
            file.flush()
            os.utime(path, ns=(witness._facts.st_atime_ns, witness._facts.st_mtime_ns))
        assert not witness.holds()
        assert not witness.holds(), "once changed, it is read again by who wants to go on"
    path.write_bytes(raw)
    with sweep._open_index(cas._root) as fd:
        witness = sweep._Witness(cas._root, fd, raw, False)
        assert witness.holds()
        path.rename(layout / "other")
        assert not witness.holds()
        shutil.copy(layout / "other", path)
        assert not witness.holds(), "another file"
    path.unlink()
    with pytest.raises(InvalidError):
        sweep._open_index(cas._root)
    shutil.move(layout / "other", path)


# ---- 51 ----


def put_and_tag(layout, worker, seconds):
    """Puts, tags, checks, untags and ages images, over and over; returns how often."""
    chance = random.Random(worker)
    deadline = time.monotonic() + seconds
    rounds = 0
    with fastcas.open(layout, durability="none") as cas:
        while time.monotonic() < deadline:
            rounds += 1
            seed = 100 * worker + chance.randrange(5)
            descriptor, digests = store_image(cas, seed)
            cas.update_reference(f"w{worker}-{seed % 2}", descriptor)
            tagged = f"w{worker}-{1 - seed % 2}"
            for digest in digests:
                cas.read_blob(digest)
            cas.delete_reference(tagged)
            used = {e.digest for e in cas.get_index().manifests}
            for other in range(100 * worker, 100 * worker + 5):
                if other != seed and other in known and known[other][0].digest not in used:
                    for digest in known[other][1]:
                        with suppress(FileNotFoundError):
                            age(layout, digest)
            known[seed] = descriptor, digests
    return rounds


known: dict[int, tuple] = {}


def test_case_51_put_and_tag_beside_gc(spawn, layout):
    with fastcas.create(layout, durability="none") as cas:
        writers = [spawn(put_and_tag, layout, worker, 6) for worker in (1, 2)]
        deleted = rounds = 0
        while any(writer.process.poll() is None for writer in writers):
            deleted += len(cas.gc(grace=60).deleted)
            rounds += 1
        counts = [writer.result(WAIT) for writer in writers]
        assert min(counts) > 10
        assert deleted > 10, f"gc deleted {deleted} in {rounds} rounds beside {counts}"
        for entry in cas.get_index().manifests:
            assert (entry.annotations or {})[REF_NAME]
        assert cas.scrub().problems == []
    assert own_names(layout) == set()
