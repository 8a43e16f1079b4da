"""Layouts as other programs write them by their ordinary commands, and their further work on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import layouts
from trees import PLATFORM


class Layout(NamedTuple):
    """One that a program wrote. ``use(layout, name)`` lets this program read the image ``name`` there
    and store it there anew, under the name that it returns; it raises what is wrong. ``image`` is the
    name of an image, and ``extra`` that of an entry to be removed, if it is another one."""

    path: Path
    names: list[str]
    image: str
    extra: str
    use: Callable[[Path, str], str]


def _write_with_umoci(program):
    def write(tools, tree, registry, place):
        layout, bundle = place / "layout", place / "bundle"

        def umoci(*words):
            return tools.run(program, *words)

        umoci("init", "--layout", layout)
        umoci("new", "--image", f"{layout}:base")
        umoci("unpack", "--image", f"{layout}:base", bundle)
        shutil.copytree(tree, bundle / "rootfs", symlinks=True, dirs_exist_ok=True)
        umoci("repack", "--image", f"{layout}:v1", bundle)
        umoci("config", "--image", f"{layout}:v1", "--config.cmd", "/bin/sh", "--tag", "configured")
        umoci("tag", "--image", f"{layout}:v1", "stable")

        def use(layout, name):
            bundle = layout.parent / "used"
            assert umoci("ls", "--layout", layout).split() == layouts.names(layout)
            umoci("stat", "--image", f"{layout}:{name}")
            umoci("unpack", "--image", f"{layout}:{name}", bundle)
            assert (bundle / "rootfs" / "bin" / "busybox").exists()
            umoci("tag", "--image", f"{layout}:{name}", "later")
            umoci("gc", "--layout", layout)
            return "later"

        return Layout(layout, ["base", "v1", "configured", "stable"], "v1", "base", use)

    return write


def _make_archive(tools, tree, registry, place) -> Path:
    """A docker-archive, by other programs than those that are looked at."""
    (place / "umoci").mkdir()
    layout = _write_with_umoci("umoci")(tools, tree, registry, place / "umoci").path
    target = place / "docker.tar"
    tools.run("skopeo", "copy", f"oci:{layout}:v1", f"docker-archive:{target}:example.org/team/app:1.0")
    return target


def _write_with_skopeo(tools, tree, registry, place):
    layout = place / "layout"
    archive = _make_archive(tools, tree, registry, place)
    source = f"oci:{place / 'umoci' / 'layout'}"

    def copy(origin, target):
        tools.run("skopeo", "copy", origin, target)

    copy(f"{source}:v1", f"oci:{layout}:a/b/c:v1")
    copy(f"{source}:v1", f"oci:{layout}:v1@sha256")
    # A tag that moves leaves its old entry without a name.
    copy(f"{source}:base", f"oci:{layout}:moved")
    copy(f"docker-archive:{archive}", f"oci:{layout}:moved")
    copy(f"{source}:v1", f"dir:{place / 'dir'}")
    copy(f"dir:{place / 'dir'}", f"oci:{layout}:from-dir")

    def use(layout, name):
        tools.run("skopeo", "inspect", "--config", f"oci:{layout}:{name}")
        copy(f"oci:{layout}:{name}", f"dir:{layout.parent / 'used'}")
        copy(f"dir:{layout.parent / 'used'}", f"oci:{layout}:later")
        return "later"

    return Layout(layout, ["a/b/c:v1", "v1@sha256", "moved", "from-dir"], "a/b/c:v1", "moved", use)


def _write_with_buildah(tools, tree, registry, place):
    layout = place / "layout"

    def buildah(*words):
        return tools.run("buildah", *words)

    container = buildah("from", "scratch").strip()
    buildah("copy", container, tree, "/")
    assert buildah("run", container, "/bin/cat", "/etc/passwd").startswith("root")
    buildah("config", "--cmd", "/bin/sh", container)
    buildah("commit", "--format", "oci", container, f"oci:{layout}:v1")
    (place / "Containerfile").write_text(
        'FROM scratch\nCOPY rootfs/ /\nRUN ["/bin/sh", "-c", "echo x >/made"]\n'
    )
    buildah("bud", "--layers", "-t", "app", "-f", place / "Containerfile", tree.parent)
    buildah("push", "app", f"oci:{layout}:team/app:1.0")
    buildah("manifest", "create", "both")
    buildah("manifest", "add", "both", f"oci:{layout}:v1")
    buildah("manifest", "add", "both", f"oci:{layout}:team/app:1.0")
    buildah("manifest", "push", "--all", "both", f"oci:{layout}:both")

    def use(layout, name):
        container = buildah("from", f"oci:{layout}:{name}").strip()
        assert buildah("run", container, "/bin/cat", "/etc/passwd").startswith("root")
        buildah("commit", "--format", "oci", container, f"oci:{layout}:later")
        return "later"

    return Layout(layout, ["v1", "team/app:1.0", "both"], "v1", "team/app:1.0", use)


def _write_with_podman(tools, tree, registry, place):
    layout = place / "layout"
    archive = _make_archive(tools, tree, registry, place)
    image = tools.run("podman", "load", "-q", "-i", archive)
    assert "example.org/team/app:1.0" in image
    tools.run("podman", "save", "-q", "--format", "oci-dir", "-o", layout, "example.org/team/app:1.0")

    def use(layout, name):
        found = tools.run("podman", "pull", "-q", f"oci:{layout}:{name}").strip()
        container = tools.run("podman", "create", found, "/bin/sh").strip()
        tree = tools.run("podman", "mount", container).strip()
        assert (Path(tree) / "bin" / "busybox").exists()
        tools.run("podman", "umount", container)
        tools.run("podman", "rm", container)
        tools.run("podman", "push", "-q", found, f"oci:{layout}:later")
        return "later"

    name = "example.org/team/app:1.0"
    return Layout(layout, [name], name, name, use)


def _write_with_crane(tools, tree, registry, place):
    """Its layouts are pulls: Docker's types among them, in an index of the OCI's too."""
    place.mkdir(exist_ok=True)
    layout, layer = place / "layout", place / "layer.tar"
    tools.run("tar", "-c", "-f", layer, "-C", tree, ".")
    # The current one, because oras-py wants manifests that say what they are.
    umoci = _write_with_umoci("umoci-current")
    source = umoci(tools, tree, registry, place).path.rename(place / "umoci")
    repository = f"{registry}/crane"

    def crane(*words):
        return tools.run("crane", "--insecure", *words)

    def pull(name, layout=layout):
        crane("pull", "--format=oci", "--annotate-ref", f"{repository}:{name}", layout)
        return f"{repository}:{name}"

    crane("append", "--oci-empty-base", "-f", layer, "-t", f"{repository}:v1")
    for name, form in (("oci", "oci"), ("docker", "v2s2")):
        tools.run(
            *("skopeo", "copy", "--dest-tls-verify=false", "--format", form),
            *(f"oci:{source}:v1", f"docker://{repository}:{name}"),
        )
    both = ["-m", f"{repository}:v1", "-m", f"{repository}:docker"]
    crane("index", "append", *both, "-t", f"{repository}:both")
    crane("index", "append", "--docker-empty-base", *both[2:], "-t", f"{repository}:list")
    names = [pull(name) for name in ("v1", "docker", "both", "list")]

    def use(layout, name):
        """It reads no single entry of a layout: all of them go, as one index, to the registry."""
        crane("push", "--index", layout, f"{repository}:used")
        crane("validate", "--remote", f"{repository}:used")
        digest = layouts.named(layout, name)["digest"]
        assert crane("digest", f"{repository}@{digest}").strip() == digest
        crane("tag", f"{repository}@{digest}", "later")
        return pull("later", layout)

    return Layout(layout, names, names[1], names[3], use)


def _write_with_oras(tools, tree, registry, place):
    """It takes names without ``/``, ``:`` and ``@``, and sorts them."""
    layout, files = place / "layout", place / "files"
    files.mkdir()
    (files / "config.json").write_bytes(b"{}\n")
    (files / "weights").write_bytes(bytes(100_000))
    (files / "signature").write_bytes(b"signed")
    source = _write_with_umoci("umoci")(tools, tree, registry, place).path.rename(place / "umoci")
    crane = _write_with_crane(tools, tree, registry, place / "crane")
    signature = "application/vnd.example.signature"

    def oras(command, *words):
        return tools.run("oras", *command.split(), *words, cwd=files)

    def to(name):
        return ["--to-oci-layout", f"{layout}:{name}"]

    kind = ["--artifact-type", "application/vnd.example.model"]
    oras("push --oci-layout", f"{layout}:model", *kind, "config.json:application/json", "weights")
    oras("attach --oci-layout", f"{layout}:model", "--artifact-type", signature, "signature")
    oras("cp --from-oci-layout", f"{source}:v1", *to("v1"))
    oras("cp --from-plain-http", crane.names[1], *to("docker"))
    oras("manifest index create --oci-layout", f"{layout}:both", "v1", "docker")
    oras("tag --oci-layout", f"{layout}:v1", "v2")

    def use(layout, name):
        assert set(oras("repo tags --oci-layout", layout).split()) == set(layouts.names(layout))
        oras("manifest fetch --oci-layout", f"{layout}:{name}")
        found = json.loads(oras("discover --oci-layout --format json", f"{layout}:model"))
        assert [referrer["artifactType"] for referrer in found["referrers"]] == [signature]
        oras(
            "cp --from-oci-layout", f"{layout}:{name}", "--to-oci-layout", f"{layout.parent}/used:used"
        )
        oras("cp --from-oci-layout", f"{layout.parent}/used:used", "--to-oci-layout", f"{layout}:later")
        return "later"

    return Layout(layout, ["model", "v1", "docker", "both", "v2"], "v1", "both", use)


def _write_with_regctl(tools, tree, registry, place):
    """It removes what nothing refers to, keeps referrers under a tag, and knows sha512."""
    layout = place / "layout"
    source = _write_with_umoci("umoci")(tools, tree, registry, place).path.rename(place / "umoci")
    crane = _write_with_crane(tools, tree, registry, place / "crane")
    (place / "signature").write_bytes(b"signed")
    tools.run("regctl", "registry", "set", "--tls", "disabled", registry)

    def regctl(command, *words):
        return tools.run("regctl", *command.split(), *words)

    def ocidir(name):
        return f"ocidir://{layout}:{name}"

    regctl("image copy", f"ocidir://{source}:v1", ocidir("v1"))
    regctl("image copy", crane.names[1], ocidir("docker"))
    regctl("image copy", crane.names[2], ocidir("both"))
    regctl("image mod --digest-algo sha512", ocidir("v1"), "--create", "sha512")
    put = "artifact put --artifact-type application/vnd.example.signature"
    regctl(put, "--subject", ocidir("v1"), "--file", place / "signature")
    regctl(f"index create --platform {PLATFORM}", ocidir("index"), "--ref", ocidir("v1"))
    regctl("image create", ocidir("created"))

    def use(layout, name):
        assert set(regctl("tag ls", f"ocidir://{layout}").split()) == set(layouts.names(layout))
        entry = layouts.named(layout, name)
        assert regctl("manifest digest", f"ocidir://{layout}:{name}").strip() == entry["digest"]
        regctl("image export", f"ocidir://{layout}:{name}", layout.parent / "used.tar")
        regctl("image import", f"ocidir://{layout}:later", layout.parent / "used.tar")
        return "later"

    referrers = layouts.named(layout, "v1")["digest"].replace(":", "-")
    names = ["v1", "docker", "both", "sha512", referrers, "index", "created"]
    return Layout(layout, names, "v1", "docker", use)


ORAS_PY = """
import sys
from oras.layout import Layout, NewLayoutFromRegistry
from oras.provider import Registry
action, layout, host, repository, tag = sys.argv[1:]
provider = Registry(hostname=host, insecure=True, tls_verify=False)
if action == "pull":
    NewLayoutFromRegistry(layout, provider, f"{host}/{repository}:{tag}", tag)
