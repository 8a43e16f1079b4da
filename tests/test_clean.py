"""What clean does with a directory of umoci's name that can't be removed."""

import os
import resource

import fastcas

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
