"""What the tests share: layouts, child processes as other users and in other mount namespaces,
a canary beside the layout, and the check that no file descriptor is left open."""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import pickle
import pkgutil
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import traceback
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

# What a shell starts in the background ignores Ctrl-C, as do its children, which tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


NOBODY = 65534
TESTS = Path(__file__).resolve().parent
SETPRIV = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]

# Runs MODULE.FUNCTION(*ARGUMENTS) and prints what it returned as the last line.
RUNNER = (
    "import importlib, json, sys\n"
    "function = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])\n"
    "print('\\n' + json.dumps(function(*json.loads(sys.argv[3]))), flush=True)\n"
)


def child_environment() -> dict[str, str]:
    environment = dict(os.environ)
    paths = [str(TESTS), *(entry for entry in sys.path if entry)]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment


def child_command(function, *arguments) -> list[str]:
    return [
        sys.executable,
        "-c",
        RUNNER,
        function.__module__,
        function.__qualname__,
        json.dumps([str(a) if isinstance(a, Path) else a for a in arguments]),
    ]


class Child:
    """A function of a test module that runs in a process of its own."""

    def __init__(self, prefix, function, arguments):
        self.process = subprocess.Popen(
            [*prefix, *child_command(function, *arguments)],
            env=child_environment(),
            bufsize=0,  # readline() must not take more than its line from communicate()
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def result(self, timeout=60):
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the child process hung for {timeout} s")
        text = err.decode(errors="replace")
        assert self.process.returncode == 0, f"exit {self.process.returncode}\n{text}"
        return json.loads(out.decode().splitlines()[-1])

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def spawn():
    """Starts functions in processes of their own: ``spawn(function, *arguments) -> Child``."""
    children = []

    def start(function, *arguments, prefix=()):
        children.append(Child(prefix, function, arguments))
        return children[-1]

    yield start
    for child in children:
        if child.process.poll() is None:
            child.kill()
        for stream in (child.process.stdin, child.process.stdout, child.process.stderr):
            stream.close()


@cache
def _setpriv_runs_us() -> bool:
    # An interpreter under /root can't be started, or can't read its library, as somebody else.
    command = [*SETPRIV, sys.executable, "-c", "import pytest, fastcas.dir.engine, fastcas.model"]
    done = subprocess.run(command, env=child_environment(), capture_output=True, cwd="/")
    return done.returncode == 0


def _preload() -> None:
    import fastcas

    for module in pkgutil.walk_packages(fastcas.__path__, "fastcas."):
        if module.name != "fastcas.__main__":
            importlib.import_module(module.name)


def _forked_as_nobody(function, arguments):
    _preload()
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(send, pickle.dumps(function(*arguments)))
            code = 0
        except BaseException:
            os.write(send, pickle.dumps(traceback.format_exc()))
        finally:
            os._exit(code)
    os.close(send)
    with open(receive, "rb") as stream:
        answer = pickle.loads(stream.read())
    assert os.waitpid(pid, 0)[1] == 0, answer
    return answer


@pytest.fixture
def as_normal_user(spawn):
    """Calls a function of a test module as a user whom permission bits hold.

    Directly where the tests run as such a user.  As root in a child that setpriv made, or, where
    that user can't reach the interpreter, in a fork that has dropped its rights.
    """

    def call(function, *arguments):
        arguments = [str(a) if isinstance(a, Path) else a for a in arguments]
        if os.geteuid() != 0:
            return function(*arguments)
        if not _setpriv_runs_us():
            return _forked_as_nobody(function, arguments)
        return spawn(function, *arguments, prefix=SETPRIV).result()

    return call


@cache
def _namespace_prefix() -> tuple[list[str], str]:
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-U", "-r", "-m"]
    with tempfile.TemporaryDirectory() as place:
        command = [*unshare, "mount", "-t", "tmpfs", "-o", "size=64k", "none", place]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            return [], str(error)
    return (unshare, "") if done.returncode == 0 else ([], done.stderr.strip())


@pytest.fixture
def with_mounts(spawn):
    """Calls a function of a test module where it may mount, in a namespace that ends with it."""
    prefix, why = _namespace_prefix()
    if not prefix:
        pytest.skip(f"no mount namespace for this user here: {why}")
    return lambda function, *arguments: spawn(function, *arguments, prefix=prefix).result()


@pytest.fixture
def shared_path():
    """A directory that the second user can reach, enter and write (pytest's own are 0700)."""
    place = Path(tempfile.mkdtemp(prefix="fastcas-test-"))
    place.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(place, NOBODY, NOBODY)
    yield place
    for folder, names, _ in os.walk(place):
        for name in names:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o700)
    shutil.rmtree(place)


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        # The one that listed the directory is gone by now.
        with suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.fixture
def no_fd_leak():
    """Fails when the test left a file descriptor open."""
    before = open_descriptors()
    yield
    left = new = open_descriptors().items() - before.items()
    if new:
        gc.collect()  # too slow to do it after every test
        left = open_descriptors().items() & new
    assert not left, f"left open: {left}"


@pytest.fixture
def layout(tmp_path) -> Path:
    """Where a layout can be created."""
    return tmp_path / "image"


@pytest.fixture
def cas(layout):
    """An engine on a new layout, without syncs: what is durable isn't the subject."""
    import fastcas

    with fastcas.create(layout, durability="none") as engine:
        yield engine


class Canary:
    """A tree outside the layout that must stay as it is."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir()
        (path / "secret").write_bytes(b"outside")
        (path / "folder" / "sha256").mkdir(parents=True)
        (path / "folder" / "inside").write_bytes(b"also outside")
        (path / "locked").write_bytes(b"")
        (path / "locked").chmod(0o400)
        self.remember()

    def look(self, times: bool):
        found = {}
        for place in sorted([self.path, *self.path.rglob("*")]):
            status = place.lstat()
            content = b""
            if stat.S_ISREG(status.st_mode) and os.access(place, os.R_OK):
                content = place.read_bytes()
            found[str(place.relative_to(self.path))] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_ino,
                status.st_nlink,
                status.st_mtime_ns if times else None,
                hashlib.sha256(content).hexdigest(),
            )
        return found

    def remember(self) -> None:
        """Take the tree as it is now for what it must stay."""
        self.known = self.look(True), self.look(False)

    def check(self, *, times: bool = True) -> None:
        assert self.look(times) == self.known[0 if times else 1]


@pytest.fixture
def canary(tmp_path):
    outside = Canary(tmp_path / f"outside-{uuid.uuid4().hex[:8]}")
    yield outside
    outside.path.chmod(0o755)


def patch_fsync(patch, fake):
    """Has ``fake`` stand for os.fsync, also where the core syncs a directory."""
    from fastcas import _core

    def sync_directory(fd, status):
        try:
            fake(fd)
        except OSError as error:
            status[0] = error.errno

    patch.setattr(os, "fsync", fake)
    patch.setattr(_core, "sync_directory", sync_directory)
