from libc.stdint cimport int64_t, uint64_t

cdef extern from "stream.h" nogil:
    enum:
        FC_EDIGEST
        FC_ELIMIT
        FC_EFORKED
        FC_ESHORT
        FC_ELONG
        FC_EMISMATCH
        FC_SLAB
        FC_DIGEST_MAX

    ctypedef struct fc_hasher:
        int (*update)(void *state, const void *data, size_t size) noexcept nogil
        int (*final)(void *state, unsigned char *digest) noexcept nogil
        void *state
        int digest_size
        int may_thread

    ctypedef struct fc_lane:
        fc_hasher hasher

    ctypedef struct fc_sink:
        fc_hasher checksum
        int polled
        int storing
        uint64_t size

    void fc_sink_init(fc_sink *sink, fc_hasher hasher, unsigned char *slab, int fd, int writeback, uint64_t limit,
                      int64_t expected)
    int fc_sink_pull(fc_sink *sink, int source, uint64_t burst)
    int fc_sink_push(fc_sink *sink, const unsigned char *data, size_t size, int stable, uint64_t burst, size_t *done)
    int fc_sink_slot(fc_sink *sink, unsigned char **data, size_t *size)
    int fc_sink_filled(fc_sink *sink, size_t size)
    int fc_sink_finish(fc_sink *sink, unsigned char *digest)
    void fc_sink_close(fc_sink *sink)

    ctypedef struct fc_reader:
        fc_lane lane
        int fd
        uint64_t size
        uint64_t offset
        size_t fill
        size_t taken
        int verified
        unsigned char actual[64]

    void fc_reader_init(fc_reader *reader, fc_hasher hasher, unsigned char *slab, int fd, uint64_t size,
                        const unsigned char *expected)
    int fc_reader_read(fc_reader *reader, unsigned char *out, size_t size, size_t *done)
    int fc_reader_read_all(fc_reader *reader, unsigned char *out)
    int fc_reader_drain(fc_reader *reader)
    void fc_reader_close(fc_reader *reader)

    ctypedef enum fc_copy_method:
        pass

    int fc_copy(int source, int target, fc_copy_method *method, uint64_t *offset, uint64_t size, uint64_t *step,
                uint64_t most, unsigned char *slab)
