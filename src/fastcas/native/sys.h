/* System calls that Python's os module lacks. Each returns a descriptor or count, or a negative errno. */
#ifndef FASTCAS_SYS_H
#define FASTCAS_SYS_H

#include <stddef.h>
#include <stdint.h>

/* openat2 beneath `dirfd`, through no symbolic link; always O_CLOEXEC. */
int fc_openat2(int dirfd, const char *name, int flags, unsigned mode);
/* The same for reading, without waiting for a FIFO and without making a terminal ours. `*size` is that of the regular
   file, or -1 for anything else, which is closed again. */
int fc_open_regular(int dirfd, const char *name, int64_t *size);
/* Opens the regular file `path`, through whatever links, for reading. A FIFO isn't even opened: its writer would take the
   close for the end. -EINVAL for anything but a regular file. */
int fc_open_source(const char *path, int64_t *size);
/* Gives the open file `fd` a name. Needs no /proc where the kernel takes AT_EMPTY_PATH from this process. */
int fc_link_fd(int fd, int dirfd, const char *name);
/* 1 where both open files are the same. */
int fc_same_file(int fd, int other);
/* One buffer of directory entries, to be walked with fc_next_name. 0 at the end. */
int fc_read_names(int dirfd, char *buffer, size_t size);
/* Whether a name is `digits` lower-case hexadecimal digits. */
int fc_is_hex(const char *name, size_t digits);
/* `size` bytes as lower-case hexadecimal digits, 2 * `size` + 1 chars. */
void fc_write_hex(char *name, const unsigned char *digest, int size);
/* The name at `*offset` of that buffer, and moves on. `*regular`: 1 a regular file, 0 something else, -1 not said. */
const char *fc_next_name(const char *buffer, int *offset, int *regular);
/* How often `first` is followed by `second`. */
size_t fc_count_pair(const char *data, size_t size, char first, char second);

#endif
