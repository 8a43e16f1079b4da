"""Trees of files: one to make images of, and what two of them have in common."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

TIME = 1_600_000_000

# Of this machine, as its programs say it, and of another.
PLATFORM = "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(
    os.uname().machine, os.uname().machine
)
FOREIGN = "linux/s390x" if PLATFORM == "linux/arm64" else "linux/arm64/v8"


def make_tree(place: Path) -> Path:
    """A root filesystem in which a shell runs, with what layers are about: modes, links, names."""
    for name in ("bin", "etc", "srv/empty", "srv/deep/er", "tmp", "usr/share"):
        (place / name).mkdir(parents=True)
    shutil.copyfile(shutil.which("busybox", path="/bin:/usr/bin"), place / "bin" / "busybox")
    (place / "bin" / "busybox").chmod(0o755)
    for name in ("sh", "cat", "ls"):
        (place / "bin" / name).symlink_to("busybox")
    (place / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (place / "etc" / "secret").write_bytes(b"only root's\n")
    (place / "etc" / "secret").chmod(0o600)
    (place / "srv" / "zero").write_bytes(b"")
    (place / "srv" / "big").write_bytes(bytes(range(256)) * 4096)
    (place / "srv" / "linked").hardlink_to(place / "srv" / "big")
    (place / "srv" / "dangling").symlink_to("../nowhere")
    (place / "srv" / ("long-" + "n" * 150)).write_bytes(b"a name beyond ustar's 100 bytes")
    (place / "srv" / "Grüße von hier").write_bytes("ü\n".encode())
    (place / "srv" / "deep" / "er" / "file").write_bytes(b"deep\n")
    (place / "srv" / "setuid").write_bytes(b"")
    (place / "srv" / "setuid").chmod(0o4755)
    (place / "tmp").chmod(0o1777)
    for folder, names, files in os.walk(place, topdown=False):
        for name in [*names, *files]:
            os.utime(os.path.join(folder, name), (TIME, TIME), follow_symlinks=False)
    place.chmod(0o755)
    os.utime(place, (TIME, TIME))
    return place


def look(place: Path) -> dict[str, tuple]:
    """Names, kinds, modes, owners, times of files, contents and which files are one."""
    found: dict[str, tuple] = {}
    first: dict[int, str] = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        facts = path.lstat()
        kind = stat.S_IFMT(facts.st_mode)
        mode = 0 if kind == stat.S_IFLNK else stat.S_IMODE(facts.st_mode)
        what = ""
        if kind == stat.S_IFLNK:
            what = os.readlink(path)
        elif kind == stat.S_IFREG:
            what = hashlib.sha256(path.read_bytes()).hexdigest()
            what += f" {int(facts.st_mtime)} {first.setdefault(facts.st_ino, name)}"
        found[name] = (kind, mode, facts.st_uid, facts.st_gid, what)
    return found
