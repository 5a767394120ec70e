# The ids of what goes into output streams: the same whenever the same message of the input stream
# gives the same payload, so that a replay makes them again.
#
# BLAKE2b-128 over the input stream's name, a zero byte, the message's position there (sequence u64
# and timestamp i64, little-endian), the number of the part (u32) and the payload; in hexadecimal.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t

from blake2b cimport BLAKE2B_BYTES, Blake2b, blake2b_add, blake2b_begin, blake2b_end
from digest_json cimport hex_digits
from records cimport POSITION_BYTES

cdef enum:
    PUBLISHED_ID_BYTES = 32


cdef inline void id_begin(Blake2b* start, bytes stream):
    """What the ids of all messages of one stream have in common."""
    blake2b_begin(start)
    # The zero byte after it, which Python keeps there, ends the name.
    blake2b_add(start, <const uint8_t*> PyBytes_AS_STRING(stream), PyBytes_GET_SIZE(stream) + 1)


cdef inline void id_write(
    const Blake2b* start, const uint8_t* position, uint32_t part, const uint8_t* payload,
    size_t length, uint8_t* text,
) noexcept nogil:
    """Write the PUBLISHED_ID_BYTES digits to ``text``."""
    cdef Blake2b hashing = start[0]
    cdef uint8_t digest[BLAKE2B_BYTES]
    cdef int i
    blake2b_add(&hashing, position, POSITION_BYTES)
    blake2b_add(&hashing, <const uint8_t*> &part, 4)
    blake2b_add(&hashing, payload, length)
    blake2b_end(&hashing, digest)
    for i in range(BLAKE2B_BYTES):
        text[2 * i] = hex_digits[digest[i] >> 4]
        text[2 * i + 1] = hex_digits[digest[i] & 15]
