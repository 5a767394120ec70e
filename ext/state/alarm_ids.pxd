# How an AlarmID is kept: as it is, or, where it is a UUID as they are usually written (36 characters,
# lower case), as its 16 bytes. Both forms sort as the texts do.

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef enum:
    UUID_TEXT_BYTES = 36
    UUID_BYTES = 16
    IS_PACKED = 0x8000           # in a form
    TEXT_LENGTH = 0x7FFF         # of a form

ctypedef struct AlarmId:
    const uint8_t* kept          # what is compared and stored: the text itself, or `packed`
    uint16_t form                # the length of the text, and whether it is packed
    uint8_t packed[UUID_BYTES]


cdef inline uint16_t kept_bytes(uint16_t form) noexcept nogil:
    return UUID_BYTES if form & IS_PACKED else form


cdef inline bint pack_digits(const uint8_t* text, uint8_t* packed) noexcept nogil:
    """Pack 8 hexadecimal digits into 4 bytes, all at once; False when they are none."""
    cdef uint64_t ones = 0x0101_0101_0101_0101
    cdef uint64_t word, values, above_9
    memcpy(&word, text, 8)
    values = (word & (ones * 15)) + 9 * (word >> 6 & ones)
    above_9 = (values + ones * 6) >> 4 & ones
    if values & (ones * 0xF0) or values + ones * 48 + above_9 * 39 != word:
        return False
    # The first of two digits is the higher half of a byte.
    values = (values << 4 | values >> 8) & <uint64_t> 0x00FF_00FF_00FF_00FF
    values = (values | values >> 8) & <uint64_t> 0x0000_FFFF_0000_FFFF
    values = values | values >> 16
    memcpy(packed, &values, 4)
    return True


cdef inline void unpack_digits(const uint8_t* packed, uint8_t* text) noexcept nogil:
    """Write 8 hexadecimal digits."""
    cdef uint64_t ones = 0x0101_0101_0101_0101
    cdef uint64_t values = 0
    memcpy(&values, packed, 4)
    values = (values | values << 16) & <uint64_t> 0x0000_FFFF_0000_FFFF
    values = (values | values << 8) & <uint64_t> 0x00FF_00FF_00FF_00FF
    values = (values >> 4 | values << 8) & (ones * 15)
    values += ones * 48 + ((values + ones * 6) >> 4 & ones) * 39
    memcpy(text, &values, 8)


cdef inline bint pack_uuid(const uint8_t* text, uint8_t* packed) noexcept nogil:
    """Pack UUID_TEXT_BYTES characters; False when they are no UUID in lower case."""
    cdef uint8_t middle[16]
    if text[8] != 45 or text[13] != 45 or text[18] != 45 or text[23] != 45:
        return False
    memcpy(middle, text + 9, 4)
    memcpy(middle + 4, text + 14, 4)
    memcpy(middle + 8, text + 19, 4)
    memcpy(middle + 12, text + 24, 4)
    return (pack_digits(text, packed) and pack_digits(middle, packed + 4)
            and pack_digits(middle + 8, packed + 8) and pack_digits(text + 28, packed + 12))


cdef inline void unpack_uuid(const uint8_t* packed, uint8_t* text) noexcept nogil:
    """Write UUID_TEXT_BYTES characters."""
    cdef uint8_t middle[16]
    unpack_digits(packed, text)
    unpack_digits(packed + 4, middle)
    unpack_digits(packed + 8, middle + 8)
    unpack_digits(packed + 12, text + 28)
    text[8] = text[13] = text[18] = text[23] = 45
    memcpy(text + 9, middle, 4)
    memcpy(text + 14, middle + 4, 4)
    memcpy(text + 19, middle + 8, 4)
    memcpy(text + 24, middle + 12, 4)


cdef inline void read_alarm_id(const uint8_t* text, uint16_t length, AlarmId* id) noexcept nogil:
    """Both `text` and `id` must stay where they are as long as it is used."""
    id.kept = text
    id.form = length
    if length == UUID_TEXT_BYTES and pack_uuid(text, id.packed):
        id.kept = id.packed
        id.form = length | IS_PACKED


cdef inline void write_alarm_id(const uint8_t* kept, uint16_t form, uint8_t* text) noexcept nogil:
    """Write the characters of a kept id, as many as its form says."""
    if form & IS_PACKED:
        unpack_uuid(kept, text)
    else:
        memcpy(text, kept, form)


cdef inline int compare_texts(
    const uint8_t* one, size_t length, const uint8_t* other, size_t other_length
) noexcept nogil:
    cdef int order = memcmp(one, other, min(length, other_length))
    return order if order != 0 else <int> length - <int> other_length


cdef inline int compare_alarm_ids(
    const uint8_t* one, uint16_t form, const uint8_t* other, uint16_t other_form
) noexcept nogil:
    """By the bytes of their texts."""
    cdef uint8_t text[UUID_TEXT_BYTES]
    if form & IS_PACKED and other_form & IS_PACKED:
        return memcmp(one, other, UUID_BYTES)
    if form & IS_PACKED:
        unpack_uuid(one, text)
        return compare_texts(text, UUID_TEXT_BYTES, other, other_form)
    if other_form & IS_PACKED:
        unpack_uuid(other, text)
        return compare_texts(one, form, text, UUID_TEXT_BYTES)
    return compare_texts(one, form, other, other_form)
