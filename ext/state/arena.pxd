# Records of a few dozen bytes, addressed by 32-bit handles.
#
# A handle counts units of 4 bytes over pages of 64 KiB: half the size of a pointer, valid as long
# as its record is there (nothing moves when the arena grows), and enough for 16 GiB in each book.
# 0 is no handle.
#
# All records of a page have one size, so that a place that was given back suits the next of them,
# and a page whose last record was given back goes back to the C library. What lies thinly in pages
# that are mostly empty has to move for that, and only the owner knows who points at a record: it
# asks arena_is_thin() and moves it. Places in such pages are not taken any more.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cdef enum:
    UNIT = 4
    PAGE_BITS = 14
    PAGE_UNITS = 1 << 14
    PAGE_BYTES = 1 << 16
    MAX_PAGES = 1 << 18
    MAX_UNITS = 268              # of one record: its fields and an id of 1,024 bytes
    NO_PAGE = 0xFFFF_FFFF

ctypedef struct Page:
    uint32_t released            # the first place that was given back, a handle
    uint32_t next                # that has room for records of the same size, or NO_PAGE
    uint32_t previous
    uint16_t units               # of each record
    uint16_t used                # units that were ever taken
    uint16_t live                # records
    uint8_t has_room             # stands in the list of its size
    uint8_t thin                 # is being emptied: stands in no list

ctypedef struct Arena:
    uint8_t** data               # of each page, NULL where there is none; apart, for the caches
    Page* pages
    uint32_t count               # places for pages, taken or not
    uint32_t capacity
    uint32_t held                # pages that there are
    uint32_t unused              # the first place without a page, a list through Page.next
    uint64_t live_units
    uint32_t room[MAX_UNITS + 1]     # by size in units: the first page with room, plus 1


cdef inline uint8_t* arena_at(const Arena* a, uint32_t handle) noexcept nogil:
    return a.data[handle >> PAGE_BITS] + <size_t> (handle & (PAGE_UNITS - 1)) * UNIT


cdef inline uint32_t units_of(size_t size) noexcept nogil:
    return <uint32_t> ((size + UNIT - 1) // UNIT)


cdef inline void list_page(Arena* a, uint32_t number) noexcept nogil:
    cdef Page* page = &a.pages[number]
    page.previous = NO_PAGE
    page.next = a.room[page.units] - 1       # of 0 it makes NO_PAGE
    if page.next != NO_PAGE:
        a.pages[page.next].previous = number
    a.room[page.units] = number + 1
    page.has_room = True


cdef inline void unlist_page(Arena* a, uint32_t number) noexcept nogil:
    cdef Page* page = &a.pages[number]
    if page.previous != NO_PAGE:
        a.pages[page.previous].next = page.next
    else:
        a.room[page.units] = page.next + 1
    if page.next != NO_PAGE:
        a.pages[page.next].previous = page.previous
    page.has_room = False


cdef inline bint add_page(Arena* a, uint32_t units) noexcept nogil:
    """An empty page for records of this size; False when there is no memory."""
    cdef uint32_t number, capacity
    cdef uint8_t** data
    cdef Page* pages
    cdef uint8_t* made
    if a.unused == 0 and a.count == a.capacity:
        if a.count == MAX_PAGES:
            return False
        capacity = a.capacity * 2 if a.capacity else 16
        data = <uint8_t**> realloc(a.data, capacity * sizeof(uint8_t*))
        if data == NULL:
            return False
        a.data = data
        pages = <Page*> realloc(a.pages, capacity * sizeof(Page))
        if pages == NULL:
            return False
        a.pages = pages
        a.capacity = capacity
    made = <uint8_t*> malloc(PAGE_BYTES)
    if made == NULL:
        return False
    if a.unused != 0:
        number = a.unused - 1
        a.unused = a.pages[number].next
    else:
        number = a.count
        a.count += 1
    a.data[number] = made
    a.held += 1
    a.pages[number].released = 0
    a.pages[number].units = <uint16_t> units
    a.pages[number].used = 1 if number == 0 else 0       # so that no handle is 0
    a.pages[number].live = 0
    a.pages[number].thin = False
    list_page(a, number)
    return True


cdef inline void drop_page(Arena* a, uint32_t number) noexcept nogil:
    if a.pages[number].has_room:
        unlist_page(a, number)
    free(a.data[number])
    a.data[number] = NULL
    a.held -= 1
    a.pages[number].next = a.unused
    a.unused = number + 1


cdef inline uint32_t arena_new(Arena* a, size_t size) noexcept nogil:
    """Room for a record of `size` bytes (at most MAX_UNITS), not cleared; 0 when there is none."""
    cdef uint32_t units = units_of(size)
    cdef uint32_t number, handle
    cdef Page* page
    if a.room[units] == 0 and not add_page(a, units):
        return 0
    number = a.room[units] - 1
    page = &a.pages[number]
    if page.released != 0:
        handle = page.released
        memcpy(&page.released, arena_at(a, handle), sizeof(uint32_t))
    else:
        handle = (number << PAGE_BITS) + page.used
        page.used += <uint16_t> units
    page.live += 1
    a.live_units += units
    if page.released == 0 and page.used + units > PAGE_UNITS:
        unlist_page(a, number)
    return handle


cdef inline void arena_release(Arena* a, uint32_t handle, size_t size) noexcept nogil:
    """Give back a record of `size` bytes, as it was asked for; nothing may point to it any more."""
    cdef uint32_t number = handle >> PAGE_BITS
    cdef Page* page = &a.pages[number]
    a.live_units -= page.units
    page.live -= 1
    if page.live == 0:
        drop_page(a, number)
        return
    memcpy(arena_at(a, handle), &page.released, sizeof(uint32_t))
    page.released = handle
    if not (page.has_room or page.thin):
        list_page(a, number)


cdef inline bint arena_find_thin(Arena* a) noexcept nogil:
    """Call those pages thin that are mostly empty, if the arena is; whether any is thin.

    To be asked now and then: it looks at each page. Each size may have one page that is mostly
    empty, so once the records of thin pages have moved, the arena is not called so again.
    """
    cdef bint in_use[MAX_UNITS + 1]
    cdef bint mostly_empty, any_thin = False
    cdef uint32_t number, sizes = 0
    cdef Page* page
    memset(in_use, 0, sizeof(in_use))
    for number in range(a.count):
        page = &a.pages[number]
        if a.data[number] != NULL and not in_use[page.units]:
            in_use[page.units] = True
            sizes += 1
    mostly_empty = a.live_units * 2 < <uint64_t> (a.held - sizes) * PAGE_UNITS
    for number in range(a.count):
        if a.data[number] == NULL:
            continue
        page = &a.pages[number]
        if mostly_empty and not page.thin and <uint32_t> page.live * page.units * 2 < PAGE_UNITS:
            if page.has_room:
                unlist_page(a, number)
            page.thin = True
        any_thin = any_thin or page.thin
    return any_thin


cdef inline bint arena_is_thin(const Arena* a, uint32_t handle) noexcept nogil:
    """Whether a record should move, to a place that arena_new() gives."""
    return a.pages[handle >> PAGE_BITS].thin


cdef inline size_t arena_bytes(const Arena* a) noexcept nogil:
    """Memory that it holds, used or not."""
    return <size_t> a.held * PAGE_BYTES + a.capacity * (sizeof(uint8_t*) + sizeof(Page))


cdef inline void arena_free(Arena* a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.count):
        free(a.data[i])
    free(a.data)
    free(a.pages)
