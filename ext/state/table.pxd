# A hash table of 32-bit handles: open addressing with linear probing, a power of two in size.
#
# A slot holds the upper half of the record's 64-bit hash beside its handle, so that a search
# touches a record only where 32 bits agree, and growing needs no record at all. The caller
# compares the ids; the table knows nothing of them.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

ctypedef struct Slot:
    uint32_t handle              # 0: empty
    uint32_t tag

ctypedef struct Table:
    Slot* slots
    uint32_t mask
    uint32_t used


cdef inline uint32_t tag_of(uint64_t hashed) noexcept nogil:
    return <uint32_t> (hashed >> 32)


cdef inline bint table_init(Table* t, uint32_t size) noexcept nogil:
    """An empty table of `size` slots, a power of two; False when there is no memory."""
    t.slots = <Slot*> calloc(size, sizeof(Slot))
    t.mask = size - 1
    t.used = 0
    return t.slots != NULL


cdef inline size_t table_bytes(const Table* t) noexcept nogil:
    """Memory that it holds, used or not."""
    return (<size_t> t.mask + 1) * sizeof(Slot)


cdef inline const Slot* slot_at(const Table* t, uint32_t tag) noexcept nogil:
    """Where a search for a tag begins."""
    return &t.slots[tag & t.mask]


cdef inline uint32_t probable(const Table* t, uint32_t tag) noexcept nogil:
    """The first handle with this tag, most likely the one that is looked for; 0: none."""
    cdef uint32_t i = tag & t.mask
    while t.slots[i].handle != 0 and t.slots[i].tag != tag:
        i = (i + 1) & t.mask
    return t.slots[i].handle


cdef inline void table_put(Table* t, uint32_t tag, uint32_t handle) noexcept nogil:
    """Enter a handle that is not in it; there must be room."""
    cdef uint32_t i = tag & t.mask
    while t.slots[i].handle != 0:
        i = (i + 1) & t.mask
    t.slots[i].handle = handle
    t.slots[i].tag = tag
    t.used += 1


cdef inline bint table_resize(Table* t, uint32_t size) noexcept nogil:
    """Make it one of `size` slots, which must be enough; False when there is no memory.

    Both tables are walked in order, since a slot's home in the one is its home in the other but
    for the highest bits: millions of slots take some milliseconds.
    """
    cdef Table other
    cdef uint32_t i
    if not table_init(&other, size):
        return False
    for i in range(t.mask + 1):
        if t.slots[i].handle != 0:
            table_put(&other, t.slots[i].tag, t.slots[i].handle)
    free(t.slots)
    t[0] = other
    return True


cdef inline bint table_make_room(Table* t) noexcept nogil:
    """Double it when three quarters are taken; False when there is no memory."""
    if t.used < t.mask // 4 * 3:
        return True
    return t.mask < 0x7FFF_FFFF and table_resize(t, (t.mask + 1) * 2)


cdef inline void table_give_back(Table* t, uint32_t least) noexcept nogil:
    """Where less than an eighth is taken, make it so small that a quarter is or more, though of
    `least` slots. It stays as it is when there is no memory for that.
    """
    cdef uint32_t size = t.mask + 1
    if t.used >= size // 8:
        return
    while size > least and t.used <= size // 8:
        size //= 2
    if size <= t.mask:
        table_resize(t, size)


cdef inline void table_remove(Table* t, uint32_t i) noexcept nogil:
    """Empty slot `i`, and move back what stands after it only because that was taken.

    So no search ever has to step over what is gone, however much comes and goes.
    """
    cdef uint32_t hole = i, home
    while True:
        i = (i + 1) & t.mask
        if t.slots[i].handle == 0:
            break
        home = t.slots[i].tag & t.mask
        # It may move unless its home lies after the hole, the table being a ring.
        if ((i - home) & t.mask) >= ((i - hole) & t.mask):
            t.slots[hole] = t.slots[i]
            hole = i
    t.slots[hole].handle = 0
    t.used -= 1
