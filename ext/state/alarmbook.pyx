"""The rule: the latest state of every alarm of every user of one worker, and what is due.

An event has a key (ChangedAt, rank of its status). The *latest* of an alarm is the event with the
greatest key; *sent* is what was the latest when a digest last held the alarm; it is *changed* when
any event had a greater key than sent and another status; it is *due* when its latest is active and
it was never sent or is changed. None of this depends on the order of arrival.

No Python object is kept per alarm: records lie in an arena, found through hash tables, and all
work on them runs without the GIL. One thread at a time may use a book.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, qsort
from libc.string cimport memcpy, memset

from alarm_ids cimport UUID_TEXT_BYTES, compare_alarm_ids
from arena cimport arena_bytes, arena_free
from blake2b cimport Blake2b
from buffers cimport KEEP_BYTES, Buffer, buffer_clear, buffer_put, buffer_reserve
from digest_json cimport put_entry, put_head
from due cimport list_due_users, put_due
from listing cimport Listing, MOST_TOP, list_users, write_lines
from lookahead cimport AHEAD, Upcoming, look_ahead
from manners cimport DEBUG_CHECKS, enter
from published_ids cimport PUBLISHED_ID_BYTES, id_begin, id_write
from records cimport (
    KIND_EVENT, KIND_REQUEST, OUTGOING_DIGEST, POSITION_BYTES, STATUS_CRITICAL, STATUS_NONE, OutgoingRecord, RoutedRecord,
    check_routed, padded, record_bytes,
)
from row_codec cimport (
    ROW_CUT, ROW_DAMAGED, ROW_DELETED, ROW_FINE, ROW_LENGTHS, ROW_NO_MEMORY, ROW_OF_OTHER_USER,
    ROW_OF_OTHER_VERSION, ROW_SIZE, ROW_STATES_UNKNOWN, ROW_TWICE, RowFault, load_packed,
    take_block, write_block,
)
from state cimport (
    CHANGED, FIRST_TABLE_SIZE, LISTED, SENT_STATUS, Alarm, Block, State, add_alarm, add_user,
    alarm_at, block_at, count_alarm, find_alarm, find_user, forget_user, hash_user, id_of_alarm,
    is_due, is_expired, is_packed, list_block, mark_dirty, text_length, uncount_alarm, user_at,
    write_id_of_alarm,
)
from sweep cimport sweep_alarms
from table cimport table_bytes, table_init, tag_of
from timestamps cimport Clock

cdef enum:
    # merge() returns once it has made this much, so that nobody waits for a whole batch's digests.
    OUTPUT_BYTES = 256 * 1024
    KEEP_ROWS_BYTES = 64 * 1024
    ID_LINE_BYTES = 13 + PUBLISHED_ID_BYTES + 2   # Nats-Msg-Id: <hex>\r\n
    REQUEST_LINE_BYTES = 72      # Alarmdigest-Request: <sequence> <timestamp in ns>\r\n, and a zero

ctypedef struct Due:             # what sorting needs, in one place
    int64_t latest_ns
    Alarm* alarm

ctypedef struct Counters:
    uint64_t events
    uint64_t late                # earlier than the latest: kept only as a change
    uint64_t repeated            # equal to the latest
    uint64_t forgotten           # cleared, and past the retention when their next event came
    uint64_t swept               # cleared, past the retention, and removed before any event came
    uint64_t requests
    uint64_t empty_requests      # nothing was due
    uint64_t digests             # messages, parts of a split one counted singly
    uint64_t alarms_sent
    uint64_t forget_users        # users to forget, known or not
    uint64_t forgotten_with_user # their alarms


cdef int compare_due(const void* a, const void* b) noexcept nogil:
    """Oldest first; equal times by the bytes of AlarmID."""
    cdef const Due* x = <const Due*> a
    cdef const Due* y = <const Due*> b
    if x.latest_ns != y.latest_ns:
        return -1 if x.latest_ns < y.latest_ns else 1
    return compare_alarm_ids(
        id_of_alarm(x.alarm), x.alarm.id_form, id_of_alarm(y.alarm), y.alarm.id_form)


cdef void sort_due(Due* due, size_t count) noexcept nogil:
    """A block names the alarm first that was entered last; one that was loaded, the other way. So
    they are often in order, or need no more than to be turned round."""
    cdef Due other
    cdef size_t i = 1
    while i < count and compare_due(&due[i - 1], &due[i]) > 0:
        i += 1
    if i == count:
        for i in range(count // 2):
            other = due[i]
            due[i] = due[count - 1 - i]
            due[count - 1 - i] = other
        return
    i = 1
    while i < count and compare_due(&due[i - 1], &due[i]) < 0:
        i += 1
    if i < count:
        qsort(due, count, sizeof(Due), compare_due)


#: Whether batches are checked: in a debug build.
CHECKED = bool(DEBUG_CHECKS)


cdef inline bint later(int64_t ns, int status, int64_t than_ns, int than_status) noexcept nogil:
    return ns > than_ns or (ns == than_ns and status > than_status)


cdef dict WHAT_IS_WRONG = {
    ROW_CUT: "the rows end within it",
    ROW_DELETED: "it has no value",
    ROW_SIZE: "its size is none that a block can have",
    ROW_OF_OTHER_VERSION: "it has a version that this program does not know",
    ROW_DAMAGED: "its checksum is wrong, it is damaged",
    ROW_LENGTHS: "its lengths do not add up",
    ROW_STATES_UNKNOWN: "it holds a status that there is not",
    ROW_OF_OTHER_USER: "its key is not that of its user",
    ROW_TWICE: "an alarm of it is in another row too",
}


cdef class AlarmBook:
    cdef State state
    cdef Upcoming upcoming[AHEAD]
    cdef Buffer due              # array of Due
    cdef Buffer head             # {"UserID":…,"ActiveAlarms":[ of the digest that is being written
    cdef Buffer entry            # an alarm of it that goes into its next message
    cdef Clock clock
    cdef Buffer out
    cdef Buffer rows             # taken, but not yet handed over
    cdef Buffer news             # users who became due, while it is watched
    cdef readonly bint watched
    cdef Blake2b id_start        # of the ids of digests: what all of one stream have in common
    cdef const uint8_t* request_position  # of the one that is being answered, or NULL
    cdef int64_t request_arrival_ns
    cdef uint32_t tag            # of its user
    cdef char request_line[REQUEST_LINE_BYTES]
    cdef size_t request_line_len # 0 for a request without a position
    cdef uint32_t part           # of its digest, from 0
    cdef Counters tally
    cdef int64_t retention_ns
    cdef size_t split_bytes
    cdef bint publish_empty
    cdef bint busy

    def __cinit__(
        self, *, int64_t retention_ns, size_t split_bytes, bytes secret not None,
        bint publish_empty=False, bytes stream not None=b"",
    ):
        """``secret`` keys the hash tables. ``stream`` is the name of the stream that requests with
        a position come from; it goes into the ids of their digests.
        """
        if len(secret) != 16:
            raise ValueError("secret must have 16 bytes")
        if split_bytes < 16 * 1024:
            raise ValueError("split_bytes must be at least 16384, so that one alarm always fits")
        if retention_ns < 0:
            raise ValueError("retention_ns must not be negative")
        memcpy(&self.state.key, PyBytes_AS_STRING(secret), 16)
        self.retention_ns = retention_ns
        self.split_bytes = split_bytes
        self.publish_empty = publish_empty
        id_begin(&self.id_start, stream)
        if not (table_init(&self.state.users, FIRST_TABLE_SIZE)
                and table_init(&self.state.alarms, FIRST_TABLE_SIZE)):
            raise MemoryError("no memory for an empty alarm book")

    def __dealloc__(self):
        arena_free(&self.state.arena)
        free(self.state.users.slots)
        free(self.state.alarms.slots)
        free(self.due.data)
        free(self.head.data)
        free(self.entry.data)
        free(self.out.data)
        free(self.rows.data)
        free(self.news.data)

    def merge(self, bytes batch not None, size_t start=0, end=None) -> tuple:
        """Apply routed records from offset ``start`` to ``end``; returns ``(outgoing, offset)``.

        ``outgoing`` holds the digests that the requests among them made, as outgoing records. The
        call may return before the end, when it has made enough of them: call it again from
        ``offset``. Runs without the GIL.
        """
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch) if end is None else min(end, len(batch))
        cdef size_t offset = start
        cdef uint32_t i, count
        cdef bint enough_memory = True
        if DEBUG_CHECKS:
            check_routed(data, length, start)
        enter(&self.busy)
        with nogil:
            while offset < length and self.out.used < OUTPUT_BYTES and enough_memory:
                count = look_ahead(&self.state, data + offset, length - offset, self.upcoming)
                for i in range(count):
                    enough_memory = self.take_record(&self.upcoming[i])
                    offset += record_bytes(self.upcoming[i].record)
                    if self.out.used >= OUTPUT_BYTES or not enough_memory:
                        break
        self.busy = False
        if not enough_memory:
            raise MemoryError("no memory for another alarm or digest")
        try:
            return PyBytes_FromStringAndSize(<char*> self.out.data, self.out.used), offset
        finally:
            buffer_clear(&self.out, KEEP_BYTES)

    def take_rows(self, size_t most_bytes=1024 * 1024) -> bytes:
        """Blocks that changed since they were last taken, as packed rows (see ext/rows/row_codec.pxd).

        Ends at the first row with which they have ``most_bytes`` or more; b"" when none is left.
        What is returned is no longer marked as changed: the caller must not lose it. A block
        whose alarms are all gone gives a row without value, and is gone for good. Runs without
        the GIL.
        """
        cdef bint enough_memory = True
        cdef bytes taken
        enter(&self.busy)
        with nogil:
            while self.state.first_dirty != 0 and self.rows.used < most_bytes and enough_memory:
                enough_memory = take_block(&self.state, self.state.first_dirty, &self.rows)
        self.busy = False
        if not enough_memory:
            raise MemoryError("no memory for another row")
        taken = PyBytes_FromStringAndSize(<char*> self.rows.data, self.rows.used)
        # Between checkpoints no worker sits on megabytes.
        buffer_clear(
            &self.rows, KEEP_BYTES * 2 if self.state.first_dirty != 0 else KEEP_ROWS_BYTES)
        return taken

    def mark_all_changed(self) -> None:
        """Have take_rows() return all blocks that there are, for a store that needs them anew.
        Runs without the GIL."""
        cdef uint32_t i
        enter(&self.busy)
        with nogil:
            for i in range(self.state.alarms.mask + 1):
                if self.state.alarms.slots[i].handle != 0:
                    mark_dirty(
                        &self.state, alarm_at(&self.state, self.state.alarms.slots[i].handle).block)
        self.busy = False

    def load_rows(self, bytes packed not None) -> None:
        """Take in rows that another book has given; their order does not matter.

        The book is then as that one was. Raises ValueError, naming the bucket and what is wrong,
        at the first row that cannot be right. A book that refused a row is of no further use:
        it may hold some of the rows, and part of that one. Runs without the GIL.
        """
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(packed)
        cdef size_t length = PyBytes_GET_SIZE(packed)
        cdef size_t position = 0
        cdef RowFault fault
        enter(&self.busy)
        with nogil:
            fault = load_packed(&self.state, data, length, &position)
        self.busy = False
        if fault == ROW_NO_MEMORY:
            raise MemoryError("no memory for another row")
        if fault != ROW_FINE:
            bucket = "unknown"
            if length - position >= 6:
                bucket = int.from_bytes(packed[position + 4:position + 6], "big")
            raise ValueError(
                f"bucket {bucket}: the row at byte {position} cannot be read: "
                f"{WHAT_IS_WRONG[fault]}")

    def rows_of(self, bytes user_id not None) -> bytes:
        """A user's blocks as packed rows, as a store would have them; b"" for one who is not there.
        Runs without the GIL."""
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(user_id)
        cdef uint16_t length = <uint16_t> min(PyBytes_GET_SIZE(user_id), 0xFFFF)
        cdef Buffer rows
        cdef uint32_t user, block
        cdef bint enough_memory = True
        memset(&rows, 0, sizeof(Buffer))
        enter(&self.busy)
        with nogil:
            user = find_user(&self.state, data, length, hash_user(&self.state, data, length))
            block = user_at(&self.state, user).first_block if user != 0 else 0
            while block != 0 and enough_memory:
                if block_at(&self.state, block).first_alarm != 0:
                    enough_memory = write_block(&self.state, block, &rows)
                block = block_at(&self.state, block).next
        self.busy = False
        try:
            if not enough_memory:
                raise MemoryError("no memory for the rows of a user")
            return PyBytes_FromStringAndSize(<char*> rows.data, rows.used)
        finally:
            free(rows.data)

    def list_users(
        self, uint32_t slot, uint64_t most, *, int order, uint32_t top, bint only_due,
        bint only_active, tuple floor=None,
    ) -> tuple:
        """The topmost users of a part of the book; returns ``(lines, found, slot, least)``.

        Begins at ``slot`` and takes about ``most`` steps, some 0.1 µs each, and more only for one
        user with many alarms; go on from the ``slot`` that is returned, until it is 0. Once
        ``user_slots`` has changed meanwhile, begin anew. ``order`` and the lines are those of
        ext/state/listing.pxd; ``found`` is how many users there are that were to be listed.
        ``least`` is the rank of the last of ``top`` users, None where there are fewer: as ``floor`` it
        leaves out of the next part who is not above it. Runs without the GIL.
        """
        cdef Listing listing
        cdef Buffer lines
        cdef bint enough_memory
        memset(&lines, 0, sizeof(Buffer))
        listing.order = order
        listing.top = min(top, MOST_TOP)
        listing.only_due = only_due
        listing.only_active = only_active
        listing.floor.first, listing.floor.second = floor or (INT64_MIN, INT64_MIN)
        listing.slot = slot & self.state.users.mask
        listing.found = 0
        listing.used = 0
        enter(&self.busy)
        with nogil:
            list_users(&self.state, &listing, most)
            enough_memory = write_lines(&self.state, &listing, &lines)
        self.busy = False
        try:
            if not enough_memory:
                raise MemoryError("no memory for a list of users")
            least = None
            if listing.used and listing.used == listing.top:
                least = listing.heap[0].rank.first, listing.heap[0].rank.second
            return (PyBytes_FromStringAndSize(<char*> lines.data, lines.used), listing.found,
                    listing.slot, least)
        finally:
            free(lines.data)

    def watch(self, bint on) -> None:
        """Whether merge() notes who becomes due. What was noted before is dropped when it ends."""
        self.watched = on
        if not on:
            buffer_clear(&self.news, 0)

    def take_news(self) -> bytes:
        """Users with an alarm that became due, or critical while it was, since this was last asked:
        as packed lines (ext/state/due.pxd), a line for each such alarm."""
        if self.news.used == 0:
            return b""
        try:
            return PyBytes_FromStringAndSize(<char*> self.news.data, self.news.used)
        finally:
            buffer_clear(&self.news, KEEP_ROWS_BYTES)

    def due_users(self, uint32_t slot, uint64_t most_steps, size_t most_bytes) -> tuple:
        """Users with due alarms in a part of the book, as packed lines (ext/state/due.pxd), and the
        slot at which it goes on, 0 at the end.

        Takes about ``most_steps`` steps, some 0.1 µs each, or ends once there are ``most_bytes``,
        and takes more of both only for one run of neighbours. Once ``user_slots`` has changed
        meanwhile, begin anew. Runs without the GIL.
        """
        cdef Buffer lines
        cdef bint enough_memory
        memset(&lines, 0, sizeof(Buffer))
        slot &= self.state.users.mask
        enter(&self.busy)
        with nogil:
            enough_memory = list_due_users(&self.state, &slot, most_steps, most_bytes, &lines)
        self.busy = False
        try:
            if not enough_memory:
                raise MemoryError("no memory for a list of users")
            return PyBytes_FromStringAndSize(<char*> lines.data, lines.used), slot
        finally:
            free(lines.data)

    @property
    def user_slots(self) -> int:
        """The size of the table of users."""
        return <uint64_t> self.state.users.mask + 1

    def sweep(self, int64_t now_ns, uint64_t most) -> int:
        """Remove cleared alarms that are past their retention; returns how many.

        ``now_ns`` must not be later than any arrival that is still to come: what goes then
        counted as forgotten already, so that no digest shows it. Takes ``most`` steps through the
        alarms, some 0.1 µs each, and goes on from there at the next call; ``steps_around`` of them
        are once round. Tables and records of a book that was much larger come to take less
        memory by it. Runs without the GIL.
        """
        cdef uint64_t removed
        enter(&self.busy)
        with nogil:
            removed = sweep_alarms(&self.state, now_ns, self.retention_ns, most)
        self.busy = False
        self.tally.swept += removed
        return removed

    @property
    def counters(self) -> dict:
        return self.tally

    @property
    def answered(self) -> int:
        """Requests that made a digest, of however many messages."""
        return self.tally.requests - (0 if self.publish_empty else self.tally.empty_requests)

    @property
    def held_bytes(self) -> int:
        """Memory that it holds: arena, hash tables and buffers, used or not."""
        return (
            arena_bytes(&self.state.arena)
            + table_bytes(&self.state.users)
            + table_bytes(&self.state.alarms)
            + self.due.capacity + self.head.capacity + self.entry.capacity
            + self.out.capacity + self.rows.capacity + self.news.capacity
        )

    @property
    def alarm_count(self) -> int:
        """Alarms it holds, cleared ones included."""
        return self.state.alarms.used

    @property
    def steps_around(self) -> int:
        """After so many steps of sweep() it has seen every alarm."""
        return <uint64_t> self.state.alarms.mask + 1 + self.state.alarms.used

    @property
    def active_count(self) -> int:
        """Alarms whose latest status is WARNING or CRITICAL."""
        return self.state.active

    @property
    def due_count(self) -> int:
        """Alarms that the next digest of their user holds."""
        return self.state.due

    @property
    def user_count(self) -> int:
        return self.state.users.used

    @property
    def block_count(self) -> int:
        """Blocks that hold an alarm: the rows that a store has once all have been taken."""
        return self.state.blocks

    # -- the rule ------------------------------------------------------------------------------

    cdef bint take_record(self, const Upcoming* one) noexcept nogil:
        """Apply one record; False when there is no memory."""
        if one.record.kind == KIND_EVENT:
            return self.apply(one)
        if one.record.kind == KIND_REQUEST:
            return self.digest(one)
        self.forget(one)
        return True

    cdef bint apply(self, const Upcoming* one) noexcept nogil:
        """Merge one event; False when there is no memory."""
        cdef State* s = &self.state
        cdef const RoutedRecord* record = one.record
        cdef const uint8_t* user_id = <const uint8_t*> record + sizeof(RoutedRecord)
        cdef uint32_t user = find_user(s, user_id, record.user_len, one.user_hash)
        cdef uint32_t handle
        cdef Alarm* alarm
        cdef bint was_due = False, was_critical = False
        self.tally.events += 1
        if user == 0:
            user = add_user(s, user_id, record.user_len, one.user_hash, record.bucket)
            if user == 0:
                return False
        handle = find_alarm(s, user, &one.alarm)
        if handle == 0:
            handle = add_alarm(s, user, &one.alarm, 0)
            if handle == 0:
                return False
            alarm = alarm_at(s, handle)
            self.first_event(alarm, record)
            mark_dirty(s, alarm.block)
        else:
            alarm = alarm_at(s, handle)
            was_due = is_due(alarm)
            was_critical = alarm.latest == STATUS_CRITICAL
            uncount_alarm(s, alarm)
            if is_expired(alarm, record.arrival_ns, self.retention_ns):
                # Past its retention it counts as forgotten, with what was sent of it.
                self.tally.forgotten += 1
                self.first_event(alarm, record)
                mark_dirty(s, alarm.block)
            elif self.next_event(alarm, record, was_due):
                mark_dirty(s, alarm.block)
        count_alarm(s, alarm)
        if is_due(alarm):
            list_block(s, alarm.block)
            if self.watched and not (
                    was_due and (was_critical or alarm.latest != STATUS_CRITICAL)):
                return put_due(&self.news, user_at(s, user), alarm.latest, alarm.arrived_ns)
        return True

    cdef void first_event(self, Alarm* alarm, const RoutedRecord* record) noexcept nogil:
        """The first event of an alarm, or the first after it was forgotten."""
        alarm.latest_ns = record.time_ns
        alarm.latest = record.status
        alarm.arrived_ns = record.arrival_ns
        alarm.sent_ns = 0
        alarm.flags = STATUS_NONE

    cdef bint next_event(
        self, Alarm* alarm, const RoutedRecord* record, bint was_due
    ) noexcept nogil:
        """A further event of a known alarm, in whatever order; whether it changed anything."""
        cdef int sent = alarm.flags & SENT_STATUS
        cdef bint news = False
        if (sent != STATUS_NONE and record.status != sent
                and later(record.time_ns, record.status, alarm.sent_ns, sent)):
            news = not alarm.flags & CHANGED
            alarm.flags |= CHANGED
        if later(record.time_ns, record.status, alarm.latest_ns, alarm.latest):
            alarm.latest_ns = record.time_ns
            alarm.latest = record.status
            if not (was_due and is_due(alarm)):
                alarm.arrived_ns = record.arrival_ns
            news = True
        elif record.time_ns == alarm.latest_ns and record.status == alarm.latest:
            self.tally.repeated += 1
        else:
            self.tally.late += 1
            if not was_due and is_due(alarm):
                alarm.arrived_ns = record.arrival_ns
        return news

    cdef void forget(self, const Upcoming* one) noexcept nogil:
        """End all memory of a user: what comes later starts anew, or, in a stream that is read again, has
        done so already."""
        cdef const RoutedRecord* record = one.record
        cdef uint32_t user = find_user(
            &self.state, <const uint8_t*> record + sizeof(RoutedRecord), record.user_len,
            one.user_hash)
        self.tally.forget_users += 1
        if user != 0:
            self.tally.forgotten_with_user += forget_user(
                &self.state, user, record.time_ns if record.time_ns != 0 else INT64_MAX)

    cdef bint digest(self, const Upcoming* one) noexcept nogil:
        """Answer one request; False when there is no memory.

        Looks only at blocks with alarms that were due at some moment since the last digest, so that
        a user with many alarms costs no more than one with few.
        """
        cdef const RoutedRecord* record = one.record
        cdef const uint8_t* user_id = <const uint8_t*> record + sizeof(RoutedRecord)
        cdef uint32_t user = find_user(&self.state, user_id, record.user_len, one.user_hash)
        cdef uint32_t listed, handle
        cdef Block* block
        cdef Alarm* alarm
        cdef Due* due
        cdef size_t count
        self.tally.requests += 1
        self.due.used = 0
        self.tag = tag_of(one.user_hash)
        self.request_line_len = 0
        self.request_position = NULL
        self.request_arrival_ns = record.arrival_ns
        if record.alarm_len == POSITION_BYTES:
            self.request_position = user_id + record.user_len
            self.write_request_line()
        if user != 0:
            listed = user_at(&self.state, user).first_listed
            user_at(&self.state, user).first_listed = 0
            while listed != 0:
                block = block_at(&self.state, listed)
                listed = block.next_listed
                block.flags &= ~LISTED
                handle = block.first_alarm
                while handle != 0:
                    alarm = alarm_at(&self.state, handle)
                    handle = alarm.next_in_block
                    if not is_due(alarm):
                        continue
                    if not buffer_reserve(&self.due, sizeof(Due)):
                        return False
                    due = <Due*> (self.due.data + self.due.used)
                    due.latest_ns = alarm.latest_ns
                    due.alarm = alarm
                    self.due.used += sizeof(Due)
        count = self.due.used // sizeof(Due)
        if count == 0:
            self.tally.empty_requests += 1
            if not self.publish_empty:
                return True
        due = <Due*> self.due.data
        if count > 1:
            sort_due(due, count)
        if not self.write_digest(user_id, record.user_len, due, count):
            return False
        buffer_clear(&self.due, KEEP_BYTES)
        return True

    # -- writing -------------------------------------------------------------------------------

    cdef bint write_digest(
        self, const uint8_t* user_id, size_t user_len, Due* due, size_t count
    ) noexcept nogil:
        """Write the digest in as many messages as the split size asks for, and mark what it holds."""
        # What stands before the body: the split size does not concern it.
        cdef size_t before = sizeof(OutgoingRecord) + self.headers_len()
        cdef size_t i, start, end, empty
        cdef Alarm* alarm
        self.part = 0
        self.head.used = 0
        if not put_head(&self.head, user_id, user_len):
            return False
        start = self.out.used
        if not self.begin_message():
            return False
        empty = self.out.used
        for i in range(count):
            alarm = due[i].alarm
            end = self.out.used
            if not self.put_alarm(alarm, end > empty):
                return False
            # "]}" after it
            if self.out.used - start - before + 2 > self.split_bytes and end > empty:
                self.entry.used = 0
                if not buffer_reserve(&self.entry, self.out.used - end - 1):
                    return False
                buffer_put(&self.entry, self.out.data + end + 1, self.out.used - end - 1)
                self.out.used = end
                if not self.end_message(start):
                    return False
                start = self.out.used
                if not (self.begin_message() and buffer_reserve(&self.out, self.entry.used)):
                    return False
                empty = self.out.used
                buffer_put(&self.out, self.entry.data, self.entry.used)
            uncount_alarm(&self.state, alarm)
            alarm.sent_ns = alarm.latest_ns
            alarm.flags = alarm.latest
            count_alarm(&self.state, alarm)
            mark_dirty(&self.state, alarm.block)
        self.tally.alarms_sent += count
        return self.end_message(start)

    cdef bint put_alarm(self, const Alarm* alarm, bint after_another) noexcept nogil:
        cdef uint8_t unpacked[UUID_TEXT_BYTES]
        cdef const uint8_t* text = id_of_alarm(alarm)
        if is_packed(alarm):
            write_id_of_alarm(alarm, unpacked)
            text = unpacked
        if not buffer_reserve(&self.out, 1):
            return False
        if after_another:
            buffer_put(&self.out, b",", 1)
        return put_entry(
            &self.out, text, text_length(alarm), alarm.latest, alarm.latest_ns, &self.clock)

    cdef bint begin_message(self) noexcept nogil:
        if not buffer_reserve(&self.out, sizeof(OutgoingRecord) + self.headers_len() + self.head.used):
            return False
        memset(self.out.data + self.out.used, 0, sizeof(OutgoingRecord))
        self.out.used += sizeof(OutgoingRecord)
        if self.request_position != NULL:
            buffer_put(&self.out, self.request_line, self.request_line_len)
            # The id is the last line of the record: `InFlight.set_confirmed` counts on it.
            buffer_put(&self.out, b"Nats-Msg-Id: ", 13)
            self.out.used += PUBLISHED_ID_BYTES       # end_message() knows it
            buffer_put(&self.out, b"\r\n", 2)
        buffer_put(&self.out, self.head.data, self.head.used)
        return True

    cdef bint end_message(self, size_t start) noexcept nogil:
        """Close the body, fill in the record's head and the id, and pad it."""
        cdef OutgoingRecord* record
        cdef size_t length
        if not buffer_reserve(&self.out, 2 + 8):
            return False
        buffer_put(&self.out, b"]}", 2)
        length = self.out.used - start
        record = <OutgoingRecord*> (self.out.data + start)
        record.kind = OUTGOING_DIGEST
        record.user = self.tag
        record.headers_len = <uint32_t> self.headers_len()
        record.body_len = <uint32_t> (length - sizeof(OutgoingRecord) - record.headers_len)
        if self.request_position != NULL:
            record.arrival_ns = self.request_arrival_ns
            self.write_id(
                <uint8_t*> record + sizeof(OutgoingRecord) + self.request_line_len, record.body_len)
        memset(self.out.data + self.out.used, 0, padded(length) - length)
        self.out.used += padded(length) - length
        self.part += 1
        self.tally.digests += 1
        return True

    cdef size_t headers_len(self) noexcept nogil:
        """What stands before the body of each message that answers the request."""
        return self.request_line_len + ID_LINE_BYTES if self.request_position != NULL else 0

    cdef void write_request_line(self) noexcept nogil:
        """Where in the stream the request stands, for whoever reads digests back after a crash."""
        cdef uint64_t position[2]
        memcpy(position, self.request_position, POSITION_BYTES)
        self.request_line_len = snprintf(
            self.request_line, REQUEST_LINE_BYTES, b"Alarmdigest-Request: %llu %lld\r\n",
            <unsigned long long> position[0], <long long> position[1])

    cdef void write_id(self, uint8_t* line, uint32_t body_len) noexcept nogil:
        """The id of a digest message, into its header line."""
        id_write(&self.id_start, self.request_position, self.part, line + ID_LINE_BYTES, body_len,
                 line + 13)
