# Users with due alarms, as packed lines for who decides when each gets a digest.

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from buffers cimport Buffer, buffer_reserve
from state cimport Alarm, State, User, alarm_at, block_at, id_of_user, is_due, user_at

cdef enum:
    DUE_LINE_BYTES = 11          # since i64, worst status u8, length of the UserID u16; the id


cdef inline bint put_due(
    Buffer* lines, const User* user, uint8_t worst, int64_t since_ns
) noexcept nogil:
    """One line; False when there is no memory."""
    cdef uint8_t* at
    if not buffer_reserve(lines, DUE_LINE_BYTES + user.id_len):
        return False
    at = lines.data + lines.used
    memcpy(at, &since_ns, 8)
    at[8] = worst
    memcpy(at + 9, &user.id_len, 2)
    memcpy(at + DUE_LINE_BYTES, id_of_user(user), user.id_len)
    lines.used += DUE_LINE_BYTES + user.id_len
    return True


cdef inline bint list_due_users(
    const State* s, uint32_t* slot, uint64_t most_steps, size_t most_bytes, Buffer* lines
) noexcept nogil:
    """Go on at `slot`, which is 0 afterwards when that was all; False when there is no memory.

    It ends at an empty slot: what is moved when a user goes is moved within a run of full ones.
    """
    cdef uint32_t handle, block, listed
    cdef uint64_t steps = 0
    cdef const Alarm* alarm
    cdef int64_t since_ns
    cdef uint8_t worst
    while True:
        handle = s.users.slots[slot[0]].handle
        steps += 1
        if handle != 0:
            # Every due alarm is in one of these blocks, and others are.
            block = user_at(s, handle).first_listed
            since_ns, worst = INT64_MAX, 0
            while block != 0:
                listed = block_at(s, block).first_alarm
                while listed != 0:
                    alarm = alarm_at(s, listed)
                    steps += 1
                    if is_due(alarm):
                        since_ns = min(since_ns, alarm.arrived_ns)
                        worst = max(worst, alarm.latest)
                    listed = alarm.next_in_block
                block = block_at(s, block).next_listed
            if worst != 0 and not put_due(lines, user_at(s, handle), worst, since_ns):
                return False
        slot[0] = (slot[0] + 1) & s.users.mask
        if slot[0] == 0 or (
                handle == 0 and (steps >= most_steps or lines.used >= most_bytes)):
            return True
