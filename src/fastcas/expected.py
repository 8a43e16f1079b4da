"""What a put was told of its content, and whether it is so: the same for every engine."""

from __future__ import annotations

from fastcas.digest import COMPUTABLE, Digest
from fastcas.errors import (
    DigestMismatchError,
    InvalidError,
    SizeMismatchError,
    UnknownAlgorithmError,
)


def check_expected(
    algorithm: str, expected_digest: str | None, expected_size: int | None
) -> tuple[str, Digest | None]:
    """The algorithm to digest with, and the digest to find. InvalidError where one of the arguments of
    ``put_blob`` can't be, or two contradict each other."""
    digest = None
    if expected_digest is not None:
        digest = Digest(expected_digest)
        if algorithm == "sha256":
            algorithm = digest.algorithm
        elif algorithm != digest.algorithm:
            raise InvalidError(f"{digest} was expected of a {algorithm} put")
    if expected_size is not None:
        if isinstance(expected_size, bool) or not isinstance(expected_size, int):
            raise InvalidError(f"expected_size must be an int, not {expected_size!r}")
        if not 0 <= expected_size < 1 << 63:
            raise InvalidError(f"expected_size is {expected_size}: no blob has that size")
    return algorithm, digest


def check_algorithm(algorithm: str) -> None:
    """Raises UnknownAlgorithmError for what can't be computed here."""
    if algorithm not in COMPUTABLE:
        message = f"digest algorithm {algorithm!r} can't be computed here"
        raise UnknownAlgorithmError(message, algorithm=algorithm)


def check_content(
    digest: Digest, size: int, expected_digest: Digest | None, expected_size: int | None
) -> None:
    if expected_size is not None and size != expected_size:
        raise SizeMismatchError(
            f"the source has {size} bytes, not the expected {expected_size}",
            digest=expected_digest,
            expected=expected_size,
            actual=size,
        )
    if expected_digest is not None and digest != expected_digest:
        raise DigestMismatchError(
            f"the source's digest is {digest}, not the expected {expected_digest}",
            digest=expected_digest,
            expected=expected_digest,
            actual=digest,
        )


def too_long(
    expected_digest: Digest | None, expected_size: int | None, actual: int
) -> SizeMismatchError:
    """What a put raises that has seen more bytes than were expected."""
    return SizeMismatchError(
        f"the source is larger than the expected {expected_size} bytes",
        digest=expected_digest,
        expected=expected_size,
        actual=actual,
    )


def not_computable(digest: Digest, algorithm: str) -> UnknownAlgorithmError:
    """What a read raises of a blob that can't be verified here."""
    return UnknownAlgorithmError(
        f"{digest}: its algorithm can't be computed here, so it can't be verified",
        algorithm=algorithm,
        digest=digest,
    )
