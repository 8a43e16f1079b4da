"""``obstore``, the client: of an extra, so that it may not be there."""

from __future__ import annotations

from fastcas.errors import UnsupportedError

_missing: ModuleNotFoundError | None = None
try:
    import obstore
    import obstore.store as stores
    from obstore import exceptions
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "obstore":
        raise
    obstore = stores = exceptions = None  # type: ignore[assignment]
    _missing = error

__all__ = ["exceptions", "obstore", "require", "stores"]


def require(scheme: str) -> None:
    """Raises UnsupportedError where it isn't there."""
    if _missing is not None:
        raise UnsupportedError(
            f"{scheme}:// needs a package that isn't installed: pip install 'fastcas[objectstore]'"
        ) from _missing
