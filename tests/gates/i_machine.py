"""I: random walks through a layout beside a model of it.

The machine of tests/test_state_machine.py, with what concerns a whole layout: images, gc with blobs of
any age, scrub, copies to another layout, blobs that wait for their durability point, a second engine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import traceback

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, multiple, rule

import fastcas
from conformance import digest_of, kinds_in, noise, store_image
from fastcas import InvalidError, NotExistError
from gates import child
from gates.child import tell
from gates.harness import Gate, Run
from test_cases import blob_path
from test_state_machine import CONTENTS, EngineMachine, contents, names
from test_state_machine import run as walk

HOUR = 3600
levels = st.sampled_from(["none", "batch", "syncfs"])


class LayoutMachine(EngineMachine):
    """`reach` has for each reference all that it leads to; the first is the digest of its entry."""

    digests = Bundle("digests")
    states = 0

    def __init__(self):
        super().__init__()
        self.reach: dict[str, list[str]] = {}
        self.second = None
        self.fresh = 0

    def teardown(self):
        for engine in (self.second, getattr(self, "target", None)):
            if engine is not None:
                engine.close()
        super().teardown()
        type(self).states += 1

    def is_whole(self, name):
        return all(self.is_right(digest) for digest in self.reach[name])

    def needed(self):
        """What the references lead to: a manifest that isn't there, or is damaged, leads nowhere."""
        return {
            digest
            for digests in self.reach.values()
            for digest in (digests if self.is_right(digests[0]) else digests[:1])
        }

    def is_right(self, digest):
        return self.stored.get(digest) == self.right[digest]

    @rule(name=names, digest=EngineMachine.digests)
    def tag(self, name, digest):
        super().tag(name, digest)
        self.reach[name] = [digest]

    @rule(name=names)
    def untag(self, name):
        super().untag(name)
        self.reach.pop(name, None)

    @rule(target=EngineMachine.digests, name=names, number=st.integers(0, 3))
    def put_an_image(self, name, number):
        manifest, digests = store_image(self.cas, number)
        for digest in digests:
            content = self.cas.read_blob(digest)
            assert digest_of(content) == digest
            self.right[digest] = self.stored[digest] = content
        replaced = self.cas.update_reference(name, manifest)
        assert [(name, entry.digest) for entry in replaced] == self.named(name)
        self.references = [*(e for e in self.references if e[0] != name), (name, manifest.digest)]
        self.reach[name] = [manifest.digest, *sorted(digests - {manifest.digest})]
        return multiple(*sorted(digests))

    @rule(ages=st.lists(st.booleans(), min_size=1, max_size=9), again=contents, dry=st.booleans())
    def collect(self, ages, again, dry):
        """Some blobs are old; one is put again, and is needed by whoever did."""
        self.cas.sync()
        old = {digest for n, digest in enumerate(sorted(self.stored)) if ages[n % len(ages)]}
        for digest in self.stored:
            when = time.time() - 2 * HOUR * (digest in old)
            os.utime(blob_path(self.layout, digest), (when, when))
        self.put(again, "sha256", "bytes", True)
        self.cas.sync()
        old.discard(digest_of(CONTENTS[again]))
        manifests = [self.reach[name][0] for name in self.reach if len(self.reach[name]) > 1]
        if any(digest in self.stored and not self.is_right(digest) for digest in manifests):
            with pytest.raises(InvalidError):
                self.cas.gc(grace=HOUR, dry_run=dry)
            return
        going = {digest for digest in old if digest in self.stored and digest not in self.needed()}
        report = self.cas.gc(grace=HOUR, dry_run=dry)
        assert {blob.digest for blob in report.deleted} == going
        if not dry:
            for digest in going:
                del self.stored[digest]

    @rule(quick=st.booleans())
    def scrub(self, quick):
        found = kinds_in(self.cas.scrub(quick=quick))
        damaged = sorted(digest for digest in self.stored if not self.is_right(digest))
        assert [digest for kind, digest in found if kind == "corrupt"] == damaged
        lacking = {digest for kind, digest in found if kind in ("dangling", "missing")}
        assert lacking == self.needed() - set(self.stored)

    @rule(verify=st.booleans())
    def copy_all(self, verify):
        """To a layout that keeps what it got; its blobs are damaged now and then."""
        if getattr(self, "target", None) is None:
            self.target = fastcas.create(self.room / "target", durability=self.durability)
        if not all(map(self.is_whole, self.reach)):
            return
        fastcas.copy_images(self.cas, self.target, verify=verify)
        for name, digests in self.reach.items():
            assert self.target.resolve_reference(name)[0][-1].digest == digests[0]
            for digest in digests:
                assert self.target.read_blob(digest) == self.right[digest]
        if verify and self.reach:
            blob_path(self.room / "target", digests[-1]).write_bytes(b"damaged")

    @rule(name=names, link=st.booleans())
    def copy_one(self, name, link):
        if name in self.reach and self.is_whole(name):
            self.copy(self.reach[name][-1], True, link)

    @rule(size=st.sampled_from([10, 5000, 70_000]), then=st.sampled_from(["sync", "delete", "index"]))
    def put_what_waits(self, size, then):
        """At batch others see it from the durability point on, or never if it is deleted before."""
        self.fresh += 1
        content = noise(size, 1_000_000 + self.fresh)  # of no image's layer
        self.cas.sync()
        digest = self.cas.put_blob(content).digest
        path = blob_path(self.layout, digest)
        assert self.cas.stat_blob(digest).size == size
        assert path.exists() == (self.cas.durability == "none")
        if then == "delete":
            self.cas.delete_blob(digest)
            self.cas.sync()
            assert not path.exists()
            with pytest.raises(NotExistError):
                self.cas.stat_blob(digest)
            return
        if then == "sync":
            self.cas.sync()
        else:
            self.cas.update_index(lambda index: index.replace(annotations={"n": str(self.fresh)}))
        assert path.read_bytes() == content
        self.right[digest] = self.stored[digest] = content

    @rule(level=levels)
    def use_another_engine(self, level):
        """On the same layout, both open."""
        self.cas.sync()
        if self.second is None:
            self.second = self.open(level)
        self.cas, self.second = self.second, self.cas

    @rule(durability=levels)
    def reopen(self, durability):
        super().reopen(durability)


def walk_through(place: str, examples: int, steps: int) -> None:
    tempfile.tempdir = place
    try:
        walk(LayoutMachine, examples, steps, [Phase.generate])  # to make it small takes long
        problems = []
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        problems = [f"{type(error).__name__} in {where.name}: {str(error)[:200]}"]
        tell("trace", traceback.format_exc()[-3000:])
    tell("walks", LayoutMachine.states)
    tell("state", problems)


def run(gate: Run) -> None:
    place = gate.place / "walks"
    place.mkdir()
    arguments = (place, gate.rounds(40, 1500 if gate.soak else 200), 50)
    process = child.start(walk_through, *arguments, mutant=gate.mutant, stderr=subprocess.DEVNULL)
    output, _ = process.communicate(timeout=3000)
    for kind, what in child.events(output):
        if kind == "walks":
            gate.trials += what
            gate.states += what
        elif kind == "state":
            gate.check("a walk", what)
        elif gate.mutant is None:
            print(what)
    shutil.rmtree(place)


GATE = Gate(
    "I",
    "state machine",
    run,
    (
        "index-update-lost", "gc-forgets-an-entry", "damaged-accepted", "waiting-is-visible",
        "delete-keeps-what-waits",
    ),
)  # fmt: skip
