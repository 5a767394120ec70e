# RFC 3339 <-> nanoseconds since 1970-01-01T00:00:00 UTC, in the detail the wire contract gives.
#
# Calendar arithmetic is the usual one on a year that begins in March, so that the leap day is
# its last day (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    TIMESTAMP_LEN = 30          # 2021-06-07T20:40:15.598765212Z
    NS_PER_S = 1_000_000_000
    SECONDS_PER_DAY = 86_400

cdef extern from *:
    """
    /* The first second that is accepted, 1677-09-22T00:00:00Z: the first whole day in 64 bits. */
    #define EARLIEST_S INT64_C(-9223286400)
    /* From 2262-04-11T00:00:00Z on, a time is just "in the future"; 64 bits end within that day. */
    #define FAR_FUTURE_S INT64_C(9223286400)
    #define FAR_FUTURE_NS INT64_MAX

    static const char two_digits[] =
        "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546"
        "4748495051525354555657585960616263646566676869707172737475767778798081828384858687888990919293"
        "949596979899";
    """
    const char* two_digits
    const int64_t EARLIEST_S
    const int64_t FAR_FUTURE_S
    const int64_t FAR_FUTURE_NS


cdef inline int64_t days_from_civil(int64_t year, int64_t month, int64_t day) noexcept nogil:
    """Days since 1970-01-01 of a date with year >= 0."""
    cdef int64_t y = year - 1 if month <= 2 else year
    cdef int64_t era = (y if y >= 0 else y - 399) // 400
    cdef int64_t year_of_era = y - era * 400
    cdef int64_t day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    cdef int64_t day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


cdef inline int64_t days_in_month(int64_t year, int64_t month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


cdef inline bint read_digits(const uint8_t* text, int count, int64_t* number) noexcept nogil:
    cdef int i
    cdef int64_t n = 0
    for i in range(count):
        if text[i] < 48 or text[i] > 57:
            return False
        n = n * 10 + (text[i] - 48)
    number[0] = n
    return True


cdef inline bint parse_rfc3339(const uint8_t* text, Py_ssize_t length, int64_t* ns) noexcept nogil:
    """Read a ``ChangedAt``; False when the contract rejects it. Later than 64 bits: the last ns."""
    cdef int64_t year, month, day, hour, minute, second, offset_hour, offset_minute
    cdef int64_t offset_s = 0, seconds, fraction = 0, scale = 100_000_000
    cdef Py_ssize_t i = 19
    cdef uint8_t sign
    if length < 20:                      # the shortest one: 2021-06-07T20:40:15Z
        return False
    if not (read_digits(text, 4, &year) and text[4] == 45 and read_digits(text + 5, 2, &month)
            and text[7] == 45 and read_digits(text + 8, 2, &day)
            and (text[10] | 0x20) == 116                                   # T or t
            and read_digits(text + 11, 2, &hour) and text[13] == 58
            and read_digits(text + 14, 2, &minute) and text[16] == 58
            and read_digits(text + 17, 2, &second)):
        return False
    if (month < 1 or month > 12 or day < 1 or day > days_in_month(year, month)
            or hour > 23 or minute > 59 or second > 60):
        return False

    if text[i] == 46:                    # a fraction: at least one digit, those beyond ns are cut
        i += 1
        if i == length or text[i] < 48 or text[i] > 57:
            return False
        while i < length and 48 <= text[i] <= 57:
            fraction += (text[i] - 48) * scale
            scale //= 10                 # 0 after the ninth digit
            i += 1
    if i == length:
        return False

    sign = text[i]
    if (sign | 0x20) == 122:             # Z or z
        if i + 1 != length:
            return False
    elif sign == 43 or sign == 45:
        if not (i + 6 == length and read_digits(text + i + 1, 2, &offset_hour)
                and text[i + 3] == 58 and read_digits(text + i + 4, 2, &offset_minute)
                and offset_hour <= 23 and offset_minute <= 59):
            return False
        offset_s = offset_hour * 3600 + offset_minute * 60
        if sign == 45:
            offset_s = -offset_s
    else:
        return False

    if second == 60:                     # all of a leap second is the first instant after it
        fraction = 0
    seconds = (days_from_civil(year, month, day) * SECONDS_PER_DAY
               + hour * 3600 + minute * 60 + second - offset_s)
    if seconds < EARLIEST_S:
        return False
    ns[0] = FAR_FUTURE_NS if seconds >= FAR_FUTURE_S else seconds * NS_PER_S + fraction
    return True


cdef inline void write_pair(uint8_t* out, uint32_t number) noexcept nogil:
    memcpy(out, two_digits + 2 * number, 2)


ctypedef struct Clock:           # the day that was written last, since most times are of one; all zero
    int64_t days                 # since 0000-03-01, which is never 0
    uint8_t date[11]             # 2021-06-07T


cdef inline void set_date(Clock* clock, int64_t days) noexcept nogil:
    cdef int64_t era = days // 146_097
    cdef int64_t day_of_era = days - era * 146_097
    cdef int64_t year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524
                                - day_of_era // 146_096) // 365
    cdef int64_t day_of_year = day_of_era - (
        365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef int64_t shifted = (5 * day_of_year + 2) // 153
    cdef int64_t month = shifted + 3 if shifted < 10 else shifted - 9
    cdef uint32_t year = <uint32_t> (year_of_era + era * 400 + (1 if month <= 2 else 0))
    write_pair(clock.date, year // 100)
    write_pair(clock.date + 2, year % 100)
    clock.date[4] = 45
    write_pair(clock.date + 5, <uint32_t> month)
    clock.date[7] = 45
    write_pair(clock.date + 8, <uint32_t> (day_of_year - (153 * shifted + 2) // 5 + 1))
    clock.date[10] = 84
    clock.days = days


cdef inline void format_rfc3339(int64_t ns, uint8_t* out, Clock* clock) noexcept nogil:
    """Write the 30 characters of ``LatestChangedAt``: UTC with nine digits of fraction."""
    # `//` truncates here (cdivision), so times before 1970 are floored by hand.
    cdef int64_t seconds = ns // NS_PER_S
    cdef int64_t fraction = ns - seconds * NS_PER_S
    cdef int64_t days
    cdef uint32_t rest, after_second
    if fraction < 0:
        fraction += NS_PER_S
        seconds -= 1
    days = seconds // SECONDS_PER_DAY
    if days * SECONDS_PER_DAY > seconds:
        days -= 1
    rest = <uint32_t> (seconds - days * SECONDS_PER_DAY)
    days += 719_468                      # positive for every 64-bit time
    if days != clock.days:
        set_date(clock, days)
    memcpy(out, clock.date, 11)
    write_pair(out + 11, rest // 3600)
    out[13] = 58
    write_pair(out + 14, rest // 60 % 60)
    out[16] = 58
    write_pair(out + 17, rest % 60)
    out[19] = 46
    after_second = <uint32_t> fraction
    out[20] = 48 + <uint8_t> (after_second // 100_000_000)
    write_pair(out + 21, after_second // 1_000_000 % 100)
    write_pair(out + 23, after_second // 10_000 % 100)
    write_pair(out + 25, after_second // 100 % 100)
    write_pair(out + 27, after_second % 100)
    out[29] = 90
