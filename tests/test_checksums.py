"""Checksums of large blobs: recorded, compared by a quick scrub, rebuilt, dropped, never trusted."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

import pytest
import xxhash

import fastcas
from conformance import damaged, digest_of, kinds_in, noise
from fastcas import _core
from fastcas.dir import checksums
from test_cases import own_names, plant
from test_hostile import SPECIAL
from test_scrub import swap

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

SIZES = (70_000, 1 << 20, 5_000_001)
SMALL = (0, 1000, _core.SMALL)


def side_file(layout):
    return layout / ".fastcas.xxh128"


def line_of(content, algorithm="sha256"):
    digest = digest_of(content, algorithm).replace(":", "/")
    return f"{xxhash.xxh3_128_hexdigest(content)}  blobs/{digest}\n"


def lines_in(layout):
    return sorted(side_file(layout).read_text().splitlines(keepends=True))


def lines_of(*contents):
    return sorted(map(line_of, contents))


@pytest.fixture
def contents(cas):
    """Of many sizes, stored; and the layout was left to itself since."""
    found = [noise(size, size) for size in (*SIZES, *SMALL)]
    for content in found:
        cas.put_blob(content)
    return found


def large(contents):
    return [content for content in contents if len(content) > _core.SMALL]


def as_reader(path):
    with path.open("rb") as file:
        yield from iter(lambda: file.read(1000), b"")


SOURCES = {
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "path": lambda path: path,
    "iterable": as_reader,
}


@pytest.mark.parametrize("size", [_core.SMALL + 1, 300_000, 3 << 20])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_way_to_put_records(cas, layout, tmp_path, kind, many, size):
    """What is stored already isn't recorded again."""
    content = noise(size)
    (tmp_path / "source").write_bytes(content)
    source = SOURCES[kind](tmp_path / "source")
    _ = cas.put_blobs([source, b"small"]) if many else cas.put_blob(source)
    assert lines_in(layout) == lines_of(content)
    cas.put_blob(content)
    cas.put_blobs([content, content])
    assert lines_in(layout) == lines_of(content)
    assert cas.scrub(quick=True).by_checksum == 1


def test_small_blobs_have_none(cas, layout):
    for size in SMALL:
        cas.put_blob(noise(size))
        cas.put_blob(bytearray(noise(size, 2)))
    cas.scrub()
    cas.scrub(quick=True)
    assert own_names(layout) == set()
    assert not side_file(layout).exists()


@pytest.mark.skipif(shutil.which("xxhsum") is None, reason="no xxhsum")
def test_xxhsum_understands_it(cas, layout, contents):
    cas.put_blob(noise(80_000), algorithm="sha512")
    cas.delete_blob(digest_of(contents[0]))
    checked = subprocess.run(["xxhsum", "-c", side_file(layout)], cwd=layout, capture_output=True)
    assert (checked.returncode, checked.stdout.count(b"OK")) == (0, len(SIZES))


@pytest.mark.parametrize("recorded", [True, False])
def test_quick_finds_all_damage(cas, layout, contents, recorded):
    for content in [*contents[:-3], contents[-2]]:
        digest = digest_of(content)
        for how, wrong in damaged(content):
            plant(layout, digest, wrong)
            if not recorded:
                side_file(layout).unlink(missing_ok=True)
            report = cas.scrub(quick=True)
            assert kinds_in(report) == [("corrupt", digest)], how
            assert report.checked == len(contents)
            assert report.by_checksum == (
                recorded and len(large([c for c in contents if c != content]))
            )
        plant(layout, digest, content)
    one, two = (cas.put_blob(noise(100_000, seed)).digest for seed in (1, 2))
    swap(layout, one, two)
    if not recorded:
        side_file(layout).unlink()
    assert set(kinds_in(cas.scrub(quick=True))) == {("corrupt", one), ("corrupt", two)}


def test_what_is_recorded_isn_t_digested(cas, contents, monkeypatch):
    algorithms = []
    real = _core.digest_many

    class Core:
        def __getattr__(self, name):
            return getattr(_core, name)

        def digest_many(self, items, algorithm, **options):
            algorithms.append((algorithm, len(items)))
            return real(items, algorithm, **options)

    monkeypatch.setattr("fastcas.dir.check._core", Core())
    report = cas.scrub(quick=True)
    assert algorithms == [("xxh128", len(SIZES)), ("sha256", len(SMALL))]
    assert report == (len(contents), sum(map(len, contents)), [])
    assert report.by_checksum == len(SIZES)
    assert cas.scrub().by_checksum == 0


