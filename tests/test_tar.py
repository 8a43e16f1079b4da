"""The strict tar reader, rule by rule, and the headers that we write."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcas.errors import InvalidError
from fastcas.image import tar

pytestmark = pytest.mark.timeout(120)


def member(name="file", content=b"", *, end=False, **changes) -> bytes:
    """One member as tarfile writes it; ``changes`` are attributes of its TarInfo."""
    form = changes.pop("form", tarfile.USTAR_FORMAT)
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    whole = info.tobuf(form) + content + tar.padding(len(content))
    return whole + tar.END if end else whole


def extended(records: bytes, kind=tarfile.XHDTYPE) -> bytes:
    return member("././@PaxHeader", records, type=kind)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def read(data: bytes):
    stream = io.BytesIO(data)
    return [(m.name, m.is_file, b"".join(m)) for m in tar.read_members(stream.read)]


def with_checksum(block: bytes) -> bytes:
    total = sum(block[:148]) + 8 * 0x20 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


def test_members_as_tarfile_writes_them():
    stream = io.BytesIO()
    long = "deep/" * 40 + "name"
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream.seek(0)
        stream.truncate()
        with tarfile.open(fileobj=stream, mode="w", format=form) as file:
            for name in ("a", "./b/c", long):
                info = tarfile.TarInfo(name)
                info.size = 5
                file.addfile(info, io.BytesIO(b"hello"))
            folder = tarfile.TarInfo("./")
            folder.type = tarfile.DIRTYPE
            file.addfile(folder)
        assert read(stream.getvalue()) == [
            ("a", True, b"hello"),
            ("b/c", True, b"hello"),
            (long, True, b"hello"),
            ("", False, b""),
        ]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, (1 << 20) + 1])
def test_content_of_any_size_in_short_reads(size):
    content = random.Random(size).randbytes(size)
    stream = io.BytesIO(member("a", content) + member("b", b"next", end=True))
    members = tar.read_members(lambda most: stream.read(min(most, 700)))
    assert b"".join(next(members)) == content
    assert next(members).read_all(4) == b"next"
    assert list(members) == []


def test_what_is_not_read_of_a_member_is_skipped():
    stream = io.BytesIO(member("a", b"x" * 3000) + member("b", b"y", end=True))
    assert [m.name for m in tar.read_members(stream.read)] == ["a", "b"]


def test_a_limit_is_checked_before_reading():
    stream = io.BytesIO(member("a", b"12345", end=True))
    one = next(tar.read_members(stream.read))
    with pytest.raises(InvalidError):
        one.read_all(4)
    assert stream.tell() == 512


def test_a_size_in_a_pax_header_or_in_binary():
    sized = extended(record(b"size", b"3")) + member("a", b"abc", size=0)[:512] + b"abc" + bytes(509)
    assert read(sized + tar.END) == [("a", True, b"abc")]
    block = bytearray(member("a", b"abc"))
    block[124:136] = b"\x80" + bytes(10) + b"\x03"
    assert read(with_checksum(bytes(block)) + tar.END) == [("a", True, b"abc")]


def test_a_global_header_without_meaning_is_passed_over():
    comment = extended(record(b"comment", b"0" * 40), tarfile.XGLTYPE)
    assert read(comment + member("a", end=True)) == [("a", True, b"")]


GOOD = member("a", b"abc")

REFUSED = {
    "hard link": member("a", type=tarfile.LNKTYPE, linkname="b", end=True),
    "symbolic link": member("a", type=tarfile.SYMTYPE, linkname="/etc/passwd", end=True),
    "character device": member("a", type=tarfile.CHRTYPE, end=True),
    "block device": member("a", type=tarfile.BLKTYPE, end=True),
    "FIFO": member("a", type=tarfile.FIFOTYPE, end=True),
    "contiguous": member("a", type=tarfile.CONTTYPE, end=True),
    "GNU sparse": member("a", type=tarfile.GNUTYPE_SPARSE, end=True),
    "GNU long link": member("a" * 101, b"", type=tarfile.SYMTYPE, linkname="b" * 101, end=True,
                            form=tarfile.GNU_FORMAT),
    "unknown type": member("a", type=b"V", end=True),
    "pax sparse": extended(record(b"GNU.sparse.major", b"1")) + member("a", end=True),
    "pax link": extended(record(b"linkpath", b"b")) + member("a", end=True),
    "absolute": member("/etc/passwd", end=True),
    "pax absolute": extended(record(b"path", b"/etc/passwd")) + member("a", end=True),
    "parent": member("blobs/../x", end=True),
    "parent first": member("../x", end=True),
    "parent last": member("x/..", type=tarfile.DIRTYPE, end=True),
    "dot inside": member("blobs/./x", end=True),
    "empty part": member("blobs//x", end=True),
    "two dots before": member("././x", end=True),
    "empty name": member("", end=True),
    "file named a directory": member("a/", end=True),
    "NUL in a name": extended(record(b"path", b"a\0b")) + member("a", end=True),
    "long name": extended(record(b"path", b"a" * 4097)) + member("a", end=True),
    "long GNU name": member("a" * 4097, form=tarfile.GNU_FORMAT, end=True),
    "large extended header": extended(record(b"comment", b"a" * (64 << 10))) + member("a", end=True),
    "large long name": member("././@LongLink", b"a" * (65 << 10), type=b"L") + member("a", end=True),
    "path twice": extended(record(b"path", b"a") + record(b"path", b"b")) + member("a", end=True),
    "two headers": extended(record(b"path", b"a")) * 2 + member("a", end=True),
    "header of nobody": extended(record(b"path", b"a")) + tar.END,
    "global path": extended(record(b"path", b"a"), tarfile.XGLTYPE) + member("a", end=True),
    "global size": extended(record(b"size", b"1"), tarfile.XGLTYPE) + member("a", end=True),
    "record too long": extended(b"99 path=a\n") + member("a", end=True),
    "record too short": extended(b"3 path=a\n") + member("a", end=True),
    "record of length 0": extended(b"0 path=a\n") + member("a", end=True),
    "record without =": extended(b"7 path\n") + member("a", end=True),
    "record without key": extended(b"5 =a\n") + member("a", end=True),
    "record without length": extended(b"path=a\n") + member("a", end=True),
    "negative pax size": extended(record(b"size", b"-1")) + member("a", end=True),
    "huge pax size": extended(record(b"size", b"1" * 5000)) + member("a", end=True),
    "pax size of 2**63": extended(record(b"size", b"%d" % (1 << 63))) + member("a", end=True),
    "empty pax size": extended(record(b"size", b"")) + member("a", end=True),
    "negative size": with_checksum(GOOD[:124] + b"\xff" * 12 + GOOD[136:]) + tar.END,
    "size of 2**90": with_checksum(GOOD[:124] + b"\x80" + b"\xff" * 11 + GOOD[136:]) + tar.END,
    "size in letters": with_checksum(GOOD[:124] + b"0000000zz00\0" + GOOD[136:]) + tar.END,
    "size with underscores": with_checksum(GOOD[:124] + b"00000000_03\0" + GOOD[136:]) + tar.END,
    "directory with content": member("a", b"abc", type=tarfile.DIRTYPE, end=True),
    "wrong checksum": GOOD[:10] + b"x" + GOOD[11:] + tar.END,
    "no checksum": GOOD[:148] + b"zzzzzzzz" + GOOD[156:] + tar.END,
    "old tar": with_checksum(GOOD[:257] + bytes(8) + GOOD[265:]) + tar.END,
    "no tar": b"PK\3\4" + bytes(1020),
    "no end": GOOD,
    "nothing": b"",
    "within a header": GOOD + GOOD[:100],
    "within content": GOOD[:514],
    "within a last block": GOOD[:1000],
    "within an extended header": extended(record(b"path", b"a"))[:520],
    "behind the end": GOOD + tar.END + GOOD + tar.END,
    "much behind the end": GOOD + tar.END + bytes((1 << 20) + 1),
}  # fmt: skip


@pytest.mark.parametrize("rule", REFUSED)
def test_refused(rule):
    with pytest.raises(InvalidError):
        read(REFUSED[rule])


@pytest.mark.parametrize("rule", ["size of 2**90", "negative size", "pax size of 2**63"])
def test_sizes_are_refused_before_there_is_a_member(rule):
    with pytest.raises(InvalidError):
        next(tar.read_members(io.BytesIO(REFUSED[rule]).read))


def test_the_rules_are_each_tested_by_what_would_be_read_otherwise():
    # The same helpers, without anything wrong.
    assert read(GOOD + tar.END) == [("a", True, b"abc")]
    assert read(extended(record(b"path", b"b")) + GOOD + tar.END) == [("b", True, b"abc")]
    assert read(extended(record(b"comment", b"a" * 60_000)) + GOOD + tar.END) == [("a", True, b"abc")]
    assert read(with_checksum(GOOD) + tar.END + bytes(10_240)) == [("a", True, b"abc")]
    assert read(member("a" * 4096, form=tarfile.GNU_FORMAT, end=True)) == [("a" * 4096, True, b"")]


def test_headers_are_counted(monkeypatch):
    monkeypatch.setattr(tar, "MAX_HEADERS", 4)
    assert len(read(member("a") * 3 + tar.END)) == 3
    with pytest.raises(InvalidError):
        read(member("a") * 4 + tar.END)
    with pytest.raises(InvalidError):
        read(extended(record(b"comment", b"x"), tarfile.XGLTYPE) * 4 + tar.END)


def test_endless_sources_end():
    with pytest.raises(InvalidError):
        read_from(lambda most: b"\0" * most)
    comment = extended(record(b"comment", b"x"), tarfile.XGLTYPE)
    with pytest.raises(InvalidError):
        read_from(lambda most: (comment[512:] if most > 512 else comment[:512])[:most] or b"\0")


def read_from(function):
    return list(tar.read_members(function))


def test_sources_that_misbehave():
    for wrong, error in (("", TypeError), (None, BlockingIOError), (bytearray(3), TypeError)):
        with pytest.raises(error):
            read_from(lambda most, wrong=wrong: wrong)
    with pytest.raises(InvalidError):
        read_from(lambda most: bytes(most + 1))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_only_our_error_for_whatever_bytes(data):
    whole = bytearray(extended(record(b"path", b"b")) + member("a", b"abc" * 300) + tar.END)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):  # so that what was changed gets past the checksums
        for start in (0, 1024):
            whole[start : start + 512] = with_checksum(bytes(whole[start : start + 512]))
    del whole[data.draw(st.integers(0, len(whole))) :]
    try:
        read(bytes(whole))
    except InvalidError:
        pass


def test_headers_are_the_same_everywhere():
    # A digest of a layer depends on them: they mustn't change with Python's version.
    whole = b"".join(
        [
            tar.encode_header("file", 3),
            tar.encode_header("a" * 120, 1 << 40, mode=0o600, mtime=1_700_000_000, owner=(1, 1 << 22)),
            tar.encode_header("f\u00fcr", kind=tarfile.DIRTYPE, mode=0o755),
            tar.encode_header("not-\udcff-utf8", kind=tarfile.SYMTYPE, link="x" * 101),
            tar.encode_header("null", kind=tarfile.CHRTYPE, device=(1, 3)),
        ]
    )
    assert hashlib.sha256(whole).hexdigest() == (
        "b3135cc22efd562442768db4a053cc3f8e4965142a15f780a31dd83dea19fdb1"
    )


def test_what_can_be_a_tar():
    assert tar.is_tar_header(GOOD[:512])
    assert tar.is_tar_header(bytes(512))
    for wrong in (b"", bytes(511), b"x" * 512, GOOD[:511]):
        assert not tar.is_tar_header(wrong)
