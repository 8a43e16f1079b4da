"""Random walks through an engine beside a dict that says what it must hold."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

import fastcas
from conformance import digest_of, noise
from fastcas import CorruptError, DigestMismatchError, NotExistError, SizeMismatchError
from oracle import OracleEngine
from test_cases import DEAD_TEMP, make_dead, own_names, plant

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("no_fd_leak")]

# Few contents, so that rules meet each other's; sizes about the block and slot edges.
CONTENTS = [noise(size, 7) for size in (0, 1, 2, 63, 64, 1000, 65535, 65536, 70_001, 300_000)]
contents = st.integers(0, len(CONTENTS) - 1)
algorithms = st.sampled_from(["sha256", "sha512"])
names = st.sampled_from(["v1", "v2", "a/b:c"])
SHAPES = {
    "bytes": bytes,
    "bytearray": bytearray,
    "reader": io.BytesIO,
    "pieces": lambda content: iter([content[:10], b"", content[10:]]),
}


class EngineMachine(RuleBasedStateMachine):
    """`stored` maps a digest to what its file holds, `references` a name to its descriptor."""

    digests = Bundle("digests")

    def __init__(self):
        super().__init__()
        self.room = Path(tempfile.mkdtemp(prefix="fastcas-machine-"))
        self.layout = self.room / "image"
        self.right: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.references: list[tuple[str, str]] = []
        self.cas = None

    def create(self, durability):
        return fastcas.create(self.layout, durability=durability)

    def open(self, durability):
        return fastcas.open(self.layout, durability=durability)

    def teardown(self):
        if self.cas is not None:
            self.cas.close()
        shutil.rmtree(self.room)

    @initialize(durability=st.sampled_from(["none", "none", "batch"]))
    def begin(self, durability):
        self.durability = durability
        self.cas = self.create(durability)

    @rule(
        target=digests,
        content=contents,
        algorithm=algorithms,
        shape=st.sampled_from(sorted(SHAPES)),
        verify=st.booleans(),
    )
    def put(self, content, algorithm, shape, verify):
        content = CONTENTS[content]
        digest = digest_of(content, algorithm)
        source = SHAPES[shape](content)
        result = self.cas.put_blob(source, algorithm=algorithm, verify_existing=verify)
        assert result == (digest, len(content))
        self.right[digest] = self.stored[digest] = content
        return digest

    @rule(target=digests, some=st.lists(contents, max_size=4))
    def put_many(self, some):
        some = [CONTENTS[which] for which in some]
        results = self.cas.put_blobs(some)
        assert results == [(digest_of(content), len(content)) for content in some]
        for content in some:
            self.right[digest_of(content)] = self.stored[digest_of(content)] = content
        return multiple(*(digest_of(content) for content in some))

    @rule(content=contents, wrong=contents)
    def put_with_wrong_expectations(self, content, wrong):
        if content == wrong:
            return
        content, wrong = CONTENTS[content], CONTENTS[wrong]
        with pytest.raises(DigestMismatchError if len(content) == len(wrong) else CorruptError):
            self.cas.put_blob(content, expected_digest=digest_of(wrong))
        with pytest.raises(SizeMismatchError):
            self.cas.put_blob(content, expected_size=len(wrong))

    @rule(digest=digests)
    def get(self, digest):
        if digest not in self.stored:
            with pytest.raises(NotExistError):
                self.cas.get_blob(digest)
        elif self.stored[digest] != self.right[digest]:
            with pytest.raises(CorruptError), self.cas.get_blob(digest) as reader:
                reader.read()
            with pytest.raises(CorruptError):
                self.cas.read_blob(digest)
        else:
            with self.cas.get_blob(digest) as reader:
                assert reader.read(100) == self.stored[digest][:100]
                assert reader.readall() == self.stored[digest][100:]
                assert reader.verified
            assert self.cas.read_blob(digest) == self.stored[digest]

    @rule(digest=digests, verify=st.booleans(), link=st.booleans())
    def copy(self, digest, verify, link):
        target = self.room / "copy"
        target.unlink(missing_ok=True)
        if digest not in self.stored:
            with pytest.raises(NotExistError):
                self.cas.copy_blob(digest, target, verify=verify, link=link)
        elif verify and self.stored[digest] != self.right[digest]:
            with pytest.raises(CorruptError):
                self.cas.copy_blob(digest, target, verify=True, link=link)
            assert not target.exists()
        else:
            result = self.cas.copy_blob(digest, target, verify=verify, link=link)
            assert result.size == len(self.stored[digest])
            assert target.read_bytes() == self.stored[digest]

    @rule(digest=digests)
    def delete(self, digest):
        self.cas.delete_blob(digest)
        self.stored.pop(digest, None)

    @rule(digest=consumes(digests))
    def forget(self, digest):
        self.cas.delete_blob(digest)
        self.stored.pop(digest, None)

    @rule(digest=digests, how=st.sampled_from(["flip", "truncate", "extend", "other", "empty"]))
    def corrupt(self, digest, how):
        if digest not in self.stored:
            return
        right = self.right[digest]
        wrong = {
            "flip": right[:-1] + bytes([right[-1] ^ 1]) if right else b"x",
            "truncate": right[:-1],
            "extend": right + b"x",
            "other": b"something else",
            "empty": b"",
        }[how]
        plant(self.layout, digest, wrong)
        self.stored[digest] = wrong

    @rule(durability=st.sampled_from(["none", "none", "batch"]))
    def reopen(self, durability):
        self.cas.close()
        self.cas = self.open(durability)

    @rule(name=names, digest=digests)
    def tag(self, name, digest):
        content = self.right[digest]
        descriptor = fastcas.Descriptor("a/b", digest, len(content))
        replaced = self.cas.update_reference(name, descriptor)
        assert [(name, entry.digest) for entry in replaced] == self.named(name)
        kept = [entry for entry in self.references if entry[0] != name]
        self.references = [*kept, (name, digest)]

    @rule(name=names)
    def untag(self, name):
        removed = self.cas.delete_reference(name)
        assert [(name, entry.digest) for entry in removed] == self.named(name)
        self.references = [entry for entry in self.references if entry[0] != name]

    def named(self, name):
        return [entry for entry in self.references if entry[0] == name]

    @rule(name=names)
    def update_fails(self, name):
        def function(index):
            raise KeyError(name)

        with pytest.raises(KeyError):
            self.cas.update_index(function)

    @rule(debris=st.booleans())
    def clean(self, debris):
        if debris:
            make_dead(self.layout / DEAD_TEMP)
        assert list(self.cas.clean()) == ([DEAD_TEMP] if debris else [])

    @rule()
    def sync(self):
        self.cas.sync()

    @invariant()
    def matches(self):
        if self.cas is None:
            return
        assert sorted(self.cas.list_blobs()) == sorted(self.stored)
        assert len(self.cas) == len(self.stored)
        for digest, content in self.stored.items():
            assert digest in self.cas
            assert self.cas.stat_blob(digest).size == len(content)
        assert list(self.cas.list_references()) == [name for name, _ in self.references]
        index = self.cas.get_index()
        assert [entry.digest for entry in index.manifests] == [d for _, d in self.references]
        assert own_names(self.layout) == set()


class OracleMachine(EngineMachine):
    def create(self, durability):
        return OracleEngine.create(self.layout)

    def open(self, durability):
        return OracleEngine(self.layout)

    @rule(debris=st.booleans())
    def clean(self, debris):
        assert self.cas.clean() == []


def run(machine, examples, steps, phases=tuple(Phase)):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=phases,
            derandomize=True,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("named", [False, True], ids=["tmpfile", "named"])
def test_engine_is_what_the_model_is(monkeypatch, named):
    if named:
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    run(EngineMachine, 60, 50)


def test_oracle_is_what_the_model_is():
    run(OracleMachine, 30, 50)


class LosesUpdates(EngineMachine):
    """An engine that forgets a reference now and then: the model has to see it."""

    @rule(name=names)
    def lose(self, name):
        self.cas.delete_reference(name)


def test_the_machine_finds_a_lost_update():
    with pytest.raises(AssertionError):
        run(LosesUpdates, 120, 50, [Phase.generate])  # to make it small takes long
