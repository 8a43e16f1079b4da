"""BlobReader: what interruptions, forks and verify() leave of its promise."""

import hashlib
import io
import os
import signal
import struct
import sys
import threading
import uuid
from array import array
from functools import partial
from pathlib import Path

import pytest

import fastcas
from fastcas import Digest, _core, reader
from fastcas.dir.reader import FileReader
from fastcas.errors import ClosedError, CorruptError, DigestMismatchError
from test_durability import interrupt_in

CONTENT = bytes(range(256)) * 1200  # more than a slot


@pytest.fixture
def cas(tmp_path):
    with fastcas.create(tmp_path / "image", durability="none") as engine:
        yield engine


def flip(cas, digest):
    path = os.path.join(cas.path, "blobs", *digest.split(":"))
    os.chmod(path, 0o644)
    with open(path, "r+b") as blob:
        blob.write(b"\xff")


def test_a_closed_reader_is_collected_without_python(cas):
    """Where there is none, no Ctrl-C is lost."""
    digest, _ = cas.put_blob(CONTENT)
    ran = []

    def watch(frame, event, _):
        if event == "call":
            ran.append(frame.f_code.co_name)

    for buffered in (False, True):
        blob = cas.get_blob(digest)
        assert isinstance(blob, fastcas.BlobReader)
        whole = io.BufferedReader(blob).read() if buffered else blob.read()
        assert whole == CONTENT
        blob.close()
        assert isinstance(blob, fastcas.BlobReader)
        assert "closed" in repr(blob)
        sys.setprofile(watch)
        del blob
        sys.setprofile(None)
    assert ran == []


@pytest.mark.parametrize("taken", [0, 1000, 100_000])
def test_a_failed_call_leaves_the_reader_verified(cas, taken):
    digest, _ = cas.put_blob(CONTENT)
    with cas.get_blob(digest) as blob:
        assert blob.read(taken) == CONTENT[:taken]
        with pytest.raises(BufferError):
            blob.readinto(b"read-only")
        assert blob.read() == CONTENT[taken:]
        assert blob.verified


def test_a_failed_call_doesnt_let_damage_pass(cas):
    digest, _ = cas.put_blob(CONTENT)
    flip(cas, digest)
    blob = cas.get_blob(digest)
    with pytest.raises(BufferError):
        blob.readinto(b"read-only")
    for call in (blob.read, blob.read, blob.close):
        with pytest.raises(DigestMismatchError):
            call()


@pytest.mark.parametrize("size", [0, 1, _core.SMALL, _core.SMALL + 1])
def test_readinto_takes_all_of_a_small_blob(cas, size):
    content = os.urandom(size)
    digest, _ = cas.put_blob(content)
    for room in {size, size + 1, size + 4096}:
        with cas.get_blob(digest) as blob:
            buffer = bytearray(room)
            assert blob.readinto(buffer) == size
            assert buffer == content + bytes(room - size)
            assert blob.tell() == size
            assert blob.readinto(buffer) == 0
            assert blob.verified
            blob.seek(0)
            assert blob.read() == content
    wide = array("I", bytes(4 * size + 4))
    with cas.get_blob(digest) as blob:
        assert blob.readinto(wide) == size
        assert wide.tobytes()[:size] == content
    if size:
        with cas.get_blob(digest) as blob, pytest.raises(BufferError):
            blob.readinto(memoryview(bytearray(2 * size + 2))[::2])


def test_readinto_gives_nothing_of_a_small_blob_that_is_damaged(cas):
    digest, _ = cas.put_blob(b"content")
    blob = cas.get_blob(digest)
    blob.verify()
    flip(cas, digest)
    buffer = bytearray(100)
    for _ in range(2):
        with pytest.raises(DigestMismatchError):
            blob.readinto(buffer)
        assert not blob.verified
    assert buffer == bytes(100)
    with pytest.raises(DigestMismatchError):
        blob.close()


@pytest.mark.parametrize("content", [b"content", CONTENT])
def test_a_reader_keeps_no_buffer(cas, content):
    """Though it keeps its error, with the frames that it was raised through."""
    digest, _ = cas.put_blob(content)
    flip(cas, digest)
    blob = cas.get_blob(digest)
    buffer = bytearray(len(content))
    with pytest.raises(DigestMismatchError):
        blob.readinto(buffer)
    buffer.clear()
    with pytest.raises(DigestMismatchError):
        blob.close()


