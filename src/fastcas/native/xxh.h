/* XXH3-128, the checksum: finds bit rot at the speed of memory, and proves nothing. Reached at run time in what the
   package xxhash has loaded, which is built for every CPU; no header is needed to build. */
#ifndef FASTCAS_XXH_H
#define FASTCAS_XXH_H

#include "algorithm.h"

/* `module_path`: the file of the module xxhash._xxhash, or NULL. NULL where libxxhash isn't to be found. */
const fc_algorithm *fc_xxh_load(const char *module_path);

#endif
