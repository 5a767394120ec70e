# The JSON of a digest: {"UserID":…,"ActiveAlarms":[{"AlarmID":…,"Status":…,"LatestChangedAt":…},…]}

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from buffers cimport Buffer, buffer_put, buffer_reserve
from records cimport STATUS_CRITICAL
from timestamps cimport TIMESTAMP_LEN, format_rfc3339

cdef extern from *:
    """
    static const char hex_digits[] = "0123456789abcdef";
    """
    const char* hex_digits


cdef inline bint put_json_string(Buffer* b, const uint8_t* utf8, size_t length) noexcept nogil:
    """A JSON string, quotes included: UTF-8 as it is, escapes only where JSON demands them."""
    cdef size_t i
    cdef uint8_t c, short_escape
    if not buffer_reserve(b, 2 + 6 * length):
        return False
    cdef uint8_t* out = b.data + b.used
    out[0] = 34
    out += 1
    for i in range(length):
        c = utf8[i]
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
    b.used = out + 1 - b.data
    return True


cdef inline bint put_head(Buffer* b, const uint8_t* user_id, size_t length) noexcept nogil:
    """The beginning of a digest, up to its first alarm; False when there is no memory."""
    if not buffer_reserve(b, 10):
        return False
    buffer_put(b, b'{"UserID":', 10)
    if not put_json_string(b, user_id, length) or not buffer_reserve(b, 17):
        return False
    buffer_put(b, b',"ActiveAlarms":[', 17)
    return True


cdef inline bint put_entry(
    Buffer* b, const uint8_t* alarm_id, size_t length, int status, int64_t latest_ns
) noexcept nogil:
    """One alarm of a digest, WARNING or CRITICAL; False when there is no memory."""
    if not buffer_reserve(b, 11):
        return False
    buffer_put(b, b'{"AlarmID":', 11)
    if not put_json_string(b, alarm_id, length) or not buffer_reserve(b, 80):
        return False
    buffer_put(b, b',"Status":"', 11)
    if status == STATUS_CRITICAL:
        buffer_put(b, b"CRITICAL", 8)
    else:
        buffer_put(b, b"WARNING", 7)
    buffer_put(b, b'","LatestChangedAt":"', 21)
    format_rfc3339(latest_ns, b.data + b.used)
    b.used += TIMESTAMP_LEN
    buffer_put(b, b'"}', 2)
    return True
