"""The numbered cases of the engine's specification, the points that umoci's users rely on, and the
habits of other programs that write into the same layout.  Each is found by its number."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
import stat
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import blake3
import pytest

import fastcas
from conformance import MANIFEST, REF_NAME, OnlyRead, descriptor_of, digest_of, names_in, noise
from fastcas import (
    ClobberError,
    ClosedError,
    CorruptError,
    Descriptor,
    Digest,
    DigestMismatchError,
    InvalidError,
    NotExistError,
    SizeMismatchError,
    UnsupportedError,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}\n'
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
INDEX_BYTES = b'{"schemaVersion":2,"mediaType":"' + INDEX_TYPE.encode() + b'","manifests":[]}\n'
#: What fastcas keeps beside the files of a layout.
BESIDE = (".fastcas.lock", ".fastcas.xxh128")
DEAD_TEMP = ".fastcas-0123456789abcdef.tmp"


def blob_path(layout, digest) -> Path:
    algorithm, _, encoded = str(digest).partition(":")
    return Path(layout) / "blobs" / algorithm / encoded


def plant(layout, digest, content) -> Path:
    """Put content behind a digest as a foreign program would."""
    path = blob_path(layout, digest)
    path.parent.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(content)
    return path


def foreign_layout(path, *, version=b'{"imageLayoutVersion": "1.0.0"}', index=None) -> Path:
    """A layout that another program made: no lock file, its own spelling."""
    path = Path(path)
    (path / "blobs" / "sha256").mkdir(parents=True)
    (path / "oci-layout").write_bytes(version)
    (path / "index.json").write_bytes(INDEX_BYTES if index is None else index)
    return path


def tree(path):
    """Everything in a directory that a write would change; an access time isn't."""
    return {
        str(place.relative_to(path)): (
            place.lstat().st_ino,
            place.lstat().st_mode,
            place.lstat().st_mtime_ns,
            place.lstat().st_ctime_ns,
            place.lstat().st_size,
        )
        for place in sorted([path, *path.rglob("*")])
    }


def own_names(layout):
    """Names that a put would have left behind."""
    return set(os.listdir(layout)) - {"oci-layout", "index.json", "blobs", *BESIDE}


@contextmanager
def running(function):
    """Runs a function in a thread; what it raised is raised at the end."""
    raised = []

    def call():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(50)
    assert not thread.is_alive(), "the thread hangs"
    if raised:
        raise raised[0]


