"""What is shipped: a wheel for users, a source distribution from which the same wheel can be built."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fastcas

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TYPING = {"fastcas/py.typed", "fastcas/_core.pyi", "fastcas/results.pyi"}
SKIPPED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "bench", "*.so", "*.egg-info", "__pycache__", ".*cache"
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy, so that a build neither finds nor leaves anything in the checkout."""
    copy = tmp_path_factory.mktemp("packaging") / "fastcas"
    shutil.copytree(ROOT, copy, ignore=SKIPPED)
    return copy


def build(sources: Path, kind: str) -> Path:
    """Builds with the Cython and setuptools of this environment: no download."""
    code = f"import setuptools.build_meta as b; b.build_{kind}('dist')"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=sources, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = (sources / "dist").glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


def test_source_distribution_and_wheel(sources, tmp_path):
    with tarfile.open(build(sources, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        (base,) = {name.partition("/")[0] for name in archive.getnames()}
        archive.extractall(tmp_path, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))

    native = {p.relative_to(ROOT).as_posix() for p in (ROOT / "src/fastcas/native").iterdir()}
    modules = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    assert native
    assert native <= names
    assert {f"src/{name}" for name in TYPING | modules} <= names
    assert {"src/fastcas/_core.pyx", "pyproject.toml", "setup.py", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]

    with zipfile.ZipFile(build(tmp_path / base, "wheel")) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    (core,) = (name for name in shipped if name.startswith("fastcas/_core.") and ".so" in name)
    assert shipped == modules | TYPING | {core}


def test_metadata():
    about = metadata("fastcas")
    assert about["Requires-Python"] == ">=3.10"
    assert about.get("License-Expression", "Apache-2.0") == "Apache-2.0"
    runtime = {re.match(r"[\w-]+", r)[0] for r in requires("fastcas") if "extra ==" not in r}
    assert runtime == {"msgspec", "click", "rfc8785", "rich", "xxhash"}
    assert {"test", "bench", "dev"} <= set(about.get_all("Provides-Extra"))


def test_every_exported_name_is_there():
    for name in fastcas.__all__:
        assert getattr(fastcas, name) is not None
    assert set(fastcas.__all__) <= set(dir(fastcas))


def test_help_says_what_the_fields_of_results_are():
    results = [one for name in fastcas.__all__ if hasattr(one := getattr(fastcas, name), "_asdict")]
    assert fastcas.Problem in results
    for kind in results:
        for field in kind._fields:
            assert not getattr(kind, field).__doc__.startswith("Alias"), f"{kind.__name__}.{field}"


def test_help_names_nothing_that_is_not_exported():
    assert "Contract" not in fastcas.Engine.__doc__
    for capability in fastcas.DirEngine.capabilities | fastcas.StoreEngine.capabilities:
        assert f'"{capability}"' in fastcas.Engine.__doc__


def test_the_core_needs_no_openssl_to_link(sources):
    """libcrypto is found when it runs: users build without its headers and get its updates."""
    text = (sources / "setup.py").read_text()
    assert "crypto" not in text
    needed = subprocess.run(["ldd", fastcas._core.__file__], capture_output=True, text=True).stdout
    assert "libc.so" in needed
    assert "libcrypto" not in needed


def pinned(path: Path) -> list[tuple[Requirement, list[str]]]:
    """What a file for pip names, each with its hashes."""
    lines = re.sub(r"\\\n", " ", path.read_text()).splitlines()
    parts = [line.split("--hash=") for line in lines if line and not line.startswith("#")]
    return [(Requirement(first), hashes) for first, *hashes in parts]


def wanted(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for, with the extra and what that includes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    about = project["project"]
    left = [*project["build-system"]["requires"], *about["dependencies"], f"fastcas[{extra}]"]
    found = []
    while left:
        requirement = Requirement(left.pop())
        if requirement.name == "fastcas":
            extras = about["optional-dependencies"]
            left += [one for name in requirement.extras for one in extras[name]]
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("extra", ["test", "dev", "bench-objectstore"])
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_the_pins_of_ci_are_what_pyproject_asks_for(extra, version):
    """Else: make pins."""
    environment = {**default_environment(), "extra": ""}
    environment |= {"python_version": version, "python_full_version": f"{version}.4"}
    chosen = {}
    for pin, _ in pinned(ROOT / f"requirements/{extra}.txt"):
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in chosen
            (chosen[pin.name],) = pin.specifier
    for requirement in wanted(extra):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pin = chosen.get(canonicalize_name(requirement.name))
            assert pin is not None, f"{requirement} isn't pinned"
            assert requirement.specifier.contains(pin.version), f"{requirement}, but {pin}"


@pytest.mark.parametrize("name", ["test", "dev", "bench-objectstore", "neighbours", "go"])
def test_every_pin_is_one_version_with_hashes(name):
    path = ROOT / f"requirements/{name}.txt"
    assert "://" not in path.read_text()
    for pin, hashes in pinned(path):
        assert [one.operator for one in pin.specifier] == ["=="]
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64} *", one) for one in hashes)
    sources = path.with_suffix(".in")
    if sources.exists():
        names = {pin.name: pin for pin, _ in pinned(path)}
        for line in sources.read_text().split():
            assert names[Requirement(line).name].specifier == Requirement(line).specifier
