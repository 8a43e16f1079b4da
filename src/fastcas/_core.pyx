# cython: auto_pickle=False
"""Descriptors, buffers and digests: the part of fastcas that is compiled.

Nothing here knows a path, a document, a lock or a policy. Each method has one beat: arguments to C
locals, one section without the GIL (native/*.c), a result. A section ends after a tenth of a
second, so that signals are answered; it costs the GIL only then, or once a MiB when somebody
watches the progress.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.pythread cimport (
    NOWAIT_LOCK, PY_LOCK_INTR, PyLockStatus, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock,
    PyThread_get_thread_ident, PyThread_release_lock, PyThread_type_lock,
)
from libc.stdint cimport UINT64_MAX, int64_t, uint64_t, uintptr_t
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strlen
from posix.unistd cimport close as close_descriptor
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from fastcas.native.algorithm cimport fc_algorithm
from fastcas.native.evp cimport fc_evp_fetch, fc_evp_load, fc_evp_reason, fc_evp_version
from fastcas.native.files cimport FC_KICK_THREADS, FC_SYNC_THREADS, fc_files, fc_files_kick, fc_files_sync
from fastcas.native.fetch cimport FC_FETCH_CHUNK, FC_FETCH_THREADS, fc_fetch, fc_fetch_read, fc_wanted
from fastcas.native.lanes cimport fc_sha256_kernel, fc_sha256_supported
from fastcas.native.many cimport (
    FC_EKIND, FC_FILE, FC_MEMORY, FC_NAME, fc_many, fc_many_close, fc_many_item, fc_many_open, fc_many_run,
)
from fastcas.native.names cimport fc_names_open, fc_names_stat, fc_names_unlink, fc_place
from fastcas.native.pool cimport fc_pool, fc_pool_run, fc_pool_start, fc_pool_stop, fc_step
from fastcas.native.small cimport (
    FC_SMALL, fc_small, fc_small_name_late, fc_small_place, fc_small_put, fc_small_read, fc_small_stage,
    fc_small_source, fc_small_verify,
)
from fastcas.native.store cimport (
    FC_EUNBEGUN, FC_STORE_THREADS, fc_item, fc_store, fc_store_add, fc_store_close, fc_store_open,
    fc_store_publish, fc_store_run, fc_store_start,
)
from fastcas.native.stream cimport (
    FC_DIGEST_MAX, FC_EDIGEST, FC_EFORKED, FC_ELIMIT, FC_ELONG, FC_EMISMATCH, FC_ESHORT, FC_SLAB,
    fc_copy, fc_copy_method, fc_hasher,
    fc_reader, fc_reader_close, fc_reader_drain, fc_reader_init, fc_reader_read,
    fc_reader_read_all, fc_sink, fc_sink_close, fc_sink_filled, fc_sink_finish, fc_sink_init,
    fc_sink_pull, fc_sink_push, fc_sink_slot,
)
from fastcas.native.sys cimport (
    fc_count_pair, fc_is_hex, fc_link_fd, fc_next_name, fc_open_regular, fc_openat2, fc_read_names,
    fc_same_file,
)
from fastcas.native.xxh cimport fc_xxh_load

cimport cython

import errno
import os
import stat
import sys

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject *kind, object args, void *keywords)
    void PyObject_GC_UnTrack(PyObject *value)
    str PyUnicode_DecodeFSDefault(const char *name)
    bint PyUnicode_IS_ASCII(object text)
    object PyUnicode_New(Py_ssize_t size, unsigned int greatest)
    void *PyUnicode_DATA(object text)
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t size, int flags)
    int PyBUF_READ
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr_flag) nogil
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "<unistd.h>" nogil:
    int fsync(int fd)
    int syncfs(int fd)

cdef extern from "<fcntl.h>" nogil:
    int AT_FDCWD
    int F_DUPFD_CLOEXEC
    int O_CLOEXEC
    int fcntl(int fd, int command, int argument)
    int openat(int dirfd, const char *path, int flags, unsigned int mode)
    int SYNC_FILE_RANGE_WAIT_BEFORE
    int sync_file_range(int fd, int64_t offset, int64_t size, unsigned int flags)

cdef extern from "<errno.h>" nogil:
    int EINTR
    int read_errno "errno"

cdef extern from "<sys/vfs.h>" nogil:
    struct statfs:
        long f_type
    int fstatfs(int fd, statfs *facts)

cdef uint64_t PROGRESS_STEP = 1 << 20
cdef uint64_t COPY_STEP = 16 << 20
cdef size_t GIL_FROM = 2048  # below this many bytes, letting go of the GIL costs more than it gives
cdef size_t UPDATE_STEP = 32 << 20
cdef size_t NAMES_BUFFER = 64 << 10
cdef size_t PUBLISH_STEP = 64
cdef size_t LEAST_ENTRY = 24  # bytes of a directory entry with a name of one to five bytes


class KindError(Exception):
    """Not a regular file."""


class LimitError(Exception):
    """The source holds more bytes than the caller allows."""


class ForkedError(RuntimeError):
    """The process was forked in the middle of a stream, and its helper thread is in the parent."""


class VerifyError(Exception):
    """What a Reader reads isn't what it should be: `.kind` is "short", "long" or "mismatch";
    `.actual` is the size that was found, or the digest in hexadecimal digits; `.size` is the size
    that the file must have."""

    def __init__(self, kind, actual, size):
        super().__init__(kind, actual, size)
        self.kind = kind
        self.actual = actual
        self.size = size


cdef object failure(int status):
    """The one place where a negative status becomes an exception."""
    cdef char reason[256]
    if status == FC_EDIGEST:
        fc_evp_reason(reason, sizeof(reason))
        return RuntimeError("digest failed: " + reason.decode("utf-8", "replace"))
    if status == FC_ELIMIT:
        return LimitError()
    if status == FC_EKIND:
        return KindError("not a regular file")
    if status == FC_EFORKED:
        return ForkedError("the process was forked in the middle of this stream")
    return OSError(-status, os.strerror(-status))


# ---- algorithms

# The names that image layouts use, and libcrypto's. EVP_MDs are fetched once, at import.
cdef dict EVP_NAMES = {"sha256": b"SHA256", "sha512": b"SHA512"}
cdef dict fetched = {}

# XXH3-128: no digest, for anybody can make content that has it.
CHECKSUM = "xxh128"


cdef str find_backend():
    cdef const char *where = NULL
    cdef const fc_algorithm *algorithm
    try:
        import _hashlib
        path = getattr(_hashlib, "__file__", None)  # None: linked into the interpreter
        encoded = os.fsencode(path) if path else b""
        if path:
            where = encoded
    except ImportError:
        pass
    if fc_evp_load(where) == 0:
        for name, evp_name in EVP_NAMES.items():
            algorithm = fc_evp_fetch(evp_name)
            if algorithm is not NULL:
                fetched[name] = <uintptr_t>algorithm
        if "sha256" in fetched:
            return "libcrypto " + fc_evp_version().decode()
    fetched.clear()
    return "hashlib (libcrypto was not found)"


cdef str LIBRARY = find_backend()

# SHA-256 of several streams at once: the kernels that this CPU can run, the best first, and libcrypto (or hashlib).
cdef dict kernels = {}


cdef str find_kernels():
    cdef const fc_sha256_kernel *kernel = fc_sha256_supported(0)
    while kernel is not NULL:
        kernels[kernel.name.decode()] = <uintptr_t>kernel
        kernel = fc_sha256_supported(len(kernels))
    kernels[LIBRARY.partition(" ")[0]] = 0
    # For tests and benches. Nothing else in fastcas depends on the environment.
    wanted = os.environ.get("FASTCAS_SHA256", next(iter(kernels)))
    if wanted not in kernels:
        raise ImportError(f"FASTCAS_SHA256 is {wanted!r}, and this machine has {', '.join(kernels)}")
    return wanted


cdef str LANES = find_kernels()
KERNELS = tuple(kernels)
BACKEND = LIBRARY if kernels[LANES] == 0 else f"{LIBRARY}; lanes: {LANES}"


cdef bint has_package(str name):
    """Whether a package is there, without the price of importing it."""
    return any(getattr(finder, "find_spec", None) and finder.find_spec(name, None) for finder in sys.meta_path)


cdef tuple ALGORITHMS = (*EVP_NAMES, "blake3") if has_package("blake3") else tuple(EVP_NAMES)


def algorithms():
    """The digest algorithms that can be computed here, a tuple of names such as ``sha256``."""
    return ALGORITHMS


cdef const fc_algorithm *find_algorithm(str name) except? NULL:
    """NULL where a Python object computes it; ValueError where nothing does."""
    cdef const char *where = NULL
    if name == CHECKSUM and name not in fetched:
        import xxhash._xxhash  # not with fastcas: it would cost a tenth of its import
        path = getattr(xxhash._xxhash, "__file__", None)
        encoded = os.fsencode(path) if path else b""
        if path:
            where = encoded
        fetched[name] = <uintptr_t>fc_xxh_load(where)
    elif name not in ALGORITHMS and name != CHECKSUM:
        raise ValueError(f"no digest algorithm {name!r} here")
    return <const fc_algorithm *><uintptr_t>fetched.get(name, 0)


cdef object new_object(str name):
    """The last rung, and the only one of BLAKE3: an object like hashlib's."""
    if name == CHECKSUM:
        from xxhash import xxh3_128
        return xxh3_128()
    if name == "blake3":
        from blake3 import blake3
        return blake3(max_threads=blake3.AUTO)  # threads of its own, from 128 KiB at once on
    import hashlib
    return hashlib.new(name)


