# What the headers of a message in an output stream tell of it.

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcmp

from frames cimport Span, read_number

cdef enum:
    ID_TEXT_BYTES = 32           # 128 bits in hexadecimal

ctypedef struct MessageId:
    uint64_t high
    uint64_t low

ctypedef struct Position:        # of a message in the input stream
    uint64_t sequence
    int64_t timestamp_ns


cdef inline Span find_header(Span headers, const char* name, size_t length) noexcept nogil:
    """The value of the first header of this name (written exactly, with its colon); empty if there
    is none. Blanks around it are left out."""
    cdef const uint8_t* at = headers.data
    cdef const uint8_t* end = headers.data + headers.length
    cdef const uint8_t* line_end
    cdef Span value
    value.data = NULL
    value.length = 0
    while at < end:
        line_end = <const uint8_t*> memchr(at, 13, end - at)
        if line_end == NULL:
            return value
        if <size_t> (line_end - at) >= length and memcmp(at, name, length) == 0:
            at += length
            while at < line_end and at[0] == 32:
                at += 1
            while line_end > at and (line_end - 1)[0] == 32:
                line_end -= 1
            value.data = at
            value.length = line_end - at
            return value
        at = line_end + 2
    return value


cdef inline int hex_value(uint8_t c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    return -1


cdef inline bint read_message_id(Span text, MessageId* found) noexcept nogil:
    """Read 32 lower-case hex digits; False for what is no id of ours."""
    cdef int i, digit
    cdef uint64_t halves[2]
    if text.length != ID_TEXT_BYTES:
        return False
    halves[0] = halves[1] = 0
    for i in range(ID_TEXT_BYTES):
        digit = hex_value(text.data[i])
        if digit < 0:
            return False
        halves[i >> 4] = halves[i >> 4] << 4 | <uint64_t> digit
    found.high = halves[0]
    found.low = halves[1]
    return True


cdef inline bint read_time_ns(Span text, int64_t* ns) noexcept nogil:
    """Decimal nanoseconds since 1970, with a sign if they are before; 64 bits hold them."""
    cdef size_t i, first = 0
    cdef uint64_t number = 0
    cdef bint negative = text.length > 0 and text.data[0] == 45
    if negative:
        first = 1
    if text.length == first or text.length - first > 19:
        return False
    for i in range(first, text.length):
        if text.data[i] < 48 or text.data[i] > 57:
            return False
        number = number * 10 + (text.data[i] - 48)
    if number > <uint64_t> 9_223_372_036_854_775_807:
        return False
    ns[0] = -<int64_t> number if negative else <int64_t> number
    return True


cdef inline bint read_position(Span text, Position* found) noexcept nogil:
    """Read ``<sequence> <timestamp>``."""
    cdef Span first = text, rest
    cdef const uint8_t* blank
    if text.length == 0:
        return False
    blank = <const uint8_t*> memchr(text.data, 32, text.length)
    if blank == NULL:
        return False
    first.length = blank - text.data
    rest.data = blank + 1
    rest.length = text.length - first.length - 1
    return read_number(first, &found.sequence) and read_time_ns(rest, &found.timestamp_ns)


cdef inline bint covers(Position mark, Position request) noexcept nogil:
    """Whether a request stands at or before a mark. Both numbers must say so: a stream that lost
    its tail uses sequences again, for later messages."""
    return request.sequence <= mark.sequence and request.timestamp_ns <= mark.timestamp_ns
