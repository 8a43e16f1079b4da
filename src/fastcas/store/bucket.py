"""Bucket: the requests that an engine makes, with keys of its layout and errors of ours.

Nothing of ``obstore`` is seen above this file. A request that the server refuses becomes an OSError
with an errno and the URL as its file name; what such a message quotes has no credentials in it.
"""

from __future__ import annotations

import copy
import errno
import os
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fastcas.errors import ClosedError, NotExistError, UnsupportedError
from fastcas.store.client import exceptions, obstore
from fastcas.store.location import (
    error_code,
    explain,
    hide,
    is_panic,
    read_environment,
    secrets,
    unreadable_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from fastcas.store.location import Location

    T = TypeVar("T")
    Meta = Mapping[str, Any]

#: Of a multipart upload, the least that a part has, and so many are on their way at once.
PART = 8 << 20
PARTS_AT_ONCE = 4
#: S3 takes no more parts of one upload.
MOST_PARTS = 10_000

#: So many requests are made at once where there are many.
AT_ONCE = 32

# A server that is busy with another's write refuses ours before there is anything to be read: it is
# asked so often, after pauses that double.
_TRIES = 6
_PAUSE = 0.05  # seconds

_LISTED = 1000  # keys in one answer
_DELETED = 1000  # keys in one request

# What servers call a key or a bucket that isn't there, and credentials that they don't take.
_NO_KEY = "NoSuchKey"
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_NO_RIGHTS = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthenticationFailed",
    "XAdminUserNotFound",  # versitygw's for InvalidAccessKeyId
)

# What messages say, without spaces, and the errno for it; EIO for whatever else there is.
_ERRNOS = {
    "timedout": errno.ETIMEDOUT,
    "invalidrange": errno.ERANGE,
    "416rangenotsatisfiable": errno.ERANGE,
    "receivednon-partialresponse": errno.ERANGE,
}

# Who is asked for the credentials of a machine where the environment has none.
_METADATA_SERVICE = "169.254.169.254"

# The process that has made the first request. In a child that it forks any other would wait for ever,
# for threads that the child hasn't got.
_used_by: int | None = None


class Lost(Exception):
    """A conditional write was refused: the object isn't what it was, or the reply got lost."""


class Missing(Exception):
    """There is no such object."""


class _Pool(ThreadPoolExecutor):
    """The threads of a bucket."""

    def __init__(self, check_open: Callable[[], None]) -> None:
        super().__init__(AT_ONCE, "fastcas-store")
        self._check_open = check_open

    def submit(self, *arguments: Any, **more: Any) -> Future[Any]:
        try:
            return super().submit(*arguments, **more)
        except RuntimeError:  # it was shut down
            self._check_open()
            raise


