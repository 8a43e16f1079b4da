"""Running the command line in tests: in this process, as a program, on a terminal."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
import threading

from click.testing import CliRunner

from fastcas.cli import main

FASTCAS = [sys.executable, "-m", "fastcas"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
MIB = 1 << 20
ABSENT = "sha256:" + "0" * 64


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def call(*arguments: object, code: int = 0):
    """Runs a command in this process; its exit code must be ``code``, and its output is returned."""
    result = CliRunner().invoke(main, [os.fspath(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert not isinstance(result.exception, Exception), result.exception
    if code:
        assert result.stderr.startswith("fastcas: ")
        assert result.stderr.count("\n") == 1
    return result


def answer(*arguments: object):
    """The JSON document that a command prints with --json; nothing else is printed."""
    result = call(*arguments, "--json")
    assert result.stderr == ""
    assert result.stdout.endswith("\n")
    return json.loads(result.stdout)


def run(*arguments: object, **extra):
    """Runs the program itself."""
    command = [*FASTCAS, *(os.fspath(a) for a in arguments)]
    extra = {"stdin": subprocess.DEVNULL, "timeout": 60, "env": ENVIRONMENT, **extra}
    if "input" in extra:
        del extra["stdin"]
    extra.setdefault("stdout", subprocess.PIPE)
    extra.setdefault("stderr", subprocess.PIPE)
    return subprocess.run(command, **extra)


def blob_path(layout, digest):
    return layout / "blobs" / "sha256" / digest.partition(":")[2]


def corrupt(layout, digest):
    path = blob_path(layout, digest)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


class Terminal:
    """A pseudo-terminal that remembers what a program writes to it."""

    def __init__(self):
        self.main, self.program = pty.openpty()
        self.written = b""
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        while True:
            try:
                data = os.read(self.main, 65536)
            except OSError:  # EIO: the last program has closed it
                return
            if not data:
                return
            self.written += data

    def text(self) -> str:
        """All that was written; the terminal is gone then."""
        if self.reader.is_alive():
            os.close(self.program)
            self.reader.join(30)
            os.close(self.main)
        return self.written.decode()
