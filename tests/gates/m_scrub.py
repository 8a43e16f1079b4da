"""M: scrub finds all damage, and nothing else; and who reads a damaged blob never gets its end.

Thousands of blobs, of sizes about every edge that the code knows, and an image that the index names. In
each round some are damaged in one of many ways, and what scrub says is compared with what was done. A
quick scrub too, beside a file of checksums that is right, stale, torn, noise or missing; one that was
written to deceive can hide damage from a quick scrub, but no good blob may be called bad for it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

import fastcas
from conformance import kinds_in, noise, store_image
from fastcas.dir.checksums import CHECKSUM_FILE, RECORDED_ABOVE
from gates import child
from gates.child import tell
from gates.harness import Gate, Run

EDGES = [0, 64, 128, 4096, RECORDED_ABOVE, 256 << 10, 1 << 20, 2 << 20, 4 << 20]
SIZES = [edge + more for edge in EDGES for more in (-1, 0, 1) if edge + more >= 0]
NOBODY = 65534

Found = list[tuple[str, str | None]]


def path_of(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/", 1)


# ---- damage: each way gives what scrub must say


def flip(layout: Path, digests: list[str], rng: random.Random) -> Found:
    path = path_of(layout, digests[0])
    content = bytearray(path.read_bytes())
    content[rng.choice((0, -1, rng.randrange(len(content))))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return [("corrupt", digests[0])]


def truncate(layout: Path, digests: list[str], rng: random.Random) -> Found:
    path = path_of(layout, digests[0])
    os.truncate(path, rng.choice((0, path.stat().st_size - 1, rng.randrange(path.stat().st_size))))
    return [("corrupt", digests[0])]


def extend(layout: Path, digests: list[str], rng: random.Random) -> Found:
    with path_of(layout, digests[0]).open("ab") as file:
        file.write(bytes(rng.choice((1, 4096, 1 << 20))))
    return [("corrupt", digests[0])]


def swap(layout: Path, digests: list[str], rng: random.Random) -> Found:
    one, two = (path_of(layout, digest) for digest in digests[:2])
    shutil.move(one, aside := layout.parent / "aside")
    shutil.move(two, one)
    shutil.move(aside, two)
    return [("corrupt", digest) for digest in digests[:2]]


def rename(layout: Path, digests: list[str], rng: random.Random) -> Found:
    other = f"sha256:{rng.getrandbits(256):064x}"
    path_of(layout, digests[0]).rename(path_of(layout, other))
    return [("corrupt", other)]


def misname(layout: Path, digests: list[str], rng: random.Random) -> Found:
    path = path_of(layout, digests[0])
    path.rename(path.with_name(rng.choice((path.name[:-1], path.name + "0", path.name.upper() + "g"))))
    return [("bad-name", None)]


def special(layout: Path, digests: list[str], rng: random.Random) -> Found:
    path = path_of(layout, digests[0])
    path.unlink()
    rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/etc/passwd")))()
    return [("non-regular", digests[0])]


def forbid(layout: Path, digests: list[str], rng: random.Random) -> Found:
    path_of(layout, digests[0]).chmod(0)
    return [("unreadable", digests[0])]


WAYS = [flip, flip, truncate, extend, swap, rename, misname, special, forbid]


# ---- the file of checksums


def stale(path: Path, rng: random.Random, lines: list[str]) -> None:
    path.write_text("".join(f"{rng.getrandbits(128):032x}{line[32:]}" for line in lines))


def torn(path: Path, rng: random.Random, lines: list[str]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def random_bytes(path: Path, rng: random.Random, lines: list[str]) -> None:
    path.write_bytes(rng.randbytes(100_000) + b"\n" + b"".join(line.encode()[::-1] for line in lines))


def absent(path: Path, rng: random.Random, lines: list[str]) -> None:
    path.unlink(missing_ok=True)


def folder(path: Path, rng: random.Random, lines: list[str]) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def believable(layout: Path, digests: list[str]) -> Iterator[str]:
    """Checksums of what is there, damaged or not."""
    for digest in digests:
        path = path_of(layout, digest)
        if path.is_file() and not path.is_symlink():
            checksum = xxhash.xxh3_128_hexdigest(path.read_bytes())
            yield f"{checksum}  {path.relative_to(layout)}\n"


STATES: list[Callable[[Path, random.Random, list[str]], None]] = [
    stale,
    torn,
    random_bytes,
    absent,
    folder,
]


@contextlib.contextmanager
def as_normal_user() -> Iterator[None]:
    """Root can read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# ---- rounds, in a process of its own


