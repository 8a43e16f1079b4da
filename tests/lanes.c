/* Hashes messages in lanes, for test_lanes.py: lanes FILE KERNEL SEED, and on the standard input a line "offset size" for each
   message, a part of FILE. Prints "number digest size" for each, in the order in which they end. Pieces have random
   sizes and lie in memory of exactly that size, at any alignment. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "evp.h"
#include "lanes.h"

typedef struct {
    long number;
    size_t offset, left;
    unsigned char *memory;
} message;

static unsigned long seed;

static size_t below(size_t limit)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(seed >> 33) % limit;
}

static size_t piece_size(size_t left)
{
    static const size_t sizes[] = {1, 55, 63, 64, 65, 127, 128, 1000, 4096, 70000};
    size_t size = sizes[below(sizeof sizes / sizeof *sizes)];

    if (below(10) == 0)
        size = 0;
    return size < left ? size : left;
}

static void check(int status)
{
    if (status) {
        fprintf(stderr, "status %d\n", status);
        exit(1);
    }
}

static void feed(fc_lanes *lanes, int lane, message *from, const unsigned char *content)
{
    size_t size = piece_size(from->left), skew = below(64);

    free(from->memory);
    from->memory = malloc(skew + size + 1);
    memcpy(from->memory + skew, content + from->offset, size);
    fc_lanes_feed(lanes, lane, from->memory + skew, size);
    from->offset += size;
    from->left -= size;
    if (!from->left && below(2))
        fc_lanes_end(lanes, lane);
}

int main(int argc, char **argv)
{
    message messages[FC_LANES_MAX] = {0};
    unsigned char *content, digest[64];
    const fc_sha256_kernel *kernel;
    static const void *md; /* fetched for the life of the process, which isn't a leak */
    fc_lanes lanes;
    FILE *file;
    long size, numbers = 0;
    int fed;

    if (argc != 4 || !(file = fopen(argv[1], "rb")) || fseek(file, 0, SEEK_END))
        return 2;
    size = ftell(file);
    rewind(file);
    content = malloc((size_t)size);
    if (fread(content, 1, (size_t)size, file) != (size_t)size)
        return 2;
    fclose(file);
    seed = strtoul(argv[3], NULL, 10);
    kernel = fc_sha256_supported(strtoul(argv[2], NULL, 10));
    if (!kernel) {
        if (fc_evp_load(NULL) || !(md = fc_evp_fetch("SHA256")))
            return 3;
    }
    fprintf(stderr, "%s\n", kernel ? kernel->name : "libcrypto");
    check(fc_lanes_open(&lanes, kernel, md));
    do {
        fed = 0;
        for (int i = 0; i < lanes.lanes; i++) {
            message *current = &messages[i];
            if (lanes.stream[i].phase == FC_LANE_DONE) {
                unsigned long long found = fc_lanes_take(&lanes, i, digest);
                printf("%ld ", current->number);
                for (int byte = 0; byte < lanes.digest_size; byte++)
                    printf("%02x", digest[byte]);
                printf(" %llu\n", found);
            }
            if (lanes.stream[i].phase == FC_LANE_IDLE) {
                if (scanf("%zu %zu", &current->offset, &current->left) != 2)
                    continue;
                current->number = numbers++;
                check(fc_lanes_start(&lanes, i));
                if (below(50) == 0) { /* another stream was here, and is forgotten */
                    fc_lanes_feed(&lanes, i, content, below((size_t)size));
                    fc_lanes_drop(&lanes, i);
                    check(fc_lanes_start(&lanes, i));
                }
            }
            if (lanes.stream[i].phase == FC_LANE_HUNGRY) {
                if (current->left)
                    feed(&lanes, i, current, content);
                else
                    fc_lanes_end(&lanes, i);
            }
            fed |= lanes.stream[i].phase == FC_LANE_FED;
        }
        check(fc_lanes_run(&lanes));
    } while (fed);
    fc_lanes_close(&lanes);
    for (int i = 0; i < FC_LANES_MAX; i++)
        free(messages[i].memory);
    free(content);
    return 0;
}
