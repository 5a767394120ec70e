# BLAKE2b (RFC 7693) with a digest of 128 bits and no key: what hashlib.blake2b(digest_size=16) is.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    BLAKE2B_BYTES = 16

cdef extern from *:
    """
    #include <stdint.h>
    static const uint64_t blake2b_iv[8] = {
        UINT64_C(0x6A09E667F3BCC908), UINT64_C(0xBB67AE8584CAA73B),
        UINT64_C(0x3C6EF372FE94F82B), UINT64_C(0xA54FF53A5F1D36F1),
        UINT64_C(0x510E527FADE682D1), UINT64_C(0x9B05688C2B3E6C1F),
        UINT64_C(0x1F83D9ABFB41BD6B), UINT64_C(0x5BE0CD19137E2179),
    };
    static const uint8_t blake2b_sigma[12][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
        {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
        {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
        {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
        {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    };
    """
    const uint64_t blake2b_iv[8]
    const uint8_t blake2b_sigma[12][16]

ctypedef struct Blake2b:
    uint64_t h[8]
    uint64_t counted             # bytes that have been compressed
    uint8_t block[128]
    size_t filled


cdef inline uint64_t rotate_right(uint64_t x, int bits) noexcept nogil:
    return (x >> bits) | (x << (64 - bits))


cdef inline void blake2b_mix(
    uint64_t* v, int a, int b, int c, int d, uint64_t x, uint64_t y
) noexcept nogil:
    v[a] += v[b] + x
    v[d] = rotate_right(v[d] ^ v[a], 32)
    v[c] += v[d]
    v[b] = rotate_right(v[b] ^ v[c], 24)
    v[a] += v[b] + y
    v[d] = rotate_right(v[d] ^ v[a], 16)
    v[c] += v[d]
    v[b] = rotate_right(v[b] ^ v[c], 63)


cdef inline void blake2b_compress(Blake2b* b, bint last) noexcept nogil:
    cdef uint64_t v[16]
    cdef uint64_t m[16]
    cdef const uint8_t* s
    cdef int i
    memcpy(m, b.block, 128)              # little-endian machines only, as all of ours are
    for i in range(8):
        v[i] = b.h[i]
        v[i + 8] = blake2b_iv[i]
    v[12] ^= b.counted
    if last:
        v[14] = ~v[14]
    for i in range(12):
        s = blake2b_sigma[i]
        blake2b_mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]])
        blake2b_mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]])
        blake2b_mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]])
        blake2b_mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]])
        blake2b_mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]])
        blake2b_mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]])
        blake2b_mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]])
        blake2b_mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]])
    for i in range(8):
        b.h[i] ^= v[i] ^ v[i + 8]


cdef inline void blake2b_begin(Blake2b* b) noexcept nogil:
    memset(b, 0, sizeof(Blake2b))
    memcpy(b.h, blake2b_iv, 64)
    b.h[0] ^= <uint64_t> (0x0101_0000 ^ BLAKE2B_BYTES)


cdef inline void blake2b_add(Blake2b* b, const uint8_t* data, size_t length) noexcept nogil:
    cdef size_t taken
    while length > 0:
        # A full block waits until more comes: the last one is compressed in another way.
        if b.filled == 128:
            b.counted += 128
            blake2b_compress(b, False)
            b.filled = 0
        taken = 128 - b.filled if 128 - b.filled < length else length
        memcpy(b.block + b.filled, data, taken)
        b.filled += taken
        data += taken
        length -= taken


cdef inline void blake2b_end(Blake2b* b, uint8_t* digest) noexcept nogil:
    """Write the 16 bytes of the digest; nothing can be added any more."""
    b.counted += b.filled
    memset(b.block + b.filled, 0, 128 - b.filled)
    blake2b_compress(b, True)
    memcpy(digest, b.h, BLAKE2B_BYTES)
