"""What other programs wrote: fastcas reads it whole, changes it, and they go on working on it."""

from __future__ import annotations

import io
import json
import shutil
import stat
import tarfile

import pytest

import fastcas
import layouts
import writers
from fastcas import Manifest, append_layers, copy_image, export_archive, import_archive
from trees import PLATFORM, TIME

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=writers.WRITERS)
def theirs(request, written, tmp_path):
    """A copy of the layout, to be changed."""
    made = written(request.param)
    path = tmp_path / "layout"
    shutil.copytree(made.path, path, symlinks=True)
    return made._replace(path=path)


def problems(layout):
    with fastcas.open(layout) as cas:
        return cas.scrub().problems


def test_shapes(written):
    """That these layouts have what makes them worth reading."""
    umoci, skopeo, crane, oras, regctl = map(written, ["umoci", "skopeo", "crane", "oras", "regctl"])
    assert "mediaType" not in json.loads((umoci.path / "index.json").read_bytes())
    assert stat.S_IMODE((umoci.path / "index.json").stat().st_mode) == 0o600
    assert not (skopeo.path / "oci-layout").read_bytes().endswith(b"\n")
    assert [entry for entry in layouts.entries(skopeo.path) if "annotations" not in entry]
    assert b"\n   " in (crane.path / "index.json").read_bytes()
    kinds = [entry["mediaType"] for entry in layouts.entries(crane.path)]
    assert [kind.split(".")[-2] for kind in kinds] == ["manifest", "manifest", "index", "list"]
    assert [kind.split(".")[1] for kind in kinds] == ["oci", "docker", "oci", "docker"]
    assert (oras.path / "ingest").is_dir()
    assert (regctl.path / "blobs" / "sha512").is_dir()


@pytest.mark.parametrize(("program", "subject"), [("oras", "model"), ("regctl", "v1")])
def test_referrers(written, program, subject):
    """oras keeps them as entries without a name, regctl below a tag made of the subject's digest."""
    path = written(program).path
    with fastcas.open(path) as cas:
        digest = layouts.named(path, subject)["digest"]
        (found,) = cas.referrers(digest, artifact_type="application/vnd.example.signature")
        manifest = cas.read_descriptor(found).data
        assert manifest.subject.digest == digest
        assert cas.read_blob(manifest.layers[0].digest) == b"signed"


def test_read(theirs):
    before = (theirs.path / "index.json").read_bytes()
    with fastcas.open(theirs.path) as cas:
        found = list(cas.list_blobs())
        assert len(found) == len(set(found))
        assert set(found) == layouts.stored(theirs.path)
        for digest in found:
            assert (
                cas.read_blob(digest, limit=1 << 30)
                == layouts.file_of(theirs.path, digest).read_bytes()
            )
        assert cas.list_references() == layouts.names(theirs.path)
        assert sorted(cas.list_references()) == sorted(theirs.names)
        report = cas.scrub()
        assert (report.checked, report.problems) == (len(found), [])
    assert (theirs.path / "index.json").read_bytes() == before


def test_resolve_and_walk(theirs):
    with fastcas.open(theirs.path) as cas:
        for name in dict.fromkeys(theirs.names):
            entry = layouts.named(theirs.path, name)
            paths = cas.resolve_reference(name)
            assert {path[0].digest for path in paths} == {entry["digest"]}
            for path in paths:
                assert isinstance(cas.read_descriptor(path[-1]).data, Manifest)
            walked = {path[-1].digest for path in cas.walk(paths[0][0])}
            assert walked & layouts.stored(theirs.path) == layouts.reachable(theirs.path, [entry])
        (path,) = cas.resolve_reference(theirs.image, platform=PLATFORM)
        assert path in cas.resolve_reference(theirs.image)
        assert cas.resolve_reference(theirs.image, platform="windows/arm64") == []
        digest = path[-1].digest
        assert {path[-1].digest for path in cas.resolve_reference(digest)} == {digest}


def test_gc_deletes_what_nothing_leads_to(theirs):
    unused = layouts.stored(theirs.path) - layouts.reachable(theirs.path, layouts.entries(theirs.path))
    with fastcas.open(theirs.path) as cas:
        for dry_run in (True, False):
            report = cas.gc(dry_run=dry_run, grace=0)
            assert {blob.digest for blob in report.deleted} == unused
    assert layouts.stored(theirs.path) == layouts.reachable(theirs.path, layouts.entries(theirs.path))


def test_they_go_on_after_tag_untag_gc_and_put(theirs):
    with fastcas.open(theirs.path) as cas:
        stray = cas.put_blob(b"put and never named").digest
        (path, *_) = cas.resolve_reference(theirs.image)
        cas.update_reference("ours", path[0])
        if theirs.extra != theirs.image:
            assert cas.delete_reference(theirs.extra)
        report = cas.gc(grace=0)
        assert stray in {blob.digest for blob in report.deleted}
    roots = layouts.entries(theirs.path)
    assert layouts.stored(theirs.path) == layouts.reachable(theirs.path, roots)
    later = theirs.use(theirs.path, "ours")
    with fastcas.open(theirs.path) as cas:
        assert later in cas.list_references()
        assert cas.resolve_reference(later)
        assert cas.scrub().problems == []
        cas.gc(grace=0)
        assert cas.scrub().problems == []


def test_they_read_what_we_appended(theirs, tmp_path):
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        member = tarfile.TarInfo("added")
        member.size = 6
        tar.addfile(member, io.BytesIO(b"by us\n"))
    with fastcas.open(theirs.path) as cas:
        append_layers(
            cas,
            theirs.image,
            [layer],
            new_reference="ours",
            platform=PLATFORM,
            created=TIME,  # umoci's stat crashes where a step of the history has none
            compress="gzip",
        )
        assert cas.scrub().problems == []
    theirs.use(theirs.path, "ours")
    assert problems(theirs.path) == []


def test_copy_and_archive(theirs, tmp_path):
    """All of it elsewhere and back, digest for digest."""
    with fastcas.open(theirs.path) as cas:
        export_archive(cas, tmp_path / "all.tar")
        with fastcas.create(tmp_path / "from-archive", durability="none") as other:
            import_archive(other, tmp_path / "all.tar")
        with fastcas.create(tmp_path / "copied", durability="none") as other:
            copy_image(cas, theirs.image, other, "copied")
    roots = layouts.entries(theirs.path)
    archived = tmp_path / "from-archive"
    assert layouts.entries(archived) == roots
    assert layouts.stored(archived) == layouts.reachable(theirs.path, roots)
    image = layouts.named(theirs.path, theirs.image)
    assert layouts.stored(tmp_path / "copied") == layouts.reachable(theirs.path, [image])
    assert problems(archived) == problems(tmp_path / "copied") == []
