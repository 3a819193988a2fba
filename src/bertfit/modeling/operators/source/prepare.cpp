// What has to be done before any operator runs.
#include "tiles.h"

// False where the operators cannot run.
extern "C" bool prepare() { return bertfit::ask_for_tiles(); }