def compare(what: str, report: fastcas.ScrubReport, expected: Found) -> None:
    wanted = sorted(expected, key=str)
    found = sorted(kinds_in(report), key=str)
    missed = [item for item in wanted if item not in found]
    false = [item for item in found if item not in wanted]
    problems = [f"missed {missed[:3]}"] * bool(missed) + [f"false alarm {false[:3]}"] * bool(false)
    if not problems and len(wanted) != len(found):
        problems = ["told twice"]
    tell("state", what, problems)


def examine(place: str, seed: int, count: int, rounds: int) -> None:
    rng = random.Random(seed)
    layout = Path(place, "image")
    with fastcas.create(layout, durability="none") as cas:
        sizes = SIZES + [int(2 ** rng.uniform(0, 14)) for _ in range(count)]
        digests = [r.digest for r in cas.put_blobs([noise(size, n) for n, size in enumerate(sizes)])]
        digests += [cas.put_blob(noise(n, n), algorithm="sha512").digest for n in (10, 70_000)]
        image, parts = store_image(cas, 1)
        cas.update_reference("v1", image)
    digests = sorted({digest for digest in digests if path_of(layout, digest).stat().st_size})
    pristine = Path(place, "pristine")
    shutil.copytree(layout, pristine)
    lines = (layout / CHECKSUM_FILE).read_text().splitlines(keepends=True)
    for quick in (False, True):
        with fastcas.open(layout) as cas:
            report = cas.scrub(quick=quick)
        compare(f"no damage, {quick=}", report, [])
        if quick:
            unused = [] if report.by_checksum == len(lines) else ["recorded checksums weren't used"]
            tell("state", "by checksum", unused)
    for state in STATES:
        state(layout / CHECKSUM_FILE, rng, lines)
        with fastcas.open(layout) as cas:
            compare(f"no damage, checksums {state.__name__}", cas.scrub(quick=True), [])
        shutil.rmtree(layout)
        shutil.copytree(pristine, layout)
    for number in range(rounds):
        damage(Path(place), layout, rng, digests, sorted(parts), number)
        shutil.rmtree(layout)
        shutil.copytree(pristine, layout)
    shutil.rmtree(layout)
    shutil.copytree(pristine, layout)
    check_exit_codes(layout, digests)


def read_some(
    cas: fastcas.DirEngine, layout: Path, digests: list[str], bad: set[str], seed: int
) -> None:
    """What is handed out of blobs, damaged or not, by reads of any size."""
    rng = random.Random(seed)
    problems = []
    for digest in digests:
        stored = path_of(layout, digest).read_bytes()
        size = rng.choice((1000, 1 << 16, 1 << 20, len(stored) + 1))
        buffer = memoryview(bytearray(size)) if rng.random() < 0.5 else None
        got = bytearray()
        told = verified = False
        try:
            with cas.get_blob(digest) as blob:
                while buffer is None and (piece := blob.read(size)):
                    got += piece
                while buffer is not None and (count := blob.readinto(buffer)):
                    got += buffer[:count]
                verified = blob.verified
        except fastcas.CorruptError:
            told = True
        if digest not in bad:
            problems += [f"{digest} was refused"] * (got != stored or not verified)
        elif not told or verified:
            problems.append(f"{digest} was taken for right")
        elif len(got) >= max(1, len(stored)) or not stored.startswith(got):
            problems.append(f"{digest}: {len(got)} bytes came of {len(stored)} that are wrong")
    tell("state", f"reads of {len(digests)}", problems)


