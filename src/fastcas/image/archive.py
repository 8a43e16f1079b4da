"""Layouts from and to a tar stream: what podman and skopeo call ``oci-archive``.

Nothing is extracted: members go straight into the engine, under the digests that they are named by,
and an archive is written straight from the blobs. Both ways each byte is verified as it passes.

Source: OCI image-spec 1.1, image-layout.md; containers-transports(5), "oci-archive".
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from fastcas import _core, jsonstyle
from fastcas.destination import Destination
from fastcas.digest import Digest, shorten
from fastcas.errors import InvalidError, NotExistError, SizeMismatchError
from fastcas.expected import check_algorithm, check_content
from fastcas.files import DescriptorWriter, open_to_others
from fastcas.image import tar
from fastcas.image.closure import find_closure, merge_entries, name_of, select_entry, shift
from fastcas.image.codec import sniff
from fastcas.image.decompress import decompress
from fastcas.model import INDEX_LIMIT, Descriptor, Index

if TYPE_CHECKING:
    from fastcas.contract import Progress
    from fastcas.engine import Engine
    from fastcas.image.closure import Item
    from fastcas.model import Platform
    from fastcas.reader import BlobReader

__all__ = ["ArchiveResult", "export_archive", "import_archive"]

_LAYOUT = "oci-layout"
_INDEX = "index.json"
_BLOBS = "blobs"
_LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}\n'
_LAYOUT_LIMIT = 64 << 10
_CHUNK = 256 << 10
_BUFFER = 64 << 10
_MOST_LEFT_OUT = 100
# So many blobs are asked for before they are written, where the engine can.
_MOST_AHEAD = 32
# Of an archive's small blobs so many, or of so many bytes, are put at once.
_MOST_AT_ONCE = 256
_MOST_BYTES = 8 << 20
_SMALL = 1 << 20


class ArchiveResult(NamedTuple):
    """What was written to an archive or read from one: the index entries that came along, the number
    of blobs and their bytes; ``left_out``, of an export, the digests that the engine doesn't have, of
    an import, the names of members that are no part of a layout, a hundred at most."""

    entries: list[Descriptor]
    blobs: int
    bytes: int
    left_out: list[str]


def export_archive(
    engine: Engine,
    target: Any,
    *,
    names: Iterable[str] | None = None,
    platform: Platform | str | None = None,
    referrers: bool = False,
    progress: Progress | None = None,
) -> ArchiveResult:
    """Writes a layout as a tar to ``target``, a path or an object with ``write``.

    It has the references ``names`` (or digests), chosen as ``copy_image`` chooses them, or, by default,
    the whole index as it is, with all that is reachable from it; blobs that nothing refers to stay
    behind. Equal content gives equal bytes: members are in order of their names, of one owner and
    without times. ``progress(done, total)`` counts the blobs' bytes.

    A file appears at the path, or replaces one, when it is complete; a device or FIFO is written to,
    and so is what is open as ``/dev/stdout`` or another descriptor. It is not synced.
    After an error an object has been given the beginning of an archive, which lacks its end and is
    refused by whoever reads it: a damaged blob is noticed when its end is read.

    Raises as ``copy_image`` does, InvalidError for a platform of the whole index, and OSError from
    the target.
    """
    if names is None:
        if platform is not None:
            raise InvalidError("a platform is chosen of references: say which")
        index = engine.get_index()
        roots = list(index.manifests)
        closure = find_closure(engine, roots)
    else:
        roots = [select_entry(engine, name, platform) for name in names]
        closure = find_closure(engine, roots, referrers=referrers)
        roots += closure.referrers
        index = Index(roots)
    items = sorted(closure.items, key=lambda item: _name_of_blob(item.digest))
    pieces = _pack(engine, index.to_json(), items, progress)
    if isinstance(target, (str, os.PathLike)):
        _write_file(os.fsdecode(target), pieces)
    elif not hasattr(target, "write") or isinstance(target, io.TextIOBase):
        raise TypeError(f"expected a path or a binary file, not {type(target).__name__}")
    else:
        for piece in pieces:
            _write_all(target, piece)
    return ArchiveResult(roots, len(items), closure.size, sorted(closure.missing))


def _pack(
    engine: Engine, index: bytes, items: list[Item], progress: Progress | None
) -> Iterator[bytes]:
    total = sum(item.size for item in items)
    done = 0
    folder = ""
    for item, blob in _open_all(engine, items):
        with blob or nullcontext():
            name = _name_of_blob(item.digest)
            if folder == "":
                yield tar.encode_header(_BLOBS, kind=tarfile.DIRTYPE, mode=0o755)
            if os.path.dirname(name) != folder:
                folder = os.path.dirname(name)
                yield tar.encode_header(folder, kind=tarfile.DIRTYPE, mode=0o755)
            yield tar.encode_header(name, item.size)
            for piece in _read_item(item, blob):
                yield piece
                done += len(piece)
                if progress is not None:
                    progress(done, total)
            yield tar.padding(item.size)
    for name, content in ((_INDEX, index), (_LAYOUT, _LAYOUT_BYTES)):
        yield tar.encode_header(name, len(content)) + content + tar.padding(len(content))
    yield tar.END


def _open_all(engine: Engine, items: list[Item]) -> Iterator[tuple[Item, BlobReader | None]]:
    """The items in order, each with a reader, to be closed, of what it doesn't have itself."""
    for start in range(0, len(items), _MOST_AHEAD):
        group = items[start : start + _MOST_AHEAD]
        readers = engine.get_blobs([item.digest for item in group if item.data is None])
        for item in group:
            yield item, next(readers) if item.data is None else None


