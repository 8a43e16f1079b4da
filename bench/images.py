"""Whole images, by whole programs: copies between layouts, builds from a folder, one-shot commands.

Each program is started anew and timed from outside; in each round all run once, in an order that
rotates, after one round that doesn't count. What a program isn't there for is left out. What each one
syncs and verifies stands beside it: README.md says how that is known.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

import bed
import fastcas

NEIGHBOURS = bed.HERE.parent / "build" / "neighbours" / "bin"  # tests/neighbours/install.sh
FASTCAS = Path(sys.executable).with_name("fastcas")
LAYERS = 8

# As fastcas cp copies, without its syncs, which the command can't leave out.
COPY_UNSYNCED = """
import sys, fastcas
with fastcas.open(sys.argv[1]) as source, fastcas.create(sys.argv[2], durability="none") as target:
    fastcas.copy_image(source, "v1", target, "v1")
"""


class Program(NamedTuple):
    """`command(target)` is a shell's; `{target}` doesn't exist before, and is removed afterwards."""

    name: str
    needs: str  # the program that must be there
    promises: str
    command: Callable[[Path], str]
    undo: str = ""


def find(name: str) -> str | None:
    own = NEIGHBOURS / name
    return os.fspath(own) if own.exists() else shutil.which(name)


def make_image(root: Path, size: int) -> None:
    """An image called `v1` with layers of random bytes, which gzip only frames."""
    with fastcas.create(root, durability="none") as cas:
        layers = []
        for number in range(LAYERS):
            path = root / "layer.tar"
            with tarfile.open(path, "w") as archive:
                member = tarfile.TarInfo(f"file{number}")
                member.size = size // LAYERS
                archive.addfile(member, BytesIO(bed.random_bytes(member.size, number)))
            layer = fastcas.build_image(cas, [path], compress="gzip", level=1)
            layers += cas.read_descriptor(layer).data.layers
            path.unlink()
        fastcas.build_image(cas, layers, reference="v1", platform="linux/amd64")
        cas.gc(grace=0)


def make_folder(root: Path, size: int) -> None:
    """Half of the bytes in large files, half in small ones; of each half one part can be compressed."""
    generator = random.Random(2)
    words = [generator.randbytes(8) for _ in range(4096)]

    def content(length: int, number: int) -> bytes:
        if number % 2:
            return bed.random_bytes(length, number)
        text = b"".join(generator.choices(words, k=min(length, 1 << 20) // 8 + 1))
        return (text * (length // len(text) + 1))[:length]

    left, number = size // 2, 0
    while left > 0:
        length = min(left, size // 16)
        (root / "large").mkdir(parents=True, exist_ok=True)
        (root / "large" / str(number)).write_bytes(content(length, number))
        left, number = left - length, number + 1
    left = size // 2
    while left > 0:
        length = min(left, int(generator.paretovariate(1.2) * 4096), 1 << 20)
        folder = root / "small" / str(number // 100)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_bytes(content(length, number))
        left, number = left - length, number + 1


def copies(source: Path) -> list[Program]:
    q = shlex.quote
    return [
        Program("fastcas cp", os.fspath(FASTCAS), "verified; file and directory synced",
                lambda t: f"{FASTCAS} cp {q(f'{source}:v1')} {q(f'{t}:v1')}"),
        Program("copy_image at none, Python", sys.executable, "verified; nothing synced",
                lambda t: f"{sys.executable} -c {q(COPY_UNSYNCED)} {q(f'{source}')} {q(f'{t}')}"),
        Program("skopeo copy", "skopeo", "verified; file synced",
                lambda t: f"skopeo copy -q oci:{q(f'{source}:v1')} oci:{q(f'{t}:v1')}"),
        Program("oras cp", "oras", "verified; nothing synced",
                lambda t: f"{find('oras')} cp --from-oci-layout {q(f'{source}:v1')} "
                          f"--to-oci-layout {q(f'{t}:v1')}"),
        Program("regctl image copy", "regctl", "verified; nothing synced",
                lambda t: f"{find('regctl')} image copy ocidir://{q(f'{source}:v1')} ocidir://{q(f'{t}:v1')}"),
        Program("cp -r", "cp", "nothing verified, nothing synced",
                lambda t: f"cp -r {q(os.fspath(source))} {t}"),
        Program("cp -r; sync -f", "cp", "nothing verified; all synced",
                lambda t: f"cp -r {q(os.fspath(source))} {t} && sync -f {t}"),
    ]  # fmt: skip


def builds(folder: Path) -> list[Program]:
    q = shlex.quote
    synced = "file and directory synced"

    def ours(options: str) -> Callable[[Path], str]:
        return lambda t: (
            f"{FASTCAS} init {q(os.fspath(t))} && "
            f"{FASTCAS} build {q(os.fspath(t))} {q(os.fspath(folder))} --tag v1 {options}"
        )

    def pipeline(compressor: str) -> Callable[[Path], str]:
        return lambda t: (
            f"mkdir {q(os.fspath(t))} && cd {q(os.fspath(t))} && tar -C {q(os.fspath(folder))} -c . "
            f"| tee >(sha256sum >diffid) {compressor} | tee >(sha256sum >digest) >blob; wait"
        )

    def buildah(options: str) -> Callable[[Path], str]:
        return lambda t: (
            "export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot; "
            f"s='buildah --root {t}.s --runroot {t}.r'; "
            f"c=$($s from scratch) && $s copy -q $c {q(os.fspath(folder))} / && "
            f"$s commit -q {options} $c oci:{q(f'{t}:v1')}"
        )

    return [
        Program("fastcas build", os.fspath(FASTCAS), synced, ours("")),
        Program("tar | sha256sum", "tar", "nothing synced", pipeline("")),
        Program("fastcas build --compress gzip --level 1", os.fspath(FASTCAS), synced,
                ours("--compress gzip --level 1")),
        Program("fastcas build --compress gzip", os.fspath(FASTCAS), synced, ours("--compress gzip")),
        Program("fastcas build --compress zstd", os.fspath(FASTCAS), synced, ours("--compress zstd")),
        Program("tar | sha256sum | gzip -1", "gzip", "nothing synced", pipeline("| gzip -1")),
        Program("tar | sha256sum | pigz -1", "pigz", "nothing synced", pipeline("| pigz -1")),
        Program("tar | sha256sum | pigz", "pigz", "nothing synced", pipeline("| pigz")),
        Program("tar | sha256sum | zstd -T0", "zstd", "nothing synced", pipeline("| zstd -qT0")),
        Program("umoci insert (gzip)", "umoci", "nothing synced",
                lambda t: f"umoci init --layout {t} && umoci new --image {t}:v1 && "
                          f"umoci insert --image {t}:v1 {q(os.fspath(folder))} /"),
        Program("buildah commit, not compressed", "buildah", "file synced",
                buildah("--disable-compression=true"), "rm -rf {target}.s {target}.r"),
        Program("buildah commit (gzip)", "buildah", "file synced",
                buildah("--disable-compression=false"), "rm -rf {target}.s {target}.r"),
    ]  # fmt: skip


def one_shots(source: Path) -> list[Program]:
    q = shlex.quote(os.fspath(source))
    python = sys.executable
    return [
        Program("python -c pass", python, "-", lambda _: f"{python} -c pass"),
        Program("import fastcas", python, "-", lambda _: f"{python} -c 'import fastcas'"),
        Program("fastcas --help", os.fspath(FASTCAS), "-", lambda _: f"{FASTCAS} --help"),
        Program("fastcas refs", os.fspath(FASTCAS), "-", lambda _: f"{FASTCAS} refs {q}"),
        Program("fastcas stat NAME", os.fspath(FASTCAS), "-", lambda _: f"{FASTCAS} stat {q} v1"),
        Program("skopeo --version", "skopeo", "-", lambda _: "skopeo --version"),
        Program("skopeo inspect", "skopeo", "-", lambda _: f"skopeo inspect oci:{q}:v1"),
        Program("crane version", "crane", "-", lambda _: f"{find('crane')} version"),
        Program("umoci ls", "umoci", "-", lambda _: f"umoci ls --layout {q}"),
    ]


def remove(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            shutil.rmtree(path)


def measure(programs: list[Program], base: Path, rounds: int, memory: int) -> dict[str, list[float]]:
    """Seconds of each program in each round; of those that are there, that don't fail."""
    order = [program for program in programs if find(program.needs)]
    for program in programs:
        if program not in order:
            print(f"{program.name}: {program.needs} isn't installed, left out", file=sys.stderr)
    samples: dict[str, list[float]] = {program.name: [] for program in order}
    for number in range(rounds + 1):
        for program in list(order):
            target = bed.fresh(base)
            bed.settle(base, memory)
            command = ["bash", "-c", f"set -o pipefail; {program.command(target)}"]
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            elapsed = time.perf_counter() - started
            if done.returncode:
                print(
                    f"{program.name}: exit code {done.returncode}: {done.stderr[-1000:]}",
                    file=sys.stderr,
                )
                order.remove(program)
                del samples[program.name]
            elif number:
                samples[program.name].append(elapsed)
            remove(target, Path(f"{target}.s"), Path(f"{target}.r"))
        order = [*order[1:], order[0]]
    return samples


