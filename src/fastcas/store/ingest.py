"""One put: who knows the digest sends the content to its key, who doesn't finds it out first.

An upload of many parts is hashed while it is sent, and its end is held back until size and digest were
found right: a wrong one is aborted, and nothing was published.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastcas import _core
from fastcas.blocks import BlockSink
from fastcas.digest import Digest
from fastcas.errors import CorruptError, NotExistError, UnsupportedError
from fastcas.expected import check_algorithm, check_content, too_long
from fastcas.files import write_all
from fastcas.source import Source, open_source, read_small
from fastcas.store.bucket import MOST_PARTS, PART, PARTS_AT_ONCE, Missing
from fastcas.store.budget import Budget, Share
from fastcas.store.channel import Channel, ChannelClosed
from fastcas.store.reader import WHOLE, ObjectReader
from fastcas.store.sweep import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastcas.contract import Progress
    from fastcas.reader import BlobReader
    from fastcas.store.bucket import Bucket
    from fastcas.store.sweep import Sweeps

#: What is stored again without a question: that is one request, as the question would be, and heals it.
ALWAYS_PUT = WHOLE

#: Content up to this is read once, held in memory while it is hashed, and then sent.
IN_MEMORY = 8 * PART

#: Of an upload, what is in memory at the most; and of all uploads of an engine.
_MEMORY = (PARTS_AT_ONCE + 4) * PART
_MEMORY_OF_ALL = 2 * _MEMORY

# How long an upload that is given up waits for the parts that are on their way, in seconds.
_LEAVE = 10.0
_NAP = 0.01

_PROGRESS = 1 << 20
_MIB = 1 << 20


class Ingest:
    """Puts blobs into a bucket."""

    def __init__(self, bucket: Bucket, sweeps: Sweeps) -> None:
        self._bucket = bucket
        self._sweeps = sweeps
        self._memory = Budget(_MEMORY_OF_ALL, reserve=_MEMORY)

    def put(
        self,
        source: Any,
        *,
        algorithm: str = "sha256",
        expected_digest: Digest | None = None,
        expected_size: int | None = None,
        verify_existing: bool = False,
        progress: Progress | None = None,
    ) -> tuple[Digest, int]:
        """See ``Engine.put_blob``."""
        check_algorithm(algorithm)
        content = source if type(source) is bytes else read_small(source)
        if content is not None and len(content) <= ALWAYS_PUT:
            hasher = _core.Digester(algorithm)
            hasher.update(content)
            digest = Digest.of(algorithm, hasher.hexdigest())
            check_content(digest, len(content), expected_digest, expected_size)
            self._put_small(digest, content)
            if progress is not None:
                progress(len(content), len(content))
            return digest, len(content)
        with open_source(source) as opened:
            put = Put(algorithm, expected_digest, expected_size, verify_existing, progress, opened)
            size = opened.size if expected_size is None else expected_size
            if expected_digest is not None and size is not None and size > PART:
                return self._put_known(opened, put, expected_digest, size)
            if size is None or size <= IN_MEMORY or opened.rewind is None:
                return self._put_gathered(opened, put)
            digest, size = put.hash(opened)
            if not self.claim(digest, size, verify_existing):
                opened.rewind()
                with self._memory.take(_MEMORY):
                    self._send(opened, put, digest, size)
            put.tell(size)
            return digest, size

    def put_copy(
        self, blob: BlobReader, *, verify: bool = False, progress: Progress | None = None
    ) -> str:
        """See ``Engine.put_copy``."""
        digest, size = blob.digest, blob.size
        check_algorithm(digest.algorithm)
        if size > ALWAYS_PUT or verify:
            found = self._claim(digest, size, verify)
            if found:
                return "exists"
            # What the server copies nobody verifies: it takes the place of nothing.
            unread = found is None and not verify
            if unread and isinstance(blob, ObjectReader) and blob.copy_to(self._bucket):
                return "server-copy"
        with open_source(blob) as opened:
            opened.size = size
            put = Put(digest.algorithm, digest, size, verify, progress, opened)
            if size > PART:
                with self._memory.take(_MEMORY):
                    self._send(opened, put, digest, size)
            else:
                self._send_whole(opened, put, digest, size)
            put.tell(size)
        return "copy"

    def claim(self, digest: Digest, size: int, verify: bool) -> bool:
        """Whether the blob is stored, with that size, and with that content if ``verify``. Then it is
        marked as used now, so that no gc takes it; nor, if not, what is stored next."""
        return bool(self._claim(digest, size, verify))

    def _claim(self, digest: Digest, size: int, verify: bool) -> bool | None:
        """None where nothing is stored."""
        quiet_until = self._sweeps.quiet_until()
        found = self._is_stored_right(digest, size, verify)
        if found is not None:  # what is wrong is replaced, which no sweep may take either
            self._sweeps.mark(digest)
        settled = self._sweeps.settle(digest, quiet_until)
        if found and not settled and not self._is_stored(digest):
            return None  # a sweep has taken it
        return found

    def _is_stored_right(self, digest: Digest, size: int, verify: bool) -> bool | None:
        """None where it isn't stored."""
        try:
            if self._bucket.head(key_of(digest))["size"] != size:
                return False
            return not verify or self._is_right(digest)
        except Missing:
            return None

    def _is_right(self, digest: Digest) -> bool:
        found = self._bucket.get(key_of(digest))
        try:
            with ObjectReader(self._bucket, digest, found) as reader:
                reader.verify()
        except (CorruptError, NotExistError):  # or it was removed, or stored anew, while it was read
            return False
        return True

    def _put_known(self, source: Source, put: Put, digest: Digest, size: int) -> tuple[Digest, int]:
        if self.claim(digest, size, put.verify_existing):
            found = put.hash(source)
            put.tell(size)
            return found
        with self._memory.take(_MEMORY, wait=_is_at_hand(source)) as taken:
            if taken:
                self._send(source, put, digest, size)
        if not taken:
            return self._put_gathered(source, put)
        put.tell(size)
        return digest, size

    def _send_whole(self, source: Source, put: Put, digest: Digest, size: int) -> None:
        """The same as ``_send`` of what goes in one request."""
        blocks: list[memoryview] = []
        with self._memory.take(size):
            put.feed(source, blocks.append)
            self._put_small(digest, blocks[0] if blocks else b"")

    def _put_gathered(self, source: Source, put: Put) -> tuple[Digest, int]:
        with Gathered(self._memory) as gathered:
            if _is_at_hand(source):
                gathered.reserve(min(source.size or 0, IN_MEMORY))
            digest, size = put.feed(source, gathered.add)
            if gathered.file is None:
                self._put_blocks(digest, size, gathered.blocks, put.verify_existing)
            elif not self.claim(digest, size, put.verify_existing):
                gathered.file.seek(0)
                with open_source(gathered.file) as spooled, self._memory.take(_MEMORY):
                    self._send(spooled, put, digest, size)
        put.tell(size)
        return digest, size

    def _put_blocks(self, digest: Digest, size: int, blocks: list[memoryview], verify: bool) -> None:
        """Stores what is in memory, in blocks of PART bytes."""
        if size > ALWAYS_PUT and self.claim(digest, size, verify):
            return
        if len(blocks) > 1:
            self._bucket.upload(key_of(digest), iter(blocks), PART)
        else:
            self._put_small(digest, blocks[0] if blocks else b"")

    def _put_small(self, digest: Digest, content: bytes | memoryview) -> None:
        while True:
            quiet_until = self._sweeps.quiet_until()
            self._bucket.put(key_of(digest), content)
            if self._sweeps.settle(digest, quiet_until) or self._is_stored(digest):
                return

    def _is_stored(self, digest: Digest) -> bool:
        try:
            self._bucket.head(key_of(digest))
        except Missing:
            return False
        return True

    def _send(self, source: Source, put: Put, digest: Digest, size: int) -> None:
        """Sends what is known to be ``digest``, or said to be: what isn't is never published. The
        caller has taken the memory."""
        part = max(PART, -(-size // MOST_PARTS // _MIB) * _MIB)
        with Upload(self._bucket, key_of(digest), part) as upload:
            found, count = put.feed(source, upload.give)
            check_content(found, count, digest, size)
            upload.end()


class Put:
    """What was asked of one put, and what is seen of its source."""

    def __init__(
        self,
        algorithm: str,
        expected_digest: Digest | None,
        expected_size: int | None,
        verify_existing: bool,
        progress: Progress | None,
        source: Source,
    ) -> None:
        self.verify_existing = verify_existing
        self._algorithm = algorithm
        self._expected_digest = expected_digest
        self._expected_size = expected_size
        self._progress = progress
        self._total = source.size
        self._told = 0

    def hash(self, source: Source) -> tuple[Digest, int]:
        """Digest and size of the source, which are what was expected."""
        limit = -1 if self._expected_size is None else self._expected_size
        expected = -1 if source.size is None else source.size
        # What is hashed isn't sent yet; but who wants progress may also want to stop.
        watch = None if self._progress is None else lambda *_: self._tell(self._told)
        sink = _core.Sink(-1, self._algorithm, expected=expected, limit=limit, progress=watch)
        try:
            source.feed(sink)
            encoded, size = sink.finish()
        except _core.LimitError:
            raise self._too_long(sink.size) from None
        except _core.ForkedError as error:
            raise UnsupportedError("a put can't be continued in a forked child") from error
        except OSError as error:
            raise _named(error, source) from error.__cause__
        finally:
            sink.abort()
        return self._checked(Digest.of(self._algorithm, encoded), size)

    def feed(self, source: Source, deliver: Callable[[memoryview], None]) -> tuple[Digest, int]:
        """Hands the source on, block by block; returns digest and size, which are what was expected."""
        hasher = _Hasher(self._algorithm, deliver, self, source.size)
        try:
            source.feed(hasher)  # type: ignore[arg-type]
        except OSError as error:
            raise _named(error, source) from error.__cause__
        return self._checked(*hasher.finish())

    def check_size(self, size: int) -> None:
        """Raises as soon as the source is longer than was expected."""
        if self._expected_size is not None and size > self._expected_size:
            raise self._too_long(size)

    def tell(self, done: int) -> None:
        """Reports progress, about once a MiB, and never back."""
        if self._progress is not None and done > self._told:
            self._tell(done)

    def _tell(self, done: int) -> None:
        self._told = done
        self._progress(done, self._total)  # type: ignore[misc]

    def _checked(self, digest: Digest, size: int) -> tuple[Digest, int]:
        check_content(digest, size, self._expected_digest, self._expected_size)
        return digest, size

    def _too_long(self, size: int) -> Exception:
        return too_long(self._expected_digest, self._expected_size, size)


def _named(error: OSError, source: Source) -> OSError:
    if error.errno is not None and error.filename is None and source.name is not None:
        error.filename = source.name
    return error


class _Hasher(BlockSink):
    """Hashes what comes and delivers it in blocks of PART bytes."""

    def __init__(
        self,
        algorithm: str,
        deliver: Callable[[memoryview], None],
        put: Put,
        size: int | None,
    ) -> None:
        self._hash = _core.Digester(algorithm)
        self._deliver = deliver
        self._put = put
        self._size = 0
        self._told = 0
        self._owner = os.getpid()
        # One byte more than is expected, so that the end is met without a second block.
        self._block = _new_block(PART if size is None or size > PART else size + 1)
        self._used = 0
        self._delivered: list[tuple[weakref.ref[memoryview], bytearray | mmap.mmap]] = []

    def _took(self, count: int) -> None:
        self._used += count
        self._size += count
        self._put.check_size(self._size)
        if self._used == len(self._block):
            self._flush()
            self._block = self._next_block()
        if self._size - self._told >= _PROGRESS:
            self._told = self._size
            self._put.tell(self._size)

    def _check_owner(self) -> None:
        if self._owner != os.getpid():
            raise UnsupportedError("a put can't be continued in a forked child")

    def _flush(self) -> None:
        self._check_owner()
        view = memoryview(self._block)[: self._used]
        self._hash.update(view)
        self._delivered.append((weakref.ref(view), self._block))
        self._deliver(view)
        self._used = 0

    def _next_block(self) -> bytearray | mmap.mmap:
        """One of those before that nobody looks at any more: a new one would have to be cleared."""
        for one in self._delivered:
            view, block = one
            if view() is None and len(block) == PART:
                self._delivered.remove(one)
                return block
        return _new_block(PART)

    def finish(self) -> tuple[Digest, int]:
        self._check_owner()  # there may be nothing to flush
        if self._used:
            self._flush()
        return Digest.of(self._hash.name, self._hash.hexdigest()), self._size


def _is_at_hand(source: Source) -> bool:
    """Whether it gives its bytes whatever others wait for, as files and memory do, whose size is known.
    What is fed by somebody, as a pipe is, may give none while another source of the same feeder waits
    to be read."""
    return source.size is not None


def _new_block(size: int) -> bytearray | mmap.mmap:
    if size <= _MIB:
        return bytearray(size)
    # What malloc has given to one of many threads it keeps when it is free.
    block = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        block.madvise(mmap.MADV_HUGEPAGE)  # small pages cost a fault each, a quarter of a put's work
    return block


class Gathered:
    """Content whose digest isn't known yet: first in memory, as far as ``budget`` goes, then in a file
    without a name."""

    def __init__(self, budget: Budget) -> None:
        self.file: Any = None
        self.blocks: list[memoryview] = []
        self._share = Share(budget)
        self._size = 0

    def __enter__(self) -> Gathered:
        return self

    def __exit__(self, *_: object) -> None:
        self._share.give_back()
        if self.file is not None:
            self.file.close()

    def reserve(self, size: int) -> None:
        """Waits until so many bytes may be in memory."""
        self._share.grow(size)

    def add(self, block: memoryview) -> None:
        self._size += len(block)
        if self.file is None and self._size <= IN_MEMORY and self._has_room():
            self.blocks.append(block)
            return
        if self.file is None:
            self.file = tempfile.TemporaryFile(buffering=0, prefix="fastcas-")  # noqa: SIM115
            for earlier in self.blocks:
                self._write(earlier)
            self.blocks.clear()
            self._share.give_back()
        self._write(block)

    def _has_room(self) -> bool:
        more = self._size - self._share.size
        return more <= 0 or self._share.grow(more, wait=False)

    def _write(self, block: memoryview) -> None:
        try:
            write_all(self.file.fileno(), block)
        except OSError as error:
            if error.filename is None:
                error.filename = tempfile.gettempdir()
            raise


class Upload:
    """Blocks on their way to a key, sent by a thread. Left without ``end``, the upload is aborted, and
    nothing was published."""

    def __init__(self, bucket: Bucket, key: str, part: int) -> None:
        self._bucket = bucket
        self._key = key
        self._part = part
        self._blocks = Channel(1)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fastcas-put", daemon=True)

    def __enter__(self) -> Upload:
        try:
            self._thread.start()
        except BaseException:  # an interrupt: it may be running
            self._blocks.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._blocks.close()
        self._thread.join()

    def give(self, block: memoryview) -> None:
        if not self._blocks.put(block):
            self._finish()

    def end(self) -> None:
        """On return the object is there, of all the blocks."""
        self._blocks.put(None)
        self._finish()

    def _finish(self) -> None:
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._bucket.upload(self._key, self._give_all(), self._part)
        except BaseException as error:
            self._failure = error
        finally:
            self._blocks.close()

    def _give_all(self) -> Iterator[memoryview]:
        """The blocks, for the client, which aborts the upload when there is no end. A part that came
        after that would lie in the store, hidden, for ever: so first those on their way may come."""
        given: list[weakref.ref[memoryview]] = []
        while True:
            try:
                block = self._blocks.get()
            except ChannelClosed:
                break
            if block is None:
                return
            given = [view for view in given if view() is not None]
            given.append(weakref.ref(block))
            yield block
            del block  # else it would be seen as on its way
        until = time.monotonic() + _LEAVE
        while any(view() is not None for view in given) and time.monotonic() < until:
            time.sleep(_NAP)
        raise ChannelClosed
