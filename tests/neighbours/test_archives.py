"""Archives of layouts (oci-archive): ours for other programs, theirs for us."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastcas
import layouts
from building import IMAGES, check_same, expect
from fastcas import export_archive, import_archive

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("name", [*IMAGES, "multi"])
def test_archive_for_skopeo(tools, built, tmp_path, name):
    archive, back = tmp_path / "image.tar", tmp_path / "back"
    with fastcas.open(built) as cas:
        export_archive(cas, archive, names=[name])
    copy = ["skopeo", "copy", "--all", "--preserve-digests"]
    tools.run(*copy, f"oci-archive:{archive}:{name}", f"oci:{back}:{name}")
    check_same(back, name, built, name)


@pytest.mark.parametrize("name", IMAGES)
def test_archive_for_podman(tools, built, tree, tmp_path, name):
    with fastcas.open(built) as cas:
        export_archive(cas, tmp_path / "image.tar", names=[name])
    tools.run("podman", "load", "-q", "-i", tmp_path / "image.tar")
    image = tools.run("podman", "pull", "-q", f"oci-archive:{tmp_path / 'image.tar'}").strip()
    container = tools.run("podman", "create", image).strip()
    expect(Path(tools.run("podman", "mount", container).strip()), tree, name)
    tools.run("podman", "rm", container)


def test_archive_from_skopeo(tools, built, tmp_path):
    archive = tmp_path / "image.tar"
    tools.run("skopeo", "copy", "--all", f"oci:{built}:multi", f"oci-archive:{archive}:multi")
    with fastcas.create(tmp_path / "back") as cas:
        import_archive(cas, archive)
    check_same(tmp_path / "back", "multi", built, "multi")


def test_archive_from_podman(tools, written, tmp_path):
    layout = written("podman")
    tools.run("podman", "save", "-q", "--format", "oci-archive", "-o", tmp_path / "a.tar", layout.image)
    with fastcas.create(tmp_path / "back") as cas:
        (entry,) = import_archive(cas, tmp_path / "a.tar").entries
        assert cas.scrub().problems == []
        assert cas.list_references() == [layout.image]
    assert entry.digest == layouts.named(layout.path, layout.image)["digest"]
