"""Operators of our own in C++, for bfloat16 on a CPU: built by torch where they can be."""