cdef int object_update(void *state, const void *data, size_t size) noexcept with gil:
    cdef Digester digester = <Digester>state
    try:
        digester.fallback.update(PyMemoryView_FromMemory(<char *>data, <Py_ssize_t>size, PyBUF_READ))
    except BaseException:
        return FC_EDIGEST
    return 0


cdef int object_final(void *state, unsigned char *digest) noexcept with gil:
    cdef Digester digester = <Digester>state
    cdef bytes value
    try:
        value = digester.fallback.digest()
    except BaseException:
        return FC_EDIGEST
    memcpy(digest, PyBytes_AS_STRING(value), len(value))
    return 0


cdef class Digester:
    """One digest in the making, like hashlib's objects.

    `algorithm` is a name of ``algorithms()`` or CHECKSUM; ValueError for any other. Not to be used by
    two threads at once: RuntimeError.
    """

    cdef readonly str name
    cdef readonly int digest_size
    cdef const fc_algorithm *algorithm
    cdef void *state
    cdef object fallback  # without an algorithm: an object like hashlib's
    cdef bint busy

    def __cinit__(self, str algorithm not None):
        self.name = algorithm
        self.algorithm = find_algorithm(algorithm)
        if self.algorithm is not NULL:
            self.digest_size = self.algorithm.digest_size
            self.state = self.algorithm.begin(self.algorithm)
            if self.state is NULL:
                raise failure(FC_EDIGEST)
        else:
            self.fallback = new_object(algorithm)
            self.digest_size = self.fallback.digest_size

    def __dealloc__(self):
        if self.algorithm is not NULL:
            self.algorithm.end(self.state)

    cdef fc_hasher hasher(self) noexcept:
        """For the streams below: valid as long as this object lives."""
        cdef fc_hasher hasher
        hasher.digest_size = self.digest_size
        if self.algorithm is not NULL:
            hasher.update = self.algorithm.update
            hasher.final = self.algorithm.final
            hasher.state = self.state
            hasher.may_thread = 1
        else:
            hasher.update = object_update
            hasher.final = object_final
            hasher.state = <void *>self
            # It lets go of the GIL. An interpreter that ends doesn't give that to another thread any more.
            hasher.may_thread = self.name == "blake3" and not sys.is_finalizing()
        return hasher

    def update(self, data):
        """Adds a bytes-like object. After an interruption some of it may have been added."""
        cdef Py_buffer buffer
        cdef fc_hasher hasher = self.hasher()
        cdef size_t done = 0, size
        cdef int status = 0
        if self.busy:
            raise RuntimeError("this Digester is in use by another thread")
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        self.busy = True
        try:
            if <size_t>buffer.len < GIL_FROM:
                status = hasher.update(hasher.state, buffer.buf, <size_t>buffer.len)
                done = <size_t>buffer.len
            while status == 0 and done < <size_t>buffer.len:
                size = min(<size_t>buffer.len - done, UPDATE_STEP)
                with nogil:
                    status = hasher.update(hasher.state, <const char *>buffer.buf + done, size)
                done += size
                PyErr_CheckSignals()
        finally:
            self.busy = False
            PyBuffer_Release(&buffer)
        if status < 0:
            raise failure(status)

    def copy(self):
        """An independent Digester that has been given the same data."""
        if self.busy:
            raise RuntimeError("this Digester is in use by another thread")
        cdef Digester twin = Digester(self.name)
        if self.algorithm is not NULL:
            self.algorithm.end(twin.state)
            twin.state = self.algorithm.copy(self.state)
            if twin.state is NULL:
                raise failure(FC_EDIGEST)
        else:
            twin.fallback = self.fallback.copy()
        return twin

    def digest(self):
        """The digest of the data so far, `digest_size` bytes; more data may follow."""
        cdef unsigned char value[FC_DIGEST_MAX]
        cdef Digester twin = self.copy()
        cdef fc_hasher hasher = twin.hasher()
        cdef int status = hasher.final(hasher.state, value)
        if status < 0:
            raise failure(status)
        return value[:self.digest_size]

    def hexdigest(self):
        """The same in lower-case hexadecimal digits."""
        return self.digest().hex()


# Making a context costs as much as hashing a kilobyte: a few are kept.
cdef dict spare_digesters = {name: [] for name in fetched}


cdef Digester take_digester(str algorithm):
    """A new Digester; ValueError for an unknown algorithm."""
    cdef list spare = spare_digesters.get(algorithm)
    cdef Digester digester
    if spare:
        digester = spare.pop()
        if digester.algorithm.reset(digester.state) == 0:
            return digester
    return Digester(algorithm)


cdef give_digester(Digester digester):
    """Takes it back; nobody else may have it any more."""
    cdef list spare = spare_digesters.get(digester.name)
    if spare is not None and len(spare) < 2:
        spare.append(digester)


def split_digest(str text not None):
    """Where the colon of a digest ``algorithm:encoded`` stands, or -1 when `text` isn't one by the
    grammar of the OCI image specification (descriptor.md)."""
    cdef Py_ssize_t size, i = 0, colon
    cdef const unsigned char *c
    cdef bint component = False
    try:
        c = <const unsigned char *>PyUnicode_AsUTF8AndSize(text, &size)
    except UnicodeEncodeError:  # lone surrogates
        return -1
    while i < size and c[i] != b":":
        if b"a" <= c[i] <= b"z" or b"0" <= c[i] <= b"9":
            component = True
        elif component and (c[i] == b"+" or c[i] == b"." or c[i] == b"_" or c[i] == b"-"):
            component = False
        else:
            return -1
        i += 1
    if not component or i >= size - 1:
        return -1
    colon = i
    for i in range(colon + 1, size):
        if not is_encoded(c[i]):
            return -1
    return colon


def are_digests(list texts not None, str prefix not None, Py_ssize_t hex_digits):
    """Whether each is `prefix` and so many lower-case hexadecimal digits."""
    cdef Py_ssize_t size, length
    cdef const char *start = PyUnicode_AsUTF8AndSize(prefix, &length)
    cdef const char *c
    for text in texts:
        # Of text that is ASCII this gives its own memory.
        if not PyUnicode_IS_ASCII(text):
            return False
        c = PyUnicode_AsUTF8AndSize(text, &size)
        if size != length + hex_digits or memcmp(c, start, length) or not fc_is_hex(c + length, hex_digits):
            return False
    return True


cdef inline bint is_encoded(unsigned char c) noexcept nogil:
    return (b"a" <= c <= b"z" or b"A" <= c <= b"Z" or b"0" <= c <= b"9"
            or c == b"=" or c == b"_" or c == b"-")


# ---- memory of the streams

