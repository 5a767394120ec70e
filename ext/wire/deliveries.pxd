# Where a message stands in its stream, as the reply subject of its delivery tells it.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp

from frames cimport Span, read_number

ctypedef struct Delivery:
    uint64_t stream_seq
    uint64_t consumer_seq
    uint64_t timestamp_ns
    uint64_t pending             # messages after it that the consumer has not delivered yet

cdef enum:
    # From the right: pending, timestamp, consumer seq, stream seq; a random token may stand after it.
    SHORT_REPLY_TOKENS = 9
    LONG_REPLY_TOKENS = 11


cdef inline bint read_delivery(Span reply, Delivery* found) noexcept nogil:
    """Read a delivery's reply subject; False when it is none."""
    cdef Span tokens[13]
    cdef const uint8_t* at = reply.data
    cdef const uint8_t* end = reply.data + reply.length
    cdef const uint8_t* dot
    cdef int count = 0, first
    if reply.length < 8 or memcmp(reply.data, b"$JS.ACK.", 8) != 0:
        return False
    while True:
        if count == 13:
            return False
        dot = <const uint8_t*> memchr(at, 46, end - at)
        tokens[count].data = at
        tokens[count].length = (dot if dot != NULL else end) - at
        count += 1
        if dot == NULL:
            break
        at = dot + 1
    if count == SHORT_REPLY_TOKENS:
        first = 5
    elif count >= LONG_REPLY_TOKENS:
        first = 7
    else:
        return False
    return (read_number(tokens[first], &found.stream_seq)
            and read_number(tokens[first + 1], &found.consumer_seq)
            and read_nanoseconds(tokens[first + 2], &found.timestamp_ns)
            and read_number(tokens[first + 3], &found.pending))


cdef inline bint read_nanoseconds(Span field, uint64_t* number) noexcept nogil:
    """Nanoseconds since 1970 have 19 digits, one more than read_number() takes."""
    cdef uint64_t last = 0
    cdef Span rest = field
    if field.length < 19:
        return read_number(field, number)
    rest.length = 18
    if field.length > 19 or not read_number(rest, number):
        return False
    if field.data[18] < 48 or field.data[18] > 57:
        return False
    last = field.data[18] - 48
    if number[0] > <uint64_t> 922_337_203_685_477_579:       # beyond 64 bits with a sign
        return False
    number[0] = number[0] * 10 + last
    return True
