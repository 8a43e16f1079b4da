"""Images on the command line: build, append, artifact, tree, referrers, stat, names and platforms."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile

import pytest

import fastcas
from fastcas.model import MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST
from samples import make_tar, put_image, put_index, put_platforms
from shell import (
    ABSENT,
    ENVIRONMENT,
    FASTCAS,
    Terminal,
    answer,
    blob_path,
    call,
    corrupt,
    digest_of,
    run,
)

PLAIN = make_tar(a=b"content of a" * 100)
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
TAR = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def layout(tmp_path):
    path = tmp_path / "image"
    fastcas.create(path, durability="none").close()
    return path


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(PLAIN)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "app"
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "run").write_bytes(b"#!/bin/sh\n")
    (path / "data").write_bytes(b"data" * 1000)
    return path


@pytest.fixture
def multi(layout):
    """A layout whose reference ``multi`` is an index; the descriptors of its two images."""
    with fastcas.open(layout, durability="none") as cas:
        index = put_platforms(cas, "amd64", "arm64")
        cas.update_reference("multi", index)
        return index, *cas.read_descriptor(index).data.manifests


def read(layout, name, platform=None):
    """Manifest and config of an image."""
    with fastcas.open(layout) as cas:
        ((*_, found),) = cas.resolve_reference(name, platform=platform)
        manifest = cas.read_descriptor(found).data
        return manifest, cas.read_descriptor(manifest.config).data


class TestBuild:
    def test_of_a_tar_and_a_folder(self, layout, tar, folder):
        facts = answer("build", layout, tar, folder, "--tag", "v1")
        (reference,) = answer("refs", layout)["references"]
        assert facts == reference
        manifest, config = read(layout, "v1")
        assert [layer.media_type for layer in manifest.layers] == [TAR, TAR]
        assert manifest.layers[0].digest == digest_of(PLAIN)
        assert config.rootfs.diff_ids == tuple(layer.digest for layer in manifest.layers)
        with fastcas.open(layout) as cas:
            names = tarfile.open(
                fileobj=io.BytesIO(cas.read_blob(manifest.layers[1].digest))
            ).getnames()
        assert names == ["bin", "bin/run", "data"]
        assert call("build", layout, tar, folder, "--tag", "v1").stdout == facts["digest"] + "\n"

    def test_settings(self, layout, tar):
        call(
            "build", layout, tar, "--tag", "v1", "--platform", "linux/arm64/v8",
            "--entrypoint", "/bin/app --name 'a b'", "--cmd", "serve", "--env", "A=1",
            "--env", "B=x=y", "--label", "k=v", "--workdir", "/srv", "--user", "1000:1000",
            "--annotation", "org.example.note=n",
        )  # fmt: skip
        manifest, config = read(layout, "v1")
        assert (config.os, config.architecture, config.variant) == ("linux", "arm64", "v8")
        assert config.config == {
            "User": "1000:1000",
            "Env": ["A=1", "B=x=y"],
            "Entrypoint": ["/bin/app", "--name", "a b"],
            "Cmd": ["serve"],
            "WorkingDir": "/srv",
            "Labels": {"k": "v"},
        }
        assert manifest.annotations == {"org.example.note": "n"}
        assert config.created is None

    @pytest.mark.parametrize(
        ("options", "kind"),
        [(["--compress", "gzip", "--level", "1"], GZIP), (["--compress", "zstd"], ZSTD)],
    )
    def test_compressed(self, layout, tar, options, kind):
        call("build", layout, tar, "--tag", "v1", *options)
        manifest, config = read(layout, "v1")
        assert manifest.layers[0].media_type == kind
        assert config.rootfs.diff_ids == (digest_of(PLAIN),)

    def test_source_date_epoch(self, layout, folder, monkeypatch):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
        first = answer("build", layout, folder, "--tag", "v1")["digest"]
        os.utime(folder / "data", (1_700_000_000, 1_700_000_000))
        assert answer("build", layout, folder, "--tag", "v1")["digest"] == first
        assert read(layout, "v1")[1].created == "2001-09-09T01:46:40Z"
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
        assert "SOURCE_DATE_EPOCH" in call("build", layout, folder, "--tag", "v1", code=2).stderr

    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("options", [[], ["--compress", "zstd"]])
    def test_from_a_pipe(self, layout, tar, compressed, options):
        import gzip

        content = gzip.compress(PLAIN, mtime=0) if compressed else PLAIN
        result = run("build", layout, "-", "--tag", "piped", "--json", *options, input=content)
        assert (result.returncode, result.stderr) == (0, b"")
        manifest, config = read(layout, "piped")
        assert config.rootfs.diff_ids == (digest_of(PLAIN),)
        # What is compressed is stored as it is.
        kind = GZIP if compressed else ZSTD if options else TAR
        assert manifest.layers[0].media_type == kind
        if not compressed:
            file = answer("build", layout, tar, "--tag", "file", *options)
            assert file["digest"] == json.loads(result.stdout)["digest"]

    @pytest.mark.parametrize("level", ["1", "9"])
    def test_level_of_a_pipe(self, layout, tar, level):
        options = ["--compress", "gzip", "--level", level]
        piped = run("build", layout, "-", "--tag", "piped", *options, input=PLAIN)
        assert piped.stdout.decode() == call("build", layout, tar, "--tag", "file", *options).stdout
        assert piped.stdout.decode() != call("build", layout, tar, "--tag", "x", *options[:2]).stdout

    def test_of_what_tar_writes(self, layout, folder):
        script = f'tar c -C "$1" . | {" ".join(FASTCAS)} build "$2" - --tag v1'
        result = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {script}", "bash", folder, layout],
            capture_output=True, timeout=60, env=ENVIRONMENT,
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (0, b"")
        manifest, _ = read(layout, "v1")
        with fastcas.open(layout) as cas:
            content = cas.read_blob(manifest.layers[0].digest)
        assert "./bin/run" in tarfile.open(fileobj=io.BytesIO(content)).getnames()

    @pytest.mark.parametrize("content", [b"", b"no tar", b"x" * 2000, b"\x1f\x8b damaged"])
    def test_from_a_pipe_that_is_no_tar(self, layout, content):
        result = run("build", layout, "-", "--tag", "v1", input=content)
        assert result.returncode in (1, 4)
        assert result.stderr.startswith(b"fastcas: ")
        assert b"Traceback" not in result.stderr
        assert answer("refs", layout) == {"references": []}

    def test_errors(self, layout, tar, tmp_path):
        call("build", layout, tar, code=2)
        call("build", layout, "--tag", "v1", code=2)
        call("build", layout, "-", "-", "--tag", "v1", code=2)
        call("build", layout, tar, "--tag", "v1", "--level", "1", code=2)
        call("build", layout, tar, "--tag", "v1", "--env", "A", code=2)
        call("build", layout, tar, "--tag", "v1", "--annotation", "=x", code=2)
        assert "quotation" in call("build", layout, tar, "--tag", "v", "--cmd", "a 'b", code=2).stderr
        call("build", layout, tar, "--tag", "not ok", code=4)
        call("build", layout, tar, "--tag", "v1", "--platform", "arm64", code=2)
        call("build", layout, tar, "--tag", "v1", "--compress", "lz4711", code=2)
        call("build", layout, tmp_path / "absent", "--tag", "v1", code=3)
        (tmp_path / "text").write_bytes(b"text")
        assert "text" in call("build", layout, tmp_path / "text", "--tag", "v1", code=4).stderr
        assert answer("refs", layout) == {"references": []}


class TestAppend:
    def test_in_place_and_to_a_new_name(self, layout, tar, folder):
        base = answer("build", layout, tar, "--tag", "v1")["digest"]
        facts = answer("append", layout, "v1", folder, "--tag", "v2", "--annotation", "a=b")
        assert (facts["name"], facts["mediaType"]) == ("v2", MEDIA_TYPE_MANIFEST)
        assert answer("stat", layout, "v1")["digest"] == base
        manifest, _ = read(layout, "v2")
        assert len(manifest.layers) == 2
        assert manifest.annotations == {"a": "b"}
        digest = call("append", layout, "v1", folder, "--compress", "gzip").stdout.strip()
        assert answer("stat", layout, "v1")["digest"] == digest
        assert read(layout, "v1")[0].layers[1].media_type == GZIP

    def test_from_a_pipe(self, layout, tar):
        call("build", layout, tar, "--tag", "v1")
        assert run("append", layout, "v1", "-", input=make_tar(b=b"b")).returncode == 0
        assert len(read(layout, "v1")[0].layers) == 2

    def test_source_date_epoch(self, layout, tar, monkeypatch):
        call("build", layout, tar, "--tag", "v1")
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
        call("append", layout, "v1", tar)
        assert read(layout, "v1")[1].history[1].created == "2001-09-09T01:46:40Z"

    def test_to_an_index(self, layout, multi, tar):
        call("append", layout, "multi", tar, code=4)
        facts = answer("append", layout, "multi", tar, "--platform", "linux/arm64")
        assert facts["mediaType"] == MEDIA_TYPE_INDEX
        assert len(read(layout, "multi", "linux/arm64")[0].layers) == 2
        assert len(read(layout, "multi", "linux/amd64")[0].layers) == 1

    def test_errors(self, layout, tar):
        call("append", layout, "v1", tar, code=3)
        call("append", layout, "v1", code=2)
        call("append", layout, "v1", tar, "--level", "2", code=2)
        result = run("append", layout, "v1", "-", input=PLAIN)
        assert result.returncode == 3
        assert answer("ls", layout) == {"blobs": []}


class TestArtifact:
    def test_of_a_folder(self, layout, folder):
        facts = answer("artifact", layout, folder, "--type", "application/vnd.example", "--tag", "m")
        assert answer("refs", layout)["references"] == [facts]
        told = answer("stat", layout, "m")
        assert told["artifactType"] == "application/vnd.example"
        titles = {layer["title"]: layer["mediaType"] for layer in told["layers"]}
        assert titles == dict.fromkeys(["bin/run", "data"], "application/octet-stream")
        facts["name"] = None
        digest = call("artifact", layout, folder, "--type", "application/vnd.example", "--tag", "m")
        assert digest.stdout == facts["digest"] + "\n"

    def test_about_an_image(self, layout, tar, monkeypatch):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
        image = answer("build", layout, tar, "--tag", "v1")["digest"]
        facts = answer(
            "artifact", layout, tar, "--type", "a/b", "--subject", "v1", "--media-type", "x/y",
            "--annotation", "k=v",
        )  # fmt: skip
        assert facts["name"] is None
        told = answer("stat", layout, facts["digest"])
        assert told["subject"]["digest"] == image
        assert told["layers"][0]["mediaType"] == "x/y"
        (found,) = answer("referrers", layout, "v1")["referrers"]
        assert found == {
            "digest": facts["digest"],
            "mediaType": MEDIA_TYPE_MANIFEST,
            "size": facts["size"],
            "artifactType": "a/b",
            "annotations": {"k": "v", "org.opencontainers.image.created": "2001-09-09T01:46:40Z"},
        }

    def test_errors(self, layout, tar, tmp_path):
        call("artifact", layout, tar, "--type", "a/b", code=2)
        assert "(-)" in call("artifact", layout, "-", "--type", "a/b", "--tag", "x", code=2).stderr
        call("artifact", layout, tar, "--tag", "x", code=2)
        call("artifact", layout, tar, "--type", "none", "--tag", "x", code=4)
        call("artifact", layout, tar, "--type", "a/b", "--subject", "v7", code=3)
        call("artifact", layout, tmp_path / "absent", "--type", "a/b", "--tag", "x", code=3)
        assert answer("refs", layout) == {"references": []}


class TestReferrers:
    def test_by_type_and_of_what_is_not_stored(self, layout, tar):
        call("build", layout, tar, "--tag", "v1")
        for kind in ("a/b", "c/d"):
            call("artifact", layout, tar, "--type", kind, "--subject", "v1")
        digest = answer("stat", layout, "v1")["digest"]
        assert len(answer("referrers", layout, digest)["referrers"]) == 2
        (found,) = answer("referrers", layout, "v1", "--type", "c/d")["referrers"]
        assert found["artifactType"] == "c/d"
        line = call("referrers", layout, "v1", "--type", "c/d").stdout
        assert line == f"{found['digest']}\t{found['size']}\tc/d\n"
        assert answer("referrers", layout, ABSENT) == {"referrers": []}
        call("referrers", layout, "v7", code=3)

    def test_of_one_platform(self, layout, multi, tar):
        _, amd64, _ = multi
        call("artifact", layout, tar, "--type", "a/b", "--subject", amd64.digest)
        assert answer("referrers", layout, "multi")["referrers"] == []
        found = answer("referrers", layout, "multi", "--platform", "linux/amd64")["referrers"]
        assert [f["artifactType"] for f in found] == ["a/b"]


class TestNames:
    """Every command takes what resolve_reference takes."""

    def forms(self, descriptor):
        digest = descriptor.digest
        return [digest, digest[:19], digest[7:19], f"multi@{digest}"]

    def test_of_an_entry(self, layout, multi):
        index, _, _ = multi
        for name in ["multi", *self.forms(index)]:
            assert answer("stat", layout, name)["digest"] == index.digest
            assert (
                call("get", layout, name).stdout_bytes == blob_path(layout, index.digest).read_bytes()
            )
            assert answer("tag", layout, "x", name)["digest"] == index.digest
            assert answer("tree", layout, name)["nodes"][0]["digest"] == index.digest

    def test_below_an_entry(self, layout, multi):
        _, _, arm64 = multi
        for name in self.forms(arm64):
            assert answer("stat", layout, name)["digest"] == arm64.digest
            assert answer("tag", layout, "x", name)["digest"] == arm64.digest

    @pytest.mark.parametrize("name", ["sha256:77777777", "77777777", "multi@" + ABSENT, "v7"])
    def test_absent(self, layout, multi, name):
        for command in (["stat"], ["get"], ["tree"], ["referrers"], ["tag", "new"]):
            first, *rest = command
            result = call(first, layout, *rest, name, code=3)
            assert name in result.stderr

    def test_case_55_tagging_an_index_points_at_the_index(self, layout, multi):
        index, _, arm64 = multi
        assert answer("tag", layout, "copy", "multi") == {"name": "copy", "digest": index.digest}
        (_, copy) = answer("refs", layout)["references"]
        assert (copy["digest"], copy["mediaType"]) == (index.digest, MEDIA_TYPE_INDEX)
        facts = answer("tag", layout, "arm", "multi", "--platform", "linux/arm64")
        assert facts == {"name": "arm", "digest": arm64.digest}
        assert answer("stat", layout, "arm")["mediaType"] == MEDIA_TYPE_MANIFEST

    def test_platform(self, layout, multi, tmp_path):
        _, amd64, _ = multi
        option = ["--platform", "linux/amd64"]
        assert answer("stat", layout, "multi", *option)["digest"] == amd64.digest
        assert answer("tree", layout, "multi", *option)["nodes"][0]["digest"] == amd64.digest
        facts = answer("get", layout, "multi", *option, "-o", tmp_path / "out")
        assert facts["digest"] == amd64.digest
        for command in (["stat", layout], ["tree", layout], ["get", layout], ["tag", layout, "x"]):
            assert "linux/s390x" in call(*command, "multi", "--platform", "linux/s390x", code=3).stderr
            call(*command, "multi", "--platform", "s390x", code=2)
        call("stat", layout, *option, code=2)
        call("tree", layout, *option, code=2)


class TestStat:
    def test_image(self, layout, tar, monkeypatch):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
        call("build", layout, tar, "--tag", "v1", "--platform", "linux/amd64", "--user", "u",
             "--annotation", "k=v")  # fmt: skip
        facts = answer("stat", layout, "v1")
        size = facts["size"]
        assert list(facts)[:5] == ["name", "digest", "mediaType", "size", "stored"]
        assert facts["platform"] == "linux/amd64"
        assert facts["created"] == "2001-09-09T01:46:40Z"
        assert facts["run"] == {"User": "u"}
        assert facts["history"] == [
            {"created": facts["created"], "createdBy": "fastcas", "comment": None, "emptyLayer": False}
        ]
        assert facts["layers"] == [
            {"digest": digest_of(PLAIN), "mediaType": TAR, "size": len(PLAIN), "stored": True}
        ]
        assert facts["total"] == size + facts["config"]["size"] + len(PLAIN)
        assert facts["annotations"] == {"k": "v"}

    def test_what_is_not_stored(self, layout, tar):
        call("build", layout, tar, "--tag", "v1")
        facts = answer("stat", layout, "v1")
        call("rm", layout, digest_of(PLAIN))
        assert answer("stat", layout, "v1")["layers"][0]["stored"] is False
        call("rm", layout, facts["config"]["digest"])
        facts = answer("stat", layout, "v1")
        assert facts["config"]["digest"] in facts["problem"]
        assert "platform" not in facts

    def test_damaged(self, layout, tar):
        call("build", layout, tar, "--tag", "v1")
        facts = answer("stat", layout, "v1")
        corrupt(layout, facts["config"]["digest"])
        assert facts["config"]["digest"] in call("stat", layout, "v1", code=1).stderr
        corrupt(layout, facts["digest"])
        assert facts["digest"] in call("stat", layout, "v1", code=1).stderr

    def test_blob_beside_a_damaged_index(self, layout, multi):
        with fastcas.open(layout) as cas:
            digest = cas.put_blob(b"content").digest
        corrupt(layout, multi[0].digest)
        assert answer("stat", layout, digest) == {"digest": digest, "size": 7}
        call("stat", layout, digest[:19], code=1)

    def test_index(self, layout, multi):
        facts = answer("stat", layout, "multi")
        assert [m["platform"] for m in facts["manifests"]] == ["linux/amd64", "linux/arm64"]
        assert all(m["stored"] for m in facts["manifests"])


class TestTree:
    def test_flat_with_depths(self, layout, multi):
        index, amd64, arm64 = multi
        nodes = answer("tree", layout, "multi")["nodes"]
        assert [node["depth"] for node in nodes] == [0, 1, 2, 2, 1, 2, 2]
        assert nodes[0] == {
            "depth": 0, "digest": index.digest, "mediaType": MEDIA_TYPE_INDEX, "size": index.size,
            "stored": True, "name": "multi",
        }  # fmt: skip
        assert (nodes[1]["digest"], nodes[1]["platform"]) == (amd64.digest, "linux/amd64")
        assert nodes[4]["digest"] == arm64.digest

    def test_drawn(self, layout, multi):
        lines = call("tree", layout).stdout.splitlines()
        marks = [line[: len(line) - len(line.lstrip("│├└─ "))] for line in lines]
        assert marks == ["", "├─ ", "│  ├─ ", "│  └─ ", "└─ ", "   ├─ ", "   └─ "]
        assert multi[0].digest in lines[0]
        assert lines[0].endswith(str(multi[0].size))

    def test_of_the_whole_layout(self, layout, tar):
        call("build", layout, tar, "--tag", "v1")
        call("artifact", layout, tar, "--type", "a/b", "--subject", "v1")
        with fastcas.open(layout) as cas:
            cas.update_reference("gone", fastcas.Descriptor(MEDIA_TYPE_MANIFEST, ABSENT, 9))
        nodes = answer("tree", layout)["nodes"]
        assert [node["digest"] for node in nodes if node["depth"] == 0][2] == ABSENT
        assert nodes[-1]["stored"] is False
        assert "(not stored)" in call("tree", layout, "gone").stdout
        assert [node.get("title") for node in nodes if "title" in node] == ["a.tar"]

    def test_shared_content_stands_once(self, layout):
        with fastcas.open(layout) as cas:
            image = put_image(cas, b"layer")
            index = put_index(cas, [image])
            for _ in range(40):  # 2 ** 40 paths
                index = put_index(cas, [index, index])
            cas.update_reference("deep", index)
        nodes = answer("tree", layout, "deep")["nodes"]
        assert len(nodes) == 44
        assert "(level 42)" in call("tree", layout, "deep").stdout
        assert max(map(len, call("tree", layout, "deep").stdout.splitlines())) < 200

    def test_control_characters(self, layout):
        with fastcas.open(layout) as cas:
            layer = fastcas.Descriptor("a/\x1b[31m", ABSENT, 1)
            image = put_image(cas, b"x")
            manifest = cas.read_descriptor(image).data.replace(layers=[layer])
            cas.update_reference("v1", fastcas.Descriptor(image.media_type, *cas.put_json(manifest)))
        assert "\x1b" not in call("tree", layout, "v1").stdout
        assert "\x1b" not in call("stat", layout, "v1").stdout

    def test_damaged(self, layout, multi):
        corrupt(layout, multi[1].digest)
        assert multi[1].digest in call("tree", layout, code=1).stderr


def show(*arguments, **extra):
    """What a terminal of 80 columns shows."""
    terminal = Terminal()
    environment = {**ENVIRONMENT, "COLUMNS": "80", "TERM": "xterm"}
    result = run(*arguments, stdout=terminal.program, env=environment, **extra)
    text = terminal.text().replace("\r\n", "\n")
    assert result.stderr == b""
    assert max(map(len, text.splitlines())) <= 80, text
    return text


class TestOnATerminal:
    def test_stat(self, layout, tar, multi):
        call("build", layout, tar, "--tag", "v1", "--platform", "linux/amd64", "--workdir", "/srv",
             "--entrypoint", "/bin/app 'a b'", "--env", "A=1", "--env", "B=2",
             "--annotation", "k=v")  # fmt: skip
        digest = answer("stat", layout, "v1")["digest"]
        lines = show("stat", layout, "v1").splitlines()
        assert lines == [
            "name     v1",
            f"digest   {digest}",
            "type     manifest",
            "platform linux/amd64",
            lines[4],
            "env      A=1",
            "         B=2",
            "entry    /bin/app 'a b'",
            "workdir  /srv",
            "note     k=v",
            "layers",
            f"   1  {digest_of(PLAIN)[:19]}  {len(PLAIN) / 1024:>4.1f} KiB  layer tar",
            "history",
            "   1  fastcas",
        ]
        assert lines[4].startswith("size     ")
        assert lines[4].endswith(" in 1 layer")
        text = show("stat", layout, "multi")
        assert "├─ manifest  linux/amd64  sha256:" in text
        text = show("stat", layout)
        assert "references: 2" in text

    def test_long_history(self, layout):
        with fastcas.open(layout) as cas:
            image = put_image(cas, b"x")
            manifest = cas.read_descriptor(image).data
            config = cas.read_descriptor(manifest.config).data
            steps = [
                fastcas.History("2026-11-24T10:00:00Z", "RUN " + "x" * 200),
                fastcas.History(created_by="ENV a=b", empty_layer=True),
            ]
            stored = cas.put_json(config.replace(history=steps))
            manifest = manifest.replace(config=fastcas.Descriptor(manifest.config.media_type, *stored))
            cas.update_reference("v1", fastcas.Descriptor(image.media_type, *cas.put_json(manifest)))
        lines = show("stat", layout, "v1").splitlines()
        assert lines[-2].startswith("   1  2026-11-24  RUN xxx")
        assert lines[-2].endswith("x…")
        assert lines[-1] == "   -  ENV a=b"

    def test_lists(self, layout, tar, multi):
        call("build", layout, tar, "--tag", "v1")
        call("artifact", layout, tar, "--type", "a/b", "--subject", "v1")
        assert "multi  sha256:" in show("refs", layout)
        assert "  index\n" in show("refs", layout)
        assert show("referrers", layout, "v1").endswith("  a/b\n")
        show("tree", layout)
        show("ls", layout)
        # A short digest that a terminal shows is good for other commands.
        short = show("refs", layout).split()[1]
        assert answer("stat", layout, short)["digest"] == multi[0].digest