cdef class _Slab:
    """FC_SLAB bytes at the start of a page: an unaligned buffer costs reads a factor of three."""

    cdef unsigned char *memory
    cdef int exports

    def __cinit__(self):
        cdef void *memory = mmap(NULL, FC_SLAB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if memory == MAP_FAILED:
            raise MemoryError()
        self.memory = <unsigned char *>memory

    def __dealloc__(self):
        if self.memory is not NULL:
            munmap(self.memory, FC_SLAB)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory, FC_SLAB, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1


# Touching fresh memory costs more than hashing a small blob: a few slabs are kept.
cdef list spare_slabs = []


cdef _Slab take_slab():
    return spare_slabs.pop() if spare_slabs else _Slab()


cdef give_slab(_Slab slab):
    if slab.exports == 0 and len(spare_slabs) < 2:
        spare_slabs.append(slab)


# ---- into a file

cdef class Sink:
    """A stream that is hashed and stored at once in the file `fd` (-1: only hashed).

    `expected` is the size if it is known (-1: not), `limit` the number of bytes above which the
    stream is refused with LimitError (-1: none), `writeback` starts the disk early because an fsync
    will follow. `progress` is called with (bytes so far, `expected` or None) about once a MiB.
    `checksum`: that of CHECKSUM is taken too, by the calling thread; ``.checksum`` has it after
    ``finish``, in hexadecimal digits, else None.
    """

    cdef fc_sink sink
    cdef _Slab slab
    cdef Digester digester
    cdef Digester summer
    cdef readonly str checksum
    cdef object progress
    cdef object total
    cdef uint64_t told
    cdef uint64_t burst
    cdef bint open

    def __cinit__(self, int fd, str algorithm not None, *, int64_t expected=-1, int64_t limit=-1,
                  bint writeback=False, progress=None, bint helper=True, bint checksum=False):
        cdef fc_hasher hasher
        self.digester = Digester(algorithm)
        hasher = self.digester.hasher()
        if not helper:
            hasher.may_thread = 0
        self.slab = take_slab()
        self.progress = progress
        self.total = expected if expected >= 0 else None
        self.burst = UINT64_MAX if progress is None else PROGRESS_STEP
        fc_sink_init(&self.sink, hasher, self.slab.memory, fd, writeback,
                     UINT64_MAX if limit < 0 else <uint64_t>limit, expected)
        self.open = True
        if checksum:
            self.summer = Digester(CHECKSUM)
            self.sink.checksum = self.summer.hasher()

    def __dealloc__(self):
        if self.open:
            with nogil:
                fc_sink_close(&self.sink)

    @property
    def size(self):
        """Bytes taken so far."""
        return self.sink.size

    @property
    def storing(self):
        """Whether the last failure was the file's and not the source's."""
        return bool(self.sink.storing)

    cdef int check_open(self) except -1:
        if not self.open:
            raise ValueError("this stream is finished")

    cdef int beat(self) except -1:
        """Between two sections: signals, and the one who watches."""
        PyErr_CheckSignals()
        if self.progress is not None and self.sink.size - self.told >= PROGRESS_STEP:
            self.told = self.sink.size
            self.progress(self.sink.size, self.total)

    def copy_from_fd(self, int source, *, bint polled=False, double timeout=-1.0):
        """Takes what `source` gives, from its own offset to its end. `polled`: it may keep us
        waiting (a pipe, a socket); TimeoutError after `timeout` seconds without a byte, if >= 0."""
        cdef int status = 1
        cdef uint64_t before
        cdef double waited = 0.0
        self.check_open()
        self.sink.polled = polled
        while status == 1:
            before = self.sink.size
            with nogil:
                status = fc_sink_pull(&self.sink, source, self.burst)
            if status < 0:
                raise failure(status)
            self.beat()
            waited = 0.0 if self.sink.size > before else waited + 0.1
            if status == 1 and 0 <= timeout < waited:
                raise TimeoutError(errno.ETIMEDOUT, f"nothing came for {timeout:g} seconds")

    def write(self, data):
        """Takes a bytes-like object. Only `bytes` can't change under our hands: large ones are
        hashed and written where they lie, any other memory is copied once on its way."""
        cdef Py_buffer buffer
        cdef size_t done = 0
        cdef int status = 1
        cdef bint stable = holds_bytes(data)
        self.check_open()
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            while status == 1:
                with nogil:
                    status = fc_sink_push(&self.sink, <const unsigned char *>buffer.buf, <size_t>buffer.len,
                                          stable, self.burst, &done)
                if status < 0:
                    raise failure(status)
                self.beat()
        except BaseException:
            self.abort()  # the helper thread may still be reading the buffer
            raise
        finally:
            PyBuffer_Release(&buffer)

    def fill(self, readinto):
        """Takes what `readinto(memoryview) -> count` gives until it returns 0. A view that it keeps
        is an error: what is hashed and stored may not change any more."""
        cdef unsigned char *data
        cdef size_t room
        cdef Py_ssize_t n = 0, at
        cdef int status
        self.check_open()
        while True:
            with nogil:
                status = fc_sink_slot(&self.sink, &data, &room)
            if status < 0:
                raise failure(status)
            at = data - self.slab.memory
            with PyMemoryView_FromObject(self.slab) as whole:
                with whole[at:at + <Py_ssize_t>room] as view:
                    n = readinto(view)
            if self.slab.exports:
                raise BufferError("the reader kept the memory that it was given to fill")
            if not 0 <= n <= <Py_ssize_t>room:
                raise ValueError(f"readinto() returned {n} for a buffer of {room} bytes")
            if n == 0:
                return
            status = fc_sink_filled(&self.sink, <size_t>n)
            if status < 0:
                raise failure(status)
            self.beat()

    def finish(self):
        """Writes the rest; returns (digest in hexadecimal digits, size in bytes). The file then has
        exactly that size; nothing is synced."""
        cdef unsigned char digest[FC_DIGEST_MAX]
        cdef int status
        self.check_open()
        with nogil:
            status = fc_sink_finish(&self.sink, digest)
        self.abort()
        if status < 0:
            raise failure(status)
        if self.summer is not None:
            self.checksum = self.summer.hexdigest()
        if self.progress is not None:
            self.progress(self.sink.size, self.total)
        return digest[:self.digester.digest_size].hex(), self.sink.size

    def abort(self):
        """Ends the stream; may be called at any time, and again."""
        if self.open:
            self.open = False
            with nogil:
                fc_sink_close(&self.sink)
            give_slab(self.slab)
            self.slab = None


cdef bint holds_bytes(data):
    """Whether `data` is memory that can't change: a bytes object, or a view of one."""
    while type(data) is memoryview:
        data = data.obj
    return type(data) is bytes


def digest_fd(int fd, str algorithm not None, *, bint polled=False, progress=None):
    """(digest in hexadecimal digits, size in bytes) of what `fd` gives from its offset to its end."""
    facts = os.fstat(fd)
    cdef int64_t expected = facts.st_size if stat.S_ISREG(facts.st_mode) else -1
    cdef Sink sink = Sink(-1, algorithm, expected=expected, progress=progress)
    try:
        sink.copy_from_fd(fd, polled=polled)
        return sink.finish()
    finally:
        sink.abort()


# ---- out of a file

cdef class Reader:
    """The `size` bytes of the file `fd` whose digest is `expected` (raw bytes), in order.

    The last of them are handed out only after the size of the file and the digest of all of it were
    found right; VerifyError otherwise. Not to be used by two threads at once.
    """

    cdef fc_reader reader
    cdef _Slab slab
    cdef Digester digester
    cdef bint open

    def __cinit__(self, int fd, str algorithm not None, uint64_t size, bytes expected not None):
        self.digester = Digester(algorithm)
        if len(expected) != self.digester.digest_size:
            raise ValueError(f"a {algorithm} digest has {self.digester.digest_size} bytes")
        self.slab = take_slab()
        fc_reader_init(&self.reader, self.digester.hasher(), self.slab.memory, fd, size,
                       <const unsigned char *>PyBytes_AS_STRING(expected))
        self.open = True

    def __dealloc__(self):
        if self.open:
            with nogil:
                fc_reader_close(&self.reader)

    @property
    def verified(self):
        """Whether the whole was read and found right."""
        return bool(self.reader.verified)

    @property
    def position(self):
        """How many bytes were handed out."""
        return self.reader.offset - (self.reader.fill - self.reader.taken)

    cdef int check(self, int status) except -1:
        if status < 0:
            raise reader_failure(&self.reader, status)
        PyErr_CheckSignals()

    cdef int check_open(self) except -1:
        if not self.open:
            raise ValueError("this stream is closed")

    def readinto(self, data):
        """Fills the writable bytes-like object; returns how many bytes, 0 at the end."""
        cdef Py_buffer buffer
        cdef size_t done = 0
        cdef int status = 1
        self.check_open()
        PyObject_GetBuffer(data, &buffer, PyBUF_WRITABLE)
        try:
            while status == 1:
                with nogil:
                    status = fc_reader_read(&self.reader, <unsigned char *>buffer.buf, <size_t>buffer.len, &done)
                self.check(status)
        finally:
            PyBuffer_Release(&buffer)
        return done

    def read(self, Py_ssize_t size=-1):
        """The next `size` bytes, fewer only at the end; all the rest for -1."""
        cdef uint64_t left = self.reader.size - self.position
        cdef size_t done = 0
        cdef int status = 1
        self.check_open()
        if size >= 0 and <uint64_t>size < left:
            left = <uint64_t>size
        value = PyBytes_FromStringAndSize(NULL, left)
        cdef unsigned char *out = <unsigned char *>PyBytes_AS_STRING(value)
        cdef bint whole = self.reader.offset == 0 and left == self.reader.size
        try:
            while status == 1:
                with nogil:
                    if whole:
                        status = fc_reader_read_all(&self.reader, out)
                    else:
                        status = fc_reader_read(&self.reader, out, left, &done)
                self.check(status)
        except BaseException:
            self.close()  # the helper thread may still be reading `value`
            raise
        return value

    def drain(self):
        """Reads and verifies what was not handed out, and drops it."""
        cdef int status = 1
        self.check_open()
        while status == 1:
            with nogil:
                status = fc_reader_drain(&self.reader)
            self.check(status)

    def close(self):
        """Ends the stream; may be called at any time, and again. The file stays open."""
        if self.open:
            self.open = False
            with nogil:
                fc_reader_close(&self.reader)
            give_slab(self.slab)
            self.slab = None


cdef object reader_failure(fc_reader *reader, int status):
    cdef uint64_t found = reader.offset if status == FC_ESHORT else reader.size + 1
    return verify_failure(status, found, reader.size, reader.actual, reader.lane.hasher.digest_size)


cdef object verify_failure(int status, uint64_t found, uint64_t size, const unsigned char *digest, int digest_size):
    if status == FC_ESHORT:
        return VerifyError("short", found, size)
    if status == FC_ELONG:
        return VerifyError("long", found, size)
    if status == FC_EMISMATCH:
        return VerifyError("mismatch", digest[:digest_size].hex(), size)
    return failure(status)


# ---- small blobs, each in one call

SMALL = FC_SMALL  # the most bytes that `Place.read` and `put` and `verify_small` take

cdef enum:
    PATH_MOST = 256


cdef class Place:
    """The directory `path` beneath `root` where the blobs of one algorithm lie; a digest that comes out is
    a `kind` (a subclass of str), one that goes in is its `digits` hexadecimal digits. Each method is one section
    without the GIL, and makes no object but what it returns."""

    cdef Handle root
    cdef bytes path
    cdef str algorithm
    cdef type kind
    cdef Py_ssize_t digits

    def __cinit__(self, Handle root not None, bytes path not None, str algorithm not None, Py_ssize_t digits,
                  type kind not None):
        if len(path) > PATH_MOST:
            raise ValueError(f"more than {PATH_MOST} bytes")
        if not issubclass(kind, str):
            raise TypeError("kind must be a subclass of str")
        self.root = root
        self.path = path
        self.algorithm = algorithm
        self.kind = kind
        if not 0 < digits <= 2 * FC_DIGEST_MAX:
            raise ValueError(f"{digits} digits are none of a digest")
        self.digits = digits

    cdef const char *find(self, str encoded, char *name) except NULL:
        """The digits, and the name of that blob."""
        cdef const char *digits = read_digits(encoded, self.digits)
        cdef Py_ssize_t size = len(self.path)
        memcpy(name, PyBytes_AS_STRING(self.path), size)
        name[size] = b"/"
        memcpy(name + size + 1, digits, self.digits + 1)
        return digits

    def open(self, str encoded not None):
        """(File, size) of that regular file, for reading; KindError for anything else."""
        cdef char name[PATH_MOST + 2 * FC_DIGEST_MAX + 2]
        cdef File file = File()
        cdef int64_t size = -1
        cdef int fd, root
        self.find(encoded, name)
        root = self.root.hold()
        with nogil:
            fd = fc_open_regular(root, name, &size)
        self.root.release()
        if fd < 0 or size < 0:
            raise failure(fd if fd < 0 else FC_EKIND)
        file.fd = fd
        return file, size

    def read(self, str encoded not None):
        """The content of that regular file, verified; of one of more than SMALL bytes what `open` returns."""
        cdef char name[PATH_MOST + 2 * FC_DIGEST_MAX + 2]
        cdef const char *digits = self.find(encoded, name)
        cdef Digester digester = take_digester(self.algorithm)
        cdef fc_hasher hasher = digester.hasher()
        cdef _Slab slab = take_slab()
        cdef fc_small small
        cdef int status, root = self.root.hold()
        with nogil:
            status = fc_small_read(&small, hasher, root, name, digits, slab.memory)
        self.root.release()
        try:
            if status == 1:
                if small.size < 0:
                    raise failure(FC_EKIND)
                return File(small.fd), small.size
            return verified_small(&small, status, digester, slab)
        finally:
            give_slab(slab)
            give_digester(digester)

    def put(self, bytes data not None, unsigned int mode, owner, bint sync):
        """Stores `data`, of at most SMALL bytes, under its digest: written to a file without a name, with
        `mode` less the umask and `owner` (uid, gid) or None, synced if `sync`, then linked. Returns (digest,
        File of the directory or None unless `sync`). Returns None, and has done nothing, where that
        name exists or the way is barred."""
        cdef fc_small_place to
        cdef char name[2 * FC_DIGEST_MAX + 1]
        cdef File file = File() if sync else None
        cdef int directory = -1, status
        self.prepare(&to, data, mode, owner)
        to.sync = sync
        cdef Digester digester = take_digester(self.algorithm)
        cdef fc_hasher hasher = digester.hasher()
        cdef const unsigned char *content = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef size_t size = <size_t>len(data)
        to.dirfd = self.root.hold()
        with nogil:
            status = fc_small_put(hasher, &to, content, size, name, &directory)
        self.root.release()
        give_digester(digester)
        if status < 0:
            raise failure(status)
        if sync:
            file.fd = directory
        return None if status else (self.digest_of(name), file)

    def stage(self, bytes data not None, unsigned int mode, owner):
        """The same up to the file, which stays without a name, not synced: (digest, File), or None."""
        cdef fc_small_place to
        cdef char name[2 * FC_DIGEST_MAX + 1]
        cdef File file = File()
        cdef int fd = -1, status
        self.prepare(&to, data, mode, owner)
        to.sync = False
        cdef Digester digester = take_digester(self.algorithm)
        cdef fc_hasher hasher = digester.hasher()
        cdef const unsigned char *content = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef size_t size = <size_t>len(data)
        to.dirfd = self.root.hold()
        with nogil:
            status = fc_small_stage(hasher, &to, content, size, name, &fd)
        self.root.release()
        file.fd = fd
        give_digester(digester)
        if status < 0:
            raise failure(status)
        return None if status else (self.digest_of(name), file)

    cdef int prepare(self, fc_small_place *to, bytes data, unsigned int mode, owner) except -1:
        if len(data) > FC_SMALL:
            raise ValueError(f"{len(data)} bytes are more than {FC_SMALL}")
        to.place = PyBytes_AS_STRING(self.path)
        to.mode = mode
        to.chown = owner is not None
        if to.chown:
            to.uid, to.gid = owner
        return 0

    cdef object digest_of(self, const char *digits):
        cdef Py_ssize_t before = len(self.algorithm) + 1
        text = PyUnicode_New(before + self.digits, 127)
        cdef char *out = <char *>PyUnicode_DATA(text)
        memcpy(out, PyUnicode_DATA(self.algorithm), before - 1)
        out[before - 1] = b":"
        memcpy(out + before, digits, self.digits)
        return (<PyTypeObject *>str).tp_new(<PyTypeObject *>self.kind, (text,), NULL)


def verify_small(int fd, size_t size, str algorithm not None, str expected not None):
    """The content of the file `fd` of `size` bytes, at most SMALL, verified; its offset stays.
    `expected` is in hexadecimal digits."""
    cdef fc_small small
    if size > FC_SMALL:
        raise ValueError(f"{size} bytes are more than {FC_SMALL}")
    cdef Digester digester = take_digester(algorithm)
    cdef const char *digits = read_digits(expected, 2 * digester.digest_size)
    cdef fc_hasher hasher = digester.hasher()
    cdef _Slab slab = take_slab()
    cdef int status
    small.fd = fd
    small.size = <int64_t>size
    with nogil:
        status = fc_small_verify(&small, hasher, digits, slab.memory)
    try:
        return verified_small(&small, status, digester, slab)
    finally:
        give_slab(slab)
        give_digester(digester)


def read_source(path):
    """All of the regular file `path`, of at most SMALL bytes. None where it isn't one, has more, or can't be read."""
    cdef bytes encoded = os.fsencode(path)
    cdef const char *name = encoded
    cdef _Slab slab = take_slab()
    cdef size_t size = 0
    cdef int status = 1
    if b"\0" not in encoded:
        with nogil:
            status = fc_small_source(name, slab.memory, &size)
    content = None if status else PyBytes_FromStringAndSize(<char *>slab.memory, size)
    give_slab(slab)
    return content


cdef object verified_small(fc_small *small, int status, Digester digester, _Slab slab):
    if status < 0:
        raise verify_failure(status, small.found, <uint64_t>small.size, small.actual, digester.digest_size)
    return PyBytes_FromStringAndSize(<char *>slab.memory, small.size)


cdef const char *read_digits(str text, Py_ssize_t digits) except NULL:
    cdef Py_ssize_t length
    cdef const char *found = PyUnicode_AsUTF8AndSize(text, &length)
    if length != digits or not fc_is_hex(found, length):
        raise ValueError(f"not a digest of {digits} hexadecimal digits")
    return found


# ---- many digests at once

def digest_many(items, str algorithm not None, *, int threads=1, bint failures=False, kernel=None,
                bint checksums=False, progress=None):
    """[(digest in hexadecimal digits, size in bytes)] of the items, in their order, each

    - the descriptor (int) of a regular file, whose offset counts for nothing and stays;
    - (descriptor of a directory, name): a regular file, opened like `open_regular` when its turn comes;
    - a bytes-like object.

    SHA-256 runs in lanes, by `kernel`, one of KERNELS (None: what BACKEND says), on `threads` threads
    (at most 64), the caller's included; none is left when this returns. Memory: 64 KiB a lane, 1 MiB a
    thread without lanes. What of a file wasn't in the page cache before isn't there afterwards.

    With `checksums` a file's tuple has a third item: its CHECKSUM in hexadecimal digits, of the same
    reads; None where that, or the digest, takes a Python object.

    The first item that fails ends it: its exception has the number of the item as ``.item``. With
    `failures` the exceptions stand in the list instead. They are OSError; KindError for no regular
    file; VerifyError "short" or "long" for a file that was changed meanwhile. `progress` is called
    with (bytes so far of all items, None) ten times a second and at the end.
    """
    cdef list sources = list(items)
    cdef fc_many many
    cdef Py_buffer *views = NULL
    cdef size_t held = 0
    cdef int status = 1
    many.algorithm = find_algorithm(algorithm)
    many.checksum = find_algorithm(CHECKSUM) if checksums else NULL
    if threads < 1:
        raise ValueError("at least one thread is needed")
    many.kernel = <const fc_sha256_kernel *><uintptr_t>kernels[LANES if kernel is None else kernel]
    if algorithm != "sha256":
        many.kernel = NULL
    if many.kernel is NULL and many.algorithm is NULL:
        return digest_each(sources, algorithm, failures, checksums, progress)
    many.count = len(sources)
    many.threads = threads
    many.stop_at_failure = not failures
    many.items = <fc_many_item *>PyMem_Calloc(many.count, sizeof(fc_many_item))
    views = <Py_buffer *>PyMem_Calloc(many.count, sizeof(Py_buffer))
    try:
        if many.items is NULL or views is NULL:
            raise MemoryError()
        for number, source in enumerate(sources):
            if set_item(&many.items[<size_t>number], source, &views[held]):
                held += 1
        try:
            with nogil:
                status = fc_many_open(&many)
            if status < 0:
                raise failure(status)
            status = 1
            while status == 1:
                with nogil:
                    status = fc_many_run(&many)
                if status < 0:
                    raise failure(status)
                PyErr_CheckSignals()
                if progress is not None:
                    progress(many.hashed, None)
        finally:
            with nogil:
                fc_many_close(&many)
        if many.failed < many.count:
            raise item_result(&many, many.failed, checksums)
        return [item_result(&many, number, checksums) for number in range(many.count)]
    finally:
        while held:
            held -= 1
            PyBuffer_Release(&views[held])
        PyMem_Free(views)
        PyMem_Free(many.items)


cdef bint set_item(fc_many_item *item, source, Py_buffer *view) except -1:
    """Whether `view` is in use now. `source` must live as long as the item."""
    if isinstance(source, int):
        item.kind = FC_FILE
        item.fd = source
        return False
    if isinstance(source, tuple):
        item.kind = FC_NAME
        item.fd, name = source
        item.name = PyBytes_AS_STRING(<bytes?>name)
        return False
    PyObject_GetBuffer(source, view, PyBUF_SIMPLE)
    item.kind = FC_MEMORY
    item.data = <const unsigned char *>view.buf
    item.size = <uint64_t>view.len
    return True


cdef object item_result(fc_many *many, size_t number, bint checksums):
    cdef fc_many_item *item = &many.items[number]
    cdef int digest_size = many.algorithm.digest_size if many.kernel is NULL else 32
    if item.status == 0:
        result = item.digest[:digest_size].hex(), item.found
        if not checksums or item.kind == FC_MEMORY:
            return result
        return *result, None if many.checksum is NULL else item.checksum[:many.checksum.digest_size].hex()
    found = item.found if item.status == FC_ESHORT else item.size + 1
    error = verify_failure(item.status, found, item.size, item.digest, digest_size)
    error.item = number
    return error


cdef list digest_each(list sources, str algorithm, bint failures, bint checksums, progress):
    """The last rung: one after the other, by Python objects."""
    cdef uint64_t done = 0
    cdef list results = []
    for number, source in enumerate(sources):
        try:
            result = digest_alone(source, algorithm)
            done += result[1]
            if checksums and isinstance(source, (int, tuple)):
                result = *result, None
        except (OSError, KindError, VerifyError) as error:
            error.item = number
            if not failures:
                raise
            result = error
        results.append(result)
        if progress is not None:
            progress(done, None)
    return results


cdef tuple digest_alone(source, str algorithm):
    cdef Digester digester = Digester(algorithm)
    cdef uint64_t done = 0
    if not isinstance(source, (int, tuple)):
        digester.update(source)
        return digester.hexdigest(), memoryview(source).nbytes
    if isinstance(source, tuple):
        opened = open_regular(*source)
        if opened is None:
            raise failure(FC_EKIND)
        with opened[0] as fd:
            return digest_alone(fd, algorithm)
    facts = os.fstat(source)
    if not stat.S_ISREG(facts.st_mode):
        raise failure(FC_EKIND)
    while piece := os.pread(source, min(PROGRESS_STEP, facts.st_size - done + 1), done):
        done += len(piece)
        if done > <uint64_t>facts.st_size:
            raise VerifyError("long", done, facts.st_size)
        digester.update(piece)
    if done < <uint64_t>facts.st_size:
        raise VerifyError("short", done, facts.st_size)
    return digester.hexdigest(), done


# ---- many blobs on their way into a layout, each step of all of them in one call

cdef class Group:
    """Up to `room` blobs on their way into a layout, as files with `mode` less the umask and `owner`
    (uid, gid). SHA-256 runs in lanes, by the kernel that BACKEND says. With `checksums` the CHECKSUM of
    the larger ones is taken too.

    ``open`` it, ``add`` them, then ``store``, and if they have to be durable (`sync`) ``sync`` and
    ``publish``; ``close`` in any case, and from there on again. Memory: two slabs, besides the blobs
    that are bytes. Not to be used by two threads at once.
    """

    cdef fc_store store_
    cdef fc_small_place to
    cdef readonly size_t room
    cdef list sources  # keeps the memory
    cdef list slabs
    cdef bint opened

    def __cinit__(self, str algorithm not None, size_t room, *, unsigned int mode, owner=None, bint sync,
                  bint checksums=False):
        self.room = room
        self.sources = []
        self.to.mode = mode
        self.to.sync = sync
        self.to.chown = owner is not None
        if self.to.chown:
            self.to.uid, self.to.gid = owner
        self.store_.kernel = <const fc_sha256_kernel *><uintptr_t>(kernels[LANES] if algorithm == "sha256" else 0)
        self.store_.algorithm = find_algorithm(algorithm)
        self.store_.checksum = find_algorithm(CHECKSUM) if checksums else NULL
        self.store_.items = <fc_item *>calloc(room + 1, sizeof(fc_item))
        if self.store_.items is NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.store_.items is not NULL:
            self.drop()
            free(self.store_.items)

    def __len__(self):
        return self.store_.count

    @property
    def taken(self):
        """Bytes so far, of all that don't fail."""
        return self.store_.taken

    @property
    def failed(self):
        """Whether one has failed: what comes after it isn't begun any more."""
        return self.store_.failed < self.store_.count

    def open(self, int dirfd, int directory):
        """Begins with nothing. Both descriptors must stay open until ``close``: of the root, where files
        without a name are made, and of the directory in which they get their names."""
        cdef fc_store fresh
        cdef int status
        self.close()
        memset(&fresh, 0, sizeof(fresh))
        fresh.kernel = self.store_.kernel
        fresh.algorithm = self.store_.algorithm
        fresh.checksum = self.store_.checksum
        fresh.items = self.store_.items
        fresh.to = &self.to
        fresh.place = directory
        self.to.dirfd = dirfd
        self.slabs = [take_slab() for _ in range(FC_STORE_THREADS)]
        for seat in range(FC_STORE_THREADS):
            fresh.seat[<int>seat].slab = (<_Slab>self.slabs[seat]).memory
        self.store_ = fresh
        if not self.works():
            return
        self.opened = True
        status = fc_store_open(&self.store_)
        if status < 0:
            raise failure(status)

    cdef bint works(self) noexcept:
        """With hashlib's objects it doesn't: all of them the general way."""
        return self.store_.kernel is not NULL or self.store_.algorithm is not NULL

    cdef fc_item *new_item(self, bytes source) except NULL:
        cdef fc_item *item
        if self.store_.count >= self.room:
            raise ValueError(f"this group has {self.room} blobs already")
        self.sources.append(source)
        item = &self.store_.items[self.store_.count]
        memset(item, 0, sizeof(fc_item))
        item.fd = -1
        item.status = 1
        return item

    cdef void added(self) noexcept:
        if self.opened:
            fc_store_add(&self.store_)
        else:
            self.store_.count += 1

    def add_bytes(self, bytes data not None):
        """Adds the blob `data`."""
        cdef fc_item *item = self.new_item(data)
        item.data = <const unsigned char *>PyBytes_AS_STRING(data)
        item.size = <uint64_t>len(data)
        self.added()

    def add_path(self, bytes path not None):
        """Adds the content of the file `path`, which is opened when its turn comes."""
        cdef fc_item *item = self.new_item(path)
        item.path = PyBytes_AS_STRING(path)
        self.added()

    def start(self):
        """Lets a second thread begin with them, while more are added."""
        if self.opened:
            with nogil:
                fc_store_start(&self.store_)

    def store(self, beat=None):
        """Writes each to a file without a name, and gives it the name at once unless they have to be
        synced first. Nothing can be added any more. `beat()` is called ten times a second."""
        cdef int status = 1
        while self.opened and status == 1:
            with nogil:
                status = fc_store_run(&self.store_)
            if status < 0:
                raise failure(status)
            PyErr_CheckSignals()
            if beat is not None:
                beat()

    def sync(self, others, statuses):
        """Makes the open files `others` durable, and what was stored too. `statuses` as for sync_files, with
        room for them and for the whole group; a file of the group that fails has its errno in its outcome."""
        cdef size_t i, n
        cdef list wanted = [i for i in range(self.store_.count) if self.store_.items[i].fd >= 0]
        cdef list errnos = sync_files(list(others) + [self.store_.items[<size_t>j].fd for j in wanted], statuses)
        for n, j in enumerate(wanted, len(others)):
            self.store_.items[<size_t>j].status = -<int>errnos[n]

    def publish(self):
        """Gives each file that was stored, and didn't fail, its name."""
        cdef size_t i = 0, end
        while i < self.store_.count:
            end = min(i + PUBLISH_STEP, self.store_.count)
            with nogil:
                while i < end:
                    fc_store_publish(&self.store_.items[i], self.store_.place)
                    i += 1
            PyErr_CheckSignals()

    def outcome(self):
        """For each blob, in order: (digest in hexadecimal digits or None where it isn't known, size,
        an OSError or None, whether it was stored). What wasn't, without an error, has to be put in
        the general way: its name exists, or something is unusual; or it comes after one that failed."""
        cdef size_t i
        cdef fc_item *item
        cdef list outcome = []
        for i in range(self.store_.count):
            item = &self.store_.items[i]
            outcome.append((
                item.name.decode("ascii") if item.name[0] else None,
                item.size,
                None if item.status >= 0 or item.status == FC_EUNBEGUN else self.why(i),
                item.status == 0,
            ))
        return outcome

    def checksums(self):
        """The CHECKSUM, in hexadecimal digits, of what was stored and didn't fit into a slot, by digest."""
        cdef size_t i
        cdef fc_item *item
        cdef dict found = {}
        for i in range(self.store_.count):
            item = &self.store_.items[i]
            if item.status == 0 and item.summed:
                found[item.name.decode("ascii")] = item.checksum[:self.store_.checksum.digest_size].hex()
        return found

    cdef object why(self, size_t number):
        error = failure(self.store_.items[number].status)
        if self.store_.items[number].reading:
            error.filename = os.fsdecode(self.sources[number])
        return error

    def close(self):
        """Ends what is under way, drops what was not published, and empties the group."""
        self.drop()
        self.sources.clear()

    cdef void drop(self) noexcept:
        cdef size_t i
        if self.opened:
            self.opened = False
            with nogil:
                fc_store_close(&self.store_)
        for i in range(self.store_.count):
            if self.store_.items[i].fd >= 0:
                close_descriptor(self.store_.items[i].fd)
        self.store_.count = 0
        self.store_.taken = 0
        if self.slabs is not None:
            for slab in self.slabs:
                give_slab(slab)
            self.slabs = None


cdef int run_pool(fc_step step, void *context, int threads) except -1:
    """All steps, on `threads` threads that end with it, in whatever way it ends."""
    cdef fc_pool pool
    cdef int status = 1
    with nogil:
        fc_pool_start(&pool, step, context, threads)
    try:
        while status == 1:
            with nogil:
                status = fc_pool_run(&pool)
            if status < 0:
                raise failure(status)
            PyErr_CheckSignals()
    finally:
        with nogil:
            fc_pool_stop(&pool)


@cython.no_gc  # a thread writes into what it refers to, which must go last
cdef class Fetch:
    """Small blobs on their way, verified: `wanted` is a list of (encoded part of a digest, size in bytes,
    at most SMALL), each the name of a file in `directory`. A second thread begins with them at once, and
    ``contents`` takes part."""

    cdef fc_fetch fetch
    cdef fc_pool pool
    cdef File directory
    cdef Digester digester, another  # a state for each of the two threads
    cdef list names, contents_

    def __cinit__(self, File directory not None, list wanted not None, str algorithm not None):
        cdef fc_wanted *item
        cdef bytes content
        cdef size_t number
        self.directory = directory
        self.names = [encoded for encoded, _ in wanted]
        self.contents_ = [None] * len(wanted)
        self.digester = take_digester(algorithm)
        self.another = take_digester(algorithm)
        if self.digester.algorithm is NULL:
            return  # a Python object: each is left to the general way
        self.fetch.hashers[0] = self.digester.hasher()
        self.fetch.hashers[1] = self.another.hasher()
        self.fetch.algorithm = self.digester.algorithm
        self.fetch.directory = directory.fd
        self.fetch.items = <fc_wanted *>PyMem_Calloc(len(wanted), sizeof(fc_wanted))
        if self.fetch.items is NULL:
            raise MemoryError()
        for number, (_, size) in enumerate(wanted):
            if not 0 <= size <= FC_SMALL:
                raise ValueError(f"{size} bytes are not 0 to {FC_SMALL}")
            item = &self.fetch.items[number]
            item.name = read_digits(self.names[number], 2 * self.digester.digest_size)
            # Filled before anybody else sees it.
            content = PyBytes_FromStringAndSize(NULL, size)
            self.contents_[number] = content
            item.data = <unsigned char *>PyBytes_AS_STRING(content)
            item.size = <size_t>size
        self.fetch.count = len(wanted)
        with nogil:
            fc_pool_start(&self.pool, fc_fetch_read, &self.fetch,
                          FC_FETCH_THREADS if self.fetch.count > FC_FETCH_CHUNK else 1)

    def __dealloc__(self):
        self.stop()

    cdef void stop(self) noexcept:
        with nogil:
            fc_pool_stop(&self.pool)
        PyMem_Free(self.fetch.items)
        self.fetch.items = NULL

    def contents(self):
        """A list in the order of `wanted`, of bytes, or None where there is no regular file of that
        name, size and digest. A child made by fork meanwhile has None of them. Can be called once."""
        cdef int status = 1
        cdef size_t number
        if self.fetch.items is NULL:
            return self.contents_
        while status == 1:
            with nogil:
                status = fc_pool_run(&self.pool)
            PyErr_CheckSignals()
        for number in range(self.fetch.count):
            if status < 0 or not self.fetch.items[number].done:
                self.contents_[number] = None
        self.stop()
        give_digester(self.digester)
        give_digester(self.another)
        contents, self.contents_ = self.contents_, []
        return contents


def sync_files(fds not None, statuses=None):
    """fsync(2) of the open files `fds`, on up to FC_SYNC_THREADS threads, the disk being told of all of them
    first. Returns a list that has for each of them 0 or the errno. `statuses`, a writable buffer of C ints, all
    0, no fewer, is given them as they come to be known: an interruption leaves there what has failed."""
    cdef fc_files files
    cdef Py_buffer buffer
    cdef size_t i, count = len(fds)
    cdef int *memory = <int *>calloc(count + 1, sizeof(int))
    if memory is NULL:
        raise MemoryError()
    try:
        PyObject_GetBuffer(bytearray(count * sizeof(int)) if statuses is None else statuses, &buffer, PyBUF_WRITABLE)
        try:
            if <size_t>buffer.len < count * sizeof(int):
                raise ValueError("a status for each file is needed")
            for i in range(count):
                memory[i] = fds[i]
            files.fds = memory
            files.statuses = <int *>buffer.buf
            files.count = count
            files.next = 0
            run_pool(fc_files_kick, &files, <int>min(count, <size_t>FC_KICK_THREADS))
            files.next = 0
            run_pool(fc_files_sync, &files, <int>min(count, <size_t>FC_SYNC_THREADS))
            return [files.statuses[i] for i in range(count)]
        finally:
            PyBuffer_Release(&buffer)
    finally:
        free(memory)


def sync_directory(int fd, status not None):
    """fsync(2) of one open file. The errno of its failure is in `status`, a writable C int, before anything can
    interrupt: the kernel tells it once."""
    cdef Py_buffer buffer
    cdef int error = errno.EINTR
    PyObject_GetBuffer(status, &buffer, PyBUF_WRITABLE)
    try:
        if <size_t>buffer.len < sizeof(int):
            raise ValueError("a status is needed")
        while error == errno.EINTR:
            PyErr_CheckSignals()
            with nogil:
                error = 0
                if fsync(fd) != 0:
                    error = read_errno
        (<int *>buffer.buf)[0] = error
    finally:
        PyBuffer_Release(&buffer)


def sync_filesystem(int fd, fds not None, statuses not None):
    """syncfs(2) of the whole filesystem of `fd`. An errno goes to every C int of the writable buffer
    `statuses`. Where it succeeds, each of the open files `fds`, as many, is asked for an error of its own,
    which another syncfs may have been told; others are left alone."""
    cdef Py_buffer buffer
    cdef size_t i, count = len(fds)
    cdef int error = 0
    cdef int file
    PyObject_GetBuffer(statuses, &buffer, PyBUF_WRITABLE)
    try:
        if count > <size_t>buffer.len // sizeof(int):
            raise ValueError("a status for each file is needed")
        with nogil:
            if syncfs(fd) != 0:
                error = read_errno
        if error != 0:
            for i in range(<size_t>buffer.len // sizeof(int)):
                (<int *>buffer.buf)[i] = error
            return
        for i in range(count):
            file = fds[i]
            with nogil:
                error = sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE)
                if error != 0:
                    error = read_errno
            if error == errno.EIO or error == errno.ENOSPC or error == errno.EDQUOT:
                (<int *>buffer.buf)[i] = error
    finally:
        PyBuffer_Release(&buffer)


def name_files(fds not None, int directory, names not None):
    """Gives each open file of `fds`, which has no name and was finished a while ago, its name of `names`
    (bytes) in `directory`, and the time of now. Returns a list that has for each 0 or the errno."""
    cdef list kept = list(names)
    cdef size_t i, count = len(fds)
    cdef int *memory = <int *>calloc(count + 1, sizeof(int))
    cdef const char **texts = <const char **>calloc(count + 1, sizeof(char *))
    try:
        if memory is NULL or texts is NULL:
            raise MemoryError()
        for i in range(count):
            memory[i] = fds[i]
            texts[i] = kept[i]
        with nogil:
            for i in range(count):
                memory[i] = -fc_small_name_late(memory[i], directory, texts[i])
        return [memory[i] for i in range(count)]
    finally:
        free(texts)
        free(memory)


# ---- from file to file

cdef tuple METHODS = ("reflink", "copy_file_range", "sendfile", "copy")  # as in stream.h


def copy_fd(int source, int target, uint64_t size, *, first="reflink", progress=None):
    """Copies `size` bytes from the beginning of `source` to the offset of `target` in the cheapest
    way that both allow, beginning with `first`: reflink, copy_file_range, sendfile, copy. A way
    that stops halfway is continued by the next one. Returns (the last way used, `size`);
    VerifyError "short" where the source ends early."""
    cdef fc_copy_method method = <fc_copy_method><int>METHODS.index(first)
    cdef uint64_t offset = 0, told = 0
    cdef uint64_t step = COPY_STEP, most = UINT64_MAX if progress is None else COPY_STEP
    cdef int status = 1
    cdef _Slab slab = take_slab()
    try:
        while status == 1:
            with nogil:
                status = fc_copy(source, target, &method, &offset, size, &step, most, slab.memory)
            if status == FC_ESHORT:
                raise VerifyError("short", offset, size)
            if status < 0:
                raise failure(status)
            PyErr_CheckSignals()
            if progress is not None and offset > told:
                told = offset
                progress(offset, size)
    finally:
        give_slab(slab)
    return METHODS[<int>method], size


# ---- a descriptor that several operations use

cdef class Handle:
    """The open `file`, which is this object's now: ``with handle as fd`` keeps it open until the end of
    the block, whoever calls ``close`` meanwhile. Entered after ``close`` it raises what `refusal()`
    returns."""

    cdef File file
    cdef Py_ssize_t users
    cdef readonly bint closed
    cdef object refusal

    def __cinit__(self, File file not None, refusal):
        self.file = file
        self.refusal = refusal

    def __enter__(self):
        return self.hold()

    def __exit__(self, *_):
        self.release()

    cdef int hold(self) except -1:
        if self.closed:
            raise self.refusal()
        self.users += 1
        return self.file.fd

    cdef int release(self) except -1:
        self.users -= 1
        if self.closed:
            self.close_unused()

    def close(self):
        """Closes the descriptor as soon as nobody uses it; may be called again."""
        self.closed = True
        self.close_unused()

    cdef close_unused(self):
        if self.closed and self.users == 0:
            self.file.close()


cdef class File:
    """The open descriptor `fd`, closed with this object at the latest: a number alone is lost when a
    signal's exception comes between the call that opens it and who takes it."""

    cdef readonly int fd

    def __cinit__(self, int fd=-1):
        self.fd = fd

    def __enter__(self):
        return self.fd

    def __exit__(self, *_):
        self.close()

    def close(self):
        """May be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __dealloc__(self):
        if self.fd >= 0:
            close_descriptor(self.fd)


cdef unsigned long forks = 0  # from the first process with this module down to this one


def _count_fork():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_count_fork)


cdef class Turn:
    """A lock that a signal handler meets with RuntimeError, instead of waiting for ever, where it
    interrupted the thread that holds it. In a child made by fork it is nobody's turn."""

    cdef PyThread_type_lock lock
    cdef long user  # 0: nobody
    cdef unsigned long forks

    def __cinit__(self):
        self.renew()

    cdef int renew(self) except -1:
        # The lock of a parent isn't freed: it may have been in the middle of anything.
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError()
        self.forks = forks
        self.user = 0

    def __dealloc__(self):
        if self.lock is not NULL and self.forks == forks:
            PyThread_free_lock(self.lock)

    def __enter__(self):
        cdef long me = PyThread_get_thread_ident()
        if self.forks != forks:
            self.renew()
        if self.user == me:
            raise RuntimeError("used again from within itself, by a signal handler")
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            self.wait()
        self.user = me

    cdef int wait(self) except -1:
        cdef PyLockStatus status = PY_LOCK_INTR
        while status == PY_LOCK_INTR:
            with nogil:
                status = PyThread_acquire_lock_timed(self.lock, -1, 1)
            if status == PY_LOCK_INTR:
                PyErr_CheckSignals()

    def __exit__(self, *_):
        if self.user == PyThread_get_thread_ident() and self.forks == forks:
            self.user = 0
            PyThread_release_lock(self.lock)


# ---- system calls that the os module lacks, and those that give a File instead of a number

def openat2(int dirfd, bytes name not None, int flags, unsigned int mode=0):
    """Opens `name` beneath the directory `dirfd`, through no symbolic link at any level (openat2(2)
    with RESOLVE_BENEATH, NO_SYMLINKS and NO_MAGICLINKS); O_CLOEXEC is implied. Returns a File."""
    cdef const char *path = name
    cdef File file = File()
    cdef int fd
    with nogil:
        fd = fc_openat2(dirfd, path, flags, mode)
    if fd < 0:
        raise failure(fd)
    file.fd = fd
    return file


def open_path(path, int flags, unsigned int mode=0o777, *, int dir_fd=AT_FDCWD):
    """os.open as a File: through whatever links, and it may wait."""
    cdef bytes encoded = os.fsencode(path)
    cdef const char *name = encoded
    cdef File file = File()
    cdef int error = EINTR
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    while error == EINTR:
        with nogil:
            file.fd = openat(dir_fd, name, flags | O_CLOEXEC, mode)
            error = read_errno if file.fd < 0 else 0
        PyErr_CheckSignals()
    if error != 0:
        raise OSError(error, os.strerror(error), path)
    return file


def open_regular(int dirfd, bytes name not None):
    """Opens a regular file for reading like `openat2`, waiting for nothing. Returns (File, size in
    bytes), or None where `name` stands for anything else."""
    cdef const char *path = name
    cdef File file = File()
    cdef int64_t size = -1
    cdef int fd
    with nogil:
        fd = fc_open_regular(dirfd, path, &size)
    if fd < 0:
        raise failure(fd)
    if size < 0:
        return None
    file.fd = fd
    return file, size


def duplicate(int fd):
    """os.dup as a File."""
    cdef File file = File()
    file.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if file.fd < 0:
        raise failure(-read_errno)
    return file


def filesystem_type(int fd):
    """The magic number of the filesystem on which the open file is (statfs(2))."""
    cdef statfs facts
    if fstatfs(fd, &facts) != 0:
        raise failure(-read_errno)
    return <unsigned long>facts.f_type & 0xFFFFFFFF


def is_same_file(int fd, int other):
    """os.path.sameopenfile, but with the GIL, which fstat(2) isn't worth."""
    cdef int same = fc_same_file(fd, other)
    if same < 0:
        raise failure(same)
    return same == 1


def link_fd(int fd, int dirfd, bytes name not None):
    """Gives the open file `fd` the name `name` in the directory `dirfd` (linkat(2))."""
    cdef const char *path = name
    cdef int status
    with nogil:
        status = fc_link_fd(fd, dirfd, path)
    if status < 0:
        raise failure(status)


def read_digests(int dirfd, bytes prefix not None, Py_ssize_t hex_digits, type kind not None):
    """The next regular files of a directory whose names can be the encoded part of a digest: a list
    of some hundred `kind` (a subclass of str) of `prefix` and name, or None at the end.
    `hex_digits`: names of so many lower-case hexadecimal digits; 0: whatever the grammar allows."""
    cdef bytes buffer = PyBytes_FromStringAndSize(NULL, NAMES_BUFFER)
    cdef char *entries = PyBytes_AS_STRING(buffer)
    cdef char *text = NULL
    cdef const char *name
    cdef int size, offset = 0, regular
    cdef Py_ssize_t length, before = -1
    cdef tuple arguments = None
    cdef list digests = []
    if not issubclass(kind, str):
        raise TypeError("kind must be a subclass of str")
    if len(prefix) > 256:
        raise ValueError("no file name is as long as this prefix")
    with nogil:
        size = fc_read_names(dirfd, entries, NAMES_BUFFER)
    if size < 0:
        raise failure(size)
    if size == 0:
        return None
    while offset < size:
        name = fc_next_name(entries, &offset, &regular)
        length = encoded_length(name, hex_digits)
        if length == 0 or regular == 0 or (regular < 0 and not is_regular(name, dirfd)):
            continue
        if length != before:
            before = length
            scratch = PyUnicode_New(len(prefix) + length, 127)
            text = <char *>PyUnicode_DATA(scratch)
            memcpy(text, PyBytes_AS_STRING(prefix), len(prefix))
            arguments = (scratch,)
        # str.__new__ without the call, of one string that nobody else sees and is written anew each time;
        # and what refers to nothing needn't be looked at by the cycle collector, which takes as long again.
        memcpy(text + len(prefix), name, length)
        digest = (<PyTypeObject *>str).tp_new(<PyTypeObject *>kind, arguments, NULL)
        PyObject_GC_UnTrack(<PyObject *>digest)
        digests.append(digest)
    return digests


def count_digests(int dirfd, Py_ssize_t hex_digits):
    """How many names `read_digests` would give, of all that is left of the directory."""
    cdef _Slab slab = take_slab()
    cdef char *entries = <char *>slab.memory
    cdef const char *name
    cdef int size, offset, regular
    cdef Py_ssize_t count = 0
    try:
        while True:
            with nogil:
                size = fc_read_names(dirfd, entries, NAMES_BUFFER)
            if size < 0:
                raise failure(size)
            if size == 0:
                return count
            PyErr_CheckSignals()
            offset = 0
            while offset < size:
                name = fc_next_name(entries, &offset, &regular)
                if encoded_length(name, hex_digits) == 0:
                    continue
                if regular > 0 or (regular < 0 and is_regular(name, dirfd)):
                    count += 1
    finally:
        give_slab(slab)


def read_entries(int dirfd, str prefix not None, known):
    """What comes next in a directory: a list of some hundred (name, mode, size in bytes, mtime, ctime in
    nanoseconds) without a symbolic link followed, and how many beside it are regular files for which
    `prefix` and name are in `known`; None at the end. Where the directory doesn't say what they are, those
    are in the list."""
    cdef _Slab slab = take_slab()
    cdef char *entries = <char *>slab.memory
    cdef const char *name
    cdef int size, offset = 0, regular
    cdef size_t count = 0, left_out = 0, i
    cdef list names = []
    cdef list found = []
    cdef fc_place *places = <fc_place *>calloc(NAMES_BUFFER // LEAST_ENTRY, sizeof(fc_place))
    try:
        if places is NULL:
            raise MemoryError()
        with nogil:
            size = fc_read_names(dirfd, entries, NAMES_BUFFER)
        if size < 0:
            raise failure(size)
        if size == 0:
            return None
        while offset < size:
            name = fc_next_name(entries, &offset, &regular)
            if name[0] == b"." and (name[1] == 0 or (name[1] == b"." and name[2] == 0)):
                continue
            if regular > 0 and prefix_and(name, prefix) in known:
                left_out += 1
                continue
            names.append(PyUnicode_DecodeFSDefault(name))
            places[count].name = name
            count += 1
        with nogil:
            fc_names_stat(dirfd, places, count)
        for i in range(count):
            if places[i].status == 0:
                found.append((names[i], *place_facts(&places[i])))
            elif places[i].status != -errno.ENOENT:
                raise failure(places[i].status)
        return found, left_out
    finally:
        free(places)
        give_slab(slab)


cdef str prefix_and(const char *name, str prefix):
    """`prefix`, which is ASCII, and `name`."""
    cdef size_t length = strlen(name), before = <size_t>len(prefix)
    cdef char *text
    if encoded_length(name, 0) == 0:
        return prefix + PyUnicode_DecodeFSDefault(name)
    whole = PyUnicode_New(before + length, 127)
    text = <char *>PyUnicode_DATA(whole)
    memcpy(text, PyUnicode_DATA(prefix), before)
    memcpy(text + before, name, length)
    return <str>whole


cdef tuple place_facts(const fc_place *place):
    return place.mode, place.size, place.modified, place.changed


cdef class Held:
    """The files that a directory has under `names`, open (O_PATH) until ``close``: so long each exists,
    whatever becomes of its name. `facts` has for each (mode, size in bytes, mtime, ctime in nanoseconds),
    or None where there is none. They are fewer than `names` where time.monotonic() has passed `until`,
    or no descriptor is left, one at least. OSErrors have the number of the name as ``.item``."""

    cdef fc_place *places
    cdef size_t count
    cdef list names
    cdef readonly list facts

    def __cinit__(self, int dirfd, list names not None, double until):
        cdef uint64_t deadline = <uint64_t>(until * 1e9)
        cdef size_t i, done, count = <size_t>len(names)
        self.names = names[:]
        self.places = <fc_place *>calloc(count + 1, sizeof(fc_place))
        if self.places is NULL:
            raise MemoryError()
        for i in range(count):
            self.places[i].name = PyBytes_AS_STRING(<bytes?>self.names[i])
            self.places[i].fd = -1
        self.count = count
        with nogil:
            done = fc_names_open(dirfd, self.places, count, deadline)
        self.facts = []
        for i in range(done):
            if self.places[i].status == 0:
                self.facts.append(place_facts(&self.places[i]))
            elif self.places[i].status == -errno.ENOENT:
                self.facts.append(None)
            else:
                raise self.failed(i)

    cdef object failed(self, size_t number):
        error = failure(self.places[number].status)
        error.item = number
        return error

    def unlink(self, int dirfd, list numbers not None, double until):
        """Removes the names of some of them, given by their numbers in `names`, from the directory `dirfd`:
        one at least, and none after `until`. Returns the numbers of those that it removed, and how many
        of `numbers` it came to."""
        cdef uint64_t deadline = <uint64_t>(until * 1e9)
        cdef size_t i, done, count = <size_t>len(numbers)
        cdef size_t *chosen = <size_t *>calloc(count + 1, sizeof(size_t))
        cdef list removed = []
        if chosen is NULL:
            raise MemoryError()
        try:
            for i in range(count):
                chosen[i] = numbers[i]
                if chosen[i] >= <size_t>len(self.facts):
                    raise IndexError("no such file")
            with nogil:
                done = fc_names_unlink(dirfd, self.places, chosen, count, deadline)
            for i in range(done):
                if self.places[chosen[i]].status == 0:
                    removed.append(chosen[i])
                elif self.places[chosen[i]].status != -errno.ENOENT:
                    raise self.failed(chosen[i])
            return removed, done
        finally:
            free(chosen)

    def close(self):
        """May be called again."""
        cdef fc_place *places = self.places
        cdef size_t i, count = self.count
        self.count = 0
        with nogil:
            for i in range(count):
                if places[i].fd >= 0:
                    close_descriptor(places[i].fd)

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            if self.places[i].fd >= 0:
                close_descriptor(self.places[i].fd)
        free(self.places)


def count_pair(bytes data not None, bytes pair not None):
    """How often the first of two bytes is followed by the second, as ``data.count(pair)`` says of
    two that differ, in a tenth of the time."""
    if len(pair) != 2 or pair[0] == pair[1]:
        raise ValueError("two different bytes are needed")
    cdef const char *text = PyBytes_AS_STRING(data)
    cdef size_t size = <size_t>len(data), count
    cdef char first = pair[0], second = pair[1]
    with nogil:
        count = fc_count_pair(text, size, first, second)
    return count


cdef bint is_regular(bytes name, int dirfd) except -1:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


cdef Py_ssize_t encoded_length(const char *name, Py_ssize_t hex_digits) noexcept nogil:
    """The length of a name that fits, or 0."""
    cdef Py_ssize_t i = 0
    if hex_digits:
        return hex_digits if fc_is_hex(name, hex_digits) else 0
    while name[i] != 0:
        if not is_encoded(<unsigned char>name[i]):
            return 0
        i += 1
    return i
