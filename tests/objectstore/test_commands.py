"""The command line on a bucket, with credentials from the environment, as people use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import fastcas


@pytest.fixture
def run(bucket, tmp_path):
    """``run(arguments…)`` → (exit code, standard output, standard error)."""
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": bucket.server.url,
        "AWS_ACCESS_KEY_ID": bucket.config()["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": bucket.server.secret_key,
        "AWS_REGION": "us-east-1",
    }

    def run(*arguments, **more):
        command = [sys.executable, "-m", "fastcas", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_an_image_goes_there_and_back(run, bucket, tmp_path):
    url = f"s3://{bucket.name}/images"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<p>hello")
    assert run("init", "here")[0] == 0
    assert run("build", "here", "site", "--tag", "v1")[0] == 0
    assert run("cp", "here:v1", f"{url}:v1")[0] == 0, "the layout is made where nothing is"
    again = json.loads(run("cp", "here:v1", f"{url}:v1", "--json")[1])
    assert (again["blobs"], again["bytes"], again["method"]) == (0, 0, "exists")
    assert json.loads(run("refs", url, "--json")[1])["references"][0]["name"] == "v1"
    assert run("tag", url, "v2", "v1")[0] == 0
    code, out, err = run("stat", url, "v2", "--json")
    assert code == 0, err
    assert json.loads(out)["digest"]
    assert run("cp", f"{url}:v2", "back/")[0] == 0
    assert run("cp", url, "all/")[0] == 0
    assert json.loads(run("scrub", "all", "--json")[1])["problems"] == []
    with fastcas.open(tmp_path / "here") as here, fastcas.open(tmp_path / "back") as back:
        assert set(here) == set(back)
    assert run("cp", f"{url}:v1", "v1.tar")[0] == 0
    assert (tmp_path / "v1.tar").stat().st_size > 1000


def test_blobs_and_care(run, bucket, tmp_path):
    url = f"s3://{bucket.name}/blobs"
    (tmp_path / "one").write_bytes(b"one")
    assert json.loads(run("init", url, "--json")[1]) == {"path": url}
    assert run("init", url)[0] == 5
    digest = json.loads(run("put", url, "one", "--json")[1])["blobs"][0]["digest"]
    assert run("get", url, digest)[1] == "one"
    assert run("get", url, digest, "-o", "out")[0] == 0
    assert (tmp_path / "out").read_bytes() == b"one"
    assert json.loads(run("ls", url, "--json")[1])["blobs"] == [{"digest": digest, "size": 3}]
    assert json.loads(run("gc", url, "--dry-run", "--grace", "0", "--json")[1])["freed"] == 3
    assert json.loads(run("scrub", url, "--json")[1])["checked"] == 1
    place = bucket.path / "blobs" / "blobs" / digest.replace(":", "/")
    place.write_bytes(b"two")
    code, out, _ = run("scrub", url)
    assert code == 1
    assert out.startswith("corrupt\t")
    assert run("rm", url, digest)[0] == 0
    assert run("clean", url)[0] == 0


def test_what_goes_wrong_is_said(run, bucket):
    url = f"s3://{bucket.name}/nothing"
    code, _, err = run("ls", url)
    assert (code, err) == (3, f"fastcas: {url}: no such layout\n")
    code, _, err = run("ls", "s3://no-such-bucket/x")
    assert (code, err) == (3, "fastcas: s3://no-such-bucket/x: no such bucket\n")
    code, _, err = run("ls", url, AWS_SECRET_ACCESS_KEY="notthesecretkey")
    assert code == 5
    assert "refuses these credentials" in err
    assert "notthesecretkey" not in err
    code, _, err = run("ls", url, AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert code == 5
    assert url in err
    assert err.count("\n") == 1
    code, _, err = run("ls", "s3://")
    assert code == 4
    code, _, err = run("probe", "here")
    assert code == 2


def test_probe(run, bucket):
    code, out, err = run("probe", f"s3://{bucket.name}/x")
    assert code == 0, err
    assert {line.split("\t")[0] for line in out.splitlines()} == {"ok"}
    found = json.loads(run("probe", f"s3://{bucket.name}/x", "--json")[1])
    assert found["safe"]
    assert len(found["findings"]) == 8
    assert run("init", "here")[0] == 0
    assert run("build", "here", "here", "--tag", "v1")[0] == 0
    assert run("cp", "here:v1", f"s3://{bucket.name}/x:v1")[0] == 0, "a note is no layout"