def spoil(content, how):
    """What stands in the file instead of the right line."""
    line = line_of(content)
    return {
        "missing": "",
        "torn": line[:50],
        "wrong": "0" * 32 + line[32:],
        "upper case": line[:32].upper() + line[32:],
        "other digits": "é" * 32 + line[32:],
        "no end": line[:-1],
        "later wrong": line + "0" * 32 + line[32:],
        "long": line[:-1] + "a" * 5000 + "\n",
        "other place": line.replace("blobs/", "/blobs/"),
        "NUL": "\0" * 4096 + line,
    }[how]


@pytest.mark.parametrize(
    "how",
    ["missing", "torn", "wrong", "upper case", "other digits", "no end", "later wrong", "long",
     "other place", "NUL"],
)  # fmt: skip
def test_wrong_records_are_harmless_and_mended(cas, layout, how):
    good, other = noise(100_000, 1), noise(100_000, 2)
    for content in (good, other):
        cas.put_blob(content)
    for quick in (True, False):
        side_file(layout).write_text(line_of(other) + spoil(good, how))
        report = cas.scrub(quick=quick)
        assert report == (2, 200_000, [])
        assert cas.scrub(quick=True).by_checksum == 2
        if not quick:
            assert lines_in(layout) == lines_of(good, other)


def test_a_whole_scrub_rebuilds(cas, layout, contents):
    side_file(layout).unlink()
    assert cas.scrub().problems == []
    assert lines_in(layout) == lines_of(*large(contents))
    inode = side_file(layout).stat().st_ino
    cas.scrub()
    assert side_file(layout).stat().st_ino == inode, "nothing was to be changed"
    gone = noise(70_000, 5)
    side_file(layout).write_text(
        "".join(lines_of(*large(contents))) * 2 + "# garbage\n" + line_of(gone)
    )
    cas.scrub(quick=True)
    assert len(lines_in(layout)) == 2 * len(SIZES) + 2
    cas.scrub()
    assert lines_in(layout) == lines_of(*large(contents))


def test_delete_and_gc_drop(cas, layout, contents):
    first, *rest = large(contents)
    cas.delete_blob(digest_of(first))
    assert lines_in(layout) == lines_of(*rest)
    cas.delete_blob(digest_of(first))
    before = side_file(layout).stat()
    cas.delete_blob(digest_of(contents[-1]))
    after = side_file(layout).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    cas.put_blob(first)
    assert lines_in(layout) == lines_of(first, *rest)
    cas.gc(grace=0, keep=[lambda blob: blob.size == len(first)])
    assert lines_in(layout) == lines_of(first)
    assert cas.scrub(quick=True).by_checksum == 1


def test_a_blob_that_is_put_again_is_recorded_once_more(cas, layout):
    """A corrupt file was replaced; its record, whatever it was, gives way."""
    content = noise(70_000)
    digest, _ = cas.put_blob(content)
    plant(layout, digest, noise(70_000, 2))
    side_file(layout).write_text(line_of(noise(70_000, 2))[:32] + line_of(content)[32:])
    assert cas.scrub(quick=True).problems == [], "whoever can write the file can hide damage"
    assert kinds_in(cas.scrub()) == [("corrupt", digest)]
    cas.put_blob(content)
    assert cas.scrub(quick=True).by_checksum == 1


def test_several_groups(cas, layout, monkeypatch):
    monkeypatch.setattr("fastcas.dir.check._GROUP", 3)
    contents = [noise(70_000 + number, number) for number in range(8)]
    for number, content in enumerate(contents):
        cas.put_blob(content, algorithm="sha512" if number % 3 else "sha256")
    side_file(layout).unlink()
    for found in (0, 8):
        assert cas.scrub(quick=True).by_checksum == found


# ---- what stands in the place of the file ----


@pytest.mark.parametrize("kind", [*SPECIAL, "hard-link", "folder"])
def test_in_place_of_the_file(cas, layout, canary, kind):
    content, gone = noise(100_000), noise(100_000, 2)
    digest, _ = cas.put_blob(content)
    side_file(layout).unlink()
    (layout / "elsewhere").write_text(line_of(gone))
    if kind == "hard-link":
        os.link(layout / "elsewhere", side_file(layout))
    elif kind == "folder":
        side_file(layout).mkdir()
        (side_file(layout) / "file").touch()
    else:
        SPECIAL[kind](side_file(layout), canary.path)
    canary.remember()
    cas.put_blob(noise(90_000))
    assert cas.put_blob(gone).digest in cas
    assert cas.scrub(quick=True).problems == []
    cas.delete_blob(digest_of(noise(90_000)))
    plant(layout, digest, noise(100_000, 3))
    for quick in (True, False):
        assert kinds_in(cas.scrub(quick=quick)) == [("corrupt", digest)]
    canary.check()
    assert (layout / "elsewhere").read_text() == line_of(gone)
    assert own_names(layout) <= {"elsewhere"}


