"""Platforms: containerd's spellings and order of variants, within one architecture."""

from __future__ import annotations

import pytest

from fastcas import InvalidError, Platform
from fastcas.image.platform import parse_platform, rank
from images import on

# What runs on the first, the best first. From containerd/platforms v1.0.0, Only() and Normalize().
ORDERS = {
    "linux/arm": ["arm/v7", "arm/v6", "arm/v5"],
    "linux/arm/v8": ["arm/v8", "arm/v7", "arm/v6", "arm/v5"],
    "linux/arm/v5": ["arm/v5"],
    "linux/armhf": ["arm", "arm/v6", "arm/v5"],
    "linux/armel": ["arm/6", "arm/v5"],
    "linux/amd64": ["amd64"],
    "linux/amd64/v3": ["x86_64/v3", "amd64/v2", "amd64/v1"],
    "linux/arm64": ["arm64/v8"],
    "linux/aarch64/8": ["arm64"],
    "linux/arm64/v8.2": ["arm64/v8.2", "arm64/v8.1", "aarch64"],
    "linux/arm64/v9": ["arm64/v9.0", "arm64/v8.5", "arm64/v8.4", "arm64/v8.3", "arm64/v8.2"],
    "linux/arm64/v9.1": ["arm64/v9.1", "arm64/v9", "arm64/v8.6", "arm64/v8.5"],
    "linux/arm64/v9.7": ["arm64/v9.7", "arm64/v9.6", "arm64/v9.5", "arm64/v9.4", "arm64/v9.3"],
    "linux/386": ["i386"],
    "linux/riscv64/rva22": ["riscv64/rva22"],
    "Linux/S390X": ["s390x"],
    "linux/mips/odd": ["mips/ODD"],
}


@pytest.mark.parametrize("wanted", ORDERS)
def test_orders(wanted):
    order = ORDERS[wanted]
    ranks = [rank(on(wanted), on(f"linux/{offered}")) for offered in order]
    assert ranks[0] == 0
    assert ranks == sorted(set(ranks))
    assert rank(on(wanted), on(f"windows/{order[0]}")) is None


NEVER = [
    ("linux/amd64", "linux/386"),
    ("linux/amd64", "linux/amd64/v2"),
    ("linux/amd64/v2", "linux/amd64/v3"),
    ("linux/arm64", "linux/arm/v8"),
    ("linux/arm64", "linux/arm64/v9"),
    ("linux/arm64/v9", "linux/arm64/v8.6"),
    ("linux/arm64/v8.1", "linux/arm64/v8.2"),
    ("linux/arm/v6", "linux/arm/v7"),
    ("linux/arm", "linux/arm/v8"),
    ("linux/riscv64/rva22", "linux/riscv64"),
    ("linux/arm64/v9.10", "linux/arm64/v9.1"),
    ("linux/arm/v4", "linux/arm/v5"),
]


@pytest.mark.parametrize(("wanted", "offered"), NEVER)
def test_what_does_not_run(wanted, offered):
    assert rank(on(wanted), on(offered)) is None


def test_arm64_v9_has_what_v8_has():
    """Armv9.n with Armv8.(n+5), and the last of them with 8.9."""
    for minor, last in ((0, 5), (1, 6), (4, 9), (7, 9)):
        wanted = on(f"linux/arm64/v9.{minor}")
        offered = [n for n in range(1, 10) if rank(wanted, on(f"linux/arm64/v8.{n}")) is not None]
        assert offered == list(range(1, last + 1))


def test_os_version_and_features():
    plain = Platform("amd64", "windows", "10.0.1", ["a", "b"])
    assert rank(Platform("amd64", "windows"), plain) == 0
    assert rank(Platform("amd64", "windows", "10.0.1", ["b"]), plain) == 0
    assert rank(Platform("amd64", "windows", "10.0.2"), plain) is None
    assert rank(Platform("amd64", "windows", os_features=["c"]), plain) is None
    assert rank(Platform("amd64", "macOS"), Platform("amd64", "darwin")) == 0


def test_parsing():
    assert parse_platform("linux/arm/v7") == Platform("arm", "linux", variant="v7")
    assert parse_platform("linux/arm") == Platform("arm", "linux")
    given = Platform("arm", "linux")
    assert parse_platform(given) is given
    for bad in ("", "linux", "linux/", "/arm", "a/b/", "a/b/c/d"):
        with pytest.raises(InvalidError):
            parse_platform(bad)
    for bad in (None, 1, b"linux/arm"):
        with pytest.raises(TypeError):
            parse_platform(bad)
