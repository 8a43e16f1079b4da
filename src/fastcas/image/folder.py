"""A folder of the user's: what is in it, and the tar that it makes.

Everything is opened beneath its own directory's descriptor and never through a symbolic link, so that
whoever changes the folder meanwhile can't lead us out of it. What changes while it is read is found.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator

from fastcas import _core
from fastcas.errors import InvalidError
from fastcas.image import tar

__all__ = ["Entry", "pack_folder", "scan_folder"]

#: How deep a folder may be nested: each level is an open descriptor.
MAX_DEPTH = 128

_CHUNK = 1 << 20
_SMALL = 64 << 10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# A FIFO that took a file's place must not make us wait.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Entry:
    """Something in a folder: ``name`` relative to that, with slashes; ``facts`` as of lstat(2).

    What it says holds until the next entry is asked for; ``path`` is for messages.
    """

    __slots__ = ("_directory", "_leaf", "facts", "name", "path")

    def __init__(self, directory: int, leaf: str, name: str, path: str) -> None:
        self._directory = directory
        self._leaf = leaf
        self.name = name
        self.path = path
        self.facts = os.stat(leaf, dir_fd=directory, follow_symlinks=False)

    def read_link(self) -> str:
        return os.readlink(self._leaf, dir_fd=self._directory)

    def open_folder(self) -> _core.File:
        return _core.open_path(self._leaf, _FOLDER, dir_fd=self._directory)

    def open_file(self) -> _core.File:
        """The regular file that this is; InvalidError where another thing has taken its place."""
        try:
            file = _core.open_path(self._leaf, _FILE, dir_fd=self._directory)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                raise _changed(self.path) from error
            error.filename = self.path
            raise
        if not os.path.samestat(os.fstat(file.fd), self.facts):
            file.close()
            raise _changed(self.path)
        return file

    def check_unchanged(self, fd: int) -> None:
        """Raises InvalidError where the open file isn't as it was when the entry was made."""
        if _witness(os.fstat(fd)) != _witness(self.facts):
            raise _changed(self.path)


def _changed(path: str) -> InvalidError:
    return InvalidError(f"{path!r} changed while it was read", path=path)


def _witness(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def scan_folder(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Everything below the folder ``path``, in the order of the names' bytes, each directory's before
    what is in it; symbolic links are entries and never followed, but for ``path`` itself.

    Raises InvalidError where directories change meanwhile or are nested more than 128 levels deep.
    """
    top = os.fspath(path)
    # The open directories from the top down: file, facts, path, prefix of names, names left.
    levels: list[tuple[_core.File, os.stat_result, str, str, list[str]]] = []

    def enter(file: _core.File, facts: os.stat_result, where: str, prefix: str) -> None:
        left: list[str] = []
        levels.append((file, facts, where, prefix, left))
        left.extend(_list(file.fd))

    try:
        file = _core.open_path(top, os.O_RDONLY | os.O_DIRECTORY)
        enter(file, os.fstat(file.fd), top, "")
        while levels:
            file, facts, where, prefix, left = levels[-1]
            if not left:
                if _witness(os.fstat(file.fd)) != _witness(facts):
                    raise _changed(where)
                levels.pop()
                file.close()
                continue
            leaf = left.pop()
            place = os.path.join(where, leaf)
            try:
                entry = Entry(file.fd, leaf, prefix + leaf, place)
                yield entry
                if stat.S_ISDIR(entry.facts.st_mode):
                    if len(levels) >= MAX_DEPTH:
                        message = f"{top!r}: nested more than {MAX_DEPTH} levels deep"
                        raise InvalidError(message, path=top)
                    enter(entry.open_folder(), entry.facts, place, f"{entry.name}/")
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _changed(place) from error
            except OSError as error:
                error.filename = place
                raise
    finally:
        for level in levels:
            level[0].close()


def _list(fd: int) -> list[str]:
    """The names in a directory, the last one first, so that popping gives them in order."""
    with os.scandir(fd) as found:
        keyed = [(os.fsencode(e.name) + b"/" * e.is_dir(follow_symlinks=False), e.name) for e in found]
    return [name for _, name in sorted(keyed, reverse=True)]


def pack_folder(
    path: str | os.PathLike[str],
    *,
    latest: int | None = None,
    owner: tuple[int, int] | None = (0, 0),
) -> Iterator[bytes]:
    """The tar of what is in the folder ``path``, in pieces; equal folders give equal bytes.

    Members are in the order of their names' bytes, without the folder itself. ``owner`` is the (uid,
    gid) of all of them, None for that of each file; names of users and groups are left out. Times are
    in whole seconds, none later than ``latest`` (seconds since the epoch). Modes are kept, and hard
    links among the files. Symbolic links, FIFOs and devices are members, never opened; sparse files
    are written in full; extended attributes are left out.

    Raises InvalidError for a socket, and where a file or directory changes meanwhile.
    """
    first_names: dict[tuple[int, int], str] = {}
    for entry in scan_folder(path):
        facts = entry.facts
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode))
        if kind is None:
            raise InvalidError(f"{entry.path!r} is a socket, which no tar can hold", path=entry.path)
        mtime = max(0, int(facts.st_mtime))
        who = (facts.st_uid, facts.st_gid) if owner is None else owner
        size, link, device = 0, "", (0, 0)
        if kind != tarfile.DIRTYPE and facts.st_nlink > 1:
            link = first_names.setdefault((facts.st_dev, facts.st_ino), entry.name)
        if link not in ("", entry.name):
            kind = tarfile.LNKTYPE
        elif kind == tarfile.SYMTYPE:
            link = entry.read_link()
        else:
            link = ""
            size = facts.st_size if kind == tarfile.REGTYPE else 0
            if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                device = (os.major(facts.st_rdev), os.minor(facts.st_rdev))
        header = tar.encode_header(
            entry.name,
            size,
            kind=kind,
            mode=stat.S_IMODE(facts.st_mode),
            mtime=mtime if latest is None else min(mtime, latest),
            owner=who,
            link=link,
            device=device,
        )
        if kind == tarfile.REGTYPE:
            yield from _pack_file(entry, header)
        else:
            yield header
    yield tar.END


_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


def _pack_file(entry: Entry, header: bytes) -> Iterator[bytes]:
    size = left = entry.facts.st_size
    with entry.open_file() as fd:
        if size <= _SMALL:  # in one piece: most files are small
            data = os.read(fd, size)
            left -= len(data)
            yield b"".join((header, data, tar.padding(size)))
        else:
            yield header
            while left and (data := os.read(fd, min(left, _CHUNK))):
                left -= len(data)
                yield data
            yield tar.padding(size)
        entry.check_unchanged(fd)
        if left:
            raise InvalidError(f"{entry.path!r} ends before its size", path=entry.path)
