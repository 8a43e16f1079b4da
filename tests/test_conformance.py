"""Every engine keeps the contract, whatever its durability and whatever the system lacks."""

from __future__ import annotations

import ast
import uuid
from pathlib import Path

import obstore
import pytest

import conformance
import fastcas
from fastcas.digest import Digest
from fastcas.engine import Engine
from fastcas.store.location import connect, parse
from oracle import OracleEngine
from test_cases import own_names

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]


class Store:
    """The directory that the oracle and the directory engine both keep their data in."""

    def __init__(self, path: Path):
        self.path = path
        self.layout = path / "image"

    def plant(self, digest, content):
        digest = Digest(digest)
        place = self.layout / "blobs" / digest.algorithm / digest.encoded
        temporary = self.path / uuid.uuid4().hex
        temporary.write_bytes(content)
        temporary.replace(place)

    def own_names(self):
        return own_names(self.layout)


class OracleStore(Store):
    def create(self):
        return OracleEngine.create(self.layout)

    def open(self):
        return OracleEngine(self.layout)


class DirStore(Store):
    def __init__(self, path, durability):
        super().__init__(path)
        self.durability = durability

    def create(self):
        return fastcas.create(self.layout, durability=self.durability)

    def open(self):
        return fastcas.open(self.layout, durability=self.durability)


# The client's threads, and their descriptors, stay for as long as the process lives.
obstore.put(connect(parse("memory://warm"), {}), "x", b"")


class MemoryStore:
    """A bucket in this process's memory."""

    def __init__(self, path: Path):
        self.path = path
        self.url = f"memory://{uuid.uuid4().hex}/some/where"

    def create(self):
        return fastcas.create(self.url)

    def open(self):
        return fastcas.open(self.url)

    def plant(self, digest, content):
        digest = Digest(digest)
        key = f"some/where/blobs/{digest.algorithm}/{digest.encoded}"
        obstore.put(connect(parse(self.url), {}), key, content)

    def own_names(self):
        """All but the layout, what is known of the server, and marks."""
        found = obstore.list(connect(parse(self.url), {})).collect()
        names = {meta["path"].removeprefix("some/where/") for meta in found}
        known = {"oci-layout", "index.json", ".fastcas/conditions.json"}
        return {n for n in names - known if not n.startswith(("blobs/", ".fastcas/used/"))}


# (durability, what the system has): without O_TMPFILE an ingest has a name, without openat2 paths
# are resolved component by component.
DIR_STORES = {
    "full": ("full", True, True),
    "batch": ("batch", True, True),
    "syncfs": ("syncfs", True, True),
    "none": ("none", True, True),
    "named-temp": ("full", False, True),
    "named-temp-batch": ("batch", False, True),
    "no-openat2": ("none", True, False),
    "neither": ("none", False, False),
}


@pytest.fixture(params=["oracle", "memory", *DIR_STORES])
def store(request, tmp_path, monkeypatch):
    if request.param == "oracle":
        return OracleStore(tmp_path)
    if request.param == "memory":
        monkeypatch.setattr("fastcas.store.sweep.WAIT", 0.0)
        return MemoryStore(tmp_path)
    durability, tmpfile, openat2 = DIR_STORES[request.param]
    if not tmpfile:
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    if not openat2:
        monkeypatch.setattr("fastcas.dir.root.HAVE_OPENAT2", False)
    return DirStore(tmp_path, durability)


def settled(store):
    """Nothing of ours lies about: the names of a layout, the lock file, and the checksums."""
    assert store.own_names() == set()


@pytest.mark.parametrize("name", sorted(conformance.CHECKS))
def test_conformance(store, name):
    conformance.CHECKS[name](store)
    settled(store)


# A source knows nothing of how paths are resolved or directories synced.
@pytest.mark.parametrize("store", ["oracle", "memory", "full", "none", "named-temp"], indirect=True)
@pytest.mark.parametrize("kind", sorted(conformance.SOURCES))
def test_source(store, kind):
    conformance.check_source(store, kind)
    settled(store)


def test_durability_is_what_was_asked(tmp_path):
    for durability in ("full", "batch", "syncfs", "none"):
        with fastcas.create(tmp_path / durability, durability=durability) as cas:
            assert cas.durability == durability
    with fastcas.create(tmp_path / "default") as cas:
        assert cas.durability == "full"
    with fastcas.open(tmp_path / "none") as cas:
        assert cas.durability == "full"
    for bad in ("", "FULL", None, 1):
        with pytest.raises((ValueError, TypeError)):
            fastcas.open(tmp_path / "none", durability=bad)
        with pytest.raises((ValueError, TypeError)):
            fastcas.create(tmp_path / "bad", durability=bad)
    assert not (tmp_path / "bad").exists()


def test_conformance_calls_every_public_method():
    tree = ast.parse(Path(conformance.__file__).read_text())
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    public = {name for cls in Engine.__mro__[:-1] for name in vars(cls) if not name.startswith("_")}
    public |= {"close", "sync", "clean", "durability", "put_blobs", "read_blob", "copy_blob"}
    public |= {"put_blob", "get_blob", "stat_blob", "delete_blob", "list_blobs", "put_json"}
    public |= {"get_index", "put_index", "update_index"}
    public |= {"list_references", "update_reference", "delete_reference"}
    assert public <= called, f"no conformance function calls {public - called}"