class Bucket:
    """The objects of one layout. Thread-safe."""

    def __init__(self, client: Any, location: Location, config: Mapping[str, Any]) -> None:
        self.location = location
        self.closed = False
        self._client = client
        self._environment = read_environment(location)
        self._hidden = secrets(config)
        self._prefix = f"{location.prefix}/" if location.prefix else ""
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock = threading.Lock()

    def close(self) -> None:
        self.closed = True
        if self._pool is not None and _used_by == os.getpid():
            self._pool.shutdown(wait=False)

    def check_open(self) -> None:
        """Raises ClosedError after ``close``, UnsupportedError in a child of who has made a request."""
        if self.closed:
            raise ClosedError("this layout was closed", path=str(self.location))
        if _used_by is not None and _used_by != os.getpid():
            raise UnsupportedError(
                "a forked child can't use an object store that its parent has used: "
                "fork before the first use, or start the process anew ('spawn')"
            )

    def detached(self) -> Bucket:
        """The same objects, for a reader, which goes on when the engine is closed."""
        other = copy.copy(self)
        other.closed = False
        return other

    def head(self, key: str) -> Meta:
        """Size, times and etag of an object; Missing."""
        found: Meta = self._call(key, obstore.head, self._client, self._prefix + key, may=(Missing,))
        return found

    def get(self, key: str, **options: Any) -> Any:
        """Begins to read an object; Missing, or Lost where ``if_match`` doesn't hold."""
        may = (Missing, Lost) if "if_match" in options else (Missing,)
        return self._call(
            key, obstore.get, self._client, self._prefix + key, options=options or None, may=may
        )

    def get_beginning(self, key: str, size: int) -> Any:
        """Begins to read an object of which ``size`` bytes at the most are sent; Missing."""
        try:
            return self.get(key, range=(0, size))
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise
            return self.get(key)  # no range begins within an empty one, and some servers know none

    def read(self, key: str) -> tuple[bytes, Any]:
        """A whole object, and what came with it; Missing."""
        found = self.get(key)
        return self.read_body(key, found), found

    def read_body(self, key: str, found: Any) -> bytes:
        """All of an answer to ``get``."""
        return bytes(self._call(key, found.bytes))

    def get_written(self, key: str) -> Any:
        """Begins to read an object that was written a moment ago: an OSError where it isn't there."""
        try:
            return self.get(key)
        except Missing as error:
            raise self.refused(error, key) from None

    def get_range(self, key: str, start: int, size: int) -> bytes:
        """At most ``size`` bytes from ``start``, which is within the object."""
        read = obstore.get_range
        where = self._prefix + key
        return bytes(
            self._call(key, read, self._client, where, start=start, length=size, may=(Missing,))
        )

    def put(self, key: str, content: Any, *, mode: Any = "overwrite", nonce: str | None = None) -> None:
        """Writes an object in one request; Lost where it isn't as ``mode`` (obstore's) says."""
        extra = {} if nonce is None else {"attributes": {NONCE: nonce}}
        may = () if mode == "overwrite" else (Missing, Lost)
        try:
            self._write(key, content, mode=mode, use_multipart=False, may=may, **extra)
        except Missing:  # some servers find nothing where another object was expected
            raise Lost(key) from None

    def put_if(self, key: str, content: Any, *, mode: Any, nonce: str) -> Any:
        """Writes an object if it is as ``mode`` says, and returns None; else what is there instead, by
        ``get``. It is told by its nonce whether it was written though the reply got lost."""
        for attempt in range(_TRIES):
            try:
                self.put(key, content, mode=mode, nonce=nonce)
                return None
            except Lost as error:
                refused = error
            try:
                found = self.get(key)
            except Missing:
                time.sleep(_PAUSE * 2**attempt)
                continue
            return None if found.attributes.get(NONCE) == nonce else found
        raise self.refused(refused, key)

    def upload(self, key: str, blocks: Iterator[Any], part: int) -> None:
        """Writes an object of many parts of ``part`` bytes. What ``blocks`` raises is raised, and then
        nothing was written."""
        many = {"use_multipart": True, "chunk_size": part, "max_concurrency": PARTS_AT_ONCE}
        self._write(key, blocks, **many)

    def _write(self, key: str, content: Any, **options: Any) -> None:
        self._call(key, obstore.put, self._client, self._prefix + key, content, **options)

    def copy(self, source: Location, source_key: str, key: str) -> None:
        """Copies an object of the same bucket within the server; Missing."""
        prefix = f"{source.prefix}/" if source.prefix else ""
        where = prefix + source_key
        self._call(key, obstore.copy, self._client, where, self._prefix + key, may=(Missing,))

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects, which needn't be there."""
        for start in range(0, len(keys), _DELETED):
            group = [self._prefix + key for key in keys[start : start + _DELETED]]
            try:
                self._call(keys[start], obstore.delete, self._client, group, may=(Missing,))
            except Missing:  # some stores tell, and leave it open whether the others are gone
                for key in group:
                    self._delete_one(key)

    def discard(self, key: str) -> None:
        """Removes an object that ``clean`` would remove later: who only writes needn't be let."""
        try:
            self.delete([key])
        except PermissionError:
            pass

    def _delete_one(self, key: str) -> None:
        try:
            name = key.removeprefix(self._prefix)
            self._call(name, obstore.delete, self._client, key, may=(Missing,))
        except Missing:
            pass

    def list(self, prefix: str) -> Iterator[Sequence[Meta]]:
        """What lies below ``prefix``, which ends with no slash, page by page; ``path`` of each is its
        key in the layout."""
        self.check_open()
        where = self._prefix + prefix
        stream = self._call(prefix, obstore.list, self._client, where, chunk_size=_LISTED)
        pages = iter(stream)
        while (page := self._call(prefix, next, pages, None)) is not None:
            if cut := len(self._prefix):
                for meta in page:
                    meta["path"] = meta["path"][cut:]  # ours alone by now
            yield page

    def is_same(self, other: Bucket) -> bool:
        """Whether the server can copy from the other to this."""
        ours, theirs = self.location, other.location
        return (
            self._client == other._client
            and self._environment == other._environment
            and ours[:2] == theirs[:2]
        )

    def map(
        self, function: Callable[[Any], T], items: Iterable[Any], *, most: int | None = None
    ) -> Iterator[T]:
        """The results of ``function`` in order, some at once (``most`` of them), and not far ahead of
        who takes them."""
        self.check_open()
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                if len(waiting) == (most or 2 * AT_ONCE):
                    yield waiting.popleft().result()
                waiting.append(self.pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads of this engine that make requests."""
        with self._pool_lock:
            if self._pool is None:
                self._pool = _Pool(self.check_open)
            return self._pool

    def _call(
        self,
        key: str,
        function: Callable[..., Any],
        *arguments: Any,
        may: tuple[type[Exception], ...] = (),
        **more: Any,
    ) -> Any:
        """``function`` of the client; of Missing and Lost it raises what is in ``may``, the rest as an
        OSError: no server should say it."""
        try:
            return self.run(key, lambda: function(*arguments, **more))
        except may:
            raise
        except (Missing, Lost) as error:
            raise self.refused(error, key) from None

    def run(self, key: str, request: Callable[[], T]) -> T:
        """``request()``, with its errors as ours; Missing and Lost among them."""
        global _used_by
        self.check_open()
        _used_by = os.getpid()
        try:
            return request()
        except FileNotFoundError as error:
            code = error_code(error)
            if code in _NO_BUCKET or code in _NO_RIGHTS:
                raise self._refusal(error, code, key) from None
            raise Missing(key) from None
        except (exceptions.PreconditionError, exceptions.AlreadyExistsError):
            raise Lost(key) from None
        except exceptions.BaseError as error:
            code = error_code(error)
            if code == _NO_KEY:  # one of many
                raise Missing(key) from None
            raise self._refusal(error, code, key) from None
        except OSError as error:
            if error.filename is None:
                error.filename = self.location.join(key)
            raise
        except BaseException as error:
            if not is_panic(error):
                raise
            text = hide(explain(error), self._hidden)
            url = self.location.join(key)
            raise OSError(errno.EIO, f"the client has failed: {text}", url) from None

    def refused(self, error: Missing | Lost, key: str) -> OSError:
        """What the server said, where it can't be gone on from."""
        said: BaseException = error
        while isinstance(said, (Missing, Lost)) and said.__context__ is not None:
            said = said.__context__
        return self._refusal(said, error_code(said), key)

    def _refusal(self, error: BaseException, code: str | None, key: str) -> OSError:
        url = self.location.join(key)
        if unreadable := unreadable_key(error):
            message = f"the client can list no key like {unreadable!r}: remove it with another tool"
            return OSError(errno.EIO, message, url)
        text = hide(explain(error), self._hidden)
        if code in _NO_BUCKET:
            return NotExistError(f"{self.location}: no such bucket", path=str(self.location))
        if _METADATA_SERVICE in text:
            message = "no credentials were found: docs/object-store.md has the variables that are read"
            return PermissionError(errno.EACCES, message, url)
        refused = (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError)
        if isinstance(error, refused) or code in _NO_RIGHTS:
            return PermissionError(errno.EACCES, f"the server refuses these credentials: {text}", url)
        if isinstance(error, exceptions.NotSupportedError):
            return OSError(errno.EOPNOTSUPP, f"the server can't do this: {text}", url)
        plain = text.lower().replace(" ", "")
        kind = next((kind for part, kind in _ERRNOS.items() if part in plain), errno.EIO)
        return OSError(kind, text, url)


#: The name of the metadata by which a writer knows its own index again. Azure takes letters and digits
#: only, and proxies drop underscores.
NONCE = "fastcasnonce"
