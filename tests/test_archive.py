"""Layouts from and to a tar: the same bytes, verified as they pass, and nothing of a hostile one."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
import threading

import pytest

import fastcas
from fastcas import model
from fastcas.digest import Digest
from fastcas.errors import (
    CorruptError,
    DigestMismatchError,
    InvalidError,
    NotExistError,
    UnknownAlgorithmError,
)
from fastcas.image import archive, tar
from fastcas.image.archive import export_archive, import_archive
from fastcas.model import ANNOTATION_REF_NAME, Descriptor, Index, Manifest
from samples import KINDS, blobs_of, create, entries_of, put, put_image, put_platforms

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]

AWAY = "sha256:" + "0" * 64
LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'


@pytest.fixture(params=KINDS)
def source(request, tmp_path):
    with create(request.param, tmp_path / "source") as engine:
        yield engine


@pytest.fixture(params=KINDS)
def target(request, tmp_path):
    with create(request.param, tmp_path / "target") as engine:
        yield engine


def export(engine, **more) -> bytes:
    stream = io.BytesIO()
    export_archive(engine, stream, **more)
    return stream.getvalue()


def name_of(digest) -> str:
    return "blobs/" + str(digest).replace(":", "/")


def members_of(raw: bytes) -> dict[str, bytes | None]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return {m.name: tar.extractfile(m).read() if m.isfile() else None for m in tar}


def make_archive(members, *, end=True) -> io.BytesIO:
    """An archive of pairs (name or TarInfo, content)."""
    raw = b""
    for name, content in members:
        info = tarfile.TarInfo(name) if isinstance(name, str) else name
        info.size = len(content)
        raw += info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)
    return io.BytesIO(raw + bytes(1024) * end)


def image_members(engine=None):
    """An image's members, in the order in which a careful writer has them, and its digest."""
    layer = b"layer"
    config = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'

    def describe(content, media_type):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return Descriptor(media_type, digest, len(content))

    manifest = Manifest(
        describe(config, model.MEDIA_TYPE_CONFIG), [describe(layer, model.MEDIA_TYPE_LAYER)]
    ).to_json()
    entry = describe(manifest, model.MEDIA_TYPE_MANIFEST)
    index = Index([entry.replace(annotations={ANNOTATION_REF_NAME: "v1"})]).to_json()
    blobs = [
        (name_of(f"sha256:{hashlib.sha256(content).hexdigest()}"), content)
        for content in (layer, config, manifest)
    ]
    return [("oci-layout", LAYOUT), *blobs, ("index.json", index)]


def test_there_and_back(source, target):
    image = put_image(source, b"base", random.Random(1).randbytes(1_500_000))
    source.update_reference("v1", image)
    source.update_reference("all", put_platforms(source, "amd64", "arm64"))
    untagged = put_image(source, b"untagged")
    source.update_index(lambda index: index.replace(manifests=[*index.manifests, untagged]))
    orphan = source.put_blob(b"orphan").digest
    raw = export(source)
    found = import_archive(target, io.BytesIO(raw))
    assert entries_of(target) == entries_of(source)
    assert blobs_of(target) == blobs_of(source) - {orphan}
    assert found.entries == list(source.get_index().manifests)
    assert (found.blobs, found.left_out) == (len(blobs_of(target)), [])
    assert found.bytes == sum(target.stat_blob(digest).size for digest in blobs_of(target))
    # Once more: nothing changes.
    before = target.get_index().to_json()
    import_archive(target, io.BytesIO(raw))
    assert target.get_index().to_json() == before


def test_an_archive_is_a_layout_when_others_unpack_it(source, tmp_path):
    image = put_image(source, b"base")
    source.update_reference("v1", image)
    digest = source.put_blob(b"layer", algorithm="sha512").digest
    config = put(source, {}, model.MEDIA_TYPE_CONFIG)
    raw = Manifest(config, [Descriptor(model.MEDIA_TYPE_LAYER, digest, 5)]).to_json()
    source.update_reference("v2", put(source, raw, model.MEDIA_TYPE_MANIFEST))
    path = tmp_path / "image.tar"
    export_archive(source, path)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    for name, content in members_of(path.read_bytes()).items():
        place = tmp_path / "unpacked" / name
        if content is None:
            place.mkdir(parents=True)
        else:
            place.write_bytes(content)
    names = [member.name for member in members]
    assert names == sorted(names)
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", 0)}
    assert {m.mode for m in members} == {0o644, 0o755}
    with fastcas.open(tmp_path / "unpacked") as unpacked:
        assert unpacked.get_index().to_json() == source.get_index().to_json()
        assert set(unpacked) == blobs_of(source)
        assert unpacked.read_blob(digest) == b"layer"
    with create("dir", tmp_path / "again") as again:
        import_archive(again, path)
        assert again.read_blob(digest) == b"layer"


