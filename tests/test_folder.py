"""Folders of the user's: packed in order, never left, and watched for changes."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile

import pytest

from fastcas.errors import InvalidError
from fastcas.image import folder
from fastcas.image.folder import pack_folder, scan_folder

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_fd_leak")]


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


def fill(place):
    (place / "a").mkdir(mode=0o750)
    (place / "a" / "inner").write_bytes(b"inner")
    (place / "a-b").write_bytes(b"x" * 70_000)
    (place / "tool").write_bytes(b"#!/bin/sh\n")
    (place / "tool").chmod(0o4755)
    (place / "link").symlink_to("/etc/passwd")
    os.link(place / "tool", place / "tool2")
    os.mkfifo(place / "fifo", 0o600)
    (place / "empty").write_bytes(b"")
    (place / "ünï").write_bytes(b"u")
    for path in (*place.rglob("*"), place):
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)


def unpack(pieces):
    stream = io.BytesIO(b"".join(pieces))
    return tarfile.open(fileobj=stream)


def test_what_is_packed(place):
    fill(place)
    with unpack(pack_folder(place)) as tar:
        members = {member.name: member for member in tar.getmembers()}
        contents = {name: tar.extractfile(name).read() for name in ("a/inner", "a-b", "tool")}
    # The order of the whole names' bytes, a directory's slash included: "-" stands before "/".
    assert list(members) == ["a-b", "a", "a/inner", "empty", "fifo", "link", "tool", "tool2", "ünï"]
    assert contents == {"a/inner": b"inner", "a-b": b"x" * 70_000, "tool": b"#!/bin/sh\n"}
    assert members["a"].isdir()
    assert members["a"].mode == 0o750
    assert members["tool"].mode == 0o4755
    assert members["tool2"].islnk()
    assert members["tool2"].linkname == "tool"
    assert members["link"].linkname == "/etc/passwd"
    assert members["fifo"].isfifo()
    for member in members.values():
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        assert member.mtime == 1_600_000_000


def test_equal_folders_give_equal_bytes(tmp_path):
    packed = []
    for name in ("one", "two"):
        path = tmp_path / name
        path.mkdir()
        for inner in sorted("cab", reverse=name == "two"):
            (path / inner).write_bytes(inner.encode())
        packed.append(b"".join(pack_folder(path, latest=5)))
    assert packed[0] == packed[1]


def test_times_are_no_later_than_asked(place):
    (place / "old").write_bytes(b"")
    (place / "new").write_bytes(b"")
    (place / "ancient").write_bytes(b"")
    os.utime(place / "old", (100, 100.9))
    os.utime(place / "ancient", (-100, -100))
    with unpack(pack_folder(place, latest=1000)) as tar:
        assert {m.name: m.mtime for m in tar} == {"old": 100, "new": 1000, "ancient": 0}


def test_owners_are_kept_if_asked(place):
    (place / "a").write_bytes(b"")
    facts = (place / "a").stat()
    with unpack(pack_folder(place, owner=None)) as tar:
        assert [(m.uid, m.gid) for m in tar] == [(facts.st_uid, facts.st_gid)]
    with unpack(pack_folder(place, owner=(7, 8))) as tar:
        assert [(m.uid, m.gid) for m in tar] == [(7, 8)]


def test_an_empty_folder_is_an_empty_tar(place):
    assert b"".join(pack_folder(place)) == bytes(1024)


def test_a_socket_is_refused(tmp_path, monkeypatch):
    # A socket's path may have a hundred bytes only.
    monkeypatch.chdir(tmp_path)
    os.mkdir("s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s/socket")
        with pytest.raises(InvalidError) as caught:
            list(pack_folder("s"))
    assert caught.value.path == "s/socket"


def test_symbolic_links_are_not_followed(place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (place / "dir").symlink_to(outside)
    (place / "loop").symlink_to(".")
    assert [entry.name for entry in scan_folder(place)] == ["dir", "loop"]
    # The folder itself may be given by a link.
    (tmp_path / "given").symlink_to(place)
    assert [entry.name for entry in scan_folder(tmp_path / "given")] == ["dir", "loop"]


def test_a_link_in_place_of_what_was_seen_is_not_followed(place, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "inner").write_bytes(b"secret")
    (place / "a").mkdir()
    (place / "b").write_bytes(b"b")
    for name, target in (("a", secret), ("b", secret / "inner")):
        scan = scan_folder(place)
        entry = next(entry for entry in scan if entry.name == name)
        (place / name).rename(tmp_path / "moved")
        (place / name).symlink_to(target)
        with pytest.raises(InvalidError):
            entry.open_file()
        with pytest.raises(InvalidError):
            for entry in scan:
                assert "inner" not in entry.name
        (place / name).unlink()
        (tmp_path / "moved").rename(place / name)


def test_another_file_in_place_of_what_was_seen_is_not_read(place):
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    scan = scan_folder(place)
    entry = next(scan)
    (place / "b").replace(place / "a")
    with pytest.raises(InvalidError):
        entry.open_file()


def _append(path):
    with path.open("ab") as file:
        file.write(b"more")


CHANGES = {
    "grows": _append,
    "shrinks": lambda path: os.truncate(path, 5),
    "is rewritten": lambda path: (path.write_bytes(b"y" * 3_000_000), os.utime(path, ns=(1, 1))),
    "has another mode": lambda path: path.chmod(0o600),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_is_noticed(place, change):
    (place / "file").write_bytes(b"x" * 3_000_000)
    pieces = pack_folder(place)
    next(pieces)
    next(pieces)
    CHANGES[change](place / "file")
    with pytest.raises(InvalidError) as caught:
        list(pieces)
    assert caught.value.path == str(place / "file")


def test_a_small_file_that_changes_is_noticed(place):
    (place / "file").write_bytes(b"x")
    pieces = pack_folder(place)
    next(pieces)
    (place / "file").write_bytes(b"y")
    with pytest.raises(InvalidError):
        list(pieces)


def test_a_directory_that_changes_is_noticed(place):
    (place / "inner").mkdir()
    (place / "inner" / "file").write_bytes(b"x")
    for target in (place, place / "inner"):
        scan = scan_folder(place)
        assert next(scan).name == "inner"
        assert next(scan).name == "inner/file"
        (target / "new").write_bytes(b"")
        with pytest.raises(InvalidError):
            list(scan)
        (target / "new").unlink()


def test_what_vanishes_is_noticed(place):
    for name in "ab":
        (place / name).write_bytes(b"x")
    scan = scan_folder(place)
    next(scan)
    (place / "b").unlink()
    with pytest.raises(InvalidError):
        list(scan)


def test_depth_is_bounded(place):
    path = place
    for _ in range(folder.MAX_DEPTH - 1):
        path = path / "d"
        path.mkdir()
    assert len(list(scan_folder(place))) == folder.MAX_DEPTH - 1
    (path / "d").mkdir()
    with pytest.raises(InvalidError):
        list(scan_folder(place))


def test_names_that_are_not_utf8(place):
    os.close(os.open(os.fsencode(place) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    whole = b"".join(pack_folder(place))
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert tar.getnames() == ["\udcff"]


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(scan_folder(tmp_path / "none"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        list(scan_folder(tmp_path / "file"))


def _unreadable(path):
    try:
        list(pack_folder(path))
    except PermissionError as error:
        return error.filename
    return None


def test_what_can_not_be_read_is_named(shared_path, as_normal_user):
    (shared_path / "f").mkdir()
    (shared_path / "f" / "locked").write_bytes(b"x")
    (shared_path / "f" / "locked").chmod(0)
    assert as_normal_user(_unreadable, shared_path / "f") == str(shared_path / "f" / "locked")
    (shared_path / "f" / "locked").unlink()
    (shared_path / "f" / "inner").mkdir(mode=0)
    os.chmod(shared_path / "f" / "inner", 0)
    assert as_normal_user(_unreadable, shared_path / "f") == str(shared_path / "f" / "inner")


def test_a_reader_that_stops_leaves_nothing_open(place):
    fill(place)
    pieces = pack_folder(place)
    next(pieces)
    next(pieces)
    pieces.close()


def test_devices_are_members(place, monkeypatch):
    # Making a device needs a capability that a container's root may lack.
    (place / "null").write_bytes(b"")
    real = os.stat

    def pretend(path, **more):
        facts = real(path, **more)
        if path != "null":
            return facts
        fields = list(facts)
        fields[0] = stat.S_IFCHR | 0o666
        return os.stat_result(fields, {"st_rdev": os.makedev(1, 3), "st_mtime_ns": 0})

    monkeypatch.setattr(os, "stat", pretend)
    with unpack(pack_folder(place)) as tar:
        (member,) = tar.getmembers()
    assert member.ischr()
    assert (member.devmajor, member.devminor) == (1, 3)
