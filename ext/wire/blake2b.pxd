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

    #define BLAKE2B_MIX(a, b, c, d, x, y) \
        a += b + m[x]; d ^= a; d = d >> 32 | d << 32; c += d; b ^= c; b = b >> 24 | b << 40; \
        a += b + m[y]; d ^= a; d = d >> 16 | d << 48; c += d; b ^= c; b = b >> 63 | b << 1;
    /* The order of the words is known when this is compiled, so that no round looks it up. */
    #define BLAKE2B_ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf) \
        BLAKE2B_MIX(v0, v4, v8, v12, s0, s1) BLAKE2B_MIX(v1, v5, v9, v13, s2, s3) \
        BLAKE2B_MIX(v2, v6, v10, v14, s4, s5) BLAKE2B_MIX(v3, v7, v11, v15, s6, s7) \
        BLAKE2B_MIX(v0, v5, v10, v15, s8, s9) BLAKE2B_MIX(v1, v6, v11, v12, sa, sb) \
        BLAKE2B_MIX(v2, v7, v8, v13, sc, sd) BLAKE2B_MIX(v3, v4, v9, v14, se, sf)

    static void blake2b_rounds(
        uint64_t h[8], const uint64_t m[16], uint64_t counted, uint64_t last)
    {
        uint64_t v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3];
        uint64_t v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
        uint64_t v8 = blake2b_iv[0], v9 = blake2b_iv[1], v10 = blake2b_iv[2], v11 = blake2b_iv[3];
        uint64_t v12 = blake2b_iv[4] ^ counted, v13 = blake2b_iv[5];
        uint64_t v14 = blake2b_iv[6] ^ last, v15 = blake2b_iv[7];
        BLAKE2B_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
        BLAKE2B_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
        BLAKE2B_ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4)
        BLAKE2B_ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8)
        BLAKE2B_ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13)
        BLAKE2B_ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9)
        BLAKE2B_ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11)
        BLAKE2B_ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10)
        BLAKE2B_ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5)
        BLAKE2B_ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)
        BLAKE2B_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
        BLAKE2B_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
        h[0] ^= v0 ^ v8; h[1] ^= v1 ^ v9; h[2] ^= v2 ^ v10; h[3] ^= v3 ^ v11;
        h[4] ^= v4 ^ v12; h[5] ^= v5 ^ v13; h[6] ^= v6 ^ v14; h[7] ^= v7 ^ v15;
    }
    """
    const uint64_t blake2b_iv[8]
    void blake2b_rounds(
        uint64_t* h, const uint64_t* m, uint64_t counted, uint64_t last) noexcept nogil

ctypedef struct Blake2b:
    uint64_t h[8]
    uint64_t counted             # bytes that have been compressed
    uint8_t block[128]
    size_t filled


cdef inline void blake2b_compress(Blake2b* b, const uint8_t* block, bint last) noexcept nogil:
    cdef uint64_t m[16]
    memcpy(m, block, 128)                # little-endian machines only, as all of ours are
    blake2b_rounds(b.h, m, b.counted, ~(<uint64_t> 0) if last else 0)


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
            blake2b_compress(b, b.block, False)
            b.filled = 0
        if b.filled == 0 and length > 128:   # without copying it first
            b.counted += 128
            blake2b_compress(b, data, False)
            data += 128
            length -= 128
            continue
        taken = min(128 - b.filled, length)
        memcpy(b.block + b.filled, data, taken)
        b.filled += taken
        data += taken
        length -= taken


cdef inline void blake2b_end(Blake2b* b, uint8_t* digest) noexcept nogil:
    """Write the 16 bytes of the digest; nothing can be added any more."""
    b.counted += b.filled
    memset(b.block + b.filled, 0, 128 - b.filled)
    blake2b_compress(b, b.block, True)
    memcpy(digest, b.h, BLAKE2B_BYTES)
