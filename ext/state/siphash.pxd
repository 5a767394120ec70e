# SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF"; the 1-3 variant is what
# CPython and Rust use for their tables). The key is a secret of the process, so that nobody can
# choose ids that all land in one place of a table.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

ctypedef struct SipKey:
    uint64_t k0
    uint64_t k1

ctypedef struct SipState:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3


cdef inline uint64_t rotate_left(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline void sip_round(SipState* s) noexcept nogil:
    s.v0 += s.v1
    s.v1 = rotate_left(s.v1, 13) ^ s.v0
    s.v0 = rotate_left(s.v0, 32)
    s.v2 += s.v3
    s.v3 = rotate_left(s.v3, 16) ^ s.v2
    s.v0 += s.v3
    s.v3 = rotate_left(s.v3, 21) ^ s.v0
    s.v2 += s.v1
    s.v1 = rotate_left(s.v1, 17) ^ s.v2
    s.v2 = rotate_left(s.v2, 32)


cdef inline uint64_t siphash13(const SipKey* key, const uint8_t* data, size_t length) noexcept nogil:
    cdef SipState s
    cdef uint64_t word
    cdef size_t i, whole = length & ~(<size_t> 7)
    s.v0 = key.k0 ^ <uint64_t> 0x736F6D6570736575
    s.v1 = key.k1 ^ <uint64_t> 0x646F72616E646F6D
    s.v2 = key.k0 ^ <uint64_t> 0x6C7967656E657261
    s.v3 = key.k1 ^ <uint64_t> 0x7465646279746573
    for i in range(0, whole, 8):
        memcpy(&word, data + i, 8)       # little-endian machines only, as all of ours are
        s.v3 ^= word
        sip_round(&s)
        s.v0 ^= word
    word = <uint64_t> (length & 0xFF) << 56
    for i in range(length - whole):
        word |= <uint64_t> data[whole + i] << (8 * i)
    s.v3 ^= word
    sip_round(&s)
    s.v0 ^= word
    s.v2 ^= 0xFF
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3
