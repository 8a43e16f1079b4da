"""What clean does with what can't be removed, or has gone."""

import os
import resource
import shutil

import fastcas
from fastcas.dir import clean

DEAD = ".fastcas-" + "0" * 16 + ".tmp"


def nest(path, levels):
    """``levels`` directories in one another; their path is too long to be made at one go."""
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def test_one_that_takes_more_descriptors_than_there_are_stays_alone(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 40
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        nest(tmp_path / "image" / ".umoci-1", 2 * limit)
        (tmp_path / "image" / ".umoci-2").mkdir()
        (tmp_path / "image" / ".umoci-2" / "file").write_bytes(b"x")
        (tmp_path / "image" / DEAD).write_bytes(b"x")
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            removed = cas.clean()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert removed == [DEAD, ".umoci-2"]


def test_those_whose_writers_end_meanwhile(tmp_path, monkeypatch):
    """They remove their own, and give up the lock, between the look of clean and its removal."""
    layout = tmp_path / "image"
    with fastcas.create(layout, durability="none") as cas:
        (layout / DEAD).write_bytes(b"x")
        (layout / ".umoci-1").mkdir()
        (layout / ".umoci-1" / "file").write_bytes(b"x")
        real = clean._take_flock

        def take(fd):
            name = os.readlink(f"/proc/self/fd/{fd}")
            shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
            return real(fd)

        monkeypatch.setattr(clean, "_take_flock", take)
        assert cas.clean() == []
        assert not (layout / DEAD).exists()
        assert not (layout / ".umoci-1").exists()
