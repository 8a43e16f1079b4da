"""A small server of objects in memory, for the tests of the proxy."""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

THEN = 1_700_000_000  # when all objects were put, and what time it is: 2023-11-14 22:13:20 GMT


class Origin(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.heads: list[list[tuple[str, str]]] = []  # the headers of each request, as they came
        self.unfinished = 0  # bodies whose end didn't come
        self.one_at_a_time = threading.Lock()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def date_time_string(self, timestamp=None):
        return formatdate(THEN, usegmt=True)

    def parse_request(self):
        parsed = super().parse_request()
        if parsed:
            self.server.heads.append(list(self.headers.raw_items()))
        return parsed

    def handle_expect_100(self):
        if "refused" in self.path:
            self.close_connection = True
            self._answer(413)
            return False
        return super().handle_expect_100()

    def _body(self) -> bytes | None:
        if self.headers["Transfer-Encoding"] == "chunked":
            whole = b""
            while count := int(self.rfile.readline().partition(b";")[0], 16):
                whole += self.rfile.read(count)
                self.rfile.readline()
            while self.rfile.readline() != b"\r\n":  # trailers
                pass
            return whole
        count = int(self.headers["Content-Length"])
        whole = self.rfile.read(count)
        return whole if len(whole) == count else None

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            body = b"".join(b"%x;some=thing\r\n%b\r\n" % (len(part), part) for part in _parts(body))
            body += b"0\r\nTrailer: here\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        if self.path == "/refused-early":
            self.close_connection = True
            self._answer(413)
            self.rfile.read(int(self.headers["Content-Length"]))
            return
        body = self._body()
        if body is None:
            self.server.unfinished += 1
            self.close_connection = True
            return
        objects = self.server.objects
        with self.server.one_at_a_time:
            there = objects.get(self.path)
            holds = self.headers["If-Match"] in (None, _etag(there))
            if not holds or (there is not None and self.headers["If-None-Match"] == "*"):
                self._answer(412)
                return
            objects[self.path] = body
        self._answer(200, ETag=_etag(body))

    do_POST = do_PUT

    def do_GET(self):
        if "list-type=2" in self.path:
            keys = "".join(
                f"<Contents><Key>{key}</Key><LastModified>2023-11-14T22:13:20.123Z</LastModified></Contents>"
                for key in self.server.objects
            )
            self._answer(200, f"<ListBucketResult>{keys}</ListBucketResult>".encode())
            return
        body = self.server.objects.get(self.path.partition("?")[0])
        if body is None:
            self._answer(404, b"<Error/>")
            return
        headers = {"ETag": _etag(body), "Last_Modified": formatdate(THEN, usegmt=True)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if asked:
            first, last = int(asked[1]), int(asked[2])
            said = f"bytes {first}-{last}/{len(body)}"
            self._answer(206, body[first : last + 1], Content_Range=said, **headers)
        else:
            self._answer(200, body, **headers)

    do_HEAD = do_GET

    def do_DELETE(self):
        self.server.objects.pop(self.path, None)
        self._answer(204)


def _etag(body: bytes | None) -> str | None:
    return None if body is None else f'"{hashlib.md5(body).hexdigest()}"'


def _parts(body: bytes):
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@contextmanager
def serving_objects():
    origin = Origin()
    thread = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield origin
    finally:
        origin.shutdown()
        thread.join()
        origin.server_close()
