"""Many processes and threads on one layout, forks, pickles and Ctrl-C.

Nothing here measures time, but for bounded waits: what waits longer than they say hangs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fastcas
from conformance import MANIFEST, REF_NAME, descriptor_of, digest_of, noise
from fastcas import Descriptor
from test_cases import half_put, own_names, running

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("no_fd_leak")]

WAIT = 60  # seconds after which something hangs


# ---- 36, 37, 52: processes ----


def add_references(layout, worker, count):
    with fastcas.open(layout, durability="none") as cas:
        for number in range(count):
            cas.update_reference(f"w{worker}-{number}", descriptor_of(f"{worker}".encode()))
    return count


def test_case_36_no_reference_is_lost_between_processes(spawn, layout):
    with fastcas.create(layout) as cas:
        children = [spawn(add_references, layout, worker, 50) for worker in range(4)]
        # This process takes part too, through two engines in two threads.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(add_references, [layout] * 2, [8, 9], [50] * 2))
        for child in children:
            assert child.result(WAIT) == 50
        wanted = {f"w{worker}-{number}" for worker in (0, 1, 2, 3, 8, 9) for number in range(50)}
        found = list(cas.list_references())
        assert len(found) == 300
        assert set(found) == wanted
        for worker in range(4):
            mine = [name for name in found if name.startswith(f"w{worker}-")]
            assert mine == [f"w{worker}-{number}" for number in range(50)], "not in order"


def read_until(layout):
    """Reads the index until it has met both often; what it read must be one of the two."""
    seen = {0: 0, 500: 0}
    raw = Path(layout, "index.json")
    deadline = time.monotonic() + WAIT
    with fastcas.open(layout) as cas:
        while min(seen.values()) < 20 and time.monotonic() < deadline:
            seen[len(cas.get_index().manifests)] += 1
            json.loads(raw.read_bytes())
            time.sleep(0.001 * random.random())
    return seen


def test_case_37_reader_beside_put_index(spawn, layout):
    large = fastcas.Index(
        tuple(descriptor_of(annotations={REF_NAME: f"n{number}"}) for number in range(500))
    )
    small = fastcas.Index()
    with fastcas.create(layout, durability="none") as cas:
        child = spawn(read_until, layout)
        while child.process.poll() is None:  # it ends by itself, whatever it meets
            for index in (large, small):
                cas.put_index(index)
                time.sleep(0.005 * random.random())
        seen = child.result(WAIT)
    assert min(seen.values()) >= 20, f"not both were met: {seen}"


def without_tmpfile():
    from fastcas.dir import temp

    temp.HAVE_O_TMPFILE = False


def first_puts(layout, named, stop):
    if named:
        without_tmpfile()
    count = 0
    while not os.path.exists(stop):
        count += 1
        # A writer's first put is where umoci makes its directory, and then locks it.
        with fastcas.open(layout, durability="none") as cas:
            cas.put_blob(iter([f"{os.getpid()}-{count}".encode(), noise(5000)]))
    return count


@pytest.mark.parametrize("named", [False, True], ids=["tmpfile", "named"])
def test_case_52_first_puts_beside_clean(spawn, layout, tmp_path, named):
    stop = tmp_path / "stop"
    with fastcas.create(layout, durability="none") as cas:
        writers = [spawn(first_puts, layout, named, stop) for _ in range(2)]
        rounds = 0
        deadline = time.monotonic() + WAIT
        # Only rounds beside living writers count; both sides have their number of them.
        while rounds < 300 or len(cas) < 300:
            assert time.monotonic() < deadline, "the writers do nothing"
            assert cas.clean() == []
            rounds += len(cas) > 0
        stop.touch()
        assert len(cas) <= sum(writer.result(WAIT) for writer in writers) == len(cas)
        assert own_names(layout) == set()
        for digest in cas:
            cas.read_blob(digest)


def put_forever(layout, named, seed):
    if named:
        without_tmpfile()
    with fastcas.open(layout) as cas:
        for number in range(10**9):
            cas.put_blob(iter([noise(200_000, seed + number)]))
            cas.update_reference(f"n{number % 3}", descriptor_of())


@pytest.mark.parametrize("named", [False, True], ids=["tmpfile", "named"])
def test_killed_writers_leave_no_partial_blob(spawn, layout, named):
    with fastcas.create(layout) as cas:
        for turn in range(3):
            before = len(cas)
            writers = [spawn(put_forever, layout, named, 1000 * turn + n) for n in (0, 500)]
            deadline = time.monotonic() + WAIT
            while len(cas) < before + 5:
                assert time.monotonic() < deadline, "the writers do nothing"
                time.sleep(0.01)
            for writer in writers:
                writer.kill()
            cas.clean()
            assert own_names(layout) == set()
            for digest in cas:
                assert len(cas.read_blob(digest)) == 200_000
            cas.get_index()
        assert len(cas) > 0


# ---- engines and threads in one process ----


def test_two_engines_in_one_process_exclude_each_other(layout):
    """umoci 7: record locks of POSIX would let the second one in."""
    with fastcas.create(layout) as one, fastcas.open(layout) as two:
        finished = threading.Event()

        def other():
            two.update_reference("two", descriptor_of())
            finished.set()

        def function(index):
            thread.start()
            assert not finished.wait(0.3), "the second engine was let in"
            assert list(two.get_index().manifests) == [], "readers need no lock"
            return index.replace(manifests=(descriptor_of(annotations={REF_NAME: "one"}),))

        thread = threading.Thread(target=other)
        one.update_index(function)
        thread.join(WAIT)
        assert finished.is_set()
        assert list(one.list_references()) == ["one", "two"]


def test_closing_one_engine_keeps_the_locks_of_another(layout):
    with fastcas.create(layout) as one, fastcas.open(layout) as two:
        finished = threading.Event()

        def other():
            two.update_reference("two", descriptor_of())
            finished.set()

        def function(index):
            with fastcas.open(layout) as third:
                third.put_blob(b"x")
            thread.start()
            assert not finished.wait(0.3), "closing a file gave another's lock away"
            return index

        thread = threading.Thread(target=other)
        one.update_index(function)
        thread.join(WAIT)
        assert finished.is_set()


def test_threads_on_one_engine(layout):
    with fastcas.create(layout, durability="none") as cas:
        contents = [noise(size, 3) for size in (0, 100, 70_000, 300_000, 3 << 20)]
        digests = {digest_of(content): content for content in contents}

        def work(number):
            for turn in range(6):
                content = contents[(number + turn) % len(contents)]
                digest, size = cas.put_blob(iter([content]))
                assert (digest, size) == (digest_of(content), len(content))
                assert cas.read_blob(digest) == content
                with cas.get_blob(digest) as reader:
                    assert reader.read(10) == content[:10]
                assert set(cas) <= set(digests)
                cas.update_reference(f"t{number}-{turn}", descriptor_of())
                cas.put_blob(content, verify_existing=True)
                if turn == 3:
                    cas.clean()
            return number

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8), timeout=WAIT)) == list(range(8))
        assert set(cas) == set(digests)
        assert len(cas.list_references()) == 48
        assert own_names(layout) == set()


def test_threads_put_and_delete_the_same_blob(layout):
    content = noise(70_000)
    with fastcas.create(layout, durability="none") as cas:
        stop = threading.Event()

        def delete():
            while not stop.is_set():
                cas.delete_blob(digest_of(content))

        with running(delete):
            try:
                for _ in range(200):
                    assert cas.put_blob(content).digest == digest_of(content)
            finally:
                stop.set()
        cas.put_blob(content)
        assert cas.read_blob(digest_of(content)) == content


def test_buffer_that_another_thread_changes(layout):
    """Whatever is stored then, its name is right."""
    content = bytearray(noise(4 << 20))
    with fastcas.create(layout, durability="none") as cas:
        stop = threading.Event()

        def change():
            while not stop.is_set():
                for at in range(0, len(content), 4001):
                    content[at] ^= 0xFF

        with running(change):
            try:
                digests = [cas.put_blob(content).digest for _ in range(5)]
            finally:
                stop.set()
        for digest in digests:
            assert len(cas.read_blob(digest)) == 4 << 20


def test_no_thread_is_left_running(layout):
    def threads():
        return len(os.listdir("/proc/self/task"))

    with fastcas.create(layout, durability="none") as cas:
        before = threads()
        digest, _ = cas.put_blob(iter([noise(5 << 20)]))
        with cas.get_blob(digest) as reader:
            reader.read()
        reader = cas.get_blob(digest)
        reader.read(3 << 20)
        reader.close()

        def fails():
            yield noise(5 << 20)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            cas.put_blob(fails())
        deadline = time.monotonic() + WAIT
        while threads() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads() <= before


# ---- fork, exec, pickle ----


def in_fork(function):
    """Runs a function in a forked child and fails when it does, or hangs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(WAIT)
            function()
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid):
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the forked child ended with {status}"


