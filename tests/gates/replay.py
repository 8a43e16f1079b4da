"""Every state that a crash may leave at any moment of a program: traced, then replayed in simfs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gates import child, trace
from gates.harness import Run
from gates.invariants import Expected, Tree
from gates.simfs import Disk


def crashes(
    gate: Run,
    place: Path,
    expected: Expected,
    function: Callable[..., Any],
    *arguments: Any,
    steps: bool = False,
    only_if: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[str, Tree]]:
    """Runs the function in a child; then gives, for each call that changed something, its name and each
    tree that a crash after it may leave in ``place``. ``expected`` is told meanwhile what the function
    had told by then. A tree is given once as long as nothing is told. ``only_if``: not at other
    moments."""
    disk = Disk(place)
    file = gate.place / "trace"
    process = child.start(
        function, *arguments, mutant=gate.mutant, steps=steps, prefix=trace.strace(file)
    )
    process.communicate(timeout=120)
    if process.returncode:
        gate.violate(f"{function.__name__}{arguments}: exit {process.returncode}")
    seen: set[int] = set()
    version = -1
    for call in trace.parse(file):
        if call.name == "write" and call.arguments[0] == "1":
            if call.result is not None:
                expected.feed(child.events(trace.string(call.arguments[1])))
                version, seen = -1, set()
        else:
            disk.apply(call)
        if disk.version == version or not only_if():
            continue
        version = disk.version
        gate.faults += 1
        for tree in disk.crashes(gate.random, gate.pick(64, 1024)):
            key = hash(tuple((path, id(content)) for path, content in tree.items()))
            if key not in seen:
                seen.add(key)
                yield call.name, tree
    if disk.touched_outside:
        gate.violate(f"{function.__name__}{arguments}: touched {disk.touched_outside[0]!r}")


def within(tree: Tree, folder: str) -> Tree:
    """The tree below a folder of it."""
    start = f"{folder}/"
    return {path.removeprefix(start): it for path, it in tree.items() if path.startswith(start)}
