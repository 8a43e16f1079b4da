"""Filesystems that lack what the store likes to use, for root, in a mount namespace of the caller's.

``mounted(name, place)`` mounts one below the directory ``place`` while the context lasts, and gives the
directory to be used.  What is beside it in ``place`` is a tmpfs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MIB = 1 << 20
WAIT = 20  # seconds until a filesystem in user space is there, or something hangs


def run(*command) -> str:
    environment = {**os.environ, "PATH": PATH}
    done = subprocess.run(
        list(map(str, command)), timeout=WAIT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextmanager
def _mount(path, *arguments):
    path.mkdir(exist_ok=True)
    run("mount", *arguments, path)
    try:
        yield path
    finally:
        run("umount", path)


@contextmanager
def _in_user_space(path, *command):
    """A program that serves ``path`` until it is unmounted, or this thread dies."""
    path.mkdir()
    with subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", *map(str, command)],
        env={**os.environ, "PATH": PATH},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        deadline = time.monotonic() + WAIT
        while not path.is_mount():
            assert server.poll() is None, f"{command} ended with {server.returncode}"
            assert time.monotonic() < deadline, f"{command} mounts nothing"
            time.sleep(0.01)
        try:
            yield path
        finally:
            run("umount", path)
            server.wait(WAIT)


@contextmanager
def _overlay(lower, upper, path):
    """``upper`` is a directory of its own filesystem, which must be able to be one."""
    for folder in (lower, upper, upper / "changed", upper / "work"):
        folder.mkdir(exist_ok=True)
    options = f"lowerdir={lower},upperdir={upper / 'changed'},workdir={upper / 'work'}"
    with _mount(path, "-t", "overlay", "-o", options, "none"):
        yield path


@contextmanager
def overlay(place):
    """Over a directory ``lower`` of the same filesystem."""
    with _overlay(place / "lower", place / "upper", place / "merged") as path:
        yield path


@contextmanager
def overlay_of_two(place):
    """Over a directory of another filesystem: then the number of an inode may change with it."""
    with _mount(place / "upper", "-t", "tmpfs", "none"):
        with _overlay(place / "lower", place / "upper", place / "merged") as path:
            yield path


@contextmanager
def bindfs(place):
    """A directory through FUSE: no O_TMPFILE."""
    (place / "behind").mkdir()
    with _in_user_space(place / "seen", "bindfs", "-f", place / "behind", place / "seen") as path:
        yield path


@contextmanager
def exfat(place):
    """No O_TMPFILE, hard links, symbolic links, pipes, modes or owners; A is a; times in seconds."""
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(256 * MIB)
    run("mkfs.exfat", image)
    device = run("losetup", "--find", "--show", image).strip()
    try:
        with _in_user_space(place / "disk", "mount.exfat-fuse", "-d", device, place / "disk") as path:
            yield path
    finally:
        run("losetup", "--detach", device)


FILESYSTEMS = {
    "overlay": (overlay, ()),
    "overlay-of-two": (overlay_of_two, ()),
    "bindfs": (bindfs, ("bindfs",)),
    "exfat": (exfat, ("mkfs.exfat", "mount.exfat-fuse", "losetup")),
}


def missing(name) -> str | None:
    """Why it can't be mounted here."""
    if os.geteuid() != 0:
        return "only root can mount it"
    programs = FILESYSTEMS[name][1]
    if lacking := [program for program in programs if not shutil.which(program, path=PATH)]:
        return f"not installed: {', '.join(lacking)}"
    if programs and not os.path.exists("/dev/fuse"):
        return "no /dev/fuse"
    if not programs and "overlay" not in Path("/proc/filesystems").read_text().split():
        return "this kernel has no overlay"
    return None


@contextmanager
def mounted(name, place, prepare=None):
    """``prepare(folder)`` fills what is below an overlay, before it is mounted."""
    with ExitStack() as stack:
        place = stack.enter_context(_mount(Path(place), "-t", "tmpfs", "none"))
        if prepare is not None:
            (place / "lower").mkdir()
            prepare(place / "lower")
        yield stack.enter_context(FILESYSTEMS[name][0](place))