def waiting_in(pipe):
    """How many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextmanager
def half_put(cas, content):
    """A put that has read half of its source, until the block ends; then it must succeed."""
    read, write = os.pipe()
    results = []
    with open(read, "rb") as source, open(write, "wb", buffering=0) as sink:
        with running(lambda: results.append(cas.put_blob(source))) as putting:
            try:
                half = len(content) // 2
                sink.write(content[:half])
                while putting.is_alive() and waiting_in(source):
                    time.sleep(0.005)
                yield
                sink.write(content[half:])
            finally:
                sink.close()
    assert results == [(digest_of(content), len(content))]


@pytest.fixture(params=["tmpfile", "named"])
def ingest_kind(request, monkeypatch):
    """Ingests without a name, and, as on a filesystem without O_TMPFILE, with one."""
    if request.param == "named":
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    return request.param


# ---- create and open ----


def test_case_01_create_bytes(tmp_path):
    path = tmp_path / "made" / "parents" / "image"
    with fastcas.create(path):
        pass
    assert (path / "oci-layout").read_bytes() == LAYOUT_BYTES
    assert (path / "index.json").read_bytes() == INDEX_BYTES
    assert (path / "blobs").is_dir()
    assert set(os.listdir(path)) <= {"oci-layout", "index.json", "blobs", *BESIDE}
    for kind in (str, os.fsencode, Path):
        with fastcas.create(kind(tmp_path / kind.__name__)) as cas:
            cas.put_blob(b"x")
        with fastcas.open(kind(tmp_path / kind.__name__)) as cas:
            assert len(cas) == 1


@pytest.mark.parametrize("kind", ["empty", "layout", "file", "dangling", "link"])
def test_case_02_create_on_something(tmp_path, layout, kind):
    if kind == "empty":
        layout.mkdir()
    elif kind == "layout":
        foreign_layout(layout)
    elif kind == "file":
        layout.write_bytes(b"file")
    elif kind == "link":
        (tmp_path / "target").mkdir()
        layout.symlink_to("target")
    else:
        layout.symlink_to("nowhere")
    before = tree(tmp_path)
    with pytest.raises(ClobberError) as caught:
        fastcas.create(layout)
    assert isinstance(caught.value, FileExistsError)
    assert os.fspath(caught.value.path) == str(layout)
    assert tree(tmp_path) == before


def test_case_03_open_what_is_no_layout(tmp_path):
    def broken(name, change):
        path = foreign_layout(tmp_path / name)
        change(path)
        with pytest.raises(InvalidError) as caught:
            fastcas.open(path)
        assert not isinstance(caught.value, FileNotFoundError)

    broken("no-version", lambda path: (path / "oci-layout").unlink())
    broken("no-blobs", lambda path: shutil.rmtree(path / "blobs"))
    broken("no-index", lambda path: (path / "index.json").unlink())

    def blobs_file(path):
        shutil.rmtree(path / "blobs")
        (path / "blobs").write_bytes(b"")

    def index_directory(path):
        (path / "index.json").unlink()
        (path / "index.json").mkdir()

    broken("blobs-file", blobs_file)
    broken("index-directory", index_directory)
    broken("empty", lambda path: (shutil.rmtree(path), path.mkdir()))
    with pytest.raises(NotExistError) as caught:
        fastcas.open(tmp_path / "nowhere")
    assert isinstance(caught.value, FileNotFoundError)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidError):
        fastcas.open(tmp_path / "file")


class EmptyPath:
    def __fspath__(self):
        return ""


@pytest.mark.parametrize("path", ["", b"", EmptyPath()])
def test_an_empty_path_is_not_the_current_directory(tmp_path, monkeypatch, path):
    fastcas.create(tmp_path / "image").close()
    monkeypatch.chdir(tmp_path / "image")
    with pytest.raises(NotExistError):
        fastcas.open(path)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    with pytest.raises(InvalidError):
        fastcas.create(path)


def test_a_url_of_another_scheme_is_no_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("gcs://b/x", "S3://b/x", "https://b.example/x", "a+b-c.9://", "file:///b"):
        for way in (fastcas.create, fastcas.open):
            with pytest.raises(InvalidError, match="s3, az, gs, memory"):
                way(url)
        assert os.listdir() == []
    for path in ("./gcs://b", "9s://b", "a_b://c", "\u00e9://c", "://x", Path("gcs://p")):
        fastcas.create(path).close()
        fastcas.open(path).close()


@pytest.mark.parametrize(
    "version",
    [
        b'{"imageLayoutVersion":"1.0.1"}',
        b"{}",
        b'{"imageLayoutVersion":"1.0"}',
        b'{"imageLayoutVersion":1}',
        b'{"imageLayoutVersion":null}',
        b'{"imageLayoutVersion":"1.0.0 "}',
        b'{"ImageLayoutVersion2":"1.0.0"}',
    ],
)
def test_case_04_other_versions(layout, version):
    foreign_layout(layout, version=version)
    with pytest.raises(InvalidError):
        fastcas.open(layout)


@pytest.mark.parametrize(
    "version",
    [
        b"",
        b"1.0.0",
        b"null",
        b"[]",
        b'"1.0.0"',
        b'{"imageLayoutVersion":"1.0.0"',
        b'{"imageLayoutVersion":"1.0.0"}}',
        b'\xef\xbb\xbf{"imageLayoutVersion":"1.0.0"}',
        '{"imageLayoutVersion":"1.0.0"}'.encode("utf-16"),
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"imageLayoutVersion":"1.0.0","imageLayoutVersion":"2.0.0"}',
    ],
    ids=range(12),
)
def test_case_05_version_is_not_json(layout, version):
    foreign_layout(layout, version=version)
    with pytest.raises(InvalidError):
        fastcas.open(layout)


def test_case_06_extra_files_and_fields(layout):
    index = b'{"schemaVersion":2,"x":{"y":[1.0]},"manifests":[]}'
    foreign_layout(layout, version=b'{"imageLayoutVersion":"1.0.0","more":[1]}', index=index)
    (layout / "manifest.json").write_bytes(b"[]")
    (layout / "ingest").mkdir()
    (layout / "blobs" / "note.txt").write_bytes(b"")
    (layout / "blobs" / "foo").mkdir()
    (layout / "blobs" / ".hidden").mkdir()
    with fastcas.open(layout) as cas:
        assert list(cas) == []
        assert list(cas.get_index().manifests) == []


# ---- blobs ----


def test_case_07_empty_blob(cas, layout):
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert cas.put_blob(b"") == (empty, 0)
    assert blob_path(layout, empty).read_bytes() == b""
    assert cas.read_blob(empty) == b""
    assert list(cas) == [empty]


@pytest.mark.parametrize("durability", ["full", "batch", "none"])
@pytest.mark.parametrize("size", [5, 70_000, 3 << 20])
def test_case_08_put_twice_same_inode(layout, durability, size, ingest_kind):
    with fastcas.create(layout, durability=durability) as cas:
        first = cas.put_blob(noise(size))
        cas.sync()
        path = blob_path(layout, first.digest)
        inode = path.stat().st_ino
        os.utime(path, (1, 1))
        for options in ({}, {"verify_existing": True}, {"expected_size": size}):
            for source in (noise(size), iter([noise(size)]), OnlyRead(noise(size), 50_000)):
                assert cas.put_blob(source, **options) == first
                assert path.stat().st_ino == inode
        assert path.stat().st_mtime > 1, "a dedupe hit makes the blob young again"
        assert os.listdir(path.parent) == [path.name]
        assert path.stat().st_nlink == 1
        assert own_names(layout) == set()


@pytest.mark.parametrize("size", [5, 70_000, 3 << 20])
@pytest.mark.parametrize("damage", ["shorter", "longer", "empty", "flip"])
def test_case_09_put_over_a_corrupt_file(cas, layout, size, damage):
    content = noise(size)
    wrong = {
        "shorter": content[:-1],
        "longer": content + b"x",
        "empty": b"",
        "flip": content[:-1] + bytes([content[-1] ^ 1]),
    }[damage]
    path = plant(layout, digest_of(content), wrong)
    inode = path.stat().st_ino
    # From one MiB on only a verified put reads what is already there.
    cas.put_blob(content, verify_existing=size > 1 << 20 and damage == "flip")
    assert path.read_bytes() == content
    assert path.stat().st_ino != inode, "replaced, never written in place"
    assert stat.S_IMODE(path.stat().st_mode) & 0o222 == 0


@pytest.mark.parametrize("durability", ["full", "none"])
@pytest.mark.parametrize("after", [0, 1, 70_000, 3 << 20])
def test_case_10_source_raises(layout, durability, after, ingest_kind):
    class BangError(Exception):
        pass

    def pieces():
        for start in range(0, after, 1 << 16):
            yield noise(min(1 << 16, after - start), start)
        raise BangError

    class Reader:
        left = after

        def read(self, size=-1):
            if not self.left:
                raise BangError
            piece = noise(min(self.left, 1 << 16))
            self.left -= len(piece)
            return piece

    with fastcas.create(layout, durability=durability) as cas:
        for source in (pieces(), Reader()):
            with pytest.raises(BangError):
                cas.put_blob(source)
            assert own_names(layout) == set()
        assert list(cas) == []
        assert not list((layout / "blobs").rglob("*")) or list((layout / "blobs").rglob("*")) == [
            layout / "blobs" / "sha256"
        ]


def test_case_12_missing_folder_is_made(cas, layout):
    shutil.rmtree(layout / "blobs" / "sha256", ignore_errors=True)
    assert list(cas) == []
    digest, _ = cas.put_blob(b"x")
    assert blob_path(layout, digest).read_bytes() == b"x"
    shutil.rmtree(layout / "blobs" / "sha256")
    assert list(cas) == []
    assert digest not in cas
    cas.delete_blob(digest)
    with pytest.raises(NotExistError):
        cas.get_blob(digest)
    cas.put_blob(b"x")
    assert list(cas) == [digest]


def test_case_13_missing_digest(cas, layout):
    digest = digest_of(b"missing")
    for error in (NotExistError, FileNotFoundError, fastcas.FastCASError, OSError):
        with pytest.raises(error):
            cas.get_blob(digest)
    with pytest.raises(NotExistError) as caught:
        cas.get_blob(digest)
    assert caught.value.digest == digest
    assert caught.value.errno == 2
    assert digest in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.digest, again.errno) == (NotExistError, digest, 2)
    assert str(again) == str(caught.value)


HEX = "a" * 64


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "sha256",
        HEX,
        "sha256:",
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}a",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        "sha256:../../x",
        "sha256:/etc/passwd",
        "sha256:a/b",
        f"../sha256:{HEX}",
        f"sha256/..:{HEX}",
        f"sha256:{HEX}\n",
        f"sha256:{HEX} ",
        f" sha256:{HEX}",
        f"sha256:{HEX[1:]}\0",
        f"sha256:{HEX[1:]}\uff11",
        f"sha256:{HEX[1:]}\u0661",
        f"sha512:{HEX}",
        f"blake3:{HEX}aa",
        f"sha256:sha256:{HEX}",
        f"sha256:{HEX[1:]}:",
        f"sha256:{HEX[1:]}\udc80",
        "a" * (1 << 20),
        "a:" + "b" * (1 << 20) + "!",
        "+a:x",
        "a++b:x",
        "a.:x",
        ":x",
        "a:",
        b"sha256:" + HEX.encode(),
        None,
        7,
        ["sha256"],
    ],
    ids=lambda bad: ascii(bad)[:40],
)
def test_case_14_invalid_digests(cas, layout, canary, bad):
    # The store is gone: whoever touched a file would find that out before he found the digest.
    shutil.rmtree(layout)
    with pytest.raises(InvalidError) as caught:
        Digest(bad)
    assert len(str(caught.value)) < 1000
    for call in (
        lambda: cas.get_blob(bad),
        lambda: cas.stat_blob(bad),
        lambda: cas.read_blob(bad),
        lambda: cas.delete_blob(bad),
        lambda: cas.copy_blob(bad, layout.parent / "copy"),
    ):
        with pytest.raises(InvalidError) as caught:
            call()
        assert not isinstance(caught.value, (CorruptError, OSError))
    if bad is not None:
        with pytest.raises(InvalidError):
            cas.put_blob(b"x", expected_digest=bad)
    with suppress(InvalidError):
        assert bad not in cas
    canary.check()
    assert not (layout.parent / "copy").exists()


def test_case_15_digest_of_an_unknown_algorithm(cas, layout):
    for name in ("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8", "md5:x=_-"):
        digest = Digest(name)
        assert f"{digest.algorithm}:{digest.encoded}" == name == str(digest)
        with pytest.raises((UnsupportedError, NotExistError)):
            cas.get_blob(digest)
        with pytest.raises(NotExistError):
            cas.stat_blob(digest)
        assert digest not in cas
        plant(layout, digest, b"content")
        assert digest in cas
        assert digest in set(cas)
        assert cas.stat_blob(digest).size == 7
        for method in (cas.get_blob, cas.read_blob):
            with pytest.raises(UnsupportedError) as caught:
                method(digest)
            assert isinstance(caught.value, NotImplementedError)
            assert caught.value.algorithm == digest.algorithm
        with pytest.raises(UnsupportedError):
            cas.put_blob(b"content", algorithm=digest.algorithm)
        cas.delete_blob(digest)
        assert digest not in cas


@pytest.mark.parametrize("algorithm", ["sha512", "blake3"])
def test_case_16_other_algorithms(cas, layout, algorithm):
    content = noise(300_000)
    digest, size = cas.put_blob(content, algorithm=algorithm)
    assert (digest.algorithm, size) == (algorithm, 300_000)
    if algorithm == "sha512":
        assert digest == digest_of(content, "sha512")
    else:
        assert digest.encoded == blake3.blake3(content).hexdigest()
    assert blob_path(layout, digest).read_bytes() == content
    assert cas.read_blob(digest) == content
    cas.put_blob(content)
    assert set(cas) == {digest, digest_of(content)}
    plant(layout, digest, content[:-1] + b"!")
    with pytest.raises(DigestMismatchError):
        cas.read_blob(digest)
    cas.delete_blob(digest)
    assert list(cas) == [digest_of(content)]


def test_case_17_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with fastcas.create("image") as cas:
        digest, _ = cas.put_blob(b"here")
        with fastcas.open("image") as relative:
            monkeypatch.chdir(tmp_path / "elsewhere")
            for engine in (cas, relative):
                assert engine.stat_blob(digest) == (digest, 4)
                assert digest in engine
                assert engine.read_blob(digest) == b"here"
                assert list(engine) == [digest]
                engine.update_reference("v1", descriptor_of())
                again = pickle.loads(pickle.dumps(engine))
                with again:
                    assert digest in again
            assert os.listdir(tmp_path / "elsewhere") == []


def test_case_17_deleted_working_directory(tmp_path, layout, monkeypatch):
    with fastcas.create(layout):
        pass
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with fastcas.open(layout) as cas:
        digest, _ = cas.put_blob(b"x")
        assert cas.read_blob(digest) == b"x"
        cas.update_reference("v1", descriptor_of())
    monkeypatch.chdir(tmp_path)


def test_case_18_delete_twice(cas, layout):
    digest, _ = cas.put_blob(b"x")
    cas.delete_blob(digest)
    cas.delete_blob(digest)
    assert not blob_path(layout, digest).exists()
    cas.delete_blob(digest_of(b"never"))
    cas.delete_blob(digest_of(b"never", "sha512"))


def test_case_19_strays_among_the_blobs(cas, layout):
    digest, _ = cas.put_blob(b"x")
    folder = layout / "blobs" / "sha256"
    encoded = digest.encoded
    strays = [
        ".DS_Store",
        "X.tmp",
        f"{encoded}12345",
        encoded[1:],
        encoded.upper(),
        f"{encoded}.tmp",
    ]
    for name in strays:
        (folder / name).write_bytes(b"stray")
    (folder / os.fsdecode(b"\xff\xfe")).write_bytes(b"stray")
    (folder / "a\nb").write_bytes(b"stray")
    (folder / "folder").mkdir()
    (folder / ("b" * 64)).mkdir()
    (layout / "blobs" / "UPPER").mkdir()
    (layout / "blobs" / "UPPER" / encoded).write_bytes(b"x")
    (layout / "blobs" / "file").write_bytes(b"")
    (layout / "blobs" / ".hidden").mkdir()
    (layout / "blobs" / os.fsdecode(b"\xff")).mkdir()
    before = sorted(os.listdir(folder))
    assert list(cas.list_blobs()) == [digest]
    assert len(cas) == 1
    cas.clean()
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("folder", ["sha256", "sha512"])
def test_case_21_see_also_hostile_directory_as_a_blob(cas, layout, folder):
    digest = digest_of(b"directory", folder)
    blob_path(layout, digest).mkdir(parents=True)
    for method in (cas.get_blob, cas.stat_blob, cas.read_blob):
        with pytest.raises(InvalidError):
            method(digest)
    with pytest.raises(InvalidError):
        cas.put_blob(b"directory", algorithm=folder)
    assert digest not in cas
    assert list(cas) == []
    assert own_names(layout) == set()


@pytest.mark.parametrize("size", [1, 70_000, 5 << 20])
def test_case_23_flipped_byte(cas, layout, size):
    content = noise(size)
    digest, _ = cas.put_blob(content)
    for at in {0, size // 2, size - 1}:
        wrong = bytearray(content)
        wrong[at] ^= 0x20
        plant(layout, digest, wrong)
        reader = cas.get_blob(digest)
        got = bytearray(size + 10)
        count = 0
        with pytest.raises(DigestMismatchError) as caught:
            while n := reader.readinto(memoryview(got)[count : count + 65536]):
                count += n
        assert count < size
        assert caught.value.expected == digest
        assert caught.value.actual == digest_of(bytes(wrong))
        assert caught.value.digest == digest
        with pytest.raises(DigestMismatchError):
            reader.read(1)
        with pytest.raises(DigestMismatchError):
            reader.close()
        assert reader.closed


@pytest.mark.parametrize("size", [1000, 5 << 20])
@pytest.mark.parametrize("change", ["grow", "shrink"])
def test_case_23_blob_changes_while_it_is_read(cas, layout, size, change):
    content = noise(size)
    path = plant(layout, digest_of(content), content)
    reader = cas.get_blob(digest_of(content))
    assert reader.size == size
    with path.open("r+b") as stream:
        stream.truncate(size + 10 if change == "grow" else size - 10)
    got = bytearray()
    with pytest.raises(SizeMismatchError) as caught:
        while piece := reader.read(100_000):
            got += piece
    assert len(got) < size
    assert caught.value.expected == size
    assert caught.value.actual != size
    with pytest.raises(CorruptError):
        reader.close()


def test_case_27_open_and_close_at_once(cas, layout, no_fd_leak):
    digest, _ = cas.put_blob(noise(3 << 20))
    bad = digest_of(b"bad")
    plant(layout, bad, b"not that")
    before = len(os.listdir("/proc/self/fd"))
    for name in (digest, bad) * 20:
        cas.get_blob(name).close()
        with cas.get_blob(name) as reader:
            assert not reader.verified
        with suppress(CorruptError), cas.get_blob(name) as reader:
            reader.read(1)
    for _ in range(5):
        with pytest.raises(CorruptError):
            cas.read_blob(bad)
        with pytest.raises(CorruptError), cas.get_blob(bad) as reader:
            reader.read()
    assert len(os.listdir("/proc/self/fd")) == before


def test_case_27_listings_that_are_not_used(cas):
    for seed in range(3):
        cas.put_blob(noise(10, seed))
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        cas.list_blobs()
        iter(cas)
        next(cas.list_blobs())
        next(iter(cas))
    assert len(os.listdir("/proc/self/fd")) == len(before)


# ---- index.json ----


def entry_json(**more) -> dict:
    entry = {"mediaType": MANIFEST, "digest": digest_of(b"m"), "size": 1}
    return {**entry, **more}


def check_invalid_index(layout, raw):
    foreign_layout(layout, index=raw)
    with pytest.raises(InvalidError), fastcas.open(layout) as cas:
        cas.get_index()
    with pytest.raises(InvalidError), fastcas.open(layout) as cas:
        cas.update_reference("v1", descriptor_of())
    with pytest.raises(InvalidError), fastcas.open(layout) as cas:
        list(cas.list_references())
    assert (layout / "index.json").read_bytes() == raw, "an invalid index is nobody's to replace"


@pytest.mark.parametrize(
    "more",
    [
        {"config": entry_json()},
        {"layers": [entry_json()]},
        {"layers": []},
        {"config": entry_json(), "layers": []},
        {"fsLayers": []},
        {"mediaType": MANIFEST},
        {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"},
        {"mediaType": ""},
        {"mediaType": None},
        {"mediaType": 7},
        {"schemaVersion": 1},
        {"schemaVersion": 3},
        {"schemaVersion": "2"},
        {"schemaVersion": True},
        {"schemaVersion": None},
        {"schemaVersion": 2.0},
        {"manifests": {}},
        {"manifests": "x"},
        {"manifests": [7]},
        {"manifests": [None]},
        {"manifests": [[]]},
        {"manifests": [{}]},
    ],
    ids=lambda more: json.dumps(more)[:50],
)
def test_case_32_ambiguous_index(layout, more):
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [], **more}
    if document["mediaType"] in ("", None):
        pytest.skip("Go reads both as absent: either answer is right")
    check_invalid_index(layout, json.dumps(document).encode())


def test_case_32_index_without_schema_version_or_manifests(layout, tmp_path):
    check_invalid_index(layout, b'{"manifests":[]}')
    check_invalid_index(tmp_path / "two", b'{"schemaVersion":2}')


BAD_DOCUMENTS = {
    "empty": b"",
    "spaces": b"   \n",
    "null": b"null",
    "array": b"[]",
    "string": b'"x"',
    "truncated": INDEX_BYTES[:-3],
    "trailing-brace": INDEX_BYTES + b"}",
    "trailing-document": INDEX_BYTES + INDEX_BYTES,
    "trailing-nul": INDEX_BYTES + b"\0",
    "trailing-comma": b'{"schemaVersion":2,"manifests":[],}',
    "twice-top": b'{"schemaVersion":2,"manifests":[],"manifests":[]}',
    "twice-escaped": b'{"schemaVersion":2,"manifests":[],"m\\u0061nifests":[]}',
    "twice-unknown": b'{"schemaVersion":2,"x":1,"manifests":[],"x":1}',
    "twice-deep": b'{"schemaVersion":2,"manifests":[],"x":{"y":[{"z":1,"z":2}]}}',
    "twice-in-descriptor": json.dumps({"schemaVersion": 2, "manifests": [entry_json()]})
    .replace('"size": 1', '"size": 1, "size": 2')
    .encode(),
    "nested": b"[" * 100_000,
    "nested-inside": b'{"schemaVersion":2,"manifests":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested-objects": b'{"a":' * 100_000,
    "nan": b'{"schemaVersion":2,"manifests":[],"x":NaN}',
    "infinity": b'{"schemaVersion":2,"manifests":[],"x":-Infinity}',
    "bom": b"\xef\xbb\xbf" + INDEX_BYTES,
    "utf-16": INDEX_BYTES.decode().encode("utf-16"),
    "utf-16-le": INDEX_BYTES.decode().encode("utf-16-le"),
    "bad-utf-8": b'{"schemaVersion":2,"manifests":[],"x":"\xff"}',
    "bad-utf-8-key": b'{"schemaVersion":2,"manifests":[],"\xc0\xaf":1}',
    "surrogate": b'{"schemaVersion":2,"manifests":[],"x":"\xed\xa0\x80"}',
    "comment": b'{"schemaVersion":2,/**/"manifests":[]}',
    "single-quotes": b"{'schemaVersion':2,'manifests':[]}",
    "nul": b"\0" * 100,
}


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_case_33_index_that_is_not_one_json_document(layout, name):
    check_invalid_index(layout, BAD_DOCUMENTS[name])


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": 1 << 63},
        {"size": True},
        {"size": "5"},
        {"size": 5.0},
        {"size": None},
        {"digest": "sha256:x"},
        {"digest": "sha256:../../x"},
        {"digest": f"sha256:{'A' * 64}"},
        {"digest": 7},
        {"digest": None},
        {"mediaType": 7},
        {"annotations": []},
        {"annotations": {"a": 1}},
        {"urls": "x"},
        {"urls": [1]},
        {"data": "!!"},
        {"data": 5},
        {"platform": []},
        {"platform": {"os": 1, "architecture": "x"}},
    ],
    ids=json.dumps,
)
def test_case_33_bad_values_name_the_field(layout, change):
    document = {"schemaVersion": 2, "manifests": [entry_json(), entry_json(**change)]}
    check_invalid_index(layout, json.dumps(document).encode())
    with pytest.raises(InvalidError) as caught, fastcas.open(layout) as cas:
        cas.get_index()
    assert next(iter(change)) in str(caught.value)


@pytest.mark.parametrize("size", ["1e3", "1e999", "9" * 5000, "-0.5"])
def test_case_33_numbers_that_are_no_sizes(layout, size):
    document = json.dumps({"schemaVersion": 2, "manifests": [entry_json(size=123456)]})
    check_invalid_index(layout, document.replace("123456", size).encode())


def test_case_33_index_larger_than_the_cap(layout):
    foreign_layout(layout)
    with (layout / "index.json").open("r+b") as stream:
        stream.write(INDEX_BYTES.strip()[:-1])
        for _ in range(65):
            stream.write(b" " * (1 << 20))
        stream.write(b"}")
    with pytest.raises(InvalidError), fastcas.open(layout) as cas:
        cas.get_index()


def test_case_35_unknown_fields_survive(layout):
    odd = '{"size":5, "digest":"%s","y":[1.00,-0,"\\u003c/"],"mediaType":"a/b","annotations":%s}'
    first = odd % (digest_of(b"1"), '{"k":"v","org.opencontainers.image.ref.name":"keep"}')
    third = odd % (digest_of(b"3"), '{"org.opencontainers.image.ref.name":"drop"}')
    platform = '{"os":"linux","architecture":"amd64","features":["sse4"],"os.version":"1"}'
    second = (
        f'{{ "mediaType":"a/b","digest":"{digest_of(b"123")}","size":3,"urls":[],'
        f'"platform":{platform},"data":"MTIz","q":null}}'
    )
    raw = (
        '{"schemaVersion":2,"annotations":{},"extra":{"b":1e2,"a":[]},"manifests":'
        f'[{first},{second},{third}],"artifactType":"x/y","subject":{second},"last":"\\u00e9"}}'
    )
    foreign_layout(layout, index=raw.encode())
    with fastcas.open(layout) as cas:
        assert cas.get_index().to_json() == raw.encode()
        cas.update_reference("new", Descriptor(MANIFEST, digest_of(b"{}"), 2))
        cas.delete_reference("drop")
        text = (layout / "index.json").read_text()
        for kept in (
            first,
            second,
            '"extra":{"b":1e2,"a":[]}',
            '"last":"\\u00e9"',
            '"artifactType":"x/y"',
        ):
            assert kept.replace(" ", "") in text
        assert f'"subject":{second}'.replace(" ", "") in text
        document = json.loads(text)
        assert "mediaType" not in document
        assert [m["digest"] for m in document["manifests"]] == [
            digest_of(b"1"),
            digest_of(b"123"),
            digest_of(b"{}"),
        ]
        assert third.replace(" ", "") not in text
        # The descriptor that is tagged again takes its own unknown fields along.
        entry = cas.get_index().manifests[1]
        cas.update_reference("data", entry)
        tagged = json.loads((layout / "index.json").read_text())["manifests"][-1]
        assert tagged["q"] is None
        assert tagged["platform"]["features"] == ["sse4"]
        assert tagged["data"] == "MTIz"
        assert tagged["annotations"] == {REF_NAME: "data"}


def test_case_35_unknown_fields_survive_update_index(layout):
    raw = b'{"schemaVersion":2,"x":[1.0],"manifests":null,"y":{}}'
    foreign_layout(layout, index=raw)
    with fastcas.open(layout) as cas:
        written = cas.update_index(lambda index: index.replace(manifests=(descriptor_of(),)))
        text = (layout / "index.json").read_text()
        assert written.to_json().decode() == text
    assert '"x":[1.0]' in text
    assert '"y":{}' in text
    assert "mediaType" not in json.loads(text)
    assert len(json.loads(text)["manifests"]) == 1


VALID_NAMES = [
    "latest",
    "1",
    "v1.0",
    "a-b",
    "a--b",
    "a_b",
    "a:b",
    "a@b",
    "a+b",
    "A.b-c_d:e@f+g--h",
    "a/b",
    "a/b/c:v1",
    "v1@sha256",
    "host:5000/repo:tag",
    "example.org/team/app:1.0",
    "sha256-" + "a" * 64,
    "x" * 1000,
]
INVALID_NAMES = [
    "",
    "latest\n",
    "\nlatest",
    "a b",
    " a",
    "a ",
    "-a",
    "a-",
    "a---b",
    "a..b",
    "a._b",
    "a__b",
    "a//b",
    "/a",
    "a/",
    "a/-b",
    ".",
    "..",
    "../a",
    "a/../b",
    "\xe9",
    "a\u0661",
    "a\uff11",
    "a\0",
    "a,b",
    "a*b",
    "a\\b",
    "a=b",
    "a~b",
    "a\udc80",
    None,
    7,
    b"latest",
]


@pytest.mark.parametrize("name", VALID_NAMES, ids=lambda name: name[:20])
def test_case_38_valid_reference_names(cas, name):
    assert cas.update_reference(name, descriptor_of()) == []
    assert list(cas.list_references()) == [name]
    assert len(cas.update_reference(name, descriptor_of(b"2"))) == 1
    assert len(cas.delete_reference(name)) == 1
    assert list(cas.list_references()) == []


@pytest.mark.parametrize("name", INVALID_NAMES, ids=ascii)
def test_case_38_invalid_reference_names(cas, layout, name):
    with pytest.raises((InvalidError, TypeError) if not isinstance(name, str) else InvalidError):
        cas.update_reference(name, descriptor_of())
    assert (layout / "index.json").read_bytes() == INDEX_BYTES
    if not isinstance(name, str) or "\udc80" in name:
        return
    # What another program named so is listed, and can be removed.
    foreign = {"schemaVersion": 2, "manifests": [entry_json(annotations={REF_NAME: name})]}
    (layout / "index.json").write_text(json.dumps(foreign))
    assert list(cas.list_references()) == [name]
    assert len(cas.delete_reference(name)) == 1
    assert list(cas.list_references()) == []


@pytest.mark.parametrize("annotations", [None, {"a": "b"}, {REF_NAME: "old", "a": "b"}])
def test_case_40_callers_descriptor_is_untouched(cas, annotations):
    given = None if annotations is None else dict(annotations)
    descriptor = descriptor_of(annotations=given)
    before, text = descriptor.replace(), descriptor.to_json()
    cas.update_reference("new", descriptor)
    assert given == annotations
    assert (None if annotations is None else dict(descriptor.annotations)) == annotations
    assert descriptor == before
    assert descriptor.to_json() == text
    stored = cas.get_index().manifests[0]
    assert dict(stored.annotations) == {**(annotations or {}), REF_NAME: "new"}


# ---- clean ----


def make_dead(path: Path, content=b"debris") -> Path:
    path.write_bytes(content)
    os.utime(path, (1, 1))
    return path


def make_umoci(layout, name, *, age=3600, content=True) -> Path:
    path = layout / name
    path.mkdir(mode=0o700)
    if content:
        (path / "blob-123").write_bytes(b"half")
        (path / "deeper").mkdir()
        (path / "deeper" / "file").write_bytes(b"x")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_case_49_dead_ingest_is_cleaned(cas, layout, canary):
    dead = make_dead(layout / DEAD_TEMP)
    umoci = make_umoci(layout, ".umoci-123456789")
    (umoci / "link").symlink_to(canary.path)
    (umoci / "deeper" / "link").symlink_to(canary.path / "secret")
    removed = cas.clean()
    assert set(removed) == {DEAD_TEMP, ".umoci-123456789"}
    assert not dead.exists()
    assert not umoci.exists()
    assert cas.clean() == []
    canary.check()


def test_case_49_foreign_names_stay(cas, layout):
    names = [
        ".fastcas-0123456789abcdef.tmp.bak",
        ".fastcas-0123456789abcde.tmp",
        ".fastcas-0123456789abcdef0.tmp",
        ".fastcas-0123456789ABCDEF.tmp",
        ".fastcas-0123456789abcdeg.tmp",
        ".fastcas-0123456789abcdef.tmp\n",
        ".fastcas-.tmp",
        "fastcas-0123456789abcdef.tmp",
        "x.fastcas-0123456789abcdef.tmp",
        ".fastcas-0123456789abcdef",
        ".tmp",
        ".umoci",
        "umoci-123",
        "manifest.json",
        "..fastcas-0123456789abcdef.tmp",
    ]
    for name in names:
        make_dead(layout / name)
    (layout / ".fastcas-00000000000000aa.tmp").mkdir()
    make_umoci(layout, "umoci-456")
    make_umoci(layout, "ingest", content=False)
    in_blobs = make_dead(layout / "blobs" / DEAD_TEMP)
    before = tree(layout)
    cas.clean()
    (layout / ".fastcas.lock").unlink(missing_ok=True)
    before.pop(".fastcas.lock", None)
    before.pop(".")
    after = tree(layout)
    after.pop(".")
    assert after == before
    assert in_blobs.exists()


def test_case_49_live_umoci_and_live_temp_stay(cas, layout, monkeypatch):
    monkeypatch.setattr("fastcas.dir.clean._UMOCI_MOMENT", 3600.0)  # however long this test takes
    live = make_umoci(layout, ".umoci-111")
    fresh = make_umoci(layout, ".umoci-222", age=0, content=False)
    temp = make_dead(layout / DEAD_TEMP)
    holders = [os.open(live, os.O_RDONLY), os.open(temp, os.O_RDONLY)]
    try:
        for holder in holders:
            fcntl.flock(holder, fcntl.LOCK_EX)
        assert cas.clean() == []
        assert (live / "blob-123").exists()
        assert fresh.exists()
        assert temp.exists()
    finally:
        for holder in holders:
            os.close(holder)
    assert set(cas.clean()) == {".umoci-111", DEAD_TEMP}


def test_case_49_live_ingest_stays(layout, ingest_kind):
    content = noise(900_000)
    with fastcas.create(layout, durability="none") as cas, fastcas.open(layout) as cleaner:
        done = threading.Event()

        def clean():
            cleaner.clean()
            done.set()

        with half_put(cas, content):
            names = own_names(layout)
            assert bool(names) == (ingest_kind == "named"), names
            for name in names:
                assert stat.S_IMODE((layout / name).stat().st_mode) & 0o077 == 0
                os.utime(layout / name, (1, 1))
            with running(clean):
                if not done.wait(20):
                    pytest.fail("clean waits for a live writer for as long as that likes")
                assert own_names(layout) == names
        assert cas.read_blob(digest_of(content)) == content
        assert own_names(layout) == set()


def test_case_49_symlink_with_our_name(cas, layout, canary):
    (layout / DEAD_TEMP).symlink_to(canary.path / "secret")
    (layout / ".umoci-777").symlink_to(canary.path)
    (layout / ".umoci-778").symlink_to("blobs")
    digest, _ = cas.put_blob(b"x")
    cas.clean()
    canary.check()
    assert cas.read_blob(digest) == b"x"


def test_case_50_layout_named_like_a_pattern(tmp_path):
    for name in ("img[12]", "img1", "img*", "img?"):
        with fastcas.create(tmp_path / name) as cas:
            cas.put_blob(b"x")
            make_dead(tmp_path / name / DEAD_TEMP)
    with fastcas.open(tmp_path / "img[12]") as cas:
        assert cas.clean() == [DEAD_TEMP]
    assert (tmp_path / "img1" / DEAD_TEMP).exists()
    with fastcas.open(tmp_path / "img*") as cas:
        assert cas.clean() == [DEAD_TEMP]
        assert len(cas) == 1
    assert (tmp_path / "img1" / DEAD_TEMP).exists()
    assert (tmp_path / "img?" / DEAD_TEMP).exists()


@pytest.mark.parametrize("name", [b"a b", b"a\nb", b"\xff\xfe", b"-x", b"%s", b"x" * 255, b"~"])
def test_case_50_odd_names_of_layouts(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    with fastcas.create(path) as cas:
        digest, _ = cas.put_blob(b"x")
        cas.update_reference("v1", descriptor_of())
        with pytest.raises(NotExistError) as caught:
            cas.get_blob(digest_of(b"y"))
        repr(caught.value)
    with fastcas.open(os.fsencode(path)) as cas:
        assert cas.read_blob(digest) == b"x"
        again = pickle.loads(pickle.dumps(cas))
        with again:
            assert digest in again


def test_case_50_path_near_the_limit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    room = 4095 - len(str(tmp_path)) - len("/image")
    parts = ["d" * 200] * (room // 201)
    deep = tmp_path.joinpath(*parts)
    # The layout's own path still fits; a path to a blob in it would not.
    deep = deep / ("e" * max(1, room % 201 - 1))
    with fastcas.create(deep / "image") as cas:
        digest, _ = cas.put_blob(b"x")
        assert cas.read_blob(digest) == b"x"
        assert list(cas) == [digest]
        cas.update_reference("v1", descriptor_of())
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / parts[0])


# ---- close, permissions ----


def test_case_53_close_twice_and_use_after_close(layout):
    cas = fastcas.create(layout)
    cas.close()
    cas.close()
    with cas_closed(), pytest.raises(ValueError):
        cas.put_blob(b"x")
    for call in (
        lambda: cas.put_blob(b"x"),
        lambda: cas.get_blob(digest_of(b"x")),
        lambda: next(cas.list_blobs()),
        cas.get_index,
        cas.clean,
        cas.sync,
    ):
        with pytest.raises(ClosedError) as caught:
            call()
        assert "closed" in str(caught.value)
    cas.close()
    assert own_names(layout) == set()


@contextmanager
def cas_closed():
    """What a closed engine does must not touch the descriptors that took its numbers."""
    with open(os.devnull, "rb") as first, open(os.devnull, "rb") as second:
        yield
        os.fstat(first.fileno())
        os.fstat(second.fileno())


def test_case_53_leaked_engine_and_reader_warn(layout):
    with fastcas.create(layout) as cas:
        digest, _ = cas.put_blob(b"x")
        with pytest.warns(ResourceWarning):
            cas.get_blob(digest)
    with pytest.warns(ResourceWarning):
        fastcas.open(layout)


@pytest.mark.parametrize("mask", [0o022, 0o000, 0o077, 0o027])
def test_case_54_umask(tmp_path, mask, ingest_kind):
    old = os.umask(mask)
    try:
        with fastcas.create(tmp_path / "image") as cas:
            digest, _ = cas.put_blob(b"x")
            other, _ = cas.put_blob(iter([b"y" * 70_000]), algorithm="sha512")
            cas.update_reference("v1", descriptor_of())
        assert os.umask(mask) == mask
    finally:
        os.umask(old)
    layout = tmp_path / "image"

    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    folders = (0o755 & ~mask, 0o777 & ~mask)
    for name in (digest, other):
        assert mode(blob_path(layout, name)) == 0o444 & ~mask
        assert mode(blob_path(layout, name).parent) in folders
    assert mode(layout / "index.json") == 0o644 & ~mask
    assert mode(layout / "oci-layout") == 0o644 & ~mask
    assert mode(layout) in folders
    assert mode(layout / "blobs") in folders


# ---- what umoci's users rely on ----


def test_umoci_3_index_bytes_are_an_interface(cas, layout):
    cas.update_reference("v1", Descriptor(MANIFEST, digest_of(b"{}"), 2))
    entry = (
        f'{{"mediaType":"{MANIFEST}","digest":"{digest_of(b"{}")}","size":2,'
        f'"annotations":{{"{REF_NAME}":"v1"}}}}'
    )
    wanted = f'{{"schemaVersion":2,"mediaType":"{INDEX_TYPE}","manifests":[{entry}]}}\n'
    assert (layout / "index.json").read_text() == wanted
    cas.delete_reference("v1")
    assert (layout / "index.json").read_bytes() == INDEX_BYTES


def test_umoci_3_null_manifests_are_none(layout):
    raw = b'{"schemaVersion":2,"manifests":null}'
    foreign_layout(layout, index=raw)
    with fastcas.open(layout) as cas:
        assert list(cas.get_index().manifests) == []
        assert list(cas.list_references()) == []
        assert cas.delete_reference("v1") == []
        assert (layout / "index.json").read_bytes() == raw
        cas.update_reference("v1", descriptor_of())
        assert list(cas.list_references()) == ["v1"]


def test_umoci_3_nothing_to_delete_writes_nothing(cas, layout):
    cas.update_reference("v1", descriptor_of())
    before = (layout / "index.json").stat()
    assert cas.delete_reference("nosuch") == []
    cas.update_index(lambda index: None)
    after = (layout / "index.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_umoci_4_short_reads_are_not_the_end(cas):
    content = noise(70_003)
    assert cas.put_blob(OnlyRead(content, 1)).digest == digest_of(content)
    read, write = os.pipe()
    results = []
    with open(read, "rb") as source, open(write, "wb", buffering=0) as sink:
        with running(lambda: results.append(cas.put_blob(source))):
            for start in range(0, 3000, 7):
                sink.write(content[start : start + 7])
            sink.write(content[3003:])
            sink.close()
    assert results[0] == (digest_of(content), 70_003)


def test_umoci_5_readers_outlive_delete_and_close(layout):
    content = noise(5 << 20)
    cas = fastcas.create(layout)
    digest, _ = cas.put_blob(content)
    with cas.get_blob(digest) as early, cas.get_blob(digest) as late:
        assert early.read(10) == content[:10]
        cas.delete_blob(digest)
        cas.close()
        shutil.rmtree(layout)
        assert late.readall() == content
        assert early.readall() == content[10:]
        assert early.verified
        assert late.verified
        late.seek(5)
        assert late.read(5) == content[5:10]


def test_umoci_8_new_layout_lists_nothing(layout):
    with fastcas.create(layout) as cas:
        assert list(cas) == []
    with fastcas.open(layout) as cas:
        assert list(cas) == []
        shutil.rmtree(layout / "blobs")
        (layout / "blobs").mkdir()
        assert list(cas) == []
        assert len(cas) == 0


def test_umoci_8_no_blobs_directory_is_an_error(layout):
    with fastcas.create(layout) as cas:
        shutil.rmtree(layout / "blobs")
        with pytest.raises((InvalidError, FileNotFoundError)):
            list(cas)


# ---- beside other writers ----


@pytest.mark.parametrize("turns", [1, 50])
def test_beside_others_index_rewritten_in_place(layout, monkeypatch, turns):
    """A reader that meets half a document waits for the other half."""
    index = json.dumps({"schemaVersion": 2, "manifests": [entry_json(), entry_json()]}).encode()
    foreign_layout(layout, index=index[:50])
    # However slow this machine is, the writer was there a moment ago, and there is patience left.
    monkeypatch.setattr("fastcas.dir.index._AT_REST", 3600.0)
    monkeypatch.setattr("fastcas.dir.index._PATIENCE", 3600.0)
    pauses = []

    def write_on(seconds):
        """In the place of the reader's pause: the other half comes after some of them."""
        pauses.append(seconds)
        with (layout / "index.json").open("r+b", buffering=0) as stream:
            stream.truncate()
            stream.write(index if len(pauses) == turns else index[: len(pauses)])

    with fastcas.open(layout) as cas:
        monkeypatch.setattr("fastcas.dir.index.time.sleep", write_on)
        assert len(cas.get_index().manifests) == 2
        assert len(pauses) == turns


