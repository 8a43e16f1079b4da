"""J: what strangers wrote, into every parser: nothing but our errors, in bounded memory and time.

First the corpus, whose files say by their names what must come of them: ``bad-…`` is refused,
``good-…`` accepted, ``any-…`` one of the two; then what hypothesis makes of it, and in a soak
atheris, which sees what of the code an input reaches (hypothesis alone where it isn't installed).
"""

from __future__ import annotations

import importlib.util
import io
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import fastcas
from conformance import digest_of, noise
from fastcas import Config, Descriptor, Digest, FastCASError, Index, Manifest
from fastcas.dir.checksums import CHECKSUM_FILE
from fastcas.image import tar
from fastcas.image.archive import import_archive
from fastcas.image.decompress import decompress
from fastcas.image.layer import put_layer
from fastcas.image.reference import check_reference_name
from fastcas.model import INDEX_LIMIT
from gates import child
from gates.child import tell
from gates.harness import Gate, Run

CORPUS = Path(__file__).with_name("corpus")

#: For one input, on a busy machine.
MOST_SECONDS = 30
#: Beyond what the process has when it begins. A zstd stream may ask for a window of 128 MiB.
MOST_MEMORY = 1 << 30
PLAIN_LIMIT = 256 << 20

Target = Callable[[bytes], Any]


# ---- targets


