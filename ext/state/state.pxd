# What a book remembers: users, their alarms, and the blocks in which alarms are stored.
#
# Records lie in an arena and name each other by handles; hash tables find users and alarms. Every
# alarm belongs to one *block* of its user, the unit in which a store keeps it: a block whose
# alarms have changed since it was last taken stands in the list of dirty ones, once. What is late
# and changed is decided in alarmbook.pyx, what is due and forgotten below; the stored form of a
# block is row_codec.pxd's.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from alarm_ids cimport (
    IS_PACKED, TEXT_LENGTH, AlarmId, kept_bytes, read_alarm_id, write_alarm_id,
)
from arena cimport Arena, arena_at, arena_new, arena_release
from blake2b cimport BLAKE2B_BYTES, Blake2b, blake2b_add, blake2b_begin, blake2b_end
from records cimport STATUS_CLEARED, STATUS_NONE
from siphash cimport SipKey, siphash13
from table cimport Slot, Table, table_make_room, table_put, table_remove, tag_of

cdef enum:
    FIRST_TABLE_SIZE = 64
    # A record's id follows its fields at once.
    USER_ID_AT = 32
    ALARM_ID_AT = 36
    MAX_VALUE_BYTES = 4000       # of a block as it is stored: a page of the store, less its head
    BLOCK_FIXED_BYTES = 13       # version, two lengths, checksum
    ALARM_FIXED_BYTES = 27       # three times, length, status
    NO_HIGHER_NUMBER = 0xFFFF_FFFF

ctypedef struct User:
    uint32_t first_listed        # its blocks with alarms that were due since the last digest
    uint32_t first_block         # the one that takes new alarms while it has room
    uint32_t next_block          # the number of the next new block
    uint16_t id_len
    uint16_t bucket
    uint8_t hashed[BLAKE2B_BYTES]    # of the id: its place in a store

cdef packed struct Alarm:        # at a multiple of 4 bytes
    int64_t latest_ns
    int64_t sent_ns
    int64_t arrived_ns           # of a cleared one: when its latest event came, from where its
                                 # retention counts; of an active one: when it last became due, or
                                 # a later event came while it was not
    uint32_t block               # which tells the user
    uint32_t next_in_block
    uint16_t id_form             # alarm_ids.pxd
    uint8_t latest
    uint8_t flags                # bits 0-1: status sent; then CHANGED

cdef enum:
    SENT_STATUS = 3
    CHANGED = 4

ctypedef struct Block:
    uint32_t user
    uint32_t first_alarm         # 0: emptied, its row is to be deleted
    uint32_t next                # of the user
    uint32_t previous
    uint32_t next_dirty
    uint32_t previous_dirty
    uint32_t next_listed
    uint32_t previous_listed
    uint32_t number
    uint16_t bytes               # what its value takes
    uint8_t flags

cdef enum:
    DIRTY = 1
    WRITTEN = 2                  # a store may hold a row of it
    LISTED = 4                   # an alarm of it was due at some moment since the last digest

ctypedef struct State:
    SipKey key
    Arena arena
    Table users
    Table alarms
    uint32_t first_dirty
    uint32_t blocks              # that hold an alarm
    uint64_t active              # alarms whose latest status is not CLEARED
    uint64_t due                 # those of them that the next digest of their user holds
    uint32_t cursor              # the slot of the alarm table at which the next sweep begins


cdef inline User* user_at(const State* s, uint32_t handle) noexcept nogil:
    return <User*> arena_at(&s.arena, handle)


cdef inline Alarm* alarm_at(const State* s, uint32_t handle) noexcept nogil:
    return <Alarm*> arena_at(&s.arena, handle)


cdef inline Block* block_at(const State* s, uint32_t handle) noexcept nogil:
    return <Block*> arena_at(&s.arena, handle)


cdef inline const uint8_t* id_of_user(const User* user) noexcept nogil:
    return <const uint8_t*> user + USER_ID_AT


cdef inline const uint8_t* id_of_alarm(const Alarm* alarm) noexcept nogil:
    return <const uint8_t*> alarm + ALARM_ID_AT


cdef inline bint is_active(const Alarm* alarm) noexcept nogil:
    return alarm.latest != STATUS_CLEARED


cdef inline bint is_due(const Alarm* alarm) noexcept nogil:
    return is_active(alarm) and (
        alarm.flags & SENT_STATUS == STATUS_NONE or alarm.flags & CHANGED)


