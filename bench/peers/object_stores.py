"""`object_stores.py NAME PAYLOAD` drives a client of an S3 server for ../object_store.py.

Requests and answers are lines as in program.py; ENDPOINT is the server's URL, PREFIX where in the
bucket the blobs are, LISTING as there, and with FILE the blobs are cut from it, into memory:

    hello                                     version
    create ENDPOINT PREFIX                    an empty store
    WAY ENDPOINT PREFIX [LISTING [FILE]]      a method of the system below; ns, cpu_ns, peak_kib, count

`cpu_ns` is what this process and its threads used, in the kernel too; `peak_kib` its largest resident
set until then. PAYLOAD is "signed", what each does over HTTP when it isn't told otherwise, or
"unsigned": no SHA-256 of the body in the signature, nor a CRC beside it. Credentials are those of the
environment. A blob's key is that of a layout, whoever puts it, so all can read the same.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

BUCKET = "bench"
CHUNK = 1 << 20
PART = 8 << 20  # of a multipart upload; what isn't larger is one request
THREADS = 16
TASKS = 64


class Blob(NamedTuple):
    digest: str  # 64 hexadecimal digits
    size: int
    source: Path | bytes


class Unseekable:
    """What a pipe or a socket is to who reads it: no size, no way back."""

    def __init__(self, file: BinaryIO) -> None:
        self.readinto = file.readinto  # type: ignore[attr-defined]


class Hashing:
    """A file that keeps nothing of what is written to it but the digest."""

    def __init__(self) -> None:
        state = hashlib.sha256()
        self.write, self.digest = state.update, state.hexdigest

    def expect(self, digest: str) -> None:
        if self.digest() != digest:
            raise ValueError(f"{digest} is corrupt")


def hash_source(source: Path | bytes) -> str:
    """What one must do who wants to store by digest and doesn't know it."""
    state = Hashing()
    if isinstance(source, bytes):
        state.write(source)
    else:
        buffer = memoryview(bytearray(CHUNK))
        with source.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                state.write(buffer[:count])
    return state.digest()


