"""SHA-256 in lanes: every kernel that this CPU can run, against hashlib.

``make test-arm`` runs the test of lanes.c once more, compiled for ARM and emulated.
"""

import ctypes
import hashlib
import mmap
import os
import platform
import random
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import fastcas
from fastcas import _core
from test_core import NIST, SHIM

pytestmark = pytest.mark.usefixtures("no_fd_leak")

NATIVE = Path(fastcas.__file__).parent / "native"
KERNELS = _core.KERNELS
SLOT = 64 << 10
MEMORY_PIECE = 1 << 20
FORGET_STEP = 8 << 20
NOISE = random.Random(20261124).randbytes(2 * MEMORY_PIECE + 300)


def digests(blobs):
    return [(hashlib.sha256(blob).hexdigest(), len(blob)) for blob in blobs]


@pytest.fixture
def files(tmp_path):
    """Makes files of given contents; returns their descriptors, which are closed at the end."""
    opened = []

    def make(blobs):
        fds = []
        for blob in blobs:
            path = tmp_path / f"blob{len(opened)}"
            path.write_bytes(blob)
            fds.append(os.open(path, os.O_RDONLY))
            opened.append(fds[-1])
        return fds

    yield make
    for fd in opened:
        os.close(fd)


def test_every_kernel_that_this_cpu_has_is_tested():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    expected = []
    if platform.machine() == "x86_64" and {"sha_ni", "ssse3", "sse4_1"} <= flags:
        if {"avx512f", "avx512vl", "avx512bw"} <= flags:
            is_intel = any("GenuineIntel" in line for line in lines)
            expected += ["avx512vl-x4", "avx512-x16"][:: -1 if is_intel else 1]
        expected.append("sha-x2")
    if platform.machine() == "aarch64" and "sha2" in flags:
        expected.append("armv8-x2")
    expected.append("libcrypto")
    assert list(KERNELS) == expected


def run_with(value, program="import fastcas; print(fastcas.backend)"):
    environment = {**os.environ, "FASTCAS_SHA256": value}
    if value is None:
        del environment["FASTCAS_SHA256"]
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_environment_chooses_and_the_backend_says_what():
    for kernel in KERNELS:
        backend = run_with(kernel).stdout.strip()
        assert backend.startswith("libcrypto ")
        expected = "" if kernel == "libcrypto" else f"; lanes: {kernel}"
        assert backend.partition("; ")[2] == expected.removeprefix("; ")
    best = run_with(None).stdout.strip()
    assert best == run_with(KERNELS[0]).stdout.strip()
    wrong = run_with("fastest")
    assert wrong.returncode == 1
    assert "ImportError: FASTCAS_SHA256 is 'fastest'" in wrong.stderr
    assert KERNELS[0] in wrong.stderr


