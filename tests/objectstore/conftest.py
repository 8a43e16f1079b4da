"""A server of the S3 protocol for the session, a bucket for each test, a proxy between the two."""

from __future__ import annotations

import shutil

import pytest

from proxy import Proxy
from server import PROGRAM, serving


def pytest_configure():
    """Without the server nothing here says anything, and a skipped check looks like a passed one."""
    if not PROGRAM.exists():
        pytest.exit("versitygw isn't installed; tests/objectstore/install.sh does it", returncode=2)


@pytest.fixture(scope="session")
def server():
    with serving() as started:
        yield started


@pytest.fixture
def bucket(server):
    """An empty one of its own for each test."""
    made = server.make_bucket()
    yield made
    shutil.rmtree(made.path)


@pytest.fixture
def proxy(server):
    """One before the server, without a rule yet; the way there is ``bucket.config(proxy.url)``."""
    with Proxy(server.address, credentials=server.credentials) as made:
        yield made
