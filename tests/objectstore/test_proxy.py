"""What the proxy lets through, counts, and does to a request; else no fault would say anything."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import proxy as proxy_module
from conformance import noise
from origin import serving_objects
from proxy import Proxy

BROKEN = (http.client.HTTPException, ConnectionError)
EARLIER = "Tue, 14 Nov 2023 22:13:20 GMT"
LATER = "Tue, 14 Nov 2023 23:13:21 GMT"


@pytest.fixture
def origin():
    with serving_objects() as serving:
        yield serving


@pytest.fixture
def proxy(origin):
    """In place of the one before the real server."""
    with Proxy(origin.address) as made:
        yield made


@pytest.fixture
def client(proxy):
    """A connection to the proxy, which http.client opens anew when it has been closed."""
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=30)
    yield connection
    connection.close()


def ask(client, method, path, body=None, **headers):
    """Status, headers, body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, path, body, named, encode_chunked="Transfer-Encoding" in named)
    reply = client.getresponse()
    return reply.status, reply.headers, reply.read()


def put(client, path, body, **headers):
    return ask(client, "PUT", path, body, **headers)[0]


def get(client, path, **headers):
    return ask(client, "GET", path, **headers)[2]


def converse(proxy, *parts):
    """What is answered to bytes that are sent as they are, until the proxy closes."""
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=30) as sock:
        answers = []
        for part in parts:
            sock.sendall(part)
            answers.append(sock.recv(65536))
        sock.shutdown(socket.SHUT_WR)
        while more := sock.recv(65536):
            answers.append(more)
        return answers


# ---- without a rule ----


def test_bodies_of_all_framings_pass_on_one_connection(origin, proxy, client):
    content = noise(3 << 20 | 7)
    assert put(client, "/plain", content) == 200
    local = client.sock.getsockname()
    assert put(client, "/in-chunks", iter([b"a" * 70_000, b"b"]), Transfer_Encoding="chunked") == 200
    assert put(client, "/chunked/reply", content) == 200
    assert put(client, "/empty", b"") == 200
    assert get(client, "/plain") == content
    assert get(client, "/in-chunks") == b"a" * 70_000 + b"b"
    assert get(client, "/chunked/reply") == content
    assert get(client, "/empty") == b""
    assert get(client, "/plain", Range="bytes=5-104") == content[5:105]
    status, headers, body = ask(client, "HEAD", "/plain")
    assert (status, headers["Content-Length"], body) == (200, str(len(content)), b"")
    assert ask(client, "DELETE", "/plain")[0] == 204
    assert ask(client, "GET", "/plain")[0] == 404
    assert b"<Key>/empty</Key>" in get(client, "/?list-type=2&prefix=")
    assert client.sock.getsockname() == local
    assert origin.objects["/chunked/reply"] == content

    assert proxy.counts() == {"PUT": 4, "GET": 6, "HEAD": 1, "DELETE": 1, "LIST": 1}
    sizes = [len(content), 70_001, len(content), 0]
    assert [request.received for request in proxy.requests[:4]] == sizes
    assert [request.sent for request in proxy.requests[4:9]] == [*sizes, 100]
    assert [request.status for request in proxy.requests[8:12]] == [206, 200, 204, 404]
    assert [request.answered for request in proxy.requests[8:12]] == [206, 200, 204, 404]
    assert (proxy.requests[12].path, proxy.requests[12].query) == ("/", "list-type=2&prefix=")
    assert not any(request.acted for request in proxy.requests)
    proxy.clear()
    assert proxy.counts() == Counter()


