"""What the kernel seldom does, made to happen by functions that are loaded before libc's.

Each test runs a program of its own. Nothing in it depends on how quick anything is: where a broken
core would go on for ever, the functions here end the process.
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import textwrap
from collections import Counter

import pytest

import fastcas
from conftest import patch_fsync
from fastcas.dir import temp
from preload import build_shim, run_with_shim
from test_cases import own_names

pytestmark = pytest.mark.usefixtures("no_fd_leak")

WENT_ON = 42  # the exit code of a process that went on where it had to stop

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { OPENAT2 = 437, WENT_ON = 42 };

/* What a blob's way is made of, a letter a call. */
char order[4096];
int noted;

static void note(char what)
{
    if (noted < (int)sizeof order - 1)
        order[noted++] = what;
}

/* openat2 says EAGAIN so often. */
int eagain_left, openat2_calls;

long syscall(long number, ...)
{
    long a[6];
    va_list list;

    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == OPENAT2) {
        note('o');
        if (++openat2_calls > 100000)
            _exit(WENT_ON);
        if (eagain_left > 0) {
            eagain_left--;
            errno = EAGAIN;
            return -1;
        }
    }
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Copies: the methods before the one under test are refused, that one takes a while, moves little and
   meets a signal. From then on it may be called so often. */
enum { NONE, COPY_FILE_RANGE, SENDFILE, PREAD, PWRITE };
int interrupt_in, calls, calls_after = 20;
size_t longest;

static void called(size_t size)
{
    calls++;
    if (size > longest)
        longest = size;
    usleep(20000);
    if (calls == 5)
        raise(SIGINT);
    if (calls > 5 + calls_after)
        _exit(WENT_ON);
}

static size_t little(size_t size)
{
    return size < 65536 ? size : 65536;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    void *argument;

    va_start(list, request);
    argument = va_arg(list, void *);
    va_end(list);
    if (request == FICLONE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return REAL(ioctl)(fd, request, argument);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags)
{
    if (interrupt_in == COPY_FILE_RANGE) {
        called(size);
        return REAL(copy_file_range)(in, from, out, to, little(size), flags);
    }
    errno = EXDEV;
    return -1;
}

ssize_t sendfile(int out, int in, off_t *from, size_t size)
{
    if (interrupt_in == SENDFILE) {
        called(size);
        return REAL(sendfile)(out, in, from, little(size));
    }
    errno = EINVAL;
    return -1;
}

ssize_t pread(int fd, void *data, size_t size, off_t at)
{
    note('r');
    if (interrupt_in == PREAD) {
        called(0);
        size = little(size);
    }
    return REAL(pread)(fd, data, size, at);
}

/* Writes of a byte, writes that say more than they did, a failing sync, a name that was just taken. */
int tiny, lies, sync_fails, taken;

/* A disk: so many writes take longer than a section without the GIL may last, and store half. */
int slow_writes;

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    if (interrupt_in == PWRITE)
        called(0);
    if (slow_writes > 0) {
        slow_writes--;
        usleep(150000);
        size = size / 2 + 1;
    }
    note('w');
    if (tiny && size > 1)
        size = 1;
    if (lies)
        return REAL(pwrite)(fd, data, size - 1, at) + 1;
    return REAL(pwrite)(fd, data, size, at);
}

int fstat(int fd, struct stat *facts)
{
    note('f');
    return REAL(fstat)(fd, facts);
}

int fstatat(int fd, const char *name, struct stat *facts, int flags)
{
    note('a');
    return REAL(fstatat)(fd, name, facts, flags);
}

/* Python's own names for three of them. */
ssize_t pread64(int fd, void *data, size_t size, off64_t at)
{
    note('r');
    return REAL(pread64)(fd, data, size, at);
}

int fstat64(int fd, struct stat64 *facts)
{
    note('f');
    return REAL(fstat64)(fd, facts);
}

int fstatat64(int fd, const char *name, struct stat64 *facts, int flags)
{
    note('a');
    return REAL(fstatat64)(fd, name, facts, flags);
}

ssize_t read(int fd, void *data, size_t size)
{
    note('r');
    return REAL(read)(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    note('w');
    return REAL(write)(fd, data, size);
}

int flock(int fd, int operation)
{
    note(operation == LOCK_UN ? 'u' : 'k');
    return REAL(flock)(fd, operation);
}

int renameat(int from, const char *name, int to, const char *new)
{
    note('m');
    return REAL(renameat)(from, name, to, new);
}

int close(int fd)
{
    note('c');
    return REAL(close)(fd);
}

int fsync(int fd)
{
    note('s');
    if (sync_fails) {
        errno = EIO;
        return -1;
    }
    return REAL(fsync)(fd);
}

int linkat(int from, const char *path, int to, const char *name, int flags)
{
    note('l');
    if (taken) { /* another writer was quicker by so much */
        taken = 0;
        close(openat(to, name, O_CREAT | O_WRONLY, 0444));
    }
    return REAL(linkat)(from, path, to, name, flags);
}

/* The hasher: a thread that comes late, or is ended by somebody else. */
int hasher_late_ms, hasher_dies, hashers;

struct work {
    void *(*function)(void *);
    void *argument;
};

static void *late(void *given)
{
    struct work work = *(struct work *)given;

    free(given);
    usleep(1000 * hasher_late_ms);
    return hasher_dies ? NULL : work.function(work.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *),
                   void *argument)
{
    struct work *work = malloc(sizeof *work);

    work->function = function;
    work->argument = argument;
    hashers++;
    return REAL(pthread_create)(thread, attributes, late, work);
}
"""

