"""A proxy before an object store, which does to its requests what a test asks for, and counts them.

::

    with Proxy("127.0.0.1:7070", credentials=("key", "secret")) as proxy:
        proxy.rule("PUT", r"/index\\.json$", nth=1, drop_reply=True)
        ...  # the client uses proxy.url
        assert proxy.acted("drop_reply") == 1
        assert proxy.counts()["PUT"] == 2

By itself, for a benchmark: ``python proxy.py 127.0.0.1:7070 --delay 0.02`` prints its URL, and ends
with its standard input.
"""

from __future__ import annotations

import argparse
import re
import select
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime

from messages import PIECE, UNTIL_END, Ended, Head, Stream
from signing import sign_again

OPERATIONS = (None, "GET", "HEAD", "PUT", "POST", "DELETE", "LIST")
CONDITIONS = ("if-match", "if-none-match")
CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
SLOW_PIECE = 16 << 10


@dataclass
class Faults:
    """What is done to one request; the fields are the keywords of ``Proxy.rule``."""

    # Called with the Request: before the server gets it; when it has answered, before the client hears.
    before: Callable[[Request], object] | None = None
    after: Callable[[Request], object] | None = None
    # The connection is closed when the server has answered; or this status is told instead of its own.
    drop_reply: bool = False
    fail_after: int | None = None
    # This status is told, and the server hears nothing.
    fail_before: int | None = None
    # Both connections end after so many bytes of the body; of a reply only where it is 200 or 206, as
    # with all that changes its body.
    cut_request: int | None = None
    cut_reply: int | None = None
    # Seconds before the request goes on; seconds for each MiB of both bodies.
    delay: float = 0
    slow: float = 0
    # The offset of a byte of the reply's body that is flipped; from the end if negative.
    corrupt: int | None = None
    # By how many bytes the reply's body is shorter, and so is its Content-Length. With `admitted` its
    # Content-Range says it too.
    truncate_range: int | None = None
    admitted: bool = False
    # Seconds by which the server's clock is ahead: in Date, Last-Modified, and the times of a listing.
    skew: float = 0
    # A server that ignores If-Match and If-None-Match; or one that judges them, waits for so many
    # seconds and writes then. The proxy needs the credentials for both: the conditions are signed.
    strip_conditions: bool = False
    check_then_write: float | None = None


FAULTS = {one.name for one in fields(Faults)}


@dataclass
class Request:
    """What the proxy saw of one. ``operation`` is the method, or LIST for a GET that lists."""

    operation: str
    method: str
    path: str
    query: str
    answered: int | None = None  # what the server said
    status: int | None = None  # what the client was told
    received: int = 0  # bytes of the body from the client
    sent: int = 0  # and to it
    acted: list[str] = field(default_factory=list)  # the faults that took place

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path


class _Rule:
    def __init__(self, operation, pattern, nth, faults):
        self._operation = operation
        self._pattern = re.compile(pattern)
        self._nth = nth
        self.faults = faults
        self._seen = 0

    def holds(self, request: Request) -> bool:
        if self._operation not in (None, request.operation):
            return False
        if not self._pattern.search(request.target):
            return False
        self._seen += 1
        return self._nth is None or self._seen in self._nth


