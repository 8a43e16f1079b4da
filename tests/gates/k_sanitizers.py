"""K: the core under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

The C of the core is compiled anew, in a temporary directory: as a program without Python (threads.c)
for each of the two builds, which can't be one, and as the package's core for ASan and UBSan, with which
the project's own tests run. A mutant is a changed line of the C.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from gates.child import TESTS
from gates.harness import Gate, Run
from gates.mutants import MUTANTS

PACKAGE = TESTS.parent / "src" / "fastcas"
DRIVER = Path(__file__).with_name("threads.c")

ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
THREAD = ("-fsanitize=thread",)
FLAGS = ("-O1", "-g1", "-fPIC", "-pthread", "-fno-omit-frame-pointer")

#: What of the tests is most about memory. Those that limit it, or load something before the sanitizer,
#: can't be run.
SHORT = ["test_core.py", "test_reader.py", "test_source.py", "test_verified.py"]
UNFIT = "not last_rung and not no_thread_can_be_had and not without_libcrypto"
SHORT_CHOICE = f"(small or sha512 or reader or source or verified) and {UNFIT}"

REPORT = re.compile(r"ERROR: AddressSanitizer: .*|runtime error: .*|WARNING: ThreadSanitizer: .*")


def missing() -> str | None:
    if shutil.which("gcc") is None:
        return "no gcc"
    if any(library("gcc", name) is None for name in ("libasan.so", "libubsan.so", "libtsan.so")):
        return "gcc has no sanitizers"
    if shutil.which("setarch") is None:
        return "no setarch (util-linux)"
    return None


@cache
def library(compiler: str, name: str) -> Path | None:
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True)
    path = Path(found.stdout.strip())
    return path if path.is_absolute() else None


# ---- builds


@cache
def kept() -> Path:
    """What of the builds is the same for every mutant."""
    global _kept
    _kept = tempfile.TemporaryDirectory(prefix="gates-")
    return Path(_kept.name)


def compile_one(source: Path, target: Path, sanitizer: tuple[str, ...]) -> Path:
    include = [f"-I{PACKAGE / 'native'}", f"-I{sysconfig.get_path('include')}"]
    command = ["gcc", *FLAGS, *sanitizer, *include, "-c", source, "-o", target]
    subprocess.run(command, check=True, timeout=300)
    return target


@cache
def objects(sanitizer: tuple[str, ...]) -> dict[str, Path]:
    """The core's C and the driver, compiled: the object of each source by its name."""
    place = kept() / sanitizer[0].partition("=")[2]
    place.mkdir()
    sources = [*(PACKAGE / "native").glob("*.c"), DRIVER]
    with ThreadPoolExecutor(2) as pool:
        built = pool.map(
            lambda source: compile_one(source, place / f"{source.stem}.o", sanitizer), sources
        )
        return dict(zip((source.name for source in sources), built, strict=True))


def mutated(place: Path, mutant: str | None, sanitizer: tuple[str, ...]) -> list[Path]:
    """The objects, with that of the mutant's source in place of one."""
    found = dict(objects(sanitizer))
    if mutant is not None and (change := MUTANTS[mutant].source) is not None:
        name, old, new = change
        text = (PACKAGE / "native" / name).read_text()
        assert text.count(old) == 1, f"{name} has changed: {mutant} is no mutant of it any more"
        (place / name).write_text(text.replace(old, new))
        found[name] = compile_one(place / name, place / f"mutant{len(sanitizer)}.o", sanitizer)
    return list(found.values())