def test_headers_arrive_as_they_were_sent(origin, proxy):
    """A signature is over them."""
    headers = [("Host", "store.example:1"), ("x-amz-date", " spaced"), ("X-Two", "a"), ("X-Two", "b")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    (answer,) = converse(proxy, f"HEAD /none HTTP/1.1\r\n{lines}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert origin.heads == [[(name, value.strip()) for name, value in headers]]


def test_a_client_that_expects_a_word_gets_it_before_its_body(origin, proxy):
    head = b"PUT %b HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    first, second = converse(proxy, head % b"/expected", b"abc")
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert second.startswith(b"HTTP/1.1 200 ")
    assert origin.objects == {"/expected": b"abc"}
    refused = b"".join(converse(proxy, head % b"/refused"))
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in refused
    assert proxy.requests[1].received == 0
    # One that has lost patience.
    assert b"HTTP/1.1 200 " in b"".join(converse(proxy, head % b"/impatient" + b"def"))
    assert origin.objects["/impatient"] == b"def"


def test_a_reply_before_the_body_was_read_arrives(origin, proxy, client):
    for _ in range(3):
        assert put(client, "/refused-early", noise(8 << 20)) == 413
        assert put(client, "/next", b"x") == 200
    assert origin.objects == {"/next": b"x"}


def test_several_requests_sent_at_once(origin, proxy):
    one = b"PUT /%d HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n%02d"
    answers = b"".join(converse(proxy, b"".join(one % (n, n) for n in range(20))))
    assert answers.count(b"HTTP/1.1 200 ") == 20
    assert origin.objects == {f"/{n}": b"%02d" % n for n in range(20)}


def test_many_connections_at_once(origin, proxy):
    host = proxy.url.removeprefix("http://")
    proxy.rule("PUT", "/7/", nth=range(1, 11), fail_after=503)

    def work(number):
        connection = http.client.HTTPConnection(host, timeout=30)
        told = [put(connection, f"/{number}/{turn}", noise(20_000, turn)) for turn in range(20)]
        read = [get(connection, f"/{number}/{turn}") for turn in range(20)]
        connection.close()
        assert read == [noise(20_000, turn) for turn in range(20)]
        return Counter(told)

    with ThreadPoolExecutor(32) as pool:
        told = list(pool.map(work, range(32)))
    assert proxy.counts() == {"PUT": 640, "GET": 640}
    assert told.pop(7) == {503: 10, 200: 10}
    assert told == [{200: 20}] * 31


def test_a_server_that_has_gone(origin, proxy, client):
    assert put(client, "/a", b"x") == 200
    with Proxy("127.0.0.1:1") as nowhere:
        connection = http.client.HTTPConnection(nowhere.url.removeprefix("http://"), timeout=30)
        with pytest.raises(BROKEN):
            connection.request("GET", "/a")
            connection.getresponse()
        connection.close()


def test_close_ends_what_is_under_way(origin, no_fd_leak):
    before = threading.active_count()
    waits = threading.Event()
    with Proxy(origin.address) as proxy:
        proxy.rule(before=lambda _: waits.set(), delay=3600)
        connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=30)
        connection.request("GET", "/a")
        idle = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])))
        assert waits.wait(30)
    with pytest.raises(BROKEN):
        connection.getresponse()
    connection.close()
    idle.close()
    assert threading.active_count() == before


# ---- the rules ----


def test_which_requests_a_rule_is_for(origin, proxy, client):
    proxy.rule("PUT", r"/index\.json$", nth=2, fail_before=500)
    proxy.rule("PUT", r"\?partNumber=3", fail_before=503)
    proxy.rule("GET", nth={1, 3}, fail_before=403)
    names = ("/index.json", "/index-json", "/index.json", "/index.json")
    assert [put(client, name, b"x") for name in names] == [200, 200, 500, 200]
    assert [put(client, f"/a?partNumber={n}", b"x") for n in (1, 2, 3, 3)] == [200, 200, 503, 503]
    assert ask(client, "GET", "/?list-type=2")[0] == 200
    assert [ask(client, "GET", "/index.json")[0] for _ in range(4)] == [403, 200, 403, 200]
    assert proxy.acted("fail_before") == 5
    proxy.clear()
    assert put(client, "/a?partNumber=3", b"x") == 200
    with pytest.raises(TypeError):
        proxy.rule("PUT", fail_sometimes=500)
    with pytest.raises(ValueError):
        proxy.rule("FETCH", fail_before=500)
    with pytest.raises(ValueError):
        proxy.acted("fail_sometimes")


def test_drop_reply_after_the_commit(origin, proxy, client):
    proxy.rule("PUT", nth=1, drop_reply=True)
    with pytest.raises(BROKEN):
        put(client, "/a", b"stored")
    client.close()
    assert origin.objects == {"/a": b"stored"}
    (request,) = proxy.requests
    assert (request.answered, request.status, request.received) == (200, None, 6)
    assert proxy.acted("drop_reply") == 1
    assert put(client, "/a", b"again") == 200


