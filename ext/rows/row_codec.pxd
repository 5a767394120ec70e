# Blocks of alarms as a store keeps them, and back.
#
# Packed rows follow each other without padding: `value_len u32 | key (22 bytes) | value`. A
# value_len of 0 says that the row is deleted. Numbers are little-endian, but for the key's, which
# sort as bytes:
#
#     key    bucket u16 | BLAKE2b-128 of UserID (16 bytes) | block number within the user u32
#     value  version u8 | length of UserID u16 | count u16 | UserID | alarms | checksum u64
#     alarm  latest_ns i64 | sent_ns i64 | arrived_ns i64 | length u16 | states u8 | AlarmID
#     states bits 0-1 latest status, 2-3 status sent, 4 changed
#
# The checksum (not the seal, which the store adds: rows.pyx) is SipHash-1-3 with an all-zero key
# over the key and the value before it. It finds damage, not malice; yet no bytes whatever make the
# reader leave its bounds.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from blake2b cimport BLAKE2B_BYTES
from buffers cimport Buffer, buffer_reserve
from records cimport MAX_ID_BYTES, STATUS_NONE
from siphash cimport SipKey, siphash13
from state cimport (
    ALARM_FIXED_BYTES, BLOCK_FIXED_BYTES, CHANGED, MAX_VALUE_BYTES, NO_HIGHER_NUMBER, SENT_STATUS,
    WRITTEN, Alarm, AlarmKey, Block, State, User, add_alarm, add_block, add_user, alarm_at,
    block_at, count_alarm, find_alarm, find_user, hash_user, id_of_user, is_due, list_block,
    make_alarm_key, mark_clean, remove_block, text_length, user_at, write_id_of_alarm,
)

cdef enum:
    ROW_VERSION = 1
    KEY_BYTES = 22
    ROW_HEAD_BYTES = 26          # value_len and key
    VALUE_HEAD_BYTES = 5
    CHECKSUM_BYTES = 8
    ROW_CHANGED = 16
    ROW_STATES = 31

cdef enum RowFault:
    ROW_FINE = 0
    ROW_NO_MEMORY
    ROW_CUT                      # the packed rows end within it
    ROW_DELETED                  # has no value
    ROW_SIZE                     # longer or shorter than any that was ever written
    ROW_OF_OTHER_VERSION
    ROW_DAMAGED                  # its checksum does not fit
    ROW_LENGTHS                  # its lengths do not add up
    ROW_STATES_UNKNOWN
    ROW_OF_OTHER_USER            # its key does not belong to its UserID
    ROW_TWICE                    # an alarm of it is there already


cdef inline uint64_t checksum(const uint8_t* data, size_t length) noexcept nogil:
    cdef SipKey key
    key.k0 = key.k1 = 0
    return siphash13(&key, data, length)


cdef inline uint8_t* write_key(uint8_t* out, const User* user, uint32_t number) noexcept nogil:
    out[0] = <uint8_t> (user.bucket >> 8)
    out[1] = <uint8_t> user.bucket
    memcpy(out + 2, user.hashed, BLAKE2B_BYTES)
    out[18] = <uint8_t> (number >> 24)
    out[19] = <uint8_t> (number >> 16)
    out[20] = <uint8_t> (number >> 8)
    out[21] = <uint8_t> number
    return out + KEY_BYTES


cdef inline bint write_block(const State* s, uint32_t handle, Buffer* rows) noexcept nogil:
    """Write a block's row, or, of an emptied one, that it is deleted; False: no memory."""
    cdef const Block* block = block_at(s, handle)
    cdef const User* user = user_at(s, block.user)
    cdef const Alarm* alarm
    cdef uint32_t alarm_handle = block.first_alarm
    cdef uint32_t value_len = block.bytes if alarm_handle != 0 else 0
    cdef uint16_t count = 0, length
    cdef uint64_t found
    cdef uint8_t* key
    cdef uint8_t* value
    cdef uint8_t* out
    if not buffer_reserve(rows, ROW_HEAD_BYTES + value_len):
        return False
    memcpy(rows.data + rows.used, &value_len, 4)
    key = rows.data + rows.used + 4
    value = out = write_key(key, user, block.number)
    rows.used += ROW_HEAD_BYTES + value_len
    if alarm_handle == 0:
        return True
    out[0] = ROW_VERSION
    memcpy(out + 1, &user.id_len, 2)
    out += VALUE_HEAD_BYTES
    memcpy(out, id_of_user(user), user.id_len)
    out += user.id_len
    while alarm_handle != 0:
        alarm = alarm_at(s, alarm_handle)
        memcpy(out, &alarm.latest_ns, 8)
        memcpy(out + 8, &alarm.sent_ns, 8)
        memcpy(out + 16, &alarm.arrived_ns, 8)
        length = text_length(alarm)
        memcpy(out + 24, &length, 2)
        out[26] = (alarm.latest | (alarm.flags & SENT_STATUS) << 2
                   | (ROW_CHANGED if alarm.flags & CHANGED else 0))
        write_id_of_alarm(alarm, out + ALARM_FIXED_BYTES)
        out += ALARM_FIXED_BYTES + length
        count += 1
        alarm_handle = alarm.next_in_block
    memcpy(value + 3, &count, 2)
    found = checksum(key, out - key)
    memcpy(out, &found, CHECKSUM_BYTES)
    return True


