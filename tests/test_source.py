"""What can't be a source any more, or isn't one yet."""

import errno
import socket

import pytest

import fastcas


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