def test_a_file_beyond_all_measure(cas, layout, monkeypatch):
    """It is sparse: reading it all would take the memory, or the time, of a gigabyte."""
    content = noise(70_000)
    digest, _ = cas.put_blob(content)
    os.truncate(side_file(layout), 10 << 30)
    assert cas.scrub(quick=True).by_checksum == 0
    cas.delete_blob(digest)
    cas.put_blob(content)
    assert side_file(layout).stat().st_size == 10 << 30
    cas.scrub()
    assert lines_in(layout) == lines_of(content)


def test_lines_without_number_take_no_memory(cas, layout, monkeypatch):
    import tracemalloc

    content = noise(70_000)
    cas.put_blob(content)
    with side_file(layout).open("a") as file:
        for number in range(100_000):
            file.write(f"{number:032x}  blobs/sha256/{number:064x}\n")
        file.write("a" * (20 << 20))  # one without an end
    cas.scrub(quick=True)
    tracemalloc.start()
    try:
        assert cas.scrub(quick=True).by_checksum == 1
        cas.delete_blob(digest_of(content))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert len(lines_in(layout)) == 100_000


def test_records_lead_through_no_link(cas, layout, tmp_path):
    """What lies elsewhere isn't looked at, be it a mount that never answers."""
    (tmp_path / ("c" * 128)).write_bytes(b"")
    (layout / "blobs" / "sha512").symlink_to(tmp_path)
    side_file(layout).write_text("0" * 32 + "  blobs/sha512/" + "c" * 128 + "\n")
    assert cas._checksums.read() == ({}, 1)


def read_only(layout):
    with fastcas.open(layout) as cas:
        return [list(cas.scrub(quick=quick)) for quick in (True, False)]


def test_where_nothing_can_be_written(shared_path, as_normal_user):
    layout = shared_path / "image"
    with fastcas.create(layout) as cas:
        cas.put_blob(noise(100_000))
    side_file(layout).unlink()
    layout.chmod(0o555)  # where we are that user ourselves
    try:
        for _ in range(2):
            assert as_normal_user(read_only, layout) == [[1, 100_000, []]] * 2
            assert not side_file(layout).exists()
    finally:
        layout.chmod(0o755)


def test_a_file_that_grows_while_it_is_read(cas, layout, monkeypatch):
    reads = []

    def endless(fd):
        reads.append(fd)
        assert len(reads) < 100
        return b"\n" * 1000

    cas.put_blob(noise(100_000))
    monkeypatch.setattr(checksums, "_LIMIT", 5000)
    monkeypatch.setattr(checksums, "_read", endless)
    assert cas.scrub(quick=True).problems == []
    assert len(reads) == 5


@pytest.mark.parametrize("call", ["stat", "write", "replace"])
def test_errors_of_the_file_are_nobody_s(cas, layout, monkeypatch, call):
    content = noise(70_000)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    cas.put_blob(noise(70_000, 2))
    if call == "stat":

        class System:
            def __getattr__(self, name):
                return fail if name == "stat" else getattr(os, name)

        monkeypatch.setattr(checksums, "os", System())
    elif call == "write":
        monkeypatch.setattr(checksums, "write_all", fail)
    else:
        monkeypatch.setattr(checksums.Temp, "replace", fail)
    digest, _ = cas.put_blob(content)
    assert cas.read_blob(digest) == content
    assert cas.scrub(quick=True).problems == cas.scrub().problems == []
    cas.delete_blob(digest)
    assert own_names(layout) == set()


# ---- many at once ----


def put_many(layout, seed):
    with fastcas.open(layout, durability="none") as cas:
        for number in range(60):
            cas.put_blob(noise(70_000, 1000 * seed + number))
            if number % 10 == 9:
                cas.delete_blob(digest_of(noise(70_000, 1000 * seed + number)))
    return True


def test_writers_beside_each_other(spawn, layout):
    with fastcas.create(layout, durability="none") as cas:
        children = [spawn(put_many, layout, seed) for seed in range(3)]
        while any(child.process.poll() is None for child in children):
            assert cas.scrub(quick=True).problems == []
            assert cas.scrub().problems == []
        assert all(child.result(60) for child in children)
        assert len(cas) == 162
        assert cas.scrub(quick=True) == (162, 162 * 70_000, [])
        # What who rewrote the file lost of others was recorded again just now.
        assert cas.scrub(quick=True).by_checksum == 162
    assert set(lines_in(layout)) >= {
        line_of(noise(70_000, 1000 * s + n)) for s in range(3) for n in (0, 8)
    }


def test_writers_alone_lose_no_line(cas, layout):
    contents = [noise(70_000, seed) for seed in range(40)]

    def put(mine):
        for content in mine:
            cas.put_blob(content)

    threads = [threading.Thread(target=put, args=(contents[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Who meets another's line half written ends it first: that leaves an empty one, which says nothing.
    assert [line for line in lines_in(layout) if line != "\n"] == lines_of(*contents)
