"""Which attention weights dropout keeps: a hash of their place, in Triton.

It is the same in every kernel and for every tile, so the backward pass computes it anew.

Source: Wellons 2018, nullprogram.com/blog/2018/07/31 (`lowbias32`, a 32-bit mixer).
"""

from __future__ import annotations

import triton
import triton.language as tl

# Odd constants: the primes of xxHash, the two of lowbias32, and that of a Weyl sequence.
OF_QUERY = tl.constexpr(0x9E3779B1)
OF_KEY = tl.constexpr(0x85EBCA77)
MIXING = tl.constexpr(0x7FEB352D)
MIXING_AGAIN = tl.constexpr(0x846CA68B)
OF_ALL = tl.constexpr(0xC2B2AE3D)
OF_LATER_QUERY = tl.constexpr(0x27D4EB2F)
OF_LATER_KEY = tl.constexpr(0x165667B1)
WEYL = tl.constexpr(0x9E3779B9)


@triton.jit
def _mix(number):
    """Return 32 bits, each of which depends on all bits of a number (lowbias32)."""
    number ^= number >> 16
    number *= MIXING
    number ^= number >> 15
    number *= MIXING_AGAIN
    return number ^ (number >> 16)


@triton.jit
def draw_streams(seeds, place, WHICH: tl.constexpr, THRESHOLD: tl.constexpr):
    """Return two 32-bit numbers for a text and head, from both halves of the seed."""
    place = place.to(tl.uint32)
    if THRESHOLD == 0:
        return place, place
    seed = tl.load(seeds + WHICH)
    low = seed.to(tl.uint32)
    high = (seed >> 32).to(tl.uint32)
    first = _mix(_mix(place ^ low) + high)
    second = _mix(_mix((place + WEYL) ^ high) + low)
    return first, second


@triton.jit
def drop(weights, streams, from_query, queries, from_key, keys, THRESHOLD: tl.constexpr):
    """Return the weights with dropped ones set to zero; each weight draws 32 bits.

    Four weights share one hash: queries q and q + 8, keys k and k + 8. In a tile of scores,
    transposed or not, one thread holds all four, so the compiler computes the hash once. Each
    weight has its own multiplier and so its own bits: any two of the four are practically
    independent (a lattice of 2^32 points). The second stream enters between the two products;
    otherwise the dropout pattern of one text could be a shifted copy of another's.

    Args:
        weights: (M, N), or transposed.
        streams: The two numbers of the text and head.
        from_query: The tile's first query, a multiple of 16.
        queries: Offsets from it, (M, 1) or (1, M).
        from_key: Like `from_query`, for keys.
        keys: Offsets from it, (1, N) or (N, 1).
        THRESHOLD: The rate times 2^32; at 0 none of this is compiled.
    """
    if THRESHOLD == 0:
        return weights
    of_queries = (from_query + (queries & -9)).to(tl.uint32) * OF_QUERY + streams[0]
    of_keys = (from_key + (keys & -9)).to(tl.uint32) * OF_KEY
    drawn = of_queries + of_keys
    drawn ^= drawn >> 16
    drawn *= MIXING
    drawn ^= (drawn >> 15) ^ streams[1]
    by_query = tl.where((queries & 8) == 0, 1, OF_LATER_QUERY).to(tl.uint32)
    by_key = tl.where((keys & 8) == 0, 1, OF_LATER_KEY).to(tl.uint32) * OF_ALL
    return tl.where(drawn * (by_query * by_key) >= THRESHOLD, weights, 0.0)
