"""What fastcas built: others read it, copy it, push and pull it with equal digests, and unpack it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fastcas
import layouts
import writers
from building import IMAGES, SIGNATURE, alone, check_same, digest_of, expect
from fastcas import (
    Descriptor,
    import_archive,
)
from trees import FOREIGN, PLATFORM

pytestmark = pytest.mark.timeout(300)

# umoci


@pytest.mark.parametrize("program", ["umoci", "umoci-current"])
@pytest.mark.parametrize("name", IMAGES)
def test_umoci(tools, ours, tree, tmp_path, program, name):
    assert tools.run(program, "ls", "--layout", ours).split() == layouts.names(ours)
    if (program, name) == ("umoci", "zstd"):
        # Before 0.5 umoci knew no zstd.
        done = tools.try_(program, "unpack", "--image", f"{ours}:{name}", tmp_path / "bundle")
        assert done.returncode != 0
        assert "zstd" in done.stderr
        return
    stat = json.loads(tools.run(program, "stat", "--json", "--image", f"{ours}:{name}"))
    assert len([step for step in stat["history"] if step["layer"]]) == (2 if name == "appended" else 1)
    tools.run(program, "unpack", "--image", f"{ours}:{name}", tmp_path / "bundle")
    expect(tmp_path / "bundle" / "rootfs", tree, name)


@pytest.mark.parametrize("program", ["umoci", "umoci-current"])
def test_umoci_changes(tools, ours, program):
    """It repacks, configures and collects garbage, and all that is ours stays right."""
    tools.run(
        program, "config", "--image", f"{ours}:gzip", "--tag", "theirs", "--config.cmd", "/bin/ls"
    )
    tools.run(program, "tag", "--image", f"{ours}:plain", "again")
    before = layouts.reachable(ours, layouts.entries(ours))
    tools.run(program, "gc", "--layout", ours)
    assert layouts.stored(ours) == before
    with fastcas.open(ours) as cas:
        assert cas.scrub().problems == []
        assert cas.gc(grace=0).deleted == []


# skopeo, and what shares its library


# Otherwise it compresses layers that aren't.
KEEP = ["--preserve-digests"]


@pytest.mark.parametrize("name", IMAGES)
def test_skopeo(tools, built, repository, tmp_path, name):
    facts = json.loads(tools.run("skopeo", "inspect", f"oci:{built}:{name}"))
    assert facts["Digest"] == digest_of(built, name)
    assert f"{facts['Os']}/{facts['Architecture']}" == PLATFORM
    assert facts["Labels"] == {"a": "<&>"}
    remote = f"docker://{repository}:{name}"
    back = tmp_path / "back"
    tools.run("skopeo", "copy", *KEEP, "--dest-tls-verify=false", f"oci:{built}:{name}", remote)
    tools.run("skopeo", "copy", *KEEP, "--src-tls-verify=false", remote, f"oci:{back}:{name}")
    check_same(back, name, built, name)


def test_skopeo_index(tools, built, repository, tmp_path):
    remote, back = f"docker://{repository}:multi", tmp_path / "back"
    tools.run("skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{built}:multi", remote)
    tools.run("skopeo", "copy", "--all", "--src-tls-verify=false", remote, f"oci:{back}:multi")
    check_same(back, "multi", built, "multi")
    foreign = layouts.read(built, layouts.named(built, "multi"))["manifests"][1]
    choose = ["--override-arch", FOREIGN.split("/")[1]]
    tools.run("skopeo", *choose, "copy", f"oci:{built}:multi", f"dir:{tmp_path / 'foreign'}")
    copied = (tmp_path / "foreign" / "manifest.json").read_bytes()
    assert copied == layouts.file_of(built, foreign["digest"]).read_bytes()


@pytest.mark.parametrize("name", [*IMAGES, "multi"])
def test_buildah(tools, built, tree, name):
    container = tools.run("buildah", "from", f"oci:{built}:{name}").strip()
    mounted = Path(tools.run("buildah", "mount", container).strip())
    expect(mounted, tree, name)
    assert tools.run("buildah", "run", container, "/bin/cat", "/etc/secret") == "only root's\n"
    tools.run("buildah", "rm", container)


@pytest.mark.parametrize("name", [*IMAGES, "multi"])
def test_podman(tools, built, tree, name):
    image = tools.run("podman", "pull", "-q", f"oci:{built}:{name}").strip()
    container = tools.run("podman", "create", image).strip()
    expect(Path(tools.run("podman", "mount", container).strip()), tree, name)
    tools.run("podman", "rm", container)


# crane


@pytest.mark.parametrize("name", [*IMAGES, "multi"])
def test_crane(tools, built, tree, repository, tmp_path, name):
    image, back = f"{repository}:{name}", tmp_path / "back"
    pushed = tools.run("crane", "--insecure", "push", alone(built, name, tmp_path / "one"), image)
    assert pushed.strip().endswith(digest_of(built, name))
    validated = tools.try_("crane", "--insecure", "validate", "--remote", image)
    if name in ("plain", "zstd"):
        # It takes every layer for gzip there; in "export" below it doesn't.
        assert "gzip: invalid header" in validated.stderr
    else:
        assert validated.returncode == 0, validated.stderr
    tools.run("crane", "--insecure", "pull", "--format=oci", "--annotate-ref", image, back)
    check_same(back, image, built, name)
    if name == "multi":
        return
    config = json.loads(tools.run("crane", "--insecure", "config", image))
    assert config["config"]["Cmd"] == ["/bin/sh"]
    tools.run("crane", "--insecure", "export", image, tmp_path / "flat.tar")
    (tmp_path / "flat").mkdir()
    tools.run("tar", "-x", "-p", "-f", tmp_path / "flat.tar", "-C", tmp_path / "flat")
    expect(tmp_path / "flat", tree, name)


# oras


@pytest.mark.parametrize("name", [*IMAGES, "multi", "model"])
def test_oras(tools, built, repository, tmp_path, name):
    """A push to a registry and a pull of it, with all that refers to it."""
    local, remote, back = f"{built}:{name}", f"{repository}:{name}", tmp_path / "back"
    tags = tools.run("oras", "repo", "tags", "--oci-layout", built).split()
    assert set(tags) == set(layouts.names(built))
    raw = tools.run("oras", "manifest", "fetch", "--oci-layout", local)
    assert raw.encode() == layouts.file_of(built, digest_of(built, name)).read_bytes()
    tools.run("oras", "cp", "-r", "--from-oci-layout", local, "--to-plain-http", remote)
    tools.run("oras", "cp", "-r", "--from-plain-http", remote, "--to-oci-layout", f"{back}:{name}")
    check_same(back, name, built, name)
    with fastcas.open(built) as cas, fastcas.open(back) as other:
        subject = digest_of(built, name)
        found = {descriptor.digest for descriptor in other.referrers(subject)}
        assert found == {descriptor.digest for descriptor in cas.referrers(subject)}
        assert len(found) == (1 if name in ("gzip", "model") else 0)


def test_oras_artifact(tools, built, tmp_path):
    local = f"{built}:model"
    found = json.loads(tools.run("oras", "discover", "--oci-layout", "--format", "json", local))
    assert [referrer["artifactType"] for referrer in found["referrers"]] == [SIGNATURE]
    tools.run("oras", "pull", "--oci-layout", local, "-o", tmp_path / "pulled")
    assert (tmp_path / "pulled" / "config.json").read_bytes() == b"{}\n"
    assert (tmp_path / "pulled" / "weights" / "part-1").read_bytes() == bytes(100_000)


def test_oras_attaches(tools, ours, tmp_path):
    """What it attaches to an image of ours we find, and keep."""
    (tmp_path / "note").write_bytes(b"a note")
    words = ["--oci-layout", f"{ours}:plain", "--artifact-type", "application/vnd.example.note"]
    tools.run("oras", "attach", *words, "note", cwd=tmp_path)
    with fastcas.open(ours) as cas:
        (path,) = cas.resolve_reference("plain")
        (found,) = cas.referrers(path[-1].digest, artifact_type="application/vnd.example.note")
        assert cas.gc(grace=0).deleted == []
        assert found.digest in cas
        assert cas.scrub().problems == []


# regctl


@pytest.mark.parametrize("name", [*IMAGES, "multi", "model"])
def test_regctl(tools, registry, built, ours, repository, tmp_path, name):
    """Reading from it too, for it changes a layout that it reads: ours is a copy."""
    tools.run("regctl", "registry", "set", "--tls", "disabled", registry)
    local, remote = f"ocidir://{ours}:{name}", f"{repository}:{name}"
    back = tmp_path / "back"
    assert set(tools.run("regctl", "tag", "ls", f"ocidir://{ours}").split()) == set(
        layouts.names(built)
    )
    assert tools.run("regctl", "manifest", "digest", local).strip() == digest_of(built, name)
    tools.run("regctl", "image", "copy", local, remote)
    tools.run("regctl", "image", "copy", remote, f"ocidir://{back}:{name}")
    check_same(back, name, built, name)
    tools.run("regctl", "image", "export", local, tmp_path / "exported.tar")
    with fastcas.create(tmp_path / "imported") as cas:
        import_archive(cas, tmp_path / "exported.tar")
    (entry,) = layouts.entries(tmp_path / "imported")
    assert entry["digest"] == digest_of(built, name)
    assert layouts.stored(ours) == layouts.stored(built)


def test_regctl_referrers(tools, ours):
    """It doesn't look for subjects in a layout, but for the tag of the referrers."""
    for subject in ("gzip", "model"):
        command = ["regctl", "artifact", "list", "--format", "{{json .}}", f"ocidir://{ours}:{subject}"]
        assert not json.loads(tools.run(*command))["descriptors"]


