"""The pages of an LMDB file (format 1, 64 bits), looked over before LMDB itself is let near them.

LMDB maps its file and trusts it. A page that is not in the file is a SIGBUS there, and one that
holds something else a failed assertion, which ends the process as well. So the tree of rows and
that of free pages are walked here first, reading and not mapping: every page in use lies in the
file, is what its parent takes it for, and is used once; nodes lie within their page; keys ascend.
After that, LMDB finds nothing at which it would stumble, reading or writing.

What the values hold is not looked at, see the seals in rows.pyx.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.types cimport off_t
from posix.unistd cimport pread

cdef enum:
    HEADER = 16                  # of a page: its number, padding, flags, lower, upper
    META = 152                   # header and what follows on the first two pages
    NODE = 8                     # of a node: two sizes and flags, or a page's number; key's length
    BRANCH = 1
    LEAF = 2
    OVERFLOW = 4
    BIG = 1                      # a node's flag: the value has pages of its own
    MAX_KEY = 511
    MAX_DEPTH = 32
    MAX_PAGE = 1 << 16

cdef uint64_t NO_PAGE = ~(<uint64_t> 0)


class PagesDamaged(ValueError):
    """The file is not what LMDB would have written."""


cdef struct Tree:
    uint64_t root
    uint64_t entries
    uint16_t depth
    uint16_t flags


cdef struct Walk:
    int fd
    uint64_t size                # bytes of the file
    uint64_t page_size
    uint64_t pages               # how many there are, written or not
    uint8_t* seen                # a bit for each
    uint8_t* levels              # a page for each level of the tree
    bint free_tree               # integer keys; the values are lists of pages
    uint64_t entries
    uint8_t last_key[MAX_KEY]
    int last_key_len             # -1: there was none
    const char* problem
    uint64_t page                # where the problem is


cdef inline uint16_t u16(const uint8_t* at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)        # little-endian machines only, as all of ours are
    return value


cdef inline uint32_t u32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t u64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef bint read_at(int fd, uint8_t* to, size_t length, uint64_t at) noexcept nogil:
    cdef ssize_t got
    while length:
        got = pread(fd, to, length, <off_t> at)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            return False
        to += got
        at += got
        length -= got
    return True


cdef bint wrong(Walk* w, uint64_t page, const char* problem) noexcept nogil:
    w.page = page
    w.problem = problem
    return False


cdef bint take(Walk* w, uint64_t page, uint64_t count) noexcept nogil:
    """Mark pages as used; False when they are no pages or have a use already."""
    cdef uint64_t i
    if page < 2 or page >= w.pages or count > w.pages - page:
        return wrong(w, page, b"there is no such page")
    for i in range(page, page + count):
        if w.seen[i >> 3] & (1 << (i & 7)):
            return wrong(w, i, b"it is used twice")
        w.seen[i >> 3] |= 1 << (i & 7)
    return True


cdef bint take_written(Walk* w, uint64_t page, uint64_t count) noexcept nogil:
    if not take(w, page, count):
        return False
    if page + count > w.size // w.page_size:
        return wrong(w, page, b"the file ends before it")
    return True


cdef int compare(const Walk* w, const uint8_t* key, int length) noexcept nogil:
    """This key beside the last one of a leaf: above 0 when it lies after it."""
    cdef int order
    cdef uint64_t a, b
    if w.last_key_len < 0:
        return 1
    if w.free_tree:
        a, b = u64(key), u64(w.last_key)
        return 1 if a > b else (0 if a == b else -1)
    order = memcmp(key, w.last_key, min(length, w.last_key_len))
    return order if order != 0 else length - w.last_key_len


cdef bint take_free_pages(
    Walk* w, uint64_t where, const uint8_t* list_, uint64_t length
) noexcept nogil:
    cdef uint64_t count, i, before = NO_PAGE
    if length < 8 or length % 8 or u64(list_) != length // 8 - 1:
        return wrong(w, where, b"a list of free pages has a wrong length")
    count = u64(list_)
    for i in range(1, count + 1):
        if u64(list_ + 8 * i) >= before:
            return wrong(w, where, b"a list of free pages is not in order")
        before = u64(list_ + 8 * i)
        if not take(w, before, 1):
            return False
    return True


cdef bint check_big(Walk* w, uint64_t where, uint64_t page, uint64_t length) noexcept nogil:
    """A value that has pages of its own."""
    cdef uint8_t header[HEADER]
    cdef uint64_t count = (HEADER - 1 + length) // w.page_size + 1
    cdef uint8_t* value
    cdef bint good
    if not take_written(w, page, count):
        return False
    if not read_at(w.fd, header, HEADER, page * w.page_size):
        return wrong(w, page, b"it cannot be read")
    if u64(header) != page or u16(header + 10) != OVERFLOW or u32(header + 12) != count:
        return wrong(w, page, b"it is not the value that it should be")
    if not w.free_tree:
        return True
    value = <uint8_t*> malloc(length + 1)
    if value == NULL:
        return wrong(w, page, b"there is no memory to read it")
    if read_at(w.fd, value, length, page * w.page_size + HEADER):
        good = take_free_pages(w, where, value, length)
    else:
        good = wrong(w, page, b"it cannot be read")
    free(value)
    return good


cdef bint check_leaf_node(Walk* w, uint64_t page, const uint8_t* node, uint64_t room) noexcept nogil:
    cdef uint64_t length = u16(node) | <uint64_t> u16(node + 2) << 16
    cdef uint16_t flags = u16(node + 4)
    cdef int key_len = u16(node + 6)
    cdef const uint8_t* key = node + NODE
    if compare(w, key, key_len) <= 0:
        return wrong(w, page, b"its keys do not ascend")
    memcpy(w.last_key, key, key_len)
    w.last_key_len = key_len
    w.entries += 1
    if flags & ~BIG:
        return wrong(w, page, b"a node has flags of another kind of database")
    if flags & BIG:
        if room < 8:
            return wrong(w, page, b"a node reaches over its end")
        return check_big(w, page, u64(key + key_len), length)
    if room < length:
        return wrong(w, page, b"a node reaches over its end")
    return take_free_pages(w, page, key + key_len, length) if w.free_tree else True


cdef bint check_page(Walk* w, uint64_t page, int level, int depth) noexcept nogil:
    cdef uint8_t* data = w.levels + level * w.page_size
    cdef bint leaf = level == depth - 1
    cdef uint64_t at, room, lower, upper, i, keys
    cdef const uint8_t* node
    cdef int key_len
    if not take_written(w, page, 1):
        return False
    if not read_at(w.fd, data, w.page_size, page * w.page_size):
        return wrong(w, page, b"it cannot be read")
    if u64(data) != page or u16(data + 10) != (LEAF if leaf else BRANCH):
        return wrong(w, page, b"it is not the page that it should be")
    lower, upper = u16(data + 12), u16(data + 14)
    if lower < HEADER or lower % 2 or upper < lower or upper > w.page_size:
        return wrong(w, page, b"its head makes no sense")
    keys = (lower - HEADER) // 2
    if keys < (1 if leaf or w.free_tree else 2):
        return wrong(w, page, b"it has too few nodes")
    for i in range(keys):
        at = u16(data + HEADER + 2 * i)
        if at < upper or at % 2 or at + NODE > w.page_size:
            return wrong(w, page, b"a node does not lie within it")
        node = data + at
        key_len = u16(node + 6)
        room = w.page_size - at - NODE
        if <uint64_t> key_len > room or key_len > MAX_KEY:
            return wrong(w, page, b"a key does not lie within it")
        if w.free_tree and key_len != 8 and (leaf or i):
            return wrong(w, page, b"a key has a wrong length")
        if leaf:
            if not check_leaf_node(w, page, node, room - key_len):
                return False
            continue
        # The first key of a branch stands for everything before the second, and may be anything.
        if i and compare(w, node + NODE, key_len) <= 0:
            return wrong(w, page, b"its keys do not ascend")
        if not check_page(w, u16(node) | <uint64_t> u16(node + 2) << 16
                          | <uint64_t> u16(node + 4) << 32, level + 1, depth):
            return False
    return True


cdef bint check_tree(Walk* w, const Tree* tree, bint free_tree) noexcept nogil:
    cdef bint good
    w.free_tree = free_tree
    w.entries = 0
    w.last_key_len = -1
    if tree.root == NO_PAGE:
        return True if tree.entries == 0 and tree.depth == 0 else wrong(w, 0, b"a tree is gone")
    if tree.depth < 1 or tree.depth > MAX_DEPTH:
        return wrong(w, 0, b"the depth of a tree makes no sense")
    w.levels = <uint8_t*> malloc(tree.depth * w.page_size)
    if w.levels == NULL:
        return wrong(w, 0, b"there is no memory to read it")
    good = check_page(w, tree.root, 0, tree.depth)
    free(w.levels)
    if good and w.entries != tree.entries:
        return wrong(w, tree.root, b"the tree below it has another number of entries")
    return good


cdef Tree tree_at(const uint8_t* data) noexcept nogil:
    cdef Tree tree
    tree.flags, tree.depth = u16(data + 4), u16(data + 6)
    tree.entries, tree.root = u64(data + 32), u64(data + 40)
    return tree


def check(int fd, uint64_t size) -> tuple:
    """Look over the newest state in the file ``fd`` of ``size`` bytes. ``(transaction, bytes)``:
    which one that is, and how long the file would be with all its pages, written or not.

    The file may be shorter than that by pages which are not in use. Raises PagesDamaged. Nobody
    may write meanwhile, unless a read transaction keeps the pages of this state from being used
    again.
    """
    cdef uint8_t metas[2][META]
    cdef Walk w
    cdef Tree rows, unused
    cdef const uint8_t* meta
    cdef bint good
    cdef int i
    memset(&w, 0, sizeof(w))
    w.fd, w.size = fd, size
    if not read_at(fd, metas[0], META, 0):
        raise PagesDamaged("it has no first page")
    w.page_size = u32(metas[0] + 40)
    if w.page_size < 512 or w.page_size > MAX_PAGE or w.page_size & (w.page_size - 1):
        raise PagesDamaged("its first page is none of LMDB's")
    if size < 2 * w.page_size or not read_at(fd, metas[1], META, w.page_size):
        raise PagesDamaged("it has no second page")
    for i in range(2):
        if u32(metas[i] + 16) != 0xBEEFC0DE or u32(metas[i] + 20) != 1 or u16(metas[i] + 10) != 8:
            raise PagesDamaged(f"page {i} is none of LMDB's")
        if u32(metas[i] + 40) != w.page_size:
            raise PagesDamaged("its first two pages do not agree")
    meta = &metas[u64(metas[0] + 144) < u64(metas[1] + 144)][0]
    w.pages = u64(meta + 136) + 1
    if w.pages < 2 or w.pages - 2 > 2 * (size // w.page_size) + 1024:
        raise PagesDamaged(f"it has {size} bytes and should have {w.pages} pages")
    unused, rows = tree_at(meta + 40), tree_at(meta + 88)
    # 8: integer keys; the other flags that a tree may have are of kinds that we do not use.
    if unused.flags != 8 or rows.flags != 0:
        raise PagesDamaged("its trees are of another kind")
    w.seen = <uint8_t*> calloc(w.pages // 8 + 1, 1)
    if w.seen == NULL:
        raise MemoryError
    with nogil:
        good = check_tree(&w, &rows, False) and check_tree(&w, &unused, True)
    free(w.seen)
    if not good:
        raise PagesDamaged(f"page {w.page}: {w.problem.decode()}")
    return u64(meta + 144), w.pages * w.page_size