cdef inline bint is_expired(const Alarm* alarm, int64_t now_ns, int64_t retention_ns) noexcept nogil:
    """Cleared, and past its retention. Unsigned, since the difference may need all 64 bits."""
    return (alarm.latest == STATUS_CLEARED and now_ns > alarm.arrived_ns
            and <uint64_t> now_ns - <uint64_t> alarm.arrived_ns > <uint64_t> retention_ns)


# -- users ---------------------------------------------------------------------------------------

cdef inline uint64_t hash_user(const State* s, const uint8_t* user_id, size_t length) noexcept nogil:
    return siphash13(&s.key, user_id, length)


cdef inline uint32_t find_user(
    const State* s, const uint8_t* user_id, uint16_t length, uint64_t hashed
) noexcept nogil:
    cdef uint32_t tag = tag_of(hashed)
    cdef uint32_t i = tag & s.users.mask
    cdef const Slot* slot = &s.users.slots[i]
    cdef const User* user
    while slot.handle != 0:
        if slot.tag == tag:
            user = user_at(s, slot.handle)
            if user.id_len == length and memcmp(id_of_user(user), user_id, length) == 0:
                return slot.handle
        i = (i + 1) & s.users.mask
        slot = &s.users.slots[i]
    return 0


cdef inline uint32_t add_user(
    State* s, const uint8_t* user_id, uint16_t length, uint64_t hashed, uint16_t bucket
) noexcept nogil:
    """Enter a user who is not there yet; 0 when there is no memory."""
    cdef Blake2b hashing
    cdef uint32_t handle
    cdef User* user
    if not table_make_room(&s.users):
        return 0
    handle = arena_new(&s.arena, USER_ID_AT + length)
    if handle == 0:
        return 0
    user = user_at(s, handle)
    memset(user, 0, USER_ID_AT)
    user.id_len = length
    user.bucket = bucket
    blake2b_begin(&hashing)
    blake2b_add(&hashing, user_id, length)
    blake2b_end(&hashing, user.hashed)
    memcpy(<uint8_t*> user + USER_ID_AT, user_id, length)
    table_put(&s.users, tag_of(hashed), handle)
    return handle


cdef inline uint32_t slot_of_user(const State* s, uint32_t handle) noexcept nogil:
    cdef const User* user = user_at(s, handle)
    cdef uint32_t i = tag_of(hash_user(s, id_of_user(user), user.id_len)) & s.users.mask
    while s.users.slots[i].handle != handle:
        i = (i + 1) & s.users.mask
    return i


cdef inline void remove_user(State* s, uint32_t handle) noexcept nogil:
    """Forget a user without blocks, and so without alarms."""
    cdef const User* user = user_at(s, handle)
    table_remove(&s.users, slot_of_user(s, handle))
    arena_release(&s.arena, handle, USER_ID_AT + user.id_len)


# -- blocks --------------------------------------------------------------------------------------

cdef inline void mark_dirty(State* s, uint32_t handle) noexcept nogil:
    cdef Block* block = block_at(s, handle)
    if block.flags & DIRTY:
        return
    block.flags |= DIRTY
    block.previous_dirty = 0
    block.next_dirty = s.first_dirty
    if s.first_dirty != 0:
        block_at(s, s.first_dirty).previous_dirty = handle
    s.first_dirty = handle


cdef inline void mark_clean(State* s, Block* block) noexcept nogil:
    if not block.flags & DIRTY:
        return
    block.flags &= ~DIRTY
    if block.previous_dirty != 0:
        block_at(s, block.previous_dirty).next_dirty = block.next_dirty
    else:
        s.first_dirty = block.next_dirty
    if block.next_dirty != 0:
        block_at(s, block.next_dirty).previous_dirty = block.previous_dirty


cdef inline void list_block(State* s, uint32_t handle) noexcept nogil:
    """Let the next digest look at it. Its alarms may all be due no longer by then."""
    cdef Block* block = block_at(s, handle)
    cdef User* user
    if block.flags & LISTED:
        return
    user = user_at(s, block.user)
    block.flags |= LISTED
    block.previous_listed = 0
    block.next_listed = user.first_listed
    if user.first_listed != 0:
        block_at(s, user.first_listed).previous_listed = handle
    user.first_listed = handle


cdef inline void unlist_block(State* s, Block* block) noexcept nogil:
    if not block.flags & LISTED:
        return
    block.flags &= ~LISTED
    if block.previous_listed != 0:
        block_at(s, block.previous_listed).next_listed = block.next_listed
    else:
        user_at(s, block.user).first_listed = block.next_listed
    if block.next_listed != 0:
        block_at(s, block.next_listed).previous_listed = block.previous_listed


