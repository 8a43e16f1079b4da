"""What can't be a source any more, or isn't one yet."""

import errno
import hashlib
import os
import socket
from pathlib import Path

import pytest

import fastcas
from fastcas import _core
from fastcas.source import open_source


@pytest.mark.timeout(20)
def test_a_socket_that_is_closed_or_unconnected_is_refused(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        ended = socket.socket()
        ended.close()
        with pytest.raises(OSError) as caught:
            cas.put_blob(ended)
        assert caught.value.errno == errno.EBADF
        with socket.socket() as idle, pytest.raises(OSError) as caught:
            cas.put_blob(idle)
        assert caught.value.errno == errno.ENOTCONN
        assert len(cas) == 0


def test_a_socket_that_mustnt_wait_or_not_for_ever(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        for timeout, error, number in (
            (0.0, BlockingIOError, errno.EAGAIN),
            (0.1, TimeoutError, errno.ETIMEDOUT),
        ):
            one, two = socket.socketpair()
            with one, two:
                two.settimeout(timeout)
                with pytest.raises(error) as caught:
                    cas.put_blob(two)
                assert caught.value.errno == number
        one, two = socket.socketpair()
        with one, two:
            one.sendall(b"there already")
            one.shutdown(socket.SHUT_WR)
            two.setblocking(False)
            assert cas.put_blob(two).size == 13
        assert len(cas) == 1


def test_an_interruption_loses_no_file(tmp_path, monkeypatch, no_fd_leak):
    """Of a path, between its opening and its use."""
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fastcas.source.Source.__enter__", interrupted)
        with open_source(path):
            pass


@pytest.mark.parametrize("size", [0, 1, _core.SMALL - 1, _core.SMALL, _core.SMALL + 1])
def test_a_small_file_by_its_path(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "link").symlink_to("file")
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        for name in ("file", "link", "file"):
            digest, stored = cas.put_blob(tmp_path / name)
            assert (digest, stored) == (f"sha256:{hashlib.sha256(content).hexdigest()}", size)
            assert cas.read_blob(digest) == content


def test_a_file_that_doesnt_say_its_size(tmp_path):
    path = Path("/proc/version")
    assert path.stat().st_size == 0
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        assert cas.read_blob(cas.put_blob(path).digest) == path.read_bytes() != b""


@pytest.mark.parametrize("size", [1, _core.SMALL + 1])
def test_a_str_that_is_a_path_too_is_refused(tmp_path, size):
    class Both(str):
        def __fspath__(self):
            return str(self)

    (tmp_path / "file").write_bytes(bytes(size))
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        with pytest.raises(TypeError, match="content or a path"):
            cas.put_blob(Both(tmp_path / "file"))
        assert len(cas) == 0


def test_what_path_has_no_file(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        for path, error in (
            (tmp_path / "absent", FileNotFoundError),
            (tmp_path, IsADirectoryError),
            (Path("nul\0byte"), ValueError),
        ):
            with pytest.raises(error) as caught:
                cas.put_blob(path)
            if error is not ValueError:
                assert caught.value.filename == str(path)
        assert len(cas) == 0