PRELUDE = """
import ctypes, errno, hashlib, json, os, sys
shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
def variable(name, kind=ctypes.c_int):
    return kind.in_dll(shim, name)
def told(**facts):
    print(json.dumps(facts))
import fastcas
from fastcas import _core
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return build_shim(tmp_path_factory.mktemp("shim"), SHIM)


@pytest.fixture
def run(shim):
    """Runs a program with the functions above; returns what it told."""

    def run(program, *arguments):
        done = run_with_shim(shim, PRELUDE + textwrap.dedent(program), *arguments)
        assert done.returncode != WENT_ON, "the core went on where it had to stop"
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


# ---- openat2 ----


def test_openat2_is_tried_again_but_not_for_ever(run, tmp_path):
    """EAGAIN: a rename was under way while the path was resolved."""
    told = run(
        """
        with fastcas.create(sys.argv[1], durability="none") as cas:
            content = bytes(100_000)
            digest = cas.put_blob(content).digest
            small = cas.put_blob(b"small").digest
            calls = {
                "read_blob": lambda: cas.read_blob(digest) == content,
                "small": lambda: cas.read_blob(small) == b"small",
                "stat_blob": lambda: cas.stat_blob(digest).size == 100_000,
                "put_blob": lambda: cas.put_blob(b"another").size == 7,
                "get_index": lambda: len(cas.get_index().manifests) == 0,
            }
            fds = len(os.listdir("/proc/self/fd"))
            good = []
            for name, call in calls.items():
                variable("eagain_left").value = 5
                if call():
                    good.append(name)
                assert variable("eagain_left").value == 0, name
            refused = []
            for name, call in calls.items():
                variable("eagain_left").value = 10**9
                try:
                    call()
                except BlockingIOError as error:
                    if error.errno == errno.EAGAIN and error.filename:
                        refused.append(name)
            variable("eagain_left").value = 0
            left = len(os.listdir("/proc/self/fd")) - fds
            after = [name for name, call in calls.items() if call()]
        told(good=good, refused=refused, after=after, left=left, names=sorted(os.listdir(sys.argv[1])))
        """,
        tmp_path / "image",
    )
    every = ["read_blob", "small", "stat_blob", "put_blob", "get_index"]
    names = ["blobs", "index.json", "oci-layout"]
    assert [told["good"], told["refused"], told["after"]] == [every] * 3
    assert told["left"] == 0
    assert [name for name in told["names"] if not name.startswith(".fastcas")] == names


@pytest.mark.parametrize("resolving", ["openat2", "by-component"])
def test_a_file_under_a_lease_is_an_error(layout, monkeypatch, resolving):
    """Its holder is asked to give it up; who waits for that waits for as long as the kernel lets it."""
    if resolving == "by-component":
        monkeypatch.setattr("fastcas.dir.root.HAVE_OPENAT2", False)
    with fastcas.create(layout, durability="none") as cas:
        digest = cas.put_blob(b"content").digest
        path = layout / "blobs" / "sha256" / digest.encoded
        old = signal.signal(signal.SIGIO, signal.SIG_IGN)  # how the holder is asked
        holder = os.open(path, os.O_RDONLY)
        try:
            try:
                fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except OSError as error:
                pytest.skip(f"no leases on this filesystem: {error}")
            for call in (
                lambda: cas.read_blob(digest),
                lambda: cas.get_blob(digest),
                lambda: cas.copy_blob(digest, layout.parent / "copy"),
                lambda: cas.put_blob(b"content"),
            ):
                # Where the open waited until the lease was broken, it would succeed.
                with pytest.raises(BlockingIOError) as caught:
                    call()
                assert caught.value.errno == errno.EAGAIN
                assert str(caught.value.filename).endswith(digest.encoded)
            assert not (layout.parent / "copy").exists()
        finally:
            os.close(holder)
            signal.signal(signal.SIGIO, old)
        assert cas.read_blob(digest) == b"content"
        assert cas.put_blob(b"content").digest == digest
        assert cas.clean() == []


# ---- Ctrl-C while a blob is copied out ----


@pytest.mark.parametrize(
    ("number", "way"), [(1, "copy_file_range"), (2, "sendfile"), (3, "copy"), (4, "verified copy")]
)
def test_ctrl_c_in_a_large_copy(run, tmp_path, number, way):
    told = run(
        """
        layout, room, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
        size = 8 << 30
        digest = "sha256:" + "ab" * 32
        fastcas.create(layout).close()
        with open(os.path.join(layout, "blobs", *digest.split(":")), "wb") as blob:
            blob.truncate(size)
        target = os.path.join(room, "copy")
        with open(target, "wb") as before:
            before.write(b"before")
        with fastcas.open(layout) as cas:
            fds = len(os.listdir("/proc/self/fd"))
            # A section without the GIL may have several writes in it; the others end after each call.
            variable("calls_after").value = 100 if number == 4 else 1
            variable("interrupt_in").value = number
            interrupted = False
            try:
                cas.copy_blob(digest, target, verify=number == 4)
            except KeyboardInterrupt:
                interrupted = True
            variable("interrupt_in").value = 0
            told(
                interrupted=interrupted,
                fds=len(os.listdir("/proc/self/fd")) - fds,
                names=os.listdir(room),
                content=open(target, "rb").read(10).decode(),
                calls=variable("calls").value,
                longest=variable("longest", ctypes.c_size_t).value,
            )
        """,
        tmp_path / "image",
        (tmp_path / "room").mkdir() or tmp_path / "room",
        number,
    )
    assert told["interrupted"]
    assert (told["fds"], told["names"], told["content"]) == (0, ["copy"], "before")
    assert told["calls"] >= 5, "the signal came while nothing was copied"
    # No signal ends such a call: it must not be given all of 8 GiB while each takes its time.
    assert told["longest"] <= 1 << 30


# ---- memory that is hashed where it lies ----


@pytest.mark.parametrize("before", [0, (512 << 10) - 200_000, (512 << 10) - 1, (512 << 10) + 100])
@pytest.mark.parametrize("slow", [0, 1, 2])
def test_bytes_are_released_only_when_they_are_hashed(run, tmp_path, before, slow):
    """Writes split the piece, and the hasher comes late: when write() returns, its caller may let go
    of the memory, which is made visible here by overwriting it."""
    told = run(
        """
        before, slow = map(int, sys.argv[2:])
        wrong = []
        hashers = {}
        for size in (64 << 10, 600_000, (1 << 20) - 1, 1 << 20, (3 << 20) + 5):
            head, piece = os.urandom(before), os.urandom(size)
            right = hashlib.sha256(head + piece).hexdigest()
            address = id(piece) + bytes.__basicsize__ - 1
            assert ctypes.string_at(address, 16) == piece[:16]
            fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            variable("hashers").value = 0
            sink = _core.Sink(fd, "sha256")
            # The first is hashed where it lies, and the slots of the others end at odd places: the
            # last one has 512 KiB, where the hasher begins, in its middle.
            sink.write(head[:100_000])
            for start in range(100_000, before, 60_000):
                sink.write(head[start : start + 60_000])
            variable("hasher_late_ms").value = 300
            variable("slow_writes").value = slow
            sink.write(piece)
            ctypes.memset(address, 0, size)
            variable("slow_writes").value = variable("hasher_late_ms").value = 0
            if sink.finish() != (right, before + size):
                wrong.append(size)
            hashers[size] = variable("hashers").value
            os.close(fd)
        told(wrong=wrong, hashers=hashers)
        """,
        tmp_path / "target",
        before,
        slow,
    )
    assert told["wrong"] == []
    assert told["hashers"][str((3 << 20) + 5)] == 1, "no hasher: nothing was tried"


def test_what_its_hasher_left_unhashed_gets_no_name(run, tmp_path):
    told = run(
        """
        with fastcas.create(sys.argv[1], durability="none") as cas:
            variable("hasher_dies").value = 1
            try:
                cas.put_blob(bytes(512 << 10))
            except Exception as error:
                raised = type(error).__name__
            told(raised=raised, hashers=variable("hashers").value, blobs=list(cas))
        """,
        tmp_path / "image",
    )
    assert told == {"raised": "RuntimeError", "hashers": 1, "blobs": []}


# ---- a small put, which is one call of the core ----


def test_the_system_calls_of_a_small_blob_and_of_an_index(run, tmp_path):
    """Each one, in order: a file is synced before it has a name, and nothing is asked for in vain."""
    told = run(
        """
        import pathlib
        order = variable("order", ctypes.c_char * 4096)
        def calls(operation):
            variable("noted").value = 0
            order.value = bytes(4096)
            operation()
            return order.value.decode()
        ways = {}
        for level in ("full", "batch", "none"):
            with fastcas.create(os.path.join(sys.argv[1], level), durability=level) as cas:
                cas.put_blob(b"the first anchors the directory")
                cas.sync()
                ways[level] = calls(lambda: cas.put_blob(b"small"))
                if level == "batch":
                    ways["sync"] = calls(cas.sync)
                digest = "sha256:" + hashlib.sha256(b"small").hexdigest()
                ways["read"] = calls(lambda: cas.read_blob(digest))
                def get():
                    with cas.get_blob(digest) as blob:
                        blob.read()
                ways["get"] = calls(get)
                def get_into():
                    with cas.get_blob(digest) as blob:
                        assert blob.readinto(bytearray(9)) == 5
                ways["get into"] = calls(get_into)
                source = pathlib.Path(sys.argv[1], "source")
                source.write_text(level)
                ways["file " + level] = calls(lambda: cas.put_blob(source))
                ways["many " + level] = calls(
                    lambda: cas.put_blobs([b"%d" % number for number in range(100)])
                )
                descriptor = fastcas.Descriptor("application/octet-stream", digest, 5)
                cas.update_reference("first", descriptor)  # makes the lock file
                ways["update " + level] = calls(lambda: cas.update_reference("name", descriptor))
        told(**ways)
        """,
        tmp_path,
    )
    # The directory, the name, a file; write, fstat, (sync,) link.
    assert told["none"] == "oao" + "wfl" + "cc"
    # The name, a file; it waits for the durability point, where a pool syncs, before there is a name.
    assert told["batch"] == "oo" + "wf"
    # A file that is small is read first: (what it is, opened, which aren't noted,) its size, all of it.
    for level in ("none", "batch", "full"):
        assert told[f"file {level}"] == "frc" + told[level]
    assert told["sync"].count("l") == 1
    assert told["sync"].index("s") < told["sync"].index("l") < told["sync"].rindex("s")
    # The directory, which is the one whose own name is durable, is synced before the call returns.
    assert told["full"] == "oao" + "wfsl" + "c" + "sffc"
    assert told["read"] == told["get"] == told["get into"] == "ofrc"
    # Many together: a file, write, fstat, link, close for each; and, durable, a look at the name and a
    # sync. The directory is opened and synced once for all.
    for level, each in (("none", "owflc"), ("batch", "oawfslc"), ("full", "oawfslc")):
        counts = Counter(told["many " + level])
        assert {call for call in counts if counts[call] >= 20} == set(each), counts
        assert all(95 <= counts[call] <= 115 for call in each), counts
    # The lock, as long as its name leads to it; the index; a file; the index again, which a program
    # without locks may have changed; the name, by way of another.
    update = "ofka" + "ofrf" + "owf" + "{}" + "afr" + "lm" + "{}" + "cc" + "uc"
    assert told["update none"] == update.format("", "")
    assert told["update full"] == told["update batch"] == update.format("s", "s")


COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>

long taken;

void PyEval_RestoreThread(void *state)
{
    ((void (*)(void *))dlsym(RTLD_NEXT, "PyEval_RestoreThread"))(state);
    taken++;
}
"""


