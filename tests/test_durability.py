"""Which directories are synced, seen by their fsyncs."""

import errno
import gc
import os
import shutil
import sys
import threading
from array import array
from contextlib import suppress
from pathlib import Path

import pytest

import fastcas
from conftest import patch_fsync
from fastcas import _core
from fastcas.dir import durability
from fastcas.errors import DurabilityError


@pytest.fixture
def synced(monkeypatch):
    """The names of what was synced, in order."""
    names = []
    real = os.fsync

    def fsync(fd):
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    patch_fsync(monkeypatch, fsync)
    return names


def test_a_recreated_directory_is_anchored_again(tmp_path, synced):
    layout = tmp_path / "image"
    with fastcas.create(layout) as cas:
        cas.put_blob(b"1")
        synced.clear()
        cas.put_blob(bytearray(b"2"))
        assert synced[1:] == ["sha256"]
        for turn in range(20):
            shutil.rmtree(layout / "blobs" / "sha256")
            synced.clear()
            cas.put_blob(bytearray(b"again %d" % turn))  # a small bytes is synced by the core
            assert synced[1:] == ["sha256", "blobs", "image"]


def open_below(path):
    """The descriptors of this process that lead into a directory."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the one that listed them
            continue
        if target.startswith(str(path)):
            found.append(target)
    return found


def test_a_directory_stays_open_while_it_is_compared(tmp_path, monkeypatch):
    """Another thread's put replaces the known directory just before this one looks at it."""
    layout = tmp_path / "image"
    with fastcas.create(layout) as cas:
        cas.put_blob(b"1")
        real = _core.is_same_file
        compared = []

        def compare(one, two):
            if not compared:
                compared.append(one)
                before = os.fstat(one)
                shutil.rmtree(layout / "blobs" / "sha256")
                other = threading.Thread(target=cas.put_blob, args=[b"other"])
                other.start()
                other.join()
                assert os.path.samestat(os.fstat(one), before), "closed, and its number given away"
            return real(one, two)

        monkeypatch.setattr(_core, "is_same_file", compare)
        cas.put_blob(b"2")
        assert compared
        assert list(cas) == [cas.put_blob(b"other").digest]
    assert open_below(layout) == []


def test_a_put_that_ends_after_close_keeps_nothing_open(tmp_path, monkeypatch):
    layout = tmp_path / "image"
    cas = fastcas.create(layout)
    real = os.fsync
    closed = []

    def fsync(fd):
        real(fd)
        # The root is the last directory that the first put syncs.
        if os.readlink(f"/proc/self/fd/{fd}") == str(layout):
            cas.close()
            closed.append(True)

    with monkeypatch.context() as patch:
        patch_fsync(patch, fsync)
        cas.put_blob(b"1")
    assert closed == [True]
    assert open_below(layout) == []


def test_batch_syncs_names_once_and_before_the_index(tmp_path, synced):
    with fastcas.create(tmp_path / "image", durability="batch") as cas:
        synced.clear()
        for number in range(5):
            cas.put_blob(bytearray(b"%d" % number))  # synced by the core, with all that wait
        assert synced == []
        cas.put_index(cas.get_index())
        assert synced[0] == "sha256"
        assert synced[-1] == "image"
        synced.clear()
        cas.sync()
        assert synced == []


def test_no_interruption_makes_a_directory_forgotten(tmp_path, synced):
    """At whatever moment of the sync it comes."""
    with fastcas.create(tmp_path / "image", durability="batch") as cas:
        number, met = 0, True
        while met:
            cas.put_blob(b"%d" % number)
            cas.list_blobs()
            del synced[:]
            met = interrupt_in(durability.__file__, number, cas.sync)
            cas.sync()
            assert "sha256" in synced, number
            number += 1
    assert number > 5


def interrupt_in(file, number, call):
    """Interrupts `call` where a signal can: in the code of `file`, when a function has begun, or one of
    C has ended. False where it ended before so many of those."""
    left = [number]

    def profile(frame, event, _):
        if frame.f_code.co_filename == file and event in ("call", "c_return"):
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt

    gc.disable()  # what other tests have left isn't to be collected, and interrupted, here
    sys.setprofile(profile)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
        gc.enable()
    return False


def test_none_syncs_nothing(tmp_path, synced):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        cas.put_blobs([b"1", b"2"])
        cas.put_index(cas.get_index())
        cas.sync()
    assert synced == []


