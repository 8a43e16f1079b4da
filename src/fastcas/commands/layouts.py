"""Layouts: init, stat, gc, scrub, clean, probe."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from fastcas.commands.options import (
    DURATION,
    SIZE,
    as_json,
    layout_argument,
    open_layout,
    platform_option,
)
from fastcas.console import Progress, count, human, on_terminal, printable, say, say_json, say_table
from fastcas.display import say_facts, say_image, say_tree
from fastcas.facts import descriptor_facts, image_facts, layout_facts, short, tree_facts
from fastcas.layout import is_url
from fastcas.targets import as_digest, find_descriptor, find_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastcas.engine import Engine
    from fastcas.model import Descriptor
    from fastcas.results import GCReport, Problem

# A terminal is shown so many blobs that gc removes; --json has them all.
MOST_SHOWN = 20


@click.command()
@layout_argument
@as_json
def init(layout: str, as_json: bool) -> None:
    """Make a new, empty layout.

    Missing parents are made too; LAYOUT itself must not exist, not even as an empty directory
    (exit code 5). The bucket of a URL must be there.

    \b
    fastcas init image
    """
    import fastcas

    fastcas.create(layout).close()
    if as_json:
        say_json({"path": layout})


@click.command()
@layout_argument
@click.argument("target", metavar="[NAME|DIGEST]", required=False)
@platform_option
@as_json
def stat(layout: str, target: str | None, platform: str | None, as_json: bool) -> None:
    """Facts of a layout, an image or a blob.

    Of an image its platform, how it is run, its layers with their sizes, and its history; of an
    index the tree of what it has; of a layout how much is in it.

    \b
    fastcas stat image
    fastcas stat image v1
    fastcas stat image v1 --platform linux/arm64
    """
    with open_layout(layout) as engine:
        if target is None:
            if platform is not None:
                raise click.UsageError("--platform goes with NAME")
            facts = layout_facts(engine, layout)
        elif (descriptor := find_image(engine, target, platform)) is None:
            digest = find_digest(engine, target)
            facts = {"digest": digest, "size": engine.stat_blob(digest).size}
        else:
            facts = image_facts(engine, descriptor, target)
            if not as_json and on_terminal(sys.stdout):
                say_image(facts)
                if "manifests" in facts:
                    say_tree(tree_facts(engine, [descriptor]))
                return
    if as_json:
        say_json(facts)
    else:
        say_facts(facts)


def find_image(engine: Engine, target: str, platform: str | None) -> Descriptor | None:
    """The image or index that is meant; None where it is a blob that is, if anything."""
    from fastcas.errors import InvalidError, NotExistError

    try:
        return find_descriptor(engine, target, platform)
    except NotExistError:
        if platform is not None:
            raise
    except InvalidError:
        # What is wrong with an index says nothing of a blob that is asked for by its digest.
        with suppress(InvalidError):
            if platform is None and as_digest(target) is not None:
                return None
        raise
    return None


@click.command()
@layout_argument
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing; show what would go.")
@click.option(
    "--grace",
    type=DURATION,
    default=3600,
    metavar="SECONDS",
    help="Spare what was put more lately than this (1h): longer than any build takes.",
)
@click.option(
    "--older-than",
    type=DURATION,
    metavar="AGE",
    help="Drop images that are older and not kept: 12h, 30d, 8w.",
)
@click.option(
    "--keep-newest",
    type=click.IntRange(min=0),
    metavar="N",
    help="Never drop the N newest images; given alone, drop all others.",
)
@click.option(
    "--max-size",
    type=SIZE,
    metavar="SIZE",
    help="Drop the oldest that aren't kept, until the rest has 20GiB at most.",
)
@click.option(
    "--keep-tag",
    "keep_tags",
    multiple=True,
    metavar="PATTERN",
    help="Whatever else is said, keep names like 'v*'. May be repeated.",
)
@as_json
def gc(
    layout: str,
    dry_run: bool,
    grace: float,
    older_than: float | None,
    keep_newest: int | None,
    max_size: int | None,
    keep_tags: tuple[str, ...],
    as_json: bool,
) -> None:
    """Remove what nothing in the index leads to.

    Safe beside writers. With --older-than, --keep-newest or --max-size, images leave the index
    first. The N newest and the kept names always stay; of the rest, those older than AGE go, then
    the oldest until SIZE is met. What is about an image, as a signature is, goes and stays with it.

    \b
    fastcas gc image --dry-run
    fastcas gc image --older-than 30d --keep-newest 3 --keep-tag 'release-*'
    """
    retention: dict[str, Any] = {
        "older_than": older_than,
        "keep_newest": keep_newest,
        "max_size": max_size,
    }
    asked = any(value is not None for value in retention.values())
    if keep_tags and not asked:
        raise click.UsageError("--keep-tag goes with --older-than, --keep-newest or --max-size")
    dropped: list[Descriptor] = []
    with open_layout(layout) as engine, Progress(f"gc of {layout}") as progress:
        report: GCReport | None = None
        if asked:
            from fastcas.image.gc import preview
            from fastcas.image.retention import apply_retention, plan_retention

            plan = plan_retention(engine, keep_tags=keep_tags, **retention)
            if dry_run:
                dropped = [image.entry for image in plan.dropped]
                report = preview(engine, [image.entry for image in plan.kept], grace=grace)
            else:
                dropped = apply_retention(engine, plan)
        if report is None:
            report = engine.gc(dry_run=dry_run, grace=grace, progress=progress)
    if as_json:
        say_json(
            {
                "deleted": [{"digest": blob.digest, "size": blob.size} for blob in report.deleted],
                "freed": report.freed,
                "dry_run": report.dry_run,
                "kept": report.kept,
                "dropped": [entry_facts(entry) for entry in dropped],
            }
        )
    elif on_terminal(sys.stdout):
        say_collected(report, dropped)
    else:
        say_table(
            [
                *(("entry", entry.digest, entry_facts(entry)["name"] or "") for entry in dropped),
                *(("blob", blob.digest, str(blob.size)) for blob in report.deleted),
            ]
        )


def entry_facts(entry: Descriptor) -> dict[str, Any]:
    from fastcas.model import ANNOTATION_REF_NAME

    return {"name": (entry.annotations or {}).get(ANNOTATION_REF_NAME), **descriptor_facts(entry)}


def say_collected(report: GCReport, dropped: list[Descriptor]) -> None:
    would = "would be " if report.dry_run else ""
    if dropped:
        say(f"{count(len(dropped), 'image')} {would}dropped from the index:")
        say_table(
            (f"  {facts['name'] or '(no name)'}", short(facts["digest"]))
            for facts in map(entry_facts, dropped)
        )
    if report.dry_run:
        for blob in report.deleted[:MOST_SHOWN]:
            say(f"{blob.digest} {human(blob.size):>8}")
        if (more := len(report.deleted) - MOST_SHOWN) > 0:
            say(f"... and {more} more (--json has them all)")
    blobs = count(len(report.deleted), "blob")
    say(f"{blobs} {would}removed, {human(report.freed)} {would}freed; {report.kept} stay")


@click.command()
@layout_argument
@click.option("--quick", is_flag=True, help="Compare recorded checksums: finds bit rot.")
@click.option("--quarantine", metavar="DIR", help="Move damaged blobs to DIR, with a note of why.")
@as_json
def scrub(layout: str, quick: bool, quarantine: str | None, as_json: bool) -> None:
    """Digest everything again; is it all there?

    Changes no blob without --quarantine. Exit code 1 says that there are problems, by their kinds:
    corrupt, wrong-size, bad-name, non-regular, missing, or dangling in the index. A layout may
    leave platforms out; those are called missing as well. Exit code 5 says that some blobs are
    unreadable and nothing else is wrong.

    With --quick, blobs whose checksums were recorded are compared with those: at the speed of the
    disk, and without proof against somebody who wants to deceive.

    \b
    fastcas scrub image
    fastcas scrub image --quick
    fastcas scrub image --quarantine damaged
    """
    with open_layout(layout) as engine:
        total = None
        # The engine doesn't count beforehand; someone who waits likes to know.
        if on_terminal(sys.stderr):
            total = sum(blob.size for blob in engine.scan_blobs() if blob.kind == "blob")
        with Progress(f"scrub of {layout}", total=total) as progress:
            report = engine.scrub(quick=quick, quarantine=quarantine, progress=progress)
    if as_json:
        facts = {
            "problems": [problem._asdict() for problem in report.problems],
            "checked": report.checked,
            "bytes": report.bytes,
        }
        say_json({**facts, "by_checksum": report.by_checksum} if quick else facts)
    elif on_terminal(sys.stdout):
        say_problems(report.problems)
        blobs = count(report.checked, "blob")
        found = count(len(report.problems), "problem") if report.problems else "no problems"
        means = f"{report.by_checksum} of them by checksum, " if report.by_checksum else ""
        say(f"{blobs} checked, {means}{human(report.bytes)}: {found}")
    else:
        say_table((p.kind, p.digest or "", p.path, p.detail) for p in report.problems)
    kinds = {problem.kind for problem in report.problems}
    if kinds:
        raise click.exceptions.Exit(5 if kinds == {"unreadable"} else 1)


def say_problems(problems: list[Problem]) -> None:
    for problem in problems:
        say(problem.kind)
        say(printable(f"    {problem.digest or problem.path}"))
        say(printable(f"    {problem.detail}"))


@click.command()
@layout_argument
@as_json
def clean(layout: str, as_json: bool) -> None:
    """Remove what interrupted writers left.

    Neither a blob, nor a reference, nor a file of a live writer. Prints the names removed.

    \b
    fastcas clean image
    """
    with open_layout(layout) as engine:
        removed = engine.clean()
    if as_json:
        say_json({"removed": list(removed)})
    else:
        for name in removed:
            say(printable(name))


@click.command()
@click.argument("url")
@as_json
def probe(url: str, as_json: bool) -> None:
    """Can an object store be trusted with an index?

    Two writers of one index are kept apart by the server alone: it must refuse a write onto an
    object that has changed. This tries it, one by one and with 16 writers at once, and notes in the
    bucket what came of it. Exit code 1 says that updates may get lost; commands that change the
    index refuse such a server then. There needs to be no layout yet.

    \b
    fastcas probe s3://bucket/prefix
    """
    import fastcas

    if not is_url(url):
        raise click.UsageError(f"{url!r} is no URL of an object store")
    findings = fastcas.probe(url)
    safe = all(finding.right for finding in findings)
    if as_json:
        say_json({"safe": safe, "findings": [finding._asdict() for finding in findings]})
    elif on_terminal(sys.stdout):
        for finding in findings:
            say(f"{'ok   ' if finding.right else 'WRONG'}  {finding.name}")
            if not finding.right:
                say(printable(f"       {finding.detail}"))
        say("Index updates are safe." if safe else "Index updates may get lost on this server.")
    else:
        say_table(
            ("ok" if one.right else "wrong", one.name, "" if one.right else one.detail)
            for one in findings
        )
    if not safe:
        raise click.exceptions.Exit(1)
