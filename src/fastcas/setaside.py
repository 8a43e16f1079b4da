"""Names in a quarantine, where damaged blobs lie with notes of why."""

from __future__ import annotations

import os

from fastcas import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcas.digest import Digest

#: How a file is made where nothing may be.
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def take_name(directory: int, digest: Digest, note: bytes, *, durable: bool) -> str:
    """Takes a name for a blob that nothing has in the open ``directory``, by writing ``note`` beside
    it, as ``NAME.json``. Returns the name."""
    base = name = f"{digest.algorithm}-{digest.encoded}"
    number = 0
    while True:
        try:
            if _exists(directory, name):
                raise FileExistsError
            file = _core.open_path(f"{name}.json", NEW, 0o644, dir_fd=directory)
            break
        except FileExistsError:
            number += 1
            name = f"{base}.{number}"
    try:
        with file as fd:
            rest = memoryview(note)
            while rest:
                rest = rest[os.write(fd, rest) :]
            if durable:
                os.fsync(fd)
    except BaseException:
        os.unlink(f"{name}.json", dir_fd=directory)
        raise
    return name


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