cdef inline void put_block_first(State* s, uint32_t handle) noexcept nogil:
    cdef Block* block = block_at(s, handle)
    cdef User* user = user_at(s, block.user)
    block.previous = 0
    block.next = user.first_block
    if block.next != 0:
        block_at(s, block.next).previous = handle
    user.first_block = handle


cdef inline void unlink_block(State* s, Block* block) noexcept nogil:
    if block.previous != 0:
        block_at(s, block.previous).next = block.next
    else:
        user_at(s, block.user).first_block = block.next
    if block.next != 0:
        block_at(s, block.next).previous = block.previous


cdef inline uint32_t add_block(State* s, uint32_t user_handle, uint32_t number) noexcept nogil:
    """A new and empty block, the user's first; 0 when there is no memory."""
    cdef uint32_t handle = arena_new(&s.arena, sizeof(Block))
    cdef Block* block
    if handle == 0:
        return 0
    block = block_at(s, handle)
    memset(block, 0, sizeof(Block))
    block.user = user_handle
    block.number = number
    block.bytes = BLOCK_FIXED_BYTES + user_at(s, user_handle).id_len
    put_block_first(s, handle)
    return handle


cdef inline void remove_block(State* s, uint32_t handle) noexcept nogil:
    """Free an emptied block that no store holds any more; with its last one the user goes too."""
    cdef Block* block = block_at(s, handle)
    cdef uint32_t user = block.user
    mark_clean(s, block)
    unlist_block(s, block)
    unlink_block(s, block)
    arena_release(&s.arena, handle, sizeof(Block))
    if user_at(s, user).first_block == 0:
        remove_user(s, user)


cdef inline uint32_t new_number(State* s, User* user) noexcept nogil:
    """A block number that no block of the user has; upwards until there are no higher ones."""
    cdef uint32_t number = 0, handle = user.first_block
    if user.next_block != NO_HIGHER_NUMBER:
        user.next_block += 1
        return user.next_block - 1
    while handle != 0:
        if block_at(s, handle).number == number:
            number += 1
            handle = user.first_block
        else:
            handle = block_at(s, handle).next
    return number


cdef inline uint32_t block_with_room(State* s, uint32_t user_handle, size_t more) noexcept nogil:
    """The user's first block if it has room, else a new one; 0 when there is no memory."""
    cdef User* user = user_at(s, user_handle)
    cdef uint32_t handle = user.first_block
    if handle != 0 and block_at(s, handle).bytes + more <= MAX_VALUE_BYTES:
        return handle
    return add_block(s, user_handle, new_number(s, user))


# -- alarms --------------------------------------------------------------------------------------

ctypedef struct AlarmKey:        # which alarm of which user, ready to be looked for
    AlarmId id
    uint32_t tag


cdef inline uint32_t tag_of_alarm(
    const State* s, uint64_t user_hash, const uint8_t* kept, uint16_t form
) noexcept nogil:
    """The same AlarmID of two users has two places, whatever place either user's record has."""
    cdef SipKey key = s.key
    key.k1 ^= user_hash
    return tag_of(siphash13(&key, kept, kept_bytes(form)))


cdef inline void make_alarm_key(
    const State* s, uint64_t user_hash, const uint8_t* alarm_id, uint16_t length, AlarmKey* key
) noexcept nogil:
    """Both `alarm_id` and `key` must stay where they are as long as it is used."""
    read_alarm_id(alarm_id, length, &key.id)
    key.tag = tag_of_alarm(s, user_hash, key.id.kept, key.id.form)


cdef inline uint32_t find_alarm(const State* s, uint32_t user, const AlarmKey* key) noexcept nogil:
    cdef uint32_t i = key.tag & s.alarms.mask
    cdef const Slot* slot = &s.alarms.slots[i]
    cdef const Alarm* alarm
    while slot.handle != 0:
        if slot.tag == key.tag:
            alarm = alarm_at(s, slot.handle)
            if (alarm.id_form == key.id.form and block_at(s, alarm.block).user == user
                    and memcmp(id_of_alarm(alarm), key.id.kept, kept_bytes(key.id.form)) == 0):
                return slot.handle
        i = (i + 1) & s.alarms.mask
        slot = &s.alarms.slots[i]
    return 0


