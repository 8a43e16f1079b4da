"""Layouts that an enemy made, or changes while we use them: a defined error, no hang, and nothing
outside the layout is read, written, chmodded, chowned or deleted."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import shutil
import socket
import stat
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

import fastcas
from conformance import Descriptor, descriptor_of, digest_of, noise
from fastcas import CorruptError, FastCASError, Index, InvalidError, NotExistError
from test_cases import DEAD_TEMP, INDEX_BYTES, blob_path, foreign_layout, own_names, plant, running

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

DIGEST = digest_of(b"content")


@pytest.fixture(params=["openat2", "by-component"], autouse=True)
def resolving(request, monkeypatch):
    """Every test with the kernel's own containment, and with the fallback."""
    if request.param == "by-component":
        monkeypatch.setattr("fastcas.dir.root.HAVE_OPENAT2", False)


@pytest.fixture
def store(layout):
    """An engine on a layout that holds one good blob."""
    foreign_layout(layout)
    with fastcas.open(layout, durability="none") as cas:
        cas.put_blob(b"good")
        yield cas


# ---- what may stand in a file's place ----


def place_socket(path):
    # A socket's path is short, so it's bound beside the working directory's.
    old = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("s")
        os.rename("s", path.name)
    finally:
        os.chdir(old)


def place_device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        # test_cases_root.py mounts one over a file, which a normal user may too.
        path.symlink_to("/dev/zero")


SPECIAL = {
    "symlink-absolute": lambda path, outside: path.symlink_to(outside / "secret"),
    "symlink-relative": lambda path, outside: path.symlink_to(
        os.path.relpath(outside / "secret", path.parent)
    ),
    "symlink-dangling": lambda path, outside: path.symlink_to(outside / "nothing"),
    "symlink-loop": lambda path, outside: path.symlink_to(path.name),
    "symlink-directory": lambda path, outside: path.symlink_to(outside),
    "symlink-proc": lambda path, outside: path.symlink_to("/proc/self/environ"),
    "symlink-zero": lambda path, outside: path.symlink_to("/dev/zero"),
    "symlink-inside": lambda path, outside: path.symlink_to(
        os.path.relpath(path.parent / "elsewhere", path.parent)
    ),
    "fifo": lambda path, outside: os.mkfifo(path),
    "socket": lambda path, outside: place_socket(path),
    "device": lambda path, outside: place_device(path),
    "directory": lambda path, outside: path.mkdir(),
}
special = pytest.mark.parametrize("kind", SPECIAL)


@special
def test_case_21_in_place_of_a_blob(store, layout, canary, kind):
    path = blob_path(layout, DIGEST)
    (path.parent / "elsewhere").write_bytes(b"content")
    SPECIAL[kind](path, canary.path)
    for call in (
        lambda: store.get_blob(DIGEST),
        lambda: store.stat_blob(DIGEST),
        lambda: store.read_blob(DIGEST),
        lambda: store.copy_blob(DIGEST, layout.parent / "copy"),
        lambda: store.copy_blob(DIGEST, layout.parent / "copy", link=True),
        lambda: store.copy_blob(DIGEST, layout.parent / "copy", verify=True),
    ):
        with pytest.raises(InvalidError) as caught:
            call()
        assert not isinstance(caught.value, (CorruptError, OSError))
        assert caught.value.digest == DIGEST
    assert not os.path.lexists(layout.parent / "copy")
    assert DIGEST not in store
    assert list(store) == [digest_of(b"good")]
    store.clean()
    if kind == "directory":
        with pytest.raises(InvalidError):
            store.put_blob(b"content")
        assert path.is_dir()
        with pytest.raises((InvalidError, OSError)):
            store.delete_blob(DIGEST)
        assert path.is_dir()
    elif kind.startswith("symlink") or kind == "fifo":
        assert store.put_blob(b"content").digest == DIGEST
        assert stat.S_ISREG(path.lstat().st_mode)
        assert store.read_blob(DIGEST) == b"content"
    else:
        with suppress(InvalidError):
            assert store.put_blob(b"content").digest == DIGEST
            assert store.read_blob(DIGEST) == b"content"
    canary.check()
    assert own_names(layout) == set()


