# A growing block of bytes outside Python, for code that runs without the GIL.

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

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
    memcpy(b.data + b.used, data, length)
    b.used += length


cdef inline void buffer_clear(Buffer* b, size_t keep) noexcept nogil:
    """Empty it, and give the memory back if it has grown beyond `keep` bytes."""
    b.used = 0
    if b.capacity > keep:
        free(b.data)
        b.data = NULL
        b.capacity = 0
