"""The command line as programs and people meet it: output, JSON shapes, exit codes, pipes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points, version

import pytest
from click.testing import CliRunner

import fastcas
import fastcas.__main__
from fastcas.cli import MODULES, SECTIONS, describe, main
from fastcas.commands import blobs
from fastcas.console import human, printable
from fastcas.errors import InvalidError
from fastcas.model import MEDIA_TYPE_CONFIG, MEDIA_TYPE_INDEX, MEDIA_TYPE_LAYER, MEDIA_TYPE_MANIFEST
from fastcas.targets import split_place
from shell import (
    ABSENT,
    ENVIRONMENT,
    FASTCAS,
    MIB,
    Terminal,
    answer,
    blob_path,
    call,
    corrupt,
    digest_of,
    run,
)


@pytest.fixture
def layout(tmp_path):
    path = tmp_path / "image"
    fastcas.create(path).close()
    return path


@pytest.fixture
def image(layout):
    """A layout with one image, v1, and an untagged entry; returns the digests by what they are."""
    with fastcas.open(layout) as cas:
        config = cas.put_blob(b"{}")
        layer = cas.put_blob(b"layer" * 1000)
        raw = fastcas.Manifest(
            config=fastcas.Descriptor(MEDIA_TYPE_CONFIG, *config),
            layers=[fastcas.Descriptor(MEDIA_TYPE_LAYER, *layer)],
        ).to_json()
        manifest = cas.put_blob(raw)
        cas.update_reference("v1", fastcas.Descriptor(MEDIA_TYPE_MANIFEST, *manifest))
    return {
        "layout": layout,
        "config": config.digest,
        "layer": layer.digest,
        "manifest": manifest.digest,
        "raw": raw,
    }


class TestHelp:
    def test_names_every_command_and_fits_a_terminal(self):
        text = call("--help").stdout
        for name in MODULES:
            assert f"\n  {name} " in text
        for line in text.splitlines():
            assert len(line) <= 96
        assert len(text.splitlines()) <= 60

    def test_says_of_each_command_what_its_own_help_begins_with(self):
        for _, _, commands in SECTIONS:
            for name, text in commands.items():
                assert main.get_command(None, name).get_short_help_str(80) == text

    @pytest.mark.parametrize("name", sorted(MODULES))
    def test_of_each_command(self, name):
        text = call(name, "--help").stdout
        assert text.startswith(f"Usage: fastcas {name} ")
        assert "\b" not in text
        assert "--json" in text
        assert f"\n  fastcas {name} " in text or f" fastcas {name} " in text
        assert max(map(len, text.splitlines())) <= 80

    @pytest.mark.parametrize("width", ["-1", "0", "1", "5", "20", "1000", "x"])
    @pytest.mark.parametrize("command", [["--help"], ["cp", "--help"]])
    def test_whatever_the_width(self, monkeypatch, command, width):
        monkeypatch.setenv("COLUMNS", width)
        assert "Options:" in call(*command).stdout

    def test_is_what_no_arguments_give(self):
        result = CliRunner().invoke(main, [])
        assert result.exit_code == 2
        assert "Examples:" in result.output

    def test_version(self):
        assert call("--version").stdout == f"fastcas {version('fastcas')}\n"

    def test_entry_point(self):
        (script,) = entry_points(group="console_scripts", name="fastcas")
        assert script.load() is fastcas.__main__.main

    def test_interrupted_while_it_loads(self):
        # A module that takes long to load, in the place of one that doesn't.
        program = (
            "import sys, types\n"
            "class Finder:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'click': raise KeyboardInterrupt\n"
            "sys.meta_path.insert(0, Finder())\n"
            "from fastcas.__main__ import main\nmain()\n"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
        assert (result.returncode, result.stderr) == (130, b"fastcas: interrupted\n")

    def test_interrupted_while_a_command_loads(self):
        program = (
            "import sys\n"
            "from fastcas.cli import main\n"
            "class Finder:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.startswith('fastcas.commands'): raise KeyboardInterrupt\n"
            "sys.meta_path.insert(0, Finder())\n"
            "main(['ls', 'x'])\n"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
        assert (result.returncode, result.stderr) == (130, b"fastcas: interrupted\n")


class TestInit:
    def test_makes_a_layout(self, tmp_path):
        path = tmp_path / "deep" / "image"
        assert answer("init", path) == {"path": str(path)}
        assert (path / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}\n'

    def test_says_nothing_without_json(self, tmp_path):
        assert call("init", tmp_path / "image").output == ""

    def test_url_of_an_unknown_scheme(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for command in (["init"], ["ls"], ["cp", "x:y"]):
            assert "unknown scheme 'gcs'" in call(*command, "gcs://b/x", code=4).stderr
        assert os.listdir() == []

    def test_empty_path(self, layout, monkeypatch):
        monkeypatch.chdir(layout)
        call("stat", "", code=3)
        call("init", "", code=4)

    def test_existing_path(self, tmp_path):
        assert str(tmp_path) in call("init", tmp_path, code=5).stderr


class TestPut:
    def test_one_file(self, layout, tmp_path):
        file = tmp_path / "a"
        file.write_bytes(b"content")
        assert call("put", layout, file).stdout == digest_of(b"content") + "\n"
        assert answer("put", layout, file) == {
            "blobs": [{"digest": digest_of(b"content"), "size": 7, "source": str(file)}]
        }
        assert blob_path(layout, digest_of(b"content")).read_bytes() == b"content"

    @pytest.mark.parametrize("durability", ["full", "batch", "none"])
    def test_many_files_in_order(self, layout, tmp_path, durability):
        files = [tmp_path / name for name in "cab"]
        for file in files:
            file.write_bytes(file.name.encode() * 10)
        lines = call("put", layout, *files, "--durability", durability).stdout.splitlines()
        assert lines == [digest_of(b"c" * 10), digest_of(b"a" * 10), digest_of(b"b" * 10)]
        blobs = answer("put", layout, *files)["blobs"]
        assert [blob["source"] for blob in blobs] == [str(file) for file in files]

    def test_other_algorithm(self, layout, tmp_path):
        (tmp_path / "a").write_bytes(b"content")
        expected = "sha512:" + hashlib.sha512(b"content").hexdigest()
        for options in (["--algorithm", "sha512"], ["--expect", expected]):
            assert call("put", layout, tmp_path / "a", *options).stdout == expected + "\n"

    def test_unknown_algorithm(self, layout, tmp_path):
        (tmp_path / "a").write_bytes(b"content")
        for name in ("md4711", "md5"):
            assert name in call("put", layout, tmp_path / "a", "--algorithm", name, code=2).stderr

    def test_expected_digest(self, layout, tmp_path):
        (tmp_path / "a").write_bytes(b"content")
        result = call("put", layout, tmp_path / "a", "--expect", ABSENT, code=1)
        assert ABSENT in result.stderr
        assert answer("ls", layout) == {"blobs": []}
        call("put", layout, tmp_path / "a", "--expect", digest_of(b"content"))

    def test_total_of_the_progress(self, layout, tmp_path, monkeypatch):
        totals = []

        class Watch(blobs.Progress):
            def __init__(self, what, *, total):
                super().__init__(what, total=total)
                totals.append(total)

        monkeypatch.setattr(blobs, "Progress", Watch)
        monkeypatch.setattr(blobs, "on_terminal", lambda stream: True)
        for name, size in (("a", 5), ("b", 7)):
            (tmp_path / name).write_bytes(bytes(size))
        call("put", layout, tmp_path / "a", tmp_path / "b")
        call("put", layout, tmp_path / "a", "/dev/null")
        call("put", layout, tmp_path / "a", tmp_path / "absent", code=3)
        assert totals == [12, None, None]

    def test_standard_input(self, layout):
        content = os.urandom(3 * MIB + 17)
        result = run("put", layout, "-", "--json", input=content)
        assert result.returncode == 0
        assert result.stderr == b""
        assert json.loads(result.stdout) == {
            "blobs": [{"digest": digest_of(content), "size": len(content), "source": "-"}]
        }

    def test_standard_input_among_files(self, layout, tmp_path):
        (tmp_path / "a").write_bytes(b"content")
        result = run("put", layout, "-", tmp_path / "a", input=b"in")
        assert result.stdout.decode().split() == [digest_of(b"in"), digest_of(b"content")]

    def test_standard_input_is_a_file_that_was_read_before(self, layout, tmp_path):
        (tmp_path / "a").write_bytes(b"headbody")
        with (tmp_path / "a").open("rb", buffering=0) as file:
            file.read(4)
            result = run("put", layout, "-", stdin=file)
        assert result.stdout.decode().strip() == digest_of(b"body")

    def test_tag(self, image, tmp_path):
        (tmp_path / "m.json").write_bytes(image["raw"])
        call("put", image["layout"], tmp_path / "m.json", "--tag", "v2")
        (_, second) = answer("refs", image["layout"])["references"]
        assert second == {
            "name": "v2",
            "digest": image["manifest"],
            "mediaType": MEDIA_TYPE_MANIFEST,
            "size": len(image["raw"]),
        }

    def test_tag_of_an_index_and_of_a_document_without_a_media_type(self, layout, tmp_path):
        (tmp_path / "i.json").write_bytes(fastcas.Index().to_json())
        call("put", layout, tmp_path / "i.json", "--tag", "index")
        (tmp_path / "i.json").write_bytes(b'{"schemaVersion": 2, "manifests": []}')
        call("put", layout, tmp_path / "i.json", "--tag", "bare")
        types = [entry["mediaType"] for entry in answer("refs", layout)["references"]]
        assert types == [MEDIA_TYPE_INDEX] * 2

    @pytest.mark.parametrize(
        "content",
        [b"\0tar", b"[]", b"{}", b'{"mediaType": 5}', b'{"a":1,"a":1,"mediaType":"a/b"}',
         b'{"mediaType": "%s"}' % MEDIA_TYPE_MANIFEST.encode()],
    )  # fmt: skip
    def test_tag_of_what_is_no_document(self, layout, tmp_path, content):
        (tmp_path / "file").write_bytes(content)
        result = call("put", layout, tmp_path / "file", "--tag", "v1", code=4)
        assert digest_of(content) in result.stderr
        assert answer("refs", layout) == {"references": []}

    def test_bad_tag_stores_nothing(self, layout, tmp_path):
        (tmp_path / "file").write_bytes(b"{}")
        call("put", layout, tmp_path / "file", "--tag", "not ok", code=4)
        assert answer("ls", layout) == {"blobs": []}

    @pytest.mark.parametrize("options", [["--tag", "v1"], ["--expect", ABSENT]])
    def test_options_for_one_file(self, layout, options):
        call("put", layout, "a", "b", *options, code=2)

    def test_wrong_use(self, layout):
        call("put", layout, code=2)
        call("put", layout, "-", "-", code=2)
        call("put", layout, "a", "--durability", "some", code=2)

    def test_missing_file(self, layout, tmp_path):
        assert str(tmp_path / "absent") in call("put", layout, tmp_path / "absent", code=3).stderr
        (tmp_path / "a").write_bytes(b"content")
        result = call("put", layout, tmp_path / "a", tmp_path / "absent", code=3)
        assert str(tmp_path / "absent") in result.stderr

    def test_folder(self, layout, tmp_path):
        assert str(tmp_path) in call("put", layout, tmp_path, code=5).stderr


class TestPutCompressed:
    @pytest.mark.parametrize("name", ["gzip", "zstd"])
    @pytest.mark.parametrize("options", [[], ["--level", "1"]])
    def test_one_and_many(self, layout, tmp_path, name, options):
        files = [tmp_path / "a", tmp_path / "b"]
        for file in files:
            file.write_bytes(file.name.encode() * 5000)
        options = ["--compress", name, *options]
        blobs = answer("put", layout, *files, *options)["blobs"]
        assert [list(b) for b in blobs] == [["digest", "size", "source", "diffId", "plainSize"]] * 2
        for file, blob in zip(files, blobs, strict=True):
            content = file.read_bytes()
            assert (blob["diffId"], blob["plainSize"]) == (digest_of(content), 5000)
            assert blob["size"] < 1000
            with fastcas.open(layout) as cas, cas.get_plain_blob(blob["digest"]) as plain:
                assert plain.readall() == content
        assert call("put", layout, files[0], *options).stdout == blobs[0]["digest"] + "\n"

    def test_a_pipe(self, layout):
        result = run("put", layout, "-", "--compress", "gzip", "--json", input=b"x" * 9000)
        assert json.loads(result.stdout)["blobs"][0]["diffId"] == digest_of(b"x" * 9000)

    def test_errors(self, layout, tmp_path):
        (tmp_path / "a").touch()
        call("put", layout, tmp_path / "a", "--level", "3", code=2)
        call("put", layout, tmp_path / "a", "--compress", "lz4711", code=2)
        call("put", layout, tmp_path / "a", "--compress", "gzip", "--level", "10", code=2)
        assert answer("ls", layout) == {"blobs": []}


class TestGet:
    def test_to_standard_output(self, layout):
        content = os.urandom(2 * MIB + 333)
        with fastcas.open(layout) as cas:
            digest = cas.put_blob(content).digest
        assert run("get", layout, digest).stdout == content
        assert run("get", layout, digest, "-o", "-").stdout == content
        assert call("get", layout, digest).stdout_bytes == content

    def test_to_a_file(self, image, tmp_path):
        out = tmp_path / "out"
        facts = answer("get", image["layout"], image["layer"], "-o", out)
        assert facts.pop("method") in {"reflink", "copy_file_range", "sendfile", "copy"}
        assert facts == {"digest": image["layer"], "size": 5000}
        assert out.read_bytes() == b"layer" * 1000

    def test_by_name(self, image):
        assert call("get", image["layout"], "v1").stdout_bytes == image["raw"]

    def test_damaged(self, layout, tmp_path):
        content = os.urandom(3 * MIB)
        with fastcas.open(layout) as cas:
            digest = cas.put_blob(content).digest
        corrupt(layout, digest)
        result = run("get", layout, digest)
        assert result.returncode == 1
        assert result.stderr.decode().startswith(f"fastcas: {digest}")
        assert len(result.stdout) < len(content)
        call("get", layout, digest, "-o", tmp_path / "out", code=1)
        assert os.listdir(tmp_path) == ["image"]

    def test_absent(self, layout):
        assert ABSENT in call("get", layout, ABSENT, code=3).stderr
        assert "v7" in call("get", layout, "v7", code=3).stderr

    def test_json_needs_a_file(self, image):
        call("get", image["layout"], image["layer"], "--json", code=2)

    def test_name_of_two_contents(self, image):
        with fastcas.open(image["layout"]) as cas:
            name = {"org.opencontainers.image.ref.name": "v1"}
            other = fastcas.Descriptor(MEDIA_TYPE_CONFIG, image["config"], 2, annotations=name)
            cas.update_index(lambda index: index.replace(manifests=[*index.manifests, other]))
        assert image["config"] in call("get", image["layout"], "v1", code=4).stderr


class TestList:
    def test_blobs(self, image):
        sizes = {image["config"]: 2, image["layer"]: 5000, image["manifest"]: len(image["raw"])}
        blobs = answer("ls", image["layout"])["blobs"]
        assert {blob["digest"]: blob["size"] for blob in blobs} == sizes
        assert all(list(blob) == ["digest", "size"] for blob in blobs)
        assert sorted(call("ls", image["layout"]).stdout.split()) == sorted(sizes)
        lines = call("ls", "--long", image["layout"]).stdout.splitlines()
        assert {line.split()[0]: int(line.split()[1]) for line in lines} == sizes

    def test_empty(self, layout):
        assert answer("ls", layout) == {"blobs": []}
        assert call("ls", layout).stdout == ""

    def test_references(self, image):
        assert answer("refs", image["layout"]) == {
            "references": [
                {
                    "name": "v1",
                    "digest": image["manifest"],
                    "mediaType": MEDIA_TYPE_MANIFEST,
                    "size": len(image["raw"]),
                }
            ]
        }
        line = call("refs", image["layout"]).stdout.rstrip("\n")
        assert line.split("\t")[:2] == ["v1", image["manifest"]]

    def test_control_characters_in_a_name(self, layout):
        with fastcas.open(layout) as cas:
            name = {"org.opencontainers.image.ref.name": "a\x1b[31m\nb"}
            entry = fastcas.Descriptor(MEDIA_TYPE_MANIFEST, ABSENT, 1, annotations=name)
            cas.put_index(fastcas.Index([entry]))
        assert call("refs", layout).stdout.startswith("a\\x1b[31m\\nb\t")
        assert answer("refs", layout)["references"][0]["name"] == "a\x1b[31m\nb"
        assert answer("untag", layout, "a\x1b[31m\nb")["digest"] == ABSENT


class TestStat:
    def test_layout(self, image):
        assert answer("stat", image["layout"]) == {
            "path": str(image["layout"]),
            "blobs": 3,
            "size": 5002 + len(image["raw"]),
            "entries": 1,
            "references": 1,
        }
        assert "blobs: 3\n" in call("stat", image["layout"]).stdout

    def test_blob(self, image):
        facts = answer("stat", image["layout"], image["layer"])
        assert facts == {"digest": image["layer"], "size": 5000}
        assert "4.9 KiB (5000 bytes)" in call("stat", image["layout"], image["layer"]).stdout

    def test_image(self, image):
        facts = answer("stat", image["layout"], "v1")
        assert facts["name"] == "v1"
        assert facts["digest"] == image["manifest"]
        assert facts["stored"] is True
        assert facts["config"]["digest"] == image["config"]
        assert [layer["digest"] for layer in facts["layers"]] == [image["layer"]]
        assert image["layer"] in call("stat", image["layout"], "v1").stdout

    def test_image_that_is_not_stored(self, image):
        call("rm", image["layout"], image["manifest"])
        assert answer("stat", image["layout"], "v1")["stored"] is False

    def test_index_with_platforms(self, image):
        platform = fastcas.Platform("arm64", "linux", variant="v8")
        entry = fastcas.Descriptor(
            MEDIA_TYPE_MANIFEST, image["manifest"], len(image["raw"]), platform=platform
        )
        with fastcas.open(image["layout"]) as cas:
            stored = cas.put_json(fastcas.Index([entry]))
            cas.update_reference("all", fastcas.Descriptor(MEDIA_TYPE_INDEX, *stored))
        (manifest,) = answer("stat", image["layout"], "all")["manifests"]
        assert manifest["platform"] == "linux/arm64/v8"

    def test_a_name_that_has_the_grammar_of_a_digest(self, image):
        call("tag", image["layout"], "host:5000", "v1")
        assert answer("stat", image["layout"], "host:5000")["digest"] == image["manifest"]

    @pytest.mark.parametrize("target", [ABSENT, "v7", "multihash+base58:Qm", "host:5000"])
    def test_absent(self, layout, target):
        assert target in call("stat", layout, target, code=3).stderr

    @pytest.mark.parametrize("target", ["sha256:", "sha256:" + "0" * 63, "sha256:../x"])
    def test_invalid_digest(self, layout, target):
        call("stat", layout, target, code=4)


class TestShortDigests:
    """Of blobs that no index has: a config, a layer, a loose one."""

    @pytest.mark.parametrize("what", ["config", "layer", "loose"])
    @pytest.mark.parametrize(("start", "end"), [(0, 14), (0, 19), (7, 14), (7, 60)])
    def test_of_any_blob(self, image, tmp_path, what, start, end):
        layout = image["layout"]
        with fastcas.open(layout) as cas:
            digest = {**image, "loose": cas.put_blob(b"loose").digest}[what]
            content = cas.read_blob(digest)
        text = digest[start:end]
        assert call("get", layout, text).stdout_bytes == content
        assert answer("stat", layout, text) == {"digest": digest, "size": len(content)}
        call("cp", f"{layout}:{text}", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == content
        assert answer("rm", layout, text) == {"deleted": [digest]}

    @pytest.mark.parametrize("command", ["get", "stat", "rm"])
    def test_of_several_and_of_none(self, layout, command):
        folder = layout / "blobs" / "sha256"
        one, two = (f"{'ab' * 31}{number}" for number in ("00", "11"))
        for name in (one, two):
            (folder / name).write_bytes(b"")
        stderr = call(command, layout, "abababa", code=4).stderr
        assert f"sha256:{one}, sha256:{two}" in stderr
        call(command, layout, "sha256:ababab", code=4)
        call(command, layout, "sha256:1234567", code=3)
        assert call(command, layout, "ababab", code=4 if command == "rm" else 3)
        assert sorted(os.listdir(folder)) == [one, two]

    def test_the_index_comes_first(self, image):
        layout = image["layout"]
        text = image["manifest"][7:14]
        (layout / "blobs" / "sha256" / text.ljust(64, "0")).write_bytes(b"")
        assert answer("stat", layout, text)["digest"] == image["manifest"]
        call("tag", layout, image["layer"][7:14], "v1")
        assert answer("stat", layout, image["layer"][7:14])["digest"] == image["manifest"]
        assert "begins 2 digests" in call("rm", layout, text, code=4).stderr

    def test_tag(self, image):
        call("untag", image["layout"], "v1")
        short = image["manifest"][7:19]
        assert answer("tag", image["layout"], "v2", short)["digest"] == image["manifest"]


class TestCopy:
    @pytest.mark.parametrize("options", [[], ["--verify"], ["--link"]])
    def test_blob_out(self, image, tmp_path, options):
        out = tmp_path / "out"
        facts = answer("cp", f"{image['layout']}:{image['layer']}", out, *options)
        methods = {"reflink", "hardlink", "copy_file_range", "sendfile", "copy"}
        assert facts.pop("method") in methods
        assert facts == {"blobs": 1, "bytes": 5000}
        assert out.read_bytes() == b"layer" * 1000

    def test_by_name_and_into_a_folder(self, image, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        result = call("cp", f"{image['layout']}:v1", folder)
        assert (folder / image["manifest"][7:]).read_bytes() == image["raw"]
        assert result.stdout == ""
        assert f"wrote the manifest of v1 to {folder}/{image['manifest'][7:]}" in result.stderr
        assert f"{folder} is no layout" in result.stderr
        assert call("cp", f"{image['layout']}:{image['manifest']}", folder).output == ""
        assert f"{folder} is no layout" in call("cp", image["layout"], folder, code=2).stderr

    def test_verified(self, image, tmp_path):
        corrupt(image["layout"], image["layer"])
        source = f"{image['layout']}:{image['layer']}"
        call("cp", source, tmp_path / "out", "--verify", code=1)
        assert not (tmp_path / "out").exists()

    def test_wrong_use(self, image, tmp_path):
        call("cp", f"{image['layout']}:", tmp_path / "out", code=2)
        call("cp", f"{image['layout']}:{image['layer']}", "-", code=2)

    def test_absent(self, image, tmp_path):
        call("cp", f"{image['layout']}:v7", tmp_path / "out", code=3)
        call("cp", f"{tmp_path}/none:v1", tmp_path / "out", code=3)

    def test_paths_with_colons(self, tmp_path):
        for path in ("a", "a:b", "a:b:c"):
            (tmp_path / path).mkdir()
        base = f"{tmp_path}/a"
        assert split_place(f"{base}:v1") == (base, "v1")
        assert split_place(f"{base}:{ABSENT}") == (base, ABSENT)
        assert split_place(f"{base}:b:v1") == (f"{base}:b", "v1")
        assert split_place(f"{base}:b:host:5000/team:v1") == (f"{base}:b", "host:5000/team:v1")
        assert split_place(f"{base}:b:c:{ABSENT}") == (f"{base}:b:c", ABSENT)
        assert split_place(f"{base}:b") == (f"{base}:b", None)
        assert split_place(f"{tmp_path}/none:{ABSENT}") == (f"{tmp_path}/none", ABSENT)


class TestChange:
    def test_remove(self, image):
        layer = image["layer"]
        assert answer("rm", image["layout"], layer, ABSENT) == {"deleted": [layer]}
        assert answer("rm", image["layout"], layer) == {"deleted": []}
        assert call("rm", image["layout"], image["config"]).output == ""
        assert [b["digest"] for b in answer("ls", image["layout"])["blobs"]] == [image["manifest"]]

    def test_remove_checks_all_digests_first(self, image):
        call("rm", image["layout"], image["layer"], "sha256:x", code=4)
        assert len(answer("ls", image["layout"])["blobs"]) == 3

    @pytest.mark.parametrize("name", ["site:v2", "host:5000", "abcdef12"])
    def test_remove_is_not_for_references(self, image, name):
        call("tag", image["layout"], name, "v1")
        stderr = call("rm", image["layout"], image["layer"], name, code=4).stderr
        assert f"{name} is a reference" in stderr
        assert "untag" in stderr
        assert len(answer("ls", image["layout"])["blobs"]) == 3
        assert "site:v3" in call("rm", image["layout"], "site:v3", code=3).stderr

    def test_remove_of_an_algorithm_that_is_not_registered(self, image):
        path = image["layout"] / "blobs" / "md5"
        path.mkdir()
        (path / "abc").write_bytes(b"")
        assert answer("rm", image["layout"], "md5:abc") == {"deleted": ["md5:abc"]}
        assert not (path / "abc").exists()

    @pytest.mark.parametrize("target", ["v1", "manifest"])
    def test_tag(self, image, target):
        target = image.get(target, target)
        facts = {"name": "new", "digest": image["manifest"]}
        assert answer("tag", image["layout"], "new", target) == facts
        assert [r["name"] for r in answer("refs", image["layout"])["references"]] == ["v1", "new"]

    def test_tag_of_a_stored_document_without_an_entry(self, image):
        call("untag", image["layout"], "v1")
        call("tag", image["layout"], "v1", image["manifest"])
        (entry,) = answer("refs", image["layout"])["references"]
        assert entry["mediaType"] == MEDIA_TYPE_MANIFEST

    def test_tag_errors(self, image):
        call("tag", image["layout"], "new", "v7", code=3)
        call("tag", image["layout"], "new", ABSENT, code=3)
        call("tag", image["layout"], "not ok", "v1", code=4)
        call("tag", image["layout"], "new", image["layer"], code=4)

    def test_untag(self, image):
        facts = {"name": "v1", "digest": image["manifest"]}
        assert answer("untag", image["layout"], "v1") == facts
        assert answer("refs", image["layout"]) == {"references": []}
        assert "v1" in call("untag", image["layout"], "v1", code=3).stderr

    def test_clean(self, layout):
        assert answer("clean", layout) == {"removed": []}
        assert call("clean", layout).output == ""
        name = ".fastcas-0123456789abcdef.tmp"
        (layout / name).write_bytes(b"half")
        assert answer("clean", layout) == {"removed": [name]}
        (layout / name).write_bytes(b"half")
        assert call("clean", layout).stdout == name + "\n"


COMMANDS = [
    ["put", "LAYOUT", "-"],
    ["get", "LAYOUT", ABSENT],
    ["ls", "LAYOUT"],
    ["stat", "LAYOUT"],
    ["rm", "LAYOUT", ABSENT],
    ["refs", "LAYOUT"],
    ["tag", "LAYOUT", "new", "old"],
    ["untag", "LAYOUT", "old"],
    ["clean", "LAYOUT"],
    ["tree", "LAYOUT"],
    ["referrers", "LAYOUT", "v1"],
    ["gc", "LAYOUT"],
    ["gc", "LAYOUT", "--dry-run", "--keep-newest", "1"],
    ["scrub", "LAYOUT"],
    ["build", "LAYOUT", "/", "--tag", "v1"],
    ["append", "LAYOUT", "v1", "/"],
    ["artifact", "LAYOUT", "/", "--type", "a/b", "--tag", "v1"],
    ["cp", "-", "LAYOUT"],
    ["cp", "LAYOUT", "-"],
]


class TestErrors:
    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_no_layout(self, tmp_path, command):
        for path, code in ((tmp_path / "none", 3), (tmp_path, 4)):
            if command[0] == "cp" and command[-1] == "LAYOUT" and code == 3:
                continue  # it makes one
            stderr = call(*[str(path) if a == "LAYOUT" else a for a in command], code=code).stderr
            assert str(path) in stderr

    def test_wrong_use(self):
        call("frobnicate", code=2)
        call("ls", code=2)
        call("ls", "a", "--colour", code=2)

    @pytest.mark.parametrize(
        "command", [["refs"], ["gc"], ["scrub"], ["tag", "a", "v1"], ["get", "v1"], ["cp", "-"]]
    )
    def test_a_broken_index_is_named(self, image, command):
        index = image["layout"] / "index.json"
        index.write_bytes(b"{")
        name, *rest = command
        stderr = call(name, image["layout"], *rest, code=4).stderr
        assert stderr.startswith(f"fastcas: {index}: not valid JSON: ")

    @pytest.mark.parametrize(
        ("message", "shown"),
        [
            ("index: bad", "/x/image/index.json: bad"),
            ("index.json: not a regular file", "/x/image/index.json: not a regular file"),
            ("'/x/image': no index", "'/x/image': no index"),
            ("something: else", "/x/image/index.json: something: else"),
            ("bad", "/x/image/index.json: bad"),
        ],
    )
    def test_the_path_stands_in_the_message_once(self, message, shown):
        assert describe(InvalidError(message, path="/x/image/index.json")) == shown
        assert describe(InvalidError(message, path="/x/image/index.json", digest=ABSENT)) == message
        assert describe(InvalidError(message)) == message

    def test_defects_of_the_program_are_not_hidden(self, layout, monkeypatch):
        monkeypatch.setattr(fastcas.DirEngine, "clean", lambda self: 1 / 0)
        result = CliRunner().invoke(main, ["clean", str(layout)])
        assert isinstance(result.exception, ZeroDivisionError)

    def test_the_system_refuses(self, layout, monkeypatch):
        def full(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")

        monkeypatch.setattr(fastcas.DirEngine, "clean", full)
        result = call("clean", layout, code=5)
        assert result.stderr == f"fastcas: /somewhere: {os.strerror(errno.ENOSPC)}\n"

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("command", [["ls"], ["ls", "--json"], ["get", "v1"]])
    def test_output_on_a_full_device(self, image, command, unbuffered):
        name, *rest = command
        environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}
        with open("/dev/full", "wb") as full:
            arguments = [name, image["layout"], *rest]
            result = run(*arguments, stdout=full, env=environment)
        message = f"fastcas: standard output: {os.strerror(errno.ENOSPC)}\n"
        assert (result.returncode, result.stderr.decode()) == (5, message)

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("command", [["--help"], ["--version"], ["put", "--help"]])
    def test_help_on_a_full_device_and_to_a_reader_that_left(self, command, unbuffered):
        environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}
        with open("/dev/full", "wb") as full:
            result = run(*command, stdout=full, env=environment)
        message = f"fastcas: {os.strerror(errno.ENOSPC)}\n"
        assert (result.returncode, result.stderr.decode()) == (5, message)
        receive, send = os.pipe()
        os.close(receive)
        with open(send, "wb") as pipe:
            result = run(*command, stdout=pipe, env=environment)
        assert (result.returncode, result.stderr) == (141, b"")

    @pytest.mark.parametrize(("command", "code"), [([], 2), (["ls", "/nowhere"], 3), (["ls"], 2)])
    def test_messages_that_no_one_can_be_shown(self, command, code):
        with open("/dev/full", "wb") as full:
            assert run(*command, stderr=full).returncode == code

    def test_closed_streams(self, image):
        command = f'exec "$0" -m fastcas "$@" {"{}"}'
        for closed, arguments in (
            (">&-", ["ls", image["layout"]]),
            (">&-", ["get", image["layout"], "v1"]),
            ("<&-", ["put", image["layout"], "-"]),
        ):
            shell = ["bash", "-c", command.format(closed), sys.executable, *arguments]
            result = subprocess.run(shell, capture_output=True, timeout=60, env=ENVIRONMENT)
            assert result.returncode == 5
            assert result.stderr.startswith(b"fastcas: standard ")
        shell = ["bash", "-c", command.format("2>&-"), sys.executable, "get", image["layout"], ABSENT]
        assert subprocess.run(shell, timeout=60, env=ENVIRONMENT).returncode == 3


class TestPipes:
    def test_tar_both_ways(self, layout, tmp_path):
        source = tmp_path / "site"
        source.mkdir()
        for number in range(20):
            (source / f"{number}.bin").write_bytes(os.urandom(100_000))
        program = " ".join(FASTCAS)
        script = (
            "set -o pipefail; "
            f'digest=$(tar c -C "$1" site | {program} put "$2" -) && '
            f'{program} get "$2" "$digest" | tar t'
        )
        result = subprocess.run(
            ["bash", "-c", script, "bash", tmp_path, layout],
            capture_output=True, text=True, timeout=60, env=ENVIRONMENT,
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (0, "")
        assert len(result.stdout.splitlines()) == 21

    def test_reader_that_leaves(self, layout):
        names = [f"{number:064x}" for number in range(3000)]
        (layout / "blobs" / "sha256").mkdir(exist_ok=True)
        for name in names:
            (layout / "blobs" / "sha256" / name).touch()
        with fastcas.open(layout) as cas:
            digest = cas.put_blob(os.urandom(4 * MIB)).digest
        for arguments in (["ls", layout], ["ls", layout, "--json"], ["get", layout, digest]):
            with subprocess.Popen(
                [*FASTCAS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
            ) as process:
                process.stdout.read(100)
                process.stdout.close()
                assert process.stderr.read() == b""
                assert process.wait(60) == 128 + signal.SIGPIPE

    def test_non_blocking_output(self, layout):
        content = os.urandom(3 * MIB)
        with fastcas.open(layout) as cas:
            digest = cas.put_blob(content).digest
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with subprocess.Popen([*FASTCAS, "get", layout, digest], stdout=writer) as process:
            os.close(writer)
            with open(reader, "rb") as file:
                assert file.read() == content
        assert process.returncode == 0

    def test_interrupt(self, layout):
        with subprocess.Popen(
            [*FASTCAS, "put", layout, "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
        ) as process:  # fmt: skip
            # More than the pipe holds: when this returns, the put is under way.
            process.stdin.write(bytes(2 * MIB))
            process.stdin.flush()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130  # standard input stays open: else it would go on
            assert process.stderr.read() == b"fastcas: interrupted\n"
            process.stdin.close()
        assert not [n for n in os.listdir(layout) if n.endswith(".tmp")]
        assert answer("ls", layout) == {"blobs": []}


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.text()


COLUMNS = {**ENVIRONMENT, "COLUMNS": "120", "TERM": "xterm"}


class TestTerminal:
    def feed(self, process, content):
        """Lets a put last 1.6 s."""
        for start in range(0, len(content), MIB):
            process.stdin.write(content[start : start + MIB])
            process.stdin.flush()
            time.sleep(0.1)
        process.stdin.close()

    def test_progress_of_a_long_put(self, layout, terminal):
        content = bytes(16 * MIB)
        with subprocess.Popen(
            [*FASTCAS, "put", layout, "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=terminal.program, env=COLUMNS,
        ) as process:  # fmt: skip
            self.feed(process, content)
            assert process.stdout.read().decode() == digest_of(content) + "\n"
        text = terminal.text()
        assert process.returncode == 0, text
        assert "standard input" in text
        assert "MiB" in text
        assert "/s" in text
        assert text.rstrip().endswith("/s")

    def test_progress_of_a_long_get(self, layout, terminal):
        content = bytes(16 * MIB)
        with fastcas.open(layout) as cas:
            digest = cas.put_blob(content).digest
        with subprocess.Popen(
            [*FASTCAS, "get", layout, digest],
            stdout=subprocess.PIPE, stderr=terminal.program, env=COLUMNS,
        ) as process:  # fmt: skip
            received = 0
            while data := process.stdout.read(MIB):
                received += len(data)
                time.sleep(0.1)
        text = terminal.text()
        assert process.returncode == 0, text
        assert received == len(content)
        assert "16.0 MiB" in text
        assert "/s" in text

    def test_no_progress_where_stderr_is_no_terminal(self, layout):
        content = bytes(16 * MIB)
        with subprocess.Popen(
            [*FASTCAS, "put", layout, "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=COLUMNS,
        ) as process:  # fmt: skip
            self.feed(process, content)
            assert process.stderr.read() == b""
            assert process.wait(60) == 0

    def test_no_progress_of_what_is_short(self, layout, terminal, tmp_path):
        (tmp_path / "a").write_bytes(bytes(4 * MIB))
        # However slow the disk is: short is what ends before the patience does.
        program = "import fastcas.cli, fastcas.console as c; c.PATIENCE = 3600; fastcas.cli.main()"
        result = subprocess.run(
            [sys.executable, "-c", program, "put", layout, tmp_path / "a"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal.program,
            timeout=60, env=ENVIRONMENT,
        )  # fmt: skip
        assert result.returncode == 0
        assert terminal.text() == ""

    def test_a_manifest_that_becomes_a_file(self, image, terminal, tmp_path):
        out = tmp_path / "out"
        for name in ("v1", image["manifest"], image["manifest"][7:14]):
            run("cp", f"{image['layout']}:{name}", out, stderr=terminal.program)
        message = f"fastcas: wrote the manifest of v1 to {out}: for a layout, {out}/\r\n"
        assert terminal.text() == message
        assert run("cp", f"{image['layout']}:v1", out).stderr == b""

    def test_sizes_for_people(self, image, terminal):
        for arguments in (["ls"], ["refs"], ["put", "-"], ["put", "-", "/dev/null"]):
            name, *rest = arguments
            result = run(name, image["layout"], *rest, input=b"x" * 2000, stdout=terminal.program)
            assert (result.returncode, result.stderr) == (0, b"")
        text = terminal.text()
        assert f"{image['layer']}  4.9 KiB" in text
        assert "\t" not in text
        assert f"{digest_of(b'x' * 2000)}  2.0 KiB\r\n" in text
        assert "2.0 KiB  -\r\n" in text


class TestNames:
    def test_not_utf8(self, layout, tmp_path, terminal):
        file = os.fsencode(tmp_path) + b"/caf\xe9\n"
        with open(file, "wb") as stream:
            stream.write(b"content")
        result = run("put", layout, file, "--json")
        source = json.loads(result.stdout)["blobs"][0]["source"]
        assert source == f"{tmp_path}/caf\\xe9\n"
        result = run("put", layout, file, "/dev/null", stdout=terminal.program)
        assert result.returncode == 0
        assert f"{tmp_path}/caf\\xe9\\n" in terminal.text()
        result = run("put", layout, file + b"-")
        assert result.returncode == 3
        assert result.stderr.decode().startswith(f"fastcas: {tmp_path}/caf\\xe9\\n-: ")

    def test_not_utf8_in_json_and_messages(self, layout, tmp_path):
        name = b"b\xff\xf0\x9f\x98\x80"  # which ends with a character outside of UTF-16's first plane
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)
        file = os.fsencode(tmp_path) + b"/" + name + b"/" + name
        with open(file, "wb"):
            pass
        shown = "b\\xff\U0001f600"
        result = run("put", "--json", layout, name, cwd=os.path.dirname(file))
        assert json.loads(result.stdout)["blobs"][0]["source"] == shown
        assert b"\\udcff" not in result.stdout
        for command, code in (
            (["ls", file], 4),
            (["build", layout, "/dev/null", "--tag", "a", "--env", b"A=" + name], 2),
            (["build", layout, layout, "--tag", "a", "--user", name], 4),
            (["artifact", layout, file, "--tag", "a", "--type", "a/b"], 4),
            (["artifact", layout, os.path.dirname(file), "--tag", "a", "--type", "a/b"], 4),
        ):
            result = run(*command)
            message = result.stderr.decode()
            assert result.returncode == code, message
            assert shown in message
            assert "UTF-8" in message or command[0] == "ls"

    def test_layout_with_odd_names(self, tmp_path):
        for name in (b"img[12]", b"a b", b"caf\xe9"):
            path = os.fsencode(tmp_path) + b"/" + name
            assert run("init", path).returncode == 0
            assert run("put", path, "-", input=b"x").stdout.decode() == digest_of(b"x") + "\n"

    def test_latin1_terminal(self, layout):
        with fastcas.open(layout) as cas:
            name = {"org.opencontainers.image.ref.name": "名"}
            entry = fastcas.Descriptor(MEDIA_TYPE_MANIFEST, ABSENT, 1, annotations=name)
            cas.put_index(fastcas.Index([entry]))
        result = run("refs", layout, env={**ENVIRONMENT, "PYTHONIOENCODING": "latin-1"})
        assert result.returncode == 0
        assert result.stdout.startswith(b"\\u540d\t")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (12_900_000, "12.3 MiB"),
     (MIB - 1, "1.0 MiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB"), (2000 << 40, "2000 TiB"),
     (1023 * 1024, "1023 KiB"), (99 * 1024 + 1000, "100 KiB"), (200 << 30, "200 GiB")],
)  # fmt: skip
def test_human(size, text):
    assert human(size) == text


def test_printable():
    assert printable("caf\u00e9 v1") == "caf\u00e9 v1"
    assert printable("a\x07\n\udce9") == "a\\x07\\n\\xe9"
