"""From files that are written to blobs that are stored: what is there already is taken, the rest is
synced and gets its names. One Publication for each group of put_blobs."""

from __future__ import annotations

import os
from collections import namedtuple

from fastcas import _core
from fastcas.digest import Digest
from fastcas.dir.ingest import not_synced
from fastcas.errors import FastCASError
from fastcas.layout import BLOBS
from fastcas.results import PutResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastcas.dir.durability import Durability
    from fastcas.dir.ingest import Ingest
    from fastcas.dir.root import Root

#: A source that is written, not published: ``temp`` is its Temp, ``digest`` and ``size`` its content's.
Staged = namedtuple("Staged", "number source temp digest size")


class Publication:
    """What a group has stored, and single files beside it, on their way to their names.

    ``sync``, then ``name``, which fills in ``results``, by number; then there are ``failures`` as
    (number, source, error), and ``odd``: what has to be put in the general way; ``size`` are the bytes
    of the group's results. Discarding and closing is the caller's.
    """

    def __init__(
        self,
        root: Root,
        ingest: Ingest,
        durability: Durability,
        algorithm: str,
        directory: int,
        group: _core.Group | None,
        grouped: list[tuple[int, Any]],
        staged: list[Staged],
        results: list[PutResult | None],
        filesystem: _core.File | None,
    ) -> None:
        self._root = root
        self._ingest = ingest
        self._durability = durability
        self._algorithm = algorithm
        self._directory = directory
        self._group = group if grouped else None
        self._grouped = grouped
        self._staged = staged
        self._claims: dict[str, tuple[_core.File, int]] = {}  # that were there, and errnos
        self._errnos: dict[int, int] = {}  # of the files of `staged`, by number
        self._results = results
        self._filesystem = filesystem  # to be synced as a whole
        self.size = 0
        self.failures: list[tuple[int, Any, Exception]] = []
        self.odd: list[tuple[int, Any]] = []

    def __enter__(self) -> Publication:
        return self

    def __exit__(self, *_: object) -> None:
        for file, _errno in self._claims.values():
            file.close()

    def sync(self) -> None:
        """Takes what is stored already, and makes that and what is new durable."""
        if self._group is not None:
            outcome = self._group.outcome()
            ours = set()
            if not self._durability.sync_files:  # they have their names
                ours = {encoded for encoded, _, _, stored in outcome if stored}
            for encoded, size, error, stored in outcome:
                if encoded is not None and error is None and not stored and encoded not in ours:
                    self._claim(encoded, size)
        for one in self._staged:
            self._claim(one.digest.encoded, one.size)
        if not self._durability.sync_files:
            return
        new = [one for one in self._staged if one.digest.encoded not in self._claims]
        found = [file.fd for file, _ in self._claims.values()]
        fds = found + [one.temp.fd for one in new]
        errnos = self._ingest.sync_found(
            found,
            lambda statuses: self._sync_data(fds, statuses),
            others=len(new) + (0 if self._group is None else len(self._group)),
        )
        for encoded, errno in zip(list(self._claims), errnos, strict=False):
            self._claims[encoded] = self._claims[encoded][0], errno
        self._errnos = {
            one.number: errno for one, errno in zip(new, errnos[len(found) :], strict=False)
        }

    def _sync_data(self, fds: list[int], statuses: memoryview) -> None:
        """Of ``fds`` and of the group's files, which keep their errnos."""
        if self._filesystem is not None:
            _core.sync_filesystem(self._filesystem.fd, [], statuses)
            if statuses[0]:  # whose it was nobody knows: none of them gets its name
                raise OSError(statuses[0], os.strerror(statuses[0]))
        elif self._group is None:
            _core.sync_files(fds, statuses)
        else:
            self._group.sync(fds, statuses)

    def name(self) -> None:
        """Gives names to what is new, and settles what became of each."""
        for one in self._staged:
            if one.digest.encoded in self._claims:
                self._claimed(one.number, one.source, one.digest, one.size)
                continue
            try:
                if errno := self._errnos.get(one.number, 0):
                    raise OSError(errno, os.strerror(errno))
                self._ingest.place(self._directory, one.temp, one.digest, one.size, synced=True)
            except Exception as error:
                named = self._named(error, one.digest.encoded)
                self.failures.append((one.number, one.source, named))
            else:
                self._results[one.number] = PutResult(one.digest, one.size)
        if self._group is not None:
            if self._durability.sync_files:
                self._group.publish()
            self._settle(self._group.outcome())
            self._ingest.record(self._algorithm, self._group.checksums())

    def _settle(self, outcome: list[tuple[Any, int, OSError | None, bool]]) -> None:
        others = []
        for (number, source), (encoded, size, error, stored) in zip(
            self._grouped, outcome, strict=True
        ):
            if stored:
                self._results[number] = PutResult(Digest.of(self._algorithm, encoded), size)
                self.size += size
            elif error is not None:
                self.failures.append((number, source, self._named(error, encoded)))
            else:
                others.append((number, source, encoded, size))
        if not others:
            return
        ours = {encoded for encoded, _, _, stored in outcome if stored}
        for number, source, encoded, size in others:
            if encoded in ours or encoded in self._claims:  # the same content twice, or once more
                self._claimed(number, source, Digest.of(self._algorithm, encoded), size)
                self.size += size
            else:
                self.odd.append((number, source))

    def _claim(self, encoded: str, size: int) -> None:
        if encoded in self._claims:
            return
        try:
            digest = Digest.of(self._algorithm, encoded)
            found = self._ingest.claim(self._directory, digest, size)
        except (OSError, FastCASError):
            return  # met again, and told, by who puts it in its place
        if not isinstance(found, int):
            self._claims[encoded] = found, 0
            if not self._durability.sync_files:
                found.close()  # here groups are larger than the number of files that may be open

    def _claimed(self, number: int, source: Any, digest: Digest, size: int) -> None:
        if errno := self._claims.get(digest.encoded, (None, 0))[1]:
            self.failures.append((number, source, not_synced(digest, errno)))
        else:
            self._results[number] = PutResult(digest, size)

    def _named(self, error: Exception, encoded: str | None) -> Exception:
        if isinstance(error, OSError):
            name = f"{BLOBS}/{self._algorithm}/{encoded}" if encoded is not None else ""
            return self._root.named(error, name)
        return error
