"""index.json: what must never be written."""

import json
import os
from types import SimpleNamespace

import pytest

import fastcas
from fastcas import Descriptor, _core, jsonstyle, model, wire
from fastcas.dir import temp
from fastcas.errors import InvalidError
from fastcas.model import Index

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.mark.parametrize("way", ["put", "update"])
@pytest.mark.parametrize("wrong", [Index(media_type=DOCKER_LIST), "index", {"manifests": []}])
def test_what_cant_be_read_again_isnt_written(tmp_path, way, wrong):
    with fastcas.create(tmp_path / "image") as cas:
        before = (tmp_path / "image" / "index.json").read_bytes()
        with pytest.raises(InvalidError if isinstance(wrong, Index) else TypeError):
            if way == "put":
                cas.put_index(wrong)
            else:
                cas.update_index(lambda index: wrong)
        assert (tmp_path / "image" / "index.json").read_bytes() == before
        cas.get_index()


def test_a_directory_in_the_place_of_the_index(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        index = cas.get_index()
        (tmp_path / "image" / "index.json").unlink()
        (tmp_path / "image" / "index.json").mkdir()
        for call in (cas.get_index, lambda: cas.put_index(index)):
            with pytest.raises(InvalidError) as caught:
                call()
            assert caught.value.path == str(tmp_path / "image" / "index.json")
        assert cas.clean() == []


def entry(number, **more):
    return Descriptor("application/x", f"sha256:{number:064x}", number, **more)


ODD = Descriptor.from_json(
    b'{ "mediaType":"application/x", "unknown":[1.0], "size":7, "digest":"sha256:%064x"}' % 7
)

CHANGES = {
    "append": lambda index: index.replace(manifests=[*index.manifests, entry(9), ODD]),
    "remove": lambda index: index.replace(manifests=index.manifests[1:]),
    "remove all": lambda index: index.replace(manifests=[]),
    "reverse": lambda index: index.replace(manifests=index.manifests[::-1]),
    "twice": lambda index: index.replace(manifests=index.manifests * 2),
    "change one": lambda index: index.replace(
        manifests=[e.replace(annotations={"<": "&"}) if not e.size else e for e in index.manifests]
    ),
    "of another reading": lambda index: index.replace(
        manifests=[*Index.from_json(index.raw).manifests, entry(9)]
    ),
    "something else": lambda index: index.replace(annotations={"a": "b"}),
    "both": lambda index: index.replace(annotations={"a": "b"}, manifests=[ODD]),
    "two steps": lambda index: CHANGES["append"](CHANGES["remove"](index)),
    "a new one": lambda index: Index([*index.manifests, entry(9)]),
    "the same bytes": lambda index: Index.from_json(index.raw).replace(manifests=[ODD]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("count", [0, 1, 40])
def test_an_update_returns_what_will_be_read(tmp_path, change, count):
    entries = b",".join([entry(number).to_json().replace(b":", b" : ", 1) for number in range(count)])
    raw = b'{"unknown": {"a":1}, "manifests": [%s], "schemaVersion":2 }' % entries
    path = tmp_path / "image" / "index.json"
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        path.write_bytes(raw)
        written = cas.update_index(change)
        assert written.raw == path.read_bytes() == cas.get_index().raw
        read = Index.from_json(written.raw)
        for one, other in zip((written, *written.manifests), (read, *read.manifests), strict=True):
            assert (one, one.raw, one.extra) == (other, other.raw, other.extra)
            assert one.to_json() == other.to_json()


@pytest.mark.parametrize(
    "style", [{"indent": 3}, {"separators": (" , ", ":\t")}], ids=["indented", "spaced"]
)
def test_an_index_of_another_style_is_written_compact(tmp_path, style):
    text = "a,  b : [ ]"
    value = {
        "schemaVersion": 2,
        "manifests": [{**json.loads(entry(1).to_json()), "unknown": {"a": [1, {}]}}],
        "unknown": [1.5, text],
        "annotations": {"title": text},
    }
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        (tmp_path / "image" / "index.json").write_text(json.dumps(value, **style))
        for name in ("v1", "v2"):
            cas.update_reference(name, entry(2))
            names = {"org.opencontainers.image.ref.name": name}
            value["manifests"].append({**json.loads(entry(2).to_json()), "annotations": names})
            compact = json.dumps(value, separators=(",", ":")) + "\n"
            assert (tmp_path / "image" / "index.json").read_text() == compact


def test_an_entry_that_is_too_deep_in_the_index_isnt_written(tmp_path):
    depth = jsonstyle.MAX_DEPTH - 1
    deep = ODD.to_json().replace(b"[1.0]", b"[" * depth + b"]" * depth)
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        before = cas.get_index()
        with pytest.raises(InvalidError, match="nested"):
            cas.update_index(lambda index: index.replace(manifests=[Descriptor.from_json(deep)]))
        assert cas.get_index().raw == before.raw


def test_an_index_that_is_too_large_isnt_written(tmp_path, monkeypatch):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        before = cas.get_index()
        for place in ((model, "INDEX_LIMIT"), (Index, "_limit")):
            monkeypatch.setattr(*place, len(before.raw) + 20)
        with pytest.raises(InvalidError, match="limit"):
            cas.update_index(lambda index: index.replace(manifests=[entry(1)]))
        assert cas.get_index().raw == before.raw


def test_entries_that_didnt_change_arent_read_again(tmp_path, monkeypatch):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        cas.put_index(Index([entry(number) for number in range(40)]))
        size = (tmp_path / "image" / "index.json").stat().st_size
        read, real = [], Index.from_json.__func__
        monkeypatch.setattr(
            Index,
            "from_json",
            classmethod(lambda cls, raw, **how: read.append(len(raw)) or real(cls, raw, **how)),
        )
        cas.update_reference("v1", entry(3))
        assert read[0] == size
        assert sum(read[1:]) < size / 10


@pytest.mark.parametrize("space", [" ", "\t", "\r", "\n"])
def test_a_space_before_a_colon_hides_no_duplicate(space):
    with pytest.raises(InvalidError, match="duplicate"):
        Index.from_json(f'{{"schemaVersion":2,"manifests":[],"manifests"{space}:[]}}'.encode())


def test_the_same_bytes_are_parsed_once(tmp_path, monkeypatch):
    parsed = []
    original = wire.read

    def read(schema, raw, **options):
        parsed.append(schema)
        return original(schema, raw, **options)

    def entries(count):
        return [Descriptor("a/b", "sha256:" + "0" * 64, number) for number in range(count)]

    with fastcas.create(tmp_path / "l", durability="none") as cas, fastcas.open(cas.path) as other:
        cas.put_index(Index(entries(3)))
        monkeypatch.setattr(wire, "read", read)
        assert cas.get_index().manifests == other.get_index().manifests == tuple(entries(3))
        parsed.clear()
        assert cas.get_index() is cas.get_index()
        other.get_index()
        assert parsed == []
        # Rewritten in place by another program, the same size and times.
        path = tmp_path / "l" / "index.json"
        facts = path.stat()
        path.write_bytes(path.read_bytes().replace(b'"size":2', b'"size":7'))
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        for engine in (cas, other):
            assert [entry.size for entry in engine.get_index().manifests] == [0, 1, 7]
        parsed.clear()
        cas.update_reference("v1", entries(1)[0])
        assert wire.Index in parsed  # the new entry alone, which is read again
        parsed.clear()
        assert len(cas.get_index().manifests) == 4
        assert parsed == []
        monkeypatch.setattr("fastcas.dir.index._KEPT", 10)
        cas.update_reference("v2", entries(1)[0])
        assert cas.get_index() is not cas.get_index()


def test_an_interruption_leaves_no_temporary_name(tmp_path, monkeypatch):
    layout = tmp_path / "image"

    def link_fd(*args):
        _core.link_fd(*args)
        raise KeyboardInterrupt

    with fastcas.create(layout) as cas:
        before = cas.get_index()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(temp, "_core", SimpleNamespace(**{**vars(_core), "link_fd": link_fd}))
            cas.put_index(before.replace(annotations={"a": "b"}))
        assert [name for name in os.listdir(layout) if name.endswith(".tmp")] == []
        assert cas.get_index() == before
