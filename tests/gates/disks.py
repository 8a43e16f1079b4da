"""Filesystems of our own on loop devices, and the moment at which their power fails. For root."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_SHUTDOWN = 0x8004587D  # linux/fs.h and xfs_fs.h: FS_IOC_SHUTDOWN
_NO_LOG_FLUSH = 2


@dataclass(frozen=True)
class Kind:
    """A filesystem: what makes it, how it is mounted, and whether it knows FS_IOC_SHUTDOWN."""

    name: str
    make: str
    size: int
    options: str = "defaults"
    has_shutdown: bool = True

    @property
    def type(self) -> str:
        return self.name.split()[0]


MIB = 1 << 20
KINDS = (
    Kind("ext4", "mkfs.ext4 -q -F", 64 * MIB, "data=ordered"),
    Kind("ext4 writeback", "mkfs.ext4 -q -F", 64 * MIB, "data=writeback"),
    Kind("xfs", "mkfs.xfs -q -f", 300 * MIB),
    Kind("btrfs", "mkfs.btrfs -q -f", 128 * MIB, has_shutdown=False),
)


def missing() -> str | None:
    """Why there can be no such filesystems here."""
    if os.geteuid() != 0:
        return "only root can mount filesystems"
    programs = {kind.make.split()[0] for kind in KINDS} | {"losetup", "mount", "umount"}
    lacking = sorted(name for name in programs if not shutil.which(name, path=_PATH))
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    if modprobe := shutil.which("modprobe", path=_PATH):
        for kind in KINDS:
            subprocess.run([modprobe, "-q", kind.type], check=False)
    known = Path("/proc/filesystems").read_text().split()
    unknown = sorted({kind.type for kind in KINDS} - set(known))
    return f"this kernel has no {', '.join(unknown)}" if unknown else None


_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def make(kind: Kind, image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(kind.size)
    _run(*kind.make.split(), image)


class Mounted:
    """An image, mounted at ``path`` while the context lasts."""

    def __init__(self, kind: Kind, image: Path, path: Path) -> None:
        self.kind, self.image, self.path = kind, image, path

    def __enter__(self) -> Mounted:
        self.path.mkdir(exist_ok=True)
        # Not by mount's option "loop": it may take a device of the same image that is on its way out.
        self.device = _run("losetup", "--find", "--show", self.image).strip()
        try:
            _run("mount", "-t", self.kind.type, "-o", self.kind.options, self.device, self.path)
        except BaseException:
            _run("losetup", "--detach", self.device)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", self.path)
        _run("losetup", "--detach", self.device)

    def cut(self, writer: subprocess.Popen[bytes], left: Path) -> None:
        """The power fails now, and the writer ends: ``left`` gets what the disk has then.

        FS_IOC_SHUTDOWN ends all writing, journal included, at once. Where the filesystem doesn't know
        it, the writer is stopped and what is on the device is copied.
        """
        if self.kind.has_shutdown:
            fd = os.open(self.path, os.O_RDONLY)
            try:
                fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
            finally:
                os.close(fd)
        else:
            writer.send_signal(signal.SIGSTOP)
            while _state(writer.pid) not in "TZ":  # a call under way goes on to its end
                time.sleep(0.0005)
            _copy(self.image, left)
        writer.kill()

    def keep(self, left: Path) -> None:
        """After the context: ``left`` is what ``cut`` has left, where it didn't copy it."""
        if self.kind.has_shutdown:
            self.image.rename(left)


def copy(image: Path, target: Path) -> None:
    """A copy of an image that isn't mounted."""
    _copy(image, target)


def _copy(image: Path, target: Path) -> None:
    _run("cp", "--sparse=always", image, target)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _run(*command: str | Path) -> str:
    environment = {**os.environ, "PATH": _PATH}
    return subprocess.run(
        command, check=True, timeout=60, capture_output=True, text=True, env=environment
    ).stdout
