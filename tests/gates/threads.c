/* The core's threads without Python, for k_sanitizers.py: threads SEED ROUNDS DIRECTORY, an empty one. Each round takes one of
   the parts with random sizes, errors and cancellations, and compares what comes out. Memory has exactly the size that the
   part may use, and the digest here is compiled like the rest, so that a sanitizer sees all that is touched. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "evp.h"
#include "fetch.h"
#include "files.h"
#include "many.h"
#include "ring.h"
#include "store.h"
#include "sys.h"

enum { NOISE = 6 << 20, FILES = 12, MOST = 48, SUM_SIZE = 8, NAME = 2 * FC_DIGEST_MAX + 1 };

static const fc_algorithm *sha256;
static unsigned char *noise;
static unsigned long seed;
static long number; /* of the round */
static int root, blobs;
static char path[FILES][4096];
static size_t path_size[FILES];

static size_t below(size_t limit)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(seed >> 33) % limit;
}

static void require(int right, const char *what)
{
    if (right)
        return;
    fprintf(stderr, "round %ld: %s\n", number, what);
    exit(1);
}

static void *new_memory(size_t size)
{
    void *memory = malloc(size);

    require(memory != NULL, "no memory");
    return memory;
}

/* About the edges of blocks, slots and what gets a thread. */
static size_t any_size(void)
{
    static const size_t edges[] = {0, 1, 64, 128, 4096, FC_SLOT_SMALL, FC_SLOT_LARGE, FC_MANY_SLOT_ALONE, FC_SINK_THREAD_FROM,
                                   FC_READER_THREAD_FROM, FC_READER_THREAD_FROM + FC_SLAB};
    size_t edge = edges[below(below(4) ? 6 : sizeof edges / sizeof *edges)], skew = below(131);

    return skew < 65 ? edge + skew : edge > skew ? edge - skew + 65 : below(300);
}

/* ---- a digest that a sanitizer sees, which fails when it is told to ---- */

static uint64_t mix(uint64_t value, const unsigned char *data, size_t size)
{
    while (size--)
        value = (value ^ *data++) * 1099511628211u;
    return value;
}

typedef struct {
    uint64_t value;
} sum;

static int fails; /* of so many pieces about one fails; 0: none */

static int sum_reset(void *state)
{
    ((sum *)state)->value = 1;
    return 0;
}

static int sum_update(void *state, const void *data, size_t size)
{
    sum *to = state;
    unsigned char bytes[4096];

    for (size_t n; size; data = (const char *)data + n, size -= n) {
        n = size < sizeof bytes ? size : sizeof bytes;
        memcpy(bytes, data, n); /* one look of the sanitizer at all of them */
        to->value = mix(to->value, bytes, n);
    }
    return fails && to->value % (uint64_t)fails == 0 ? FC_EDIGEST : 0;
}

static int sum_final(void *state, unsigned char *digest)
{
    memcpy(digest, &((sum *)state)->value, SUM_SIZE);
    return 0;
}

static void *sum_begin(const fc_algorithm *algorithm)
{
    sum *state = new_memory(sizeof *state);

    (void)algorithm;
    sum_reset(state);
    return state;
}

static void *sum_copy(const void *state)
{
    return memcpy(new_memory(sizeof(sum)), state, sizeof(sum));
}

static const fc_algorithm SUM = {
    .digest_size = SUM_SIZE, .begin = sum_begin, .copy = sum_copy, .end = free,
    .reset = sum_reset, .update = sum_update, .final = sum_final,
};

static fc_hasher new_hasher(void)
{
    return (fc_hasher){sum_update, sum_final, sum_begin(&SUM), SUM_SIZE, 1};
}

static void sum_of(const unsigned char *data, size_t size, unsigned char *digest)
{
    uint64_t value = mix(1, data, size);

    memcpy(digest, &value, SUM_SIZE);
}

/* The digest by the kernel's algorithm, or the sum. */
static int digest_of(int kernel, const unsigned char *data, size_t size, unsigned char *digest)
{
    void *state;

    if (!kernel) {
        sum_of(data, size, digest);
        return SUM_SIZE;
    }
    state = sha256->begin(sha256);
    require(!sha256->update(state, data, size) && !sha256->final(state, digest), "libcrypto failed");
    sha256->end(state);
    return sha256->digest_size;
}

static int is_digest(int kernel, const unsigned char *data, size_t size, const unsigned char *digest)
{
    unsigned char right[FC_DIGEST_MAX];

    return !memcmp(right, digest, (size_t)digest_of(kernel, data, size, right));
}

static int is_name(int kernel, const unsigned char *data, size_t size, const char *name)
{
    unsigned char right[FC_DIGEST_MAX];
    char digits[NAME];

    fc_write_hex(digits, right, digest_of(kernel, data, size, right));
    return !strcmp(digits, name);
}

