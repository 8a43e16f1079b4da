"""The arrows between modules point down, and what `import fastcas` costs stays small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "fastcas"

# From the top down. A module imports from lines below its own, and a line's modules not each other.
RANKS = [
    ["__main__"],
    ["cli"],
    ["commands.blobs", "commands.images", "commands.layouts", "commands.references"],
    ["commands.options", "display", "piped", "transfer"],
    ["commands.__init__", "console", "facts", "targets"],
    ["__init__"],
    ["store.engine"],
    ["store.quarantine"],
    ["store.index", "store.ingest"],
    ["store.conditions", "store.reader"],
    ["store.sweep"],
    ["store.bucket", "store.budget", "store.channel"],
    ["store.location"],
    ["store.client"],
    ["store.__init__"],
    ["dir.engine"],
    ["dir.batch"],
    ["dir.publication"],
    ["dir.check", "dir.clean", "dir.index", "dir.ingest", "dir.quarantine", "dir.reader", "dir.sweep"],
    ["dir.checksums", "dir.pending"],
    ["dir.durability", "dir.scan", "dir.temp"],
    ["dir.lock"],
    ["dir.root"],
    ["dir.__init__"],
    ["engine"],
    ["contract"],
    ["image.compress", "many"],
    ["copyout", "reader", "source"],
    ["blocks", "layout"],
    ["image.archive", "image.artifact", "image.build", "image.copy"],
    ["image.layer", "image.publish"],
    ["image.closure", "image.folder"],
    ["image.tar"],
    ["image.gc", "image.reference", "image.resolve", "image.retention", "image.scrub"],
    ["image.walk", "image.decompress"],
    ["image.ahead"],
    ["image.codec", "image.parse"],
    ["image.config", "image.verified"],
    ["image.platform"],
    ["image.__init__"],
    ["model"],
    ["value"],
    ["wire"],
    ["jsonstyle"],
    ["destination", "expected", "files", "jsonlibrary"],
    ["digest"],
    ["results"],
    ["errors"],
    ["_core"],
]
RANK = {module: number for number, line in enumerate(RANKS) for module in line}

# What costs more than the whole of fastcas may, and nothing of the engine's needs at import.
DEAR = {
    "click", "rich", "msgspec", "typing", "logging", "re", "threading", "contextlib", "enum",
    "dataclasses", "secrets", "hashlib", "json", "tempfile", "pathlib", "subprocess", "inspect",
    "asyncio", "socket", "ssl", "shutil", "random", "datetime", "importlib.metadata",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found[".".join(path.relative_to(PACKAGE).with_suffix("").parts)] = path
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST):
    """The import statements below a node, those for type checkers left out."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            for other in child.orelse:
                yield from imports(ast.Module([other], []))
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        else:
            yield from imports(child)


def targets(tree: ast.Module, known: set[str]) -> set[tuple[str, int]]:
    """The modules of fastcas that a module imports, also inside functions, with their lines."""
    found = set()
    for statement in imports(tree):
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        else:
            assert not statement.level, f"line {statement.lineno}: imports are absolute here"
            # `from fastcas.dir import engine` imports a module, `from fastcas.digest import Digest`
            # a name of one.
            names = []
            for alias in statement.names:
                inner = f"{statement.module}.{alias.name}"
                is_module = inner.removeprefix("fastcas.") in known
                names.append(inner if is_module else statement.module)
        for name in names:
            if name.partition(".")[0] == "fastcas":
                short = name.removeprefix("fastcas").removeprefix(".")
                if f"{short}.__init__" in known:
                    short += ".__init__"
                found.add((short or "__init__", statement.lineno))
    return found


def test_every_module_has_a_rank():
    assert set(modules()) <= set(RANK), "say in RANKS where a new module stands"


@pytest.mark.parametrize("module", sorted(modules()))
def test_arrows_point_down(module):
    tree = ast.parse(modules()[module].read_text())
    up = [
        f"line {line}: {module} imports {target}"
        for target, line in sorted(targets(tree, set(modules()) | {"_core"}))
        if RANK[target] <= RANK[module]
    ]
    assert not up, up


@pytest.mark.parametrize("module", sorted(modules()))
def test_msgspec_comes_by_one_way(module):
    for statement in imports(ast.parse(modules()[module].read_text())):
        names = [alias.name for alias in statement.names]
        if isinstance(statement, ast.ImportFrom):
            names = [statement.module]
        assert "msgspec" not in names or module == "jsonlibrary", f"line {statement.lineno}"


INTERRUPTED = """
import signal, sys
import fastcas

class Interrupter:
    left = int(sys.argv[1])

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if "msgspec" in sys.modules:
            cls.left -= 1
            if cls.left == -1:
                signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
sys.meta_path.insert(0, Interrupter)
try:
    fastcas.Index()
except KeyboardInterrupt:
    fastcas.Index().to_json()
    print("interrupted", signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked)
"""


@pytest.mark.parametrize("number", [*range(6), 12, 24])
def test_an_interrupted_import_of_msgspec(number):
    """Whatever it is importing then: the next one works, which would crash on half of it."""
    command = [sys.executable, "-c", INTERRUPTED, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "interrupted True\n"), done.stderr


# What runs content as code, or programs.
RUNS = {"pickle", "marshal", "shelve", "runpy", "subprocess", "yaml", "code", "codeop", "ctypes"}
RUNS_CALLED = {"eval", "exec", "compile", "__import__", "system", "popen", "execv", "posix_spawn"}
LOADS = {"__init__", "cli", "image.codec"}  # by names that stand there


@pytest.mark.parametrize("module", sorted(modules()))
def test_nothing_is_executed(module):
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            assert not RUNS & {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in RUNS
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            # re.compile is another.
            assert called not in RUNS_CALLED or ast.unparse(node.func) == "re.compile"
            assert called != "import_module" or module in LOADS


def test_the_checker_finds_an_arrow_that_points_up():
    tree = ast.parse("def f():\n    from fastcas.dir import engine\n    import fastcas.cli\n")
    assert targets(tree, set(modules())) == {("dir.engine", 2), ("cli", 3)}
    exempt = ast.parse("if TYPE_CHECKING:\n    import fastcas.cli\nelse:\n    import fastcas\n")
    assert targets(exempt, set(modules())) == {("__init__", 4)}


def loaded_by(statement: str) -> set[str]:
    """What a statement loads beyond what a bare interpreter and its site do."""
    code = (
        "import sys\nbefore = set(sys.modules)\n"
        f"{statement}\nprint(*set(sys.modules) - before, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.split())


def test_importing_fastcas_loads_nothing_dear():
    loaded = loaded_by("import fastcas")
    assert "fastcas.dir.engine" in loaded
    assert not loaded & DEAR


def test_help_loads_no_rich_and_no_msgspec():
    loaded = loaded_by(
        "from fastcas.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    )
    assert "click" in loaded
    assert not loaded & {"rich", "msgspec", "json", "importlib.metadata", "fastcas.model"}


def test_the_models_come_when_they_are_asked_for():
    assert "fastcas.model" in loaded_by("import fastcas; fastcas.Descriptor")