@pytest.mark.parametrize("status", [500, 503])
def test_fail_after_and_fail_before_the_commit(origin, proxy, client, status):
    proxy.rule("PUT", "/after", fail_after=status)
    proxy.rule("PUT", "/before", fail_before=status)
    proxy.rule("HEAD", fail_after=status)
    local = None
    for path in ("/after", "/before"):
        said, headers, body = ask(client, "PUT", path, b"content")
        assert said == status
        assert headers["Content-Length"] == str(len(body))
        assert body.startswith(b"<Error><Code>")
        local = local or client.sock.getsockname()
    assert ask(client, "HEAD", "/after")[0] == status
    assert client.sock.getsockname() == local  # all on one connection
    assert origin.objects == {"/after": b"content"}
    assert [request.answered for request in proxy.requests] == [200, None, 200]
    assert [request.status for request in proxy.requests] == [status] * 3
    assert (proxy.acted("fail_after"), proxy.acted("fail_before")) == (2, 1)


def test_fail_before_where_the_client_expects_a_word(origin, proxy):
    proxy.rule("PUT", fail_before=503)
    head = b"PUT /a HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    (answer,) = converse(proxy, head)
    assert answer.startswith(b"HTTP/1.1 503 SlowDown\r\n")
    assert origin.objects == {}


@pytest.mark.parametrize("after", [0, 1, 300_000])
def test_cut_request(origin, proxy, client, after):
    content = noise(4 << 20)
    proxy.rule("PUT", nth=1, cut_request=after)
    with pytest.raises(BROKEN):
        put(client, "/a", content)
    client.close()
    assert proxy.acted("cut_request") == 1
    while not origin.unfinished:  # bounded by the timeout of every test
        time.sleep(0.01)
    assert origin.objects == {}
    assert put(client, "/a", content) == 200


@pytest.mark.parametrize("after", [0, 1, 300_000])
@pytest.mark.parametrize("path", ["/a", "/chunked/a"])
def test_cut_reply(origin, proxy, client, path, after):
    origin.objects[path] = content = noise(4 << 20)
    proxy.rule("GET", nth=1, cut_reply=after)
    with pytest.raises(BROKEN) as caught:
        get(client, path)
    client.close()
    if path == "/a":
        assert caught.value.partial == content[:after]
    assert proxy.acted("cut_reply") == 1
    assert proxy.requests[0].sent == after
    assert get(client, path) == content


@pytest.mark.parametrize("path", ["/a", "/chunked/a"])
@pytest.mark.parametrize("offset", [0, 12_345, 299_999])
def test_corrupt(origin, proxy, client, path, offset):
    origin.objects[path] = content = noise(300_000)
    proxy.rule("GET", nth=1, corrupt=offset)
    got = get(client, path)
    assert [n for n in range(300_000) if got[n] != content[n]] == [offset]
    assert len(got) == 300_000
    assert proxy.acted("corrupt") == 1
    assert get(client, path) == content


def test_corrupt_from_the_end_and_not_what_is_no_content(origin, proxy, client):
    origin.objects["/a"] = b"abc"
    proxy.rule("GET", corrupt=-1)
    assert get(client, "/a") == b"ab" + bytes([ord("c") ^ 0xFF])
    assert ask(client, "GET", "/none")[2] == b"<Error/>"
    assert proxy.acted("corrupt") == 1


@pytest.mark.parametrize("admitted", [False, True])
def test_truncate_range(origin, proxy, client, admitted):
    origin.objects["/a"] = content = noise(600_000)
    proxy.rule("GET", "/a", nth={1, 2}, truncate_range=300_001, admitted=admitted)
    status, headers, body = ask(client, "GET", "/a")
    assert (status, headers["Content-Length"], body) == (200, "299999", content[:299_999])
    status, headers, body = ask(client, "GET", "/a", Range="bytes=100-400199")
    assert (status, headers["Content-Length"], body) == (206, "100099", content[100:100_199])
    assert headers["Content-Range"] == f"bytes 100-{100_198 if admitted else 400_199}/600000"
    assert proxy.acted("truncate_range") == 2
    assert get(client, "/a") == content  # on the same connection


