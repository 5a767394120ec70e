# Who is there: what is known of each user in numbers, and the topmost users by one of them.

from libc.stdint cimport INT64_MIN, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from buffers cimport Buffer, buffer_reserve
from records cimport STATUS_CRITICAL
from state cimport Alarm, State, User, alarm_at, block_at, id_of_user, is_active, is_due, user_at

cdef enum:
    MOST_TOP = 1000
    LINE_BYTES = 26              # of a packed line, before the UserID

ctypedef struct UserCounts:
    uint32_t alarms              # cleared ones included
    uint32_t active
    uint32_t critical            # of the active ones
    uint32_t due
    int64_t waits_since_ns       # when the first of those that are due became so; 0: none is

cdef enum Order:
    BY_WAIT = 0                  # who has waited longest first, and whoever waits for nothing last
    BY_DUE = 1
    BY_ACTIVE = 2
    BY_ALARMS = 3

ctypedef struct Rank:            # greater ones first
    int64_t first
    int64_t second               # among equal ones: who waits longest

ctypedef struct Ranked:
    Rank rank
    uint32_t user

ctypedef struct Listing:
    int order
    uint32_t top
    bint only_due
    bint only_active
    Rank floor                   # only who ranks above it
    uint32_t slot                # where it goes on
    uint64_t found               # users that are to be listed, topmost or not
    uint32_t used                # of the heap
    Ranked heap[MOST_TOP]        # the topmost so far; the least of them is first


cdef inline UserCounts count_user(const State* s, uint32_t user) noexcept nogil:
    cdef uint32_t block = user_at(s, user).first_block, handle
    cdef const Alarm* alarm
    cdef UserCounts counts
    counts.alarms = counts.active = counts.critical = counts.due = 0
    counts.waits_since_ns = 0
    while block != 0:
        handle = block_at(s, block).first_alarm
        while handle != 0:
            alarm = alarm_at(s, handle)
            counts.alarms += 1
            counts.active += is_active(alarm)
            counts.critical += alarm.latest == STATUS_CRITICAL
            if is_due(alarm):
                counts.due += 1
                if counts.waits_since_ns == 0 or alarm.arrived_ns < counts.waits_since_ns:
                    counts.waits_since_ns = alarm.arrived_ns
            handle = alarm.next_in_block
        block = block_at(s, block).next
    return counts


cdef inline Rank rank_of(const UserCounts* counts, int order) noexcept nogil:
    cdef Rank rank
    rank.second = -counts.waits_since_ns if counts.due else INT64_MIN + 1
    if order == BY_DUE:
        rank.first = counts.due
    elif order == BY_ACTIVE:
        rank.first = counts.active
    elif order == BY_ALARMS:
        rank.first = counts.alarms
    else:
        rank.first = rank.second
    return rank


cdef inline bint is_above(Rank one, Rank other) noexcept nogil:
    return one.first > other.first or (one.first == other.first and one.second > other.second)


cdef inline void keep_topmost(Listing* listing, Ranked one) noexcept nogil:
    """Enter it into the heap if it is one of the topmost."""
    cdef Ranked* heap = listing.heap
    cdef uint32_t at, child
    if not is_above(one.rank, listing.floor):
        return
    if listing.used < listing.top:
        at = listing.used
        listing.used += 1
        while at > 0 and is_above(heap[(at - 1) // 2].rank, one.rank):
            heap[at] = heap[(at - 1) // 2]
            at = (at - 1) // 2
        heap[at] = one
        return
    if listing.top == 0 or not is_above(one.rank, heap[0].rank):
        return
    at = 0
    while True:
        child = 2 * at + 1
        if child >= listing.top:
            break
        if child + 1 < listing.top and is_above(heap[child].rank, heap[child + 1].rank):
            child += 1
        if not is_above(one.rank, heap[child].rank):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = one


cdef inline void list_users(const State* s, Listing* listing, uint64_t most) noexcept nogil:
    """Take about `most` steps, a slot or an alarm each; `slot` is 0 afterwards when that was all.

    It ends at an empty slot: what is moved when a user goes is moved within a run of full ones.
    """
    cdef uint32_t handle
    cdef UserCounts counts
    cdef Ranked one
    cdef uint64_t steps = 0
    while True:
        handle = s.users.slots[listing.slot].handle
        steps += 1
        if handle != 0:
            counts = count_user(s, handle)
            steps += counts.alarms
            if (counts.alarms != 0 and (counts.due != 0 or not listing.only_due)
                    and (counts.active != 0 or not listing.only_active)):
                listing.found += 1
                one.rank = rank_of(&counts, listing.order)
                one.user = handle
                keep_topmost(listing, one)
        listing.slot = (listing.slot + 1) & s.users.mask
        if listing.slot == 0 or (handle == 0 and steps >= most):
            return


cdef inline bint write_lines(const State* s, const Listing* listing, Buffer* out) noexcept nogil:
    """The topmost as packed lines: the counts in their order, the length of the id u16, the id;
    False when there is no memory."""
    cdef UserCounts counts
    cdef const User* user
    cdef uint32_t i
    for i in range(listing.used):
        user = user_at(s, listing.heap[i].user)
        counts = count_user(s, listing.heap[i].user)
        if not buffer_reserve(out, LINE_BYTES + user.id_len):
            return False
        memcpy(out.data + out.used, &counts, 24)
        memcpy(out.data + out.used + 24, &user.id_len, 2)
        memcpy(out.data + out.used + LINE_BYTES, id_of_user(user), user.id_len)
        out.used += LINE_BYTES + user.id_len
    return True
