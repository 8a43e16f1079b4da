"""Time that `import fastcas` and `fastcas --help` take above `python -c pass`.

The three are started in turn, warm, and the medians of their differences within a round reported.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed

LIMITS = {"import fastcas": 40.0, "fastcas --help": 90.0}  # milliseconds
# What the installed entry point does; the script itself isn't there when run from the source.
_HELP = "import sys; sys.argv = ['fastcas', '--help']; from fastcas.__main__ import main; main()"


def measure(runs: int = 21) -> dict[str, float]:
    """Milliseconds above `python -c pass`, medians of `runs` interleaved runs."""
    programs = {"pass": "pass", "import fastcas": "import fastcas", "fastcas --help": _HELP}
    environment = bed.child_environment()
    elapsed: dict[str, list[float]] = {name: [] for name in programs}
    # One run more than counted: the first writes byte code and fills the page cache.
    for number in range(runs + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            subprocess.run(
                [bed.python(), "-c", program],
                env=environment, check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            if number:
                elapsed[name].append((time.perf_counter() - started) * 1e3)
    return {
        name: statistics.median(
            mine - bare for mine, bare in zip(elapsed[name], elapsed["pass"], strict=True)
        )
        for name in LIMITS
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=21)
    over = False
    for name, milliseconds in measure(parser.parse_args().runs).items():
        print(f"{name}: {milliseconds:.1f} ms above python -c pass (limit {LIMITS[name]:g})")
        over |= milliseconds > LIMITS[name]
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
