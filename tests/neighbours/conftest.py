"""The other programs, a registry of our own, a tree of files for images, layouts that they wrote."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import building
import writers
from trees import make_tree

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "neighbours"
DEBIAN = ["umoci", "skopeo", "buildah", "podman", "docker-registry", "busybox"]
BUILT = ["umoci-current", "crane", "oras", "regctl"]

STORAGE = '[storage]\ndriver = "vfs"\ngraphroot = "{0}/graph"\nrunroot = "{0}/run"\n'
CONTAINERS = '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\ntmp_dir = "{0}/tmp"\n'
REGISTRY = """version: 0.1
storage: {{filesystem: {{rootdirectory: "{0}/registry"}}}}
http: {{addr: "127.0.0.1:{1}"}}
log: {{level: warn}}
"""


def pytest_configure():
    """Without the programs nothing here says anything, and a skipped check looks like a passed one."""
    if os.geteuid() != 0:
        pytest.exit("buildah, podman and unpacking need root here", returncode=2)
    path = search_path()
    lacking = [name for name in DEBIAN + BUILT if shutil.which(name, path=path) is None]
    if not (HOME / "python" / "bin" / "python").exists():
        lacking.append("olot")
    if lacking:
        text = f"not installed: {' '.join(lacking)}; tests/neighbours/install.sh does it"
        pytest.exit(text, returncode=2)


def search_path() -> str:
    return os.pathsep.join([str(HOME / "bin"), os.environ["PATH"], "/usr/sbin", "/sbin"])


class Tools:
    """Runs the programs, away from the user's files and from any other registry."""

    def __init__(self, place: Path):
        self.place = place
        (place / "storage.conf").write_text(STORAGE.format(place))
        (place / "containers.conf").write_text(CONTAINERS.format(place))
        for name in ("home", "runtime", "temp"):
            (place / name).mkdir()
        self.environment = {
            "PATH": search_path(),
            "HOME": str(place / "home"),
            "TMPDIR": str(place / "temp"),
            "XDG_RUNTIME_DIR": str(place / "runtime"),
            "CONTAINERS_STORAGE_CONF": str(place / "storage.conf"),
            "CONTAINERS_CONF": str(place / "containers.conf"),
            "BUILDAH_ISOLATION": "chroot",
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": "1700000000",
        }

    def try_(self, *command, cwd=None, timeout=60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.place if cwd is None else cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def run(self, *command, cwd=None, timeout=60) -> str:
        """What it printed; it must succeed."""
        done = self.try_(*command, cwd=cwd, timeout=timeout)
        if done.returncode != 0:
            words = " ".join(map(str, command))
            pytest.fail(f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
        return done.stdout

    @staticmethod
    def python(code: str, *arguments) -> list:
        """The command that runs code for the Python packages among the neighbours."""
        return [HOME / "python" / "bin" / "python", "-c", code, *arguments]


@pytest.fixture(scope="session")
def tools(tmp_path_factory):
    made = Tools(tmp_path_factory.mktemp("tools"))
    yield made
    made.run("buildah", "rm", "--all")
    made.run("buildah", "rmi", "--all", "--force")


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """What images are made of."""
    return make_tree(tmp_path_factory.mktemp("tree") / "rootfs")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def registry(tools):
    """``host:port`` of a registry that ends with the session."""
    port = _free_port()
    config = tools.place / "registry.yml"
    config.write_text(REGISTRY.format(tools.place, port))
    with (tools.place / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)],
            env=tools.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _await_registry(process, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await_registry(process: subprocess.Popen, port: int) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        if process.poll() is not None:
            pytest.fail(f"docker-registry ended with {process.returncode}")
        try:
            with direct.open(f"http://127.0.0.1:{port}/v2/", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail("docker-registry didn't answer within 30 s")


@pytest.fixture(scope="session")
def written(tools, tree, registry, tmp_path_factory):
    """``written(name)``: the Layout that ``writers`` lets that program write, once in a session."""
    made = {}

    def get(name):
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            made[name] = writers.WRITERS[name](tools, tree, registry, place)
        return made[name]

    return get


@pytest.fixture(scope="session")
def built(tree, tmp_path_factory):
    """A layout of ours, not to be changed."""
    place = tmp_path_factory.mktemp("built")
    building.build(place / "layout", tree, place)
    return place / "layout"


@pytest.fixture
def ours(built, tmp_path):
    """A copy of it."""
    return shutil.copytree(built, tmp_path / "layout")


@pytest.fixture
def repository(registry, request):
    """A repository of its own for each test."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())
    return f"{registry}/{name.strip('-')}"


def pytest_report_header() -> str:
    return f"neighbours: Debian's and those of {HOME}; Python {sys.version.split()[0]}"