def test_delay_and_slow_take_their_time(origin, proxy, client):
    proxy.rule(pattern="/delayed", delay=0.2)
    proxy.rule(pattern="/slow", slow=0.4)
    for path in ("/delayed", "/slow"):
        for call in (lambda path: put(client, path, noise(1 << 19)), lambda path: get(client, path)):
            start = time.monotonic()
            call(path)
            assert time.monotonic() - start >= 0.2
    assert origin.objects["/slow"] == noise(1 << 19)
    assert (proxy.acted("delay"), proxy.acted("slow")) == (2, 2)


def test_skew(origin, proxy, client):
    origin.objects["/a"] = b"content"
    proxy.rule(skew=3601)
    for method in ("GET", "HEAD"):
        status, headers, _ = ask(client, method, "/a")
        assert (status, headers["Date"], headers["Last-Modified"]) == (200, LATER, LATER)
    listing = get(client, "/?list-type=2")
    assert b"<LastModified>2023-11-14T23:13:21.123Z</LastModified>" in listing
    assert proxy.acted("skew") == 3
    proxy.clear()
    proxy.rule(skew=-3600)
    assert b"<LastModified>2023-11-14T21:13:20.123Z</LastModified>" in get(client, "/?list-type=2")
    proxy.clear()
    assert ask(client, "HEAD", "/a")[1]["Last-Modified"] == EARLIER


def test_strip_conditions(origin, proxy, client):
    assert put(client, "/a", b"1") == 200
    assert put(client, "/a", b"2", If_None_Match="*") == 412
    assert put(client, "/a", b"2", If_Match='"wrong"') == 412
    assert origin.objects == {"/a": b"1"}
    proxy.rule("PUT", strip_conditions=True)
    assert put(client, "/a", b"2", If_None_Match="*") == 200
    assert put(client, "/a", b"3", If_Match='"wrong"') == 200
    assert put(client, "/a", b"4") == 200
    assert origin.objects == {"/a": b"4"}
    assert proxy.acted("strip_conditions") == 2


def test_check_then_write_is_right_for_one_and_wrong_for_two(origin, proxy, client):
    proxy.rule("PUT", check_then_write=0.3)
    assert put(client, "/a", b"1", If_None_Match="*") == 200
    etag = ask(client, "HEAD", "/a")[1]["ETag"]
    assert put(client, "/a", b"2", If_None_Match="*") == 412
    assert put(client, "/a", b"2", If_Match='"wrong"') == 412
    assert put(client, "/none", b"2", If_Match=etag) == 412
    assert put(client, "/a", b"2", If_Match=etag) == 200
    assert put(client, "/a", b"2", If_Match=etag) == 412
    assert origin.objects == {"/a": b"2"}
    assert proxy.acted("check_then_write") == 6
    barrier = threading.Barrier(8)

    def create(number):
        connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=30)
        connection.connect()
        barrier.wait()
        said = put(connection, "/raced", b"%d" % number, If_None_Match="*")
        connection.close()
        return said

    with ThreadPoolExecutor(8) as pool:
        assert Counter(pool.map(create, range(8)))[200] > 1


def test_signed_conditions_need_credentials(origin, proxy, client, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: seen.append(arguments.exc_value))
    proxy.rule("PUT", strip_conditions=True)
    with pytest.raises(BROKEN):
        put(client, "/a", b"x", If_None_Match="*", Authorization="AWS4-HMAC-SHA256 Credential=")
    proxy.close()
    assert [str(error) for error in seen] == ["conditions are signed, and the proxy has no credentials"]
    assert origin.objects == {}


def test_what_is_called_before_and_after(origin, proxy, client):
    seen = []
    proxy.rule("PUT", before=lambda request: seen.append((request.answered, dict(origin.objects))))
    proxy.rule("PUT", after=lambda request: seen.append((request.answered, dict(origin.objects))))
    proxy.rule("PUT", fail_after=500)
    assert put(client, "/a", b"x") == 500
    assert seen == [(None, {}), (200, {"/a": b"x"})]
    assert proxy.requests[0].acted == ["before", "after", "fail_after"]


def test_alone_in_a_process(origin):
    origin.objects["/a"] = b"content"
    program = Path(proxy_module.__file__)
    with subprocess.Popen(
        [sys.executable, str(program), origin.address, "--delay", "0.2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        url = process.stdout.readline().strip()
        start = time.monotonic()
        client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        assert get(client, "/a") == b"content"
        client.close()
        assert time.monotonic() - start >= 0.2
        process.stdin.close()
        assert process.wait(30) == 0
