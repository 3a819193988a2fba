"""Our own C++ operators, for bfloat16 on a CPU: built by torch where that is possible."""