def damage(
    place: Path, layout: Path, rng: random.Random, digests: list[str], parts: list[str], number: int
) -> None:
    lines = (layout / CHECKSUM_FILE).read_text().splitlines(keepends=True)
    recorded = ["sha" + line.split("/sha", 1)[1].strip().replace("/", ":", 1) for line in lines]
    recorded = [digest for digest in recorded if digest in digests]
    big = rng.sample(recorded, 6)
    left = [digest for digest in rng.sample(digests, 120) if digest not in big]
    expected: Found = []
    for way in WAYS:
        expected += way(layout, big[:2] if way is swap else big[:1], rng)
        del big[: 2 if way is swap else 1]
        if not big:
            big = [left.pop(), left.pop()]
        for _ in range(4):
            expected += way(layout, [left.pop(), left.pop()], rng)
    tell("faults", len(expected))
    forms = [None, *STATES]
    state = forms[number % len(forms)]
    name = "right" if state is None else state.__name__
    if state is not None:
        state(layout / CHECKSUM_FILE, rng, lines)
    for quick in (True, False) if number % 2 else (False, True):
        with as_normal_user(), fastcas.open(layout) as cas:
            compare(f"round {number}, {quick=}, checksums {name}", cas.scrub(quick=quick), expected)
    # Whoever writes checksums can hide damage from a quick scrub, and do no more.
    if state is None:
        (layout / CHECKSUM_FILE).write_text("".join(believable(layout, recorded)))
        with as_normal_user(), fastcas.open(layout) as cas:
            report = cas.scrub(quick=True)
            false = [item for item in kinds_in(report) if item not in expected]
            tell("state", f"round {number}, hostile checksums", [f"false alarm {false}"] * bool(false))
            compare(f"round {number}, full after hostile checksums", cas.scrub(), expected)
    bad = {digest for kind, digest in expected if kind == "corrupt" and digest is not None}
    untouched = [digest for digest in left if path_of(layout, digest).is_file()][:50]
    with fastcas.open(layout) as cas:
        read_some(cas, layout, sorted(bad) + untouched, bad, number)
    # What is missing, on top; and quarantine takes what is corrupt, that and nothing else.
    lost = parts[number % len(parts)]
    path_of(layout, lost).unlink()
    with fastcas.open(layout) as cas:
        kind = "dangling" if lost == cas.get_index().manifests[0].digest else "missing"
        rest = [item for item in expected if item[0] not in ("corrupt", "unreadable")]
        if not os.geteuid():
            compare(
                f"round {number}, {kind}",
                cas.scrub(),
                [i for i in expected if i[0] != "unreadable"] + [(kind, lost)],
            )
            cas.scrub(quarantine=place / f"quarantine{number}")
            compare(f"round {number}, after quarantine", cas.scrub(), [*rest, (kind, lost)])
            names = os.listdir(place / f"quarantine{number}")
            moved = [name for name in names if ".json" not in name]
            bad = sum(item[0] == "corrupt" for item in expected)
            tell("state", "quarantine", [f"{len(moved)} of {bad} were moved"] * (len(moved) != bad))


def check_exit_codes(layout: Path, digests: list[str]) -> None:
    command = [sys.executable, "-m", "fastcas", "scrub", layout]

    def code(*more: str) -> int:
        return subprocess.run([*command, *more], capture_output=True).returncode

    found = [code(), code("--quick")]
    flip(layout, digests, random.Random(1))
    found += [code(), code("--quick")]
    (layout / "index.json").write_bytes(b"{")
    found += [code()]
    tell("state", "exit codes", [f"{found}"] * (found != [0, 0, 1, 1, 4]))


# ---- the gate


def run(gate: Run) -> None:
    gate.place.chmod(0o755)  # for the user without rights
    for _ in range(gate.pick(1, 4)):
        place = gate.place / "place"
        place.mkdir()
        arguments = (place, gate.random.randrange(1 << 32), gate.pick(2000, 20_000), gate.pick(6, 60))
        process = child.start(examine, *arguments, mutant=gate.mutant, stderr=subprocess.PIPE)
        output, errors = process.communicate(timeout=3000)
        for kind, what, *more in child.events(output):
            if kind == "faults":
                gate.faults += what
                gate.trials += 1
            else:
                gate.check(what, more[0])
        if process.returncode:
            gate.violate(f"it ended with {process.returncode}: {errors.decode()[-500:].strip()}")
        shutil.rmtree(place)


GATE = Gate(
    "M",
    "scrub",
    run,
    (
        "digest-ignored",
        "scrub-by-size",
        "checksum-believed",
        "checksum-damns",
        "scrub-errors-swallowed",
        "reads-unverified",
        "end-before-verdict",
    ),
)
