"""Engine: the contract, and what every store of OCI images gets for free.

What stands here is written against ``Contract`` alone, or hands on to ``fastcas.image``, so that it
works on every engine.
"""

from __future__ import annotations

from fastcas.contract import Contract
from fastcas.errors import InvalidError
from fastcas.results import CopyResult
from fastcas.source import name_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeVar

    from fastcas.contract import Progress
    from fastcas.digest import Digest
    from fastcas.image.decompress import PlainReader
    from fastcas.image.verified import EmbeddedReader
    from fastcas.model import Descriptor, Platform
    from fastcas.reader import BlobReader
    from fastcas.results import BlobInfo, GCReport, ParsedBlob, PutResult, ScrubReport
    from fastcas.source import BlobSource

    T = TypeVar("T")

#: What read_blob reads into memory unless told otherwise, in bytes.
READ_LIMIT = 4 << 20


def too_large(digest: Digest, size: int, limit: int) -> InvalidError:
    """What read_blob raises for a blob above its limit."""
    return InvalidError(f"{digest} has {size} bytes, more than the limit of {limit}", digest=digest)


class Engine(Contract):
    """A content-addressable store of OCI images: blobs by digest, one index, and what is made of them.

    Digests may be given as Digest or str; a str is validated before anything else happens
    (InvalidError). Every method raises ClosedError after ``close``, and OSError, with errno and
    file name, for what the system refuses. ``progress`` is called as ``progress(done, total)``
    about once a MiB, with bytes; total is None where it isn't known. Engines are context managers,
    thread-safe and picklable.

    ``capabilities``, a frozenset of str, says what an engine has beyond what every one must:
    "checksums" (recorded by puts, for quick scrub), "descriptors" (readers have ``fileno``), "files"
    (what is no blob can stand in a blob's place), "fork" (a forked child may use it), "locks" (nobody
    comes between in an update of the index, whose function is called once), "outlives" (a reader goes
    on when its blob is removed).
    """

    def put_blobs(
        self,
        sources: Iterable[BlobSource],
        *,
        algorithm: str = "sha256",
        progress: Progress | None = None,
    ) -> list[PutResult]:
        """Stores many sources; returns their PutResults in order. All are durable on return, unless
        ``durability`` is "none".

        Takes what ``put_blob`` takes. Several may be worked at at once: a path is opened some time
        before the call returns, anything else is taken before the next source is asked for (``bytes``,
        which can't change, may be kept a while). ``progress`` counts the bytes of all together. The
        first source that fails fails the call with its error, which has the source as its attribute
        ``source`` (and, from Python 3.11 on, a note that says which it was); what came before it is
        stored and stays, and some of what comes after it may be stored too.
        """
        results = []
        done = 0

        def watch(count: int, _: int | None) -> None:
            assert progress is not None
            progress(done + count, None)

        for number, source in enumerate(sources):
            try:
                result = self.put_blob(
                    source, algorithm=algorithm, progress=None if progress is None else watch
                )
            except Exception as error:
                name_source(error, number, source)
                raise
            done += result.size
            results.append(result)
        self.sync()
        return results

    def read_blob(self, digest: str, *, limit: int = READ_LIMIT) -> bytes:
        """A whole blob, verified, of at most ``limit`` bytes.

        Raises InvalidError for a larger one before it is read, NotExistError, DigestMismatchError,
        SizeMismatchError.
        """
        with self.get_blob(digest) as blob:
            if blob.size > limit:
                raise too_large(blob.digest, blob.size, limit)
            return blob.readall()

    def get_plain_blob(
        self,
        blob: str | Descriptor,
        *,
        compression: str | None = None,
        diff_id: str | None = None,
        limit: int | None = None,
        ratio: float | None = None,
    ) -> PlainReader:
        """Opens a blob, by its digest or descriptor, and decompresses it while it is read.

        The reader verifies what is stored, and that the plain content's digest is ``diff_id``, before
        it hands out the last bytes. ``compression`` is told by the first bytes where it is None.
        InvalidError after ``limit`` plain bytes, 64 GiB where it is None, and for more than ``ratio``
        of them for a stored one, 250 where it is None, once there are 32 MiB. The caller closes it.

        Raises what ``get_blob`` does, SizeMismatchError where the descriptor has another size,
        UnknownTypeError, UnsupportedError; CorruptError at a damaged place.
        """
        from fastcas.image.decompress import open_plain

        return open_plain(
            self, blob, compression=compression, diff_id=diff_id, limit=limit, ratio=ratio
        )

    def copy_blob(
        self,
        digest: str,
        destination: str | os.PathLike[str],
        *,
        link: bool = False,
        verify: bool = False,
        progress: Progress | None = None,
    ) -> CopyResult:
        """Copies a blob to the file ``destination``; returns (method, size in bytes).

        The cheapest way that the filesystems allow: "reflink", "copy_file_range", "sendfile", "copy".
        ``link=True`` tries "hardlink" first: the file is then the blob itself, read-only, and
        changing it would corrupt the store. ``verify=True`` hashes what is copied; otherwise the
        content is what is stored, unverified. The file appears, or replaces one that is there, when
        it is complete; a device or FIFO is written to, and so is what is open as ``/dev/stdout`` or
        another descriptor. It is not synced.

        Raises NotExistError, IsADirectoryError; DigestMismatchError and SizeMismatchError, and
        then ``destination`` is as it was.
        """
        from fastcas.copyout import copy_out

        return copy_out(self, digest, destination, link=link, verify=verify, progress=progress)

    def put_copy(
        self, blob: BlobReader, *, verify: bool = False, progress: Progress | None = None
    ) -> CopyResult:
        """Stores a blob that an engine, this one or another, has opened, under the digest that it has
        there; returns (method, size in bytes). ``blob`` was not read before, and stays open.

        ``method`` is "exists" where the content was stored here, as ``put_blob`` finds it, else
        "reflink", "server-copy" or "copy". What is copied is verified. Of a reflink and a copy by the
        server only the size is, unless it has 1 MiB at most or ``verify`` asks for more: a blob that
        is damaged there is as damaged here; unverified, it takes the place of nothing that is stored
        here, not even of what has another size. ``verify`` is ``put_blob``'s ``verify_existing`` too.
        As durable on return as after ``put_blob``, and the same errors.
        """
        digest, size = blob.digest, blob.size
        self.put_blob(
            blob,
            algorithm=digest.algorithm,
            expected_digest=digest,
            expected_size=size,
            verify_existing=verify,
            progress=progress,
        )
        return CopyResult("copy", size)

    def put_copies(
        self, blobs: Sequence[BlobReader], *, verify: bool = False, progress: Progress | None = None
    ) -> list[CopyResult]:
        """``put_copy`` of several, in no order and perhaps at once; their results, in order.

        Where one is damaged in its own engine, nothing is stored under its digest; its content may
        stay, as a blob of its own, and so do the others. ``progress(done, None)`` counts all bytes.
        """
        copied = []
        done = 0
        for blob in blobs:
            before = done
            told = None if progress is None else lambda size, _, b=before: progress(b + size, None)
            copied.append(self.put_copy(blob, verify=verify, progress=told))
            done += blob.size
        return copied

    def put_json(self, value: Any, *, style: str = "go") -> PutResult:
        """Stores a JSON document; equal values give equal digests.

        ``style="go"``: the bytes of Go's encoding/json (compact, keys of mappings sorted, ``<>&``
        and U+2028/2029 escaped) and a newline, as umoci and containerd write them. A Descriptor,
        Manifest or Index keeps its order of fields.

        ``style="canonical"``: the JSON Canonicalization Scheme of RFC 8785, without a newline; also
        of documents, whose bytes it changes. InvalidError for a number that no double is equal to.
        """
        from fastcas.jsonstyle import encode_canonical, encode_go

        styles = {"go": encode_go, "canonical": encode_canonical}
        if style not in styles:
            raise InvalidError(f"unknown JSON style {style!r}; there are 'go' and 'canonical'")
        return self.put_blob(styles[style](value))

    def get_verified_blob(self, descriptor: Descriptor) -> BlobReader | EmbeddedReader:
        """A reader of what ``descriptor`` stands for, of its size and no more; the caller closes it.

        Content that the descriptor embeds is verified now and read without the store; otherwise it
        is a BlobReader. The empty media type admits only ``{}``. Raises SizeMismatchError, before
        anything is handed out, where the stored size isn't that of the descriptor; InvalidError,
        DigestMismatchError, and what ``get_blob`` raises.
        """
        from fastcas.image import verified

        return verified.get_verified_blob(self, descriptor)

    def read_descriptor(self, descriptor: Descriptor) -> ParsedBlob:
        """What ``descriptor`` stands for, verified and parsed: ParsedBlob(descriptor, data, raw).

        ``raw`` is the exact content. ``data`` is, by the descriptor's media type, an Index, Manifest,
        Config or Descriptor, Docker's v2s2 ones too; ``{}`` for the empty type; what a parser gave
        that was registered with ``fastcas.register_parser``; for any other type it is ``raw``.

        Raises InvalidError, naming the digest, for content above 4 MiB, of another type, ambiguous
        or damaged; NotExistError.
        """
        from fastcas.image import parse

        return parse.read_descriptor(self, descriptor)

    def walk(
        self,
        descriptor: Descriptor | Iterable[Descriptor],
        visit: Callable[[tuple[Descriptor, ...]], object] | None = None,
    ) -> Iterator[tuple[Descriptor, ...]]:
        """The paths of descriptors from ``descriptor`` down, itself first, pre-order, lazily. Of
        several descriptors, such as the entries of the index, those of each in turn.

        Below an index are its manifests and subject, below a manifest its config, layers and
        subject; other content isn't opened. Each (digest, media type) is visited once. Where
        ``visit(path)`` returns False nothing below is visited. Documents that aren't stored, other
        than those given (NotExistError), have nothing below. Without ``visit`` some documents, at most
        256 or 1 MiB, are read before it is their turn.

        Raises InvalidError for documents that can't be trusted, for paths of more than 16384 and
        for more than 10 million descriptors.
        """
        from fastcas.image import walk

        return walk.walk(self, descriptor, visit)

    def map_descriptors(self, document: T, function: Callable[[Descriptor], Descriptor]) -> T:
        """A new document with ``function(descriptor)`` in the place of each descriptor of an Index
        or Manifest, and of a Descriptor itself; all else stays, unknown fields too. Other documents are
        returned as they are."""
        from fastcas.image import walk

        mapped: T = walk.map_descriptors(document, function)
        return mapped

    def referrers(self, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
        """The manifests whose subject is ``digest``, as descriptors with their annotations and
        artifact type (that of the config where a manifest states none); of one type if asked.

        Found are those reachable from the index and those listed by the index that registries
        leave under the name ``sha256-<hex>``; each once. Raises InvalidError like ``walk``.
        """
        from fastcas.image import walk

        return walk.referrers(self, digest, artifact_type=artifact_type)

    def list_references(self) -> list[str]:
        """The reference names in the index, in its order, a name as often as it stands there."""
        from fastcas.image import reference

        return reference.list_references(self)

    def update_reference(self, name: str, descriptor: Descriptor) -> list[Descriptor]:
        """Lets ``name`` refer to ``descriptor``; returns the index entries that this replaced.

        All entries of that name give way to one at the end of the index; N processes that add N
        names end with N. InvalidError for a name outside the grammar of the specification
        (annotations.md, org.opencontainers.image.ref.name). Durable like ``update_index``.
        """
        from fastcas.image import reference

        return reference.update_reference(self, name, descriptor)

    def delete_reference(self, name: str) -> list[Descriptor]:
        """Removes the entries of ``name``, which may be any string; returns them, [] for none."""
        from fastcas.image import reference

        return reference.delete_reference(self, name)

    def gc(
        self,
        *,
        dry_run: bool = False,
        grace: float = 3600,
        keep: Iterable[Callable[[BlobInfo], bool]] = (),
        progress: Progress | None = None,
    ) -> GCReport:
        """Removes the blobs that nothing in the index leads to; returns GCReport(deleted, freed, kept,
        dry_run): what was deleted, a list of BlobInfo, its bytes, and the number of blobs that stay.

        Every entry of the index is a root, tagged or not; what is reachable from it stays, subjects
        included. So does what was put last, be it a dedupe hit, less than ``grace`` seconds before the
        call, or since; a time in the future counts as now. ``grace`` must be longer than it
        takes from the put of an image's first blob to its entry in the index: 0 is for a layout that
        nobody writes to. A policy in ``keep`` is called as ``policy(BlobInfo)`` for each blob that
        would go: True keeps it (not what it refers to), False doesn't, and anything else is TypeError.
        ``dry_run`` removes nothing and reports what would be.

        Safe beside writers of this package, which it delays by moments: the index is read again, and
        what is new in it marked, before blobs go. Where it changes faster than that, the rest stays
        until the next time. Programs that take no lock are protected by ``grace`` alone.
        ``progress`` is called with the bytes removed and their total. Ends with ``clean``. A deletion
        may be undone by power loss, never half done.

        Nothing is deleted where a document on the way is damaged, too large, ambiguous or can't be
        read: InvalidError, CorruptError or OSError say which. What a policy raises is raised, and
        nothing is deleted. What isn't stored is passed over: a layout may be sparse.
        """
        from fastcas.image.gc import collect

        return collect(self, dry_run=dry_run, grace=grace, keep=keep, progress=progress)

    def scrub(
        self,
        *,
        quick: bool = False,
        quarantine: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> ScrubReport:
        """Digests every stored blob again; returns ScrubReport(checked, bytes, problems): how many
        blobs were read, their bytes, and what was found, a list of Problem(digest, path, kind,
        detail). No blob is changed. The kinds:

        - "corrupt": the content has another digest than its name;
        - "wrong-size": the content is right, or of an algorithm that can't be computed here, and a
          descriptor that the index leads to gives another size;
        - "unreadable": the system refused to read it (EIO, EACCES); the others are looked at;
        - "bad-name": a name among the blobs that is no digest;
        - "non-regular": a link, directory, FIFO or device in a blob's place;
        - "missing": the index leads to it, and it isn't stored; not so for subjects, embedded content
          and layers that may be fetched elsewhere (``urls``, or a nondistributable type);
        - "dangling": an entry of the index itself that isn't stored.

        Where a blob is damaged in more than one way, it is reported once, under the first of these.
        A blob of an algorithm that can't be computed here isn't counted, and its content no problem.

        ``quick`` compares large blobs with the checksums that the engine recorded when they were put,
        at the speed of the disk, and digests the others, and each whose checksum is another: so it
        finds the same, and raises no false alarm. But a checksum proves nothing: somebody who can
        write to the store can hide damage from it. The report's ``by_checksum`` says how many
        were taken as right by theirs. Either scrub records the checksums that are missing or wrong.

        ``quarantine`` moves what is corrupt out of the store into that directory, which is made and
        may not be one under ``blobs/``; beside each blob a small JSON file says why. It is absent then:
        putting it again stores it anew. ``threads`` is how many blobs are read at once, by default one
        for each processor, of an object store 32. ``progress`` counts the bytes digested.

        Beside writers, what they put or delete meanwhile is no problem. Raises InvalidError where the
        index itself can't be read, and OSError where a directory can't be, or where the process lacks
        what it needs to read (descriptors, memory).
        """
        from fastcas.image.scrub import scrub

        return scrub(self, quick=quick, quarantine=quarantine, threads=threads, progress=progress)

    def resolve_reference(
        self, name: str, *, platform: str | Platform | None = None
    ) -> list[tuple[Descriptor, ...]]:
        """What ``name`` refers to: paths of descriptors, from the index entry to the target.

        Targets are image manifests and everything else that is no index; they aren't opened, and
        each comes once. ``name`` is a reference name, ``name@digest``, a digest (also one below the
        entries), or the first seven or more of its digits where only one digest begins so. [] for
        what isn't there.

        With ``platform``, "os/arch[/variant]" or a Platform, returns the one best match, or []: the
        same OS and architecture, and of the variants the one asked for, else the next lower one
        (arm v8 to v5, arm64, amd64). Where no descriptor tells the platform, the config does; an
        entry that has none, such as an artifact, is taken as it is.

        Raises InvalidError for digits that begin several digests, a platform that isn't one, and
        indexes that can't be trusted; NotExistError for an entry whose index isn't stored.
        """
        from fastcas.image import resolve

        return resolve.resolve_reference(self, name, platform=platform)