@special
def test_case_21_delete_removes_the_name_alone(store, layout, canary, kind):
    path = blob_path(layout, DIGEST)
    SPECIAL[kind](path, canary.path)
    if kind == "directory":
        (path / "inside").write_bytes(b"")
        with pytest.raises((InvalidError, OSError)):
            store.delete_blob(DIGEST)
        assert (path / "inside").exists()
    else:
        store.delete_blob(DIGEST)
        assert not os.path.lexists(path)
    canary.check()


@special
@pytest.mark.parametrize("name", ["index.json", "oci-layout", "blobs"])
def test_in_place_of_a_part_of_the_layout(layout, canary, kind, name):
    foreign_layout(layout)
    if name == "blobs":
        if kind == "directory":
            pytest.skip("that is what it should be")
        shutil.rmtree(layout / "blobs")
    else:
        os.rename(layout / name, layout / "elsewhere")
    SPECIAL[kind](layout / name, canary.path)
    with pytest.raises(InvalidError) as caught:
        fastcas.open(layout)
    assert not isinstance(caught.value, OSError)
    canary.check()


@special
def test_in_place_of_the_index_of_an_open_layout(store, layout, canary, kind):
    os.rename(layout / "index.json", layout / "elsewhere")
    SPECIAL[kind](layout / "index.json", canary.path)
    for call in (
        store.get_index,
        lambda: list(store.list_references()),
        lambda: store.update_reference("v1", descriptor_of()),
        lambda: store.update_index(lambda index: Index()),
    ):
        with pytest.raises(InvalidError):
            call()
    with suppress(InvalidError, OSError):
        store.put_index(Index())
        assert stat.S_ISREG((layout / "index.json").lstat().st_mode)
        assert list(store.get_index().manifests) == []
    canary.check()


@special
def test_in_place_of_an_algorithms_folder(layout, canary, kind):
    foreign_layout(layout)
    (layout / "blobs" / "sha256").rmdir()
    encoded = DIGEST.partition(":")[2]
    (canary.path / encoded).write_bytes(b"content")
    canary.remember()
    if kind == "directory":
        SPECIAL["symlink-directory"](layout / "blobs" / "sha256", canary.path / "folder" / "sha256")
    else:
        SPECIAL[kind](layout / "blobs" / "sha256", canary.path)
    with fastcas.open(layout, durability="full") as cas:
        for call in (
            lambda: cas.get_blob(DIGEST),
            lambda: cas.stat_blob(DIGEST),
            lambda: cas.read_blob(DIGEST),
            lambda: cas.copy_blob(DIGEST, layout.parent / "copy"),
        ):
            with pytest.raises((InvalidError, NotExistError, OSError)):
                call()
        for source in (b"content", b"something new"):
            with pytest.raises((InvalidError, OSError)):
                cas.put_blob(source)
        with suppress(InvalidError, OSError):
            cas.delete_blob(DIGEST)
        with suppress(InvalidError, OSError):
            assert list(cas) == []
        cas.clean()
        assert own_names(layout) <= {".oci"}
    canary.check()
    assert not (layout.parent / "copy").exists()


def test_blobs_becomes_a_symlink_while_open(store, layout, canary):
    (canary.path / "sha256").mkdir()
    (canary.path / "sha256" / DIGEST.partition(":")[2]).write_bytes(b"content")
    canary.remember()
    os.rename(layout / "blobs", layout / "real")
    (layout / "blobs").symlink_to(canary.path)
    for call in (
        lambda: store.get_blob(DIGEST),
        lambda: store.put_blob(b"content"),
        lambda: store.put_blob(b"new", algorithm="sha512"),
        lambda: list(store),
    ):
        with pytest.raises((InvalidError, NotExistError, OSError)):
            call()
    with suppress(InvalidError, OSError):
        store.delete_blob(DIGEST)
    store.clean()
    canary.check()