class Proxy:
    """Listens on a port of its own, ``url``, before ``upstream``, "host:port". ``credentials``, the
    access and the secret key, are for the faults that change what is signed."""

    def __init__(self, upstream: str, *, credentials: tuple[str, str] | None = None):
        host, _, port = upstream.rpartition(":")
        self.upstream = host, int(port)
        self.credentials = credentials
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._requests: list[Request] = []
        self._open: dict[threading.Thread, _Connection] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._accepting.start()

    def rule(self, operation: str | None = None, pattern: str = "", *, nth=None, **faults) -> None:
        """Do ``faults`` to the requests of ``operation`` (of each, without one) in whose path and query
        ``pattern`` is found; only to the nth of these, from 1, or to those of ``nth``, a range or set.
        All the rules that hold for a request act on it; of two that say the same, the later."""
        if not faults.keys() <= FAULTS:
            raise TypeError(f"no such faults: {sorted(faults.keys() - FAULTS)}")
        if operation not in OPERATIONS:
            raise ValueError(f"no such operation: {operation}")
        if isinstance(nth, int):
            nth = {nth}
        with self._lock:
            self._rules.append(_Rule(operation, pattern, nth, faults))

    def clear(self) -> None:
        """Forget the rules and the requests."""
        with self._lock:
            self._rules.clear()
            self._requests.clear()

    @property
    def requests(self) -> list[Request]:
        """Those so far, in the order in which they came."""
        with self._lock:
            return list(self._requests)

    def counts(self) -> Counter[str]:
        """How many there were of each operation."""
        return Counter(request.operation for request in self.requests)

    def acted(self, fault: str) -> int:
        """How many requests this fault took place in."""
        if fault not in FAULTS:
            raise ValueError(fault)
        return sum(fault in request.acted for request in self.requests)

    def begin(self, request: Request) -> Faults:
        with self._lock:
            self._requests.append(request)
            chosen = {}
            for rule in self._rules:
                if rule.holds(request):
                    chosen.update(rule.faults)
        return Faults(**chosen)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self.closing.is_set():
                    return
                raise
            connection = _Connection(self, sock)
            thread = threading.Thread(target=self._serve, args=[connection], daemon=True)
            with self._lock:
                self._open[thread] = connection
            thread.start()

    def _serve(self, connection: _Connection) -> None:
        try:
            connection.run()
        finally:
            connection.close()
            with self._lock:
                del self._open[threading.current_thread()]

    def close(self) -> None:
        self.closing.set()
        with suppress(OSError):  # accept() doesn't wake up from a mere close
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            left = list(self._open.items())
        for thread, connection in left:
            connection.interrupt()
            thread.join()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Cut(Exception):
    """Both connections are to end here."""


