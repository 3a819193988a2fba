"""Custom C++ operators for bfloat16 on a CPU, built by torch if possible."""