def hyperfine(programs: list[Program], base: Path) -> dict[str, list[float]]:
    """The same for commands of milliseconds, which write nothing."""
    order = [program for program in programs if find(program.needs)]
    report = base / "hyperfine.json"
    subprocess.run(
        ["hyperfine", "-N", "--warmup", "3", "--min-runs", "20", "--style", "none",
         "--export-json", os.fspath(report), *(program.command(base) for program in order)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    times = [result["times"] for result in json.loads(report.read_text())["results"]]
    return {program.name: seconds for program, seconds in zip(order, times, strict=True)}


def rows_of(
    what: str, filesystem: str, size: int, programs: list[Program], samples: dict
) -> list[dict]:
    ours = None
    records = []
    for program in programs:
        if program.name not in samples:
            continue
        seconds = samples[program.name]
        if program.name.startswith("fastcas") and ours is None:
            ours = seconds
        records.append({
            "benchmark": what, "filesystem": filesystem, "program": program.name,
            "promises": program.promises, "size": size, "median": statistics.median(seconds),
            "least": min(seconds), "most": max(seconds), "seconds": seconds,
            "of_fastcas": statistics.median(seconds) / statistics.median(ours) if ours else None,
        })  # fmt: skip
    return records


def table(records: list[dict]) -> str:
    lines = [
        "| benchmark | filesystem | program | promises | seconds (least-most) | x fastcas | GB/s |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for r in records:
        digits = 2 if r["size"] else 4
        low, middle, high = (f"{r[key]:.{digits}f}" for key in ("least", "median", "most"))
        ratio = "-" if r["of_fastcas"] is None else f"{r['of_fastcas']:.2f}"
        rate = f"{r['size'] / r['median'] / 1e9:.2f}" if r["size"] else "-"
        program = r["program"].replace("|", r"\|")
        lines.append(
            f"| {r['benchmark']} | {r['filesystem']} | {program} | {r['promises']} "
            f"| {middle} ({low}-{high}) | {ratio} | {rate} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--filesystems", default="tmpfs,disk", help="of tmpfs, disk, ext4")
    parser.add_argument("--image", type=int, default=2048, help="MiB of the image that is copied")
    parser.add_argument("--folder", type=int, default=1024, help="MiB of the folder that is built")
    parser.add_argument("--only", default="copy,build,start", help="of copy, build, start")
    parser.add_argument("--programs", default="", help="only those whose name contains this")
    parser.add_argument("--output", type=Path, help="the JSON file; default: one in results/")
    options = parser.parse_args()
    wanted = options.only.split(",")
    records: list[dict] = []
    environment = bed.environment()
    output = options.output or bed.HERE / "results" / time.strftime(
        "images-%Y%m%d-%H%M%S.json", time.gmtime()
    )

    def keep(rows: list[dict]) -> None:
        """Shows and writes what there is, so that an end before the end loses no row."""
        print(table(rows), flush=True)
        records.extend(rows)
        result = {"environment": environment, "rounds": options.rounds, "rows": records}
        output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")

    def run(what: str, filesystem: str, base: Path, size: int, programs: list[Program]) -> None:
        programs = [p for p in programs if options.programs in p.name]
        samples = measure(programs, base, options.rounds, size + (256 << 20))
        keep(rows_of(what, filesystem, size, programs, samples))

    # Sources lie in memory, so that no disk is read.
    with bed.filesystem("tmpfs") as sources:
        image, folder = sources / "image", sources / "folder"
        image_size, folder_size = options.image << 20, options.folder << 20
        if "start" in wanted:
            make_image(sources / "little", 1 << 20)
            programs = one_shots(sources / "little")
            if shutil.which("hyperfine"):
                samples = hyperfine(programs, sources)
            else:
                samples = measure(programs, sources, 20, 0)
            keep(rows_of("one-shot", "tmpfs", 0, programs, samples))
        filesystems = options.filesystems.split(",") if {"copy", "build"} & set(wanted) else []
        for name in filesystems:
            with bed.filesystem(name, capacity=2 * image_size + 2 * folder_size) as base:
                if "copy" in wanted:
                    make_image(image, image_size)
                    run("copy", name, base, image_size, copies(image))
                    remove(image)
                if "build" in wanted:
                    make_folder(folder, folder_size)
                    run("build", name, base, folder_size, builds(folder))
                    remove(folder)
    print(f"written to {output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
