"""Runs gates and prints a line of results for each, then which gate caught which mutant."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from gates import tables
from gates.harness import Gate, run_gate


def find_gates() -> list[Gate]:
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]_*.py"))
    return [importlib.import_module(f"gates.{name}").GATE for name in names]


def main() -> int:
    gates = find_gates()
    parser = argparse.ArgumentParser(prog="gates", description=__doc__)
    parser.add_argument("letters", nargs="*", metavar="GATE", help="A, B, …: all without")
    parser.add_argument("--soak", action="store_true", help="many trials instead of few")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutant", help="only this mutant of the store, which must be caught")
    parser.add_argument("--all", action="store_true", help="a gate that can't run here has failed")
    parser.add_argument("--json", type=Path, help="where the results go, a line each")
    options = parser.parse_args()
    letters = [letter.upper() for letter in options.letters] or [gate.letter for gate in gates]

    results = []
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text("")
    for gate in gates:
        if gate.letter not in letters:
            continue
        result = run_gate(gate, soak=options.soak, seed=options.seed, chosen=options.mutant)
        results.append(result)
        if options.json is not None:  # each as it comes: an end before the end loses none
            with options.json.open("a") as file:
                file.write(result.to_json() + "\n")
        print(tables.summary(result), flush=True)
        for violation in result.violations:
            print(f"  violated: {violation}", flush=True)
    print("\n" + "\n".join(tables.matrix(results)))
    bad = [r.gate for r in results if not r.passed and (options.all or r.not_run is None)]
    if bad or not results:
        print(f"\nfailed: {' '.join(bad) or 'no such gate'}", file=sys.stderr)
    return 1 if bad or not results else 0


if __name__ == "__main__":
    sys.exit(main())
