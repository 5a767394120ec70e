# Records of a few dozen bytes, addressed by 32-bit handles.
#
# A handle counts units of 8 bytes over chunks of 1 MiB: half the size of a pointer, valid for
# ever (nothing moves when the arena grows), and enough for 32 GiB in each book. 0 is no handle.
#
# A record that is given back waits in a list of those of its size for the next one of that size:
# ids of a service hardly change in length, so what forgetting frees, later alarms take again.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

cdef enum:
    UNIT = 8
    CHUNK_BITS = 17
    CHUNK_UNITS = 1 << 17
    MAX_CHUNKS = 1 << 15
    MAX_UNITS = 136              # of one record: its fields and an id of 1,024 bytes

ctypedef struct Arena:
    uint8_t** chunks
    uint32_t count
    uint32_t capacity
    uint32_t used                # units of the last chunk
    uint32_t released[MAX_UNITS + 1]     # by size in units: the first one given back


cdef inline uint8_t* arena_at(const Arena* a, uint32_t handle) noexcept nogil:
    return a.chunks[handle >> CHUNK_BITS] + <size_t> (handle & (CHUNK_UNITS - 1)) * UNIT


cdef inline uint32_t arena_new(Arena* a, size_t size) noexcept nogil:
    """Room for a record of `size` bytes (at most MAX_UNITS), not cleared; 0 when there is none."""
    cdef uint32_t units = <uint32_t> ((size + UNIT - 1) // UNIT)
    cdef uint32_t handle, capacity
    cdef uint8_t** chunks
    if a.released[units] != 0:
        handle = a.released[units]
        memcpy(&a.released[units], arena_at(a, handle), sizeof(uint32_t))
        return handle
    if a.count == 0 or a.used + units > CHUNK_UNITS:
        if a.count == MAX_CHUNKS:
            return 0
        if a.count == a.capacity:
            capacity = a.capacity * 2 if a.capacity else 16
            chunks = <uint8_t**> realloc(a.chunks, capacity * sizeof(uint8_t*))
            if chunks == NULL:
                return 0
            a.chunks = chunks
            a.capacity = capacity
        a.chunks[a.count] = <uint8_t*> malloc(<size_t> CHUNK_UNITS * UNIT)
        if a.chunks[a.count] == NULL:
            return 0
        a.used = 1 if a.count == 0 else 0       # so that the first handle is not 0
        a.count += 1
    handle = ((a.count - 1) << CHUNK_BITS) + a.used
    a.used += units
    return handle


cdef inline void arena_release(Arena* a, uint32_t handle, size_t size) noexcept nogil:
    """Give back a record of `size` bytes, as it was asked for; nothing may point to it any more."""
    cdef uint32_t units = <uint32_t> ((size + UNIT - 1) // UNIT)
    memcpy(arena_at(a, handle), &a.released[units], sizeof(uint32_t))
    a.released[units] = handle


cdef inline size_t arena_bytes(const Arena* a) noexcept nogil:
    """Memory that it holds, used or not."""
    return a.count * (<size_t> CHUNK_UNITS * UNIT) + a.capacity * sizeof(uint8_t*)


cdef inline void arena_free(Arena* a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.count):
        free(a.chunks[i])
    free(a.chunks)