cdef inline uint32_t add_alarm(
    State* s, uint32_t user, const AlarmKey* key, uint32_t block_handle
) noexcept nogil:
    """Enter an alarm that is not there yet, all zero; 0 when there is no memory.

    It goes into the given block, or, when that is 0, into the one that takes new alarms.
    """
    cdef uint32_t handle
    cdef uint16_t stored = ALARM_FIXED_BYTES + (key.id.form & TEXT_LENGTH)
    cdef Alarm* alarm
    cdef Block* block
    if not table_make_room(&s.alarms):
        return 0
    if block_handle == 0:
        block_handle = block_with_room(s, user, stored)
        if block_handle == 0:
            return 0
    handle = arena_new(&s.arena, ALARM_ID_AT + kept_bytes(key.id.form))
    if handle == 0:
        return 0
    block = block_at(s, block_handle)
    alarm = alarm_at(s, handle)
    memset(alarm, 0, ALARM_ID_AT)
    alarm.block = block_handle
    alarm.next_in_block = block.first_alarm
    alarm.id_form = key.id.form
    memcpy(<uint8_t*> alarm + ALARM_ID_AT, key.id.kept, kept_bytes(key.id.form))
    if block.first_alarm == 0:
        s.blocks += 1
    block.first_alarm = handle
    block.bytes += stored
    table_put(&s.alarms, key.tag, handle)
    return handle


cdef inline bint is_packed(const Alarm* alarm) noexcept nogil:
    return alarm.id_form & IS_PACKED != 0


cdef inline uint16_t text_length(const Alarm* alarm) noexcept nogil:
    return alarm.id_form & TEXT_LENGTH


cdef inline size_t alarm_bytes(const Alarm* alarm) noexcept nogil:
    """What its record takes in the arena."""
    return ALARM_ID_AT + kept_bytes(alarm.id_form)


cdef inline void write_id_of_alarm(const Alarm* alarm, uint8_t* text) noexcept nogil:
    """Write text_length() bytes."""
    write_alarm_id(id_of_alarm(alarm), alarm.id_form, text)


cdef inline void uncount_alarm(State* s, const Alarm* alarm) noexcept nogil:
    """Take an alarm out of the counts of what it is. Whoever changes one does so first, and
    count_alarm()s it afterwards; one that was just added is all zero: cleared, and in no count.
    """
    s.active -= is_active(alarm)
    s.due -= is_due(alarm)


cdef inline void count_alarm(State* s, const Alarm* alarm) noexcept nogil:
    s.active += is_active(alarm)
    s.due += is_due(alarm)


cdef inline uint32_t slot_of_alarm(
    const State* s, uint32_t user, const Alarm* alarm, uint32_t handle
) noexcept nogil:
    cdef const User* whose = user_at(s, user)
    cdef uint64_t user_hash = hash_user(s, id_of_user(whose), whose.id_len)
    cdef uint32_t i = tag_of_alarm(
        s, user_hash, id_of_alarm(alarm), alarm.id_form) & s.alarms.mask
    while s.alarms.slots[i].handle != handle:
        i = (i + 1) & s.alarms.mask
    return i


cdef inline void remove_alarm(State* s, uint32_t user, uint32_t* link, uint32_t slot) noexcept nogil:
    """Forget the alarm that its block names here, and that the table names in this slot."""
    cdef uint32_t handle = link[0]
    cdef Alarm* alarm = alarm_at(s, handle)
    uncount_alarm(s, alarm)
    link[0] = alarm.next_in_block
    block_at(s, alarm.block).bytes -= ALARM_FIXED_BYTES + text_length(alarm)
    table_remove(&s.alarms, slot)
    arena_release(&s.arena, handle, alarm_bytes(alarm))


cdef inline uint64_t forget_user(State* s, uint32_t user, int64_t arrival_ns) noexcept nogil:
    """Forget a user's alarms that came by then, and the user, as soon as nothing is left and no
    store has a row of him any more; how many alarms that were.

    What came later stays: a stream that is put back, and read again, forgets again.
    """
    cdef uint32_t handle = user_at(s, user).first_block, next_handle
    cdef uint32_t* link
    cdef uint64_t removed = 0, before
    cdef Alarm* alarm
    cdef Block* block
    while handle != 0:
        block = block_at(s, handle)
        next_handle = block.next
        before = removed
        link = &block.first_alarm
        while link[0] != 0:
            alarm = alarm_at(s, link[0])
            if alarm.arrived_ns > arrival_ns:
                link = &alarm.next_in_block
            else:
                remove_alarm(s, user, link, slot_of_alarm(s, user, alarm, link[0]))
                removed += 1
        if removed > before:
            if block.first_alarm == 0:
                s.blocks -= 1
            if block.first_alarm != 0 or block.flags & WRITTEN:
                mark_dirty(s, handle)
            else:
                remove_block(s, handle)
        handle = next_handle
    return removed
