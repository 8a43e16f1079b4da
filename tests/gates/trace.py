"""System calls of a program, as strace saw them, in the order in which they ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Every call that changes files or names, what is needed to follow descriptors, and what would need
#: to be modelled if it appeared.
CALLS = (
    "open,creat,openat,openat2,close,dup,dup2,dup3,fcntl,chdir,fchdir,"
    "write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,ioctl,copy_file_range,"
    "sendfile,splice,lseek,fsync,fdatasync,sync,syncfs,sync_file_range,msync,io_uring_setup,"
    "mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,unlink,unlinkat,mknod,mknodat,"
    "rename,renameat,renameat2"
)


def strace(output: Path) -> list[str]:
    """What to put before a command."""
    options = ["--seccomp-bpf", "-f", "-qq", "-xx", "-s", "100000000", "-e", "signal=none"]
    return ["strace", *options, "-e", f"trace={CALLS}", "-o", str(output)]


@dataclass
class Call:
    """A call when it began (``result`` is None) or when it had ended. Each ends once; calls of one
    thread that nothing else came between begin and end at once, and are only told ended."""

    thread: int
    name: str
    arguments: list[str]
    result: int | None


_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)", re.DOTALL)
_END = re.compile(r"\) += (-?\d+|\?)(?: .*)?$", re.DOTALL)
_ARGUMENT = re.compile(r'(?:"[^"]*"(?:\.\.\.)?|\{[^}]*\}|\[[^\]]*\]|[^,"{\[])+')
_UNFINISHED = " <unfinished ...>"


def parse(path: Path) -> Iterator[Call]:
    begun: dict[int, str] = {}
    with path.open() as lines:
        for line in lines:
            match = _LINE.fullmatch(line.rstrip("\n"))
            if match is None:
                continue  # an exit
            thread, name, rest = int(match[1]), match[2], match[3]
            if rest.endswith(_UNFINISHED):
                begun[thread] = rest.removesuffix(_UNFINISHED)
                yield Call(thread, name, _split(begun[thread]), None)
                continue
            rest = begun.pop(thread, "") + rest
            end = _END.search(rest[-200:])
            if end is None or end[1] == "?":
                continue  # the process ended meanwhile
            yield Call(thread, name, _split(rest[: len(rest) - len(end[0])]), int(end[1]))


def _split(text: str) -> list[str]:
    return [argument.strip() for argument in _ARGUMENT.findall(text)]


def string(argument: str) -> bytes:
    """The bytes of a string argument."""
    if argument.endswith("..."):
        raise ValueError("strace has cut a string")
    return bytes.fromhex(argument[1:-1].replace("\\x", ""))


def vector(argument: str) -> bytes:
    """The bytes of an array of struct iovec."""
    return b"".join(string(part) for part in re.findall(r'iov_base=("[^"]*")', argument))
