"""ObjectReader: a blob that is an object; it comes, and is hashed, beside the thread that reads it."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from fastcas import _core
from fastcas.errors import NotExistError
from fastcas.reader import BlobReader
from fastcas.store.bucket import Lost, Missing
from fastcas.store.channel import Channel
from fastcas.store.sweep import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastcas.digest import Digest
    from fastcas.store.bucket import Bucket

#: A blob of so many bytes at most is asked for and verified whole, without a thread.
WHOLE = 1 << 20

_CHUNK = 1 << 20
_AHEAD = 4  # chunks that wait for the reader
# A broken connection is taken up again where it broke, so often in a row without a byte.
_ATTEMPTS = 5
_PAUSE = 0.2  # seconds before the second attempt, twice as long before each after it


class ObjectReader(BlobReader):
    """A BlobReader of an object. It has no ``fileno``, and may not outlive the removal of its blob:
    NotExistError. A connection that breaks is taken up again where it broke, if the object is the same.
    """

    __slots__ = ("_bucket", "_etag", "_first", "_open")

    def __init__(self, bucket: Bucket, digest: Digest, found: Any) -> None:
        super().__init__(digest, found.meta["size"])
        self._bucket = bucket
        self._etag = found.meta["e_tag"]
        self._first = found  # the answer that the blob was found by, for the first stream
        self._open = True

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return not self._open

    def copy_to(self, bucket: Bucket) -> bool:
        """Has the server copy the blob, unverified, within its bucket; False where it can't. Nothing
        may be stored there."""
        if not bucket.is_same(self._bucket) or bucket.location == self._bucket.location:
            return False
        try:
            key = key_of(self.digest)
            bucket.copy(self._bucket.location, key, key)
            if bucket.head(key)["size"] == self.size:
                return True
            bucket.delete([key])
            return False
        except (OSError, Missing):
            return False  # whatever it was, sending the bytes meets it too, or not

    def _is_left_open(self) -> bool:
        return getattr(self, "_open", False)

    def _release(self) -> None:
        self._first = None
        self._open = False

    def _verify_small(self) -> bytes:
        return read_whole(self._body())

    def _new_stream(self) -> ObjectStream:
        return ObjectStream(self._body())

    def _body(self) -> Body:
        found, self._first = self._first, None
        return Body(self._bucket, self.digest, self.size, self._etag, found)

    def _read_at(self, view: memoryview, position: int) -> int:
        try:
            data = self._bucket.get_range(key_of(self.digest), position, len(view))
        except Missing:
            raise gone(self._bucket, self.digest) from None
        view[: len(data)] = data
        return len(data)

    def _name(self, error: BaseException) -> None:
        pass  # the bucket has


def gone(bucket: Bucket, digest: Digest) -> NotExistError:
    """What a reader raises whose object isn't there any more, or is another."""
    message = f"{digest}: removed, or stored anew, while it was read"
    return NotExistError(message, digest=digest, path=bucket.location.join(key_of(digest)))


class Body:
    """The bytes of an object from its beginning, in chunks, over as many connections as it takes.

    ``found`` is an answer that has its beginning, or all of it; None: then it is asked for.
    """

    def __init__(self, bucket: Bucket, digest: Digest, size: int, etag: str | None, found: Any) -> None:
        self.digest = digest
        self.size = size
        self.is_of_two = False  # objects: it was written again on the way
        self._bucket = bucket
        self._key = key_of(digest)
        self._etag = etag
        self._found = found

    def read(self) -> bytes:
        """All of it; shorter or longer than it must be where the object is."""
        found, self._found = self._found, None
        if found is not None:
            try:
                data = self._bucket.run(self._key, lambda: bytes(found.bytes()))
            except Missing:  # the client had to ask once more
                raise self.gone() from None
            except (OSError, Lost):
                data = b""
            if len(data) == self.size:
                return data
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        position = failures = 0
        while True:
            try:
                found, self._found = self._found or self._ask(position), None
                if found is None:
                    return
                chunks = iter(found.stream(min_chunk_size=_CHUNK))
                del found
                while (chunk := self._bucket.run(self._key, lambda: next(chunks, None))) is not None:  # noqa: B023
                    if chunk:
                        position += len(chunk)
                        failures = 0
                        yield chunk
                if position >= self.size:
                    return
                failures += 1  # it was the beginning, or ended early without an error
                if failures == _ATTEMPTS:
                    return
            except Missing:
                raise self.gone() from None
            except Lost:  # stored once more, most likely the same: the digest will say
                failures += 1
                if failures == _ATTEMPTS or not self._is_there_again():
                    raise self.gone() from None
            except OSError:
                failures += 1
                if failures == _ATTEMPTS:
                    raise
            if failures > 1:
                time.sleep(_PAUSE * 2 ** (failures - 2))

    def check_owner(self) -> None:
        """Raises in a forked child."""
        self._bucket.check_open()

    def gone(self) -> NotExistError:
        return gone(self._bucket, self.digest)

    def _is_there_again(self) -> bool:
        try:
            found = self._bucket.head(self._key)
        except Missing:
            return False
        self._etag = found["e_tag"]
        self.is_of_two = True
        return bool(found["size"] == self.size)

    def _ask(self, position: int) -> Any:
        if position == 0:
            same = {} if self._etag is None else {"if_match": self._etag}
            return self._bucket.get(self._key, **same)
        if position >= self.size:
            return None
        if self._etag is None:  # nothing says that the rest is of the same object: its digest will
            return self._bucket.get(self._key, range={"offset": position})
        return self._bucket.get(self._key, range={"offset": position}, if_match=self._etag)