@pytest.mark.parametrize("durability", ["full", "batch", "syncfs", "none"])
def test_fork_uses_the_same_engine(layout, durability):
    with fastcas.create(layout, durability=durability) as cas:
        cas.put_blob(noise(3 << 20))
        cas.sync()  # the child is another process

        def child():
            assert cas.read_blob(digest_of(noise(3 << 20))) == noise(3 << 20)
            cas.put_blob(noise(4 << 20, 2))
            cas.update_reference("child", descriptor_of())
            cas.clean()
            cas.close()

        ended(in_fork(child))
        cas.put_blob(noise(3 << 20, 3))
        cas.update_reference("parent", descriptor_of())
        assert list(cas.list_references()) == ["child", "parent"]
        assert len(cas) == 3


def test_fork_while_others_put_and_lock(layout):
    content = noise(900_000)
    with fastcas.create(layout) as cas:

        def child():
            cas.put_blob(b"from the child")
            cas.update_reference("child", descriptor_of())
            with fastcas.open(layout) as own:
                own.put_blob(b"from its own engine")

        with half_put(cas, content):
            ended(in_fork(child))
        assert cas.read_blob(digest_of(content)) == content
        assert len(cas) == 3
        assert own_names(layout) == set()


def test_a_forked_child_holds_no_lock(layout):
    """The child lives on; the parent's lock must not live on in it."""
    with fastcas.create(layout) as cas:
        read, write = os.pipe()
        pids = []

        def child():
            os.close(write)
            os.read(read, 1)

        def function(index):
            pids.append(in_fork(child))
            return index.replace(manifests=(descriptor_of(),))

        cas.update_index(function)
        done = threading.Event()

        def again():
            with fastcas.open(layout) as other:
                other.update_reference("v1", descriptor_of())
                other.clean()
            done.set()

        thread = threading.Thread(target=again, daemon=True)
        thread.start()
        free = done.wait(WAIT / 2)  # the child's alarm comes later
        os.close(write)
        ended(pids[0])
        os.close(read)
        thread.join(WAIT)
        assert free, "the forked child kept its parent's lock"


