"""The results of gates as tables; as a program, writes them into a document.

python -m gates.tables RESULTS.jsonl DOCUMENT.md replaces what stands between the two comments
``<!-- gates -->`` and ``<!-- /gates -->``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gates.harness import Result
from gates.mutants import MUTANTS

BEGIN, END = "<!-- gates -->", "<!-- /gates -->"


def summary(result: Result) -> str:
    """One line for people."""
    head = f"{result.gate} {result.title}"
    if result.not_run is not None:
        return f"{head}: not run: {result.not_run}"
    survivors = [name for name, caught in result.mutants.items() if not caught]
    return (
        f"{head}: {result.trials} trials, {result.faults} faults, {result.states} states, "
        f"{result.seconds:.0f} s, {len(result.violations)} violations, "
        f"mutants caught {len(result.mutants) - len(survivors)}/{len(result.mutants)}"
        + (f", SURVIVED: {', '.join(survivors)}" if survivors else "")
    )


def results_table(results: Sequence[Result]) -> list[str]:
    lines = [
        "| gate | trials | faults injected | states checked | seconds | violations | mutants caught |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        caught = f"{sum(map(bool, result.mutants.values()))}/{len(result.mutants)}"
        lines.append(
            f"| {result.gate} {result.title} | {result.trials} | {result.faults} | {result.states} "
            f"| {result.seconds:.0f} | {len(result.violations)} | {caught} |"
            if result.not_run is None
            else f"| {result.gate} {result.title} | not run: {result.not_run} | | | | | |"
        )
    return lines


def matrix(results: Sequence[Result]) -> list[str]:
    """Mutants by gates: caught, survived, or not tried."""
    ran = [result for result in results if result.not_run is None]
    lines = [
        "| mutant: the store | " + " | ".join(result.gate for result in ran) + " |",
        "|---|" + ":-:|" * len(ran),
    ]
    for name, mutant in MUTANTS.items():
        by = [result.mutants.get(name) for result in ran]
        cells = ["" if evidence is None else "caught" if evidence else "SURVIVED" for evidence in by]
        if any(cells):
            lines.append(f"| {name}: {mutant.what} | {' | '.join(cells)} |")
    return lines


def main(source: Path, document: Path) -> None:
    results = [Result(**json.loads(line)) for line in source.read_text().splitlines()]
    before, _, rest = document.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"{document}: no {BEGIN} … {END}")
    text = "\n".join([*results_table(results), "", *matrix(results)])
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