# The Python packages


@pytest.mark.parametrize("name", [*IMAGES, "multi"])
def test_oras_py(tools, built, repository, name):
    host, _, path = repository.partition("/")
    tools.run(*tools.python(writers.ORAS_PY, "push", built, host, path, name))
    digest = tools.run("crane", "--insecure", "digest", f"{repository}:{name}").strip()
    assert digest == digest_of(built, name)


def test_olot(tools, built, tmp_path):
    layout = alone(built, "gzip", tmp_path / "one")
    before = layouts.read(layout, layouts.named(layout, "gzip"))["layers"]
    (tmp_path / "weights").write_bytes(bytes(100_000))
    tools.run(*tools.python(writers.OLOT, layout, tmp_path / "weights"))
    with fastcas.open(layout) as cas:
        assert cas.scrub().problems == []
        (path,) = cas.resolve_reference("gzip", platform=PLATFORM)
        assert cas.read_descriptor(path[-1]).data.layers[:-1] == tuple(
            Descriptor(layer["mediaType"], layer["digest"], layer["size"]) for layer in before
        )
        assert cas.gc(grace=0).deleted == []


# Beside each other


def test_skopeo_writes_in_place_while_we_read(tools, built, tmp_path):
    """It truncates and rewrites index.json: no reading meets half of it."""
    layout = tmp_path / "layout"
    copy = ["skopeo", "copy", "-q", f"oci:{built}:gzip"]
    tools.run(*copy, f"oci:{layout}:first")
    names = [f"name-{number}" for number in range(12)]
    with ThreadPoolExecutor(1) as pool, fastcas.open(layout) as cas:
        work = pool.submit(lambda: [tools.run(*copy, f"oci:{layout}:{name}") for name in names])
        seen = 0
        while not work.done():
            found = cas.list_references()
            assert found[0] == "first"
            assert len(found) >= seen
            seen = len(found)
        work.result()
        assert cas.list_references() == ["first", *names]
        assert cas.gc(grace=0).deleted == []
