"""cp of images on the command line: layouts, archives, pipes. Of blobs: test_cli.py."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile

import pytest

import fastcas
from samples import make_tar, put_platforms
from shell import ENVIRONMENT, FASTCAS, Terminal, answer, blob_path, call, corrupt, run

PLAIN = make_tar(a=b"content" * 3000)


@pytest.fixture
def image(tmp_path):
    """A layout with the image v1, what is about it, the index multi and an unused blob."""
    path = tmp_path / "image"
    (tmp_path / "a.tar").write_bytes(PLAIN)
    call("init", path)
    call("build", path, tmp_path / "a.tar", "--tag", "v1")
    call("artifact", path, tmp_path / "a.tar", "--type", "a/b", "--subject", "v1")
    with fastcas.open(path, durability="none") as cas:
        cas.update_reference("multi", put_platforms(cas, "amd64", "arm64"))
        cas.put_blob(b"unused")
    return path


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "other"
    call("init", path)
    return path


def names(layout):
    return {r["name"]: r["digest"] for r in answer("refs", layout)["references"]}


def assert_whole(layout):
    assert answer("scrub", layout)["problems"] == []


class TestLayouts:
    def test_image(self, image, other):
        facts = answer("cp", f"{image}:v1", other)
        assert list(facts) == ["blobs", "bytes", "method", "missing"]
        assert facts["blobs"] == 3
        assert facts["bytes"] == answer("stat", image, "v1")["total"]
        assert facts["method"] in ("reflink", "copy")
        assert facts["missing"] == []
        assert names(other) == {"v1": names(image)["v1"]}
        assert_whole(other)
        again = {"blobs": 0, "bytes": 0, "method": "exists", "missing": []}
        assert answer("cp", f"{image}:v1", f"{other}:v2", "--verify") == again
        assert set(names(other)) == {"v1", "v2"}
        assert call("cp", f"{image}:v1", other).output == ""

    def test_verify_heals_what_the_target_has(self, image, other):
        with fastcas.open(image, durability="none") as cas:
            big = cas.put_blob(bytes(2 << 20))
            cas.update_reference("big", fastcas.Descriptor("application/octet-stream", *big))
        call("cp", f"{image}:big", other)
        corrupt(other, big.digest)
        assert answer("cp", f"{image}:big", other)["method"] == "exists"
        assert run("scrub", other).returncode == 1
        assert answer("cp", f"{image}:big", other, "--verify")["missing"] == []
        assert_whole(other)

    def test_by_digest(self, image, other):
        digest = names(image)["v1"]
        call("cp", f"{image}:{digest[7:20]}", f"{other}:short")
        call("cp", f"{image}:{digest}", f"{other}:whole")
        call("cp", f"{image}:v1@{digest}", f"{other}:both")
        assert names(other) == dict.fromkeys(["short", "whole", "both"], digest)

    def test_platform_and_index(self, image, other):
        call("cp", f"{image}:multi", other)
        assert names(other) == {"multi": names(image)["multi"]}
        call("cp", f"{image}:multi", f"{other}:arm", "--platform", "linux/arm64")
        assert answer("stat", other, "arm")["platform"] == "linux/arm64"
        assert_whole(other)

    def test_referrers(self, image, other):
        call("cp", f"{image}:v1", other)
        assert answer("referrers", other, "v1")["referrers"] == []
        call("cp", f"{image}:v1", other, "--referrers")
        assert answer("referrers", other, "v1") == answer("referrers", image, "v1")
        assert_whole(other)

    def test_what_the_source_lacks(self, image, other):
        (_, arm64) = answer("stat", image, "multi")["manifests"]
        call("rm", image, arm64["digest"])
        result = run("cp", f"{image}:multi", other, "--json")
        assert result.returncode == 0
        assert json.loads(result.stdout)["missing"] == [arm64["digest"]]
        assert result.stderr.startswith(b"fastcas: 1 blob left out")

    def test_all_of_a_layout(self, image, other, tmp_path):
        facts = answer("cp", image, other)
        assert (facts["method"], facts["missing"]) == ("copy", [])
        assert names(other) == names(image)
        assert answer("cp", image, other)["blobs"] == 0
        assert answer("cp", image, tmp_path / "new")["blobs"] == facts["blobs"]
        assert names(tmp_path / "new") == names(image)
        assert_whole(tmp_path / "new")

    @pytest.mark.parametrize("there", ["deep/new:v1", "new/", "new/:v1"])
    def test_to_a_layout_that_is_made(self, image, tmp_path, there):
        facts = answer("cp", f"{image}:v1", f"{tmp_path}/{there}")
        made = tmp_path / there.partition(":")[0]
        assert facts["blobs"] == 3
        assert names(made) == {"v1": names(image)["v1"]}
        assert_whole(made)

    def test_a_digest_goes_to_a_file_whatever_that_is_called(self, image, tmp_path):
        digest = names(image)["v1"]
        call("cp", f"{image}:{digest}", f"{tmp_path}/file:v1")
        assert (tmp_path / "file:v1").is_file()

    def test_damaged(self, image, other):
        digest = names(image)["v1"]
        corrupt(image, digest)
        assert digest in call("cp", f"{image}:v1", other, code=1).stderr
        assert names(other) == {}

    def test_errors(self, image, other, tmp_path):
        call("cp", image, f"{other}:v1", code=2)
        call("cp", image, other, "--referrers", code=2)
        call("cp", image, f"{tmp_path}/none", "--platform", "linux/arm64", code=2)
        call("cp", f"{image}:v1", f"{other}:", code=2)
        call("cp", f"{image}:v1", other, "--link", code=2)
        call("cp", f"{image}:v1", f"{tmp_path}/none:v1", "--link", code=2)
        call("cp", f"{image}:v7", other, code=3)
        call("cp", f"{image}:v7", f"{tmp_path}/none:v1", code=3)
        call("cp", f"{image}:v7", f"{tmp_path}/none/", code=3)
        call("cp", f"{image}:multi", other, "--platform", "linux/s390x", code=3)
        call("cp", f"{image}:v1", f"{other}:not ok", code=4)
        assert names(other) == {}
        assert sorted(os.listdir(tmp_path)) == ["a.tar", "image", "other"]


class TestArchives:
    def test_one_image(self, image, other, tmp_path):
        file = tmp_path / "v1.tar"
        facts = answer("cp", f"{image}:v1", file)
        assert facts == {
            "blobs": 3,
            "bytes": answer("stat", image, "v1")["total"],
            "method": "copy",
            "missing": [],
        }
        with tarfile.open(file) as archive:
            assert sum(member.isfile() for member in archive) == 5
        facts = answer("cp", file, other)
        assert (facts["blobs"], facts["method"]) == (3, "copy")
        assert names(other) == {"v1": names(image)["v1"]}
        assert_whole(other)

    def test_whole_layout(self, image, other, tmp_path):
        file = tmp_path / "all.tar"
        call("cp", image, file)
        call("cp", f"{file}:multi", other)
        assert list(names(other)) == ["multi"]
        call("cp", file, other)
        call("cp", file, tmp_path / "new")  # which is made
        assert names(other) == names(image) == names(tmp_path / "new")
        assert_whole(other)
        # What nothing leads to stays behind.
        assert len(answer("ls", other)["blobs"]) == len(answer("ls", image)["blobs"]) - 1

    def test_platform_and_referrers(self, image, other, tmp_path):
        call("cp", f"{image}:multi", tmp_path / "arm.tar", "--platform", "linux/arm64")
        call("cp", tmp_path / "arm.tar", other)
        assert answer("stat", other, "multi")["platform"] == "linux/arm64"
        call("cp", f"{image}:v1", tmp_path / "v1.tar", "--referrers")
        call("cp", tmp_path / "v1.tar", other)
        assert len(answer("referrers", other, "v1")["referrers"]) == 1

    @pytest.mark.parametrize(
        ("source", "stdin"), [("", "-"), (":v1", "/dev/stdin:v1"), (":v1", "-- -:v1"), (":v1", "-")]
    )
    def test_pipes(self, image, other, source, stdin):
        program = " ".join(FASTCAS)
        script = f'{program} cp "$1" - | {program} cp --json {stdin} "$2"'
        result = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {script}", "bash", f"{image}{source}", other],
            capture_output=True, timeout=60, env=ENVIRONMENT,
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (0, b"")
        assert list(json.loads(result.stdout)) == ["blobs", "bytes", "method"]
        assert names(other)["v1"] == names(image)["v1"]
        assert len(names(other)) == (1 if source else 2)

    def test_stdout_is_what_a_file_is(self, image, tmp_path):
        call("cp", image, tmp_path / "all.tar")
        assert run("cp", image, "-").stdout == (tmp_path / "all.tar").read_bytes()
        assert call("cp", image, "-").stdout_bytes == (tmp_path / "all.tar").read_bytes()

    def test_a_digest_is_a_blob_also_in_a_file_called_tar(self, image, tmp_path):
        digest = answer("stat", image, "v1")["layers"][0]["digest"]
        call("cp", f"{image}:{digest}", tmp_path / "layer.tar")
        assert (tmp_path / "layer.tar").read_bytes() == PLAIN

    def test_a_file_is_not_taken_for_a_layout(self, image, tmp_path):
        call("cp", f"{image}:multi", tmp_path / "m.json", "--platform", "linux/arm64")
        assert json.loads((tmp_path / "m.json").read_bytes())["schemaVersion"] == 2

    def test_damaged_archives(self, image, other, tmp_path):
        file = tmp_path / "all.tar"
        call("cp", image, file)
        content = file.read_bytes()
        for damaged, codes in ((content[:2000], {4}), (b"", {4}), (b"no tar" * 500, {4}),
                               (content.replace(b"content" * 3, b"C0ntent" * 3), {1})):  # fmt: skip
            file.write_bytes(damaged)
            result = run("cp", file, other)
            assert result.returncode in codes, result.stderr
            assert result.stderr.startswith(b"fastcas: ")
            assert run("cp", "-", other, input=damaged).returncode in codes
            assert names(other) == {}

    def test_what_is_no_archive(self, image, other, tmp_path):
        file = tmp_path / "f1"
        file.write_bytes(b"text")
        message = "no archive of a layout: neither a tar nor one that is compressed\n"
        assert call("cp", file, other, code=4).stderr == f"fastcas: {file}: {message}"
        assert run("cp", "-", other, input=b"text").stderr.decode() == f"fastcas: {message}"
        with tarfile.open(file, "w") as archive:
            archive.add(image / "oci-layout", "oci-layout")
        stderr = call("cp", file, other, code=4).stderr
        assert stderr == f"fastcas: {file}: not a layout, it has no index.json\n"

    def test_damaged_source(self, image, tmp_path):
        digest = answer("stat", image, "v1")["layers"][0]["digest"]
        corrupt(image, digest)
        assert digest in call("cp", image, tmp_path / "all.tar", code=1).stderr
        assert not (tmp_path / "all.tar").exists()
        assert run("cp", image, "-").returncode == 1

    def test_reader_that_leaves(self, image):
        with fastcas.open(image) as cas:
            big = cas.put_blob(os.urandom(4 << 20))
            entry = fastcas.Descriptor("application/octet-stream", *big)
            cas.update_reference("big", entry)
        with subprocess.Popen(
            [*FASTCAS, "cp", f"{image}:big", "-"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
        ) as process:  # fmt: skip
            process.stdout.read(100)
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(60) == 141

    def test_full_device(self, image):
        with open("/dev/full", "wb") as full:
            result = run("cp", image, "-", stdout=full)
        assert result.returncode == 5
        assert result.stderr.startswith(b"fastcas: standard output: ")

    def test_not_to_a_terminal(self, image):
        terminal = Terminal()
        result = run("cp", image, "-", stdout=terminal.program)
        assert (result.returncode, terminal.text()) == (2, "")

    def test_errors(self, image, other, tmp_path):
        file = tmp_path / "all.tar"
        call("cp", image, file)
        call("cp", file, f"{other}:v2", code=2)
        call("cp", file, other, "--platform", "linux/arm64", code=2)
        call("cp", file, other, "--referrers", code=2)
        call("cp", file, other, "--link", code=2)
        call("cp", image, file, "--referrers", code=2)
        call("cp", image, file, "--link", code=2)
        call("cp", f"{image}:v1", f"{tmp_path}/new.tar:v2", code=2)
        call("cp", image, "-", "--json", code=2)
        call("cp", f"{image}:v1", tmp_path / "m.json", "--referrers", code=2)
        assert "v7" in call("cp", f"{file}:v7", other, code=3).stderr
        call("cp", f"{image}:v7", tmp_path / "v7.tar", code=3)
        call("cp", tmp_path / "none.tar", other, code=3)
        assert names(other) == {}
        assert not (tmp_path / "v7.tar").exists()

    def test_link_and_verify_of_blobs(self, image, tmp_path):
        digest = answer("stat", image, "v1")["layers"][0]["digest"]
        facts = answer("cp", f"{image}:{digest}", tmp_path / "l", "--link")
        assert facts == {"blobs": 1, "bytes": len(PLAIN), "method": "hardlink"}
        assert os.path.samefile(tmp_path / "l", blob_path(image, digest))