class _Connection:
    """One of a client, and that to the server which belongs to it."""

    def __init__(self, proxy: Proxy, sock: socket.socket):
        self._proxy = proxy
        self._client = Stream(sock)
        self._server: Stream | None = None

    def run(self) -> None:
        # Whoever goes away in the middle of something takes the other side along.
        with suppress(OSError, Ended, _Cut):
            while (head := self._client.head()) is not None:
                if not self._exchange(head):
                    return

    def interrupt(self) -> None:
        for stream in (self._client, self._server):
            if stream is not None:
                with suppress(OSError):
                    stream.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._client.close()
        self._leave_server()

    def _leave_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reach_server(self) -> Stream:
        # What can be read between two replies is the end of the connection.
        if self._server is not None and _readable(self._server, wait=0):
            self._leave_server()
        if self._server is None:
            self._server = Stream(socket.create_connection(self._proxy.upstream))
            if self._proxy.closing.is_set():  # interrupt() came too early for this one
                raise _Cut
        return self._server

    def _wait(self, seconds: float) -> None:
        if seconds and self._proxy.closing.wait(seconds):
            raise _Cut

    # ---- one request ----

    def _exchange(self, head: Head) -> bool:
        """Whether the client may send another request."""
        request = _request(head)
        faults = self._proxy.begin(request)
        if faults.before:
            request.acted.append("before")
            faults.before(request)
        if faults.delay:
            request.acted.append("delay")
            self._wait(faults.delay)
        refusal = faults.fail_before
        if refusal:
            request.acted.append("fail_before")
        elif not self._judge(head, request, faults):
            refusal = 412
        if refusal:
            return self._refuse(refusal, head, request)
        reply, in_step = self._ask(head, request, faults)
        goes_on = self._pass_on(reply, head, request, faults)
        if not in_step:
            self._leave_server()
        return goes_on and not head.closes

    def _judge(self, head: Head, request: Request, faults: Faults) -> bool:
        """Takes the conditions away where a rule says so; False where they were judged, and fail."""
        said = {name: head.get(name) for name in CONDITIONS if head.get(name) is not None}
        judged = faults.check_then_write is not None
        if not said or not (judged or faults.strip_conditions):
            return True
        holds = True
        if judged:
            request.acted.append("check_then_write")
            etag = self._look_up_etag(head)
            holds = said.get("if-match", etag) == etag and (etag is None or "if-none-match" not in said)
            self._wait(faults.check_then_write)
        else:
            request.acted.append("strip_conditions")
        for name in said:
            head.remove(name)
        self._sign(head)
        return holds

    def _sign(self, head: Head) -> None:
        if head.get("authorization") is not None:
            if self._proxy.credentials is None:
                raise ValueError("conditions are signed, and the proxy has no credentials")
            sign_again(head, *self._proxy.credentials)

    def _look_up_etag(self, head: Head) -> str | None:
        ask = Head(f"HEAD {head.path} HTTP/1.1\r\n".encode() + bytes(head).partition(b"\r\n")[2])
        ask.keep_only({"host", "x-amz-date", "authorization", "x-amz-security-token"})
        ask.set("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        self._sign(ask)
        server = self._reach_server()
        server.send(bytes(ask))
        reply = self._final_head(server)
        if reply.closes:
            self._leave_server()
        return reply.get("etag") if reply.status == 200 else None

    def _refuse(self, status: int, head: Head, request: Request) -> bool:
        closes = head.closes or head.get("expect") is not None  # will it send the body or not?
        if not closes:
            for _ in self._receive(head, request):
                pass
        self._tell(status, request, closes)
        return not closes

    def _tell(self, status: int, request: Request, closes: bool = False) -> None:
        code = CODES.get(status, "InternalError")
        body = f"<Error><Code>{code}</Code><Message>said by the proxy</Message></Error>".encode()
        lines = [f"HTTP/1.1 {status} {code}", f"Content-Length: {len(body)}"]
        if closes:
            lines.append("Connection: close")
        if request.method == "HEAD":
            body = b""
        request.status = status
        request.sent += len(body)
        self._client.send("\r\n".join([*lines, "", ""]).encode() + body)

    def _receive(self, head: Head, request: Request) -> Iterator[tuple[memoryview, bool]]:
        for piece, content in self._client.pieces(head.body):
            if content:
                request.received += len(piece)
            yield piece, content

    def _ask(self, head: Head, request: Request, faults: Faults) -> tuple[Head, bool]:
        """Sends the request on; returns the head of the reply, and whether the server, having had the
        whole request, may be asked again."""
        server = self._reach_server()
        self._client.most = server.most = SLOW_PIECE if faults.slow else PIECE
        server.send(bytes(head))
        # Who expects a word of the server before the body may also lose patience, and send it.
        if head.get("expect") is not None and server.fileno() in _readable(server, self._client):
            reply = self._next_head(server)
            if reply is not None:
                reply.set("Connection", "close")
                return reply, False
        body = self._receive(head, request)
        reply = self._send_body(body, server, request, faults)
        if reply is None:
            return self._final_head(server), True
        for _ in body:  # a client that is still sending would miss the reply
            pass
        return reply, False

    def _send_body(self, body, server: Stream, request: Request, faults: Faults) -> Head | None:
        """The reply, where the server gives it before it has the whole body."""
        position = 0
        for piece, content in body:
            if content:
                if faults.cut_request is not None and position + len(piece) > faults.cut_request:
                    server.send(piece[: faults.cut_request - position])
                    request.acted.append("cut_request")
                    self._client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    raise _Cut
                position += len(piece)
                self._pace(piece, request, faults)
            if _readable(server, wait=0) and (reply := self._next_head(server)) is not None:
                return reply
            try:
                server.send(piece)
            except OSError:
                return self._final_head(server)
        return None

    def _pace(self, piece: memoryview, request: Request, faults: Faults) -> None:
        if faults.slow:
            if "slow" not in request.acted:
                request.acted.append("slow")
            self._wait(faults.slow * len(piece) / (1 << 20))

    def _next_head(self, server: Stream) -> Head | None:
        """None for one that isn't final, which the client gets at once."""
        reply = server.head()
        if reply is None:
            raise Ended
        if reply.status >= 200:
            return reply
        self._client.send(bytes(reply))
        return None

    def _final_head(self, server: Stream) -> Head:
        while (reply := self._next_head(server)) is None:
            pass
        return reply

    # ---- its reply ----

    def _pass_on(self, reply: Head, head: Head, request: Request, faults: Faults) -> bool:
        """Whether both connections may be used again."""
        request.answered = reply.status
        length = 0 if head.method == "HEAD" or reply.status in (204, 304) else reply.body
        body = self._server.pieces(length)
        if faults.drop_reply or faults.fail_after:
            for _ in body:
                pass
        if faults.after:
            request.acted.append("after")
            faults.after(request)
        if faults.drop_reply:
            request.acted.append("drop_reply")
            raise _Cut
        if faults.fail_after:
            request.acted.append("fail_after")
            self._tell(faults.fail_after, request)
        else:
            if faults.skew:
                body = self._shift_times(reply, body, request, faults.skew)
            if reply.status in (200, 206) and length:
                body = self._spoil(reply, body, request, faults)
            request.status = reply.status
            self._client.send(bytes(reply))
            for piece, content in body:
                if content:
                    self._pace(piece, request, faults)
                    request.sent += len(piece)
                self._client.send(piece)
        if reply.closes:
            self._leave_server()
        return length != UNTIL_END and (bool(faults.fail_after) or not reply.closes)

    def _shift_times(self, reply: Head, body, request: Request, seconds: float):
        request.acted.append("skew")
        ahead = timedelta(seconds=seconds)
        for name in ("date", "last-modified"):
            said = reply.get(name)
            if said is not None:
                reply.set(name, format_datetime(parsedate_to_datetime(said) + ahead, usegmt=True))
        if request.operation != "LIST" or reply.status != 200:
            return body

        def shifted(found: re.Match[bytes]) -> bytes:
            time = datetime.strptime(found[2].decode(), "%Y-%m-%dT%H:%M:%S") + ahead
            return found[1] + time.strftime("%Y-%m-%dT%H:%M:%S").encode()

        whole = b"".join(bytes(piece) for piece, content in body if content)
        # The fraction of a second and the zone stay as they are.
        whole = re.sub(rb"(<LastModified>)([0-9-]{10}T[0-9:]{8})", shifted, whole)
        reply.remove("transfer-encoding")
        reply.set("Content-Length", str(len(whole)))
        return [(memoryview(bytearray(whole)), True)]

    def _spoil(self, reply: Head, body, request: Request, faults: Faults):
        """The body as it is to be; changes the head now."""
        length = reply.body
        end = None
        if faults.truncate_range and length > 0:
            request.acted.append("truncate_range")
            end = max(0, length - faults.truncate_range)
            reply.set("Content-Length", str(end))
            if faults.admitted:
                _admit(reply, faults.truncate_range)
        flip = faults.corrupt
        if flip is not None and flip < 0:
            flip += length if length > 0 else 0
        return self._spoiled(body, request, faults.cut_reply, flip, end)

    @staticmethod
    def _spoiled(body, request: Request, cut: int | None, flip: int | None, end: int | None):
        position = 0
        for piece, content in body:
            if not content:
                yield piece, False
                continue
            if flip is not None and position <= flip < position + len(piece):
                piece[flip - position] ^= 0xFF
                request.acted.append("corrupt")
            if cut is not None and position + len(piece) > cut:
                request.acted.append("cut_reply")
                yield piece[: cut - position], True
                raise _Cut
            if end is None or position < end:
                yield piece if end is None else piece[: end - position], True
            position += len(piece)


def _readable(*streams: Stream, wait: int | None = None) -> set[int]:
    """The descriptors of those that can be read, or have ended; waits for one, ``wait`` ms."""
    poll = select.poll()
    for stream in streams:
        poll.register(stream, select.POLLIN)
    return {number for number, _ in poll.poll(wait)}


def _request(head: Head) -> Request:
    lists = head.method == "GET" and "list-type=" in head.query
    return Request("LIST" if lists else head.method, head.method, head.path, head.query)


def _admit(reply: Head, fewer: int) -> None:
    said = re.fullmatch(r"bytes (\d+)-(\d+)/(\S+)", reply.get("content-range") or "")
    if said:
        reply.set("Content-Range", f"bytes {said[1]}-{int(said[2]) - fewer}/{said[3]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="a proxy that makes an object store slow")
    parser.add_argument("upstream", help="HOST:PORT of the server")
    parser.add_argument("--delay", type=float, default=0, help="seconds before each request")
    parser.add_argument("--slow", type=float, default=0, help="seconds for each MiB")
    options = parser.parse_args()
    with Proxy(options.upstream) as proxy:
        proxy.rule(delay=options.delay, slow=options.slow)
        print(proxy.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