elif action == "pull-again":
    Layout(layout).pull_from_registry(provider, f"{host}/{repository}:{tag}", tag)
else:
    Layout(layout).push_to_registry(provider, f"{host}/{repository}:{tag}", tag)
"""


def _write_with_oras_py(tools, tree, registry, place):
    """It writes one tag into a layout, over the index that is there, and knows no Docker types."""
    layout = place / "layout"
    _write_with_crane(tools, tree, registry, place / "crane")
    image = ["-m", f"{registry}/crane:oci"]
    tools.run("crane", "--insecure", "index", "append", *image, "-t", f"{registry}/crane:index")
    tools.run(*tools.python(ORAS_PY, "pull", layout, registry, "crane", "index"))

    def use(layout, name):
        tools.run(*tools.python(ORAS_PY, "push", layout, registry, "oras-py", name))
        tools.run(*tools.python(ORAS_PY, "pull-again", layout, registry, "oras-py", name))
        return name

    return Layout(layout, ["index"], "index", "index", use)


OLOT = "import sys; from olot.basics import oci_layers_on_top as f; f(sys.argv[1], sys.argv[2:])"


def _write_with_olot(tools, tree, registry, place):
    """It changes layouts in place: every image in them gets the layers, and old documents go."""
    layout = place / "layout"
    source = _write_with_umoci("umoci")(tools, tree, registry, place).path.rename(place / "umoci")
    tools.run("skopeo", "copy", f"oci:{source}:v1", f"oci:{layout}:v1")
    (place / "weights").write_bytes(bytes(100_000))
    tools.run(*tools.python(OLOT, layout, place / "weights"))

    def use(layout, name):
        (layout.parent / "more").write_bytes(b"more")
        tools.run(*tools.python(OLOT, layout, layout.parent / "more"))
        return name

    return Layout(layout, ["v1"], "v1", "v1", use)


WRITERS = {
    "umoci": _write_with_umoci("umoci"),
    "umoci-current": _write_with_umoci("umoci-current"),
    "skopeo": _write_with_skopeo,
    "buildah": _write_with_buildah,
    "podman": _write_with_podman,
    "crane": _write_with_crane,
    "oras": _write_with_oras,
    "regctl": _write_with_regctl,
    "oras-py": _write_with_oras_py,
    "olot": _write_with_olot,
}