@special
def test_in_place_of_the_lock_file(layout, canary, kind):
    foreign_layout(layout)
    (layout / "elsewhere").write_bytes(b"kept")
    SPECIAL[kind](layout / ".fastcas.lock", canary.path)
    before = (layout / "elsewhere").stat()
    with fastcas.open(layout) as cas:
        assert list(cas) == []
        assert list(cas.get_index().manifests) == []
        for call in (
            lambda: cas.update_reference("v1", descriptor_of()),
            lambda: cas.put_blob(b"content"),
            cas.clean,
        ):
            with suppress(InvalidError, OSError):
                call()
    canary.check()
    after = (layout / "elsewhere").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert own_names(layout) == {"elsewhere"}


@special
def test_in_place_of_debris(store, layout, canary, kind):
    (layout / "elsewhere").write_bytes(b"kept")
    SPECIAL[kind](layout / DEAD_TEMP, canary.path)
    SPECIAL[kind](layout / ".umoci-123456", canary.path)
    store.clean()
    assert (layout / "elsewhere").read_bytes() == b"kept"
    assert store.read_blob(digest_of(b"good")) == b"good"
    canary.check()


def test_debris_full_of_traps(store, layout, canary):
    umoci = layout / ".umoci-987654321"
    for kind, place in SPECIAL.items():
        (umoci / kind).mkdir(parents=True)
        (umoci / kind / "elsewhere").write_bytes(b"")
        place(umoci / kind / "x", canary.path)
        place(umoci / f"{kind}-top", canary.path)
    os.utime(umoci, (1, 1))
    with suppress(OSError):
        store.clean()
    canary.check()


def test_create_through_links(tmp_path, canary):
    (tmp_path / "link").symlink_to(canary.path / "folder")
    with pytest.raises(FileExistsError):
        fastcas.create(tmp_path / "link")
    canary.check()


# ---- content that isn't what it should be ----


def test_hard_link_to_outside(store, layout, canary):
    """Content that is shared with a file outside is never changed in place, nor is its mode."""
    secret = canary.path / "secret"
    right = digest_of(b"outside")
    for digest in (right, DIGEST):
        os.link(secret, blob_path(layout, digest))
    before = secret.stat()
    assert store.put_blob(b"outside", verify_existing=True).digest == right
    assert store.read_blob(right) == b"outside"
    after = secret.stat()
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
        before.st_mtime_ns,
    ), "not even its times are ours"
    with pytest.raises(CorruptError):
        store.read_blob(DIGEST)
    inode = secret.stat().st_ino
    # Same size, other content; then another size.
    store.put_blob(b"content")
    assert store.read_blob(DIGEST) == b"content"
    assert secret.read_bytes() == b"outside"
    longer = digest_of(b"longer content")
    os.link(secret, blob_path(layout, longer))
    store.put_blob(b"longer content")
    store.delete_blob(right)
    assert secret.read_bytes() == b"outside"
    assert (secret.stat().st_ino, secret.stat().st_nlink) == (inode, 1)


def test_hard_links_as_documents(layout, canary):
    foreign_layout(layout)
    for name in ("index.json", "oci-layout"):
        os.link(layout / name, canary.path / name)
    canary.remember()
    with fastcas.open(layout) as cas:
        cas.update_reference("v1", descriptor_of())
        cas.put_index(Index())
    assert (canary.path / "index.json").read_bytes() == INDEX_BYTES
    assert stat.S_IMODE((canary.path / "index.json").stat().st_mode) == 0o644


def test_sparse_blob_of_a_terabyte(store, layout):
    path = plant(layout, DIGEST, b"")
    with path.open("r+b") as stream:
        stream.truncate(1 << 40)
    assert store.stat_blob(DIGEST).size == 1 << 40
    with pytest.raises(InvalidError):
        store.read_blob(DIGEST)
    with store.get_blob(DIGEST) as reader:
        assert reader.size == 1 << 40
        assert reader.read(10) == bytes(10)
        assert not reader.verified
    with store.get_blob(DIGEST) as reader:
        reader.seek(-4, os.SEEK_END)
        assert reader.read() == bytes(4)
    assert store.put_blob(b"content", verify_existing=True).digest == DIGEST
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_sparse_document_of_a_terabyte(layout, name):
    foreign_layout(layout)
    with (layout / name).open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InvalidError), fastcas.open(layout) as cas:
        cas.get_index()


