"""Gate E: each system call fails, with each error that it knows, at each of its turns.

A process does the operations of gate A, and one that only reads. strace says which calls an
operation makes, and how often; then it is attached to the process for one operation at a time, and
lets the nth of them fail (``inject``) or kills the process there. The operation must return rightly or
raise an error of ours or an OSError; it must return when it is tried again; nothing is left over.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastcas
from fastcas.dir import temp
from fastcas.dir.durability import LEVELS
from gates import a_model, child, workloads
from gates.harness import Gate, Run
from gates.invariants import TEMP, Expected, check, open_files, recover, snapshot
from gates.workloads import OLD, digest_of, prepare_layouts

_FILES = ("EIO", "ENOMEM", "EACCES")
_NEW = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "ENOMEM")
_OPENED = (*_NEW, "EMFILE", "ENFILE", "EINTR")
_MOVED = ("EIO", "EINTR", "ENOSPC", "EDQUOT", "EFBIG")

#: What may go wrong with each call. One that an operation makes, and that isn't here or below, is a
#: violation: somebody has to look at it.
ERRORS: dict[str, tuple[str, ...]] = {
    "clone": ("EAGAIN",),
    "clone3": ("EAGAIN",),
    "close": ("EIO", "EINTR"),
    "copy_file_range": (*_MOVED, "EXDEV", "EINVAL", "EOPNOTSUPP"),
    "dup": ("EMFILE",),
    "fallocate": ("EIO", "ENOSPC", "EOPNOTSUPP"),
    "fchmod": ("EIO", "EPERM", "EROFS"),
    "fchown": ("EIO", "EPERM", "EROFS"),
    "fcntl": ("EMFILE", "EINVAL"),
    "fdatasync": ("EIO", "ENOSPC", "EDQUOT"),
    "flock": ("EIO", "EINTR", "ENOLCK"),
    "fstat": _FILES,
    "fstatfs": _FILES,
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "ftruncate": ("EIO", "ENOSPC", "EINTR"),
    "getdents64": ("EIO", "ENOMEM"),
    "ioctl": ("EIO", "ENOTTY", "EOPNOTSUPP", "EXDEV"),
    "linkat": (*_NEW, "EMLINK", "EXDEV", "EPERM"),
    "lseek": ("EIO",),
    "mkdir": (*_NEW, "EMLINK"),
    "mkdirat": (*_NEW, "EMLINK"),
    "mmap": ("ENOMEM",),
    "newfstatat": _FILES,
    "open": _OPENED,
    "openat": _OPENED,
    "openat2": _OPENED,
    "pread64": ("EIO", "EINTR"),
    "preadv2": ("EIO", "EINTR", "EOPNOTSUPP"),
    "pwrite64": _MOVED,
    "pwritev": _MOVED,
    "read": ("EIO", "EINTR"),
    "readlink": _FILES,
    "rename": (*_NEW, "EXDEV"),
    "renameat": (*_NEW, "EXDEV"),
    "rmdir": ("EIO", "EACCES"),
    "sendfile": (*_MOVED, "EINVAL"),
    "statfs": _FILES,
    "statx": _FILES,
    "sync_file_range": ("EIO", "ENOSPC", "EDQUOT", "EINVAL"),
    "syncfs": ("EIO", "ENOSPC", "EDQUOT"),
    "unlink": ("EIO", "EROFS", "EACCES"),
    "unlinkat": ("EIO", "EROFS", "EACCES"),
    "utimensat": ("EIO", "EROFS", "EACCES"),
    "write": _MOVED,
    "writev": _MOVED,
}

#: Calls that don't fail for what is asked of them, or whose failure is the interpreter's affair.
# fmt: off
UNFAILING = {
    "brk", "chmod", "clock_gettime", "clock_nanosleep", "exit", "exit_group", "fadvise64", "futex",
    "getcwd", "geteuid", "getpid", "getrandom", "gettid", "getuid", "kill", "madvise", "membarrier",
    "mprotect", "mremap", "munmap", "prctl", "prlimit64", "restart_syscall", "rseq", "rt_sigaction",
    "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_setaffinity", "sched_yield",
    "set_robust_list", "set_tid_address", "sysinfo", "tgkill", "umask", "uname",
}
# fmt: on

#: A failure of these must be told, and be told as final: it is never made good by another try.
SYNCS = {"fsync", "fdatasync", "syncfs"}


def read(place: str, level: str) -> None:
    with fastcas.open(f"{place}/layout", durability=level) as cas:
        digest = digest_of(OLD)
        if digest in list(cas) and cas.read_blob(digest) != OLD:
            raise AssertionError("a read gave something else")
        with cas.get_blob(digest) as blob:
            if blob.read() != OLD:
                raise AssertionError("a reader gave something else")
        for found in cas.resolve_reference("two"):
            list(cas.walk(found))
        cas.copy_blob(digest, f"{place}/copied", verify=True)
        if Path(place, "copied").read_bytes() != OLD:
            raise AssertionError("a copy is something else")
        os.unlink(f"{place}/copied")
        if cas.scrub(threads=1).problems or cas.scrub(quick=True).problems:
            raise AssertionError("scrub finds what isn't there")


OPERATIONS = {operation.__name__: operation for operation in (*a_model.OPERATIONS, read)}


# ---- the process that is traced

IDLE, READY, GO, DONE, FREE = range(5)


def serve(place: str, prepared: str) -> None:
    """Does what ``place``/job says, one after the other. The state in ``place``/state passes between
    the two processes without a system call."""
    told: list[Any] = []
    workloads.tell = a_model.tell = lambda *event: told.append(event)
    for operation in OPERATIONS.values():  # whatever is imported only when it is needed
        for level in LEVELS:
            shutil.copytree(prepared, f"{place}/warm")
            operation(f"{place}/warm", level)
            shutil.rmtree(f"{place}/warm")
    temp.HAVE_O_TMPFILE = True
    with open(f"{place}/state", "r+b") as file:
        state = mmap.mmap(file.fileno(), 1)

    def wait(wanted: int) -> None:
        while state[0] != wanted:
            time.sleep(0.0005)

    while True:
        wait(READY)
        job = json.loads(Path(place, "job").read_text())
        operation = OPERATIONS[job["operation"]]
        told.clear()
        before = open_files()
        state[0] = IDLE
        wait(GO)
        result = attempt(operation, job["place"], job["level"])
        gc.collect()  # what an operation that failed hasn't closed
        first, told[:] = told[:], []
        state[0] = DONE
        wait(FREE)
        answer = {"told": first, "error": result, "again": None, "open": open_files() == before}
        if result is not None:
            # What was made for a layout that couldn't be made is in nobody's way.
            answer["again"] = attempt(operation, job["place"], job["level"])
            answer["told"] += told
        Path(place, "answer").write_text(json.dumps(answer))
        temp.HAVE_O_TMPFILE = True
        state[0] = IDLE


def attempt(operation: Any, place: str, level: str) -> str | None:
    """None, or the error: beginning with "wrong" where it is none that may be raised."""
    try:
        operation(place, level)
    except (fastcas.FastCASError, OSError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    except BaseException as error:
        return f"wrong: {type(error).__name__}: {error}"
    return None


# ---- the one that traces


@dataclass(frozen=True)
class Fault:
    operation: str
    level: str
    call: str
    error: str  # or "KILL"
    turn: int

    def __str__(self) -> str:
        return f"{self.operation} at {self.level}, {self.call} {self.turn}: {self.error}"

    @property
    def option(self) -> str:
        how = "signal=KILL" if self.error == "KILL" else f"error={self.error}"
        return f"inject={self.call}:{how}:when={self.turn}"


class Server:
    """The traced process; a new one when the last was killed."""

    def __init__(self, gate: Run, prepared: Path) -> None:
        self.gate = gate
        self.prepared = prepared
        self.place = gate.place / "server"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def start(self) -> None:
        self.place.mkdir(exist_ok=True)
        (self.place / "state").write_bytes(bytes([IDLE]))
        with (self.place / "state").open("r+b") as file:
            self.state = mmap.mmap(file.fileno(), 1)
        shutil.rmtree(self.place / "warm", ignore_errors=True)
        self.process = child.start(serve, self.place, self.prepared, mutant=self.gate.mutant)

    def do(self, operation: str, level: str, place: Path, options: list[str]) -> tuple[Any, str]:
        """What came of it, None if the process died, and strace's output with those options."""
        if self.process is None:
            self.start()
        assert self.process is not None
        job = {"operation": operation, "level": level, "place": str(place)}
        (self.place / "job").write_text(json.dumps(job))
        (self.place / "answer").unlink(missing_ok=True)
        self.pass_on(READY, IDLE)
        output = self.place / "trace"
        command = ["strace", "-f", "-o", output, *options, "-p", str(self.process.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            line = strace.stderr.readline()
            if "attached" not in line:
                raise RuntimeError(f"strace: {line}{strace.stderr.read()}")
            alive = self.pass_on(GO, DONE)
            if alive:
                strace.send_signal(signal.SIGINT)
            strace.stderr.read()
        answer = None
        if alive:
            if self.pass_on(FREE, IDLE):
                answer = json.loads((self.place / "answer").read_text())
        else:
            self.process.communicate()
            self.process = None
        return answer, output.read_text()

    def pass_on(self, state: int, wanted: int) -> bool:
        """Passes the state on and waits for another; False when the process has died meanwhile."""
        assert self.process is not None
        deadline = time.monotonic() + 60
        self.state[0] = state
        while self.state[0] != wanted:
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.gate.violate("hangs")
                self.process.kill()
                self.process.wait()
                return False
            time.sleep(0.0005)
        return True


_CALL = re.compile(r"^\d+ +(\w+)\(", re.MULTILINE)


def run(gate: Run) -> None:
    prepared, events = prepare_layouts(gate.place)
    with Server(gate, prepared) as server:
        faults = list(find_faults(gate, server, prepared))
        gate.random.shuffle(faults)
        if gate.mutant is not None:  # what it lacks shows where a sync fails, or what comes before
            faults.sort(key=lambda fault: fault.call not in ("fsync", "linkat", "pwrite64"))
        for fault in faults[: gate.rounds(150, len(faults))]:
            inject(gate, server, prepared, events, fault)


def find_faults(gate: Run, server: Server, prepared: Path) -> Iterator[Fault]:
    """Of every call that an operation makes, every turn with every error."""
    for operation in OPERATIONS:
        for level in LEVELS:
            with copied(gate, prepared) as place:
                _, trace = server.do(operation, level, place, [])
            for call, count in Counter(_CALL.findall(trace)).items():
                if call in UNFAILING:
                    continue
                if call not in ERRORS:
                    gate.violate(f"{operation} at {level}: nobody has thought of {call} failing")
                    continue
                for turn in range(1, count + 1):
                    for error in (*ERRORS[call], "KILL"):
                        yield Fault(operation, level, call, error, turn)


@contextmanager
def copied(gate: Run, prepared: Path) -> Iterator[Path]:
    """A copy of the prepared layouts, gone afterwards."""
    place = gate.place / "place"
    shutil.copytree(prepared, place)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def inject(gate: Run, server: Server, prepared: Path, events: list[Any], fault: Fault) -> None:
    gate.trials += 1
    with copied(gate, prepared) as place:
        options = ["-e", f"trace={fault.call}", "-e", fault.option]
        answer, trace = server.do(fault.operation, fault.level, place, options)
        injected = trace.count("(INJECTED)")
        gate.faults += injected
        gate.check(str(fault), judge(place, events, fault, answer, injected))


def judge(place: Path, events: list[Any], fault: Fault, answer: Any, injected: int) -> Iterator[str]:
    expected = Expected()
    if fault.operation != "create":
        expected.feed(events)
    layout = place / ("new/layout" if fault.operation == "create" else "layout")
    if answer is None:
        if fault.error != "KILL":
            yield "the process died"
        # What it had told, nobody knows: anything that was there before may be deleted.
        expected.loose_index = True
        expected.durable.clear()
        expected.loose.add(digest_of(OLD))  # which an operation damages
    else:
        error, again = answer["error"], answer["again"]
        if fault.error == "KILL" and injected:
            yield "survived a kill"
        if error is not None and error.startswith("wrong"):
            yield error
        if again is not None:
            yield f"tried again: {again} (at first: {error})"
        if error is None and injected and fault.call in SYNCS:
            yield "a failed sync wasn't told"
        if not answer["open"] and fault.call != "close":  # which strace doesn't let happen
            yield "not all was closed"
        expected.feed(answer["told"])
    if not layout.exists():
        return
    if answer is not None and fault.call not in ("unlinkat", "close"):
        strays = [name for name in os.listdir(layout) if TEMP.fullmatch(name)]
        if strays:
            yield f"left over: {strays}"
    if expected.created or (answer is None and fault.operation != "create"):
        yield from check(snapshot(layout), expected)
        yield from recover(layout, expected)


GATE = Gate(
    letter="E",
    title="the nth call fails",
    run=run,
    mutants=(
        "sync-errors-ignored",
        "syncs-tried-again",
        "temps-kept",
        "errors-leak-files",
        "wrong-errors",
    ),
    missing=lambda: None if shutil.which("strace") else "strace isn't installed",
)
