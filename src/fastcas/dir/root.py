"""The root of a layout: one descriptor, and everything else resolved beneath it.

Whoever wrote the layout may have put symbolic links, FIFOs or devices anywhere in it, and may
change them while we look. No name is therefore ever resolved through a symbolic link, and what is
opened counts only once fstat(2) has said what it is.
"""

from __future__ import annotations

import errno
import os
import stat

from fastcas import _core
from fastcas.digest import COMPUTABLE, REGISTERED, Digest
from fastcas.errors import ClobberError, ClosedError, DurabilityError, InvalidError, NotExistError
from fastcas.files import write_all
from fastcas.layout import (
    BLOBS,
    INDEX_BYTES,
    INDEX_FILE,
    LAYOUT_BYTES,
    LAYOUT_FILE,
    LAYOUT_LIMIT,
    check_version,
)

#: False where the kernel, or a seccomp filter, knows no openat2: then component by component.
HAVE_OPENAT2 = True

NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP)
_SIZE_OF_INT = 4  # of C's

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
# A FIFO must not make us wait, nor a terminal become ours.
_WARY = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


class Root:
    """The open root directory of a layout.

    ``path`` is absolute, for messages and for reopening; the layout may be moved meanwhile.
    ``owner`` is (uid, gid) for new files where we run as root and the layout isn't root's, else None.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        path = self.path
        file = _core.open_path(path, DIRECTORY)
        self._handle = _core.Handle(file, lambda: ClosedError("this layout was closed", path=path))
        #: By algorithm, where its blobs lie: for one that is small, and that nothing is unusual about.
        #: Whoever meets an OSError or a KindError goes the general way, which knows what it means.
        self.places = {name: self._place(name) for name in COMPUTABLE} if HAVE_OPENAT2 else {}
        self.owner = None
        if os.geteuid() == 0:
            facts = os.fstat(file.fd)
            if (facts.st_uid, facts.st_gid) != (0, 0):
                self.owner = facts.st_uid, facts.st_gid

    def _place(self, algorithm: str) -> _core.Place:
        path = f"{BLOBS}/{algorithm}".encode()
        return _core.Place(self._handle, path, algorithm, REGISTERED[algorithm], Digest)

    def held(self) -> _core.Handle:
        """A context that gives the descriptor and keeps it open, whoever calls close meanwhile."""
        return self._handle

    def close(self) -> None:
        """Closes the descriptor, when the last operation under way has ended."""
        self._handle.close()

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def join(self, name: str) -> str:
        """The path of ``name`` in the layout, for messages."""
        return os.path.join(self.path, name)

    def open(self, name: str, flags: int, mode: int = 0) -> _core.File:
        """Opens ``name`` beneath the root, through no symbolic link.

        Raises InvalidError for a symbolic link on the way or a component that isn't a directory,
        OSError with the file's name otherwise.
        """
        with self.held() as fd:
            try:
                return _open_beneath(fd, name, flags, mode)
            except OSError as error:
                raise self._refusal(error, name, flags) from error

    def _refusal(self, error: OSError, name: str, flags: int) -> Exception:
        path = self.join(name) if name != "." else self.path
        if error.errno == errno.ENXIO:  # a socket
            return self._not_regular(name)
        if error.errno in (errno.ELOOP, errno.EXDEV):
            return InvalidError(f"{name}: a symbolic link is not followed inside a layout", path=path)
        if error.errno == errno.ENOTDIR and flags & os.O_DIRECTORY == 0:
            return InvalidError(f"{name}: a part of this path is not a directory", path=path)
        return OSError(error.errno, error.strerror, path)

    def named(self, error: OSError, name: str = "") -> OSError:
        """``error`` with a file name: that of ``name`` in the layout where it has none of its own."""
        if error.errno is not None and error.filename is None:
            error.filename = self.join(name) if name else self.path
        return error

    def open_regular(self, name: str, at: int | None = None) -> tuple[_core.File, int]:
        """Opens the regular file ``name`` for reading. Returns it and its size.

        ``at`` is an open directory of the layout to begin from instead of the root. Raises
        InvalidError for anything that is no regular file, without waiting for it.
        """
        with self._handle as fd:
            try:
                opened = _open_regular_beneath(fd if at is None else at, name)
            except OSError as error:
                raise self._refusal(error, name, 0) from error
        if opened is None:
            raise self._not_regular(name)
        return opened

    def open_known(self, name: str) -> tuple[_core.File, os.stat_result]:
        """The same of a file directly in the root, with all that fstat(2) says of it."""
        file = self.open(name, _WARY)
        facts = os.fstat(file.fd)
        if not stat.S_ISREG(facts.st_mode):
            file.close()
            raise self._not_regular(name)
        return file, facts

    def fetch(self, algorithm: str, wanted: list[tuple[str, int]]) -> _core.Fetch | None:
        """See ``_core.Fetch``; None where the general way must be gone."""
        if not HAVE_OPENAT2:
            return None
        try:
            directory = self.open(f"{BLOBS}/{algorithm}", DIRECTORY)
        except (OSError, InvalidError):
            return None
        return _core.Fetch(directory, wanted, algorithm)

    def _not_regular(self, name: str) -> InvalidError:
        return InvalidError(f"{name}: not a regular file", path=self.join(name))

    def sync(self, fd: int, name: str, status: memoryview | None = None) -> None:
        """Makes the entries of the directory ``fd``, called ``name``, survive power loss.

        Raises DurabilityError: what was put there is published, and nobody knows for how long. The
        kernel says so once; then ``status``, a C int, has the errno, whatever interrupts this.
        """
        if status is None:
            status = new_statuses(1)
        _core.sync_directory(fd, status)
        if status[0] in NO_DIRECTORY_SYNC:
            status[0] = 0
            warn(f"{self.join(name)!r}: this filesystem can't sync directories")
        if status[0]:
            raise self.not_synced(name, status[0])

    def not_synced(self, name: str, number: int) -> DurabilityError:
        """What says that the directory ``name`` couldn't be synced."""
        return DurabilityError(
            f"{name}: the directory couldn't be synced ({os.strerror(number)}); "
            "what was stored there is published, but may not survive power loss",
            errno=number,
            path=self.join(name),
        )

    def give_to_owner(self, fd: int) -> None:
        """Where we run as root, hands a new file or directory to the layout's owner."""
        if self.owner is not None:
            os.fchown(fd, *self.owner)


