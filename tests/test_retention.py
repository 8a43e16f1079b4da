"""Retention: what a plan picks, and that applying it takes nothing else."""

from __future__ import annotations

import os
import time

import pytest

import fastcas
import images
from conformance import REF_NAME, descriptor_of, noise
from fastcas import Descriptor, Index, InvalidError
from fastcas.image import retention
from fastcas.image.retention import Image, apply_retention, plan_retention
from test_cases import blob_path

pytestmark = pytest.mark.usefixtures("no_fd_leak")

CREATED = "org.opencontainers.image.created"
DAY = 86400
NOW = 1_800_000_000  # 2027-01-15T08:00:00Z


def said(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def put(cas, name, days, *, size=1000, layers=None, subject=None, tag=True):
    """An image that was created so many days before NOW, by its entry's annotation; its entry."""
    if layers is None:
        layers = [images.put(cas, noise(size, hash_of(name)), images.LAYER)]
    inner = {} if subject is None else {"subject": subject}
    image = images.put_manifest(cas, name, layers=layers, inner=inner)
    annotations = {CREATED: said(NOW - days * DAY), **({REF_NAME: name} if tag else {})}
    entry = image.replace(annotations=annotations)
    cas.update_index(lambda index: index.replace(manifests=(*index.manifests, entry)))
    return entry


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[-7:], "big")


def dropped(cas, **options):
    return [image.name for image in plan_retention(cas, now=NOW, **options).dropped]


@pytest.fixture
def aged(cas):
    """v1 … v5, of which v1 is the oldest, 50 days, and v5 the newest, 10 days; latest; untagged."""
    for number in range(1, 6):
        put(cas, f"v{number}", 60 - 10 * number)
    put(cas, "latest", 45)
    put(cas, "", 35, tag=False)
    return cas


def test_nothing_is_dropped_unasked(aged):
    plan = plan_retention(aged)
    assert plan.dropped == []
    assert [image.name for image in plan.kept] == [
        *(f"v{number}" for number in range(1, 6)),
        "latest",
        None,
    ]
    assert dropped(aged, keep_tags=["v*"]) == []


def test_by_age(aged):
    assert dropped(aged, older_than=29 * DAY) == ["v1", "latest", "v2", None, "v3"]
    assert dropped(aged, older_than=29 * DAY, keep_tags=["v[12]"]) == ["latest", None, "v3"]
    assert dropped(aged, older_than=29 * DAY, keep_newest=3) == ["v1", "latest", "v2", None]
    assert dropped(aged, older_than=50 * DAY) == [], "exactly so old isn't older"
    assert dropped(aged, older_than=0, keep_tags=["*"]) == [None], "a glob is for names"


def test_by_number(aged):
    assert dropped(aged, keep_newest=2) == ["v1", "latest", "v2", None, "v3"]
    assert dropped(aged, keep_newest=2, keep_tags=["latest", "v1"]) == ["v2", None, "v3"]
    assert dropped(aged, keep_newest=2, keep_tags="v*") == []
    assert len(dropped(aged, keep_newest=0)) == 7
    assert dropped(aged, keep_newest=7) == []


def test_by_number_and_pattern(aged):
    images_there = retention.list_images(aged)
    names = [image.name for image in retention.drop_beyond_newest(images_there, 2, "v*")]
    assert names == ["v1", "v2", "v3"]
    assert [i.name for i in retention.drop_older(images_there, 41 * DAY, now=NOW)] == ["v1", "latest"]


def test_of_equal_age_the_last_is_the_newest():
    same = [Image(descriptor_of(), str(number), 5.0, None) for number in range(4)]
    assert [image.name for image in retention.drop_beyond_newest(same, 1)] == ["0", "1", "2"]