def test_equal_layouts_give_equal_bytes(tmp_path):
    made = []
    for kind, order in (("dir", 1), ("oracle", -1)):
        with create(kind, tmp_path / kind) as engine:
            images = {}
            for content in (b"a", b"b", b"c")[::order]:
                images[content] = put_image(engine, content)
            for content in sorted(images):
                engine.update_reference(content.decode(), images[content])
            made.append(export(engine))
    assert made[0] == made[1]


def test_chosen_references(source, target):
    for name in ("one", "two", "three"):
        source.update_reference(name, put_image(source, name.encode()))
    raw = export(source, names=["three", "one"])
    import_archive(target, io.BytesIO(raw))
    assert target.list_references() == ["three", "one"]
    assert len(blobs_of(target)) == 6
    with pytest.raises(NotExistError):
        export(source, names=["four"])


def test_chosen_platform_and_referrers(source):
    index = put_platforms(source, "amd64", "arm64")
    source.update_reference("v1", index)
    arm = Index.from_json(source.read_blob(index.digest)).manifests[1]
    signature = put_image(source, b"signature", subject=arm)
    source.update_index(lambda index: index.replace(manifests=[*index.manifests, signature]))
    raw = export(source, names=["v1"], platform="linux/arm64", referrers=True)
    entries = Index.from_json(members_of(raw)["index.json"]).manifests
    assert [entry.digest for entry in entries] == [arm.digest, signature.digest]
    assert len(members_of(export(source, names=["v1"], platform="linux/arm64"))) == 7


def test_a_platform_of_everything(source):
    with pytest.raises(InvalidError, match="say which"):
        export_archive(source, io.BytesIO(), platform="linux/amd64")


def test_a_blob_that_goes_during_the_import(source, target, monkeypatch):
    source.update_reference("v1", put_image(source, b"layer"))
    stream = io.BytesIO()
    export_archive(source, stream)
    lost = [digest for digest in source if source.read_blob(digest) == b"layer"]
    update = target.update_index

    def remove_first(function):
        target.delete_blob(lost[0])
        return update(function)

    monkeypatch.setattr(target, "update_index", remove_first)
    with pytest.raises(NotExistError, match=lost[0]):
        import_archive(target, io.BytesIO(stream.getvalue()))
    assert entries_of(target) == []


def test_chosen_at_import(source, target):
    for name in ("one", "two"):
        source.update_reference(name, put_image(source, name.encode()))
    raw = export(source)
    import_archive(target, io.BytesIO(raw), names=["two"])
    assert target.list_references() == ["two"]
    with pytest.raises(NotExistError):
        import_archive(target, io.BytesIO(raw), names=["three"])
    assert target.list_references() == ["two"]


def test_what_the_target_had_stays(source, target):
    old = put_image(target, b"old")
    for name in ("v0", "v1"):
        target.update_reference(name, old)
    source.update_reference("v1", put_image(source, b"new"))
    import_archive(target, io.BytesIO(export(source)))
    assert entries_of(target)[0] == ("v0", old.digest)
    assert target.list_references() == ["v0", "v1"]


def test_through_a_pipe(tmp_path):
    with create("dir", tmp_path / "s") as source, create("dir", tmp_path / "t") as target:
        source.update_reference("v1", put_image(source, random.Random(3).randbytes(700_000)))
        receive, send = os.pipe()

        def write():
            with os.fdopen(send, "wb", buffering=0) as file:
                export_archive(source, file)

        writer = threading.Thread(target=write)
        writer.start()
        with os.fdopen(receive, "rb", buffering=0) as file:
            import_archive(target, file)
        writer.join()
        assert entries_of(target) == entries_of(source)