def _open_beneath(dirfd: int, name: str, flags: int, mode: int) -> _core.File:
    global HAVE_OPENAT2
    if HAVE_OPENAT2:
        try:
            return _core.openat2(dirfd, os.fsencode(name), flags, mode)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                HAVE_OPENAT2 = False
            elif error.errno != errno.EPERM:  # a seccomp filter's answer
                raise
    return _open_in_steps(dirfd, name, flags, mode)


def _open_in_steps(dirfd: int, name: str, flags: int, mode: int) -> _core.File:
    first, _, rest = name.partition("/")
    if not rest:
        return _open_step(dirfd, first, flags, mode)
    with _open_step(dirfd, first, os.O_PATH | os.O_DIRECTORY, 0) as fd:
        return _open_in_steps(fd, rest, flags, mode)


def _open_step(dirfd: int, name: str, flags: int, mode: int) -> _core.File:
    try:
        return _core.open_path(name, flags | os.O_NOFOLLOW, mode, dir_fd=dirfd)
    except NotADirectoryError as error:
        # O_NOFOLLOW with O_DIRECTORY says ENOTDIR of a symbolic link, openat2 says ELOOP.
        if stat.S_ISLNK(os.lstat(name, dir_fd=dirfd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        raise


def _open_regular_beneath(dirfd: int, name: str) -> tuple[_core.File, int] | None:
    if HAVE_OPENAT2:
        try:
            return _core.open_regular(dirfd, name.encode())
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
    file = _open_beneath(dirfd, name, _WARY, 0)
    facts = os.fstat(file.fd)
    return (file, facts.st_size) if stat.S_ISREG(facts.st_mode) else None


def create_layout(path: str, *, durable: bool) -> Root:
    """Makes an empty layout at ``path``, which must not exist, and opens it; parents are made.

    ``durable``: on return the layout and every directory made for it survive power loss.
    Raises ClobberError where anything is at ``path``; then nothing was touched.
    """
    if not path:  # which abspath takes for the current directory
        raise InvalidError("an empty path is none where a layout can be made", path=path)
    path = os.path.abspath(path)
    missing: list[str] = []
    parent = os.path.dirname(path)
    while not os.path.isdir(parent) and parent not in missing:
        missing.append(parent)
        parent = os.path.dirname(parent)
    if missing:
        os.makedirs(missing[0], exist_ok=True)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        message = f"{path!r} exists; a layout is made only where nothing is"
        raise ClobberError(message, path=path) from None
    except Exception:
        raise
    except BaseException:  # an interruption, which comes out of a call when that has ended
        os.rmdir(path)
        raise
    try:
        file = _core.open_path(path, DIRECTORY | os.O_NOFOLLOW)
    except BaseException:
        os.rmdir(path)
        raise
    with file as fd:
        try:
            os.mkdir(BLOBS, 0o755, dir_fd=fd)
            os.mkdir(f"{BLOBS}/sha256", 0o755, dir_fd=fd)
            # What makes a directory a layout comes last.
            _write_new(fd, INDEX_FILE, INDEX_BYTES, durable)
            _write_new(fd, LAYOUT_FILE, LAYOUT_BYTES, durable)
            if durable:
                for directory in (f"{BLOBS}/sha256", BLOBS, ".", "..", *map(os.path.dirname, missing)):
                    _sync_directory(directory, fd)
            return open_root(path)
        except BaseException as error:
            _remove_new_layout(fd, path)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = path
            raise


def _write_new(dirfd: int, name: str, content: bytes, durable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with _core.open_path(name, flags, 0o644, dir_fd=dirfd) as fd:
        write_all(fd, content)
        if durable:
            os.fsync(fd)


def _remove_new_layout(fd: int, path: str) -> None:
    for name, remove in (
        (LAYOUT_FILE, os.unlink),
        (INDEX_FILE, os.unlink),
        (f"{BLOBS}/sha256", os.rmdir),
        (BLOBS, os.rmdir),
    ):
        try:
            remove(name, dir_fd=fd)
        except FileNotFoundError:
            pass
    os.rmdir(path)


def new_statuses(count: int) -> memoryview:
    """Memory for so many errnos, C ints, all 0."""
    return memoryview(bytearray(_SIZE_OF_INT * count)).cast("i")


def _sync_directory(path: str, dirfd: int) -> None:
    with _core.open_path(path, DIRECTORY, dir_fd=dirfd) as fd:
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in NO_DIRECTORY_SYNC:
                raise
            warn(f"{path!r}: this filesystem can't sync directories")


def open_root(path: str) -> Root:
    """Opens the layout at ``path`` and validates it; makes nothing.

    Raises NotExistError where there is nothing, InvalidError for anything that is no layout of
    version 1.0.0 with a ``blobs`` directory and an ``index.json`` that is a regular file.
    """
    if not path:  # which abspath takes for the current directory
        raise NotExistError("an empty path: no such layout", path=path)
    try:
        root = Root(path)
    except FileNotFoundError as error:
        raise NotExistError(f"{path!r}: no such layout", path=path) from error
    except NotADirectoryError as error:
        raise InvalidError(f"{path!r}: not a layout: not a directory", path=path) from error
    try:
        _check_version(root)
        _check_present(root, BLOBS, stat.S_ISDIR, "a directory")
        _check_present(root, INDEX_FILE, stat.S_ISREG, "a regular file")
    except BaseException:
        root.close()
        raise
    return root


def _check_version(root: Root) -> None:
    path = root.join(LAYOUT_FILE)
    try:
        file, size = root.open_regular(LAYOUT_FILE)
    except FileNotFoundError as error:
        message = f"{root.path!r}: not a layout: no {LAYOUT_FILE}"
        raise InvalidError(message, path=path) from error
    with file as fd:
        raw = read_all(fd, LAYOUT_LIMIT, size)
    check_version(raw, root.path, path)


def _check_present(root: Root, name: str, right_kind: object, kind: str) -> None:
    try:
        with root.open(name, os.O_PATH) as fd:
            mode = os.fstat(fd).st_mode
    except FileNotFoundError as error:
        raise InvalidError(f"{root.path!r}: not a layout: no {name}", path=root.join(name)) from error
    if not right_kind(mode):  # type: ignore[operator]
        message = f"{root.path!r}: not a layout: {name} is not {kind}"
        raise InvalidError(message, path=root.join(name))


def read_all(fd: int, limit: int, size: int) -> bytes:
    """The content of a file, at most ``limit`` + 1 bytes of it; ``size`` is what it probably has."""
    left = limit + 1
    parts = [os.read(fd, min(left, size + 1))]
    if len(parts[0]) == size:  # less than was asked for: that was the end
        return parts[0]
    # Of other such reads the next one tells.
    while parts[-1] and (left := left - len(parts[-1])):
        parts.append(os.read(fd, min(left, 64 << 10)))
    return parts[0] if len(parts) <= 2 and not parts[-1] else b"".join(parts)


def warn(message: str) -> None:
    """Tells the logger ``fastcas``, which is silent unless the program sets logging up."""
    import logging

    logger = logging.getLogger("fastcas")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.warning(message)
