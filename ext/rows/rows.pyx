"""Packed rows: ordered and sealed to be written, checked and packed again when read, shared out.

A packed row is ``u32 length (little-endian) | key (22 bytes) | value``; length 0 says that the row
is deleted. The store keeps the value with a *seal* after it, beside the checksum that the value
itself ends with (``row_codec.pxd``): eight bytes that only this key with this value has, since neither a disk nor LMDB tells when it gives back other bytes than it was
given.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcmp, memcpy

from buffers cimport Buffer, buffer_put, buffer_reserve
from siphash cimport SipKey, siphash13

cdef enum:
    KEY = 22                     # bucket, 128 bits of the user, number of the block
    HEAD = 4 + KEY
    SEAL = 8
    MAX_WORKERS = 4096           # the number of buckets, see alarmdigest/wire/buckets.py

# Not a secret: the seal is against accidents. Fixed for ever, as files depend on it.
cdef SipKey SEAL_KEY = SipKey(0x616C61726D646967, 0x6573742073746F72)

KEY_BYTES = KEY


class RowDamaged(ValueError):
    """A row read back is not as it was written."""


cdef struct Entry:
    const uint8_t* row           # at its length field
    uint64_t seal
    uint32_t length
    uint32_t place               # in the order of arrival: a later one wins


cdef inline uint32_t length_at(const uint8_t* row) noexcept nogil:
    cdef uint32_t length
    memcpy(&length, row, 4)      # little-endian machines only, as all of ours are
    return length


cdef int by_key_and_place(const void* a, const void* b) noexcept nogil:
    cdef const Entry* x = <const Entry*> a
    cdef const Entry* y = <const Entry*> b
    cdef int order = memcmp(x.row + 4, y.row + 4, KEY)
    if order != 0:
        return order
    return -1 if x.place < y.place else 1


cdef Py_ssize_t count_rows(const uint8_t* data, size_t size) noexcept nogil:
    """How many rows these bytes are; -1 when they do not end where a row ends."""
    cdef size_t at = 0
    cdef Py_ssize_t count = 0
    while at < size:
        if size - at < HEAD or size - at - HEAD < length_at(data + at):
            return -1
        at += HEAD + length_at(data + at)
        count += 1
    return count


cdef class CommitBatch:
    """The rows of one commit: in the order of their keys, each key once, the last of equals.

    Raises ValueError when a chunk does not consist of whole rows.
    """

    cdef tuple chunks            # keeps alive what the entries point into
    cdef Entry* entries
    cdef Py_ssize_t count
    cdef readonly Py_ssize_t size
    """Bytes of all values, what the seals take not counted."""

    def __cinit__(self, chunks):
        cdef bytes chunk
        cdef Py_ssize_t found, total = 0
        cdef const uint8_t* data
        cdef size_t length
        self.chunks = tuple(chunks)
        for chunk in self.chunks:
            data = <const uint8_t*> PyBytes_AS_STRING(chunk)
            length = PyBytes_GET_SIZE(chunk)
            with nogil:
                found = count_rows(data, length)
            if found < 0:
                raise ValueError("a chunk of rows ends within a row")
            total += found
        if total == 0:
            return
        if total > <Py_ssize_t> 0xFFFFFFFF:
            raise ValueError("too many rows for one commit")
        self.entries = <Entry*> malloc(total * sizeof(Entry))
        if self.entries == NULL:
            raise MemoryError
        for chunk in self.chunks:
            data = <const uint8_t*> PyBytes_AS_STRING(chunk)
            length = PyBytes_GET_SIZE(chunk)
            with nogil:
                self.take(data, length)
        with nogil:
            self.order_and_seal()

    def __dealloc__(self):
        free(self.entries)

    cdef void take(self, const uint8_t* data, size_t size) noexcept nogil:
        cdef size_t at = 0
        cdef Entry* entry
        while at < size:
            entry = &self.entries[self.count]
            entry.row = data + at
            entry.length = length_at(data + at)
            entry.place = <uint32_t> self.count
            self.count += 1
            at += HEAD + entry.length

    cdef void order_and_seal(self) noexcept nogil:
        cdef Py_ssize_t i, kept = 0
        cdef Entry* entry
        qsort(self.entries, self.count, sizeof(Entry), by_key_and_place)
        for i in range(self.count):
            entry = &self.entries[i]
            if i + 1 < self.count and memcmp(entry.row + 4, entry[1].row + 4, KEY) == 0:
                continue
            entry.seal = siphash13(&SEAL_KEY, entry.row + 4, KEY + entry.length)
            self.entries[kept] = entry[0]
            self.size += entry.length
            kept += 1
        self.count = kept

    def __len__(self) -> int:
        return self.count

    def puts(self) -> RowsToWrite:
        """``(key, sealed value)`` of every row that is not a deletion; made one by one, so that
        nobody waits for the GIL while all of them are."""
        return RowsToWrite(self, deletions=False)

    def changes(self) -> RowsToWrite:
        """As ``puts``, and ``(key, None)`` for every row that is to go."""
        return RowsToWrite(self, deletions=True)

    def put_keys(self) -> list:
        """The keys of the rows that are not deletions."""
        return self.keys_of(False)

    def deletions(self) -> list:
        """The keys of the rows that are to go."""
        return self.keys_of(True)

    cdef list keys_of(self, bint deleted):
        cdef list keys = []
        cdef Py_ssize_t i
        for i in range(self.count):
            if (self.entries[i].length == 0) == deleted:
                keys.append(PyBytes_FromStringAndSize(<const char*> self.entries[i].row + 4, KEY))
        return keys


cdef class RowsToWrite:
    cdef CommitBatch batch
    cdef bint deletions
    cdef Py_ssize_t next

    def __cinit__(self, CommitBatch batch not None, *, bint deletions):
        self.batch = batch
        self.deletions = deletions

    def __iter__(self):
        return self

    def __next__(self):
        cdef const Entry* entry
        cdef bytes key, value
        cdef char* to
        while self.next < self.batch.count:
            entry = &self.batch.entries[self.next]
            self.next += 1
            if entry.length == 0 and not self.deletions:
                continue
            key = PyBytes_FromStringAndSize(<const char*> entry.row + 4, KEY)
            if entry.length == 0:
                return key, None
            value = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> entry.length + SEAL)
            to = PyBytes_AS_STRING(value)
            memcpy(to, entry.row + HEAD, entry.length)
            memcpy(to + entry.length, &entry.seal, SEAL)
            return key, value
        raise StopIteration


cdef int pack_one(Buffer* out, const Py_buffer* key, const Py_buffer* value) except -1:
    cdef uint32_t length
    cdef uint64_t seal
    cdef uint8_t* row
    if key.len != KEY or value.len <= SEAL or value.len > 0x7FFFFFFF:
        raise RowDamaged("a row has another size than was written")
    length = <uint32_t> (value.len - SEAL)
    if not buffer_reserve(out, HEAD + length):
        raise MemoryError
    row = out.data + out.used
    buffer_put(out, &length, 4)
    buffer_put(out, key.buf, KEY)
    buffer_put(out, value.buf, length)
    memcpy(&seal, <const uint8_t*> value.buf + length, SEAL)
    if seal != siphash13(&SEAL_KEY, row + 4, KEY + length):
        raise RowDamaged("a row holds other bytes than were written")
    return 0


def pack(items, Py_ssize_t limit, bytes previous=b"") -> tuple:
    """``(chunk, rows in it, the last one's key)`` from an iterator of ``(key, sealed value)``.

    Takes from ``items`` until the chunk has at least ``limit`` bytes, or there are no more: then
    the count may be 0. Raises RowDamaged for a row that is not as ``puts`` made it, and for one
    whose key does not lie after the last one's (``previous``: the one before the first).
    """
    cdef Buffer out = Buffer(NULL, 0, 0)
    cdef Py_buffer key, value
    cdef Py_ssize_t count = 0
    cdef size_t last = 0         # where the key of the last row stands in `out`
    cdef bytes chunk
    if previous and len(previous) != KEY:
        raise ValueError("previous must be a key")
    try:
        for pair in items:
            PyObject_GetBuffer(pair[0], &key, PyBUF_SIMPLE)
            try:
                PyObject_GetBuffer(pair[1], &value, PyBUF_SIMPLE)
                try:
                    pack_one(&out, &key, &value)
                    if (memcmp(key.buf, out.data + last, KEY) <= 0 if count
                            else (previous and memcmp(key.buf, <const char*> previous, KEY) <= 0)):
                        raise RowDamaged("the rows are not in the order of their keys")
                    last = out.used - value.len + SEAL - KEY
                    count += 1
                finally:
                    PyBuffer_Release(&value)
            finally:
                PyBuffer_Release(&key)
            if <Py_ssize_t> out.used >= limit:
                break
        if count == 0:
            return b"", 0, previous
        chunk = PyBytes_FromStringAndSize(<const char*> out.data, out.used)
        return chunk, count, PyBytes_FromStringAndSize(<const char*> out.data + last, KEY)
    finally:
        free(out.data)


def split_by_worker(bytes chunk not None, Py_ssize_t workers) -> list:
    """The rows of a packed chunk by worker: bucket mod ``workers``, as wire/buckets.py has it.

    Each worker's rows stay in their order. Raises ValueError when the chunk does not consist of
    whole rows or ``workers`` is not from 1 to 4096.
    """
    cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(chunk)
    cdef size_t size = PyBytes_GET_SIZE(chunk)
    cdef size_t at = 0, row
    cdef size_t* sizes
    cdef uint8_t** ends
    cdef Py_ssize_t w
    cdef list parts = []
    if workers < 1 or workers > MAX_WORKERS:
        raise ValueError("workers must be from 1 to 4096")
    if count_rows(data, size) < 0:
        raise ValueError("a chunk of rows ends within a row")
    sizes = <size_t*> calloc(workers, sizeof(size_t))
    ends = <uint8_t**> calloc(workers, sizeof(uint8_t*))
    try:
        if sizes == NULL or ends == NULL:
            raise MemoryError
        while at < size:
            row = HEAD + length_at(data + at)
            sizes[(data[at + 4] << 8 | data[at + 5]) % workers] += row
            at += row
        for w in range(workers):
            part = PyBytes_FromStringAndSize(NULL, sizes[w])
            ends[w] = <uint8_t*> PyBytes_AS_STRING(part)
            parts.append(part)
        at = 0
        while at < size:
            row = HEAD + length_at(data + at)
            w = (data[at + 4] << 8 | data[at + 5]) % workers
            memcpy(ends[w], data + at, row)
            ends[w] += row
            at += row
        return parts
    finally:
        free(sizes)
        free(ends)