def test_a_writer_that_takes_little(source, target):
    source.update_reference("v1", put_image(source, b"layer" * 1000))
    taken = bytearray()

    class Slow:
        def write(self, data):
            taken.extend(bytes(data[:777]))
            return min(len(data), 777)

    export_archive(source, Slow())
    assert bytes(taken) == export(source)


@pytest.mark.parametrize(
    ("kind", "answer", "error"),
    [
        (io.RawIOBase, None, BlockingIOError),
        (object, 0, InvalidError),
        (object, -1, InvalidError),
        (object, 1 << 40, InvalidError),
    ],
)
def test_writers_that_misbehave(source, kind, answer, error):
    source.update_reference("v1", put_image(source, b"layer"))
    target = type("Target", (kind,), {"write": lambda self, data: answer})()
    with pytest.raises(error):
        export_archive(source, target)


def test_a_writer_that_does_not_say_how_much_it_took(source):
    source.update_reference("v1", put_image(source, b"layer"))
    taken = []
    target = type("Target", (), {"write": lambda self, data: taken.append(bytes(data))})()
    export_archive(source, target)
    assert b"".join(taken) == export(source)
    for wrong in (None, io.StringIO()):
        with pytest.raises(TypeError):
            export_archive(source, wrong)


def test_a_path_appears_when_it_is_complete(source, tmp_path):
    layer = b"layer" * 100
    source.update_reference("v1", put_image(source, layer))
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")
    victim = Digest(put(source, layer).digest)
    stored = tmp_path / "source" / "blobs" / "sha256" / victim.encoded
    stored.chmod(0o600)
    stored.write_bytes(b"x" * len(layer))
    with pytest.raises(DigestMismatchError):
        export_archive(source, path)
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["out.tar", "source"]
    # A stream has had the beginning by then, which nobody takes for an archive.
    stream = io.BytesIO()
    with pytest.raises(DigestMismatchError):
        export_archive(source, stream)
    with create("dir", tmp_path / "t") as target:
        stream.seek(0)
        with pytest.raises((InvalidError, CorruptError)):
            import_archive(target, stream)
        assert entries_of(target) == []
    stored.write_bytes(layer)
    export_archive(source, path)
    assert path.read_bytes() == export(source)
    assert oct(path.stat().st_mode & 0o777 & ~0o022) == "0o644"


def test_a_device_is_written_to(source):
    source.update_reference("v1", put_image(source, b"layer"))
    export_archive(source, "/dev/null")
    assert not os.path.isfile("/dev/null")


def test_no_such_folder_and_no_source(source, target, tmp_path):
    with pytest.raises(FileNotFoundError):
        export_archive(source, tmp_path / "none" / "out.tar")
    with pytest.raises(FileNotFoundError):
        import_archive(target, tmp_path / "none")
    for wrong in (None, 5, io.StringIO("text")):
        with pytest.raises(TypeError):
            import_archive(target, wrong)


@pytest.mark.parametrize("what", ["platform", "layer"])
def test_what_is_missing(source, target, what):
    index = put_platforms(source, "amd64", "arm64")
    source.update_reference("v1", index)
    manifest = Index.from_json(source.read_blob(index.digest)).manifests[0]
    layer = Manifest.from_json(source.read_blob(manifest.digest)).layers[0]
    whole = export(source)
    lost = manifest if what == "platform" else layer
    source.delete_blob(lost.digest)
    members = [
        (n, c) for n, c in members_of(whole).items() if c is not None and n != name_of(lost.digest)
    ]
    if what == "platform":
        found = export_archive(source, io.BytesIO())
        assert found.left_out == [lost.digest]
        import_archive(target, make_archive(members))
        assert target.list_references() == ["v1"]
    else:
        with pytest.raises(NotExistError):
            export(source)
        with pytest.raises(NotExistError) as caught:
            import_archive(target, make_archive(members))
        assert caught.value.digest == lost.digest
        assert entries_of(target) == []


def test_embedded_content_becomes_a_blob(source, target):
    config = put(source, {"os": "linux"}, model.MEDIA_TYPE_CONFIG)
    content = source.read_blob(config.digest)
    source.delete_blob(config.digest)
    raw = Manifest(config.replace(data=content), []).to_json()
    source.update_reference("v1", put(source, raw, model.MEDIA_TYPE_MANIFEST))
    assert members_of(export(source))[name_of(config.digest)] == content
    import_archive(target, io.BytesIO(export(source)))
    assert target.read_blob(config.digest) == content