class Fastcas:
    packages = ("fastcas", "obstore")

    def __init__(self, endpoint: str, payload: str) -> None:
        self._config: dict[str, Any] = {
            "endpoint": endpoint,
            "client_options": {"allow_http": True},
            "unsigned_payload": payload == "unsigned",
        }
        self._cas: Any = None

    def create(self, prefix: str) -> None:
        import fastcas

        fastcas.create(f"s3://{BUCKET}/{prefix}", config=self._config).close()

    def open(self, prefix: str) -> None:
        import fastcas

        if self._cas is not None:
            self._cas.close()
        self._cas = fastcas.open(f"s3://{BUCKET}/{prefix}", config=self._config)

    def put(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            self._cas.put_blob(blob.source)

    def put_known(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            self._cas.put_blob(blob.source, expected_digest=f"sha256:{blob.digest}")

    def put_reader(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            with blob.source.open("rb", buffering=0) as file:
                self._cas.put_blob(Unseekable(file))

    def put_together(self, blobs: list[Blob]) -> None:
        self._cas.put_blobs([blob.source for blob in blobs])

    def get(self, blobs: list[Blob]) -> None:
        buffer = bytearray(CHUNK)
        for blob in blobs:
            with self._cas.get_blob(f"sha256:{blob.digest}") as reader:
                while reader.readinto(buffer):
                    pass
                assert reader.verified

    def read(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            self._cas.read_blob(f"sha256:{blob.digest}")

    def list(self) -> int:
        return sum(1 for _ in self._cas.list_blobs())


class Plain:
    """A client that knows no digests: its user hashes with hashlib, before a put and after a get."""

    prefix = ""

    def create(self, prefix: str) -> None:
        """It needs nothing."""

    def open(self, prefix: str) -> None:
        self.prefix = f"{prefix}/blobs/sha256/"

    def upload(self, digest: str, blob: Blob) -> None:
        raise NotImplementedError

    def fetch(self, digest: str) -> bytes:
        raise NotImplementedError

    def put_one(self, blob: Blob) -> None:
        self.upload(hash_source(blob.source), blob)

    def put(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            self.put_one(blob)

    def put_unhashed(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            self.upload(blob.digest, blob)

    def put_threads(self, blobs: list[Blob]) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.put_one, blobs))

    def read(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            sink = Hashing()
            sink.write(self.fetch(blob.digest))
            sink.expect(blob.digest)


class Boto3(Plain):
    packages = ("boto3", "botocore", "s3transfer")

    def __init__(self, endpoint: str, payload: str) -> None:
        import boto3
        from botocore.config import Config

        options: dict[str, Any] = {"max_pool_connections": THREADS}
        if payload == "unsigned":
            options["s3"] = {"payload_signing_enabled": False}
            options["request_checksum_calculation"] = "when_required"
        self._client = boto3.client("s3", endpoint_url=endpoint, config=Config(**options))

    def upload(self, digest: str, blob: Blob) -> None:
        key = self.prefix + digest
        if isinstance(blob.source, bytes):
            self._client.put_object(Bucket=BUCKET, Key=key, Body=blob.source)
        elif blob.size > PART:
            self._client.upload_file(str(blob.source), BUCKET, key)
        else:
            with blob.source.open("rb") as file:
                self._client.put_object(Bucket=BUCKET, Key=key, Body=file)

    def fetch(self, digest: str) -> bytes:
        answer = self._client.get_object(Bucket=BUCKET, Key=self.prefix + digest)
        return answer["Body"].read()

    def get(self, blobs: list[Blob]) -> None:
        """Ranges by threads; it writes them in their order."""
        for blob in blobs:
            sink = Hashing()
            self._client.download_fileobj(BUCKET, self.prefix + blob.digest, sink)
            sink.expect(blob.digest)

    def get_body(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            sink = Hashing()
            answer = self._client.get_object(Bucket=BUCKET, Key=self.prefix + blob.digest)
            for chunk in answer["Body"].iter_chunks(CHUNK):
                sink.write(chunk)
            sink.expect(blob.digest)

    def list(self) -> int:
        pages = self._client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=self.prefix)
        return sum(1 for page in found for _ in page.get("Contents", ()))


class S3fs(Plain):
    packages = ("s3fs", "aiobotocore")

    def __init__(self, endpoint: str, payload: str) -> None:
        import s3fs

        options: dict[str, Any] = {}
        if payload == "unsigned":
            options["s3"] = {"payload_signing_enabled": False}
            options["request_checksum_calculation"] = "when_required"
        self._files = s3fs.S3FileSystem(
            endpoint_url=endpoint,
            config_kwargs=options,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def path(self, digest: str) -> str:
        return f"{BUCKET}/{self.prefix}{digest}"

    def upload(self, digest: str, blob: Blob) -> None:
        if isinstance(blob.source, bytes):
            self._files.pipe_file(self.path(digest), blob.source)
        else:
            self._files.put_file(str(blob.source), self.path(digest))

    def put_together(self, blobs: list[Blob]) -> None:
        """It has calls of its own for many, which are concurrent."""
        paths = [self.path(hash_source(blob.source)) for blob in blobs]
        if isinstance(blobs[0].source, bytes):
            self._files.pipe({path: blob.source for path, blob in zip(paths, blobs, strict=True)})
        else:
            self._files.put([str(blob.source) for blob in blobs], paths)

    def fetch(self, digest: str) -> bytes:
        return self._files.cat_file(self.path(digest))

    def get(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            sink = Hashing()
            with self._files.open(self.path(blob.digest), "rb") as file:
                while chunk := file.read(CHUNK):
                    sink.write(chunk)
            sink.expect(blob.digest)

    def list(self) -> int:
        return len(self._files.find(f"{BUCKET}/{self.prefix}"))


class Obstore(Plain):
    packages = ("obstore",)

    def __init__(self, endpoint: str, payload: str) -> None:
        import obstore
        from obstore.store import S3Store

        self._obstore = obstore
        self._store = S3Store(
            BUCKET,
            endpoint=endpoint,
            client_options={"allow_http": True},
            unsigned_payload=payload == "unsigned",
        )

    def upload(self, digest: str, blob: Blob) -> None:
        key = self.prefix + digest
        self._obstore.put(self._store, key, blob.source, chunk_size=PART, max_concurrency=4)

    def put_async(self, blobs: list[Blob]) -> None:
        asyncio.run(self._put_async(blobs))

    async def _put_async(self, blobs: list[Blob]) -> None:
        free = asyncio.Semaphore(TASKS)

        async def put_one(blob: Blob) -> None:
            async with free:
                key = self.prefix + hash_source(blob.source)
                await self._obstore.put_async(self._store, key, blob.source, chunk_size=PART)

        await asyncio.gather(*map(put_one, blobs))

    def fetch(self, digest: str) -> bytes:
        return self._obstore.get(self._store, self.prefix + digest).bytes()

    def get(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            sink = Hashing()
            for chunk in self._obstore.get(self._store, self.prefix + blob.digest).stream(CHUNK):
                sink.write(chunk)
            sink.expect(blob.digest)

    def get_unhashed(self, blobs: list[Blob]) -> None:
        for blob in blobs:
            chunks = self._obstore.get(self._store, self.prefix + blob.digest).stream(CHUNK)
            if sum(map(len, chunks)) != blob.size:
                raise ValueError(f"{blob.digest} has another size")

    def list(self) -> int:
        return sum(map(len, self._obstore.list(self._store, self.prefix)))


SYSTEMS = {"fastcas": Fastcas, "boto3": Boto3, "s3fs": S3fs, "obstore": Obstore}


def read_blobs(listing: str, file: str | None) -> list[Blob]:
    blobs = []
    with open(listing) as lines:
        for line in lines:
            digest, size, *source = line.rstrip("\n").removeprefix("sha256:").split("\t")
            blobs.append(Blob(digest, int(size), Path(*source)))
    if file is None:
        return blobs
    with open(file, "rb") as content:
        return [blob._replace(source=content.read(blob.size)) for blob in blobs]


def peak_kib() -> int:
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmHWM")))


def timed(work: Callable[[], int | None]) -> dict:
    cpu, started = time.process_time_ns(), time.perf_counter_ns()
    count = work()
    elapsed, used = time.perf_counter_ns() - started, time.process_time_ns() - cpu
    return {"ns": elapsed, "cpu_ns": used, "peak_kib": peak_kib(), "count": count}


def perform(connect: Callable[[str], Any], name: str, arguments: list[str]) -> dict:
    endpoint, prefix, *rest = arguments
    system = connect(endpoint)
    if name == "create":
        system.create(prefix)
        return {}
    blobs = [read_blobs(rest[0], rest[1] if rest[1:] else None)] if rest else []
    system.open(prefix)
    return timed(functools.partial(getattr(system, name), *blobs))


def main() -> None:
    kind, payload = SYSTEMS[sys.argv[1]], sys.argv[2]
    connect = functools.cache(lambda endpoint: kind(endpoint, payload))
    for line in sys.stdin:
        name, *arguments = line.rstrip("\n").split("\t")
        try:
            if name == "hello":
                versions = (f"{one} {importlib.metadata.version(one)}" for one in kind.packages)
                answer = {"version": ", ".join(versions)}
            else:
                answer = perform(connect, name, arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