def test_fork_with_a_reader_half_read(layout):
    content = noise(5 << 20)
    with fastcas.create(layout, durability="none") as cas:
        digest, _ = cas.put_blob(content)
        with cas.get_blob(digest) as reader:
            head = reader.read(3 << 20)

            def child():
                # What the child may do with it is close it, and open it again.
                reader.close()
                with cas.get_blob(digest) as own:
                    assert own.read() == content

            ended(in_fork(child))
            # The two share one offset in the file; the child has not moved it.
            assert head + reader.readall() == content


def test_descriptors_are_closed_on_exec(layout):
    code = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in range(3, 64)"
    code += " if os.path.exists(f'/proc/self/fd/{n}')])"
    with fastcas.create(layout) as cas:
        digest, _ = cas.put_blob(b"x")
        with cas.get_blob(digest):

            def function(index):
                run = subprocess.run(
                    [sys.executable, "-c", code],
                    close_fds=False,
                    capture_output=True,
                    text=True,
                    check=True,
                    env={**os.environ, "PYTHONPATH": ""},
                )
                assert str(layout) not in run.stdout

            cas.update_index(function)
            with half_put(cas, noise(100_000)):
                function(None)


@pytest.mark.parametrize("durability", ["full", "batch", "none"])
def test_pickle_reopens_by_path(layout, durability):
    with fastcas.create(layout, durability=durability) as cas:
        digest, _ = cas.put_blob(b"x")
        cas.sync()
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            with pickle.loads(pickle.dumps(cas, protocol)) as again:
                assert again.durability == durability
                assert again.read_blob(digest) == b"x"
                again.update_reference("v1", descriptor_of())
        assert list(cas.list_references()) == ["v1"]
        frozen = pickle.dumps(cas)
    with pickle.loads(frozen) as again:
        assert digest in again
    os.rename(layout, layout.with_name("moved"))
    with pytest.raises(fastcas.NotExistError):
        pickle.loads(frozen)


