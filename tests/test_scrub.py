"""scrub: every kind of damage is found and told apart, nothing else is; quarantine."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

import fastcas
import images
from conformance import (
    LAYER,
    MANIFEST,
    damaged,
    descriptor_of,
    digest_of,
    kinds_in,
    noise,
    store_image,
)
from fastcas import Descriptor, Index, InvalidError, Manifest
from fastcas.dir import check
from fastcas.dir import quarantine as quarantine_room
from fastcas.image import scrub
from test_cases import blob_path, own_names, plant, tree

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

WAIT = 60


def rename(layout, digest, new):
    blob_path(layout, digest).rename(blob_path(layout, new))


def swap(layout, one, two):
    first, second = blob_path(layout, one).read_bytes(), blob_path(layout, two).read_bytes()
    plant(layout, one, second)
    plant(layout, two, first)


@pytest.mark.parametrize("quick", [False, True])
def test_everything_is_found_and_nothing_else(cas, layout, quick):
    """Flip, truncate, extend, swap, rename, in blobs of every size and place; the rest is whole."""
    wanted = set()
    for size in (2, 1000, 70_000, 3 << 20):
        for number in range(6):
            right = noise(size, 100 + number)
            digest, _ = cas.put_blob(right)
            plant(layout, digest, list(damaged(right))[number][1])
            wanted.add(("corrupt", digest))
    one, two = (cas.put_blob(noise(5000, seed)).digest for seed in (501, 502))
    swap(layout, one, two)
    moved, _ = cas.put_blob(noise(5000, 503))
    rename(layout, moved, digest_of(b"another name"))
    wanted |= {("corrupt", one), ("corrupt", two), ("corrupt", digest_of(b"another name"))}
    image, _ = store_image(cas, 1)
    store_image(cas, 2, algorithm="sha512")
    cas.update_reference("v1", image)
    report = cas.scrub(quick=quick)
    assert set(kinds_in(report)) == wanted
    assert len(report.problems) == len(set(kinds_in(report)))


def test_damage_of_an_image_is_told_apart(cas, layout):
    image, _ = store_image(cas, 1)
    manifest = Manifest.from_json(cas.read_blob(image.digest))
    small, large = (layer.digest for layer in manifest.layers)
    other, _ = store_image(cas, 2)
    gone, _ = store_image(cas, 3)
    cas.put_index(Index([image, other, gone]))
    plant(layout, small, b"damaged")
    plant(layout, large, noise(70_000, 9))
    cas.delete_blob(manifest.config.digest)
    plant(layout, other.digest, b"{}")
    cas.delete_blob(gone.digest)
    folder = layout / "blobs" / "sha256"
    (folder / ".DS_Store").write_bytes(b"")
    (folder / f"{large.encoded}.tmp").write_bytes(b"")
    (folder / digest_of(b"link")[7:]).symlink_to("/etc/passwd")
    (folder / digest_of(b"folder")[7:]).mkdir()
    os.mkfifo(folder / digest_of(b"fifo")[7:])
    (layout / "blobs" / "not an algorithm").mkdir()
    (layout / "blobs" / "sha512").symlink_to("/etc")
    before = tree(layout)
    report = cas.scrub()
    assert tree(layout) == before, "it only reads"
    assert sorted((kind, digest or "") for kind, digest in map_kinds(report)) == sorted(
        [
            ("bad-name", ""),
            ("bad-name", ""),
            ("bad-name", ""),
            ("non-regular", ""),
            ("non-regular", digest_of(b"link")),
            ("non-regular", digest_of(b"folder")),
            ("non-regular", digest_of(b"fifo")),
            ("corrupt", small),
            ("corrupt", large),
            ("corrupt", other.digest),
            ("missing", manifest.config.digest),
            ("dangling", gone.digest),
        ]
    )
    for problem in report.problems:
        assert problem.detail
        assert Path(problem.path).is_relative_to(layout / "blobs")
        if problem.digest is not None:
            assert Path(problem.path) == blob_path(layout, problem.digest)
    assert sorted(map(str, cas.scrub(quick=True).problems)) == sorted(map(str, report.problems))


def map_kinds(report):
    return [(problem.kind, problem.digest) for problem in report.problems]


def test_what_need_not_be_stored(cas):
    """Subjects, embedded content, layers from elsewhere, and what only a subject leads to."""
    subject, _ = store_image(cas, 1)
    lost = Manifest.from_json(cas.read_blob(subject.digest)).layers[0]
    cas.delete_blob(lost.digest)
    config = descriptor_of(b"{}", images.CONFIG, data=b"{}")
    layers = [
        descriptor_of(b"1", LAYER, urls=["https://example.com/1"]),
        descriptor_of(b"2", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        descriptor_of(b"3", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        descriptor_of(b"", LAYER, data=b""),
    ]
    for about in (descriptor_of(b"absent"), subject):
        manifest = Manifest(config, layers, subject=about)
        cas.update_reference("v1", Descriptor(MANIFEST, *cas.put_blob(manifest.to_json())))
        assert cas.scrub().problems == []
    cas.update_reference("v2", subject)
    assert kinds_in(cas.scrub()) == [("missing", lost.digest)]


def test_a_document_that_is_no_document_leads_nowhere(cas):
    """Its content is what its digest says: gc refuses it, for scrub it isn't damaged."""
    entries = [Descriptor(MANIFEST, *cas.put_blob(raw)) for raw in (b"[]", b"{}", b"", b"[" * 9999)]
    cas.put_index(Index(entries))
    assert cas.scrub().problems == []


