from libc.stdint cimport int64_t
from posix.types cimport gid_t, uid_t

from fastcas.native.stream cimport FC_DIGEST_MAX, fc_hasher

cdef extern from "small.h" nogil:
    enum:
        FC_SMALL

    ctypedef struct fc_small:
        int fd
        int64_t size
        size_t found
        unsigned char actual[FC_DIGEST_MAX]

    int fc_small_read(fc_small *small, fc_hasher hasher, int dirfd, const char *name, const char *expected,
                      unsigned char *data)
    int fc_small_verify(fc_small *small, fc_hasher hasher, const char *expected, unsigned char *data)

    int fc_small_source(const char *path, unsigned char *data, size_t *size)

    ctypedef struct fc_small_place:
        int dirfd
        const char *place
        unsigned mode
        int chown
        uid_t uid
        gid_t gid
        int sync

    int fc_small_put(fc_hasher hasher, const fc_small_place *to, const unsigned char *data, size_t size, char *name,
                     int *directory)
    int fc_small_stage(fc_hasher hasher, const fc_small_place *to, const unsigned char *data, size_t size, char *name,
                       int *temp)
    int fc_small_name_late(int fd, int place, const char *name)
