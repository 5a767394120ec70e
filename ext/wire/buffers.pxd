# A growing block of bytes outside Python, for code that runs without the GIL.

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef enum:
    MOST_DIGITS = 20             # of a number of 64 bits
    KEEP_BYTES = 1024 * 1024     # a larger buffer is given back after use

ctypedef struct Buffer:
    uint8_t* data
    size_t used
    size_t capacity


cdef inline bint buffer_reserve(Buffer* b, size_t more) noexcept nogil:
    """Make room for `more` bytes after what is used; False when there is no memory."""
    cdef size_t capacity = b.capacity
    cdef uint8_t* data
    if b.used + more <= capacity:
        return True
    if capacity < 1024:
        capacity = 1024
    while capacity < b.used + more:
        capacity *= 2
    data = <uint8_t*> realloc(b.data, capacity)
    if data == NULL:
        return False
    b.data = data
    b.capacity = capacity
    return True


cdef inline void buffer_put(Buffer* b, const void* data, size_t length) noexcept nogil:
    """Append; the room must have been reserved."""
    if length != 0:                  # else there may be no data, nor a buffer
        memcpy(b.data + b.used, data, length)
        b.used += length


cdef inline int write_decimal(uint8_t* out, uint64_t number) noexcept nogil:
    """Write a number in decimal digits, at most MOST_DIGITS; how many."""
    cdef uint8_t digits[MOST_DIGITS]
    cdef int first = MOST_DIGITS
    while True:
        first -= 1
        digits[first] = 48 + <uint8_t> (number % 10)
        number //= 10
        if number == 0:
            break
    memcpy(out, digits + first, MOST_DIGITS - first)
    return MOST_DIGITS - first


cdef inline void buffer_clear(Buffer* b, size_t keep) noexcept nogil:
    """Empty it, and give the memory back if it has grown beyond `keep` bytes."""
    b.used = 0
    if b.capacity > keep:
        free(b.data)
        b.data = NULL
        b.capacity = 0
