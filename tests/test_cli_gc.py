"""gc and scrub on the command line: dry runs, retention, exit codes, what a terminal shows."""

from __future__ import annotations

import json
import os

import pytest

import fastcas
from fastcas.image.gc import preview
from fastcas.model import MEDIA_TYPE_MANIFEST
from samples import make_tar, put_image
from shell import ABSENT, ENVIRONMENT, Terminal, answer, blob_path, call, corrupt, run

OLD = "2001-09-09T01:46:40Z"


@pytest.fixture
def layout(tmp_path):
    """Images v1, v2 and r1, of rising age-stamps, of one layer each; a signature of v1; one stray."""
    path = tmp_path / "image"
    with fastcas.create(path, durability="none") as cas:
        for number, name in enumerate(["v1", "v2", "r1"], 1):
            time = f"2001-09-0{number}T00:00:00Z"
            image = put_image(
                cas, bytes(1000 * number), annotations={"org.opencontainers.image.created": time}
            )
            cas.update_reference(name, image)
        cas.put_blob(b"unused" * 10)
    (tmp_path / "sig.tar").write_bytes(make_tar(s=b"signature"))
    call("artifact", path, tmp_path / "sig.tar", "--type", "a/sig", "--subject", "v1")
    return path


def listing(layout):
    """Everything in a layout: names, contents, times."""
    found = {}
    for folder, _, files in os.walk(layout):
        for file in files:
            place = os.path.join(folder, file)
            with open(place, "rb") as stream:
                found[place] = stream.read(), os.stat(place).st_mtime_ns
    return found


def names(layout):
    return [reference["name"] for reference in answer("refs", layout)["references"]]


