"""The lock of a layout, where forks and removed files could make two holders of one."""

import errno
import fcntl
import gc
import os
import sys
import threading

import pytest

import fastcas
from fastcas.dir import lock, temp
from fastcas.errors import InvalidError, UnsupportedError
from fastcas.model import Descriptor

DESCRIPTOR = Descriptor(media_type="text/plain", digest="sha256:" + "0" * 64, size=1)


def in_child(function):
    """What a forked child's call says, as its exit code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_has_not_its_parents_lock(tmp_path):
    with fastcas.create(tmp_path / "image") as cas:

        def child():
            try:
                cas.put_index(cas.get_index())
            except UnsupportedError:
                return 1
            return 0 if not cas._lock.is_mine() else 2

        def function(index):
            assert cas._lock.is_mine()
            with pytest.raises(InvalidError, match="within update_index"):
                cas.put_index(index)
            child_pid = os.fork()
            if child_pid == 0:
                os._exit(3 if cas._lock.is_mine() else 0)
            assert os.waitstatus_to_exitcode(os.waitpid(child_pid, 0)[1]) == 0
            assert cas._lock.is_mine()

        cas.update_index(function)
        assert not cas._lock.is_mine()
        assert in_child(child) == 0


def test_a_child_that_goes_on_inside_update_index_writes_nothing(tmp_path):
    with fastcas.create(tmp_path / "image") as cas:
        pids = []

        def function(index):
            pids.append(os.fork())
            return index.replace(manifests=(DESCRIPTOR,))

        try:
            cas.update_index(function)
        except UnsupportedError:
            os._exit(7 if pids == [0] else 8)
        if pids == [0]:
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 7
        assert len(cas.get_index().manifests) == 1


def test_two_engines_of_one_process_exclude_each_other(tmp_path):
    layout = tmp_path / "image"
    with fastcas.create(layout) as cas, fastcas.open(layout) as other:
        done = threading.Event()

        def late():
            other.update_reference("v1", DESCRIPTOR)
            done.set()

        thread = threading.Thread(target=late)
        with cas._lock.exclusive():
            thread.start()
            assert not done.wait(0.3)
        thread.join(60)
        assert done.is_set()
        assert other.list_references() == ["v1"]


@pytest.mark.parametrize("moment", ["taken", "mine", "release"])
def test_an_interruption_leaves_nothing_locked(tmp_path, monkeypatch, moment):
    owner, name, call = {
        "taken": (lock.fcntl, "flock", 1),
        "mine": (lock, "get_ident", 2),  # the first asks whose it is
        "release": (lock.fcntl, "flock", 2),
    }[moment]
    real = getattr(owner, name)
    calls = []

    def interrupted(*args):
        calls.append(args)
        result = real(*args) if len(calls) != call or moment == "taken" else None
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    with fastcas.create(tmp_path / "image") as cas:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, interrupted)
            cas.update_index(lambda index: index)
        assert not cas._lock.is_mine()
        with open(tmp_path / "image" / lock.LOCK_FILE) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cas.update_index(lambda index: index)
        assert lock._held == set()


@pytest.mark.parametrize("nameless", [True, False])
def test_no_signal_is_lost_in_what_is_collected(tmp_path, monkeypatch, nameless):
    """An exception that a handler raises in a ``__del__`` is printed and forgotten."""
    monkeypatch.setattr(temp, "HAVE_O_TMPFILE", nameless and temp.HAVE_O_TMPFILE)
    seen = set()

    def profile(frame, event, _):
        if event == "call":
            seen.add((frame.f_code.co_filename, frame.f_code.co_name))

    with fastcas.create(tmp_path / "image") as cas:
        gc.collect()  # what other tests have left
        sys.setprofile(profile)
        try:
            for _ in range(2):  # it is stored the second time
                cas.put_blob(bytearray(b"1"))
            cas.put_blobs([iter([b"2"]), b"3"])
            cas.update_index(lambda index: index)
            cas.clean()
        finally:
            sys.setprofile(None)
    for module, does in (lock, "release"), (temp, "discard"):
        assert (module.__file__, does) in seen
        assert (module.__file__, "__del__") not in seen


def test_a_filesystem_that_can_t_lock(tmp_path, monkeypatch):
    def refuses(fd, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(temp, "HAVE_O_TMPFILE", False)
    layout = tmp_path / "image"
    with fastcas.create(layout) as cas:
        monkeypatch.setattr(lock.fcntl, "flock", refuses)
        for call in (
            lambda: cas.put_blob(b"x"),
            lambda: cas.put_index(cas.get_index()),
            lambda: cas.update_index(lambda index: index),
            cas.clean,
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.ENOLCK
            assert caught.value.filename == str(layout / lock.LOCK_FILE)
        assert lock._held == set()
        assert list(cas) == []
    assert set(os.listdir(layout)) == {"oci-layout", "index.json", "blobs", lock.LOCK_FILE}
