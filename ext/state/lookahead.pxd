# The next few records of a batch, hashed, and the memory that merging them will touch on its way.
#
# An event leads from a slot to a user, from a slot to an alarm, from there to its block, and each of
# these is seldom in a cache. Asked for one after the other they are most of what merging costs; for
# several events at once they come together.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from records cimport KIND_EVENT, KIND_REQUEST, RoutedRecord, record_bytes
from state cimport (
    Alarm, AlarmKey, State, alarm_at, block_at, hash_user, make_alarm_key, user_at,
)
from table cimport probable, slot_at, tag_of

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define alarmdigest_prefetch(address) __builtin_prefetch(address)
    #else
    #define alarmdigest_prefetch(address) ((void) (address))
    #endif
    """
    void prefetch "alarmdigest_prefetch"(const void* address) noexcept nogil

cdef enum:
    # Enough to have all the requests to memory on their way that a core can have, and no more than
    # what its first-level cache keeps until they are merged.
    AHEAD = 16
    FETCHED = 64                 # alarms of a user, at most

ctypedef struct Upcoming:
    const RoutedRecord* record
    uint64_t user_hash
    AlarmKey alarm               # of an event
    uint32_t user                # where they probably are; 0: not there
    uint32_t known               # of a request: the alarm of the user's that is looked at next


cdef inline void fetch_due(const State* s, Upcoming* upcoming, uint32_t count) noexcept nogil:
    """Fetch the alarms that the requests will look at: an alarm of each user at a time, since each
    only names the next of its block."""
    cdef const Alarm* alarm
    cdef Upcoming* one
    cdef uint32_t i, left
    for i in range(count):
        one = &upcoming[i]
        if one.record.kind == KIND_REQUEST and one.user != 0:
            one.known = user_at(s, one.user).first_listed
            if one.known != 0:
                one.known = block_at(s, one.known).first_alarm
    for _ in range(FETCHED):
        left = 0
        for i in range(count):
            one = &upcoming[i]
            if one.record.kind == KIND_REQUEST and one.known != 0:
                alarm = alarm_at(s, one.known)
                prefetch(<const uint8_t*> alarm + 48)
                one.known = alarm.next_in_block
                if one.known != 0:
                    prefetch(alarm_at(s, one.known))
                    left += 1
        if left < 2:                 # one alone is not found any faster
            return


cdef inline uint32_t look_ahead(
    const State* s, const uint8_t* data, size_t length, Upcoming* upcoming
) noexcept nogil:
    """Prepare up to AHEAD records of ``data``; how many."""
    cdef const RoutedRecord* record
    cdef const uint8_t* user_id
    cdef const Alarm* alarm
    cdef Upcoming* one
    cdef size_t offset = 0
    cdef uint32_t count = 0, requests = 0, i
    while offset < length and count < AHEAD:
        record = <const RoutedRecord*> (data + offset)
        user_id = <const uint8_t*> record + sizeof(RoutedRecord)
        one = &upcoming[count]
        one.record = record
        one.user_hash = hash_user(s, user_id, record.user_len)
        prefetch(slot_at(&s.users, tag_of(one.user_hash)))
        if record.kind == KIND_EVENT:
            make_alarm_key(
                s, one.user_hash, user_id + record.user_len, record.alarm_len, &one.alarm)
            prefetch(slot_at(&s.alarms, one.alarm.tag))
        offset += record_bytes(record)
        count += 1
    for i in range(count):
        one = &upcoming[i]
        one.known = 0
        one.user = probable(&s.users, tag_of(one.user_hash))
        if one.user != 0:
            prefetch(user_at(s, one.user))
            prefetch(<const uint8_t*> user_at(s, one.user) + 64)
        if one.record.kind == KIND_REQUEST:
            requests += 1
        elif one.record.kind == KIND_EVENT:
            one.known = probable(&s.alarms, one.alarm.tag)
            if one.known != 0:
                alarm = alarm_at(s, one.known)
                prefetch(alarm)
                prefetch(<const uint8_t*> alarm + 64)
    for i in range(count):
        one = &upcoming[i]
        if one.known != 0:
            prefetch(block_at(s, alarm_at(s, one.known).block))
        elif one.user != 0 and user_at(s, one.user).first_block != 0:
            prefetch(block_at(s, user_at(s, one.user).first_block))
    if requests > 1:
        fetch_due(s, upcoming, count)
    return count
