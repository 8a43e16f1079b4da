"""How an interpreter ends while threads are in the middle of something, and several in one process."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastcas
from conformance import digest_of, noise
from conftest import child_environment
from fastcas import Descriptor
from gates.invariants import TEMP
from test_cases import own_names

pytestmark = pytest.mark.usefixtures("no_fd_leak")

WAIT = 30  # seconds after which something hangs
BLOCK = noise(100_000)


# ---- the end beside a thread that nobody waits for


def blocks():
    """Without an end."""
    for number in itertools.count():
        yield BLOCK + number.to_bytes(8, "big")


def put_blobs(cas, reached):
    cas.put_blobs(blocks(), progress=reached)


def put_many(cas, reached):
    for block in blocks():
        cas.put_blob(block)
        reached()


def put_long(cas, reached):
    cas.put_blob(blocks(), progress=reached)


def put_compressed(cas, reached):
    cas.put_blob(blocks(), compress="gzip", progress=reached)


def scrub(cas, reached):
    cas.scrub(threads=2, progress=reached)


def read(cas, reached):
    with cas.get_blob(digest_of(BLOCK * 100)) as blob:
        while blob.read(1 << 20):
            reached()


def read_ahead(cas, reached):
    wanted = [(digest_of(block[-10:]), 10) for block in itertools.islice(blocks(), 500)]
    end = cas.start_reading(wanted)
    reached()
    end()
    cas.start_reading(wanted)  # nobody ends it


def update(cas, reached):
    cas.update_reference("moved", Descriptor("text/plain", digest_of(BLOCK * 100), 100 * len(BLOCK)))
    reached()


WORK = {
    function.__name__: function
    for function in (
        put_blobs,
        put_many,
        put_long,
        put_compressed,
        scrub,
        read,
        read_ahead,
        update,
    )
}
CODES = {"end": 0, "error": 1, "exit": 7}


def busy(layout, name, durability, how, pause):
    """Ends while a thread is at work."""
    cas = fastcas.open(layout, durability=durability)
    reached = threading.Event()

    def work():
        while True:
            WORK[name](cas, lambda *_: reached.set())

    threading.Thread(target=work, daemon=True).start()
    assert reached.wait(WAIT)
    time.sleep(float(pause))  # somewhere in the middle
    if how == "exit":
        sys.exit(CODES[how])
    if how == "error":
        raise KeyError("how it ends")


@pytest.mark.parametrize("name", WORK)
def test_an_end_beside_a_thread_at_work(layout, name):
    with fastcas.create(layout, durability="none") as cas:
        cas.put_blob(BLOCK * 100)
        cas.put_blobs([block[-10:] for block in itertools.islice(blocks(), 500)])
        for turn, how in enumerate(CODES):
            durability = ("full", "batch", "none")[turn]
            code = "import sys, test_interpreter\ntest_interpreter.busy(*sys.argv[1:])"
            done = subprocess.run(
                [sys.executable, "-c", code, layout, name, durability, how, str(0.003 * turn)],
                env=child_environment(),
                capture_output=True,
                timeout=WAIT,
            )
            assert done.returncode == CODES[how], done.stderr.decode()
            assert b"Fatal" not in done.stderr
            left = cas.clean()
            assert all(TEMP.fullmatch(found) for found in left)
            assert own_names(layout) == set()
        assert cas.scrub().problems == []


LAST = """
import sys, fastcas
cas = fastcas.create(sys.argv[1], durability="none")

class Last:
    def __init__(self):
        self.itself = self  # so that it goes when all cycles are collected

    def __del__(self):
        pieces = [bytes([number]) * (64 << 10) for number in range(20)]
        print(cas.put_blob(iter(pieces), algorithm=sys.argv[2]).digest, end="", flush=True)

Last()
"""


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
def test_a_put_when_the_interpreter_ends(tmp_path, algorithm):
    """The one of its threads that is left can put; others would be ended where they ask for the GIL."""
    layout = tmp_path / "image"
    done = subprocess.run(
        [sys.executable, "-c", LAST, layout, algorithm],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 0, done.stderr
    with fastcas.open(layout) as cas:
        assert list(cas) == [done.stdout], done.stderr
        assert cas.read_blob(done.stdout)[:: 64 << 10] == bytes(range(20))


# ---- several interpreters in one process


def in_interpreters(layout, *kinds):
    fastcas.create(layout).close()
    program = Path(__file__).with_name("interpreters.py")
    done = subprocess.run(
        [sys.executable, program, layout, *kinds],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 0, done.stderr
    return [line.partition(":")[0] for line in done.stdout.splitlines()]


@pytest.mark.skipif(
    not find_spec("_interpreters") and not find_spec("_xxsubinterpreters"),
    reason="this Python can't make interpreters",
)
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_one_interpreter_of_a_process_has_fastcas(layout, kind):
    """The first that imports it; all others get an ImportError, and are no harm."""
    said = in_interpreters(layout, "main", kind, kind, "main")
    assert said == ["right", "ImportError", "ImportError", "right"]


@pytest.mark.skipif(not find_spec("_xxsubinterpreters"), reason="this Python can't make interpreters")
def test_the_first_interpreter_may_be_another(layout):
    assert in_interpreters(layout, "legacy", "main", "legacy") == [
        "right",
        "ImportError",
        "ImportError",
    ]
