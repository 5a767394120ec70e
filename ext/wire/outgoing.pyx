"""Packed outgoing records -> the bytes that go to the server."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from blake2b cimport Blake2b
from buffers cimport KEEP_BYTES, Buffer, buffer_clear, buffer_put, buffer_reserve
from frames cimport Span
from manners cimport enter
from outgoing cimport Wire, put_message
from published_ids cimport PUBLISHED_ID_BYTES, id_begin, id_write
from records cimport OUTGOING_REJECTION, POSITION_BYTES, OutgoingRecord, padded


def pack_rejection(bytes headers not None, bytes body not None, int64_t arrival_ns=0) -> bytes:
    """One rejected message as an outgoing record; `headers` are whole ``Key: value\\r\\n`` lines,
    ``arrival_ns`` is its arrival, where it comes from a stream."""
    cdef OutgoingRecord record
    memset(&record, 0, sizeof(record))
    record.headers_len = <uint32_t> len(headers)
    record.body_len = <uint32_t> len(body)
    record.kind = OUTGOING_REJECTION
    record.arrival_ns = arrival_ns
    cdef size_t length = sizeof(record) + len(headers) + len(body)
    return (<char*> &record)[:sizeof(record)] + headers + body + bytes(padded(length) - length)


cdef Span text_of(bytes text):
    cdef Span found
    found.data = <const uint8_t*> PyBytes_AS_STRING(text)
    found.length = PyBytes_GET_SIZE(text)
    return found


def published_id(
    bytes stream not None, uint64_t sequence, int64_t timestamp_ns, bytes payload not None,
) -> bytes:
    """The ``Nats-Msg-Id`` of a message made from the one at this position of the input stream."""
    cdef Blake2b start
    cdef uint8_t position[POSITION_BYTES]
    cdef uint8_t text[PUBLISHED_ID_BYTES]
    memcpy(position, &sequence, 8)
    memcpy(position + 8, &timestamp_ns, 8)
    id_begin(&start, stream)
    id_write(&start, position, 0, <const uint8_t*> PyBytes_AS_STRING(payload), len(payload), text)
    return PyBytes_FromStringAndSize(<char*> text, PUBLISHED_ID_BYTES)


cdef class Framer:
    """Frames batches of outgoing records. It keeps the memory in which it does so, since new memory
    for each batch would cost more than the copying."""

    cdef Buffer out
    cdef bint busy

    def __dealloc__(self):
        free(self.out.data)

    def to_wire(
        self, bytes batch not None, bytes digest_subject not None, bytes rejected_subject not None,
        bytes id_prefix not None, size_t max_payload, bytes tail not None=b"",
    ) -> tuple:
        """Frame a batch as HPUB, each message with the id ``<id_prefix><number in batch>``, and
        ``tail`` after them.

        A rejection larger than ``max_payload`` is cut and says so; one whose headers alone are
        larger is left out. Returns ``(wire, digests, rejections, left_out, largest_digest)``, the
        last in bytes as the server counts them, headers included. Copies without the GIL.
        """
        cdef Wire w
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch), position = 0
        cdef uint64_t number = 0
        cdef const OutgoingRecord* record
        cdef Span last = text_of(tail)
        cdef bint enough_memory = True
        memset(&w, 0, sizeof(w))
        w.digest_subject = text_of(digest_subject)
        w.rejected_subject = text_of(rejected_subject)
        w.id = text_of(id_prefix)
        w.max_payload = max_payload
        enter(&self.busy)
        w.out = self.out
        memset(&self.out, 0, sizeof(Buffer))
        try:
            with nogil:
                while position < length and enough_memory:
                    record = <const OutgoingRecord*> (data + position)
                    enough_memory = put_message(&w, record, number)
                    number += 1
                    position += padded(
                        sizeof(OutgoingRecord) + record.headers_len + record.body_len)
                enough_memory = enough_memory and buffer_reserve(&w.out, last.length)
                if enough_memory:
                    buffer_put(&w.out, last.data, last.length)
            if not enough_memory:
                raise MemoryError("no memory to frame outgoing messages")
            return (PyBytes_FromStringAndSize(<char*> w.out.data, w.out.used), w.digests,
                    w.rejections, w.unpublishable, w.largest_digest)
        finally:
            buffer_clear(&w.out, KEEP_BYTES)
            self.out = w.out
            self.busy = False