cdef inline bint take_block(State* s, uint32_t handle, Buffer* rows) noexcept nogil:
    """Write a dirty block's row, or that it is deleted, and call it clean; False: no memory."""
    cdef Block* block = block_at(s, handle)
    if not write_block(s, handle, rows):
        return False
    if block.first_alarm == 0:
        remove_block(s, handle)
    else:
        block.flags |= WRITTEN
        mark_clean(s, block)
    return True


cdef inline RowFault check_value(const uint8_t* key, uint32_t value_len) noexcept nogil:
    """Whether a value, which stands after its key, can be read at all."""
    cdef const uint8_t* value = key + KEY_BYTES
    cdef const uint8_t* end
    cdef uint64_t expected
    cdef uint16_t length, count
    if value_len == 0:
        return ROW_DELETED
    if value_len <= BLOCK_FIXED_BYTES + ALARM_FIXED_BYTES or value_len > MAX_VALUE_BYTES:
        return ROW_SIZE
    if value[0] != ROW_VERSION:
        return ROW_OF_OTHER_VERSION
    end = value + value_len - CHECKSUM_BYTES
    memcpy(&expected, end, CHECKSUM_BYTES)
    if checksum(key, end - key) != expected:
        return ROW_DAMAGED
    # The checksum is right, and yet nothing is believed that would lead out of bounds.
    memcpy(&length, value + 1, 2)
    memcpy(&count, value + 3, 2)
    value += VALUE_HEAD_BYTES
    if length == 0 or length > MAX_ID_BYTES or length > end - value or count == 0:
        return ROW_LENGTHS
    value += length
    for _ in range(count):
        if end - value < ALARM_FIXED_BYTES:
            return ROW_LENGTHS
        memcpy(&length, value + 24, 2)
        if length == 0 or length > MAX_ID_BYTES or length > end - value - ALARM_FIXED_BYTES:
            return ROW_LENGTHS
        if (value[26] > ROW_STATES or value[26] & 3 == STATUS_NONE
                or (value[26] >> 2 & 3 == STATUS_NONE and value[26] & ROW_CHANGED)):
            return ROW_STATES_UNKNOWN
        value += ALARM_FIXED_BYTES + length
    return ROW_FINE if value == end else ROW_LENGTHS


cdef inline RowFault load_row(State* s, const uint8_t* key, uint32_t value_len) noexcept nogil:
    """Enter a block as it was when it was taken. Nothing is entered of a value with a fault,
    but what stands before it when ROW_TWICE or ROW_NO_MEMORY is found.
    """
    cdef const uint8_t* value = key + KEY_BYTES
    cdef uint16_t bucket = <uint16_t> (key[0] << 8 | key[1])
    cdef uint32_t number = (<uint32_t> key[18] << 24 | <uint32_t> key[19] << 16
                            | <uint32_t> key[20] << 8 | key[21])
    cdef uint16_t length, count
    cdef uint32_t user_handle, block_handle, alarm_handle
    cdef uint64_t user_hash
    cdef AlarmKey alarm_key
    cdef User* user
    cdef Alarm* alarm
    cdef RowFault fault = check_value(key, value_len)
    if fault != ROW_FINE:
        return fault
    memcpy(&length, value + 1, 2)
    memcpy(&count, value + 3, 2)
    value += VALUE_HEAD_BYTES
    user_hash = hash_user(s, value, length)
    user_handle = find_user(s, value, length, user_hash)
    if user_handle == 0:
        user_handle = add_user(s, value, length, user_hash, bucket)
        if user_handle == 0:
            return ROW_NO_MEMORY
    user = user_at(s, user_handle)
    if user.bucket != bucket or memcmp(user.hashed, key + 2, BLAKE2B_BYTES) != 0:
        return ROW_OF_OTHER_USER
    block_handle = add_block(s, user_handle, number)
    if block_handle == 0:
        return ROW_NO_MEMORY
    block_at(s, block_handle).flags = WRITTEN
    if number >= user.next_block:
        user.next_block = number if number == NO_HIGHER_NUMBER else number + 1
    value += length
    for _ in range(count):
        memcpy(&length, value + 24, 2)
        make_alarm_key(s, user_hash, value + ALARM_FIXED_BYTES, length, &alarm_key)
        if find_alarm(s, user_handle, &alarm_key) != 0:
            return ROW_TWICE
        alarm_handle = add_alarm(s, user_handle, &alarm_key, block_handle)
        if alarm_handle == 0:
            return ROW_NO_MEMORY
        alarm = alarm_at(s, alarm_handle)
        memcpy(&alarm.latest_ns, value, 8)
        memcpy(&alarm.sent_ns, value + 8, 8)
        memcpy(&alarm.arrived_ns, value + 16, 8)
        alarm.latest = value[26] & 3
        alarm.flags = (value[26] >> 2 & 3) | (CHANGED if value[26] & ROW_CHANGED else 0)
        count_alarm(s, alarm)
        if is_due(alarm):
            list_block(s, block_handle)
        value += ALARM_FIXED_BYTES + length
    return ROW_FINE


cdef inline RowFault load_packed(
    State* s, const uint8_t* data, size_t length, size_t* position
) noexcept nogil:
    """Enter rows until the end or the first fault; `position` is then that of the faulty row."""
    cdef uint32_t value_len
    cdef RowFault fault
    while position[0] < length:
        if length - position[0] < ROW_HEAD_BYTES:
            return ROW_CUT
        memcpy(&value_len, data + position[0], 4)
        if value_len > length - position[0] - ROW_HEAD_BYTES:
            return ROW_CUT
        fault = load_row(s, data + position[0] + 4, value_len)
        if fault != ROW_FINE:
            return fault
        position[0] += ROW_HEAD_BYTES + value_len
    return ROW_FINE