def test_without_libcrypto_hashlib_does_it_one_by_one(tmp_path):
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c", "-ldl"], check=True, timeout=60
    )
    program = textwrap.dedent(
        """
        import hashlib, os, sys
        from fastcas import _core
        assert _core.BACKEND.startswith("hashlib") and "lanes" not in _core.BACKEND
        blob = bytes(range(256)) * 10_000
        open("blob", "wb").write(blob)
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        fd = os.open("blob", os.O_RDONLY)
        calls = []
        for name in ("sha256", "sha512"):
            items = [b"", blob, fd, (here, b"blob"), here, (here, b"absent"), fd]
            found = _core.digest_many(items, name, threads=3, failures=True,
                                      progress=lambda *call: calls.append(call))
            digest = hashlib.new(name, blob).hexdigest(), len(blob)
            assert found[0] == (hashlib.new(name).hexdigest(), 0)
            assert found[1:4] + found[6:] == [digest] * 4
            assert [(type(f), f.item) for f in found[4:6]] == [
                (_core.KindError, 4), (FileNotFoundError, 5)]
            assert calls[-1] == (4 * len(blob), None)
            try:
                _core.digest_many(items, name)
            except _core.KindError as error:
                assert error.item == 4
        for kernel in _core.KERNELS:
            assert _core.digest_many([fd], "sha256", kernel=kernel) == [
                (hashlib.sha256(blob).hexdigest(), len(blob))]
        print("done")
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "LD_PRELOAD": str(shim), "FASTCAS_SHA256": "hashlib"},
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


@pytest.mark.parametrize("kernel", KERNELS)
def test_nist_vectors(kernel):
    vectors = [(message, digest) for name, message, digest in NIST if name == "sha256"]
    found = _core.digest_many([message for message, _ in vectors], "sha256", kernel=kernel)
    assert found == [(digest, len(message)) for message, digest in vectors]


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_length_around_every_edge(kernel, files):
    sizes = [
        *range(301),
        *(
            edge + off
            for edge in (1024, 4096, SLOT, 2 * SLOT, MEMORY_PIECE, 2 * MEMORY_PIECE)
            for off in range(-66, 67)
        ),
    ]
    random.Random(1).shuffle(sizes)
    blobs = [memoryview(NOISE)[:size] for size in sizes]
    assert _core.digest_many(blobs, "sha256", kernel=kernel) == digests(blobs)
    few = [blob for blob in blobs if len(blob) < 300 or len(blob) % 16 in (0, 1, 15)]
    assert _core.digest_many(files(few), "sha256", kernel=kernel) == digests(few)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_number_of_streams(kernel):
    """A kernel may be made of several, each for so many at once."""
    for count in range(1, 34):
        blobs = [NOISE[at : at + 777] for at in range(count)]
        assert _core.digest_many(blobs, "sha256", kernel=kernel) == digests(blobs), count


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_random_mixes(kernel, threads, files, tmp_path):
    rng = random.Random(threads)
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for count in (0, 1, 2, 3, 4, 5, 9, 40):
        blobs = []
        for _ in range(count):
            size = rng.choice((0, 1, 100, 4096, SLOT, 300_000, MEMORY_PIECE)) + rng.randrange(70)
            at = rng.randrange(len(NOISE) - size)
            blobs.append(NOISE[at : at + size])
        items = []
        for blob in blobs:
            kind = rng.randrange(3)
            if kind == 0:
                items.append(blob)
            elif kind == 1:
                items += files([blob])
            else:
                name = f"named{rng.getrandbits(64)}"
                (tmp_path / name).write_bytes(blob)
                items.append((directory, name.encode()))
        calls = []
        found = _core.digest_many(
            items,
            "sha256",
            threads=threads,
            kernel=kernel,
            progress=lambda *call, calls=calls: calls.append(call),
        )
        assert found == digests(blobs)
        assert calls == sorted(calls)
        assert calls[-1] == (sum(map(len, blobs)), None)
    os.close(directory)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_large_beside_many_small(kernel):
    blobs = [NOISE, *(NOISE[at : at + 777] for at in range(2000))]
    assert _core.digest_many(blobs, "sha256", kernel=kernel, threads=2) == digests(blobs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_any_alignment_and_any_memory(kernel):
    memory = mmap.mmap(-1, SLOT + 4096)
    memory.write(NOISE[: len(memory)])
    blobs = [memoryview(memory)[at : at + 4096 + at] for at in range(64)]
    assert _core.digest_many(blobs, "sha256", kernel=kernel) == digests(blobs)
    # No kernel reads beyond the end: the last byte of a page has no neighbour.
    end = [memoryview(memory)[-size:] for size in (130, 129, 128, 63)]
    assert _core.digest_many(end, "sha256", kernel=kernel) == digests(end)
    assert _core.digest_many([bytearray(b"abc")], "sha256", kernel=kernel) == digests([b"abc"])
    del blobs, end
    memory.close()


def test_a_descriptors_offset_counts_for_nothing_and_stays(files):
    (fd,) = files([NOISE])
    os.lseek(fd, 1000, os.SEEK_SET)
    assert _core.digest_many([fd, fd, fd], "sha256", threads=2) == digests([NOISE] * 3)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 1000


def test_other_algorithms_and_nonsense():
    blobs = [NOISE[:size] for size in (0, 1, 111, 112, 128, 5000, len(NOISE))]
    expected = [(hashlib.sha512(blob).hexdigest(), len(blob)) for blob in blobs]
    assert _core.digest_many(blobs, "sha512", threads=2) == expected
    with pytest.raises(ValueError, match="no digest algorithm"):
        _core.digest_many(blobs, "md5")
    with pytest.raises(ValueError, match="thread"):
        _core.digest_many(blobs, "sha256", threads=0)
    with pytest.raises(KeyError):
        _core.digest_many(blobs, "sha256", kernel="none")
    for wrong in ("text", None, 1.5, (1,), (1, "name"), [1]):
        with pytest.raises((TypeError, ValueError)):
            _core.digest_many([b"", wrong], "sha256")


# ---- failures

FAILURES = ["closed", "directory", "fifo", "absent", "write only"]


def broken(kind, tmp_path):
    """(the item, the exception that it gives, what to close)"""
    if kind == "closed":
        return 1 << 30, OSError, []  # no descriptor is as large
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    if kind == "directory":
        return directory, _core.KindError, [directory]
    if kind == "fifo":
        os.mkfifo(tmp_path / "fifo")
        return (directory, b"fifo"), _core.KindError, [directory]
    if kind == "absent":
        return (directory, b"absent"), FileNotFoundError, [directory]
    fd = os.open(tmp_path / "write", os.O_WRONLY | os.O_CREAT)
    return fd, OSError, [fd, directory]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_failure_names_its_item(kernel, kind, threads, tmp_path, files):
    fd, error, opened = broken(kind, tmp_path)
    blobs = [NOISE[at:] for at in range(40)]
    items = [*blobs[:20], fd, *files(blobs[20:])]
    with pytest.raises(error) as caught:
        _core.digest_many(items, "sha256", kernel=kernel, threads=threads)
    assert caught.value.item == 20
    found = _core.digest_many(items, "sha256", kernel=kernel, threads=threads, failures=True)
    assert found[:20] + found[21:] == digests(blobs)
    assert type(found[20]) is error or issubclass(error, OSError)
    assert isinstance(found[20], error)
    assert found[20].item == 20
    for fd in opened:
        os.close(fd)


def test_the_last_of_many_failures_is_not_left_out(tmp_path):
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    found = _core.digest_many([(directory, b"absent")] * 1000, "sha256", threads=4, failures=True)
    os.close(directory)
    assert [(type(error), error.item) for error in found] == [
        (FileNotFoundError, number) for number in range(1000)
    ]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("change", ["shrinks", "grows"])
def test_a_file_that_changes_meanwhile(kernel, change, tmp_path):
    """By the progress callback, which is called long before half a file of this size is read."""
    path = tmp_path / "changing"
    size = 1 << 30
    with open(path, "wb") as file:
        file.truncate(size)
    changed = size // 2 if change == "shrinks" else size + 5

    def progress(done, _):
        if done < size // 2:
            os.truncate(path, changed)

    fd = os.open(path, os.O_RDONLY)
    items = [b"before", fd, b"behind"]
    (before, error, behind) = _core.digest_many(
        items, "sha256", kernel=kernel, failures=True, progress=progress
    )
    os.close(fd)
    assert [before, behind] == digests([b"before", b"behind"])
    assert isinstance(error, _core.VerifyError)
    if change == "shrinks":
        assert (error.kind, error.actual, error.size, error.item) == ("short", size // 2, size, 1)
    else:
        assert (error.kind, error.actual, error.size, error.item) == ("long", size + 1, size, 1)


# ---- threads, signals, forks


def thread_count():
    return len(os.listdir("/proc/self/task"))


def wait_for_threads(count):
    # A joined thread may be seen for a moment more.
    deadline = time.monotonic() + 60
    while thread_count() > count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert thread_count() <= count


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_an_interrupt_is_answered_soon(kernel, threads, kind, tmp_path):
    """Endless work: without an answer the test would never end."""
    before = thread_count()
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 42)
    fd = os.open(tmp_path / "sparse", os.O_RDONLY)
    items = [fd] * 8 if kind == "file" else [NOISE] * 200_000

    def interrupt(*_):
        raise Interrupted

    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        with pytest.raises(Interrupted):
            _core.digest_many(items, "sha256", kernel=kernel, threads=threads)
    finally:
        signal.signal(signal.SIGALRM, handler)
        os.close(fd)
    wait_for_threads(before)


def test_a_caller_that_has_nothing_left_still_answers(tmp_path):
    """One endless item, taken by whichever thread came first; the others wait."""
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 42)
    fd = os.open(tmp_path / "sparse", os.O_RDONLY)

    def progress(*_):
        raise Interrupted

    for _ in range(5):
        with pytest.raises(Interrupted):
            _core.digest_many([fd, b""], "sha256", threads=2, progress=progress)
    os.close(fd)


def test_no_thread_is_left(files):
    before = thread_count()
    fds = files([NOISE] * 8)
    for _ in range(20):
        _core.digest_many(fds, "sha256", threads=8)
    wait_for_threads(before)


def test_many_threads_at_once(files):
    fds = files([NOISE[at:] for at in range(16)])
    expected = digests([NOISE[at:] for at in range(16)])
    results = []

    def work():
        results.extend(_core.digest_many(fds, "sha256", threads=3, kernel=kernel) for kernel in KERNELS)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 * len(KERNELS)
    assert all(found == expected for found in results)


def test_where_no_thread_can_be_had_the_caller_does_it_alone(tmp_path):
    program = textwrap.dedent(
        """
        import hashlib, resource
        from fastcas import _core
        resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
        blobs = [bytes([n]) * 100_000 for n in range(64)]
        found = _core.digest_many(blobs, "sha256", threads=64)
        assert found == [(hashlib.sha256(b).hexdigest(), len(b)) for b in blobs]
        print("done")
        """
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


@pytest.mark.parametrize("threads", [1, 4])
def test_a_fork_in_the_middle_and_one_afterwards(threads, tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(256 << 20)
    fd = os.open(tmp_path / "sparse", os.O_RDONLY)
    child = None

    def progress(*_):
        nonlocal child
        if child is None:
            child = os.fork()

    try:
        found = _core.digest_many([fd] * 8, "sha256", threads=threads, progress=progress)
    except _core.ForkedError:
        os._exit(_core.digest_many([NOISE] * 9, "sha256", threads=3) != digests([NOISE] * 9))
    finally:
        if child == 0:
            os._exit(2)
    os.close(fd)
    assert found == digests([bytes(256 << 20)]) * 8
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_is_bounded_by_lanes_and_threads(tmp_path):
    """A GiB of holes on four threads of four lanes: a mebibyte of slots, and what threads need."""
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(64 << 20)
    fd = os.open(tmp_path / "sparse", os.O_RDONLY)
    _core.digest_many([fd], "sha256", threads=4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = _core.digest_many([fd] * 16, "sha256", threads=4)
    assert len(set(found)) == 1
    os.close(fd)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096


def test_files_are_open_as_descriptors_allow(tmp_path):
    """Many threads with many lanes each: what else there is to do needs descriptors too."""
    for number in range(1100):
        with open(tmp_path / str(number), "wb") as file:
            file.truncate(1 << 20)
    program = textwrap.dedent(
        """
        import os, resource, sys
        from fastcas import _core
        resource.setrlimit(resource.RLIMIT_NOFILE, (320, 320))
        here = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
        items = [(here, b"%d" % number) for number in range(1100)]
        for kernel in _core.KERNELS:
            found = _core.digest_many(items, "sha256", kernel=kernel, threads=64, failures=True)
            assert len(set(found)) == 1 and found[0][1] == 1 << 20, (kernel, set(map(type, found)))
        print("done")
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def cached_pages(path):
    """How many pages of a file are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        states = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        place, size = ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapped))
        failed = libc.mincore(place, size, states)
        del first
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(state & 1 for state in states)


@pytest.mark.parametrize("size", [5000, SLOT + 1, FORGET_STEP + 3 * SLOT + 1])
def test_the_page_cache_is_left_as_it_was(size, tmp_path):
    content = (NOISE * (size // len(NOISE) + 1))[:size]
    path = tmp_path / "blob"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    pages = cached_pages(path)
    assert pages == -(-size // mmap.PAGESIZE)
    assert _core.digest_many([fd], "sha256") == digests([content])
    assert cached_pages(path) == pages
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    cold = cached_pages(path)  # all of them on a filesystem in memory
    assert _core.digest_many([fd], "sha256") == digests([content])
    assert cached_pages(path) == cold
    os.close(fd)


# ---- the scheduler, given pieces of any size


def compiler():
    return shlex.split(os.environ.get("FASTCAS_TEST_CC", "gcc -fsanitize=address,undefined"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    program = tmp_path_factory.mktemp("lanes") / "lanes"
    sources = [Path(__file__).parent / "lanes.c", *sorted(NATIVE.glob("lanes*.c")), NATIVE / "evp.c"]
    flags = ["-O2", "-g", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}", "-o", program]
    subprocess.run([*compiler(), *flags, *sources, "-ldl"], check=True, timeout=100)
    return [*shlex.split(os.environ.get("FASTCAS_TEST_RUN", "")), program]


@pytest.mark.parametrize("seed", range(4))
def test_pieces_of_any_size(driver, seed, tmp_path):
    (tmp_path / "noise").write_bytes(NOISE)
    rng = random.Random(seed)
    messages = [(rng.randrange(1000), size) for size in range(301)]
    for _ in range(60):
        size = rng.choice((64, 128, 4096, 70_000, 300_000)) + rng.randrange(-64, 65)
        messages.append((rng.randrange(1000), size))
    rng.shuffle(messages)
    lines = "".join(f"{offset} {size}\n" for offset, size in messages)
    expected = {
        number: (hashlib.sha256(NOISE[offset : offset + size]).hexdigest(), size)
        for number, (offset, size) in enumerate(messages)
    }
    tried = []
    for kernel in range(8):
        result = subprocess.run(
            [*driver, tmp_path / "noise", str(kernel), str(seed)],
            input=lines, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        tried.append(result.stderr.strip())
        if result.returncode == 3:  # emulated, without a libcrypto
            break
        assert result.returncode == 0, result.stderr
        rows = [line.split() for line in result.stdout.splitlines()]
        assert {int(number): (digest, int(size)) for number, digest, size in rows} == expected
        if tried[-1] == "libcrypto":
            break
    if "FASTCAS_TEST_RUN" in os.environ:
        assert "armv8-x2" in tried
    else:
        assert tried == list(KERNELS)