class TestGC:
    def test_removes_what_is_unused(self, layout):
        before = len(answer("ls", layout)["blobs"])
        facts = answer("gc", layout, "--grace", "0")
        assert list(facts) == ["deleted", "freed", "dry_run", "kept", "dropped"]
        assert [blob["size"] for blob in facts["deleted"]] == [60]
        assert (facts["freed"], facts["dry_run"], facts["kept"]) == (60, False, before - 1)
        assert facts["dropped"] == []
        assert len(answer("ls", layout)["blobs"]) == before - 1
        assert answer("gc", layout, "--grace", "0")["deleted"] == []

    @pytest.mark.parametrize("options", [[], ["--grace", "3600"], ["--grace", "1h"], ["--grace", "1d"]])
    def test_grace(self, layout, options):
        assert answer("gc", layout, *options)["deleted"] == []

    def test_grace_of_old_blobs(self, layout):
        (unused,) = answer("gc", layout, "--dry-run", "--grace", "0")["deleted"]
        os.utime(blob_path(layout, unused["digest"]), (1, 1))
        assert answer("gc", layout, "--dry-run")["deleted"] in ([], [unused])
        assert call("gc", layout).stdout in ("", f"blob\t{unused['digest']}\t60\n")

    @pytest.mark.parametrize(
        "options", [[], ["--keep-newest", "1"], ["--older-than", "1d"], ["--max-size", "1"]]
    )
    def test_dry_run_changes_nothing_and_tells_what_would_be(self, layout, options):
        before = listing(layout)
        told = answer("gc", layout, "--grace", "0", "--dry-run", *options)
        assert answer("gc", layout, "--grace", "0", "-n", *options) == told
        text = call("gc", layout, "--grace", "0", "-n", *options).stdout
        assert listing(layout) == before
        assert told.pop("dry_run") is True
        done = answer("gc", layout, "--grace", "0", *options)
        assert done.pop("dry_run") is False
        for facts in (told, done):
            facts["deleted"].sort(key=lambda blob: blob["digest"])
        # They differ in the order of the entries: told are the oldest first.
        assert sorted(e["digest"] for e in told["dropped"]) == sorted(
            e["digest"] for e in done["dropped"]
        )
        assert {**told, "dropped": 0} == {**done, "dropped": 0}
        lines = [line.split("\t") for line in text.splitlines()]
        assert sorted(line[1] for line in lines if line[0] == "blob") == [
            blob["digest"] for blob in done["deleted"]
        ]
        assert sum(line[0] == "entry" for line in lines) == len(done["dropped"])

    def test_keep_newest(self, layout):
        dropped = answer("gc", layout, "--grace", "0", "--keep-newest", "1")["dropped"]
        # v1's signature goes with it.
        assert [entry["name"] for entry in dropped] == ["v1", "v2", None]
        assert set(dropped[0]) == {"name", "digest", "mediaType", "size"}
        assert names(layout) == ["r1"]

    def test_keep_tag(self, layout):
        call("gc", layout, "--keep-newest", "0", "--keep-tag", "r*", "--keep-tag", "v2")
        assert names(layout) == ["v2", "r1"]

    def test_older_than(self, layout):
        assert answer("gc", layout, "--older-than", "99999d")["dropped"] == []
        answer("gc", layout, "--older-than", "52w", "--keep-tag", "v1")
        assert names(layout) == ["v1"]

    def test_max_size(self, layout):
        # r1 alone has 3000 bytes and its documents.
        answer("gc", layout, "--max-size", "4.5K")
        assert names(layout) == ["r1"]
        answer("gc", layout, "--max-size", "0")
        assert names(layout) == []

    @pytest.mark.parametrize(
        ("text", "limit"),
        [("3000", 3000), ("3000B", 3000), ("3KB", 3000), ("3K", 3072), ("3kib", 3072),
         ("1.5 MiB", 1572864), ("2G", 2 << 30), ("1TB", 10**12)],
    )  # fmt: skip
    def test_sizes(self, layout, monkeypatch, text, limit):
        from fastcas.image import retention

        seen = []
        plan = retention.plan_retention
        monkeypatch.setattr(
            retention, "plan_retention", lambda *a, **k: seen.append(k["max_size"]) or plan(*a, **k)
        )
        call("gc", layout, "-n", "--max-size", text)
        assert seen == [limit]

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("90", 90), ("1.5h", 5400), ("2m", 120), ("10s", 10), ("1d", 86400), ("1w", 604800)],
    )
    def test_durations(self, layout, monkeypatch, text, seconds):
        seen = []
        gc = fastcas.DirEngine.gc
        monkeypatch.setattr(
            fastcas.DirEngine, "gc", lambda *a, **k: seen.append(k["grace"]) or gc(*a, **k)
        )
        call("gc", layout, "--grace", text)
        assert seen == [seconds]

    @pytest.mark.parametrize(
        "options",
        [["--grace", "-1"], ["--grace", "soon"], ["--grace", "nan"], ["--older-than", "3x"],
         ["--max-size", "big"], ["--max-size", "-1"], ["--keep-newest", "-1"], ["--keep-tag", "v*"]],
    )  # fmt: skip
    def test_wrong_use(self, layout, options):
        before = listing(layout)
        call("gc", layout, *options, code=2)
        assert listing(layout) == before

    @pytest.mark.parametrize("options", [[], ["--dry-run"], ["--keep-newest", "0", "--dry-run"]])
    def test_damaged_document(self, layout, options):
        digest = answer("stat", layout, "v2")["digest"]
        corrupt(layout, digest)
        before = listing(layout)
        assert digest in call("gc", layout, "--grace", "0", *options, code=1).stderr
        assert listing(layout) == before

    def test_on_a_terminal(self, layout):
        assert shown("gc", layout, "--grace", "0", "-n").splitlines()[1:] == [
            "1 blob would be removed, 60 B would be freed; 12 stay"
        ]
        lines = shown("gc", layout, "--grace", "0", "--keep-newest", "1").splitlines()
        assert lines[0] == "3 images dropped from the index:"
        assert lines[1].startswith("  v1         sha256:")
        assert lines[3].startswith("  (no name)  sha256:")
        assert lines[4].endswith(" freed; 3 stay")
        assert len(lines) == 5

    def test_many_on_a_terminal(self, layout):
        with fastcas.open(layout, durability="none") as cas:
            for number in range(30):
                cas.put_blob(b"%d" % number)
        lines = shown("gc", layout, "--grace", "0", "-n").splitlines()
        assert len(lines) == 22
        assert lines[20] == "... and 11 more (--json has them all)"

    def test_preview_takes_entries_for_the_index(self, layout):
        with fastcas.open(layout) as cas:
            everything = preview(cas, [], grace=0)
            assert len(everything.deleted) == 13
            assert everything.kept == 0
            assert everything.dry_run
            assert everything.freed == sum(blob.size for blob in everything.deleted)
            assert preview(cas, []).deleted == []
            assert preview(cas, cas.get_index().manifests, grace=0) == cas.gc(grace=0, dry_run=True)


