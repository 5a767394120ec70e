"""The rule: the latest state of every alarm of every user of one worker, and what is due.

An event has a key (ChangedAt, rank of its status). The *latest* of an alarm is the event with the
greatest key; *sent* is what was the latest when a digest last held the alarm; it is *changed* when
any event had a greater key than sent and another status; it is *due* when its latest is active and
it was never sent or is changed. None of this depends on the order of arrival.

No Python object is kept per alarm: records lie in an arena, found through hash tables, and all
work on them runs without the GIL. One thread at a time may use a book.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcmp, memcpy, memset

from arena cimport Arena, arena_at, arena_free, arena_new
from buffers cimport Buffer, buffer_clear, buffer_put, buffer_reserve
from digest_json cimport put_entry, put_head
from records cimport (
    KIND_EVENT, OUTGOING_DIGEST, STATUS_CLEARED, STATUS_NONE, OutgoingRecord,
    RoutedRecord, padded,
)
from siphash cimport SipKey, siphash13
from table cimport Slot, Table, table_init, table_make_room, table_put, tag_of

cdef enum:
    FIRST_TABLE_SIZE = 64
    # merge() returns once it has made this much, so that nobody waits for a whole batch's digests.
    OUTPUT_BYTES = 256 * 1024
    KEEP_BYTES = 1024 * 1024     # a larger scratch buffer is given back after use
    # A record's id follows its fields at once, which is before sizeof() where that is rounded up.
    USER_ID_AT = 6
    ALARM_ID_AT = 36

ctypedef struct User:
    uint32_t first_listed        # its alarms that were due at some moment since the last digest
    uint16_t id_len

ctypedef struct Alarm:
    int64_t latest_ns
    int64_t sent_ns
    int64_t arrived_ns           # when its latest event came: retention counts from here
    uint32_t user
    uint32_t next_listed
    uint16_t id_len
    uint8_t latest
    uint8_t flags                # bits 0-1: status sent; then CHANGED, LISTED

cdef enum:
    SENT_STATUS = 3
    CHANGED = 4
    LISTED = 8

ctypedef struct Due:             # what sorting needs, in one place
    int64_t latest_ns
    const uint8_t* id
    Alarm* alarm

ctypedef struct Counters:
    uint64_t events
    uint64_t late                # behind the latest: kept only as a change
    uint64_t repeated            # equal to the latest
    uint64_t forgotten           # cleared, and past the retention when their next event came
    uint64_t requests
    uint64_t empty_requests      # nothing was due
    uint64_t digests             # messages, parts of a split one counted singly
    uint64_t alarms_sent


cdef int compare_due(const void* a, const void* b) noexcept nogil:
    """Oldest first; equal times by the bytes of AlarmID."""
    cdef const Due* x = <const Due*> a
    cdef const Due* y = <const Due*> b
    cdef uint16_t shorter
    cdef int order
    if x.latest_ns != y.latest_ns:
        return -1 if x.latest_ns < y.latest_ns else 1
    shorter = x.alarm.id_len if x.alarm.id_len < y.alarm.id_len else y.alarm.id_len
    order = memcmp(x.id, y.id, shorter)
    return order if order != 0 else <int> x.alarm.id_len - <int> y.alarm.id_len


cdef inline bint later(int64_t ns, int status, int64_t than_ns, int than_status) noexcept nogil:
    return ns > than_ns or (ns == than_ns and status > than_status)


cdef inline bint is_due(const Alarm* alarm) noexcept nogil:
    return alarm.latest != STATUS_CLEARED and (
        alarm.flags & SENT_STATUS == STATUS_NONE or alarm.flags & CHANGED)


cdef class AlarmBook:
    cdef SipKey key
    cdef Arena arena
    cdef Table users
    cdef Table alarms
    cdef Buffer due              # array of Due
    cdef Buffer head             # {"UserID":…,"ActiveAlarms":[ of the digest that is being written
    cdef Buffer entry            # one alarm of it
    cdef Buffer out
    cdef Counters tally
    cdef int64_t retention_ns
    cdef size_t split_bytes
    cdef bint publish_empty

    def __cinit__(
        self, *, int64_t retention_ns, size_t split_bytes, bytes secret not None,
        bint publish_empty=False,
    ):
        if len(secret) != 16:
            raise ValueError("secret must have 16 bytes")
        if split_bytes < 16 * 1024:
            raise ValueError("split_bytes must be at least 16384, so that one alarm always fits")
        if retention_ns < 0:
            raise ValueError("retention_ns must not be negative")
        memcpy(&self.key, PyBytes_AS_STRING(secret), 16)
        self.retention_ns = retention_ns
        self.split_bytes = split_bytes
        self.publish_empty = publish_empty
        if not (table_init(&self.users, FIRST_TABLE_SIZE)
                and table_init(&self.alarms, FIRST_TABLE_SIZE)):
            raise MemoryError("no memory for an empty alarm book")

    def __dealloc__(self):
        arena_free(&self.arena)
        free(self.users.slots)
        free(self.alarms.slots)
        free(self.due.data)
        free(self.head.data)
        free(self.entry.data)
        free(self.out.data)

    def merge(self, bytes batch not None, size_t start=0) -> tuple:
        """Apply routed records from position ``start``; returns ``(outgoing, position)``.

        ``outgoing`` holds the digests that the requests among them made, as outgoing records. The
        call may return before the end of the batch, when it has made enough of them: call it again
        from ``position``. Runs without the GIL.
        """
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch)
        cdef size_t position = start
        cdef const RoutedRecord* record
        cdef bint enough_memory = True
        with nogil:
            while position < length and self.out.used < OUTPUT_BYTES and enough_memory:
                record = <const RoutedRecord*> (data + position)
                if record.kind == KIND_EVENT:
                    enough_memory = self.apply(record)
                else:
                    enough_memory = self.digest(record)
                position += padded(sizeof(RoutedRecord) + record.user_len + record.alarm_len)
        if not enough_memory:
            raise MemoryError("no memory for another alarm or digest")
        try:
            return PyBytes_FromStringAndSize(<char*> self.out.data, self.out.used), position
        finally:
            buffer_clear(&self.out, KEEP_BYTES)

    @property
    def counters(self) -> dict:
        return self.tally

    @property
    def alarm_count(self) -> int:
        """Alarms it holds, cleared ones included."""
        return self.alarms.used

    @property
    def user_count(self) -> int:
        return self.users.used

    cdef uint32_t find_user(self, const uint8_t* user_id, uint16_t length, uint32_t tag) noexcept nogil:
        cdef uint32_t i = tag & self.users.mask
        cdef Slot* slot = &self.users.slots[i]
        cdef uint8_t* user
        while slot.handle != 0:
            if slot.tag == tag:
                user = arena_at(&self.arena, slot.handle)
                if (<User*> user).id_len == length and memcmp(user + USER_ID_AT, user_id, length) == 0:
                    return slot.handle
            i = (i + 1) & self.users.mask
            slot = &self.users.slots[i]
        return 0

    cdef uint32_t find_alarm(
        self, uint32_t user, const uint8_t* alarm_id, uint16_t length, uint32_t tag
    ) noexcept nogil:
        cdef uint32_t i = tag & self.alarms.mask
        cdef Slot* slot = &self.alarms.slots[i]
        cdef uint8_t* alarm
        while slot.handle != 0:
            if slot.tag == tag:
                alarm = arena_at(&self.arena, slot.handle)
                if ((<Alarm*> alarm).user == user and (<Alarm*> alarm).id_len == length
                        and memcmp(alarm + ALARM_ID_AT, alarm_id, length) == 0):
                    return slot.handle
            i = (i + 1) & self.alarms.mask
            slot = &self.alarms.slots[i]
        return 0

    cdef uint32_t add_user(self, const RoutedRecord* record, const uint8_t* user_id, uint32_t tag) noexcept nogil:
        cdef uint32_t handle
        cdef User* user
        if not table_make_room(&self.users):
            return 0
        handle = arena_new(&self.arena, USER_ID_AT + record.user_len)
        if handle == 0:
            return 0
        user = <User*> arena_at(&self.arena, handle)
        memset(user, 0, USER_ID_AT)
        user.id_len = record.user_len
        memcpy(<uint8_t*> user + USER_ID_AT, user_id, record.user_len)
        table_put(&self.users, tag, handle)
        return handle

    cdef uint32_t add_alarm(
        self, uint32_t user, const RoutedRecord* record, const uint8_t* alarm_id, uint32_t tag
    ) noexcept nogil:
        cdef uint32_t handle
        cdef Alarm* alarm
        if not table_make_room(&self.alarms):
            return 0
        handle = arena_new(&self.arena, ALARM_ID_AT + record.alarm_len)
        if handle == 0:
            return 0
        alarm = <Alarm*> arena_at(&self.arena, handle)
        memset(alarm, 0, ALARM_ID_AT)
        alarm.user = user
        alarm.id_len = record.alarm_len
        memcpy(<uint8_t*> alarm + ALARM_ID_AT, alarm_id, record.alarm_len)
        table_put(&self.alarms, tag, handle)
        return handle

    # -- the rule ------------------------------------------------------------------------------

    cdef bint apply(self, const RoutedRecord* record) noexcept nogil:
        """Merge one event; False when there is no memory."""
        cdef const uint8_t* user_id = <const uint8_t*> record + sizeof(RoutedRecord)
        cdef const uint8_t* alarm_id = user_id + record.user_len
        cdef uint32_t tag = tag_of(siphash13(&self.key, user_id, record.user_len))
        cdef uint32_t user = self.find_user(user_id, record.user_len, tag)
        cdef uint32_t handle
        cdef SipKey alarm_key = self.key
        cdef Alarm* alarm
        self.tally.events += 1
        if user == 0:
            user = self.add_user(record, user_id, tag)
            if user == 0:
                return False
        alarm_key.k1 ^= user         # the same AlarmID of two users has two places
        tag = tag_of(siphash13(&alarm_key, alarm_id, record.alarm_len))
        handle = self.find_alarm(user, alarm_id, record.alarm_len, tag)
        if handle == 0:
            handle = self.add_alarm(user, record, alarm_id, tag)
            if handle == 0:
                return False
            alarm = <Alarm*> arena_at(&self.arena, handle)
            self.begin(alarm, record)
        else:
            alarm = <Alarm*> arena_at(&self.arena, handle)
            if (alarm.latest == STATUS_CLEARED
                    and record.arrival_ns - alarm.arrived_ns > self.retention_ns):
                # Past its retention it counts as forgotten, with what was sent of it.
                self.tally.forgotten += 1
                self.begin(alarm, record)
            else:
                self.follow(alarm, record)
        if is_due(alarm) and not alarm.flags & LISTED:
            alarm.flags |= LISTED
            alarm.next_listed = (<User*> arena_at(&self.arena, user)).first_listed
            (<User*> arena_at(&self.arena, user)).first_listed = handle
        return True

    cdef void begin(self, Alarm* alarm, const RoutedRecord* record) noexcept nogil:
        """The first event of an alarm, or the first after it was forgotten."""
        alarm.latest_ns = record.time_ns
        alarm.latest = record.status
        alarm.arrived_ns = record.arrival_ns
        alarm.flags = STATUS_NONE | (alarm.flags & LISTED)

    cdef void follow(self, Alarm* alarm, const RoutedRecord* record) noexcept nogil:
        """A further event of a known alarm, in whatever order."""
        cdef int sent = alarm.flags & SENT_STATUS
        if (sent != STATUS_NONE and record.status != sent
                and later(record.time_ns, record.status, alarm.sent_ns, sent)):
            alarm.flags |= CHANGED
        if later(record.time_ns, record.status, alarm.latest_ns, alarm.latest):
            alarm.latest_ns = record.time_ns
            alarm.latest = record.status
            alarm.arrived_ns = record.arrival_ns
        elif record.time_ns == alarm.latest_ns and record.status == alarm.latest:
            self.tally.repeated += 1
        else:
            self.tally.late += 1

    cdef bint digest(self, const RoutedRecord* record) noexcept nogil:
        """Answer one request; False when there is no memory.

        Looks only at alarms that were due at some moment since the last digest, so that a user
        with many alarms costs no more than one with few.
        """
        cdef const uint8_t* user_id = <const uint8_t*> record + sizeof(RoutedRecord)
        cdef uint32_t tag = tag_of(siphash13(&self.key, user_id, record.user_len))
        cdef uint32_t handle = self.find_user(user_id, record.user_len, tag)
        cdef uint32_t next_handle
        cdef User* user
        cdef Alarm* alarm
        cdef Due* due
        cdef size_t count
        self.tally.requests += 1
        self.due.used = 0
        if handle != 0:
            user = <User*> arena_at(&self.arena, handle)
            next_handle = user.first_listed
            user.first_listed = 0
            while next_handle != 0:
                alarm = <Alarm*> arena_at(&self.arena, next_handle)
                next_handle = alarm.next_listed
                alarm.flags &= ~LISTED
                if is_due(alarm):
                    if not buffer_reserve(&self.due, sizeof(Due)):
                        return False
                    due = <Due*> (self.due.data + self.due.used)
                    due.latest_ns = alarm.latest_ns
                    due.id = <uint8_t*> alarm + ALARM_ID_AT
                    due.alarm = alarm
                    self.due.used += sizeof(Due)
        count = self.due.used // sizeof(Due)
        if count == 0:
            self.tally.empty_requests += 1
            if not self.publish_empty:
                return True
        due = <Due*> self.due.data
        if count > 1:
            qsort(due, count, sizeof(Due), compare_due)
        if not self.write_digest(user_id, record.user_len, due, count):
            return False
        buffer_clear(&self.due, KEEP_BYTES)
        return True

    # -- writing -------------------------------------------------------------------------------

    cdef bint write_digest(
        self, const uint8_t* user_id, size_t user_len, Due* due, size_t count
    ) noexcept nogil:
        """Write the digest in as many messages as the split size asks for, and mark what it holds."""
        cdef size_t i, start
        self.head.used = 0
        if not put_head(&self.head, user_id, user_len):
            return False
        start = self.out.used
        if not self.begin_message():
            return False
        for i in range(count):
            self.entry.used = 0
            if not put_entry(&self.entry, due[i].id, due[i].alarm.id_len, due[i].alarm.latest,
                             due[i].latest_ns):
                return False
            # "," before it and "]}" behind it
            if (self.out.used - start - sizeof(OutgoingRecord) + self.entry.used + 3 > self.split_bytes
                    and self.out.used - start > sizeof(OutgoingRecord) + self.head.used):
                if not self.end_message(start):
                    return False
                start = self.out.used
                if not self.begin_message():
                    return False
            if not buffer_reserve(&self.out, self.entry.used + 1):
                return False
            if self.out.used - start > sizeof(OutgoingRecord) + self.head.used:
                buffer_put(&self.out, b",", 1)
            buffer_put(&self.out, self.entry.data, self.entry.used)
            due[i].alarm.sent_ns = due[i].alarm.latest_ns
            due[i].alarm.flags = due[i].alarm.latest
        self.tally.alarms_sent += count
        return self.end_message(start)

    cdef bint begin_message(self) noexcept nogil:
        if not buffer_reserve(&self.out, sizeof(OutgoingRecord) + self.head.used):
            return False
        memset(self.out.data + self.out.used, 0, sizeof(OutgoingRecord))
        self.out.used += sizeof(OutgoingRecord)
        buffer_put(&self.out, self.head.data, self.head.used)
        return True

    cdef bint end_message(self, size_t start) noexcept nogil:
        """Close the body, fill in the record's head and pad it."""
        cdef OutgoingRecord* record
        cdef size_t length
        if not buffer_reserve(&self.out, 2 + 8):
            return False
        buffer_put(&self.out, b"]}", 2)
        length = self.out.used - start
        record = <OutgoingRecord*> (self.out.data + start)
        record.kind = OUTGOING_DIGEST
        record.body_len = <uint32_t> (length - sizeof(OutgoingRecord))
        memset(self.out.data + self.out.used, 0, padded(length) - length)
        self.out.used += padded(length) - length
        self.tally.digests += 1
        return True
