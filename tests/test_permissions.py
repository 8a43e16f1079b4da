"""Who may read what the store writes, and whose it is: modes, the umask, root on a user's layout."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import fastcas
from conformance import digest_of, noise
from conftest import NOBODY
from images import put_manifest
from samples import make_tar, put_image
from test_cases import BESIDE, DEAD_TEMP, blob_path, half_put, own_names
from test_cases_root import mount

pytestmark = pytest.mark.usefixtures("no_fd_leak")

LARGE = noise(3 << 20)


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture(params=[False, True], ids=["tmpfile", "named"])
def named(request, monkeypatch):
    """Whether files that aren't published have names."""
    if request.param:
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    return request.param


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077], ids="{:03o}".format)
def mask(request):
    before = os.umask(request.param)
    yield request.param
    assert os.umask(before) == request.param


def write_everything(cas, place):
    """Each operation that writes into a layout, or a file elsewhere."""
    tar = place / "layer.tar"
    tar.write_bytes(make_tar(file=b"content"))
    cas.update_reference("v1", put_manifest(cas, "used"))
    cas.put_blob(b"small")
    cas.put_blob(b"another algorithm", algorithm="sha512")
    cas.put_blob(b"small", verify_existing=True)
    cas.put_blob(iter([LARGE]))
    cas.put_blob(LARGE, compress="gzip")
    cas.put_blobs([b"1", noise(70_000), b"small", LARGE + b"more"])
    cas.put_json({"a": 1})
    cas.sync()
    fastcas.build_image(cas, [tar], reference="built", compress="gzip")
    fastcas.append_layers(cas, "built", [tar], new_reference="appended")
    fastcas.build_artifact(cas, [tar], artifact_type="a/b", reference="artifact")
    with fastcas.create(place / "other") as source:
        source.update_reference("copied", put_image(source, LARGE, b"layer"))
        fastcas.copy_image(source, "copied", cas)
        source.update_reference("imported", put_image(source, b"imported"))
        fastcas.export_archive(source, place / "archive")
    fastcas.import_archive(cas, place / "archive")
    cas.put_index(cas.get_index())
    cas.delete_reference("copied")
    cas.scrub()
    cas.scrub(quick=True)
    assert cas.gc(grace=0).deleted != []
    cas.put_blob(b"damaged")
    cas.sync()
    damage(blob_path(cas.path, digest_of(b"damaged")))
    cas.scrub(quarantine=place / "quarantine")
    assert cas.put_blob(b"damaged").digest == digest_of(b"damaged")
    cas.sync()
    damage(blob_path(cas.path, digest_of(b"damaged")))
    cas.put_blob(b"damaged")  # replaces
    cas.delete_blob(cas.put_blob(noise(80_000)).digest)
    cas.copy_blob(digest_of(b"damaged"), place / "copied out")
    (place / "image" / DEAD_TEMP).write_bytes(b"")
    assert cas.clean() == [DEAD_TEMP]


def damage(path):
    path.chmod(0o644)
    path.write_bytes(b"else")
    path.chmod(0o444)


@pytest.mark.parametrize("durability", ["full", "batch"])
def test_the_umask_is_respected(tmp_path, named, mask, durability):
    """Every name that is public has the mode that a plain program would give it."""
    layout = tmp_path / "image"
    with fastcas.create(layout, durability=durability) as cas:
        write_everything(cas, tmp_path)
    folders = [layout, *(path for path in layout.rglob("*") if path.is_dir())]
    assert {mode(path) for path in folders} == {0o755 & ~mask}
    blobs = [path for path in (layout / "blobs").rglob("*") if path.is_file()]
    assert {mode(path) for path in blobs} == {0o444 & ~mask}
    for name in ("index.json", "oci-layout", *BESIDE):
        assert mode(layout / name) == 0o644 & ~mask, name
    for name in ("archive", "copied out"):
        assert mode(tmp_path / name) == 0o666 & ~mask, name
    assert mode(tmp_path / "quarantine") == 0o700 & ~mask


def test_what_isn_t_finished_is_its_writers_alone(tmp_path, named):
    """What has a name before that. Else others could read it, whatever is found out about it."""
    layout = tmp_path / "image"
    before = os.umask(0)
    seen = []

    def look(*_):
        parts = [path for path in tmp_path.iterdir() if path.name.endswith(".fastcas-part")]
        seen.append([mode(path) for path in parts])

    try:
        with fastcas.create(layout, durability="batch") as cas:
            with half_put(cas, LARGE):
                modes = {mode(layout / name) for name in own_names(layout)}
                assert modes == ({0o600} if named else set())
            cas.put_blob(iter([b"waits"]))
            cas.put_blob(b"waits too")
            modes = {mode(layout / name) for name in own_names(layout)}
            assert modes == ({0o600} if named else set())
            cas.update_reference("v1", put_image(cas, LARGE))
            for options in ({}, {"verify": True}):
                cas.copy_blob(digest_of(LARGE), tmp_path / "out", progress=look, **options)
            fastcas.export_archive(cas, tmp_path / "archive", progress=look)
    finally:
        os.umask(before)
    assert [0o600] in seen
    assert all(modes in ([], [0o600]) for modes in seen)
    assert mode(tmp_path / "out") == mode(tmp_path / "archive") == 0o666


def test_a_copy_in_quarantine_is_the_owners_alone(with_mounts, tmp_path):
    """On another filesystem it has to be copied."""
    assert with_mounts(quarantine_elsewhere, tmp_path) == "done"


def quarantine_elsewhere(place):
    os.umask(0)
    place = Path(place)
    (place / "quarantine").mkdir()
    mount("-t", "tmpfs", "none", place / "quarantine")
    with fastcas.create(place / "image") as cas:
        digest, _ = cas.put_blob(b"damaged")
        damage(blob_path(cas.path, digest))
        cas.scrub(quarantine=place / "quarantine")
        assert cas.scrub() == (0, 0, [])
    copy = place / "quarantine" / digest.replace(":", "-")
    assert (copy.read_bytes(), mode(copy)) == (b"else", 0o400)
    return "done"


@pytest.mark.parametrize("durability", ["full", "batch", "none"])
def test_root_leaves_nothing_of_its_own_in_a_users_layout(tmp_path, named, durability):
    """Whoever isn't root can only own what he makes: then the owner is he himself."""
    root = os.geteuid() == 0
    owner = (NOBODY, NOBODY) if root else (os.geteuid(), os.getegid())
    layout = tmp_path / "image"
    fastcas.create(layout).close()
    if root:
        for path in (layout, *layout.rglob("*")):
            os.chown(path, *owner)
    with fastcas.open(layout, durability=durability) as cas:
        cas.put_blob(LARGE)
        cas.sync()
        assert (layout / ".fastcas.xxh128").exists()  # which a scrub makes anew
        assert set(owners(layout).values()) == {owner}
        write_everything(cas, tmp_path)
    assert set(owners(layout).values()) == {owner}, owners(layout)
    assert {layout / name for name in BESIDE} <= set(owners(layout))


def owners(layout):
    facts = {path: path.lstat() for path in (layout, *layout.rglob("*"))}
    return {path: (found.st_uid, found.st_gid) for path, found in facts.items()}
