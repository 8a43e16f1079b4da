"""A fork in the middle of a put: the child has the parent's file, and must leave it alone."""

import hashlib
import os
from pathlib import Path

import pytest

import fastcas
from fastcas.errors import UnsupportedError

pytestmark = pytest.mark.usefixtures("no_fd_leak")

PIECE = 10_000


@pytest.mark.parametrize("kind", ["tmpfile", "named"])
@pytest.mark.parametrize("total", [100_000, 5_000_000])
@pytest.mark.parametrize("goes", ["on", "wrong"])
def test_fork_in_the_middle_of_a_put(layout, monkeypatch, kind, total, goes):
    """Below 2 MiB no helper thread would be missed."""
    if kind == "named":
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    child = None

    def pieces():
        nonlocal child
        for at in range(0, total, PIECE):
            if child is None and at >= total // 2:
                child = os.fork()
            if child == 0 and goes == "wrong":
                raise KeyError("the child's source fails")
            yield (b"child" if child == 0 else b"dad..") * (PIECE // 5)
        if child:
            status = os.waitpid(child, 0)[1]
            assert os.waitstatus_to_exitcode(status) == 0

    with fastcas.create(layout, durability="none") as cas:
        try:
            digest = cas.put_blob(pieces()).digest
        except UnsupportedError:
            os._exit(0 if child == 0 and goes == "on" else 1)
        except KeyError:
            os._exit(0 if child == 0 and goes == "wrong" else 1)
        finally:
            if child == 0:
                os._exit(2)
        assert list(cas) == [digest]
        content = Path(layout, "blobs", *digest.split(":")).read_bytes()
        assert content == b"dad.." * (total // 5)
        assert hashlib.sha256(content).hexdigest() == digest.encoded
        assert {name for name in os.listdir(layout) if name.endswith(".tmp")} == set()


def test_fork_while_blobs_are_read_in_the_background(layout):
    contents = [bytes([number]) * 4096 for number in range(200)]
    with fastcas.create(layout, durability="none") as cas:
        wanted = [(result.digest, result.size) for result in cas.put_blobs(contents)]
        end = cas.start_reading(wanted)
        child = os.fork()
        found = end()
        if child == 0:  # it has no thread that could end it; what isn't there is read alone
            os._exit(0 if all(a in (None, b) for a, b in zip(found, contents, strict=True)) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert found == contents
        cas.start_reading(wanted)  # nobody waits for it