def link(target: Path, parts: list[Path], sanitizer: tuple[str, ...], *flags: str) -> Path:
    command = ["gcc", *flags, "-pthread", *sanitizer, "-o", target, *parts, "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return target


@cache
def cython() -> Path:
    """The Cython half of the core, compiled; without optimization, which takes a minute."""
    source = kept() / "_core.c"
    command = [sys.executable, "-m", "cython", "-3", "-I", PACKAGE.parent, "-o", source]
    subprocess.run([*command, PACKAGE / "_core.pyx"], check=True, timeout=120)
    return compile_one(source, kept() / "_core.o", (*ADDRESS, "-O0"))


# ---- runs


def reports(output: str, place: Path) -> list[str]:
    """What sanitizers said, in an output and in the files that they wrote."""
    texts = [output, *(path.read_text(errors="replace") for path in place.glob("report.*"))]
    return [found for text in texts for found in REPORT.findall(text)]


def drive(gate: Run, sanitizer: tuple[str, ...], seeds: int, rounds: int) -> None:
    """The program of threads.c. Without randomized addresses, for which older TSans have no room."""
    program = link(gate.place / "threads", mutated(gate.place, gate.mutant, sanitizer), sanitizer)
    for _ in range(seeds):
        seed, place = gate.random.randrange(1 << 32), gate.place / "layout"
        place.mkdir()
        command = ["setarch", "-R", program, str(seed), str(rounds), place]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=60 + rounds / 4)
            output, status = result.stderr, result.returncode
        except subprocess.TimeoutExpired:
            output, status = "it hangs", -1
        shutil.rmtree(place)
        gate.trials += rounds
        problems = reports(output, gate.place)
        if status and not problems:
            problems = [f"exit status {status}: {output[-300:].strip()}"]
        gate.check(f"{sanitizer[0]}, seed {seed}", problems[:1])


def run_tests(gate: Run) -> None:
    """The project's tests with the core built so. What counts is what the sanitizers say: some tests
    limit the memory or load something before libc, which can't work here."""
    package = gate.place / "package" / "fastcas"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    parts = [part for part in mutated(gate.place, gate.mutant, ADDRESS) if part.name != "threads.o"]
    name = f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    link(package / name, [cython(), *parts], ADDRESS, "-shared")
    log = f"log_path={gate.place}/report"
    environment = {
        **os.environ,
        "PYTHONPATH": str(package.parent),
        "PYTHONMALLOC": "malloc",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_PRELOAD": str(library("gcc", "libasan.so")),
        "ASAN_OPTIONS": f"detect_leaks=0:{log}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{log}",
    }
    python = [sys.executable, "-X", "dev"]
    where = subprocess.run(
        [*python, "-c", "from fastcas import _core; print(_core.__file__)"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert where.stdout.strip() == str(package / name), where.stderr
    which = gate.pick(SHORT_CHOICE, UNFIT)
    chosen = [TESTS / test for test in gate.pick(SHORT, [])] or [TESTS]
    pytest = [*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600", "-k", which]
    result = subprocess.run(
        [*pytest, *chosen],
        env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    problems = reports("", gate.place)
    passed = re.search(r"(\d+) passed", result.stdout)
    if passed is None and not problems:
        problems = [f"the tests didn't run: {result.stdout[-300:]}"]
    elif not gate.soak and result.returncode and not problems:
        problems = re.findall("^FAILED .*", result.stdout, re.MULTILINE)
    gate.trials += int(passed[1]) if passed else 0
    gate.check("the core's tests", problems)


def run(gate: Run) -> None:
    rounds = gate.pick(70, 2100)
    if gate.mutant == "hex-end":
        run_tests(gate)  # the program doesn't come there
    builds = [ADDRESS, THREAD]
    if gate.mutant in THREAD_MUTANTS:
        builds.reverse()  # it is shown sooner
    for sanitizer in builds:
        drive(gate, sanitizer, gate.rounds(1, 4), rounds)
    run_tests(gate)


THREAD_MUTANTS = ("ring-without-lock", "slot-taken-early", "items-without-lock", "next-not-atomic")

GATE = Gate(
    "K",
    "sanitizers",
    run,
    (
        "slot-end", "read-beyond", "used-after-free", "lane-too-many", "hex-end", *THREAD_MUTANTS,
    ),
    missing,
)  # fmt: skip
