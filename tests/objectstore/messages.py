"""HTTP/1.1 messages on a socket: heads that stay as they came, unless changed; bodies in pieces."""

from __future__ import annotations

import socket
from collections.abc import Iterator

PIECE = 256 << 10
LIMIT = 1 << 20  # of a head, or of a line between chunks
CHUNKED = -1
UNTIL_END = -2


class Ended(Exception):
    """The other side has closed the connection in the middle of a message."""


class Head:
    """The first line and the headers of a request or reply."""

    def __init__(self, raw: bytes):
        first, *self._lines = raw.decode("latin-1").split("\r\n")
        self._first = first.split(" ", 2)
        while self._lines and not self._lines[-1]:
            self._lines.pop()

    def __bytes__(self) -> bytes:
        return "\r\n".join([" ".join(self._first), *self._lines, "", ""]).encode("latin-1")

    # Of a request.

    @property
    def method(self) -> str:
        return self._first[0]

    @property
    def path(self) -> str:
        return self._first[1].partition("?")[0]

    @property
    def query(self) -> str:
        return self._first[1].partition("?")[2]

    # Of a reply.

    @property
    def status(self) -> int:
        return int(self._first[1])

    # Of both. The case of names doesn't matter.

    def _find(self, name: str) -> int | None:
        for number, line in enumerate(self._lines):
            if line.partition(":")[0].lower() == name.lower():
                return number
        return None

    def get(self, name: str) -> str | None:
        number = self._find(name)
        return None if number is None else self._lines[number].partition(":")[2].strip()

    def set(self, name: str, value: str) -> None:
        self.remove(name)
        self._lines.append(f"{name}: {value}")

    def remove(self, name: str) -> bool:
        """Whether it was there."""
        number = self._find(name)
        if number is None:
            return False
        del self._lines[number]
        return True

    def keep_only(self, names: set[str]) -> None:
        """``names`` in lower case."""
        self._lines = [line for line in self._lines if line.partition(":")[0].lower() in names]

    @property
    def closes(self) -> bool:
        return "HTTP/1.0" in self._first or (self.get("connection") or "").lower() == "close"

    @property
    def body(self) -> int:
        """How long the body of a request is, or that of a reply unless request or status forbid one:
        bytes, CHUNKED or UNTIL_END."""
        if (self.get("transfer-encoding") or "").lower().endswith("chunked"):
            return CHUNKED
        length = self.get("content-length")
        if length is not None:
            return int(length)
        return UNTIL_END if self._first[0].startswith("HTTP/") else 0


class Stream:
    """One side of a connection."""

    def __init__(self, sock: socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.most = PIECE  # bytes in a piece
        self._memory = memoryview(bytearray(PIECE))
        self._rest = bytearray()  # received behind the head that was asked for

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, data) -> None:
        self.sock.sendall(data)

    def _through(self, mark: bytes) -> bytes:
        """Everything up to ``mark`` and with it; b"" where the other side ended before."""
        while (at := self._rest.find(mark)) < 0:
            if len(self._rest) > LIMIT:
                raise ValueError(f"no {mark!r} in {LIMIT} bytes")
            more = self.sock.recv(PIECE)
            if not more:
                if self._rest:
                    raise Ended
                return b""
            self._rest += more
        end = at + len(mark)
        found = bytes(self._rest[:end])
        del self._rest[:end]
        return found

    def head(self) -> Head | None:
        """The next head; None where the other side has ended."""
        raw = self._through(b"\r\n\r\n")
        return Head(raw) if raw else None

    def _line(self) -> memoryview:
        line = self._through(b"\r\n")
        if not line:
            raise Ended
        return memoryview(bytearray(line))

    def _some(self, most: int) -> memoryview:
        most = min(most, self.most)
        if self._rest:
            piece = memoryview(self._rest[:most])
            del self._rest[:most]
            return piece
        return self._memory[: self.sock.recv_into(self._memory[:most])]

    def _exactly(self, count: int) -> Iterator[memoryview]:
        while count:
            piece = self._some(count)
            if not piece:
                raise Ended
            count -= len(piece)
            yield piece

    def pieces(self, body: int) -> Iterator[tuple[memoryview, bool]]:
        """The body as it comes: bytes, writable and good until the next are asked for, and whether they
        are content or what frames the chunks."""
        if body == UNTIL_END:
            while piece := self._some(PIECE):
                yield piece, True
        elif body == CHUNKED:
            while True:
                line = self._line()
                yield line, False
                count = int(bytes(line).partition(b";")[0], 16)
                if not count:
                    break
                for piece in self._exactly(count):
                    yield piece, True
                yield self._line(), False
            while (line := self._line()) != b"\r\n":
                yield line, False
            yield line, False
        else:
            for piece in self._exactly(body):
                yield piece, True

    def close(self) -> None:
        self.sock.close()
