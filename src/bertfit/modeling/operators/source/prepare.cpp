// Must be called before any operator runs.
#include "tiles.h"

// Returns false if the operators cannot run.
extern "C" bool prepare() { return bertfit::ask_for_tiles(); }