def test_cycles_and_doubled_levels_end(cas):
    image, _ = store_image(cas, 1)
    level = image
    for _ in range(30):
        level = images.put_index(cas, level, level)
    cas.put_index(Index([level, level]))
    assert cas.scrub().problems == []


def test_unknown_algorithms_are_no_problem(cas, layout):
    digest = "multihash+base58:QmX"
    plant(layout, digest, b"content")
    assert cas.scrub() == (0, 0, [])
    layer = Descriptor(LAYER, digest, 8)
    config = Descriptor(images.CONFIG, *cas.put_blob(b"{}"))
    cas.update_reference("v1", Descriptor(MANIFEST, *cas.put_blob(Manifest(config, [layer]).to_json())))
    report = cas.scrub()
    assert kinds_in(report) == [("wrong-size", digest)]
    assert report.checked == 2


def test_an_index_that_can_t_be_read(cas, layout):
    (layout / "index.json").write_bytes(b"{")
    os.utime(layout / "index.json", (1, 1))
    with pytest.raises(InvalidError):
        cas.scrub()


def scrub_unreadable(layout):
    with fastcas.open(layout) as cas:
        return [sorted(map(tuple, cas.scrub(quick=quick).problems)) for quick in (False, True)]


def make_layout(layout):
    with fastcas.create(layout, durability="none") as cas:
        image, digests = store_image(cas, 1)
        cas.update_reference("v1", image)
        return [image.digest, *digests, cas.put_blob(noise(5000)).digest]


def test_what_can_t_be_read_doesn_t_end_it(shared_path, as_normal_user):
    """Not even a manifest: what is below one isn't known then."""
    layout = shared_path / "image"
    manifest, *_, other = as_normal_user(make_layout, layout)
    plant(layout, other, b"damaged")
    for digest in (manifest, manifest, other):
        blob_path(layout, digest).chmod(0)
        for problems in as_normal_user(scrub_unreadable, layout):
            found = {digest: (path, kind, detail) for digest, path, kind, detail in problems}
            path, kind, detail = found[manifest]
            assert (path, kind) == (str(blob_path(layout, manifest)), "unreadable")
            assert "Permission denied" in detail
            assert found[other][1] == ("unreadable" if digest == other else "corrupt")
            assert len(found) == 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_what_we_lack_ends_it(cas, monkeypatch, number):
    """It says nothing of the blob."""
    cas.put_blob(b"content")

    def get_blob(digest):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cas, "check_blobs", lambda *_, **__: None, raising=False)
    monkeypatch.setattr(cas, "get_blob", get_blob, raising=False)
    with pytest.raises(OSError) as caught:
        cas.scrub()
    assert caught.value.errno == number