def test_by_size(cas):
    """Shared layers count once, and go with the last that has them."""
    shared = images.put(cas, noise(10_000), images.LAYER)
    for number in range(3):
        own = images.put(cas, noise(1000, number + 1), images.LAYER)
        put(cas, f"v{number}", 10 - number, layers=[shared, own])
    everything = sum(cas.stat_blob(digest).size for digest in cas)
    assert dropped(cas, max_size=everything) == []
    assert dropped(cas, max_size=everything - 1) == ["v0"]
    assert dropped(cas, max_size=everything - 1, keep_tags=["v0"]) == ["v1"]
    assert dropped(cas, max_size=12_000) == ["v0", "v1"]
    assert dropped(cas, max_size=9_000) == ["v0", "v1", "v2"]
    assert dropped(cas, max_size=0, keep_newest=1) == ["v0", "v1"]
    assert dropped(cas, max_size=0, keep_newest=1, older_than=9.5 * DAY) == ["v0", "v1"]
    apply_retention(cas, plan_retention(cas, max_size=12_000))
    assert cas.list_references() == ["v2"]
    cas.gc(grace=0)
    assert sum(cas.stat_blob(digest).size for digest in cas) <= 12_000


def test_what_is_about_an_image_goes_and_stays_with_it(cas):
    old = put(cas, "old", 50)
    signature = put(cas, "", 1, tag=False, subject=images.as_dict(old))
    put(cas, "about-the-signature", 1, subject=images.as_dict(signature))
    new = put(cas, "new", 20)
    put(cas, "of-new", 90, subject=images.as_dict(new))
    put(cas, new.digest.replace(":", "-"), 90)
    put(cas, new.digest.replace(":", "-") + ".sig", 90)
    put(cas, old.digest.replace(":", "-"), 1)
    lone = put(cas, "lone", 40, subject=images.as_dict(descriptor_of(b"absent")))
    gone = {"old", None, "about-the-signature", old.digest.replace(":", "-")}
    assert set(dropped(cas, older_than=45 * DAY)) == gone
    assert set(dropped(cas, keep_newest=1)) == gone | {"lone"}
    assert set(dropped(cas, keep_newest=1, keep_tags=["old"])) == {"lone"}
    assert set(dropped(cas, max_size=0)) == {None, *cas.list_references()}
    assert lone.digest in cas


def test_the_size_of_what_is_about_an_image_goes_with_it(cas):
    for number in range(3):
        own = images.put(cas, noise(1000, number), images.LAYER)
        image = put(cas, f"v{number}", 10 - number, layers=[own])
        note = images.put(cas, noise(5000, 10 + number), images.LAYER)
        put(cas, f"note{number}", 20, subject=images.as_dict(image), layers=[note])
    everything = sum(cas.stat_blob(digest).size for digest in cas)
    first = {"v0", "note0"}
    assert set(dropped(cas, max_size=everything - 1)) == first
    assert set(dropped(cas, max_size=everything - 6000)) == first
    assert set(dropped(cas, max_size=everything - 9000)) == first | {"v1", "note1"}
    # A note that is kept keeps its subject's blobs, so dropping v0 frees nothing.
    kept = dropped(cas, max_size=everything - 1, keep_tags=["note0"])
    assert set(kept) == {"v0", "v1", "note1"}


@pytest.mark.parametrize("digits", [64, 128])
def test_referrers_tags_of_longer_digests(cas, digits):
    """A tag has at most 128 characters, so the digits of a sha512 are cut."""
    document = images.put_manifest(cas)
    digest, size = cas.put_blob(cas.read_blob(document.digest), algorithm="sha512")
    old = Descriptor(document.media_type, digest, size, annotations={CREATED: said(NOW - 50 * DAY)})
    cas.put_index(Index([old]))
    name = f"sha512-{digest.encoded[:digits]}"
    put(cas, name, 1)
    assert set(dropped(cas, older_than=45 * DAY)) == {None, name}
    put(cas, f"sha512-{digest.encoded[: digits - 1]}0", 1)
    assert set(dropped(cas, older_than=45 * DAY)) == {None, name}


