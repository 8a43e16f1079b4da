"""Peak memory of a put and of a verified get of one huge blob, above a bare interpreter's.

A peak is VmHWM, the kernel's own record of a process's largest resident set. The source is sparse,
the stored blob is not: --size bytes of disk are needed. Durability is `none`: what is dirty in the
page cache isn't the process's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed

PEAK = """
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
BARE = PEAK
BUFFER = "buffer = bytearray(1 << 20)\n"  # the caller's own
IMPORTED = "import fastcas" + PEAK
PUT = """
import sys, fastcas
with fastcas.create(sys.argv[1], durability="none") as cas, open(sys.argv[2], "rb") as source:
    assert cas.put_blob(source).size == int(sys.argv[3])
"""
GET = """
import sys, fastcas
with fastcas.open(sys.argv[1]) as cas:
    total = 0
    with cas.get_blob(next(cas.list_blobs())) as blob:
        while count := blob.readinto(buffer):
            total += count
    assert total == int(sys.argv[2]) and blob.verified
"""


def _peak(program: str, *arguments: object) -> int:
    """KiB."""
    done = subprocess.run(
        [bed.python(), "-c", program, *map(str, arguments)],
        env=bed.child_environment(), check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(done.stdout)


def measure(size: int, filesystem: str = "disk") -> dict[str, int]:
    """KiB above a bare interpreter, by operation, for a blob of `size` bytes."""
    with bed.filesystem(filesystem) as base:
        source, root = base / "source", base / "layout"
        with source.open("wb") as file:
            file.truncate(size)
        bare = _peak(BARE)
        return {
            "`import fastcas`": _peak(IMPORTED) - bare,
            f"put of {bed.binary_size(size)}": _peak(PUT + PEAK, root, source, size) - bare,
            f"verified get of {bed.binary_size(size)}": _peak(BUFFER + GET + PEAK, root, size)
            - _peak(BUFFER + BARE),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=4 * bed.GIB, help="bytes; default 4 GiB")
    parser.add_argument("--filesystem", choices=("tmpfs", "disk"), default="disk")
    parser.add_argument("--limit", type=int, default=8192, help="KiB; default 8 MiB")
    options = parser.parse_args()
    over = False
    for operation, kib in measure(options.size, options.filesystem).items():
        print(f"{operation}: {kib} KiB above a bare interpreter")
        over |= kib > options.limit
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