def test_progress_adds_up(cas):
    sizes = [cas.put_blob(noise(size, size)).size for size in (0, 5, 3 << 20, 100_000)]
    calls = []
    cas.scrub(progress=lambda *call: calls.append(call))
    assert {total for _, total in calls} == {sum(sizes)}
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert done[-1] == sum(sizes)


@pytest.mark.parametrize("damage", ["all", "some", "none"])
@pytest.mark.parametrize("threads", [1, 3, None])
def test_many_at_once_and_then_one_by_one_what_is_wrong(cas, layout, monkeypatch, damage, threads):
    """In groups of eight; what is right is read once, and progress never goes back."""
    monkeypatch.setattr(check, "_GROUP", 8)
    wrong, read = set(), []
    total = 0
    for number in range(40):
        content = noise(100 * number * number, number)
        digest, size = cas.put_blob(content, algorithm="sha512" if number % 5 == 0 else "sha256")
        total += size
        if damage == "all" or (damage == "some" and number % 7 == 0):
            plant(layout, digest, content[1:] + b"!!" if content else b"!")
            total += 1
            wrong.add(("corrupt", digest))
    get_blob = type(cas).get_blob
    monkeypatch.setattr(type(cas), "get_blob", lambda self, d: read.append(d) or get_blob(self, d))
    calls = []
    report = cas.scrub(threads=threads, progress=lambda *call: calls.append(call))
    assert report[:2] == (40, total)
    assert set(map_kinds(report)) == wrong
    assert sorted(read) == sorted(digest for _, digest in wrong)
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)


def test_verify_blobs_takes_any_blobs(cas, layout):
    """The seam: blobs in, verdicts out, without an index."""
    good, bad, gone, odd = (cas.put_blob(noise(100, seed)).digest for seed in range(4))
    stored = {blob.digest: blob for blob in cas.scan_blobs()}
    plant(layout, bad, b"x")
    cas.delete_blob(gone)
    blob_path(layout, odd).unlink()
    blob_path(layout, odd).mkdir()
    verdicts = scrub.verify_blobs(cas, iter([stored[d] for d in (good, bad, gone, odd)]))
    states = {verdict.blob.digest: verdict.state for verdict in verdicts}
    assert states == {good: "good", bad: "corrupt", gone: "gone", odd: "non-regular"}


def test_blobs_are_taken_some_at_a_time(cas, monkeypatch):
    """A million of them are never in memory at once."""
    monkeypatch.setattr(scrub, "_WINDOW", 8)
    monkeypatch.setattr(check, "_GROUP", 8)
    cas.put_blobs(noise(100 + seed, seed) for seed in range(40))
    taken = []

    def look():
        for blob in cas.scan_blobs():
            taken.append(blob)
            yield blob

    verdicts = scrub.verify_blobs(cas, look())
    sizes = [next(verdicts).blob.size for _ in range(8)]
    assert sizes == sorted((blob.size for blob in taken[:8]), reverse=True)
    assert len(taken) <= 16
    assert len(list(verdicts)) == 32


def test_an_engine_must_speak_of_each_blob(cas, monkeypatch):
    cas.put_blobs([b"a", b"b"])
    monkeypatch.setattr(cas, "check_blobs", lambda *_, **__: iter(["digest"]), raising=False)
    with pytest.raises(ValueError, match="shorter"):
        cas.scrub()


# ---- beside writers ----


def test_what_others_delete_meanwhile_is_no_problem(cas, layout, monkeypatch):
    """An image is untagged and collected between the look at the index and that at the blobs."""
    image, _ = store_image(cas, 1)
    cas.update_reference("v1", image)
    real = cas.scan_blobs

    def scan(**options):
        if cas.delete_reference("v1"):
            assert len(cas.gc(grace=0).deleted) == 4
        return real(**options)

    monkeypatch.setattr(cas, "scan_blobs", scan, raising=False)
    assert cas.scrub() == (0, 0, [])