def use_engine(cas, number):
    """What another process does with an engine that came to it."""
    content = noise(3 << 20, number)
    digest, _ = cas.put_blob(iter([content]))
    cas.put_blobs([str(number).encode(), noise(70_000, number)])
    with cas.get_blob(digest) as blob:
        assert blob.read() == content
    assert cas.read_blob(digest_of(b"of the parent")) == b"of the parent"
    cas.update_reference(f"n{number}", Descriptor(MANIFEST, digest, len(content)))


def use_and_close(cas, number):
    with cas:
        use_engine(cas, number)


_inherited = []


def use_inherited(number):
    use_engine(_inherited[0], number)


def through_a_pool(context, cas):
    with context.Pool(2) as pool:
        pool.starmap_async(use_and_close, [(cas, number) for number in range(4)]).get(WAIT)
        pool.close()
        pool.join()


def as_an_argument(context, cas):
    """Which fork doesn't pickle."""
    in_processes(context, use_engine, cas)


def by_inheritance(context, cas):
    _inherited[:] = [cas]
    in_processes(context, use_inherited)


def in_processes(context, function, *arguments):
    processes = [context.Process(target=function, args=(*arguments, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT)
        assert process.exitcode == 0


def pass_engines(layout, method, way, durability):
    context = multiprocessing.get_context(method)
    with fastcas.create(layout, durability=durability) as cas:
        cas.put_blob(b"of the parent")
        cas.sync()  # the others are other processes
        cas.put_blob(b"waits, perhaps")
        globals()[way](context, cas)
        cas.put_blob(b"at last")
        cas.update_reference("parent", descriptor_of(b"at last"))
        assert set(cas.list_references()) == {"n0", "n1", "n2", "n3", "parent"}
        assert len(cas) == 15
        assert cas.scrub().problems == []
        assert cas.clean() == []
    return "done"


@pytest.mark.parametrize(
    ("method", "way", "durability"),
    [
        ("spawn", "through_a_pool", "batch"),  # a process of spawn takes a while to begin
        ("spawn", "as_an_argument", "full"),
        ("fork", "through_a_pool", "none"),
        ("fork", "as_an_argument", "batch"),
        ("fork", "by_inheritance", "full"),
        ("fork", "by_inheritance", "batch"),
    ],
)
def test_engines_go_to_other_processes(spawn, layout, method, way, durability):
    # In a child, because multiprocessing keeps processes and pipes of its own for good.
    assert spawn(pass_engines, layout, method, way, durability).result(WAIT) == "done"


def test_digests_and_errors_pickle():
    digest = fastcas.Digest(digest_of(b"x"))
    again = pickle.loads(pickle.dumps(digest))
    assert (type(again), again) == (fastcas.Digest, digest)
    error = fastcas.SizeMismatchError("m", digest=digest, expected=1, actual=2, path="p")
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert (type(again), str(again)) == (fastcas.SizeMismatchError, "m")


# ---- Ctrl-C ----


def interrupted(layout, what):
    """Does something long until SIGINT, then tells what is left of it."""
    sys.stdin.close()
    cas = fastcas.open(layout)
    sources = []

    def ready():
        print("ready", flush=True)

    def endless():
        for number in range(10**9):
            time.sleep(0.001)
            yield noise(1 << 16)
            if number == 20:
                ready()

    class Reader:
        calls = 0

        def readinto(self, buffer):
            time.sleep(0.001)
            self.calls += 1
            if self.calls == 20:
                ready()
            return len(buffer)

    def feed(target):
        with target:
            try:
                for number in range(10**9):
                    target.write(noise(1 << 16))  # a pipe holds no more: most of it has been read
                    time.sleep(0.002)
                    if number == 20:
                        ready()
            except (BrokenPipeError, ValueError):
                pass

    if what in ("busy pipe", "silent pipe"):
        read, write = os.pipe()
        sources = [open(read, "rb"), open(write, "wb", buffering=0)]
        if what == "busy pipe":
            threading.Thread(target=feed, args=[sources[1]], daemon=True).start()
        call = lambda: cas.put_blob(sources[0])  # noqa: E731
    elif what == "iterable":
        call = lambda: cas.put_blob(endless())  # noqa: E731
    elif what == "reader":
        call = lambda: cas.put_blob(Reader())  # noqa: E731
    elif what == "fifo":
        os.mkfifo(Path(layout).parent / "fifo")
        call = lambda: cas.put_blob(Path(layout).parent / "fifo")  # noqa: E731
    elif what == "lock":
        call = lambda: cas.update_reference("v1", descriptor_of())  # noqa: E731
    before = len(os.listdir("/proc/self/fd"))
    try:
        if what in ("silent pipe", "fifo", "lock"):
            ready()
        call()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    after = len(os.listdir("/proc/self/fd"))
    left = sorted(own_names(layout))
    blobs = len(list(cas))
    if what != "lock":
        cas.put_blob(b"goes on")
        cas.clean()
    cas.close()
    return {"fds": after - before, "left": left, "blobs": blobs}


def interrupt(spawn, layout, what):
    """Ctrl-C ends the call, which would else go on for ever, and nothing is left of it."""
    child = spawn(interrupted, layout, what)
    assert child.process.stdout.readline() == b"ready\n"
    time.sleep(0.3)  # what nothing can be seen of has most likely begun by then; nothing depends on it
    child.process.send_signal(signal.SIGINT)
    # A child that hangs is killed, which ends this line.
    timer = threading.Timer(WAIT, child.process.kill)
    timer.start()
    answer = child.process.stdout.readline()
    timer.cancel()
    timer.join()
    assert answer == b"interrupted\n", child.process.communicate()
    assert child.result() == {"fds": 0, "left": [], "blobs": 0}


@pytest.mark.parametrize("what", ["busy pipe", "silent pipe", "iterable", "reader", "fifo"])
def test_ctrl_c_in_a_long_put(spawn, layout, what):
    fastcas.create(layout, durability="none").close()
    interrupt(spawn, layout, what)


def test_ctrl_c_while_waiting_for_the_lock(spawn, layout):
    with fastcas.create(layout) as cas:

        def function(index):
            interrupt(spawn, layout, "lock")

        cas.update_index(function)
        assert list(cas.list_references()) == []


def test_ctrl_c_while_verifying(layout):
    """SIGINT meets a read of a large blob; the reader can be closed and nothing is left."""
    with fastcas.create(layout, durability="none") as cas:
        digest, _ = cas.put_blob(noise(1 << 20))
        with (layout / "large").open("wb") as stream:
            stream.truncate(64 << 30)
        os.replace(
            layout / "large", layout / "blobs" / "sha256" / digest_of(b"large").partition(":")[2]
        )
        # Not SIGALRM, by which a test that hangs is ended.
        old = signal.signal(signal.SIGUSR1, _interrupt)
        main = threading.main_thread().ident
        reader = cas.get_blob(digest_of(b"large"))
        timer = threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGUSR1])
        try:
            # Whoever reads to the end finds that the digest is another.
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                reader.verify()
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, old)
            reader.close()
        assert cas.read_blob(digest) == noise(1 << 20)


def _interrupt(*_):
    raise KeyboardInterrupt


def test_signals_that_raise_nothing_change_nothing(layout):
    """EINTR on and on while a pipe is read: every byte arrives."""
    content = noise(3 << 20)
    count = []
    old = signal.signal(signal.SIGUSR1, lambda *_: count.append(1))
    main = threading.main_thread().ident
    read, write = os.pipe()

    def feed():
        deadline = time.monotonic() + WAIT
        with open(write, "wb") as target:
            for start in range(0, len(content), 30_000):
                target.write(content[start : start + 30_000])
                target.flush()
                signal.pthread_kill(main, signal.SIGUSR1)
                time.sleep(0.002)
            while len(count) <= 5 and time.monotonic() < deadline:
                signal.pthread_kill(main, signal.SIGUSR1)
                time.sleep(0.002)

    try:
        with fastcas.create(layout, durability="none") as cas, open(read, "rb") as source:
            with running(feed):
                assert cas.put_blob(source) == (digest_of(content), len(content))
            assert cas.read_blob(digest_of(content)) == content
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert len(count) > 5