def test_beside_others_half_an_index_for_good_is_invalid(layout):
    foreign_layout(layout, index=INDEX_BYTES[:40])
    with pytest.raises(InvalidError), fastcas.open(layout) as cas:
        cas.get_index()


def test_beside_others_update_compares_before_it_replaces(cas, layout):
    """A program that takes no lock changes the index while our function runs."""
    foreign = json.dumps({"schemaVersion": 2, "manifests": [entry_json()]}).encode()
    seen = []

    def function(index):
        seen.append(len(index.manifests))
        if len(seen) == 1:
            (layout / "other").write_bytes(foreign)
            os.replace(layout / "other", layout / "index.json")
        return index.replace(manifests=(*index.manifests, descriptor_of()))

    written = cas.update_index(function)
    assert seen == [0, 1]
    assert [entry.digest for entry in written.manifests] == [digest_of(b"m"), digest_of(b"{}")]
    assert cas.get_index() == written


def test_beside_others_update_inside_update(cas):
    def function(index):
        with pytest.raises(InvalidError):
            cas.update_reference("inner", descriptor_of())
        return index.replace(manifests=(descriptor_of(),))

    cas.update_index(function)
    assert names_in(cas.get_index()) == [None]
    cas.update_reference("later", descriptor_of())


def test_beside_others_no_name_of_ours_under_blobs(layout, ingest_kind):
    content = noise(900_000)
    with fastcas.create(layout) as cas:
        cas.put_blob(b"first")
        before = sorted(layout.joinpath("blobs").rglob("*"))
        with half_put(cas, content):
            assert sorted(layout.joinpath("blobs").rglob("*")) == before
        after = set(layout.joinpath("blobs").rglob("*")) - set(before)
        assert after == {blob_path(layout, digest_of(content))}


