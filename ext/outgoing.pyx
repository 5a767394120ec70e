"""Packed outgoing records -> the bytes that go to the server."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memset

from buffers cimport Buffer, buffer_put, buffer_reserve
from records cimport OUTGOING_DIGEST, OUTGOING_REFUSAL, OutgoingRecord, padded

cdef enum:
    MAX_NUMBERS = 128            # "HPUB", two sizes and a counter, in decimal, with room to spare

cdef const char* HEADER_VERSION = b"NATS/1.0\r\n"
cdef const char* CUT_HEADER = b"Alarmdigest-Cut: true\r\n"
cdef const char* ID_HEADER = b"Nats-Msg-Id: "


def pack_refusal(bytes headers not None, bytes body not None) -> bytes:
    """One refused message as an outgoing record; `headers` are whole ``Key: value\\r\\n`` lines."""
    cdef OutgoingRecord record
    memset(&record, 0, sizeof(record))
    record.headers_len = <uint32_t> len(headers)
    record.body_len = <uint32_t> len(body)
    record.kind = OUTGOING_REFUSAL
    cdef size_t length = sizeof(record) + len(headers) + len(body)
    return (<char*> &record)[:sizeof(record)] + headers + body + bytes(padded(length) - length)


cdef struct Wire:
    Buffer out
    uint64_t place
    uint64_t digests
    uint64_t refusals
    uint64_t unpublishable
    size_t largest_digest


cdef bint put_message(
    Wire* w, const uint8_t* subject, size_t subject_len, const uint8_t* prefix, size_t prefix_len,
    const OutgoingRecord* record, size_t max_payload,
) noexcept nogil:
    """Frame one record as HPUB; False when there is no memory."""
    cdef const uint8_t* headers = <const uint8_t*> record + sizeof(OutgoingRecord)
    cdef char number[24]
    cdef char line[MAX_NUMBERS]
    cdef int number_len = snprintf(number, sizeof(number), b"%llu", <unsigned long long> w.place)
    cdef int line_len
    cdef size_t body_len = record.body_len
    cdef size_t headers_len = 10 + record.headers_len + 13 + prefix_len + number_len + 4
    cdef bint cut = False
    if headers_len + body_len > max_payload and record.kind == OUTGOING_REFUSAL:
        cut = True
        headers_len += 23
        if headers_len > max_payload:    # not even its headers fit: nothing can be said of it
            w.unpublishable += 1
            return True
        body_len = max_payload - headers_len
    if record.kind == OUTGOING_DIGEST and headers_len + body_len > w.largest_digest:
        w.largest_digest = headers_len + body_len
    line_len = snprintf(line, sizeof(line), b" %zu %zu\r\n", headers_len, headers_len + body_len)
    if not buffer_reserve(&w.out, 5 + subject_len + line_len + headers_len + body_len + 2):
        return False
    buffer_put(&w.out, b"HPUB ", 5)
    buffer_put(&w.out, subject, subject_len)
    buffer_put(&w.out, line, line_len)
    buffer_put(&w.out, HEADER_VERSION, 10)
    buffer_put(&w.out, headers, record.headers_len)
    if cut:
        buffer_put(&w.out, CUT_HEADER, 23)
    buffer_put(&w.out, ID_HEADER, 13)
    buffer_put(&w.out, prefix, prefix_len)
    buffer_put(&w.out, number, number_len)
    buffer_put(&w.out, b"\r\n\r\n", 4)
    buffer_put(&w.out, headers + record.headers_len, body_len)
    buffer_put(&w.out, b"\r\n", 2)
    if record.kind == OUTGOING_DIGEST:
        w.digests += 1
    else:
        w.refusals += 1
    return True


def to_wire(
    bytes batch not None, bytes digest_subject not None, bytes rejected_subject not None,
    bytes id_prefix not None, size_t max_payload,
) -> tuple:
    """Frame a batch of outgoing records as HPUB, each with the id ``<id_prefix><place in batch>``.

    A refusal larger than ``max_payload`` is cut and says so; one whose headers alone are larger is
    left out. Returns ``(wire, digests, refusals, left_out, largest_digest)``, the last in bytes as
    the server counts them, headers included. Copies without the GIL.
    """
    cdef Wire w
    cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
    cdef const uint8_t* digest_name = <const uint8_t*> PyBytes_AS_STRING(digest_subject)
    cdef const uint8_t* rejected_name = <const uint8_t*> PyBytes_AS_STRING(rejected_subject)
    cdef const uint8_t* prefix = <const uint8_t*> PyBytes_AS_STRING(id_prefix)
    cdef size_t digest_len = PyBytes_GET_SIZE(digest_subject)
    cdef size_t rejected_len = PyBytes_GET_SIZE(rejected_subject)
    cdef size_t prefix_len = PyBytes_GET_SIZE(id_prefix)
    cdef size_t length = PyBytes_GET_SIZE(batch), position = 0
    cdef const OutgoingRecord* record
    cdef bint enough_memory = True
    memset(&w, 0, sizeof(w))
    try:
        with nogil:
            while position < length and enough_memory:
                record = <const OutgoingRecord*> (data + position)
                if record.kind == OUTGOING_DIGEST:
                    enough_memory = put_message(
                        &w, digest_name, digest_len, prefix, prefix_len, record, max_payload)
                else:
                    enough_memory = put_message(
                        &w, rejected_name, rejected_len, prefix, prefix_len, record, max_payload)
                w.place += 1
                position += padded(sizeof(OutgoingRecord) + record.headers_len + record.body_len)
        if not enough_memory:
            raise MemoryError("no memory to frame outgoing messages")
        return (PyBytes_FromStringAndSize(<char*> w.out.data, w.out.used), w.digests, w.refusals,
                w.unpublishable, w.largest_digest)
    finally:
        free(w.out.data)
