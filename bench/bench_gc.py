"""Garbage collection of images of one layer each: the mark, which takes no lock, and a sweep of as
many blobs, whose holds of the lock are all that writers wait for."""

from __future__ import annotations

import itertools

import pytest

from conftest import ROUNDS, SMALL
from fastcas import Descriptor, Index, Manifest

MANIFESTS = (20, 50) if SMALL else (1000, 10_000)
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

_serial = itertools.count()


@pytest.fixture(params=MANIFESTS, ids=lambda count: f"{count}-manifests")
def images(filesystem, targets, request):
    """An engine over so many images in the index, and their number."""
    cas = targets.engine("none")
    entries = []
    for number in range(request.param):
        content = b"%d" % number
        config = Descriptor(CONFIG, *cas.put_blob(b"config " + content))
        layer = Descriptor(LAYER, *cas.put_blob(b"layer " + content))
        manifest = Manifest(config, [layer]).to_json()
        entries.append(Descriptor(MANIFEST, *cas.put_blob(manifest)))
    cas.put_index(Index(entries))
    return cas, request.param


def bench_gc_mark(benchmark, group, filesystem, images):
    cas, count = images
    group(f"gc, {count} manifests, nothing to delete")
    report = benchmark.pedantic(lambda: cas.gc(grace=0, dry_run=True), rounds=ROUNDS, warmup_rounds=1)
    assert (report.deleted, report.kept) == ([], 3 * count)


def bench_gc_sweep(benchmark, group, filesystem, images):
    cas, count = images
    group(f"gc, {count} manifests, as many blobs to delete")

    def litter():
        for _ in range(count):
            cas.put_blob(b"garbage %d" % next(_serial))

    report = benchmark.pedantic(lambda: cas.gc(grace=0), setup=litter, rounds=ROUNDS)
    assert (len(report.deleted), report.kept) == (count, 3 * count)
