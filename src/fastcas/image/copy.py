"""Copying an image from one engine to another: what is missing, children first, the name last."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastcas.image.closure import find_closure, merge_entries, rename, select_entry, shift
from fastcas.image.reference import check_reference_name
from fastcas.model import Descriptor

if TYPE_CHECKING:
    from fastcas.contract import Progress
    from fastcas.engine import Engine
    from fastcas.image.closure import Item
    from fastcas.model import Platform

__all__ = ["ImageCopy", "copy_image"]


class ImageCopy(NamedTuple):
    """What ``copy_image`` did.

    ``descriptor`` is the target's entry; ``blobs`` and ``bytes`` count what the target didn't have;
    ``methods`` says how many blobs came each way: "exists", "reflink", "copy"; ``missing`` are the
    digests that the source doesn't have either: platforms, subjects and layers kept elsewhere.
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

    Blobs arrive by the target's ``put_copy``, to which ``verify`` goes, children before parents, and
    are as verified and as durable as that says; the index is changed last, once, if all that was copied
    is still there: a gc of the target may have run meanwhile, longer than its grace. After an error it
    is as it was, and what was copied stays as blobs that nothing names. What an index or a subject
    names and the source doesn't have is left out, as it is in the source; likewise layers with
    ``urls``.

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
    done = sent = sent_bytes = 0
    methods: dict[str, int] = {}
    total = closure.size
    for item in closure.items:
        method = _copy(source, target, item, verify, shift(progress, done, total))
        methods[method] = methods.get(method, 0) + 1
        if method != "exists":
            sent += 1
            sent_bytes += item.size
        done += item.size
        if progress is not None:
            progress(done, total)
    needs = [item.digest for item in closure.items]
    merge_entries(target, [root, *closure.referrers], needs)
    return ImageCopy(root, sent, sent_bytes, methods, sorted(closure.missing))


def _copy(source: Engine, target: Engine, item: Item, verify: bool, progress: Progress | None) -> str:
    if item.data is not None:
        algorithm = item.digest.algorithm
        target.put_blob(item.data, algorithm=algorithm, expected_digest=item.digest)
        return "copy"
    with source.get_blob(item.digest) as blob:
        return target.put_copy(blob, verify=verify, progress=progress).method