@pytest.mark.parametrize("size", [7, 1 << 20, 3 << 20])
@pytest.mark.parametrize("how", ["empty", "truncated", "longer", "flip"])
def test_damaged_blob_is_found_and_repaired(store, layout, size, how):
    content = noise(size, 8)
    digest = digest_of(content)
    wrong = {
        "empty": b"",
        "truncated": content[:-1],
        "longer": content + b"\n",
        "flip": content[: size // 2] + bytes([content[size // 2] ^ 1]) + content[size // 2 + 1 :],
    }[how]
    plant(layout, digest, wrong)
    for call in (
        lambda: store.read_blob(digest),
        lambda: store.copy_blob(digest, layout.parent / "copy", verify=True),
    ):
        with pytest.raises(CorruptError) as caught:
            call()
        assert caught.value.digest == digest
        assert caught.value.expected != caught.value.actual
    assert not (layout.parent / "copy").exists()
    (layout.parent / "copy").write_bytes(b"as it was")
    with pytest.raises(CorruptError):
        store.copy_blob(digest, layout.parent / "copy", verify=True)
    assert (layout.parent / "copy").read_bytes() == b"as it was"
    store.put_blob(io.BytesIO(content), verify_existing=True)
    assert store.read_blob(digest) == content


def test_document_of_a_million_descriptors_is_bounded(layout):
    entry = b'{"mediaType":"a/b","digest":"%s","size":1}' % DIGEST.encode()
    raw = b'{"schemaVersion":2,"manifests":[' + b",".join([entry] * 600_000) + b"]}"
    assert len(raw) > 64 << 20
    foreign_layout(layout, index=raw)
    with pytest.raises(InvalidError), fastcas.open(layout) as cas:
        cas.get_index()


# ---- endless and lying streams ----


def test_endless_source_stops_at_the_expected_size(store):
    class Endless:
        given = 0

        def readinto(self, buffer):
            self.given += len(buffer)
            return len(buffer)

    source = Endless()
    with pytest.raises(fastcas.SizeMismatchError):
        store.put_blob(source, expected_size=1000)
    assert source.given < 64 << 20
    with pytest.raises(fastcas.SizeMismatchError):
        store.put_blob(Path("/dev/zero"), expected_size=1 << 20)

    def endless():
        while True:
            yield bytes(1 << 16)

    with pytest.raises(fastcas.SizeMismatchError):
        store.put_blob(endless(), expected_size=1 << 20)
    for size in (-1, 1 << 80, True, "5", 5.0):
        with pytest.raises((FastCASError, TypeError, ValueError, OverflowError)):
            store.put_blob(b"x" * 5 if size != 1 else b"xx", expected_size=size)
    assert list(store) == [digest_of(b"good")]


def test_source_that_is_not_contiguous(store):
    view = memoryview(noise(1000))[::2]
    with suppress(TypeError, ValueError, BufferError):
        assert store.put_blob(view) == (digest_of(bytes(view)), 500)
    assert set(store) <= {digest_of(b"good"), digest_of(bytes(view))}
    matrix = memoryview(noise(1000)).cast("B", (10, 100))
    assert store.put_blob(matrix).digest == digest_of(noise(1000))


@pytest.mark.parametrize("kind", ["socket", "directory", "nothing", "loop"])
def test_path_of_a_source_that_is_no_file(store, tmp_path, kind):
    path = tmp_path / "source"
    if kind == "nothing":
        error = FileNotFoundError
    elif kind == "loop":
        path.symlink_to("source")
        error = OSError
    elif kind == "directory":
        path.mkdir()
        error = IsADirectoryError
    else:
        place_socket(path)
        error = OSError
    with pytest.raises(error) as caught:
        store.put_blob(path)
    assert caught.value.filename in (path, str(path))


def test_source_file_that_shrinks_and_grows(store, tmp_path):
    """Whatever is taken from a file that changes, its name is right."""
    path = tmp_path / "source"
    content = noise(4 << 20)
    path.write_bytes(content)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            os.truncate(path, 1 << 20)
            os.truncate(path, 6 << 20)

    with running(change):
        try:
            digests = set()
            for _ in range(10):
                with suppress(OSError):
                    digests.add(store.put_blob(path).digest)
        finally:
            stop.set()
    for digest in digests:
        with store.get_blob(digest) as reader:
            reader.readall()
            assert reader.verified


# ---- another user changes the layout while we work ----


def exchange(one, two):
    libc = ctypes.CDLL(None, use_errno=True)
    at_fdcwd, rename_exchange = -100, 2
    if libc.renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(two), rename_exchange):
        raise OSError(ctypes.get_errno(), "renameat2")