class Targets:
    """Each takes bytes and raises what the store raises."""

    def __init__(self, place: Path) -> None:
        self._layout = place / "image"
        self._file = place / "file"
        self._cas = fastcas.create(self._layout, durability="none")
        self._good = self._cas.put_blob(noise(70_000, 1)).digest
        json = {
            "descriptor": partial(self.value, Descriptor),
            "index": partial(self.value, Index),
            "manifest": partial(self.value, Manifest),
            "config": partial(self.value, Config),
            "oci-layout": self.version,
            "index-file": self.index_file,
        }
        self.by_group: dict[str, dict[str, Target]] = {
            "text": {"digest": self.digest, "reference": self.reference},
            **{name: {name: target} for name, target in json.items()},
            "json": json,
            "tar": {"archive": self.archive, "members": self.members, "layer": self.layer},
            "compressed": {"plain": self.plain, "archive": self.archive, "layer": self.layer},
            "checksums": {"checksums": self.checksums},
        }

    def digest(self, raw: bytes) -> None:
        digest = Digest(raw.decode("utf-8", "surrogateescape"))
        assert Digest(str(digest)) == digest
        assert "/" not in digest
        assert ".." not in digest.encoded

    def reference(self, raw: bytes) -> None:
        check_reference_name(raw.decode("utf-8", "surrogateescape"))

    def value(self, kind: Any, raw: bytes) -> None:
        found = kind.from_json(raw)
        assert kind.from_json(found.to_json()) == found
        for item in getattr(found, "manifests", None) or getattr(found, "layers", None) or ():
            assert 0 <= item.size < 1 << 63

    def version(self, raw: bytes) -> None:
        (self._layout / "oci-layout").write_bytes(raw)
        try:
            fastcas.open(self._layout).close()
        finally:
            (self._layout / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')

    def index_file(self, raw: bytes) -> None:
        (self._layout / "index.json").write_bytes(raw)
        self._cas.list_references()
        self._cas.scrub(quick=True)

    def archive(self, raw: bytes) -> None:
        (self._layout / "index.json").write_bytes(b'{"schemaVersion":2,"manifests":[]}')
        import_archive(self._cas, io.BytesIO(raw))

    def members(self, raw: bytes) -> None:
        for member in tar.read_members(io.BytesIO(raw).read):
            assert not member.name.startswith("/")
            assert ".." not in member.name.split("/")

    def layer(self, raw: bytes) -> None:
        self._file.write_bytes(raw)
        put_layer(self._cas, self._file)

    def plain(self, raw: bytes) -> None:
        with decompress(io.BytesIO(raw), limit=PLAIN_LIMIT) as reader:
            while reader.read(1 << 20):
                pass

    def checksums(self, raw: bytes) -> None:
        (self._layout / "index.json").write_bytes(b'{"schemaVersion":2,"manifests":[]}')
        (self._layout / CHECKSUM_FILE).write_bytes(raw)
        report = self._cas.scrub(quick=True)
        assert not [problem for problem in report.problems if problem.digest == self._good]
        self._cas.put_blob(noise(70_001, 2))
        self._cas.delete_blob(digest_of(noise(70_001, 2)))


def attempt(target: Target, raw: bytes) -> tuple[bool, str]:
    """Whether it was accepted, and what is wrong with that."""
    begin = time.monotonic()
    accepted, problem = True, ""
    try:
        target(raw)
    except FastCASError as error:
        accepted = False
        if len(str(error)) > 10_000:
            problem = f"a message of {len(str(error))} characters"
    except BaseException as error:  # RecursionError and MemoryError too
        accepted, problem = False, f"{type(error).__name__}: {str(error)[:200]}"
    if (seconds := time.monotonic() - begin) > MOST_SECONDS:
        problem = problem or f"{seconds:.0f} s"
    return accepted, problem


# ---- what is tried


def large() -> dict[str, dict[str, bytes]]:
    """What would be too much for files."""
    head = b'{"schemaVersion":2,"manifests":['
    entry = b'{"mediaType":"a/b","digest":"sha256:%s","size":5}' % (b"0" * 64)
    deep = {f"bad-deep-{n}": head + b'],"x":' + b"[" * n + b"]" * n + b"}" for n in (200, 900, 100_000)}
    bomb = compressed_zeros(300 << 20)
    return {
        "index": {
            **deep,
            "bad-open": b"[" * 100_000,
            "bad-open-objects": b'{"a":' * 100_000,
            "bad-number": head + b'],"schemaVersion":' + b"9" * 100_000 + b"}",
            "bad-spaces": b" " * (100 << 20),
            "bad-too-large": head + b"]" + b" " * INDEX_LIMIT + b"}",
            "good-many": head + b",".join([entry] * 200_000) + b"]}",
            "any-million": head + b",".join([b"{}"] * 1_000_000) + b"]}",
        },
        "text": {"any-1MB": b"a" * (1 << 20), "any-1MB-digest": b"sha256:" + b"a" * (1 << 20)},
        "compressed": {"bad-bomb": bomb},
        "checksums": {"good-long-line": b"x" * (8 << 20), "good-lines": b"\n" * (4 << 20)},
    }


def compressed_zeros(size: int) -> bytes:
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join(pieces) + packer.flush()


def corpus(group: str) -> dict[str, bytes]:
    folder = CORPUS / group
    return (
        {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    )


edits = st.lists(
    st.tuples(st.sampled_from("idrc"), st.integers(0, 1 << 16), st.binary(max_size=24)), max_size=8
)


def edit(raw: bytes, changes: list[tuple[str, int, bytes]], group: str) -> bytes:
    """Insert, delete, replace, copy; and a tar gets its checksum again, half of the time."""
    data = bytearray(raw)
    for how, where, what in changes:
        at = where % (len(data) + 1)
        if how == "i":
            data[at:at] = what
        elif how == "d":
            del data[at : at + len(what) + 1]
        elif how == "r":
            data[at : at + len(what)] = what
        else:
            data[at:at] = data[at : at + 64]
    if group == "tar" and len(data) >= 512 and len(changes) % 2:
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


# ---- in a process of its own


def bound_memory() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY, size + MOST_MEMORY))


def say(where: str, problem: str, at_once: bool) -> None:
    """``at_once``: a mutant was caught, and that is all."""
    tell("state", where, [problem] * bool(problem))
    if problem and at_once:
        os._exit(0)