def test_a_failed_directory_sync_is_final(tmp_path, monkeypatch):
    cas = fastcas.create(tmp_path / "image", durability="batch")
    cas.put_blob(b"1")
    real = os.fsync

    def fails(fd):
        raise OSError(5, "Input/output error")

    patch_fsync(monkeypatch, fails)
    with pytest.raises(DurabilityError) as caught:
        cas.sync()
    assert caught.value.errno == 5
    patch_fsync(monkeypatch, real)
    for call in (cas.sync, cas.close):
        with pytest.raises(DurabilityError):
            call()
    cas.close()


PUTS = {
    "put_blob": lambda cas: cas.put_blob(b"1"),
    "put_blobs, one by one": lambda cas: cas.put_blobs([iter([b"1"])]),
    "put_blobs, in a group": lambda cas: cas.put_blobs([b"1", b"2"]),
    "batch": lambda cas: (cas.put_blob(b"1"), cas.sync()),
    "syncfs": lambda cas: (cas.put_blob(b"1"), cas.sync()),
    "syncfs, put_blobs": lambda cas: cas.put_blobs([b"1"]),
}


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("way", PUTS)
def test_a_stored_file_whose_sync_has_failed_is_replaced(tmp_path, monkeypatch, way, interrupted):
    """The kernel says it once, perhaps in the moment of a Ctrl-C: another sync would succeed, and the
    page cache has the right bytes."""
    layout = tmp_path / "image"
    level = way.split(",")[0] if way.startswith(("batch", "syncfs")) else "full"
    with fastcas.create(layout, durability=level) as cas:
        put = PUTS[way]
        digest = cas.put_blob(b"1").digest
        cas.sync()
        blob = layout / "blobs" / "sha256" / digest.encoded
        before = blob.stat()
        with monkeypatch.context() as patch:
            fail_sync_of(before.st_ino, patch, interrupted)
            with pytest.raises(KeyboardInterrupt if interrupted else OSError) as caught:
                put(cas)
            if not interrupted and way != "syncfs, put_blobs":
                assert isinstance(caught.value, DurabilityError)
                assert (caught.value.errno, caught.value.digest) == (5, digest)
        with suppress(DurabilityError):  # of a durability point that was interrupted
            cas.sync()
        put(cas)
        assert blob.stat().st_ino != before.st_ino


@pytest.mark.parametrize("which", ["sha256", "blobs", "image"])
@pytest.mark.parametrize("level", ["full", "full, put_blobs", "batch"])
def test_a_directory_whose_sync_has_failed_in_a_ctrl_c_is_not_forgotten(
    tmp_path, monkeypatch, level, which
):
    """The kernel says it once: another sync would succeed."""
    layout = tmp_path / "image"
    fastcas.create(layout, durability="none").close()
    cas = fastcas.open(layout, durability=level.split(",")[0])
    puts = {
        "full": lambda: cas.put_blob(b"1"),
        "full, put_blobs": lambda: cas.put_blobs([b"1"]),
        "batch": lambda: (cas.put_blob(b"1"), cas.sync()),
    }
    real = _core.sync_directory

    def fails(fd, status):
        if os.readlink(f"/proc/self/fd/{fd}").endswith(f"/{which}"):
            status[0] = 5
            raise KeyboardInterrupt
        real(fd, status)

    with monkeypatch.context() as patch:
        patch.setattr(_core, "sync_directory", fails)
        with pytest.raises(KeyboardInterrupt):
            puts[level]()
    for call in (puts[level], cas.sync, cas.close):
        with pytest.raises(DurabilityError) as caught:
            call()
        assert (caught.value.errno, Path(caught.value.path).name) == (5, which)


def test_a_sync_of_a_directory_that_is_only_interrupted_is_made_again(tmp_path, monkeypatch):
    with fastcas.create(tmp_path / "image") as cas:
        real = _core.sync_directory

        def interrupted(fd, status):
            real(fd, status)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(_core, "sync_directory", interrupted)
            with pytest.raises(KeyboardInterrupt):
                cas.put_blob(b"1")
        cas.put_blob(b"1")
        cas.sync()


def test_a_closed_engine_is_collected_without_python(tmp_path):
    """That may come at any time, and where there is none, no Ctrl-C is lost."""
    cas = fastcas.create(tmp_path / "image")
    cas.put_blob(b"1")
    cas.close()
    assert isinstance(cas, fastcas.DirEngine)
    assert "closed" in repr(cas)
    ran = []
    sys.setprofile(lambda frame, event, _: event == "call" and ran.append(frame.f_code.co_name))
    del cas
    sys.setprofile(None)
    assert ran == []


