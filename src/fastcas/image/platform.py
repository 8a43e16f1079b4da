"""Which platforms an image for one platform runs on.

The order of variants and the spellings are containerd's (``platforms.Only``, ``Normalize``). Unlike
containerd, and like crane, another architecture is never taken: not 386 for amd64, not arm for arm64.
"""

from __future__ import annotations

from fastcas.digest import shorten
from fastcas.errors import InvalidError
from fastcas.model import Platform

__all__ = ["parse_platform", "rank"]

_ARCHITECTURES = {
    "i386": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
}

# What a variant that isn't stated, or is spelt otherwise, stands for.
_VARIANTS = {
    "386": dict.fromkeys(("", "v1"), ""),
    "amd64": {"": "v1", "1": "v1", "2": "v2", "3": "v3", "4": "v4"},
    "arm": {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"},
    "arm64": {"": "v8", "8": "v8", "v8.0": "v8", "9": "v9", "9.0": "v9", "v9.0": "v9"},
}

_V8_9 = [f"v8.{minor}" for minor in range(9, 0, -1)] + ["v8"]


def parse_platform(wanted: str | Platform) -> Platform:
    """A Platform, or "os/architecture" or "os/architecture/variant"; InvalidError for other text."""
    if isinstance(wanted, Platform):
        return wanted
    if not isinstance(wanted, str):
        raise TypeError(f"a platform must be a str or a Platform, not {type(wanted).__name__}")
    parts = wanted.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidError(f"invalid platform {shorten(wanted)}: not os/architecture[/variant]")
    return Platform(parts[1], parts[0], variant=parts[2] if len(parts) == 3 else None)


def rank(wanted: Platform, offered: Platform) -> int | None:
    """How good ``offered`` is for ``wanted``: 0 is best; None where it doesn't run there.

    The OS and the architecture must be the same; an ``os_version`` that is wanted too, and the
    ``os_features`` that are wanted must be offered. The variant may be a lower one: of arm any
    down to v5, of arm64 any down to v8, of amd64 any down to v1.
    """
    wanted_os, architecture, variant = _normalize(wanted)
    offered_os, offered_architecture, offered_variant = _normalize(offered)
    if (wanted_os, architecture) != (offered_os, offered_architecture):
        return None
    if wanted.os_version and wanted.os_version != offered.os_version:
        return None
    if not set(wanted.os_features or ()) <= set(offered.os_features or ()):
        return None
    runs = _runs(architecture, variant)
    return runs.index(offered_variant) if offered_variant in runs else None


def _normalize(platform: Platform) -> tuple[str, str, str]:
    os = platform.os.lower()
    spelt = platform.architecture.lower()
    architecture = _ARCHITECTURES.get(spelt, spelt)
    variant = {"armhf": "v7", "armel": "v6"}.get(spelt, (platform.variant or "").lower())
    variant = _VARIANTS.get(architecture, {}).get(variant, variant)
    return ("darwin" if os == "macos" else os), architecture, variant


def _runs(architecture: str, variant: str) -> list[str]:
    """The variants that run on ``variant``, the best first."""
    lowest = {"arm": 5, "amd64": 1}.get(architecture)
    number = variant[1:]
    if lowest is not None and len(number) == 1 and number in "123456789":
        return [f"v{n}" for n in range(int(number), lowest - 1, -1)] or [variant]
    if architecture == "arm64" and variant in _V8_9:
        return _V8_9[_V8_9.index(variant) :]
    if architecture == "arm64" and variant[:2] == "v9":
        minor = variant[3:] or "0"
        if variant == "v9" or (variant[2] == "." and len(minor) == 1 and minor in "123456789"):
            # Armv9.n has what Armv8.(n+5) has.
            nines = [f"v9.{n}" for n in range(int(minor), 0, -1)] + ["v9"]
            return nines + _V8_9[max(0, 4 - int(minor)) :]
    return [variant]
