"""A filesystem that keeps only what it must: which states a crash may leave after some calls.

POSIX promises little. fsync of a file keeps its content, fsync of a directory its names, each as far
as it had come when the fsync began. Of what is not synced a crash keeps any subset of the changes of
names (a rename is one change, also between directories), and of each file nothing, zeros, half or
all. sync_file_range promises nothing. Files and directories that were there before are durable.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gates.invariants import Content
from gates.trace import Call, string, vector


class Unmodelled(Exception):
    """A call that this model doesn't know, on a file that it follows."""


@dataclass(eq=False)
class File:
    data: Content
    kept: Content | None  # what is on the disk for certain, if anything is
    version: int = 0
    synced: int = -1  # the version that is kept

    def write(self, position: int, data: bytes) -> None:
        old = self.data.data
        gap = bytes(max(0, position - len(old)))
        self.set(old[:position] + gap + data + old[position + len(data) :])

    def set(self, data: bytes) -> None:
        self.data = Content(data)
        self.version += 1

    def sync(self, version: int, data: Content) -> None:
        if version > self.synced:
            self.synced, self.kept = version, data

    def outcomes(self) -> list[Content]:
        """What a crash may leave of it; the first is all."""
        if self.synced == self.version:
            return [self.data]
        full = self.data.data
        kept = self.kept or Content(b"")
        others = [kept, Content(bytes(len(full))), Content(full[: len(full) // 2])]
        return [self.data, *(c for c in others if c.data != full)]


@dataclass(eq=False)
class Directory:
    parent: Directory | None
    names: dict[str, File | Directory] = field(default_factory=dict)
    settled: dict[str, File | Directory] = field(default_factory=dict)  # durable, but for ``_changes``


@dataclass(eq=False)
class Change:
    """Names that appear or go (None) together."""

    edits: list[tuple[Directory, str, File | Directory | None]]
    durable: bool = False


@dataclass(eq=False)
class Opened:
    node: File | Directory | None  # None: something else
    position: int = 0
    append: bool = False


class Disk:
    """The tree below ``base`` as a process with descriptors of its own changes it."""

    def __init__(self, base: Path) -> None:
        self.base = str(base)
        self.root = self._read(base, None)
        self.version = 0  # counts what was done to it
        self.touched_outside: list[str] = []
        self._changes: list[Change] = []  # the oldest is not durable
        self._fds: dict[int, Opened] = {}
        self._files: list[File] = []  # those that were made, for syncfs
        self._syncing: dict[int, list[tuple[File, int, Content] | Change]] = {}  # by thread

    def _read(self, path: Path, parent: Directory | None) -> Directory:
        directory = Directory(parent)
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                node: File | Directory = self._read(Path(entry.path), directory)
            else:
                content = Content(Path(entry.path).read_bytes())
                node = File(content, content, 0, 0)
            directory.names[entry.name] = directory.settled[entry.name] = node
        return directory

    # ---- calls

    def apply(self, call: Call) -> None:
        """What the call did. A call that only began, or failed, does nothing (but see fsync)."""
        if call.name in ("fsync", "fdatasync", "syncfs", "sync"):
            self._sync(call)
        elif call.result is not None and call.result >= 0:
            action = getattr(self, f"_{call.name}", None)
            if action is None:
                raise Unmodelled(f"{call.name}({', '.join(call.arguments)[:200]})")
            action(call.result, *call.arguments)

    def _sync(self, call: Call) -> None:
        """What is synced is what was there when the call began."""
        if call.result is None or call.thread not in self._syncing:
            self._syncing[call.thread] = self._covered(call)
        if call.result is None:
            return
        covered = self._syncing.pop(call.thread)
        if call.result < 0:
            return
        for one in covered:
            if isinstance(one, Change):
                one.durable = True
            else:
                file, version, data = one
                file.sync(version, data)
            self.version += 1
        while self._changes and self._changes[0].durable:
            _edit(self._changes.pop(0), lambda directory: directory.settled)

    def _covered(self, call: Call) -> list[tuple[File, int, Content] | Change]:
        if call.name in ("sync", "syncfs"):
            return [*((file, file.version, file.data) for file in self._files), *self._changes]
        node = self._node(call.arguments[0])
        if isinstance(node, File):
            return [(node, node.version, node.data)]
        return [change for change in self._changes if any(edit[0] is node for edit in change.edits)]

    def _change(self, *edits: tuple[Directory, str, File | Directory | None]) -> None:
        change = Change(list(edits))
        self._changes.append(change)
        _edit(change, lambda directory: directory.names)
        for directory, _, node in edits:
            if isinstance(node, Directory):
                node.parent = directory
        self.version += 1

    # openings

    def _openat(self, result: int, dirfd: str, path: str, flags: str, mode: str = "") -> None:
        place = self._place(dirfd, path)
        node = None
        if place is not None:
            directory, name = place
            node = directory if name == "." else directory.names.get(name)
            if "O_TMPFILE" in flags:
                node = self._new_file()
            elif node is None:  # it opened, so it was made
                node = self._new_file()
                self._change((directory, name, node))
            elif "O_TRUNC" in flags and isinstance(node, File):
                node.set(b"")
        elif "O_WRONLY" in flags or "O_RDWR" in flags:
            self._note_outside(path)
        self._fds[result] = Opened(node, append="O_APPEND" in flags)

    def _new_file(self) -> File:
        self._files.append(File(Content(b""), None))
        return self._files[-1]

    def _openat2(self, result: int, dirfd: str, path: str, how: str, size: str) -> None:
        self._openat(result, dirfd, path, how)

    def _open(self, result: int, path: str, flags: str, mode: str = "") -> None:
        self._openat(result, "AT_FDCWD", path, flags)

    def _close(self, result: int, fd: str) -> None:
        self._fds.pop(int(fd), None)

    def _dup(self, result: int, fd: str, *_: str) -> None:
        if int(fd) in self._fds:
            self._fds[result] = self._fds[int(fd)]

    _dup2 = _dup3 = _dup

    def _fcntl(self, result: int, fd: str, command: str, *_: str) -> None:
        if command.startswith("F_DUPFD"):
            self._dup(result, fd)

    def _lseek(self, result: int, fd: str, *_: str) -> None:
        if int(fd) in self._fds:
            self._fds[int(fd)].position = result

    # content

    def _write(self, result: int, fd: str, data: str, size: str) -> None:
        self._write_here(result, fd, string(data))

    def _writev(self, result: int, fd: str, data: str, count: str) -> None:
        self._write_here(result, fd, vector(data))

    def _write_here(self, result: int, fd: str, data: bytes) -> None:
        opened = self._fds.get(int(fd))
        if opened is not None and isinstance(opened.node, File):
            position = len(opened.node.data.data) if opened.append else opened.position
            self._store(opened.node, position, data[:result])
            opened.position = position + result

    def _pwrite64(self, result: int, fd: str, data: str, size: str, position: str) -> None:
        if isinstance(node := self._node(fd), File):
            self._store(node, int(position), string(data)[:result])

    def _pwritev(self, result: int, fd: str, data: str, count: str, position: str, *_: str) -> None:
        if isinstance(node := self._node(fd), File):
            self._store(node, int(position), vector(data)[:result])

    def _store(self, file: File, position: int, data: bytes) -> None:
        file.write(position, data)
        self.version += 1

    def _ftruncate(self, result: int, fd: str, size: str) -> None:
        if isinstance(node := self._node(fd), File):
            data = node.data.data[: int(size)]
            node.set(data + bytes(int(size) - len(data)))
            self.version += 1

    def _copy_file_range(
        self, result: int, source: str, at: str, target: str, to: str, *_: str
    ) -> None:
        """``at`` and ``to`` are [OFFSET] or NULL: then where the descriptors are."""
        opened = self._fds.get(int(target))
        if opened is None or not isinstance(opened.node, File):
            return
        origin = self._fds[int(source)]
        if not isinstance(origin.node, File):
            raise Unmodelled("copy_file_range from elsewhere")
        begin = origin.position if at == "NULL" else int(at.strip("[]"))
        end = opened.position if to == "NULL" else int(to.strip("[]"))
        self._store(opened.node, end, origin.node.data.data[begin : begin + result])
        origin.position += result if at == "NULL" else 0
        opened.position += result if to == "NULL" else 0

    def _sendfile(self, result: int, target: str, source: str, at: str, size: str) -> None:
        self._copy_file_range(result, source, at, target, "NULL")

    def _ioctl(self, result: int, fd: str, request: str, *arguments: str) -> None:
        node = self._node(fd)
        if not isinstance(node, File) or request == "TCGETS":
            return
        source = self._node(arguments[0]) if "CLONE" in request else None
        if "RANGE" in request or not isinstance(source, File):
            raise Unmodelled(f"ioctl {request}")
        node.set(source.data.data)
        self.version += 1

    def _sync_file_range(self, result: int, *_: str) -> None:
        """Promises nothing."""

    # names

    def _mkdirat(self, result: int, dirfd: str, path: str, mode: str) -> None:
        if place := self._place_to_change(dirfd, path):
            self._change((*place, Directory(place[0])))

    def _mkdir(self, result: int, path: str, mode: str) -> None:
        self._mkdirat(result, "AT_FDCWD", path, mode)

    def _unlinkat(self, result: int, dirfd: str, path: str, flags: str) -> None:
        if place := self._place_to_change(dirfd, path):
            self._change((*place, None))

    def _unlink(self, result: int, path: str) -> None:
        self._unlinkat(result, "AT_FDCWD", path, "0")

    _rmdir = _unlink

    def _linkat(self, result: int, fd: str, path: str, to: str, name: str, flags: str) -> None:
        source = string(path).decode()
        if match := re.fullmatch(r"/proc/self/fd/(\d+)", source):
            node = self._node(match[1])
        elif source:
            place = self._place(fd, path)
            node = place and place[0].names[place[1]]
        else:
            node = self._node(fd)
        target = self._place_to_change(to, name)
        if target and isinstance(node, File):
            self._change((*target, node))

    def _link(self, result: int, path: str, name: str) -> None:
        self._linkat(result, "AT_FDCWD", path, "AT_FDCWD", name, "0")

    def _renameat2(self, result: int, fd: str, path: str, to: str, name: str, flags: str = "") -> None:
        source, target = self._place_to_change(fd, path), self._place_to_change(to, name)
        if source is None and target is None:
            return
        if source is None or target is None:
            raise Unmodelled("a rename into or out of the tree")
        node = source[0].names[source[1]]
        there = target[0].names[target[1]] if "EXCHANGE" in flags else None
        self._change((*source, there), (*target, node))

    _renameat = _renameat2

    def _rename(self, result: int, path: str, name: str) -> None:
        self._renameat2(result, "AT_FDCWD", path, "AT_FDCWD", name)

    # ---- places

    def _node(self, fd: str) -> File | Directory | None:
        opened = self._fds.get(int(fd))
        return opened.node if opened else None

    def _place(self, dirfd: str, path: str) -> tuple[Directory, str] | None:
        """The directory and the name in it ("." for itself), or None for what is not in the tree."""
        name = os.fsdecode(string(path))
        if name.startswith("/"):
            if f"{name}/".startswith(f"{self.base}/"):
                name, at = name[len(self.base) + 1 :], self.root
            else:
                return None
        else:
            at = None if dirfd == "AT_FDCWD" else self._node(dirfd)
            if not isinstance(at, Directory):
                return None
        *parents, leaf = [part for part in name.split("/") if part not in ("", ".")] or ["."]
        if leaf == "..":
            parents, leaf = [*parents, leaf], "."
        for part in parents:
            step = at.parent if part == ".." else at.names[part]
            if step is None:
                return None
            if not isinstance(step, Directory):
                raise Unmodelled(f"{name}: through a file")
            at = step
        return at, leaf

    def _place_to_change(self, dirfd: str, path: str) -> tuple[Directory, str] | None:
        place = self._place(dirfd, path)
        if place is None:
            self._note_outside(path)
        return place

    def _note_outside(self, path: str) -> None:
        name = os.fsdecode(string(path))
        if name != "/dev/null":
            self.touched_outside.append(name)

    # ---- crashes

    def crashes(self, chance: random.Random, most: int) -> Iterator[dict[str, Content | None]]:
        """The trees that a crash now may leave, by paths relative to the base: for each subset of the
        changes of names, and each outcome of the files, or for a sample of about ``most`` of each."""
        pending = [change for change in self._changes if not change.durable]
        if 1 << len(pending) <= most:
            subsets: list[Sequence[Change]] = [
                chosen
                for count in range(len(pending) + 1)
                for chosen in itertools.combinations(pending, count)
            ]
        else:
            subsets = [[], pending, *([c] for c in pending)]
            subsets += [[d for d in pending if d is not c] for c in pending]
            subsets += [[c for c in pending if chance.random() < 0.5] for _ in range(most)]
        for subset in subsets:
            yield from self._trees(set(subset), chance, most)

    def _trees(
        self, kept: set[Change], chance: random.Random, most: int
    ) -> Iterator[dict[str, Content | None]]:
        names: dict[Directory, dict[str, File | Directory]] = {}

        def names_of(directory: Directory) -> dict[str, File | Directory]:
            if directory not in names:
                names[directory] = dict(directory.settled)
            return names[directory]

        for change in self._changes:
            if change.durable or change in kept:
                _edit(change, names_of)
        tree: dict[str, Content | None] = {}
        loose: dict[File, list[str]] = {}
        folders = [("", self.root)]
        while folders:
            prefix, folder = folders.pop()
            for name, node in names_of(folder).items():
                if isinstance(node, Directory):
                    tree[prefix + name] = None
                    folders.append((f"{prefix}{name}/", node))
                else:
                    tree[prefix + name] = node.data
                    if node.version != node.synced:
                        loose.setdefault(node, []).append(prefix + name)
        yield tree
        outcomes = [file.outcomes() for file in loose]
        if math.prod(map(len, outcomes)) <= most:
            combinations: list[Sequence[Content]] = list(itertools.product(*outcomes))[1:]
        else:
            combinations = [[some[min(n, len(some) - 1)] for some in outcomes] for n in range(1, 4)]
            combinations += [[chance.choice(some) for some in outcomes] for _ in range(most)]
        for combination in combinations:
            changed = dict(tree)
            for paths, content in zip(loose.values(), combination, strict=True):
                changed.update(dict.fromkeys(paths, content))
            yield changed


def _edit(change: Change, names_of) -> None:
    for directory, name, node in change.edits:
        if node is None:
            names_of(directory).pop(name, None)
        else:
            names_of(directory)[name] = node