def test_a_small_blob_takes_the_gil_once_a_call(tmp_path):
    """What waits for the GIL beside busy threads waits a switch interval each time."""
    program = """
        import ctypes, json, os, pathlib, sys
        import fastcas
        taken = ctypes.c_long.in_dll(ctypes.CDLL(os.environ["LD_PRELOAD"]), "taken")
        def count(operation, *arguments):
            before = taken.value
            result = operation(*arguments)
            return taken.value - before, result
        told = {}
        for level in ("none", "batch", "full"):
            path = pathlib.Path(sys.argv[1], level)
            with fastcas.create(path / "image", durability=level) as cas:
                cas.put_blob(b"the first anchors the directory")
                told[level], put = count(cas.put_blob, b"small")
                (path / "source").write_text(level)
                told["file " + level], _ = count(cas.put_blob, path / "source")
                cas.sync()
                told["read_blob"], _ = count(cas.read_blob, put.digest)
                told["get_blob"], blob = count(cas.get_blob, put.digest)
                told["read"], _ = count(blob.read)
                told["close"], _ = count(blob.close)
                with cas.get_blob(put.digest) as blob:
                    told["readinto"], _ = count(blob.readinto, bytearray(9))
        print(json.dumps(told))
    """
    done = run_with_shim(build_shim(tmp_path, COUNTER), textwrap.dedent(program), tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    if not told["read_blob"]:
        pytest.skip("an interpreter without a library of its own finds its functions in itself")
    # At "full" besides: the directory is synced and closed.
    full = {told.pop("full"), told.pop("file full") - 1}
    assert full == {3}
    # A file is read before.
    assert {told.pop(f"file {level}") for level in ("none", "batch")} == {2}
    assert told.pop("none") == told.pop("batch") == 1
    assert set(told.values()) == {1}, told


def test_a_small_put_meets_a_disk_that_fails(run, tmp_path):
    told = run(
        """
        with fastcas.create(sys.argv[1]) as cas:
            cas.put_blob(b"the first anchors the directory")
            facts = {}
            def attempt(fault, content):
                variable(fault).value = 1
                before = len(os.listdir("/proc/self/fd"))
                try:
                    cas.put_blob(content)
                except Exception as error:
                    facts[fault] = [type(error).__name__, error.errno, bool(error.filename)]
                else:
                    facts[fault] = "stored"
                variable(fault).value = 0
                assert len(os.listdir("/proc/self/fd")) == before
                assert [n for n in os.listdir(sys.argv[1]) if n.endswith(".tmp")] == []
            attempt("sync_fails", b"a sync that fails")
            attempt("lies", b"a write that stores less than it says")
            assert len(cas) == 1
            attempt("tiny", b"writes of a byte")
            attempt("taken", b"somebody has the name, with nothing in it")
            for content in (b"writes of a byte", b"somebody has the name, with nothing in it"):
                assert cas.read_blob("sha256:" + hashlib.sha256(content).hexdigest()) == content
            assert len(cas) == 3
            told(**facts)
        """,
        tmp_path / "image",
    )
    assert told == {
        "sync_fails": ["OSError", errno.EIO, True],
        "lies": ["OSError", errno.EIO, True],
        "tiny": "stored",
        "taken": "stored",
    }


# ---- the directory of an algorithm goes away during a put ----


@pytest.mark.parametrize("kind", ["tmpfile", "named"])
@pytest.mark.parametrize("moment", ["made", "opened", "synced"])
def test_a_directory_that_goes_away_during_a_put(layout, monkeypatch, kind, moment):
    """Between its making and its opening, its opening and the linking, or after that."""
    if kind == "named":
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    folder = layout / "blobs" / "sha256"
    gone = []

    def once(function, before):
        def call(*arguments, **keywords):
            if before and not gone:
                gone.append(shutil.rmtree(folder))
            answer = function(*arguments, **keywords)
            if not before and not gone:
                gone.append(shutil.rmtree(folder))
            return answer

        return call

    with fastcas.create(layout) as cas:
        with monkeypatch.context() as patch:
            if moment == "made":
                folder.rmdir()
                patch.setattr(os, "mkdir", once(os.mkdir, before=False))
            elif moment == "opened":  # the file is synced between the two
                patch_fsync(patch, once(os.fsync, before=True))
            else:
                real = cas._waits.published
                patch.setattr(cas._waits, "published", once(real, before=True))
            if moment == "synced":
                cas.put_blob(b"content")  # it was there, and somebody removed it
            else:
                with pytest.raises(FileNotFoundError) as caught:
                    cas.put_blob(bytearray(b"content"))  # small bytes go another way, in one call
                assert str(layout) in str(caught.value.filename) or kind == "named"
                assert caught.value.filename
        assert gone == [None]
        assert list(cas) == []
        assert own_names(layout) == set()
        digest = cas.put_blob(b"content").digest
        assert cas.read_blob(digest) == b"content"


@pytest.mark.parametrize("number", temp.NO_HARD_LINK)
def test_where_there_are_no_hard_links(layout, monkeypatch, number):
    def refuses(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(temp, "HAVE_O_TMPFILE", False)
    monkeypatch.setattr(temp.os, "link", refuses)
    monkeypatch.setattr("fastcas.copyout._core.link_fd", refuses)
    with fastcas.create(layout) as cas:
        digest, _ = cas.put_blob(b"renamed")
        assert cas.copy_blob(digest, layout.with_name("copy"), link=True).method != "hardlink"
    assert layout.with_name("copy").read_bytes() == b"renamed"
    assert own_names(layout) == set()


# ---- what is quick only on a cold disk, and on one that does many things at once ----

HINTS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MANY = 8, PATIENCE = 10 };

int sequential, wait_for_many, at_once, most;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

int posix_fadvise(int fd, off_t offset, off_t size, int advice)
{
    sequential += advice == POSIX_FADV_SEQUENTIAL && !offset && !size;
    return 0;
}

int posix_fadvise64(int fd, off64_t offset, off64_t size, int advice)
{
    return posix_fadvise(fd, offset, size, advice);
}

/* That of a file ends when so many have begun, or never will. */
int fsync(int fd)
{
    struct stat facts;
    struct timespec until;

    if (wait_for_many && !fstat(fd, &facts) && S_ISREG(facts.st_mode)) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += PATIENCE;
        pthread_mutex_lock(&mutex);
        at_once++;
        if (at_once > most)
            most = at_once;
        pthread_cond_broadcast(&changed);
        while (most < MANY && pthread_cond_timedwait(&changed, &mutex, &until) != ETIMEDOUT)
            ;
        wait_for_many = most >= MANY;
        at_once--;
        pthread_mutex_unlock(&mutex);
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
"""


@pytest.fixture(scope="module")
def hints(tmp_path_factory):
    return build_shim(tmp_path_factory.mktemp("hints"), HINTS)


@pytest.mark.parametrize(
    "read",
    [
        "cas.scrub()",
        "cas.scrub(quick=True)",
        "for digest in digests: cas.read_blob(digest)",
        "for digest in digests: cas.get_blob(digest).read(1)",
    ],
)
def test_reads_of_large_blobs_are_announced(hints, layout, read):
    """Else a disk reads ahead half as far."""
    program = """
    with fastcas.create(sys.argv[1], durability="none") as cas:
        digests = [cas.put_blob(bytes([number]) * (2 << 20)).digest for number in range(2)]
        variable("sequential").value = 0
        exec(sys.argv[2])
        told(sequential=variable("sequential").value)
    """
    done = run_with_shim(hints, PRELUDE + textwrap.dedent(program), layout, read)
    assert json.loads(done.stdout) == {"sequential": 2}, done.stderr


@pytest.mark.parametrize("level", ["full", "batch"])
def test_many_syncs_are_under_way_at_once(hints, layout, level):
    program = """
    with fastcas.create(sys.argv[1], durability=sys.argv[2]) as cas:
        blobs = [b"%d" % number for number in range(32)]
        variable("wait_for_many").value = 1
        if sys.argv[2] == "full":
            cas.put_blobs(blobs)
        else:
            for blob in blobs:
                cas.put_blob(blob)
            cas.sync()
        told(most=variable("most").value, stored=len(cas))
    """
    done = run_with_shim(hints, PRELUDE + textwrap.dedent(program), layout, level)
    told = json.loads(done.stdout)
    assert told["stored"] == 32, done.stderr
    assert told["most"] >= 8