def _read_item(item: Item, blob: BlobReader | None) -> Iterator[bytes]:
    if blob is None:
        yield item.data or b""
        return
    if blob.size != item.size:
        raise SizeMismatchError(
            f"{item.digest}: {blob.size} bytes are stored now, {item.size} were before",
            digest=item.digest,
            expected=item.size,
            actual=blob.size,
        )
    while piece := blob.read(_CHUNK):
        yield piece


def _name_of_blob(digest: Digest) -> str:
    return f"{_BLOBS}/{digest.replace(':', '/', 1)}"


def _write_file(path: str, pieces: Iterator[bytes]) -> None:
    with Destination(path) as out:
        with out.open() as fd:
            with io.BufferedWriter(DescriptorWriter(fd), _BUFFER) as file:
                file.writelines(pieces)
            if out.temp is not None:
                open_to_others(fd, 0o666)
        if out.temp is not None:
            out.replace()


def _write_all(target: Any, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        count = target.write(left)
        if count is None:
            if isinstance(target, io.RawIOBase):
                message = "the target is non-blocking and takes nothing now"
                raise BlockingIOError(errno.EAGAIN, message)
            return  # objects that don't say how much they took take all, or raise
        if not 0 < count <= len(left):
            raise InvalidError(f"write() returned {count} for {len(left)} bytes")
        left = left[count:]


def import_archive(
    engine: Engine,
    source: Any,
    *,
    names: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> ArchiveResult:
    """Stores the layout in a tar; ``source`` is a path, or an object with ``read``, such as a pipe,
    which is read to its end.

    Each blob is put under the digest that its name says and verified as ``put_blob`` verifies. The
    entries of the archive's index, or those of the reference names ``names``, are added to the engine's
    last, in one change, when all that they need was found stored: those with a name take the place
    of what has it. Every blob of the archive is stored, also those that no chosen entry needs.
    ``progress(done, None)`` counts the blobs' bytes.

    Members that are no part of a layout, such as ``manifest.json``, are passed over, and reported.
    After an error nothing is named that wasn't, and what was stored stays as blobs.

    Raises InvalidError for what ``tar.read_members`` refuses, a member that comes twice, an
    archive without ``oci-layout`` (version 1.0.0) or ``index.json``, and an index that is none or
    above 64 MiB; CorruptError for a blob that isn't what its name says; NotExistError for one that
    is lacking, and for a name that isn't there.
    """
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb", buffering=_BUFFER) as file:
            try:
                found = _unpack(engine, _read_plain(file.read), progress)
            except InvalidError as error:
                error.path = error.path or source
                raise
    elif hasattr(source, "read") and not isinstance(source, io.TextIOBase):
        found = _unpack(engine, _read_plain(source.read), progress)
    else:
        raise TypeError(f"expected a path or a binary file, not {type(source).__name__}")
    entries = _choose(found.index, names)
    closure = find_closure(engine, entries)
    merge_entries(engine, entries, [item.digest for item in closure.items if item.data is None])
    return ArchiveResult(entries, len(found.blobs), found.bytes, found.left_out)


class _Pushed:
    """A stream whose first bytes were looked at."""

    def __init__(self, first: bytes, read: Callable[[int], Any]) -> None:
        self._first = first
        self._read = read

    def read(self, most: int) -> Any:
        if not self._first:
            return self._read(most)
        data, self._first = self._first[:most], self._first[most:]
        return data

    def close(self) -> None:
        """What is read isn't ours to close."""


def _read_plain(read: Callable[[int], Any]) -> Callable[[int], Any]:
    """What reads the tar itself, which may be compressed."""
    stream = tar.Stream(read)
    first = b""
    while len(first) < tar.BLOCK and (more := stream.read_some(tar.BLOCK - len(first))):
        first += more
    pushed = _Pushed(first, stream.read_some)
    if sniff(first).name == "none":
        if not tar.is_tar_header(first):
            raise InvalidError("no archive of a layout: neither a tar nor one that is compressed")
        return pushed.read
    return decompress(pushed).read


class _Found:
    """What an archive had, as far as it was read; ``index`` once it was to its end."""

    index: Index

    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.bytes = 0
        self.left_out: list[str] = []
        self.documents: dict[str, bytes] = {}

    def read_index(self) -> None:
        layout = self.documents.get(_LAYOUT)
        if layout is None or _INDEX not in self.documents:
            lacking = _LAYOUT if layout is None else _INDEX
            raise InvalidError(f"archive: not a layout, it has no {lacking}")
        members = jsonstyle.decode_document(layout, limit=_LAYOUT_LIMIT, what=f"archive: {_LAYOUT}")
        version = bytes(members.get("imageLayoutVersion", b"null"))
        if version != b'"1.0.0"':
            raise InvalidError(
                f"archive: {_LAYOUT}: imageLayoutVersion must be 1.0.0, not {shorten(version)}"
            )
        self.index = Index.from_json(self.documents[_INDEX], what=f"archive: {_INDEX}")


def _unpack(engine: Engine, read: Callable[[int], Any], progress: Progress | None) -> _Found:
    found = _Found()
    small = _Small(engine)
    for member in tar.read_members(read):
        name = member.name
        digest = _digest_of_name(name)
        if not member.is_file:
            if name in (_LAYOUT, _INDEX) or digest is not None:
                raise InvalidError(f"archive: {shorten(name)} is a directory")
        elif name in (_LAYOUT, _INDEX):
            if name in found.documents:
                raise InvalidError(f"archive: {name} stands in it twice")
            found.documents[name] = member.read_all(INDEX_LIMIT if name == _INDEX else _LAYOUT_LIMIT)
        elif digest is not None:
            if digest in found.blobs:
                raise InvalidError(f"archive: {digest} stands in it twice", digest=digest)
            found.blobs.add(digest)
            if member.size <= _SMALL:
                small.add(digest, member)
            else:
                engine.put_blob(
                    member,
                    algorithm=digest.algorithm,
                    expected_digest=digest,
                    expected_size=member.size,
                    progress=shift(progress, found.bytes, None),
                )
            found.bytes += member.size
            if progress is not None:
                progress(found.bytes, None)
        elif len(found.left_out) < _MOST_LEFT_OUT:
            found.left_out.append(name)
    small.put()
    found.read_index()
    return found


class _Small:
    """Small blobs of an archive, which are gathered and put at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._contents: dict[str, list[bytes]] = {}  # by algorithm
        self._count = 0
        self._size = 0

    def add(self, digest: Digest, member: tar.Member) -> None:
        content = member.read_all(_SMALL)
        check_algorithm(digest.algorithm)
        digester = _core.Digester(digest.algorithm)
        digester.update(content)
        # put_blobs knows no digests to expect, and what is wrong isn't stored.
        check_content(Digest.of(digest.algorithm, digester.hexdigest()), len(content), digest, None)
        self._contents.setdefault(digest.algorithm, []).append(content)
        self._count += 1
        self._size += len(content)
        if self._count == _MOST_AT_ONCE or self._size >= _MOST_BYTES:
            self.put()

    def put(self) -> None:
        for algorithm, contents in self._contents.items():
            self._engine.put_blobs(contents, algorithm=algorithm)
        self._contents.clear()
        self._count = self._size = 0


def _digest_of_name(name: str) -> Digest | None:
    """The digest that a member is named by; None for other members, strays among the blobs too."""
    folder, _, rest = name.partition("/")
    if folder != _BLOBS or rest.count("/") != 1:
        return None
    try:
        return Digest(rest.replace("/", ":", 1))
    except InvalidError:
        return None


def _choose(index: Index, names: Iterable[str] | None) -> list[Descriptor]:
    if names is None:
        return list(index.manifests)
    chosen = []
    for name in dict.fromkeys(names):
        entries = [entry for entry in index.manifests if name_of(entry) == name]
        if not entries:
            raise NotExistError(f"archive: {shorten(name)}: no such reference")
        chosen += entries
    return chosen
