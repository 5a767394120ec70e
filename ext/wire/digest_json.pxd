# The JSON of a digest: {"UserID":…,"ActiveAlarms":[{"AlarmID":…,"Status":…,"LatestChangedAt":…},…]}

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from buffers cimport Buffer, buffer_put, buffer_reserve
from records cimport STATUS_CRITICAL
from timestamps cimport TIMESTAMP_LEN, Clock, format_rfc3339

cdef extern from *:
    """
    static const char hex_digits[] = "0123456789abcdef";
    """
    const char* hex_digits


cdef inline bint all_plain(uint64_t word) noexcept nogil:
    """Whether none of eight bytes must be escaped in a JSON string: a control character, " or \\.

    By the usual tests of all bytes of a word at once (Sean Eron Anderson, "Bit Twiddling Hacks").
    """
    cdef uint64_t ones = 0x0101_0101_0101_0101
    cdef uint64_t quotes = word ^ (ones * 34), backslashes = word ^ (ones * 92)
    return not (((word - ones * 32) & ~word | (quotes - ones) & ~quotes
                 | (backslashes - ones) & ~backslashes) & (ones * 128))


cdef inline uint8_t* json_string(uint8_t* out, const uint8_t* utf8, size_t length) noexcept nogil:
    """Write a JSON string, quotes included: UTF-8 as it is, escapes only where JSON demands them; the
    place after it. It takes up to 2 + 6 * length bytes."""
    cdef size_t i = 0
    cdef uint64_t word
    cdef uint8_t c, short_escape
    out[0] = 34
    out += 1
    while i < length:
        if length - i >= 8:
            memcpy(&word, utf8 + i, 8)
            if all_plain(word):
                memcpy(out, &word, 8)
                out += 8
                i += 8
                continue
        c = utf8[i]
        i += 1
        if c >= 32 and c != 34 and c != 92:
            out[0] = c
            out += 1
            continue
        short_escape = (c if c == 34 or c == 92 else 98 if c == 8 else 116 if c == 9
                        else 110 if c == 10 else 102 if c == 12 else 114 if c == 13 else 0)
        out[0] = 92
        if short_escape:
            out[1] = short_escape
            out += 2
        else:
            memcpy(out + 1, b"u00", 3)
            out[4] = hex_digits[c >> 4]
            out[5] = hex_digits[c & 15]
            out += 6
    out[0] = 34
    return out + 1


cdef inline bint put_head(Buffer* b, const uint8_t* user_id, size_t length) noexcept nogil:
    """The beginning of a digest, up to its first alarm; False when there is no memory."""
    if not buffer_reserve(b, 10 + 2 + 6 * length + 17):
        return False
    buffer_put(b, b'{"UserID":', 10)
    b.used = json_string(b.data + b.used, user_id, length) - b.data
    buffer_put(b, b',"ActiveAlarms":[', 17)
    return True


cdef inline bint put_entry(
    Buffer* b, const uint8_t* alarm_id, size_t length, int status, int64_t latest_ns, Clock* clock
) noexcept nogil:
    """One alarm of a digest, WARNING or CRITICAL; False when there is no memory."""
    cdef uint8_t* out
    if not buffer_reserve(b, 11 + 2 + 6 * length + 80):
        return False
    out = b.data + b.used
    memcpy(out, b'{"AlarmID":', 11)
    out = json_string(out + 11, alarm_id, length)
    if status == STATUS_CRITICAL:
        memcpy(out, b',"Status":"CRITICAL","LatestChangedAt":"', 40)
        out += 40
    else:
        memcpy(out, b',"Status":"WARNING","LatestChangedAt":"', 39)
        out += 39
    format_rfc3339(latest_ns, out, clock)
    out += TIMESTAMP_LEN
    memcpy(out, b'"}', 2)
    b.used = out + 2 - b.data
    return True