def test_what_others_put_meanwhile_is_no_problem(cas, monkeypatch):
    real = cas.scan_blobs

    def scan(**options):
        yield from real()
        image, _ = store_image(cas, 1)
        cas.update_reference("v1", image)

    monkeypatch.setattr(cas, "scan_blobs", scan, raising=False)
    assert cas.scrub().problems == []


def many_puts(layout):
    with fastcas.open(layout, durability="none") as cas:
        for seed in range(150):
            image, _ = store_image(cas, seed % 7)
            cas.update_reference(f"v{seed % 2}", image)
            if seed % 3 == 0:
                cas.delete_reference("v0")
                cas.gc(grace=0)  # nobody else writes
    return True


def test_scrub_beside_a_writer(spawn, layout):
    with fastcas.create(layout, durability="none") as cas:
        child = spawn(many_puts, layout)
        beside = 0
        while child.process.poll() is None:
            for quick in (False, True):
                report = cas.scrub(quick=quick)
                assert report.problems == []
                beside += report.checked > 0
        assert child.result(WAIT)
        assert beside


# ---- quarantine ----


@pytest.fixture(params=["rename", "copy"])
def target(request, tmp_path, monkeypatch):
    """A quarantine on the same filesystem, and one on another (whose renames fail like there)."""
    if request.param == "copy":
        real = os.rename

        class System:
            def __getattr__(self, name):
                return getattr(os, name)

            def rename(self, source, target, **options):
                if options["src_dir_fd"] != options["dst_dir_fd"]:
                    raise OSError(18, "Invalid cross-device link", source)
                real(source, target, **options)

        monkeypatch.setattr(quarantine_room, "os", System())
    return tmp_path / "quarantine"


@pytest.mark.parametrize("durability", ["full", "none"])
def test_quarantine_moves_and_says_why(layout, target, durability):
    with fastcas.create(layout, durability=durability) as cas:
        image, _ = store_image(cas, 1)
        cas.update_reference("v1", image)
        large, _ = cas.put_blob(noise(3 << 20))
        good, _ = cas.put_blob(b"good")
        plant(layout, large, noise(3 << 20)[:-1])
        plant(layout, image.digest, b"damaged")
        folder = layout / "blobs" / "sha256"
        (folder / "stray").write_bytes(b"")
        (folder / digest_of(b"link")[7:]).symlink_to("/etc/passwd")
        report = cas.scrub(quarantine=target)
        assert len(report.problems) == 4
        names = {f"sha256-{large.encoded}", f"sha256-{image.digest.encoded}"}
        assert set(os.listdir(target)) == names | {f"{name}.json" for name in names}
        moved = target / f"sha256-{large.encoded}"
        assert moved.read_bytes() == noise(3 << 20)[:-1]
        note = json.loads((target / f"sha256-{large.encoded}.json").read_bytes())
        assert (note["digest"], note["kind"]) == (large, "corrupt")
        assert digest_of(noise(3 << 20)[:-1]) in note["detail"]
        assert note["time"].endswith("Z")
        details = {problem.digest: problem.detail for problem in report.problems}
        assert str(moved) in details[large]
        assert large not in cas
        assert good in cas
        assert (folder / "stray").exists()
        kinds = kinds_in(cas.scrub(quarantine=target))
        assert ("dangling", image.digest) in kinds
        assert set(os.listdir(target)) == names | {f"{name}.json" for name in names}
        # Absent blobs are stored anew.
        store_image(cas, 1)
        cas.put_blob(noise(3 << 20))
        assert {kind for kind, _ in kinds_in(cas.scrub())} == {"bad-name", "non-regular"}
        assert own_names(layout) == set()