class TestScrub:
    def test_nothing_wrong(self, layout):
        blobs = answer("ls", layout)["blobs"]
        assert answer("scrub", layout) == {
            "problems": [],
            "checked": len(blobs),
            "bytes": sum(blob["size"] for blob in blobs),
        }
        assert call("scrub", layout).output == ""

    def damage(self, layout):
        digest = answer("stat", layout, "v1")["layers"][0]["digest"]
        corrupt(layout, digest)
        return digest

    def test_problems(self, layout):
        digest = self.damage(layout)
        with fastcas.open(layout) as cas:
            cas.update_reference("gone", fastcas.Descriptor(MEDIA_TYPE_MANIFEST, ABSENT, 9))
        (layout / "blobs" / "sha256" / "stray\x1b").touch()
        before = listing(layout)
        result = run("scrub", layout, "--json")
        assert (result.returncode, result.stderr) == (1, b"")
        facts = json.loads(result.stdout)
        assert all(list(p) == ["digest", "path", "kind", "detail"] for p in facts["problems"])
        kinds = {p["kind"]: p["digest"] for p in facts["problems"]}
        assert kinds == {"corrupt": digest, "dangling": ABSENT, "bad-name": None}
        result = run("scrub", layout)
        assert result.returncode == 1
        lines = [line.split("\t") for line in result.stdout.decode().splitlines()]
        assert {line[0]: line[1] for line in lines} == {k: d or "" for k, d in kinds.items()}
        assert b"\x1b" not in result.stdout
        assert listing(layout) == before

    def test_quick(self, layout):
        (layout.parent / "large").write_bytes(bytes(70_000))
        large = answer("put", layout, layout.parent / "large")["blobs"][0]
        facts = answer("scrub", layout, "--quick")
        assert (facts["problems"], facts["checked"], facts["by_checksum"]) == ([], 14, 1)
        assert "14 blobs checked, 1 of them by checksum, " in shown("scrub", layout, "--quick")
        corrupt(layout, large["digest"])
        facts = json.loads(run("scrub", layout, "--quick", "--json").stdout)
        assert [(p["kind"], p["digest"]) for p in facts["problems"]] == [("corrupt", large["digest"])]

    def test_quarantine(self, layout, tmp_path):
        digest = self.damage(layout)
        result = run("scrub", layout, "--quarantine", tmp_path / "damaged", "--json")
        assert result.returncode == 1
        (problem,) = json.loads(result.stdout)["problems"]
        assert (problem["kind"], problem["digest"]) == ("corrupt", digest)
        assert not blob_path(layout, digest).exists()
        assert len(os.listdir(tmp_path / "damaged")) == 2
        # It is missing now.
        (problem,) = json.loads(run("scrub", layout, "--json").stdout)["problems"]
        assert problem["kind"] == "missing"

    def test_on_a_terminal(self, layout):
        assert shown("scrub", layout) == "13 blobs checked, 18.4 KiB: no problems\n"
        digest = self.damage(layout)
        lines = shown("scrub", layout, code=1).splitlines()
        assert lines[:2] == ["corrupt", f"    {digest}"]
        assert lines[-1].endswith(": 1 problem")

    def test_problems_that_can_not_be_told(self, layout):
        self.damage(layout)
        with open("/dev/full", "wb") as full:
            result = run("scrub", layout, stdout=full)
        assert result.returncode == 5
        assert result.stderr.startswith(b"fastcas: standard output: ")

    def test_no_index(self, layout):
        (layout / "index.json").write_bytes(b"{")
        call("scrub", layout, code=4)


def shown(*arguments, code=0):
    """What a terminal of 80 columns shows; details of problems may be longer."""
    terminal = Terminal()
    environment = {**ENVIRONMENT, "COLUMNS": "80", "TERM": "xterm"}
    result = run(*arguments, stdout=terminal.program, env=environment)
    text = terminal.text().replace("\r\n", "\n")
    assert (result.returncode, result.stderr) == (code, b"")
    if not code:
        assert max(map(len, text.splitlines())) <= 80
    return text