/* Half of the time none, and then the parts' algorithm is SUM. */
static const fc_sha256_kernel *any_kernel(void)
{
    size_t supported = 0;

    while (fc_sha256_supported(supported))
        supported++;
    return below(2) && supported ? fc_sha256_supported(below(supported)) : NULL;
}

static int new_file(size_t size)
{
    int fd = openat(root, ".", O_TMPFILE | O_RDWR, 0600);

    require(fd >= 0 && pwrite(fd, noise, size, 0) == (ssize_t)size, "no file");
    return fd;
}

/* ---- the parts ---- */

static void do_ring(void)
{
    unsigned char *slab = new_memory(FC_SLAB), digest[FC_DIGEST_MAX];
    fc_hasher hasher = new_hasher();
    fc_lane lane;
    size_t done = 0, most = below(4 << 20);
    int status = 0, cancelled = !below(4);

    fc_lane_init(&lane, hasher, slab, below(2) ? (int64_t)FC_LARGE_FROM : 0);
    fc_lane_thread(&lane, (int64_t)most);
    while (!status && done < most) {
        size_t size = 1 + below(lane.slot_size);
        status = fc_lane_acquire(&lane);
        if (status)
            break;
        memcpy(fc_lane_slot(&lane), noise + done, size);
        status = fc_lane_hash(&lane, fc_lane_slot(&lane), size);
        done += size;
    }
    if (!status && !cancelled) {
        status = fc_lane_final(&lane, digest);
        require(status || is_digest(0, noise, done, digest), "ring: wrong digest");
    }
    require(!status || fails, "ring: failed");
    fc_lane_close(&lane);
    free(hasher.state);
    free(slab);
}

static void do_sink(void)
{
    unsigned char *slab = new_memory(FC_SLAB), digest[FC_DIGEST_MAX], *copy;
    fc_hasher hasher = new_hasher(), checksum = new_hasher();
    size_t size = any_size(), done = 0, limit = below(8) ? size : size / 2;
    int from = new_file(size), to = new_file(0), pull = (int)below(2), status = 1;
    unsigned char *data = memcpy(new_memory(size + 1), noise, size);
    fc_sink sink;

    fc_sink_init(&sink, hasher, slab, to, (int)below(2), limit, below(2) ? (int64_t)size : below(2) ? (int64_t)FC_LARGE_FROM : -1);
    if (below(2))
        sink.checksum = checksum;
    while (status == 1 && below(40))
        status = pull ? fc_sink_pull(&sink, from, 1 + below(1 << 20))
                      : fc_sink_push(&sink, data, size, (int)below(2), 1 + below(1 << 20), &done);
    if (!status)
        status = fc_sink_finish(&sink, digest);
    if (!status) {
        require(is_digest(0, noise, size, digest), "sink: wrong digest");
        copy = new_memory(size + 1);
        require(pread(to, copy, size + 1, 0) == (ssize_t)size && !memcmp(copy, noise, size), "sink: wrong content");
        free(copy);
    }
    require(status >= 0 || (status == FC_ELIMIT && limit < size) || (status == FC_EDIGEST && fails), "sink: failed");
    fc_sink_close(&sink);
    close(from);
    close(to);
    free(data);
    free(hasher.state);
    free(checksum.state);
    free(slab);
}

static void do_reader(void)
{
    static const int wrong[] = {0, 0, 0, 0, FC_ESHORT, FC_ELONG, FC_EMISMATCH};
    unsigned char *slab = new_memory(FC_SLAB), expected[FC_DIGEST_MAX], *out;
    fc_hasher hasher = new_hasher();
    size_t size = any_size() + 1, done = 0;
    int trouble = wrong[below(sizeof wrong / sizeof *wrong)], way = (int)below(3), status = 1;
    int file = new_file(trouble == FC_ESHORT ? size - 1 : size + (trouble == FC_ELONG));
    fc_reader reader;

    sum_of(noise, size, expected);
    expected[0] ^= trouble == FC_EMISMATCH;
    out = new_memory(size);
    fc_reader_init(&reader, hasher, slab, file, size, expected);
    while (status == 1 && below(60)) {
        size_t end = way ? size : done + 1 + below(size - done);
        status = way == 1   ? fc_reader_read_all(&reader, out)
                 : way == 2 ? fc_reader_drain(&reader)
                            : fc_reader_read(&reader, out, end, &done);
        if (!status && !way && done < size)
            status = 1;
    }
    require(status >= 0 || status == trouble || (status == FC_EDIGEST && fails), "reader: failed");
    require(status || (!trouble && reader.verified), "reader: found nothing");
    require(status || way == 2 || !memcmp(out, noise, size), "reader: wrong content");
    fc_reader_close(&reader);
    close(file);
    free(out);
    free(hasher.state);
    free(slab);
}