def read_whole(body: Body) -> bytes:
    """All of a small blob, in one piece and verified, or _core.VerifyError."""
    data = body.read()
    if len(data) != body.size:
        kind = "long" if len(data) > body.size else "short"
        raise _core.VerifyError(kind, len(data), body.size)
    digester = _core.Digester(body.digest.algorithm)
    digester.update(data)
    if (found := digester.hexdigest()) != body.digest.encoded:
        if body.is_of_two:  # no object has that digest
            raise body.gone()
        raise _core.VerifyError("mismatch", found, len(data))
    return data


class ObjectStream:
    """Reads a body to its end and verifies it; see ``fastcas.reader.Stream``.

    One thread takes chunks from the network, a second hashes them; the last one is handed over when
    size and digest were found right. What is small needs no thread.
    """

    def __init__(self, body: Body) -> None:
        self.verified = False
        self._body = body
        self._fetched = Channel(_AHEAD)
        self._hashed = Channel(_AHEAD)
        self._chunks: Iterator[bytes] | None = None
        self._rest = memoryview(b"")
        self._taken = 0  # bytes
        self._owner = os.getpid()  # of the threads
        self._failure: BaseException | None = None

    @property
    def position(self) -> int:
        return self._taken - len(self._rest)

    def readinto(self, data: Any) -> int:
        with memoryview(data) as given, given.cast("B") as view:
            if view.readonly:
                raise TypeError("readinto() needs memory that can be written")
            done = 0
            while done < len(view) and self._have():
                count = min(len(view) - done, len(self._rest))
                view[done : done + count] = self._rest[:count]
                self._rest = self._rest[count:]
                done += count
            self._look_ahead()
            return done

    def read(self, size: int = -1) -> bytes:
        pieces = []
        left = size
        while left and self._have():
            count = len(self._rest) if left < 0 else min(left, len(self._rest))
            pieces.append(self._rest[:count])
            self._rest = self._rest[count:]
            left -= count if left > 0 else 0
        self._look_ahead()
        return b"".join(pieces)

    def drain(self) -> None:
        while self._have():
            self._rest = memoryview(b"")

    def close(self) -> None:
        if self._owner == os.getpid():  # in a forked child somebody else may have the locks for ever
            self._fetched.close()
            self._hashed.close()

    def _have(self) -> bool:
        """Whether there is a byte to hand out, after waiting for it."""
        if not self._rest and not self.verified:
            self._rest = memoryview(self._next() or b"")
        return bool(self._rest)

    def _look_ahead(self) -> None:
        """Who has all the bytes needn't ask for the end to know that they are right."""
        if not self._rest and not self.verified and self._taken == self._body.size:
            self._next()

    def _next(self) -> bytes | None:
        if self._failure is not None:
            raise self._failure
        self._body.check_owner()
        try:
            if self._chunks is None:
                self._chunks = self._begin()
            chunk = next(self._chunks, None)
        except BaseException as error:
            self._failure = error  # an iterator that has raised would say next that it is at its end
            raise
        if chunk is None:
            self.verified = True
        else:
            self._taken += len(chunk)
        return chunk

    def _begin(self) -> Iterator[bytes]:
        if self._body.size <= WHOLE:
            return verified_chunks(self._body, self._body)
        hashed = verified_chunks(self._body, self._fetched.get_all())
        for name, channel, chunks in ("get", self._fetched, self._body), ("hash", self._hashed, hashed):
            threading.Thread(
                target=channel.put_all, args=(chunks,), name=f"fastcas-{name}", daemon=True
            ).start()
        return self._hashed.get_all()


def verified_chunks(body: Body, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """``chunks`` as they come, the last one when all are what ``body`` must be, else VerifyError."""
    digester = _core.Digester(body.digest.algorithm)
    held = b""
    size = 0
    for chunk in chunks:
        if held:
            yield held
        size += len(chunk)
        if size > body.size:
            raise _core.VerifyError("long", size, body.size)
        digester.update(chunk)
        held = chunk
    if size < body.size:
        raise _core.VerifyError("short", size, body.size)
    if (found := digester.hexdigest()) != body.digest.encoded:
        if body.is_of_two:  # no object has that digest
            raise body.gone()
        raise _core.VerifyError("mismatch", found, size)
    if held:
        yield held
