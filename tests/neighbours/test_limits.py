"""What other programs can't read: facts about their versions, for whoever chooses what to write."""

from __future__ import annotations

import pytest

import fastcas
import layouts
from building import build_docker, build_long, check_same, digest_of
from fastcas import build_image
from writers import ORAS_PY

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("umoci stat --image {0}:multi", "tag is ambiguous"),
        ("umoci-current stat --image {0}:multi", "tag is ambiguous"),
        ("umoci stat --image {0}:long", "unsupported algorithm"),
        ("umoci-current stat --image {0}:long", "unsupported algorithm"),
        ("umoci gc --layout {0}", "unsupported algorithm"),
        ("umoci-current gc --layout {0}", "unsupported algorithm"),
        ("umoci-current stat --image {0}:docker", "not implemented"),
        ("skopeo inspect oci:{0}:docker", "no descriptor found"),
        ("skopeo inspect oci:{0}:long", "does not match expected sha512"),
        ("oras manifest fetch --oci-layout {0}:team/app:1.0", "no such file"),
        ("regctl manifest get ocidir://{0}:team/app:1.0", "invalid"),
    ],
)
def test_limits(tools, ours, command, message):
    with fastcas.open(ours) as cas:
        build_long(cas, ours.parent)
        cas.update_reference("team/app:1.0", cas.resolve_reference("plain")[0][-1])
        build_docker(cas)
        assert cas.scrub().problems == []
        before = layouts.stored(ours)
        assert cas.gc(grace=0).deleted == []
    done = tools.try_(*command.format(ours).split())
    assert done.returncode != 0
    assert message in done.stderr
    assert layouts.stored(ours) == before


@pytest.mark.parametrize("program", ["umoci", "umoci-current"])
def test_umoci_shows_no_history_without_times(tools, ours, tree, program):
    """Its stat crashes, though the specification asks for none; all else works."""
    with fastcas.open(ours) as cas:
        build_image(cas, [tree], reference="timeless")
    done = tools.try_(program, "stat", "--image", f"{ours}:timeless")
    assert done.returncode != 0
    assert "nil pointer" in done.stderr
    tools.run(program, "stat", "--json", "--image", f"{ours}:timeless")
    tools.run(program, "unpack", "--image", f"{ours}:timeless", ours.parent / "bundle")


def test_oras_py_takes_no_docker_types(tools, ours, registry):
    with fastcas.open(ours) as cas:
        build_docker(cas)
    done = tools.try_(*tools.python(ORAS_PY, "push", ours, registry, "limits", "docker"))
    assert done.returncode != 0
    assert "mediaType" in done.stderr


@pytest.mark.parametrize("program", ["oras", "regctl"])
def test_sha512(tools, tmp_path, program):
    """From layout to layout; the registry of Debian 12 takes no manifest of sha512."""
    with fastcas.create(tmp_path / "layout") as cas:
        descriptor = build_long(cas, tmp_path)
    source, target = f"{tmp_path / 'layout'}:long", f"{tmp_path / 'back'}:long"
    if program == "oras":
        tools.run("oras", "cp", "--from-oci-layout", source, "--to-oci-layout", target)
    else:
        tools.run("regctl", "image", "copy", f"ocidir://{source}", f"ocidir://{target}")
    assert digest_of(tmp_path / "back", "long") == descriptor.digest
    check_same(tmp_path / "back", "long", tmp_path / "layout", "long")


@pytest.mark.parametrize(
    "command",
    ["oras tag --oci-layout {0}:zstd again", "regctl image copy ocidir://{0}:zstd ocidir://{0}:again"],
)
def test_names_that_they_cannot_say_stay(tools, ours, command):
    """With all that only such a name leads to; regctl collects garbage after each change."""
    with fastcas.open(ours) as cas:
        cas.update_reference("team/app:1.0", cas.resolve_reference("plain")[0][-1])
        cas.delete_reference("plain")
    before = layouts.stored(ours)
    tools.run(*command.format(ours).split())
    assert layouts.stored(ours) == before
    assert {"team/app:1.0", "again"} <= set(layouts.names(ours))