static void do_store(void)
{
    const fc_small_place to = {.dirfd = root, .place = "blobs", .mode = 0600, .sync = (int)below(2)};
    fc_item *items = calloc(MOST, sizeof *items);
    const unsigned char *memory[MOST] = {0};
    size_t sizes[MOST], count = below(MOST), started = below(count + 1);
    int status = 1, cancelled = !below(5), kernel;
    fc_store store;

    memset(&store, 0, sizeof store);
    store.to = &to;
    store.place = blobs;
    store.items = items;
    store.kernel = any_kernel();
    store.algorithm = &SUM;
    store.checksum = below(2) ? &SUM : NULL;
    kernel = store.kernel != NULL;
    for (int seat = 0; seat < FC_STORE_THREADS; seat++)
        store.seat[seat].slab = new_memory(FC_SLAB);
    require(!fc_store_open(&store), "store: not opened");
    for (size_t i = 0; i < count; i++) {
        fc_item *item = &items[i];
        item->fd = -1;
        item->status = 1;
        if (below(2)) {
            size_t which = below(FILES);
            item->path = path[which];
            sizes[i] = path_size[which];
        } else {
            sizes[i] = item->size = i + 1 < count ? any_size() : FC_SINK_THREAD_FROM + below(1 << 20);
            item->data = memory[i] = memcpy(new_memory(sizes[i] + 1), noise, sizes[i]);
        }
        if (i == started)
            fc_store_start(&store);
        fc_store_add(&store);
    }
    while (status == 1 && !(cancelled && below(2)))
        status = fc_store_run(&store);
    require(status >= 0, "store: failed");
    for (size_t i = 0; !status && i < count; i++) {
        fc_item *item = &items[i];
        require(item->status >= 0 || (fails && (item->status == FC_EDIGEST || item->status == FC_EUNBEGUN)),
                "store: an item failed");
        require(!item->name[0] || item->status < 0 || is_name(kernel, noise, sizes[i], item->name), "store: wrong name");
        require(item->status || !item->summed || is_digest(0, noise, sizes[i], item->checksum), "store: wrong checksum");
        fc_store_publish(item, blobs);
        require(item->status < 0 || item->name[0] || !item->data, "store: no name");
        if (!item->status) {
            struct stat facts;
            require(!fstatat(blobs, item->name, &facts, 0) && (size_t)facts.st_size == sizes[i], "store: no such blob");
        }
    }
    fc_store_close(&store);
    for (size_t i = 0; i < count; i++) {
        if (items[i].name[0] && below(2))
            unlinkat(blobs, items[i].name, 0);
        if (items[i].fd >= 0)
            close(items[i].fd);
        free((void *)memory[i]);
    }
    for (int seat = 0; seat < FC_STORE_THREADS; seat++)
        free(store.seat[seat].slab);
    free(items);
}

static void do_many(void)
{
    fc_many_item *items = calloc(MOST, sizeof *items);
    unsigned char *memory[MOST] = {0};
    size_t sizes[MOST];
    int files[MOST], status, kernel, bad = 0, cancelled = !below(5);
    fc_many many;

    memset(&many, 0, sizeof many);
    many.items = items;
    many.count = below(MOST);
    many.kernel = any_kernel();
    many.algorithm = &SUM;
    many.checksum = below(2) ? &SUM : NULL;
    many.threads = 1 + (int)below(4);
    many.stop_at_failure = (int)below(2);
    kernel = many.kernel != NULL;
    for (size_t i = 0; i < many.count; i++) {
        size_t which = below(FILES);
        items[i].kind = (fc_many_kind)below(3);
        sizes[i] = any_size();
        files[i] = -1;
        if (items[i].kind == FC_MEMORY) {
            items[i].data = memory[i] = memcpy(new_memory(sizes[i] + 1), noise, sizes[i]);
            items[i].size = sizes[i];
        } else if (items[i].kind == FC_FILE) {
            items[i].fd = files[i] = new_file(sizes[i]);
        } else {
            items[i].fd = root;
            items[i].name = strrchr(path[which], '/') + 1;
            sizes[i] = path_size[which];
            if (!below(20)) {
                items[i].name = below(2) ? "absent" : "blobs";
                bad = 1;
            }
        }
    }
    status = fc_many_open(&many) ? -1 : 1;
    while (status == 1 && !(cancelled && below(2)))
        status = fc_many_run(&many);
    require(status >= 0, "many: failed");
    fc_many_close(&many);
    for (size_t i = 0; i < many.count; i++) {
        require(status || !items[i].status || bad || fails, "many: an item failed");
        require(items[i].status || is_digest(kernel, noise, sizes[i], items[i].digest), "many: wrong digest");
        require(items[i].status || items[i].kind == FC_MEMORY || !many.checksum ||
                    is_digest(0, noise, sizes[i], items[i].checksum),
                "many: wrong checksum");
        if (files[i] >= 0)
            close(files[i]);
        free(memory[i]);
    }
    free(items);
}