def test_quarantine_keeps_what_it_has(cas, layout, target):
    digest, _ = cas.put_blob(b"content")
    for turn in range(3):
        plant(layout, digest, b"wrong %d" % turn)
        cas.scrub(quarantine=target)
        if turn == 0:
            (target / f"sha256-{digest.encoded}.json").unlink()  # a blob alone is spared as well
    contents = {p.read_bytes() for p in target.iterdir() if p.suffix != ".json"}
    assert contents == {b"wrong 0", b"wrong 1", b"wrong 2"}
    assert len(os.listdir(target)) == 5


def test_a_note_that_can_t_be_written_leaves_nothing(cas, layout, target, monkeypatch):
    digest, _ = cas.put_blob(b"content")
    plant(layout, digest, b"wrong")

    def fail(fd, content):
        os.write(fd, content[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fastcas.files.write_all", fail)
    with pytest.raises(OSError, match="space"):
        cas.scrub(quarantine=target)
    assert os.listdir(target) == []
    assert digest in cas


def test_a_blob_healed_before_it_is_moved_stays(cas, layout, target, monkeypatch):
    content = noise(2 << 20)
    digest, _ = cas.put_blob(content)
    plant(layout, digest, b"wrong")
    real = quarantine_room.take_name

    def heal(*arguments, **more):
        cas.put_blob(content)
        return real(*arguments, **more)

    monkeypatch.setattr(quarantine_room, "take_name", heal)
    cas.scrub(quarantine=target)
    assert cas.read_blob(digest) == content
    assert os.listdir(target) == []


def test_quarantine_takes_the_lock(cas, layout, tmp_path):
    digest, _ = cas.put_blob(b"content")
    plant(layout, digest, b"wrong")
    done = threading.Event()

    def other():
        with fastcas.open(layout) as second:
            second.scrub(quarantine=tmp_path / "q")
        done.set()

    def function(index):
        thread.start()
        assert not done.wait(0.3)

    thread = threading.Thread(target=other)
    cas.update_index(function)
    thread.join(WAIT)
    assert done.is_set()
    assert digest not in cas


def test_quarantine_among_the_blobs_is_refused(cas, layout, tmp_path):
    digest, _ = cas.put_blob(b"content")
    plant(layout, digest, b"wrong")
    link = tmp_path / "link"
    link.symlink_to(layout / "blobs" / "sha256")
    blobs = layout / "blobs"
    before = tree(layout)
    for place in (blobs, blobs / "sha256", blobs / "new" / "deep", link, link / "new"):
        with pytest.raises(InvalidError):
            cas.scrub(quarantine=place)
    with pytest.raises(FileExistsError):
        cas.scrub(quarantine=layout / "index.json")
    assert tree(layout) == before
    cas.scrub(quarantine=layout / "quarantine")
    assert digest not in cas


def test_quarantine_on_another_filesystem(spawn, with_mounts, tmp_path):
    assert with_mounts(quarantine_across, tmp_path) == [True, True]


def quarantine_across(place):
    import subprocess

    place = Path(place)
    (place / "other").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place / "other"], check=True)
    with fastcas.create(place / "image") as cas:
        digest, _ = cas.put_blob(noise(3 << 20))
        plant(place / "image", digest, b"wrong")
        cas.scrub(quarantine=place / "other" / "q")
        moved = place / "other" / "q" / f"sha256-{digest.encoded}"
        return [digest not in cas, moved.read_bytes() == b"wrong"]


# ---- heal ----


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_heal(cas, layout, size):
    content = noise(size)
    digest, _ = cas.put_blob(content)
    for how, wrong in damaged(content):
        plant(layout, digest, wrong)
        assert kinds_in(cas.scrub()) == [("corrupt", digest)]
        # Above 1 MiB a put judges what is there by its size, unless it is told to read it.
        same_size = size > 1 << 20 and len(wrong) == size
        if same_size:
            cas.put_blob(content)
            assert kinds_in(cas.scrub()) == [("corrupt", digest)], how
        cas.put_blob(content, verify_existing=same_size)
        assert cas.scrub().problems == []
        assert cas.read_blob(digest) == content
