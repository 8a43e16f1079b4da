"""Gate O: content that is only there to cost memory or time.

Each attack runs in a process of its own, of limited memory. It must end, with what it is told to end
with, below its bound; what it took is printed, since a bound says little.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastcas
from fastcas import Descriptor, InvalidError
from fastcas.image import walk
from fastcas.image.archive import import_archive
from fastcas.image.decompress import decompress
from fastcas.model import INDEX_LIMIT, MEDIA_TYPE_INDEX
from gates import child
from gates.harness import Gate, Run
from gates.invariants import REF_NAME

MIB = 1 << 20

#: Bytes of address space: whoever needs more than this fails at once, instead of the machine.
SPACE = 3 << 30

#: Seconds after which an attack has succeeded.
PATIENCE = 120


@dataclass(frozen=True)
class Attack:
    """``prepare`` has the layout to itself, and time; ``run`` is what is measured. It raises
    InvalidError where ``refused``. ``most`` is in MiB above what the process had."""

    prepare: Callable[[fastcas.DirEngine, Path], Any]
    run: Callable[[fastcas.DirEngine, Any], Any]
    refused: bool
    most: int


def entries(count: int) -> bytes:
    """An index of so many descriptors."""
    entry = '{"mediaType":"a/b","digest":"sha256:%064x","size":1,"annotations":{"%s":"v%d"}}'
    body = ",".join(entry % (number, REF_NAME, number) for number in range(count))
    return f'{{"schemaVersion":2,"manifests":[{body}]}}'.encode()


def unknown_fields(count: int) -> bytes:
    """An index of nothing else."""
    body = ",".join(f'"f{number}":0' for number in range(count))
    return f'{{"schemaVersion":2,"manifests":[],{body}}}'.encode()


def write_index(make: Callable[[], bytes]) -> Callable[[fastcas.DirEngine, Path], None]:
    return lambda cas, layout: (layout / "index.json").write_bytes(make()) and None


def put_index(cas: fastcas.DirEngine, *below: Descriptor) -> Descriptor:
    listed = [{"mediaType": d.media_type, "digest": d.digest, "size": d.size} for d in below]
    raw = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    return Descriptor(MEDIA_TYPE_INDEX, cas.put_blob(raw).digest, len(raw))


def put_diamond(cas: fastcas.DirEngine, layout: Path) -> Descriptor:
    """2 ** 30 ways lead down, past 90 documents."""
    top = put_index(cas)
    for number in range(30):
        sides = [put_index(cas, top, Descriptor("a/b", top.digest, number + side)) for side in (1, 2)]
        top = put_index(cas, *sides)
    return top


def put_deep(cas: fastcas.DirEngine, layout: Path) -> Descriptor:
    top = put_index(cas)
    for _ in range(10_000):
        top = put_index(cas, top)
    return top


def put_opaque(content: bytes) -> Callable[[fastcas.DirEngine, Path], Descriptor]:
    return lambda cas, layout: Descriptor(MEDIA_TYPE_INDEX, cas.put_blob(content).digest, len(content))


def read_index(cas: fastcas.DirEngine, _: object) -> None:
    cas.get_index()


def resolve(cas: fastcas.DirEngine, _: object) -> None:
    cas.resolve_reference("v1000")
    cas.update_reference("new", cas.get_index().manifests[0])


def walk_all(cas: fastcas.DirEngine, top: Descriptor) -> None:
    sum(1 for _ in cas.walk(top))
    walk.mark(cas, [top])


def unpack(cas: fastcas.DirEngine, packed: bytes) -> None:
    with decompress(io.BytesIO(packed)) as reader:
        while reader.read(MIB):
            pass


def bomb(name: str) -> Callable[[fastcas.DirEngine, Path], bytes]:
    """4 GiB of zeros."""

    def pack(cas: fastcas.DirEngine, layout: Path) -> bytes:
        zeros = bytes(64 * MIB)
        if name == "gzip":
            return gzip.compress(zeros, 9) * 64
        return subprocess.run(["zstd", "-qc"], input=zeros, capture_output=True, check=True).stdout * 64

    return pack


def load(cas: fastcas.DirEngine, packed: bytes) -> None:
    import_archive(cas, io.BytesIO(packed))


def claim_a_terabyte(cas: fastcas.DirEngine, layout: Path) -> Descriptor:
    """A document that is one hole."""
    digest = cas.put_blob(b"").digest
    blob = layout / "blobs" / digest.replace(":", "/")
    blob.chmod(0o644)
    os.truncate(blob, 1 << 40)
    return Descriptor(MEDIA_TYPE_INDEX, digest, 1 << 40)


def claim_8_gib(cas: fastcas.DirEngine, layout: Path) -> bytes:
    """An archive that begins with a member of that size."""
    info = tarfile.TarInfo("index.json")
    info.size = 8 << 30
    return info.tobuf() + bytes(MIB)


#: A zstd frame that asks for a window of 2 GiB.
WINDOW = bytes.fromhex("28b52ffd00a8") + bytes(1000)

# Each has fewer bytes than that.
MOST_ENTRIES = INDEX_LIMIT // 200

ATTACKS = {
    "an index of 100 MB of spaces": Attack(
        write_index(lambda: b" " * 100_000_000), read_index, True, 4
    ),
    "an index nested 100 000 deep": Attack(write_index(lambda: b"[" * 100_000), read_index, True, 16),
    "a document nested 100 000 deep": Attack(
        put_opaque(b'{"schemaVersion":2,"manifests":' + b"[" * 100_000), walk_all, True, 16
    ),
    "an index of a million descriptors": Attack(
        write_index(lambda: entries(1_000_000)), read_index, True, 4
    ),
    f"an index of {MOST_ENTRIES} descriptors, read, resolved and updated": Attack(
        write_index(lambda: entries(MOST_ENTRIES)), resolve, False, 1200
    ),
    "an index of 60 MB of brackets": Attack(
        write_index(lambda: b'{"schemaVersion":2,"manifests":' + b"[" * 60_000_000),
        read_index,
        True,
        240,
    ),
    "an index with a string of 60 MB": Attack(
        write_index(
            lambda: b'{"schemaVersion":2,"manifests":[],"x":"' + b"\\u0041" * 10_000_000 + b'"}'
        ),
        read_index,
        False,
        260,
    ),
    "an index with a million unknown fields": Attack(
        write_index(lambda: unknown_fields(1_000_000)),
        read_index,
        False,
        500,
    ),
    "a document of a terabyte": Attack(claim_a_terabyte, walk_all, True, 4),
    "a document of 5 MB": Attack(put_opaque(b'{"a":"' + b"x" * 5_000_000 + b'"}'), walk_all, True, 4),
    "a diamond of 30 levels": Attack(put_diamond, walk_all, False, 16),
    "10 000 levels": Attack(put_deep, walk_all, False, 64),
    "4 GiB of zeros in gzip": Attack(bomb("gzip"), unpack, True, 64),
    "4 GiB of zeros in zstd": Attack(bomb("zstd"), unpack, True, 64),
    "a window of 2 GiB in zstd": Attack(lambda cas, layout: WINDOW, unpack, True, 16),
    "an archive with a document of 8 GiB": Attack(claim_8_gib, load, True, 16),
    "4 GiB of zeros in gzip as an archive": Attack(bomb("gzip"), load, True, 64),
}


def suffer(place: str, name: str) -> None:
    """Tells what came of it, and the seconds and KiB that it took."""
    attack = ATTACKS[name]
    layout = Path(place, "layout")
    with fastcas.create(layout, durability="none") as cas:
        given = attack.prepare(cas, layout)
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    with fastcas.open(layout, durability="none") as cas:
        cas.put_blob(b"first")
        # From here on the peak is the attack's.
        Path("/proc/self/clear_refs").write_text("5")
        before, started = resident("VmRSS"), time.monotonic()
        try:
            attack.run(cas, given)
            outcome = "done"
        except InvalidError as error:
            outcome = f"refused: {error}"
        except BaseException as error:
            outcome = f"wrong: {type(error).__name__}: {error}"
        child.tell(outcome[:300], time.monotonic() - started, resident("VmHWM") - before)


def resident(what: str) -> int:
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith(what)))


def run(gate: Run) -> None:
    for name, attack in ATTACKS.items():
        gate.trials += 1
        gate.faults += 1
        process = child.start(suffer, gate.place, name, mutant=gate.mutant)
        try:
            output, _ = process.communicate(timeout=PATIENCE if gate.mutant is None else 15)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        shutil.rmtree(gate.place / "layout", ignore_errors=True)
        results = list(child.events(output))
        if not results:
            gate.check(name, ["it didn't end"])
            continue
        outcome, seconds, kib = results[0]
        problems = []
        if not outcome.startswith("refused" if attack.refused else "done"):
            problems.append(outcome)
        if kib > attack.most << 10:
            problems.append(f"{kib >> 10} MiB of memory")
        if gate.mutant is None:
            print(
                f"  {name}: {outcome.partition(':')[0]}, {seconds:.2f} s, {kib / 1024:.1f} MiB",
                flush=True,
            )
        gate.check(name, problems)


GATE = Gate(
    letter="O",
    title="content that costs memory or time",
    run=run,
    mutants=("no-caps", "every-way-walked"),
    missing=lambda: None if shutil.which("zstd") else "zstd isn't installed",
)