static int run_pool(fc_step step, void *context, int threads, int cancelled)
{
    fc_pool pool;
    int status = 1;

    fc_pool_start(&pool, step, context, threads);
    while (status == 1 && !(cancelled && below(2)))
        status = fc_pool_run(&pool);
    fc_pool_stop(&pool);
    return status;
}

static void do_fetch(void)
{
    fc_wanted items[MOST];
    char names[MOST][NAME];
    fc_fetch fetch = {.items = items, .count = below(MOST), .algorithm = &SUM};
    int cancelled = !below(4), status;

    fetch.directory = openat(root, "documents", O_RDONLY | O_DIRECTORY);
    for (int seat = 0; seat < FC_FETCH_THREADS; seat++)
        fetch.hashers[seat] = new_hasher();
    for (size_t i = 0; i < fetch.count; i++) {
        unsigned char digest[FC_DIGEST_MAX];
        int file;
        items[i].size = below(3000);
        items[i].data = new_memory(items[i].size + !items[i].size);
        items[i].done = 0;
        fc_write_hex(names[i], digest, digest_of(0, noise, items[i].size, digest));
        items[i].name = names[i];
        file = openat(fetch.directory, names[i], O_CREAT | O_WRONLY | O_TRUNC, 0600);
        require(pwrite(file, noise, items[i].size, 0) == (ssize_t)items[i].size, "no document");
        close(file);
        items[i].size -= items[i].size && !below(10); /* a size that is wrong */
    }
    status = run_pool(fc_fetch_read, &fetch, 1 + (int)below(FC_FETCH_THREADS), cancelled);
    for (size_t i = 0; i < fetch.count; i++) {
        int right = is_name(0, noise, items[i].size, items[i].name);
        require(items[i].done ? right && !memcmp(items[i].data, noise, items[i].size) : status || !right || fails,
                "fetch: wrong");
        unlinkat(fetch.directory, items[i].name, 0);
        free(items[i].data);
    }
    for (int seat = 0; seat < FC_FETCH_THREADS; seat++)
        free(fetch.hashers[seat].state);
    close(fetch.directory);
}

static void do_files(void)
{
    int fds[MOST], statuses[MOST] = {0}, bad = (int)below(MOST * 2), cancelled = !below(4), status;
    fc_files files = {.fds = fds, .statuses = statuses, .count = below(MOST)};

    for (size_t i = 0; i < files.count; i++)
        fds[i] = (int)i == bad ? -1 : new_file(below(5000));
    run_pool(fc_files_kick, &files, FC_KICK_THREADS, cancelled);
    files.next = 0;
    status = run_pool(fc_files_sync, &files, 1 + (int)below(FC_POOL_MAX), cancelled);
    for (size_t i = 0; i < files.count; i++) {
        require(status || statuses[i] == ((int)i == bad ? EBADF : 0), "files: wrong status");
        if (fds[i] >= 0)
            close(fds[i]);
    }
}

static void prepare(const char *directory)
{
    noise = new_memory(NOISE);
    for (size_t i = 0; i < NOISE; i++)
        noise[i] = (unsigned char)below(256);
    root = open(directory, O_RDONLY | O_DIRECTORY);
    require(root >= 0 && !mkdirat(root, "blobs", 0700) && !mkdirat(root, "documents", 0700), "not an empty directory");
    blobs = openat(root, "blobs", O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < FILES; i++) {
        snprintf(path[i], sizeof path[i], "%s/file%d", directory, i);
        path_size[i] = i ? any_size() : FC_SINK_THREAD_FROM + FC_SLAB + 1;
        int file = open(path[i], O_CREAT | O_EXCL | O_WRONLY, 0600);
        require(pwrite(file, noise, path_size[i], 0) == (ssize_t)path_size[i], "no file");
        close(file);
    }
    require(!fc_evp_load(NULL) && (sha256 = fc_evp_fetch("sha256")), "no libcrypto");
}

int main(int argc, char **argv)
{
    static void (*const parts[])(void) = {do_ring, do_sink, do_reader, do_store, do_many, do_fetch, do_files};
    long rounds = argc > 3 ? atol(argv[2]) : 0;

    seed = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    require(rounds > 0, "usage: threads SEED ROUNDS DIRECTORY");
    prepare(argv[3]);
    for (number = 0; number < rounds; number++) {
        fails = below(4) ? 0 : 20 + (int)below(200);
        parts[(size_t)number % (sizeof parts / sizeof *parts)]();
    }
    return 0;
}