def test_members_in_any_order(target):
    members = image_members()
    random.Random(5).shuffle(members)
    import_archive(target, make_archive(members))
    assert target.list_references() == ["v1"]


def test_spellings_of_others(target):
    members = image_members()
    folders = []
    for name in ("./", "./blobs/", "./blobs/sha256/"):
        info = tarfile.TarInfo(name)
        info.type = tarfile.DIRTYPE
        folders.append((info, b""))
    import_archive(target, make_archive([*folders, *((f"./{n}", c) for n, c in members)]))
    assert target.list_references() == ["v1"]


def test_strays_are_passed_over_and_reported(target):
    strays = [("manifest.json", b"[]"), ("blobs/sha256/.DS_Store", b"x"), ("blobs/sha256/ab", b"y"),
              ("blobs/README", b"z"), ("a/b/c", b"w")]  # fmt: skip
    found = import_archive(target, make_archive([*strays, *image_members()]))
    assert found.left_out == [name for name, _ in strays]
    assert len(blobs_of(target)) == 3
    many = [(f"stray{n}", b"") for n in range(150)]
    assert len(import_archive(target, make_archive([*many, *image_members()])).left_out) == 100


def zstd(data):
    return pytest.importorskip("backports.zstd").compress(data)


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_compressed(target, compress, tmp_path):
    raw = compress(make_archive(image_members()).getvalue())
    import_archive(target, io.BytesIO(raw))
    assert target.list_references() == ["v1"]
    (tmp_path / "file").write_bytes(raw)
    import_archive(target, tmp_path / "file")
    with pytest.raises(InvalidError):
        import_archive(target, io.BytesIO(raw[:-9]))


def test_a_decompression_bomb(target):
    bomb = gzip.compress(make_archive([("stray", bytes(80 << 20))]).getvalue(), 9)
    with pytest.raises(InvalidError, match="came out of"):
        import_archive(target, io.BytesIO(bomb))


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info, b""


MEMBERS = image_members()
BLOB = MEMBERS[1][0]
INDEX = MEMBERS[-1][1]


def without(name):
    return [member for member in MEMBERS if member[0] != name]


def with_index(content):
    return [*without("index.json"), ("index.json", content)]


