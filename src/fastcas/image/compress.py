"""Compressing a blob on its way into an engine: both digests in one pass, on several processors."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fastcas import _core
from fastcas.blocks import BlockSink
from fastcas.digest import Digest
from fastcas.errors import InvalidError, UnknownAlgorithmError, UnsupportedError
from fastcas.image.codec import (
    Codec,
    Decoder,
    Encoder,
    compressions,
    find_compression,
    layer_media_type,
    library,
    register_compression,
)
from fastcas.image.decompress import LIMIT, RATIO, RATIO_FLOOR, PlainReader, decompress
from fastcas.results import CompressedPutResult
from fastcas.source import Source, open_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from fastcas.contract import Progress
    from fastcas.engine import Engine

__all__ = [
    "LIMIT",
    "RATIO",
    "RATIO_FLOOR",
    "Codec",
    "Decoder",
    "Encoder",
    "PlainReader",
    "compressions",
    "decompress",
    "layer_media_type",
    "library",
    "put_compressed",
    "register_compression",
]

#: More threads than this are never used; with each, two blocks more are in memory.
MOST_THREADS = 8


def put_compressed(
    engine: Engine,
    source: Any,
    compress: str | None,
    level: int | None = None,
    *,
    algorithm: str = "sha256",
    expected_digest: str | None = None,
    expected_size: int | None = None,
    verify_existing: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
) -> CompressedPutResult:
    """``engine.put_blob(source, compress=compress, level=level, …)``.

    ``threads`` says how many compress, as many as there are processors for this process where it is
    None, MOST_THREADS at the most; the bytes don't depend on it. They run in this call only.
    """
    if compress is None:
        raise InvalidError("level is for compress=, which isn't given")
    codec = find_compression(compress)
    encoder = codec.encoder(codec.check_level(level))
    if expected_digest is not None and algorithm == "sha256":
        algorithm = Digest(expected_digest).algorithm
    if algorithm not in _core.algorithms():
        message = f"digest algorithm {algorithm!r} can't be computed here"
        raise UnknownAlgorithmError(message, algorithm=algorithm)
    if threads is None:
        threads = len(os.sched_getaffinity(0))
    with open_source(source) as plain:
        stream = _Stream(encoder, algorithm, min(threads, MOST_THREADS), progress, plain.size)
        result = engine.put_blob(
            Source(lambda sink: stream.run(plain, sink.write), name=plain.name),
            algorithm=algorithm,
            expected_digest=expected_digest,
            expected_size=expected_size,
            verify_existing=verify_existing,
        )
    return CompressedPutResult(result.digest, result.size, stream.diff_id, stream.size)


class _Stream(BlockSink):
    """From a source, block by block, to where compressed bytes go.

    All but ``encode`` happens in the thread that calls ``run``.
    """

    def __init__(
        self,
        encoder: Encoder,
        algorithm: str,
        threads: int,
        progress: Progress | None,
        total: int | None,
    ) -> None:
        self.size = 0
        self._encoder = encoder
        self._hash = _core.Digester(algorithm)
        self._threads = threads
        self._progress = progress
        self._total = total
        self._owner = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._queue: deque[Future[bytes]] = deque()
        self._put: Callable[[bytes], object]
        self._block = bytearray()
        self._used = 0
        self._before = b""

    @property
    def diff_id(self) -> Digest:
        """The digest of what was taken."""
        return Digest.of(self._hash.name, self._hash.hexdigest())

    def run(self, source: Source, put: Callable[[bytes], object]) -> None:
        """Takes all of ``source``; calls ``put`` with the compressed bytes, in order."""
        self._put = put
        try:
            put(self._encoder.begin())
            self._renew()
            source.feed(self)  # type: ignore[arg-type]
            self._finish()
        finally:
            self._queue.clear()
            if self._pool is not None:
                # The threads weren't copied into a forked child.
                self._pool.shutdown(wait=self._owner == os.getpid(), cancel_futures=True)

    def _took(self, count: int) -> None:
        self._used += count
        if self._used < len(self._block):
            return
        if self._owner != os.getpid():
            raise UnsupportedError("a put can't be continued in a forked child")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "fastcas-compress")
        block, before = self._leave()
        self._queue.append(self._pool.submit(self._encoder.encode, block, before))
        self._digest(block)
        self._renew()
        # One block that waits for each that is worked at keeps the threads busy.
        while len(self._queue) > 2 * self._threads:
            self._put(self._queue.popleft().result())

    def _finish(self) -> None:
        if self._owner != os.getpid():
            raise UnsupportedError("a put can't be continued in a forked child")
        last = b""
        if self._used:
            block, before = self._leave()
            last = self._encoder.encode(block, before)
            self._digest(block)
        while self._queue:
            self._put(self._queue.popleft().result())
        self._put(last)
        self._put(self._encoder.end(self.size))

    def _renew(self) -> None:
        # Never one that was used before: threads may still read it.
        self._block = bytearray(self._encoder.block_size)
        self._used = 0

    def _leave(self) -> tuple[memoryview, bytes]:
        """The block as it is now, and the window before it."""
        block, before = memoryview(self._block)[: self._used], self._before
        window = self._encoder.window
        self._before = bytes(block[-window:]) if window else b""
        return block, before

    def _digest(self, block: memoryview) -> None:
        self._encoder.note(block)
        self._hash.update(block)
        self.size += len(block)
        if self._progress is not None:
            self._progress(self.size, self._total)