@pytest.mark.parametrize("what", ["blobs", "blobs/sha256", "index.json"])
def test_swapping_with_a_symlink_leads_nowhere(store, layout, canary, what):
    encoded = DIGEST.partition(":")[2]
    if what == "index.json":
        (canary.path / "trap").write_bytes(INDEX_BYTES.replace(b"[]", b"null"))
        (layout / "swap").symlink_to(canary.path / "trap")
    else:
        trap = canary.path / "trap"
        (trap / "sha256").mkdir(parents=True)
        (trap / encoded).write_bytes(b"poison!")
        (trap / "sha256" / encoded).write_bytes(b"poison!")
        (layout / "swap").symlink_to(trap)
    canary.remember()
    try:
        exchange(layout / "swap", layout / what)
    except OSError as error:
        pytest.skip(f"no RENAME_EXCHANGE here: {error}")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            with suppress(FileNotFoundError):
                exchange(layout / "swap", layout / what)

    numbers = count()

    def try_all():
        done = refused = 0
        for call in (
            lambda: store.put_blob(b"content"),
            lambda: store.read_blob(DIGEST),
            lambda: store.put_blob(noise(100, next(numbers))),
            lambda: store.delete_blob(DIGEST),
            lambda: list(store),
            lambda: store.update_reference("v1", Descriptor("a/b", DIGEST, 7)),
            store.get_index,
            store.clean,
        ):
            try:
                answer = call()
            except CorruptError:
                pytest.fail("the trap's content was read")
            except (InvalidError, NotExistError, OSError):
                refused += 1
            else:
                assert answer != b"poison!"
                done += 1
        return done, refused

    with running(swap):
        try:
            start = time.monotonic()
            # What each call meets now is a matter of chance, and so is what it answers.
            while time.monotonic() - start < 0.6:
                try_all()
        finally:
            stop.set()
    # Before and after each swap it is not.
    for _ in range(2):
        done, refused = try_all()
        if (layout / what).is_symlink():
            assert refused
        else:
            assert (done, refused) == (8, 0)
        exchange(layout / "swap", layout / what)
    canary.check()


def test_the_root_is_replaced_while_open(store, layout, canary):
    """The engine holds its root: what takes over the path later is not its layout."""
    os.rename(layout, layout.with_name("moved"))
    layout.symlink_to(canary.path)
    digest, _ = store.put_blob(b"content")
    assert blob_path(layout.with_name("moved"), digest).exists()
    assert store.read_blob(digest) == b"content"
    store.update_reference("v1", descriptor_of())
    store.clean()
    canary.check()


def test_root_is_deleted_while_open(store, layout):
    shutil.rmtree(layout)
    with pytest.raises(OSError) as caught:
        store.put_blob(b"content")
    # EPERM is what Linux says to O_TMPFILE in a directory that is gone.
    assert caught.value.errno in (errno.ENOENT, errno.ESTALE, errno.EPERM)
    with pytest.raises((InvalidError, OSError)):
        store.get_index()
    with pytest.raises(NotExistError):
        store.get_blob(digest_of(b"good"))