HOSTILE = {
    "symbolic link blob": [special(BLOB, tarfile.SYMTYPE, "/etc/passwd"), *without(BLOB)],
    "hard link blob": [*MEMBERS, special("blobs/sha256/" + "1" * 64, tarfile.LNKTYPE, BLOB)],
    "symbolic link folder": [special("blobs", tarfile.SYMTYPE, "/tmp"), *MEMBERS],
    "device": [*MEMBERS, special("x", tarfile.CHRTYPE)],
    "FIFO": [*MEMBERS, special("x", tarfile.FIFOTYPE)],
    "sparse": [*MEMBERS, special("x", tarfile.GNUTYPE_SPARSE)],
    "absolute": [("/" + BLOB, b"layer"), *MEMBERS],
    "parent": [("blobs/../" + BLOB, b"layer"), *MEMBERS],
    "blob twice": [*MEMBERS, MEMBERS[1]],
    "blob twice, spelt in two ways": [*MEMBERS, ("./" + BLOB, MEMBERS[1][1])],
    "index twice": [*MEMBERS, MEMBERS[-1]],
    "layout twice": [*MEMBERS, MEMBERS[0]],
    "blob is a directory": [special(BLOB, tarfile.DIRTYPE), *without(BLOB)],
    "index is a directory": [special("index.json", tarfile.DIRTYPE), *MEMBERS],
    "no layout": without("oci-layout"),
    "no index": without("index.json"),
    "another version": [("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'), *without("oci-layout")],
    "layout isn't JSON": [("oci-layout", b"1.0.0"), *without("oci-layout")],
    "layout without version": [("oci-layout", b"{}"), *without("oci-layout")],
    "large layout": [("oci-layout", LAYOUT + b" " * (64 << 10)), *without("oci-layout")],
    "index isn't JSON": with_index(b"{"),
    "index twice a key": with_index(b'{"schemaVersion":2,' + INDEX[1:]),
    "ambiguous index": with_index(b'{"layers":[],' + INDEX[1:]),
    "wrong content": [(BLOB, b"LAYER"), *without(BLOB)],
    "nothing at all": [],
}


@pytest.mark.parametrize("rule", HOSTILE)
def test_hostile(target, rule, tmp_path, canary):
    old = put_image(target, b"old")
    target.update_reference("v1", old)
    before = target.get_index().to_json()
    with pytest.raises(InvalidError):
        import_archive(target, make_archive(HOSTILE[rule]))
    assert target.get_index().to_json() == before
    for digest in target.list_blobs():
        target.read_blob(digest)
    canary.check()


def test_the_archive_that_the_hostile_ones_are_made_of_is_good(target):
    import_archive(target, make_archive(MEMBERS))
    assert target.list_references() == ["v1"]


def test_a_large_index_is_refused_before_it_is_read(target, monkeypatch):
    monkeypatch.setattr(archive, "INDEX_LIMIT", len(INDEX) - 1)
    with pytest.raises(InvalidError):
        import_archive(target, make_archive(MEMBERS))
    monkeypatch.setattr(archive, "INDEX_LIMIT", len(INDEX))
    import_archive(target, make_archive(MEMBERS))


def test_a_blob_of_an_unknown_algorithm(target):
    with pytest.raises(UnknownAlgorithmError):
        import_archive(target, make_archive([("blobs/foo/abc", b"x"), *MEMBERS]))
    assert entries_of(target) == []


def test_wherever_an_archive_is_cut_nothing_is_named(tmp_path):
    raw = make_archive(MEMBERS).getvalue()
    with create("dir", tmp_path / "target") as target:
        for cut in sorted({*range(0, len(raw) - 1024, 256), *range(0, len(raw) - 1024, 509)}):
            with pytest.raises(InvalidError):
                import_archive(target, io.BytesIO(raw[:cut]))
        assert entries_of(target) == []
        import_archive(target, io.BytesIO(raw[: len(raw) - 512]))  # one block of zeros is an end


def test_an_index_that_names_what_is_not_there(target):
    entry = Descriptor(model.MEDIA_TYPE_MANIFEST, AWAY, 5, annotations={ANNOTATION_REF_NAME: "v2"})
    index = Index.from_json(INDEX)
    members = with_index(index.replace(manifests=[*index.manifests, entry]).to_json())
    with pytest.raises(NotExistError):
        import_archive(target, make_archive(members))
    assert entries_of(target) == []
    import_archive(target, make_archive(members), names=["v1"])
    assert target.list_references() == ["v1"]


def test_names_that_stand_twice_and_entries_without_one(target):
    entry = Index.from_json(INDEX).manifests[0]
    plain = entry.replace(annotations=None)
    twice = [entry, entry.replace(annotations={ANNOTATION_REF_NAME: "v1", "a": "b"}), plain, plain]
    for _ in range(2):
        import_archive(target, make_archive(with_index(Index(twice).to_json())))
        assert [name for name, _ in entries_of(target)] == ["v1", "v1"]


def test_progress(source, target):
    source.update_reference("v1", put_image(source, b"layer"))
    calls = []
    raw = export(source, progress=lambda done, total: calls.append((done, total)))
    total = sum(source.stat_blob(digest).size for digest in blobs_of(source))
    assert calls[-1] == (total, total)
    calls.clear()
    import_archive(target, io.BytesIO(raw), progress=lambda done, of: calls.append((done, of)))
    assert calls[-1] == (total, None)


def test_errors_have_the_path_of_the_archive(target, tmp_path):
    path = tmp_path / "a"
    for content in (b"text", b"", b"text" * 1000, tar.END, tar.encode_header("x") + tar.END):
        path.write_bytes(content)
        with pytest.raises(InvalidError) as caught:
            import_archive(target, path)
        assert caught.value.path == path
        with pytest.raises(InvalidError) as caught:
            import_archive(target, io.BytesIO(content))
        assert caught.value.path is None
        assert ("no archive of a layout" in str(caught.value)) == (b"text" in content or not content)
