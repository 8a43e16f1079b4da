"""versitygw, a server of the S3 protocol over a directory, on a free port of the loopback.

A directory in the server's is a bucket, and a file in it an object, which can be read past the server.
"""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[2] / "build" / "objectstore" / "bin" / "versitygw"
ACCESS_KEY = "fastcas"
REGION = "us-east-1"


@dataclass(frozen=True)
class Bucket:
    """An empty one; ``path`` is its directory."""

    server: Server
    name: str

    @property
    def path(self) -> Path:
        return self.server.root / self.name

    @property
    def url(self) -> str:
        """That of a layout in it."""
        return f"s3://{self.name}/layout"

    @property
    def layout(self) -> Path:
        """The same layout, as a directory."""
        return self.path / "layout"

    def config(self, endpoint: str | None = None) -> dict[str, Any]:
        """What obstore needs to reach the server, or a proxy before it at the URL ``endpoint``."""
        return {
            "endpoint": endpoint or self.server.url,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": self.server.secret_key,
            "region": REGION,
            "client_options": {"allow_http": True},
        }


class Server:
    def __init__(self, root: Path, log: Path):
        self.root = root
        self.secret_key = secrets.token_hex(16)
        self._log = log
        self._made = 0
        self.process = self._start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def credentials(self) -> tuple[str, str]:
        return ACCESS_KEY, self.secret_key

    def make_bucket(self) -> Bucket:
        self._made += 1
        bucket = Bucket(self, f"bucket-{self._made}")
        bucket.path.mkdir()
        return bucket

    def stop(self) -> None:
        self.process.kill()  # nothing of it is to stay
        self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        for _ in range(3):  # another process may take the port before the server does
            self._port = _free_port()
            with self._log.open("ab") as log:
                # The kernel ends it where this process can't.
                process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", str(PROGRAM), "--quiet", "--keep-alive",
                     "--port", self.address, "--health", "/health", "posix", str(self.root)],
                    env={"PATH": os.environ["PATH"], "HOME": str(self.root),
                         "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": self.secret_key},
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            try:
                if self._answers(process):
                    return process
            except BaseException:
                process.kill()
                process.wait()
                raise
        raise RuntimeError(f"versitygw didn't start:\n{self._log.read_text(errors='replace')}")

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """False where it has ended."""
        for _ in range(600):
            if process.poll() is not None:
                return False
            connection = http.client.HTTPConnection(self.address, timeout=5)
            with suppress(OSError):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    connection.close()
                    return True
            connection.close()
            time.sleep(0.05)
        raise RuntimeError("versitygw didn't answer within 30 s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _keeps_attributes(place: Path) -> bool:
    try:
        os.setxattr(place, "user.fastcas", b"1")
    except OSError:
        return False
    return True


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a new directory, in memory where that can have attributes; both go at the end."""
    for parent in ("/dev/shm", None):
        root = Path(tempfile.mkdtemp(prefix="fastcas-objectstore-", dir=parent))
        if _keeps_attributes(root):
            break
        root.rmdir()
    else:
        raise RuntimeError("no attributes (user xattrs) in /dev/shm nor among temporary files")
    try:
        (root / "buckets").mkdir()
        server = Server(root / "buckets", root / "log")
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root)
