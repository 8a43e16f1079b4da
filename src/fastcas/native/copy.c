#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "ring.h"

enum { SENDFILE_MOST = 0x7ffff000, STEP_LEAST = 1 << 20 };

static ssize_t read_write(int source, int target, off_t from, size_t size, unsigned char *slab)
{
    size_t done = 0;
    ssize_t got = pread(source, slab, size < FC_SLAB ? size : FC_SLAB, from);

    while (got > 0 && done < (size_t)got) {
        ssize_t n = write(target, slab + done, (size_t)got - done);
        if (n < 0)
            return done ? (ssize_t)done : n; /* an error that lasts comes again at once */
        done += (size_t)n;
    }
    return got;
}

/* Errors that say "not this way", as opposed to "not at all". */
static int is_refusal(int error)
{
    return error == EXDEV || error == ENOSYS || error == EOPNOTSUPP || error == EINVAL || error == EBADF ||
           error == EPERM || error == ETXTBSY || error == EOVERFLOW;
}

int fc_copy(int source, int target, fc_copy_method *method, uint64_t *offset, uint64_t size, uint64_t *step,
            uint64_t most, unsigned char *slab)
{
    uint64_t start = *offset;

    while (*offset < size) {
        size_t want = (size_t)(size - *offset);
        loff_t from = (loff_t)*offset;
        ssize_t n;

        uint64_t deadline = fc_deadline();
        if (want > *step)
            want = *step;
        switch (*method) {
        case FC_REFLINK:
            if (!ioctl(target, FICLONE, source)) {
                *offset = size;
                return 0;
            }
            *method = FC_COPY_FILE_RANGE;
            continue;
        case FC_COPY_FILE_RANGE:
            n = copy_file_range(source, &from, target, NULL, want, 0);
            break;
        case FC_SENDFILE:
            n = sendfile(target, source, &from, want < SENDFILE_MOST ? want : SENDFILE_MOST);
            break;
        default:
            n = read_write(source, target, from, want, slab);
        }
        if (n > 0)
            *offset += (uint64_t)n;
        else if (n < 0 && errno == EINTR)
            return 1;
        else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            int ready = fc_wait(target, POLLOUT);
            if (ready <= 0)
                return ready ? ready : 1;
        } else if (*method != FC_COPY && (n == 0 || is_refusal(errno)))
            *method += 1; /* goes on where this one stopped */
        else
            return n ? -errno : FC_ESHORT;
        /* No signal ends one of these calls, so each is kept to about a tenth of a second; one that the filesystem
           answers without copying grows to the whole length. */
        if (fc_past(deadline))
            *step = *step > 2 * STEP_LEAST ? *step / 2 : STEP_LEAST;
        else if (*step <= most / 2)
            *step *= 2;
        if (*offset < size && *offset > start)
            return 1;
    }
    return 0;
}