def test_reading_after_verify_is_verified_anew(cas):
    digest, _ = cas.put_blob(CONTENT)
    with cas.get_blob(digest) as blob:
        blob.verify()
        assert blob.verified
        assert blob.read() == CONTENT
        assert blob.verified
    blob = cas.get_blob(digest)
    blob.verify()
    flip(cas, digest)
    with pytest.raises(DigestMismatchError):
        blob.read()
    with pytest.raises(DigestMismatchError):
        blob.close()


def test_reads_from_elsewhere_are_unverified(cas):
    digest, _ = cas.put_blob(CONTENT)
    with cas.get_blob(digest) as blob:
        blob.verify()
        blob.seek(10)
        assert blob.read(5) == CONTENT[10:15]
        assert not blob.verified
        blob.seek(0)
        assert hashlib.sha256(blob.read()).hexdigest() == digest.encoded
        assert blob.verified


def test_a_forked_child_reads_on_beside_a_held_lock(cas):
    digest, _ = cas.put_blob(CONTENT)
    with cas.get_blob(digest) as blob:
        blob.read(1000)
        with blob._turn:  # as another thread of the parent would
            child = os.fork()
            if child == 0:
                right = blob.read() == CONTENT[1000:] and blob.verified
                blob.close()
                os._exit(0 if right else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert blob.read() == CONTENT[1000:]


def words(count):
    """Content of which every eight bytes say where they stand."""
    return array("Q", range(count)).tobytes()


def read_by_threads(blob, ways, take):
    """What the threads got, by position, and their errors; each goes on until there is no more."""
    pieces, errors = {}, []
    start = threading.Barrier(len(ways))

    def work(way):
        start.wait(60)
        try:
            while piece := take(blob, way):
                (position,) = struct.unpack("=Q", piece[:8])
                assert pieces.setdefault(8 * position, piece) is piece, "handed out twice"
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return pieces, errors


def take_some(blob, size):
    if size % 3 == 0:  # 3 is no factor of the others
        return blob.read(8 * size)
    buffer = bytearray(8 * size)
    return bytes(buffer[: blob.readinto(buffer)])


@pytest.mark.parametrize("count", [900, 20_000, 800_000])
def test_a_reader_of_many_threads(cas, count):
    """Each byte goes to one of them, and the last ones when all are right."""
    content = words(count)
    digest, _ = cas.put_blob(content)
    with cas.get_blob(digest) as blob:
        pieces, errors = read_by_threads(blob, [3, 50, 300, 1001, 6000, 64_000], take_some)
        assert errors == []
        assert b"".join(pieces[position] for position in sorted(pieces)) == content
        assert blob.verified
        assert blob.tell() == len(content)


@pytest.mark.parametrize("count", [20_000, 800_000])
def test_a_damaged_blob_and_many_threads(cas, count):
    """All of them are told, and nobody gets the end."""
    content = words(count)
    digest, _ = cas.put_blob(content)
    flip(cas, digest)  # the first byte
    with pytest.raises(CorruptError):
        with cas.get_blob(digest) as blob:
            pieces, errors = read_by_threads(blob, [50, 300, 1001, 64_000], take_some)
            assert [type(error) for error in errors] == [DigestMismatchError] * 4
            assert sum(map(len, pieces.values())) < len(content)
            assert not blob.verified


def test_a_reader_that_another_thread_closes(cas):
    content = words(800_000)
    digest, _ = cas.put_blob(content)
    for _ in range(20):
        blob = cas.get_blob(digest)

        def take(blob, size):
            if size == 0:
                return blob.close()
            return blob.read(size)

        pieces, errors = read_by_threads(blob, [0, 80_000, 80_000], take)
        assert {type(error) for error in errors} <= {ClosedError}
        got = b"".join(pieces[position] for position in sorted(pieces))
        assert content.startswith(got)
        assert blob.closed


def test_a_signal_handler_that_uses_the_reader_it_interrupted(cas):
    digest, _ = cas.put_blob(CONTENT)
    met = []

    def handler(*_):
        for use in (blob.read, blob.close):
            try:
                use()
            except RuntimeError as error:
                met.append(str(error))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with cas.get_blob(digest) as blob:
            with blob._turn:  # as in the middle of a read
                signal.raise_signal(signal.SIGALRM)
            assert blob.read() == CONTENT
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(met) == 2


def interrupted(use):
    """Calls ``use`` with what interrupts a call at its first moment, at its second, and so on."""
    number, met = 0, True
    while met:
        met = use(partial(interrupt_in, reader.__file__, number))
        number += 1
    assert number > 4


@pytest.fixture(params=["a file", "an object"])
def stored(request, cas):
    """An engine, and the content of a blob that is read by a stream."""
    if request.param == "a file":
        yield cas, CONTENT
    else:
        pytest.importorskip("obstore")
        with fastcas.create(f"memory://bucket/{uuid.uuid4().hex}") as engine:
            yield engine, CONTENT


def take_all(blob, steps):
    """What a reader gives from where it is to its end."""
    pieces = []
    while piece := blob.read(steps):
        pieces.append(piece)
    return b"".join(pieces)


USES = {
    "read": lambda blob: blob.read(1000),
    "readinto": lambda blob: blob.readinto(bytearray(1000)),
    "the rest": lambda blob: blob.read(),
    "all": lambda blob: (blob.seek(0), blob.readinto(bytearray(2 * len(CONTENT)))),
    "verify": lambda blob: blob.verify(),
    "seek": lambda blob: blob.seek(0),
}


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("before", [0, 1000])
@pytest.mark.parametrize("use", USES)
def test_what_comes_after_an_interruption_is_what_stands_there(stored, use, before, small):
    """Wherever it comes, what is read to the end is of the place that tell() says, and verified."""
    cas, content = stored
    content = content[:3000] if small else content
    digest, _ = cas.put_blob(content)

    def try_it(interrupt):
        with cas.get_blob(digest) as blob:
            blob.read(before)
            met = interrupt(lambda: USES[use](blob))
            at = blob.tell()
            assert take_all(blob, 100_000) == content[at:]
            assert blob.verified or (use == "verify" and not met)
        return met

    interrupted(try_it)


@pytest.mark.parametrize("size", [3000, len(CONTENT)])
def test_an_interruption_hides_no_damage(cas, size):
    digest, _ = cas.put_blob(CONTENT[:size])
    flip(cas, digest)

    def try_it(interrupt):
        blob = cas.get_blob(digest)
        met = False
        with pytest.raises(DigestMismatchError):
            met = interrupt(blob.read)
            take_all(blob, 100_000)
        assert not blob.verified
        with pytest.raises(DigestMismatchError):
            blob.close()
        return met

    interrupted(try_it)


def test_seek_takes_whole_numbers(cas):
    with cas.get_blob(cas.put_blob(CONTENT).digest) as blob:
        blob.read(10)
        for arguments in ((1.5,), ("1",), (0, 0.0)):
            with pytest.raises(TypeError):
                blob.seek(*arguments)
        assert blob.tell() == 10
        assert blob.read() == CONTENT[10:]
        assert blob.verified


def test_a_closed_reader_is_neither_entered_nor_iterated(cas):
    blob = cas.get_blob(cas.put_blob(CONTENT).digest)
    blob.close()
    for use in (blob.__enter__, blob.__iter__):
        with pytest.raises(ClosedError):
            use()


@pytest.mark.parametrize("size", [0, 1, 4096, (64 << 10) - 1, 64 << 10, (64 << 10) + 1])
def test_a_small_blob_read_at_one_go(cas, size):
    """The short way for a whole small blob, and what it must leave as the long way does."""
    content = CONTENT[:size]
    digest, _ = cas.put_blob(content)
    for wanted in (-1, size, size + 1):
        with cas.get_blob(digest) as blob:
            assert blob.read(wanted) == content
            assert blob.verified
            assert blob.tell() == size
            assert blob.read() == b""
            assert blob.verified
            blob.seek(0)
            assert not blob.verified
            assert blob.read() == content
            assert blob.verified
    path = Path(cas.path, "blobs", *digest.split(":"))
    for damage in (lambda c: bytes([c[0] ^ 1]) + c[1:], lambda c: c[:-1], lambda c: c + b"x"):
        if size and size <= 64 << 10:
            path.chmod(0o644)
            blob = cas.get_blob(digest)
            path.write_bytes(damage(content))
            for _ in range(2):
                with pytest.raises(CorruptError):
                    blob.read()
            assert not blob.verified
            with pytest.raises(CorruptError):
                blob.close()
            path.write_bytes(content)


@pytest.mark.parametrize("size", [5, 100_000, 5_000_000])
def test_an_error_of_the_disk_names_the_blob(tmp_path, size):
    directory = _core.open_path(tmp_path, os.O_RDONLY)  # reading it fails
    with FileReader(directory, Digest("sha256:" + "0" * 64), size) as blob:
        with pytest.raises(IsADirectoryError) as caught:
            blob.read()
        assert caught.value.filename == "blobs/sha256/" + "0" * 64
        assert not blob.verified