def test_apply_is_one_update_and_spares_what_changed(aged):
    plan = plan_retention(aged, keep_newest=1, now=NOW)
    assert len(plan.dropped) == 6
    before = {image.name: image.entry for image in plan.dropped}
    moved = descriptor_of(b"moved")
    aged.update_reference("v1", moved)
    aged.delete_reference("v2")
    new = put(aged, "new", 0)
    removed = apply_retention(aged, plan)
    assert removed == [before[name] for name in ("v3", "v4", "latest", None)]
    assert set(aged.list_references()) == {"v5", "v1", "new"}
    assert new.digest in {entry.digest for entry in aged.get_index().manifests}
    raw = aged.get_index().to_json()
    assert apply_retention(aged, plan) == []
    assert aged.get_index().to_json() == raw


def test_of_two_equal_entries_each_is_dropped_once(cas):
    entry = put(cas, "v1", 5)
    plan = plan_retention(cas, older_than=DAY, now=NOW)
    cas.put_index(Index([entry, entry]))
    assert len(apply_retention(cas, plan)) == 1
    assert len(cas.get_index().manifests) == 1


def created_of(cas, entry):
    cas.put_index(Index([entry]))
    return retention.list_images(cas)[0].created


def test_when_an_image_was_created(cas, layout):
    config = images.put_config(cas, created=said(100 * DAY * 100))
    layers = []
    plain = images.put_manifest(cas, config=config, layers=layers)
    assert created_of(cas, plain) == 10_000 * DAY
    inner = {"annotations": {CREATED: said(9_000 * DAY)}}
    annotated = images.put_manifest(cas, config=config, layers=layers, inner=inner)
    assert created_of(cas, annotated) == 9_000 * DAY
    assert created_of(cas, annotated.replace(annotations={CREATED: said(8_000 * DAY)})) == 8_000 * DAY
    newer = images.put_manifest(cas, config=images.put_config(cas, created=said(10_001 * DAY)))
    index = images.put_index(cas, plain, newer, descriptor_of(b"absent"))
    assert created_of(cas, index) == 10_001 * DAY


NO_TIMES = [
    "",
    "yesterday",
    "2026-13-01T00:00:00Z",
    "2026-01-01",
    "2026-01-01T00:00:00",
    "1e9",
    "\uff12026-01-01T00:00:00Z",  # a full-width digit
    said(0),
    "0001-01-01T00:00:00Z",
    "1980-01-01T00:00:01Z",
    "0001-01-01T00:00:00+23:59",
]


@pytest.mark.parametrize("nonsense", NO_TIMES)
def test_a_time_that_says_nothing(cas, layout, nonsense):
    image = images.put_manifest(cas, config=images.put_config(cas, created=nonsense))
    os.utime(blob_path(layout, image.digest), (12345, 12345))
    for entry in (image, image.replace(annotations={CREATED: nonsense})):
        assert created_of(cas, entry) == 12345
    unknown = descriptor_of(b"absent", annotations={CREATED: nonsense})
    assert abs(created_of(cas, unknown) - time.time()) < 60


def test_an_artifact_s_config_may_be_anything(cas, layout):
    config = images.put(cas, b"no JSON", images.CONFIG)
    image = images.put_manifest(cas, config=config)
    os.utime(blob_path(layout, image.digest), (12345, 12345))
    assert created_of(cas, image) == 12345


def test_times_of_rfc_3339():
    parse = retention._parse_time
    base = parse("2026-11-24T12:00:00Z")
    assert base == 1_795_521_600
    assert parse("2026-11-24t13:30:00+01:30") == base
    assert parse("2026-11-24T12:00:00.25z") == base + 0.25
    assert parse("2026-11-24T12:00:00.123456789123-00:00") == pytest.approx(base + 0.123456789)
    assert parse(None) is None


def test_documents_that_can_t_be_read_drop_nothing(cas):
    entry = fastcas.Descriptor(images.MANIFEST, *cas.put_blob(b"[]"))
    cas.put_index(Index([entry]))
    with pytest.raises(InvalidError) as caught:
        plan_retention(cas, older_than=0)
    assert caught.value.digest == entry.digest


@pytest.mark.parametrize("what", ["older_than", "keep_newest", "max_size"])
def test_numbers_that_make_no_sense(cas, what):
    for bad in (-1, float("nan"), True, "7"):
        with pytest.raises(InvalidError):
            plan_retention(cas, **{what: bad})