def test_the_errno_of_a_directory_is_there_before_anything_else(tmp_path):
    status = memoryview(bytearray(4)).cast("i")
    receive, send = os.pipe()
    _core.sync_directory(receive, status)
    assert status[0] == errno.EINVAL
    os.close(receive)
    _core.sync_directory(receive, status)
    assert status[0] == errno.EBADF
    os.close(send)
    fd = os.open(tmp_path, os.O_RDONLY)
    _core.sync_directory(fd, status)
    os.close(fd)
    assert status[0] == 0
    with pytest.raises(ValueError, match="status"):
        _core.sync_directory(0, bytearray(3))


def test_an_index_whose_sync_has_failed_is_no_durability_point(tmp_path, monkeypatch):
    """Nor when nothing is left to change."""
    cas = fastcas.create(tmp_path / "image")
    blob = cas.put_blob(b"1")
    entry = fastcas.Descriptor("text/plain", blob.digest, blob.size)
    cas.update_reference("v1", entry)
    with monkeypatch.context() as patch:
        patch.setattr(_core, "sync_directory", lambda fd, status: status.__setitem__(0, 5))
        with pytest.raises(DurabilityError):
            cas.delete_reference("v1")
    with pytest.raises(DurabilityError):
        cas.delete_reference("v1")
    cas.update_reference("v2", entry)
    assert cas.delete_reference("v1") == []
    cas.close()


def fail_sync_of(inode, patch, interrupted):
    sync_files, sync_filesystem = _core.sync_files, _core.sync_filesystem

    def fail(fds, statuses):
        for number, fd in enumerate(fds):
            if os.fstat(fd).st_ino == inode:
                statuses[number] = 5
        if interrupted and any(statuses):
            raise KeyboardInterrupt

    def some_fail(fds, statuses=None):
        sync_files(fds, statuses)
        fail(fds, statuses)
        return list(statuses)

    def all_fail(fd, fds, statuses):
        sync_filesystem(fd, fds, statuses)
        statuses[:] = memoryview(array("i", [5] * len(statuses)))
        fail([], statuses)

    patch.setattr(_core, "sync_files", some_fail)
    patch.setattr(_core, "sync_filesystem", all_fail)


def test_another_thread_puts_what_is_being_synced(tmp_path, monkeypatch):
    """It takes the file as long as nothing has failed, and replaces it from then on."""
    layout = tmp_path / "image"
    with fastcas.create(layout) as cas:
        digest = cas.put_blob(b"1").digest
        blob = layout / "blobs" / "sha256" / digest.encoded
        inodes = [blob.stat().st_ino]
        real = _core.sync_files

        def syncing(fds, statuses):
            monkeypatch.setattr(_core, "sync_files", real)
            for status in (0, 5):
                statuses[0] = status
                cas.put_blob(bytearray(b"1"))
                inodes.append(blob.stat().st_ino)

        monkeypatch.setattr(_core, "sync_files", syncing)
        with pytest.raises(DurabilityError):
            cas.put_blob(b"1")
        assert inodes[1] == inodes[0] != inodes[2]


@pytest.mark.parametrize("first", [0, 1])
def test_a_failed_directory_sync_is_final_for_every_put(tmp_path, monkeypatch, first):
    layout = tmp_path / "image"
    cas = fastcas.create(layout)
    cas.put_blobs([b"1"])
    calls = [lambda: cas.put_blob(b"2"), lambda: cas.put_blobs([b"3"])]
    real = os.fsync

    def fails(fd):
        if os.readlink(f"/proc/self/fd/{fd}").endswith("sha256"):
            raise OSError(5, "Input/output error")
        real(fd)

    with monkeypatch.context() as patch:
        patch_fsync(patch, fails)
        with pytest.raises(DurabilityError):
            calls[first]()
    raised = []
    for call in (*calls, cas.sync, cas.close):
        with pytest.raises(DurabilityError) as caught:
            call()
        raised.append(caught.value)
        assert (caught.value.errno, caught.value.path) == (5, str(layout / "blobs" / "sha256"))
    assert len({id(error) for error in raised}) == len(raised), "each with a traceback of its own"
    with fastcas.open(layout) as another:
        another.put_blob(b"2")


def test_a_failed_file_sync_publishes_nothing(tmp_path, monkeypatch):
    with fastcas.create(tmp_path / "image") as cas:

        def fails(fd):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch_fsync(patch, fails)
            with pytest.raises(OSError) as caught:
                cas.put_blob(bytearray(b"1"))
        assert not isinstance(caught.value, DurabilityError)
        assert (caught.value.errno, bool(caught.value.filename)) == (5, True)
        assert list(cas) == []
        assert cas.clean() == []
