# One outgoing record -> the HPUB frame that the server gets.

from libc.stdint cimport uint8_t, uint64_t

from buffers cimport MOST_DIGITS, Buffer, buffer_put, buffer_reserve, write_decimal
from frames cimport Span
from records cimport OUTGOING_DIGEST, OUTGOING_REJECTION, OutgoingRecord

cdef enum:
    # Of a frame, beside subjects, headers and body: the operation, blanks, three numbers, line ends.
    LINE_BYTES = 5 + 4 + 3 * MOST_DIGITS + 4
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


cdef inline void put_frame_head(
    Wire* w, Span subject, bint reply, const uint8_t* digits, int digits_len, size_t headers_len,
    size_t body_len,
) noexcept nogil:
    """The line of an HPUB and that of the version of its headers; the room must have been reserved.
    ``reply``: whether an answer is asked for, to the number in ``digits``."""
    cdef Buffer* out = &w.out
    buffer_put(out, b"HPUB ", 5)
    buffer_put(out, subject.data, subject.length)
    if reply and w.reply.length:
        buffer_put(out, b" ", 1)
        buffer_put(out, w.reply.data, w.reply.length)
        buffer_put(out, digits, digits_len)
    buffer_put(out, b" ", 1)
    out.used += write_decimal(out.data + out.used, headers_len)
    buffer_put(out, b" ", 1)
    out.used += write_decimal(out.data + out.used, headers_len + body_len)
    buffer_put(out, b"\r\nNATS/1.0\r\n", 12)


cdef inline bint put_message(Wire* w, const OutgoingRecord* record, uint64_t number) noexcept nogil:
    """Frame one record as HPUB; False when there is no memory. What cannot be sent is counted."""
    cdef const uint8_t* headers = <const uint8_t*> record + sizeof(OutgoingRecord)
    cdef Span subject = (
        w.digest_subject if record.kind == OUTGOING_DIGEST else w.rejected_subject)
    cdef uint8_t digits[MOST_DIGITS]
    cdef int digits_len = write_decimal(digits, number)
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
    if not buffer_reserve(&w.out, LINE_BYTES + subject.length + w.reply.length + headers_len
                          + body_len):
        return False
    put_frame_head(w, subject, True, digits, digits_len, headers_len, body_len)
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
    cdef uint8_t digits[MOST_DIGITS]
    cdef uint8_t in_batch_digits[MOST_DIGITS]
    cdef int digits_len = write_decimal(digits, number)
    cdef int in_batch_len = write_decimal(in_batch_digits, in_batch)
    cdef size_t headers_len = 10 + how.fence.length + w.mark.length + record.headers_len + 2
    cdef size_t body_len = record.body_len
    cdef bint reply = in_batch <= 1 or how.commit
    if in_batch:
        headers_len += how.batch.length + in_batch_len + 2 + (COMMIT_BYTES if how.commit else 0)
    if headers_len + body_len > w.largest_digest:
        w.largest_digest = headers_len + body_len
    if headers_len + body_len > w.max_payload:
        w.unpublishable += 1
        return True
    if not buffer_reserve(&w.out, LINE_BYTES + w.digest_subject.length + w.reply.length
                          + headers_len + body_len):
        return False
    put_frame_head(w, w.digest_subject, reply, digits, digits_len, headers_len, body_len)
    buffer_put(&w.out, how.fence.data, how.fence.length)
    if in_batch:
        buffer_put(&w.out, how.batch.data, how.batch.length)
        buffer_put(&w.out, in_batch_digits, in_batch_len)
        buffer_put(&w.out, b"\r\n", 2)
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
