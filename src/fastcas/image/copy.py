"""Copying images from one engine to another: what is missing, children first, the names last."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from fastcas.image.closure import find_closure, merge_entries, rename, select_entry, shift
from fastcas.image.reference import check_reference_name
from fastcas.model import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastcas.contract import Progress
    from fastcas.engine import Engine
    from fastcas.image.closure import Closure, Item
    from fastcas.model import Platform

__all__ = ["ImageCopy", "LayoutCopy", "copy_image", "copy_images"]

# So many blobs of the source are open at once.
_MOST_OPEN = 32


class ImageCopy(NamedTuple):
    """What ``copy_image`` did.

    ``descriptor`` is the target's entry; ``blobs`` and ``bytes`` count what the target didn't have;
    ``methods`` says how many blobs came each way: "exists", "reflink", "server-copy", "copy";
    ``missing`` are the digests that the source doesn't have either: platforms, subjects and layers
    kept elsewhere.
    """

    descriptor: Descriptor
    blobs: int
    bytes: int
    methods: dict[str, int]
    missing: list[str]


def copy_image(
    source: Engine,
    name: str,
    target: Engine,
    target_name: str | None = None,
    *,
    platform: Platform | str | None = None,
    referrers: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> ImageCopy:
    """Copies what the reference or digest ``name`` stands for, with all that it needs.

    The target's entry is named ``target_name``; by default like the source's, or not at all where
    that has no name. Without ``platform`` an index is copied as one; with it, the manifest for that
    platform alone, and the name refers to that. ``referrers`` also copies what refers to the image
    and to its parts, as entries without a name. ``progress(done, total)`` counts bytes.

    What the target has already is what its ``claim_blobs`` says. The other blobs arrive by its
    ``put_copies``, many at once, manifests and indexes after all that they need; ``verify`` goes to
    both, and blobs are as verified and as durable as these say. The index
    is changed last, once, if all that was copied is still there: a gc of the target may have run
    meanwhile, longer than its grace. After an error it is as it was, and what was copied stays as
    blobs that nothing names. What an index or a subject names and the source doesn't have is left
    out, as it is in the source; likewise layers with ``urls``.

    Raises NotExistError for a name that isn't there, for a config or layer that isn't, and for a blob
    that went from the target meanwhile;
    InvalidError where the name stands for different descriptors, and for a new name outside the
    grammar; CorruptError where the source is damaged.
    """
    if target_name is not None:
        check_reference_name(target_name)
    root = select_entry(source, name, platform)
    if target_name is not None:
        root = rename(root, target_name)
    closure = find_closure(source, [root], referrers=referrers)
    done = _copy_blobs(source, closure, target, verify, progress)
    _name(target, [root, *closure.referrers], closure)
    return ImageCopy(root, *done, sorted(closure.missing))


class LayoutCopy(NamedTuple):
    """What ``copy_images`` did: ``entries`` are the target's, the rest as of ``ImageCopy``."""

    entries: list[Descriptor]
    blobs: int
    bytes: int
    methods: dict[str, int]
    missing: list[str]


def copy_images(
    source: Engine, target: Engine, *, verify: bool = False, progress: Progress | None = None
) -> LayoutCopy:
    """Copies all that the source's index leads to, each entry under the name that it has there, or
    without one; all else as ``copy_image`` does. What refers to an image is copied where it is an
    entry. Blobs that nothing leads to stay behind."""
    roots = list(source.get_index().manifests)
    closure = find_closure(source, roots)
    done = _copy_blobs(source, closure, target, verify, progress)
    _name(target, roots, closure)
    return LayoutCopy(roots, *done, sorted(closure.missing))


def _name(target: Engine, entries: list[Descriptor], closure: Closure) -> None:
    merge_entries(target, entries, [item.digest for item in closure.items])


def _copy_blobs(
    source: Engine, closure: Closure, target: Engine, verify: bool, progress: Progress | None
) -> tuple[int, int, dict[str, int]]:
    """Stores all items; how many the target lacked, their bytes, and how many came each way."""
    done = sent = sent_bytes = 0
    methods: dict[str, int] = {}
    total = closure.size
    wanted = [(item.digest, item.size) for item in closure.items]
    left = []
    for item, claimed in zip(closure.items, target.claim_blobs(wanted, verify=verify), strict=True):
        if not claimed:
            left.append(item)
            continue
        methods["exists"] = methods.get("exists", 0) + 1
        done += item.size
        if progress is not None:
            progress(done, total)
    for items in _groups(left, closure.documents):
        copied = _copy(source, target, items, verify, shift(progress, done, total))
        for item, method in zip(items, copied, strict=True):
            methods[method] = methods.get(method, 0) + 1
            if method != "exists":
                sent += 1
                sent_bytes += item.size
            done += item.size
        if progress is not None:
            progress(done, total)
    return sent, sent_bytes, methods


def _groups(items: list[Item], documents: set[str]) -> Iterator[list[Item]]:
    """First what has no children, whose order doesn't matter, many at once; then the documents."""
    parts = [item for item in items if item.digest not in documents]
    for start in range(0, len(parts), _MOST_OPEN):
        yield parts[start : start + _MOST_OPEN]
    yield from ([item] for item in items if item.digest in documents)


def _copy(
    source: Engine, target: Engine, items: list[Item], verify: bool, progress: Progress | None
) -> list[str]:
    methods = ["copy"] * len(items)
    stored = []
    for number, item in enumerate(items):
        if item.data is None:
            stored.append(number)
        else:
            algorithm = item.digest.algorithm
            target.put_blob(item.data, algorithm=algorithm, expected_digest=item.digest)
    with ExitStack() as stack:
        readers = source.get_blobs([items[number].digest for number in stored])
        blobs = [stack.enter_context(reader) for reader in readers]
        copies = target.put_copies(blobs, verify=verify, progress=progress)
        for number, copy in zip(stored, copies, strict=True):
            methods[number] = copy.method
    return methods
