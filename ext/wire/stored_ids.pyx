"""Ids of messages that an output stream holds, read from it and not made again yet.

Whoever goes on after a crash makes messages again that the stream has already. Their ids are read
out of the stream in its order, as far as they are needed, and forgotten as they are made again: what
is kept is what lies between the two. No Python object is kept per id.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from buffers cimport Buffer, buffer_clear, buffer_put, buffer_reserve
from deliveries cimport Delivery, read_delivery
from frames cimport (
    FRAME_BAD, FRAME_ERR, FRAME_HMSG, FRAME_INFO, FRAME_MSG, FRAME_PARTIAL, Frame, Span,
    check_bounds, not_a_frame, scan_frame,
)
from message_headers cimport (
    MessageId, Position, covers, find_header, read_message_id, read_position,
)
from records cimport OutgoingRecord, padded

from alarmdigest._ext.frames import ProtocolError

cdef enum:
    FIRST_SLOTS = 1024
    COMPACT_AT = 4096
    KEEP_BYTES = 1024 * 1024

ctypedef struct Entry:
    MessageId id
    uint64_t sequence            # in the stream
    uint64_t request             # the sequence of the request that made it; 0: it does not say
    bint taken                   # made again, or nothing will make it again


cdef class StoredIds:
    """Ids in the order of the stream. One thread at a time may use it.

    ``sequence`` is how far the stream was read. ``delivered`` counts the deliveries of the consumer
    that reads it: set it to 0 for a new consumer.
    """

    cdef Buffer entries          # array of Entry, in the order of the stream
    cdef size_t head             # all before it are taken
    cdef size_t waiting          # not taken
    cdef uint32_t* slots
    cdef size_t slot_count       # a power of two, or 0
    cdef uint64_t key
    cdef bint believes_marks
    cdef Position through        # the greatest mark: what belongs to requests up to it was stored
    cdef MessageId newest        # at `sequence`
    cdef bint newest_is_known
    cdef public uint64_t sequence
    cdef public uint64_t delivered

    def __cinit__(
        self, uint64_t sequence=0, uint64_t key=0x9E3779B97F4A7C15, bint believes_marks=True,
    ):
        """Reads after ``sequence``. ``key`` makes the hash table one that nobody can foresee.

        ``believes_marks``: what a mark says to be stored is, also where the stream has it not.
        """
        self.sequence = sequence
        self.believes_marks = believes_marks
        self.key = key | 1

    def __dealloc__(self):
        free(self.entries.data)
        free(self.slots)

    def __len__(self) -> int:
        return self.waiting

    @property
    def held_bytes(self) -> int:
        return self.entries.capacity + self.slot_count * sizeof(uint32_t)

    @property
    def newest_id(self) -> bytes:
        """The id of the message at ``sequence``; b"" if it is not known."""
        return b"%016x%016x" % (self.newest.high, self.newest.low) if self.newest_is_known else b""

    @property
    def first_sequence(self) -> int:
        """The sequence of the first id that was not made again; 0 when there is none."""
        self.skip_taken()
        return 0 if self.waiting == 0 else self.entry(self.head).sequence

    def scan(self, buffer, Py_ssize_t start, Py_ssize_t end) -> tuple[int, list]:
        """Take in all whole frames of ``buffer[start:end]``.

        Returns the position after the last one, and ``(kind, subject, headers or text)`` of those
        that are no deliveries of a consumer. Raises ProtocolError at bytes that are no frame, and
        ValueError where a delivery is missing.
        """
        cdef Py_buffer view
        cdef Frame frame
        cdef int kind
        cdef list others = []
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            check_bounds(start, end, view.len)
            while start < end:
                kind = scan_frame(<const uint8_t*> view.buf + start, end - start, &frame)
                if kind == FRAME_PARTIAL:
                    break
                if kind == FRAME_BAD:
                    raise ProtocolError(not_a_frame(buffer, start, end))
                if (kind == FRAME_MSG or kind == FRAME_HMSG) and frame.reply.length:
                    self.take_delivery(&frame)
                elif kind == FRAME_MSG or kind == FRAME_HMSG:
                    others.append((
                        kind,
                        PyBytes_FromStringAndSize(
                            <const char*> frame.subject.data, frame.subject.length),
                        PyBytes_FromStringAndSize(
                            <const char*> frame.headers.data,
                            frame.headers.length if kind == FRAME_HMSG else 0)))
                else:
                    others.append((
                        kind, b"",
                        PyBytes_FromStringAndSize(
                            <const char*> frame.payload.data,
                            frame.payload.length if kind in (FRAME_ERR, FRAME_INFO) else 0)))
                start += frame.size
            return start, others
        finally:
            PyBuffer_Release(&view)

    def take_made(self, bytes batch not None, int kind, list among=None) -> tuple[list, list]:
        """Find messages that were made again, and forget their ids.

        Of the outgoing records in a batch those of a ``kind`` (or only those with the numbers
        ``among``): ``(number in the batch, sequence)`` of each that the stream holds, and the
        numbers of those that it does not hold as far as it was read. Sequence 0: the stream does
        not hold it any more, but a mark says that it had been stored.
        """
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch), position = 0, number = 0, next_wanted = 0
        cdef const OutgoingRecord* record
        cdef Span headers
        cdef MessageId id
        cdef Position request
        cdef uint64_t sequence
        cdef list found = [], missing = []
        while position < length:
            record = <const OutgoingRecord*> (data + position)
            position += padded(sizeof(OutgoingRecord) + record.headers_len + record.body_len)
            number += 1
            if <int> record.kind != kind:
                continue
            if among is not None:
                if next_wanted == <size_t> len(among):
                    break
                if <size_t> among[next_wanted] != number - 1:
                    continue
                next_wanted += 1
            headers.data = <const uint8_t*> record + sizeof(OutgoingRecord)
            headers.length = record.headers_len
            if not read_message_id(find_header(headers, b"Nats-Msg-Id:", 12), &id):
                continue
            sequence = self.take(id)
            if sequence:
                found.append((number - 1, sequence))
            elif (read_position(find_header(headers, b"Alarmdigest-Request:", 20), &request)
                    and covers(self.through, request)):
                found.append((number - 1, 0))
            else:
                missing.append(number - 1)
        self.compact()
        return found, missing

    def drop_passed(self, uint64_t input_sequence) -> None:
        """Forget ids of digests whose request is at or before this sequence of the *input* stream:
        nothing makes them again any more."""
        cdef size_t i
        cdef Entry* one
        for i in range(self.head, self.count()):
            one = self.entry(i)
            if not one.taken and 0 < one.request <= input_sequence:
                one.taken = True
                self.waiting -= 1
        self.compact()

    def truncate(self, uint64_t sequence) -> None:
        """The stream ends at ``sequence`` now: what was read after it is gone."""
        cdef size_t i
        cdef Entry* one
        for i in range(self.head, self.count()):
            one = self.entry(i)
            if not one.taken and one.sequence > sequence:
                one.taken = True
                self.waiting -= 1
        if self.sequence > sequence:
            self.sequence = sequence
            self.newest_is_known = False
        self.compact()

    def clear(self, uint64_t sequence) -> None:
        """Forget everything; what is read from now on lies after ``sequence``."""
        buffer_clear(&self.entries, KEEP_BYTES)
        free(self.slots)
        self.slots = NULL
        self.slot_count = 0
        self.head = self.waiting = 0
        self.sequence = sequence
        self.newest_is_known = False
        self.through.sequence = 0
        self.through.timestamp_ns = 0

    # -- inside ----------------------------------------------------------------------------------

    cdef size_t count(self) noexcept nogil:
        return self.entries.used // sizeof(Entry)

    cdef Entry* entry(self, size_t i) noexcept nogil:
        return <Entry*> self.entries.data + i

    cdef int take_delivery(self, Frame* frame) except -1:
        cdef Delivery delivery
        cdef MessageId found
        cdef Position mark
        cdef Entry one
        if not read_delivery(frame.reply, &delivery):
            raise ProtocolError("a delivery of a stream whose reply subject tells no sequence")
        self.delivered += 1
        if delivery.consumer_seq != self.delivered:
            raise ValueError(f"delivery {delivery.consumer_seq} came in place of {self.delivered}")
        if delivery.stream_seq <= self.sequence:
            return 0
        self.sequence = delivery.stream_seq
        if self.believes_marks and read_position(
                find_header(frame.headers, b"Alarmdigest-Stored-Through:", 27), &mark):
            if mark.sequence > self.through.sequence:
                self.through = mark
        self.newest_is_known = read_message_id(
            find_header(frame.headers, b"Nats-Msg-Id:", 12), &found)
        if not self.newest_is_known:
            return 0             # not one of ours
        self.newest = found
        if self.find(found) >= 0:
            return 0             # the first message with an id counts
        one.id = found
        one.sequence = delivery.stream_seq
        one.taken = False
        one.request = 0
        if read_position(find_header(frame.headers, b"Alarmdigest-Request:", 20), &mark):
            one.request = mark.sequence
        if not buffer_reserve(&self.entries, sizeof(Entry)):
            raise MemoryError("no memory for another id")
        buffer_put(&self.entries, &one, sizeof(Entry))
        self.waiting += 1
        if 2 * (self.count() + 1) > self.slot_count:
            self.rebuild_index()
        else:
            self.index(self.count() - 1)
        return 0

    cdef uint64_t take(self, MessageId wanted) noexcept:
        """The sequence of a message that is made again now; 0 if its id was not read."""
        cdef int64_t found = self.find(wanted)
        if found < 0 or self.entry(found).taken:
            return 0
        self.entry(found).taken = True
        self.waiting -= 1
        return self.entry(found).sequence

    cdef void skip_taken(self) noexcept:
        while self.head < self.count() and self.entry(self.head).taken:
            self.head += 1

    cdef void empty(self) noexcept:
        """Nothing waits: forget what was taken, too."""
        buffer_clear(&self.entries, KEEP_BYTES)
        free(self.slots)
        self.slots = NULL
        self.slot_count = 0
        self.head = 0

    cdef int compact(self) except -1:
        """Give back the room of those that were taken, once they are most."""
        self.skip_taken()
        if self.waiting == 0:
            self.empty()
        elif self.count() > COMPACT_AT and self.waiting < self.count() // 2:
            self.rebuild_index()
        return 0

    # -- the index: open addressing, a slot holds the number of an entry plus one ------------------

    cdef size_t slot_of(self, MessageId* wanted) noexcept nogil:
        cdef uint64_t mixed = (wanted.low ^ self.key) * self.key
        return ((mixed ^ (mixed >> 29)) + wanted.high * self.key) >> 7 & (self.slot_count - 1)

    cdef int64_t find(self, MessageId wanted) noexcept nogil:
        cdef size_t slot
        cdef Entry* one
        if self.slot_count == 0:
            return -1
        slot = self.slot_of(&wanted)
        while self.slots[slot] != 0:
            one = self.entry(self.slots[slot] - 1)
            if one.id.low == wanted.low and one.id.high == wanted.high:
                return <int64_t> self.slots[slot] - 1
            slot = (slot + 1) & (self.slot_count - 1)
        return -1

    cdef void index(self, size_t i) noexcept nogil:
        cdef size_t slot = self.slot_of(&self.entry(i).id)
        while self.slots[slot] != 0:
            slot = (slot + 1) & (self.slot_count - 1)
        self.slots[slot] = <uint32_t> i + 1

    cdef int rebuild_index(self) except -1:
        """Room for twice as many as there are, without those that were taken."""
        cdef size_t i, kept = 0, wanted = FIRST_SLOTS
        cdef uint32_t* slots
        for i in range(self.head, self.count()):
            if not self.entry(i).taken:
                self.entry(kept)[0] = self.entry(i)[0]
                kept += 1
        self.entries.used = kept * sizeof(Entry)
        self.head = 0
        while wanted < 4 * (self.count() + 1):
            wanted *= 2
        slots = <uint32_t*> calloc(wanted, sizeof(uint32_t))
        if slots == NULL:
            raise MemoryError("no memory for another id")
        free(self.slots)
        self.slots = slots
        self.slot_count = wanted
        for i in range(self.count()):
            self.index(i)
        return 0