def replay(targets: Targets, at_once: bool) -> None:
    huge = large()
    for group, by_name in targets.by_group.items():
        for name, raw in {**corpus(group), **huge.get(group, {})}.items():
            for target, function in by_name.items():
                accepted, problem = attempt(function, raw)
                meant = name.partition("-")[0]
                if not problem and meant in ("good", "bad") and accepted != (meant == "good"):
                    problem = "accepted" if accepted else "refused"
                say(f"{target}, {group}/{name}", problem, at_once)


def fuzz(place: str, examples: int, number: int, at_once: bool) -> None:
    """The corpus, then ``examples`` for each target."""
    targets = Targets(Path(place))
    bound_memory()
    replay(targets, at_once)
    for group, by_name in targets.by_group.items():
        seeds = list(corpus(group).values()) or list(corpus("json").values())
        for name, function in by_name.items():
            try_examples(group, name, function, seeds, examples, number, at_once)
    tell("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def try_examples(
    group: str,
    name: str,
    function: Target,
    seeds: list[bytes],
    examples: int,
    number: int,
    at_once: bool,
) -> None:
    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(seeds), edits)
    def one(raw: bytes, changes: list[tuple[str, int, bytes]]) -> None:
        raw = edit(raw, changes, group)
        _, problem = attempt(function, raw)
        say(f"{name}, {raw[:300]!r}" if problem else name, problem, at_once)

    one()


def guided(place: str, target: str, seconds: int) -> None:
    """atheris on one target, until something is found."""
    import atheris

    targets = Targets(Path(place, "targets"))
    group, function = next(
        (group, by[target]) for group, by in targets.by_group.items() if target in by
    )
    seeds = Path(place, "seeds")
    seeds.mkdir()
    for name, raw in {
        **corpus(group),
        **corpus("json" if group not in ("tar", "text") else group),
    }.items():
        (seeds / name).write_bytes(raw)

    # What atheris prints is no event.
    events = os.dup(1)
    os.dup2(2, 1)

    def one(raw: bytes) -> None:
        _, problem = attempt(function, raw)
        if problem:
            os.dup2(events, 1)
            tell("state", f"{target}, {raw[:300]!r}", [problem])
            os._exit(1)

    atheris.instrument_all()
    options = [f"-max_total_time={seconds}", "-rss_limit_mb=3000", "-max_len=8192", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(seeds)], one)
    atheris.Fuzz()


# ---- the gate


def collect(gate: Run, process: subprocess.Popen[bytes], what: str) -> None:
    output, errors = process.communicate(timeout=3000)
    for kind, where, *more in child.events(output):
        if kind == "state":
            gate.faults += 1
            gate.check(where, more[0])
    if process.returncode:
        gate.violate(
            f"{what} ended with {process.returncode}: {errors.decode(errors='replace')[-500:]}"
        )


def run(gate: Run) -> None:
    place = gate.place / "fuzz"
    place.mkdir()
    # Derandomized in CI: the same inputs each time.
    number = gate.pick(1, gate.random.randrange(1 << 32))
    examples = gate.pick(25, 3000)
    arguments = (place, examples, number, gate.mutant is not None)
    process = child.start(fuzz, *arguments, mutant=gate.mutant, stderr=subprocess.PIPE)
    gate.trials += 1
    collect(gate, process, "hypothesis")
    if not gate.soak or gate.mutant is not None or importlib.util.find_spec("atheris") is None:
        return
    names = ["digest", "descriptor", "index", "manifest", "config", "archive", "members", "plain"]
    for name in names:
        shutil.rmtree(place)
        (place / "targets").mkdir(parents=True)
        gate.trials += 1
        process = child.start(guided, place, name, 60, stderr=subprocess.PIPE)
        collect(gate, process, f"atheris on {name}")
        gate.states += 1


GATE = Gate(
    "J",
    "fuzzing",
    run,
    (
        "size-cap-removed", "depth-cap-removed", "output-cap-removed", "duplicate-keys-accepted",
        "parser-raises-key-error", "recursion-error-raised", "traversal-accepted",
    ),
)  # fmt: skip
