# NATS protocol frames out of a buffer, without copying.
#
# Source: https://docs.nats.io/reference/reference-protocols/nats-protocol. What a client may
# receive: MSG, HMSG, PING, PONG, +OK, -ERR, INFO. Names in any case, fields separated by one or
# more blanks or tabs, lines ended by CR LF.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr

cdef enum:
    FRAME_BAD = -1
    FRAME_PARTIAL = 0            # more bytes are needed
    FRAME_MSG = 1
    FRAME_HMSG = 2
    FRAME_PING = 3
    FRAME_PONG = 4
    FRAME_OK = 5
    FRAME_ERR = 6
    FRAME_INFO = 7

cdef enum:
    # Lines of over 4,096 bytes are seen in practice (long subject plus a JetStream reply), and
    # INFO lists every server of a cluster.
    MAX_LINE = 65_536
    # The largest max_payload that nats-server can be set to is 64 MiB; anything far above it is
    # a stream that has lost its place.
    MAX_PAYLOAD = 128 * 1024 * 1024
    MAX_FIELDS = 5

ctypedef struct Span:
    const uint8_t* data
    size_t length

ctypedef struct Frame:
    uint64_t sid
    Span subject
    Span reply
    Span headers
    Span payload                 # of INFO and -ERR: the text after the name
    size_t size                  # of the whole frame; of a partial one as far as it is known


cdef inline bint is_name(const uint8_t* line, size_t length, const char* upper, size_t name_len) noexcept nogil:
    """Whether a line begins with an operation's name, which ends there or at a blank."""
    cdef size_t i
    if length < name_len:
        return False
    for i in range(name_len):
        if line[i] != <uint8_t> upper[i] and line[i] != <uint8_t> (upper[i] | 0x20):
            return False
    return length == name_len or line[name_len] == 32 or line[name_len] == 9


cdef inline bint read_number(Span field, uint64_t* number) noexcept nogil:
    cdef size_t i
    cdef uint64_t n = 0
    if field.length == 0 or field.length > 18:
        return False
    for i in range(field.length):
        if field.data[i] < 48 or field.data[i] > 57:
            return False
        n = n * 10 + (field.data[i] - 48)
    number[0] = n
    return True


cdef inline int split_fields(const uint8_t* text, size_t length, Span* fields) noexcept nogil:
    """Cut a line at blanks and tabs; the number of fields, MAX_FIELDS + 1 if there are more."""
    cdef size_t i = 0
    cdef size_t start
    cdef int count = 0
    cdef const uint8_t* blank
    # As every server writes it, with one blank between: most of a line is a field, and it is found
    # where that ends by more than a byte at a time.
    if length and text[0] == 32 and memchr(text, 9, length) == NULL:
        i = 1
        while i < length and text[i] != 32 and count < MAX_FIELDS:
            blank = <const uint8_t*> memchr(text + i, 32, length - i)
            fields[count].data = text + i
            fields[count].length = (blank if blank != NULL else text + length) - (text + i)
            count += 1
            if blank == NULL:
                return count
            i = blank + 1 - text
        i = count = 0
    while True:
        while i < length and (text[i] == 32 or text[i] == 9):
            i += 1
        if i == length:
            return count
        if count == MAX_FIELDS:
            return MAX_FIELDS + 1
        start = i
        while i < length and text[i] != 32 and text[i] != 9:
            i += 1
        fields[count].data = text + start
        fields[count].length = i - start
        count += 1


cdef inline Span trimmed(const uint8_t* text, size_t length) noexcept nogil:
    cdef Span span
    while length > 0 and (text[0] == 32 or text[0] == 9):
        text += 1
        length -= 1
    while length > 0 and (text[length - 1] == 32 or text[length - 1] == 9):
        length -= 1
    span.data = text
    span.length = length
    return span


cdef inline int scan_message(
    const uint8_t* data, size_t available, size_t line_len, bint with_headers, Frame* f
) noexcept nogil:
    """``MSG subject sid [reply] size`` and ``HMSG subject sid [reply] header-size size``."""
    cdef Span fields[MAX_FIELDS]
    cdef int name_len = 4 if with_headers else 3
    cdef int numbers = 2 if with_headers else 1
    cdef int count = split_fields(data + name_len, line_len - name_len, fields)
    cdef uint64_t headers_len = 0, total
    cdef size_t body
    if count != 2 + numbers and count != 3 + numbers:
        return FRAME_BAD
    if not read_number(fields[1], &f.sid) or not read_number(fields[count - 1], &total):
        return FRAME_BAD
    if with_headers and not read_number(fields[count - 2], &headers_len):
        return FRAME_BAD
    if total > MAX_PAYLOAD or headers_len > total:
        return FRAME_BAD
    body = line_len + 2
    f.size = body + total + 2
    if available < f.size:
        return FRAME_PARTIAL
    if data[body + total] != 13 or data[body + total + 1] != 10:
        return FRAME_BAD
    f.subject = fields[0]
    f.reply.data = fields[2].data
    f.reply.length = fields[2].length if count == 3 + numbers else 0
    f.headers.data = data + body
    f.headers.length = headers_len
    f.payload.data = data + body + headers_len
    f.payload.length = total - headers_len
    return FRAME_HMSG if with_headers else FRAME_MSG


cdef inline int scan_frame(const uint8_t* data, size_t available, Frame* f) noexcept nogil:
    """Read the frame at `data`: its kind, FRAME_PARTIAL or FRAME_BAD. Spans point into `data`."""
    cdef size_t searched = available if available < MAX_LINE else MAX_LINE
    cdef const uint8_t* end = <const uint8_t*> memchr(data, 10, searched)
    cdef size_t line_len
    f.size = 0
    if end == NULL:
        return FRAME_PARTIAL if available < MAX_LINE else FRAME_BAD
    line_len = end - data
    if line_len == 0 or data[line_len - 1] != 13:
        return FRAME_BAD
    line_len -= 1
    # One within the line would be part of a subject, which goes into a header when we refuse.
    if memchr(data, 13, line_len) != NULL:
        return FRAME_BAD
    if is_name(data, line_len, b"MSG", 3):
        return scan_message(data, available, line_len, False, f)
    if is_name(data, line_len, b"HMSG", 4):
        return scan_message(data, available, line_len, True, f)
    f.size = line_len + 2
    if is_name(data, line_len, b"PING", 4):
        return FRAME_PING
    if is_name(data, line_len, b"PONG", 4):
        return FRAME_PONG
    if is_name(data, line_len, b"+OK", 3):
        return FRAME_OK
    if is_name(data, line_len, b"-ERR", 4):
        f.payload = trimmed(data + 4, line_len - 4)
        return FRAME_ERR
    if is_name(data, line_len, b"INFO", 4):
        f.payload = trimmed(data + 4, line_len - 4)
        return FRAME_INFO
    return FRAME_BAD


cdef inline int check_bounds(Py_ssize_t start, Py_ssize_t end, Py_ssize_t length) except -1:
    if start < 0 or end > length or start > end:
        raise IndexError("start and end must lie within the buffer")
    return 0


cdef inline str not_a_frame(buffer, Py_ssize_t start, Py_ssize_t end):
    """What a ProtocolError says of the bytes at ``start``."""
    return f"not a NATS frame: {bytes(buffer[start:min(end, start + 80)])!r}"
