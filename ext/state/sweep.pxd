# Forgetting what is past its retention, a few steps at a time, and moving records out of pages of the
# arena that have become mostly empty.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arena cimport arena_at, arena_find_thin, arena_is_thin, arena_new, arena_release
from state cimport (
    DIRTY, FIRST_TABLE_SIZE, LISTED, USER_ID_AT, WRITTEN, Alarm, Block,
    State, User, alarm_at, alarm_bytes, block_at, is_expired, mark_dirty, put_block_first, remove_alarm,
    remove_block, slot_of_alarm, slot_of_user, unlink_block, user_at,
)
from table cimport table_give_back

cdef inline uint32_t moved(State* s, uint32_t handle, size_t size) noexcept nogil:
    """A copy of a record elsewhere; 0 when there is no memory, and then all stays as it is."""
    cdef uint32_t other = arena_new(&s.arena, size)
    if other != 0:
        memcpy(arena_at(&s.arena, other), arena_at(&s.arena, handle), size)
    return other


cdef inline void move_alarm(State* s, uint32_t user, uint32_t* link) noexcept nogil:
    """The alarm that its block names here."""
    cdef uint32_t handle = link[0]
    cdef Alarm* alarm = alarm_at(s, handle)
    cdef size_t size = alarm_bytes(alarm)
    cdef uint32_t other = moved(s, handle, size)
    if other == 0:
        return
    link[0] = other
    s.alarms.slots[slot_of_alarm(s, user, alarm, handle)].handle = other
    arena_release(&s.arena, handle, size)


cdef inline uint32_t move_block(State* s, uint32_t handle) noexcept nogil:
    """Where it is now."""
    cdef Block* block = block_at(s, handle)
    cdef uint32_t other = moved(s, handle, sizeof(Block)), alarm = block.first_alarm
    if other == 0:
        return handle
    while alarm != 0:
        alarm_at(s, alarm).block = other
        alarm = alarm_at(s, alarm).next_in_block
    if block.previous != 0:
        block_at(s, block.previous).next = other
    else:
        user_at(s, block.user).first_block = other
    if block.next != 0:
        block_at(s, block.next).previous = other
    if block.flags & DIRTY:
        if block.previous_dirty != 0:
            block_at(s, block.previous_dirty).next_dirty = other
        else:
            s.first_dirty = other
        if block.next_dirty != 0:
            block_at(s, block.next_dirty).previous_dirty = other
    if block.flags & LISTED:
        if block.previous_listed != 0:
            block_at(s, block.previous_listed).next_listed = other
        else:
            user_at(s, block.user).first_listed = other
        if block.next_listed != 0:
            block_at(s, block.next_listed).previous_listed = other
    arena_release(&s.arena, handle, sizeof(Block))
    return other


cdef inline void move_user(State* s, uint32_t handle) noexcept nogil:
    cdef User* user = user_at(s, handle)
    cdef size_t size = USER_ID_AT + user.id_len
    cdef uint32_t other = moved(s, handle, size), block = user.first_block
    if other == 0:
        return
    s.users.slots[slot_of_user(s, handle)].handle = other
    while block != 0:
        block_at(s, block).user = other
        block = block_at(s, block).next
    arena_release(&s.arena, handle, size)


ctypedef struct Sweep:
    int64_t now_ns
    int64_t retention_ns
    uint64_t left                # steps: a slot looked at, or an alarm of a block
    uint64_t removed
    uint32_t slot                # that is being looked at
    bint thin                    # whether the arena has pages to be emptied


cdef inline bint lies_thinly(const State* s, uint32_t alarm) noexcept nogil:
    """Whether an alarm, its block or its user does."""
    cdef uint32_t block = alarm_at(s, alarm).block
    return (arena_is_thin(&s.arena, alarm) or arena_is_thin(&s.arena, block)
            or arena_is_thin(&s.arena, block_at(s, block).user))


cdef inline void sweep_alarm(State* s, uint32_t user, uint32_t* link, Sweep* sweep) noexcept nogil:
    """Remove the alarm that its block names here."""
    cdef uint32_t slot = slot_of_alarm(s, user, alarm_at(s, link[0]), link[0]), i = slot
    # What moves back into its slot must not be passed over: from there it is looked at again.
    while s.alarms.slots[i].handle != 0:
        if i == sweep.slot:
            sweep.left += (i - slot) & s.alarms.mask
            sweep.slot = slot
            break
        i = (i + 1) & s.alarms.mask
    remove_alarm(s, user, link, slot)
    sweep.removed += 1


cdef inline void sweep_block(State* s, uint32_t handle, Sweep* sweep) noexcept nogil:
    """Remove what is forgotten of a block, and all that is left empty; move what lies thinly.

    A block as a whole, since its alarms name only the next of each other.
    """
    cdef uint64_t removed = sweep.removed
    cdef uint32_t* link
    cdef Block* block
    if arena_is_thin(&s.arena, block_at(s, handle).user):
        move_user(s, block_at(s, handle).user)
    if arena_is_thin(&s.arena, handle):
        handle = move_block(s, handle)
    block = block_at(s, handle)
    link = &block.first_alarm
    while link[0] != 0:
        if is_expired(alarm_at(s, link[0]), sweep.now_ns, sweep.retention_ns):
            sweep_alarm(s, block.user, link, sweep)
        else:
            if arena_is_thin(&s.arena, link[0]):
                move_alarm(s, block.user, link)
            link = &alarm_at(s, link[0]).next_in_block
        sweep.left -= sweep.left > 0
    if sweep.removed == removed:
        return
    if block.first_alarm == 0:
        s.blocks -= 1
        if not block.flags & WRITTEN:
            remove_block(s, handle)
            return
    mark_dirty(s, handle)
    unlink_block(s, block)               # it has room now: the next new alarm goes there
    put_block_first(s, handle)


cdef inline uint64_t sweep_alarms(
    State* s, int64_t now_ns, int64_t retention_ns, uint64_t most
) noexcept nogil:
    """Take about `most` steps, or those once round, from where the last sweep ended; how many
    alarms went. A step is a slot, or an alarm of a block that has anything to do.
    """
    cdef Sweep sweep
    cdef uint32_t handle
    sweep.now_ns = now_ns
    sweep.retention_ns = retention_ns
    sweep.left = <uint64_t> s.alarms.mask + 1 + s.alarms.used
    if most < sweep.left:
        sweep.left = most
    sweep.removed = 0
    sweep.slot = s.cursor & s.alarms.mask
    sweep.thin = arena_find_thin(&s.arena)
    while sweep.left > 0:
        handle = s.alarms.slots[sweep.slot].handle
        if handle != 0 and (is_expired(alarm_at(s, handle), now_ns, retention_ns)
                            or (sweep.thin and lies_thinly(s, handle))):
            sweep_block(s, alarm_at(s, handle).block, &sweep)
            # Another alarm may stand here now, or the same in its new place.
            if s.alarms.slots[sweep.slot].handle != handle:
                continue
        sweep.slot = (sweep.slot + 1) & s.alarms.mask
        sweep.left -= sweep.left > 0
    s.cursor = sweep.slot
    table_give_back(&s.alarms, FIRST_TABLE_SIZE)
    table_give_back(&s.users, FIRST_TABLE_SIZE)
    return sweep.removed
