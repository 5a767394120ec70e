# One outgoing record -> the HPUB frame that the server gets.

from libc.stdint cimport uint8_t, uint64_t
from libc.stdio cimport snprintf

from buffers cimport Buffer, buffer_put, buffer_reserve
from frames cimport Span
from records cimport OUTGOING_DIGEST, OUTGOING_REJECTION, OutgoingRecord

cdef enum:
    MAX_NUMBERS = 128            # two sizes in decimal and blanks, with room to spare
    COMMIT_BYTES = 22            # the header line that ends a batch

ctypedef struct Wire:
    Span digest_subject
    Span rejected_subject
    Span reply                   # a number is put after it; of length 0: no reply subject
    Span id                      # likewise; of length 0: records carry ids of their own
    Span mark                    # a whole header line for the next digest, which uses it up
    size_t max_payload
    Buffer out
    uint64_t digests
    uint64_t rejections
    uint64_t unpublishable
    size_t largest_digest


cdef inline bint put_message(Wire* w, const OutgoingRecord* record, uint64_t number) noexcept nogil:
    """Frame one record as HPUB; False when there is no memory. What cannot be sent is counted."""
    cdef const uint8_t* headers = <const uint8_t*> record + sizeof(OutgoingRecord)
    cdef Span subject = (
        w.digest_subject if record.kind == OUTGOING_DIGEST else w.rejected_subject)
    cdef char digits[24]
    cdef char line[MAX_NUMBERS]
    cdef int digits_len = snprintf(digits, sizeof(digits), b"%llu", <unsigned long long> number)
    cdef int line_len
    cdef size_t body_len = record.body_len
    cdef size_t headers_len = 10 + record.headers_len + 2
    cdef bint cut = False
    if w.id.length:
        headers_len += 13 + w.id.length + digits_len + 2
    if record.kind == OUTGOING_DIGEST:
        headers_len += w.mark.length
    if headers_len + body_len > w.max_payload and record.kind == OUTGOING_REJECTION:
        cut = True
        headers_len += 23
        if headers_len > w.max_payload:  # not even its headers fit: nothing can be said of it
            w.unpublishable += 1
            return True
        body_len = w.max_payload - headers_len
    if record.kind == OUTGOING_DIGEST:
        if headers_len + body_len > w.largest_digest:
            w.largest_digest = headers_len + body_len
        if headers_len + body_len > w.max_payload:  # nothing of a digest is ever cut
            w.unpublishable += 1
            return True
    line_len = snprintf(line, sizeof(line), b" %zu %zu\r\n", headers_len, headers_len + body_len)
    if not buffer_reserve(&w.out, 5 + subject.length + 1 + w.reply.length + digits_len + line_len
                          + headers_len + body_len + 2):
        return False
    buffer_put(&w.out, b"HPUB ", 5)
    buffer_put(&w.out, subject.data, subject.length)
    if w.reply.length:
        buffer_put(&w.out, b" ", 1)
        buffer_put(&w.out, w.reply.data, w.reply.length)
        buffer_put(&w.out, digits, digits_len)
    buffer_put(&w.out, line, line_len)
    buffer_put(&w.out, b"NATS/1.0\r\n", 10)
    if record.kind == OUTGOING_DIGEST and w.mark.length:
        buffer_put(&w.out, w.mark.data, w.mark.length)
        w.mark.length = 0
    buffer_put(&w.out, headers, record.headers_len)
    if cut:
        buffer_put(&w.out, b"Alarmdigest-Cut: true\r\n", 23)
    if w.id.length:
        buffer_put(&w.out, b"Nats-Msg-Id: ", 13)
        buffer_put(&w.out, w.id.data, w.id.length)
        buffer_put(&w.out, digits, digits_len)
        buffer_put(&w.out, b"\r\n", 2)
    buffer_put(&w.out, b"\r\n", 2)
    buffer_put(&w.out, headers + record.headers_len, body_len)
    buffer_put(&w.out, b"\r\n", 2)
    if record.kind == OUTGOING_DIGEST:
        w.digests += 1
    else:
        w.rejections += 1
    return True


ctypedef struct Fenced:
    Span fence                   # whole header lines for every digest
    Span batch                   # likewise, and the beginning of the line with its number
    bint commit                  # it is the last of its batch


cdef inline bint put_fenced(
    Wire* w, const OutgoingRecord* record, uint64_t number, const Fenced* how, uint64_t in_batch,
) noexcept nogil:
    """Frame a digest for a stream that checks who leads. ``in_batch`` is its number in an atomic
    batch, from 1, or 0 for a message by itself. As ``put_message``; it never sends a part."""
    cdef const uint8_t* headers = <const uint8_t*> record + sizeof(OutgoingRecord)
    cdef char digits[24]
    cdef char in_batch_digits[24]
    cdef char line[MAX_NUMBERS]
    cdef int digits_len = snprintf(digits, sizeof(digits), b"%llu", <unsigned long long> number)
    cdef int in_batch_len = snprintf(
        in_batch_digits, sizeof(in_batch_digits), b"%llu\r\n", <unsigned long long> in_batch)
    cdef size_t headers_len = 10 + how.fence.length + w.mark.length + record.headers_len + 2
    cdef size_t body_len = record.body_len
    cdef bint reply = in_batch <= 1 or how.commit
    cdef int line_len
    if in_batch:
        headers_len += how.batch.length + in_batch_len + (COMMIT_BYTES if how.commit else 0)
    if headers_len + body_len > w.largest_digest:
        w.largest_digest = headers_len + body_len
    if headers_len + body_len > w.max_payload:
        w.unpublishable += 1
        return True
    line_len = snprintf(line, sizeof(line), b" %zu %zu\r\n", headers_len, headers_len + body_len)
    if not buffer_reserve(&w.out, 5 + w.digest_subject.length + 1 + w.reply.length + digits_len
                          + line_len + headers_len + body_len + 2):
        return False
    buffer_put(&w.out, b"HPUB ", 5)
    buffer_put(&w.out, w.digest_subject.data, w.digest_subject.length)
    if reply:
        buffer_put(&w.out, b" ", 1)
        buffer_put(&w.out, w.reply.data, w.reply.length)
        buffer_put(&w.out, digits, digits_len)
    buffer_put(&w.out, line, line_len)
    buffer_put(&w.out, b"NATS/1.0\r\n", 10)
    buffer_put(&w.out, how.fence.data, how.fence.length)
    if in_batch:
        buffer_put(&w.out, how.batch.data, how.batch.length)
        buffer_put(&w.out, in_batch_digits, in_batch_len)
        if how.commit:
            buffer_put(&w.out, b"Nats-Batch-Commit: 1\r\n", COMMIT_BYTES)
    if w.mark.length:
        buffer_put(&w.out, w.mark.data, w.mark.length)
        w.mark.length = 0
    buffer_put(&w.out, headers, record.headers_len)
    buffer_put(&w.out, b"\r\n", 2)
    buffer_put(&w.out, headers + record.headers_len, body_len)
    buffer_put(&w.out, b"\r\n", 2)
    w.digests += 1
    return True