@pytest.mark.parametrize(
    "version",
    [
        b'{"imageLayoutVersion": "1.0.0"}',
        b'{\n\t"imageLayoutVersion" : "1.0.0"\n}\n\n',
        b'{"imageLayoutVersion":"1.0.0"}',
        b' {"imageLayoutVersion":"1.0.\\u0030"}',
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o755, 0o444])
def test_beside_others_spellings_of_oci_layout(layout, version, mode):
    foreign_layout(layout, version=version)
    (layout / "oci-layout").chmod(mode)
    with fastcas.open(layout) as cas:
        cas.put_blob(b"x")
        cas.update_reference("v1", descriptor_of())
    assert (layout / "oci-layout").read_bytes() == version
    assert stat.S_IMODE((layout / "oci-layout").stat().st_mode) == mode


def test_beside_others_habits_in_an_index(layout):
    """No mediaType, indented, no last newline, foreign names, one manifest in several entries."""
    names = ["a/b/c:v1", "v1@sha256", "host:5000/repo:tag", "not ours!", "example.org/team/app:1.0"]
    manifests = [entry_json(annotations={REF_NAME: name}) for name in names]
    manifests += [
        entry_json(),
        entry_json(annotations={}),
        entry_json(annotations=None),
        entry_json(mediaType="application/x.unknown", annotations={REF_NAME: "twice"}),
        entry_json(platform={"os": "linux", "architecture": "arm64"}, annotations={REF_NAME: "twice"}),
        entry_json(digest=digest_of(b"512", "sha512"), data="bQ=="),
        entry_json(mediaType="application/vnd.docker.distribution.manifest.list.v2+json"),
        entry_json(annotations={REF_NAME: ""}),
    ]
    raw = json.dumps({"manifests": manifests, "schemaVersion": 2}, indent=2).encode()
    foreign_layout(layout, index=raw)
    with fastcas.open(layout) as cas:
        assert cas.get_index().to_json() == raw
        listed = list(cas.list_references())
        assert [name for name in listed if name] == [*names, "twice", "twice"]
        assert len(cas.update_reference("twice", descriptor_of())) == 2
        assert len(cas.delete_reference("not ours!")) == 1
        document = json.loads((layout / "index.json").read_bytes())
    kept = [entry for entry in manifests if "not ours!" not in str(entry) and "twice" not in str(entry)]
    assert document["manifests"][:-1] == kept
    assert document["manifests"][-1]["annotations"] == {REF_NAME: "twice"}
    assert "mediaType" not in document


def test_beside_others_open_and_read_write_nothing(layout):
    content = noise(70_000)
    foreign_layout(layout)
    plant(layout, digest_of(content), content)
    before = tree(layout)
    with fastcas.open(layout) as cas:
        assert list(cas) == [digest_of(content)]
        assert cas.read_blob(digest_of(content)) == content
        assert list(cas.get_index().manifests) == []
        assert list(cas.list_references()) == []
        assert digest_of(b"") not in cas
        cas.copy_blob(digest_of(content), layout.parent / "copy")
    assert tree(layout) == before
