"""Messages on their way into streams: which may be sent, and which of them JetStream has confirmed.

Every message gets a number and asks for its PubAck on ``<inbox>.<number>``. A digest is not sent
while an earlier one of the same user is unconfirmed: a stream may refuse the first and take the
second. Messages of one user are linked for this, and each confirmation lets the next one go; no work
is done per message that waits. In a group an atomic batch may hold several digests of one user, in
order, and only its first and last message ask for an answer (``frame_fenced``).

One answer that is as the server usually writes it is read here; all others are kept for Python
(``take_other``).
"""

from collections import deque

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove, memset

from buffers cimport KEEP_BYTES, Buffer, buffer_clear, buffer_put, buffer_reserve
from frames cimport (
    FRAME_BAD, FRAME_ERR, FRAME_HMSG, FRAME_INFO, FRAME_MSG, FRAME_PARTIAL, Frame, Span,
    check_bounds, not_a_frame, read_number, scan_frame,
)
from outgoing cimport COMMIT_BYTES, Fenced, Wire, put_fenced, put_message
from manners cimport DEBUG_CHECKS, enter
from records cimport OUTGOING_DIGEST, OUTGOING_REJECTION, OutgoingRecord, check_outgoing, padded

from alarmdigest._ext.frames import ProtocolError

ACK_SID = 1
DIGEST = OUTGOING_DIGEST
REJECTION = OUTGOING_REJECTION

cdef enum:
    THE_ACK_SID = 1
    COMPACT_AT = 65536
    PLACES = 1 << 18             # far more than messages in flight: a chain is one or two long
    ID_LINE = 47                 # "Nats-Msg-Id: ", 32 hex digits, CR LF
    ID_BYTES = 32

cdef enum:
    WAITING                      # an earlier one of the same user is unconfirmed
    READY                        # in the line of those that may be sent
    SENT
    FAILED                       # answered with an error, or too large: waits to be tried again
    CONFIRMED

ctypedef struct Slot:
    const OutgoingRecord* record
    uint64_t floor               # if stored, it lies after this, the position when it was first sent
    uint64_t earlier             # the one before of the same user that was unconfirmed; 0: none
    uint64_t later               # the one that waits for this one; 0: none
    uint64_t same_place          # the one before with the same place in last_of_user; 0: none
    uint64_t sending             # counts what was sent, this one the last time; 0: never
    uint8_t state
    uint8_t kind
    uint8_t sends
    uint8_t answers


cdef Span text_of(bytes text):
    cdef Span found
    found.data = <const uint8_t*> PyBytes_AS_STRING(text)
    found.length = PyBytes_GET_SIZE(text)
    return found


cdef class InFlight:
    """Numbers ``base`` … ``next - 1`` are in it; all below ``base`` are confirmed.

    ``under_way`` were sent and not answered; ``failed`` were answered with an error, or are too
    large, and wait to be tried again.
    ``listed_bytes`` is the size of the batches that hold something unconfirmed.
    ``second_answers`` counts answers to messages that had been answered as often as they were sent.
    """

    cdef Buffer slots            # array of Slot, the first for number `first_slot`
    cdef uint64_t first_slot
    cdef readonly uint64_t base
    cdef readonly uint64_t next
    cdef uint64_t all_sent       # every message below it was sent, or need not be
    cdef readonly uint64_t under_way
    cdef readonly uint64_t failed
    cdef readonly uint64_t digests           # confirmed
    cdef readonly uint64_t rejections
    cdef readonly uint64_t second_answers
    cdef readonly uint64_t resent
    cdef readonly uint64_t listed_bytes
    cdef uint64_t sendings
    cdef uint64_t newest_confirmed[2]        # the greatest sending that was confirmed, by kind
    # The number of the last digest by the lowest bits of its user; 0: none. Users with the same ones
    # share a place, and ``same_place`` leads from one such digest to the one before.
    cdef uint64_t* last_of_user
    cdef Buffer line             # array of uint64_t: numbers that may be sent, in order
    cdef Buffer out              # for the next frames
    cdef size_t line_head
    cdef bytes reply
    cdef tuple plain_acks        # by kind: how plain PubAcks of its stream begin
    cdef uint64_t sequences[2]   # the greatest confirmed one, by kind
    cdef char ids[2][ID_BYTES]   # of the message with that sequence
    cdef bint ids_known[2]
    # Of an atomic batch, in a group: its digests are answered together, and Python reads that.
    cdef public bint atomic_batch_under_way
    cdef object batches          # (number after it, bytes): what the slots point into
    cdef list other
    cdef bint busy

    def __cinit__(self):
        self.base = self.next = self.first_slot = self.all_sent = 1
        self.last_of_user = <uint64_t*> calloc(PLACES, sizeof(uint64_t))
        if self.last_of_user == NULL:
            raise MemoryError("no memory for the messages in flight")
        self.plain_acks = ((), ())
        self.reply = b""
        self.batches = deque()
        self.other = []

    def __dealloc__(self):
        free(self.slots.data)
        free(self.line.data)
        free(self.out.data)
        free(self.last_of_user)

    # -- what answers look like, and where the streams stand ---------------------------------------

    def set_inbox(self, bytes inbox not None) -> None:
        """A new connection has a new inbox; answers to the old one are lost."""
        self.reply = inbox + b"."
        self.other = []

    def set_stream(self, int kind, bytes name not None, bytes domain not None) -> None:
        """Only PubAcks of this stream, in this JetStream domain (b"" for none), confirm."""
        middle = b', "domain":"' + domain + b'"' if domain else b""
        spaced = b'{"stream":"' + name + b'"' + middle + b', "seq":'
        acks = list(self.plain_acks)
        acks[kind] = (spaced.replace(b", ", b","), spaced)
        self.plain_acks = tuple(acks)

    def ignore_plain_acks(self) -> None:
        """Have all answers kept for Python."""
        self.plain_acks = ((), ())

    def set_position(self, int kind, uint64_t sequence, bytes id not None=b"") -> None:
        """A sequence after which the stream stores whatever is sent for the first time from now on,
        with the id of the message there. What was sent already lies after its own ``floor``."""
        self.sequences[kind] = sequence
        self.ids_known[kind] = len(id) == ID_BYTES
        if self.ids_known[kind]:
            memcpy(self.ids[kind], PyBytes_AS_STRING(id), ID_BYTES)

    def position(self, int kind) -> tuple[int, bytes]:
        """That of ``set_position``, or a greater one that was confirmed since, and the id of its
        message; b"" if it is not known."""
        return self.sequences[kind], self.ids[kind][:ID_BYTES] if self.ids_known[kind] else b""

    def lower_floors(self, int kind, uint64_t sequence) -> None:
        """The stream ends at ``sequence`` now, or is another one (0)."""
        cdef uint64_t number
        for number in range(self.base, self.next):
            if self.slot(number).kind == kind:
                self.slot(number).floor = min(self.slot(number).floor, sequence)

    def floor(self, int kind) -> int:
        """All messages of a kind that were sent and are unconfirmed lie after this sequence, if
        the stream holds them at all; -1 when there are none."""
        cdef uint64_t number, lowest = 0
        cdef bint found = False
        cdef Slot* slot
        for number in range(self.base, self.next):
            slot = self.slot(number)
            if slot.kind == kind and slot.sends and slot.state != CONFIRMED:
                if not found or slot.floor < lowest:
                    lowest = slot.floor
                found = True
        return lowest if found else -1

    # -- in ----------------------------------------------------------------------------------------

    def add(self, bytes batch not None, int64_t stored_arrival_ns=0) -> tuple[int, int]:
        """Give numbers to a batch of outgoing records; the first one and how many.

        What comes from input that arrived up to ``stored_arrival_ns`` is stored, or given up, and
        confirmed at once."""
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch), position = 0
        cdef const OutgoingRecord* record
        cdef uint64_t first = self.next
        if DEBUG_CHECKS:
            check_outgoing(data, length)
        self.forget_confirmed()
        while position < length:
            record = <const OutgoingRecord*> (data + position)
            if not self.add_slot(record):
                raise MemoryError("no memory for another outgoing message")
            if 0 < record.arrival_ns <= stored_arrival_ns:
                self.set_confirmed(self.next - 1, 0)
            position += padded(sizeof(OutgoingRecord) + record.headers_len + record.body_len)
        if self.next > first:
            self.batches.append((self.next, batch))
            self.listed_bytes += length
        return first, self.next - first

    cdef bint add_slot(self, const OutgoingRecord* record) noexcept:
        """Give the next number to a record, and link a digest with the one before of its user that
        is unconfirmed. False when there is no memory."""
        cdef Slot* slot
        cdef uint64_t before = 0, number = self.next
        cdef uint64_t* last
        if not buffer_reserve(&self.slots, sizeof(Slot)):
            return False
        slot = self.slot(number)
        memset(slot, 0, sizeof(Slot))
        slot.record = record
        slot.kind = (
            OUTGOING_DIGEST if record.kind == OUTGOING_DIGEST else OUTGOING_REJECTION)
        slot.state = READY
        if slot.kind == OUTGOING_DIGEST:
            last = &self.last_of_user[record.user & (PLACES - 1)]
            slot.same_place = last[0] if last[0] >= self.base else 0
            before = slot.same_place
            while before >= self.base and (
                    self.slot(before).state == CONFIRMED
                    or self.slot(before).record.user != record.user):
                before = self.slot(before).same_place
            last[0] = number
            if before >= self.base:
                slot.earlier = before
                slot.state = WAITING
                self.slot(before).later = number
        self.slots.used += sizeof(Slot)
        self.next += 1
        return slot.state == WAITING or self.line_up(number)

    cdef bint line_up(self, uint64_t number) noexcept:
        if not buffer_reserve(&self.line, sizeof(number)):
            return False
        buffer_put(&self.line, &number, sizeof(number))
        return True

    cdef void forget_confirmed(self):
        """Give back the room of what is confirmed, now and then."""
        while self.batches and self.batches[0][0] <= self.base:
            self.listed_bytes -= PyBytes_GET_SIZE(self.batches.popleft()[1])
        if self.base - self.first_slot > COMPACT_AT:
            memmove(self.slots.data, self.slot(self.base), (self.next - self.base) * sizeof(Slot))
            self.first_slot = self.base
            self.slots.used = (self.next - self.base) * sizeof(Slot)
        while (self.line_head * sizeof(uint64_t) < self.line.used
               and (<uint64_t*> self.line.data)[self.line_head] < self.base):
            self.line_head += 1  # confirmed by others before it was sent
        if self.line_head * sizeof(uint64_t) == self.line.used:
            self.line.used = self.line_head = 0
        elif self.line_head > COMPACT_AT:
            self.line.used -= self.line_head * sizeof(uint64_t)
            memmove(self.line.data, self.line.data + self.line_head * sizeof(uint64_t),
                    self.line.used)
            self.line_head = 0

    cdef inline Slot* slot(self, uint64_t number) noexcept nogil:
        return <Slot*> self.slots.data + (number - self.first_slot)

    # -- out ---------------------------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        """Whether ``frame`` may have something to send."""
        return self.line_head * sizeof(uint64_t) < self.line.used

    @property
    def all_sent_below(self) -> int:
        """Every message below this number was sent once, or is confirmed without."""
        self.all_sent = max(self.all_sent, self.base)
        while self.all_sent < self.next and (
                self.slot(self.all_sent).sends or self.slot(self.all_sent).state == CONFIRMED):
            self.all_sent += 1
        return self.all_sent

    def frame(
        self, bytes digest_subject not None, bytes rejected_subject not None, size_t max_payload,
        uint64_t most_messages, size_t most_bytes, bytes mark not None=b"",
    ) -> tuple[bytes, int, list[int], int, bool]:
        """Frame messages that may be sent: ``(wire, messages, unpublishable, largest, marked)``.

        Ends with the message that reaches ``most_bytes``. ``unpublishable`` are the numbers of
        digests that are larger than ``max_payload``, and of rejected messages whose headers alone
        are; ``largest`` is the largest digest in bytes, as
        the server counts them. ``mark`` is a whole header line for the first digest; ``marked``
        says whether there was one. Runs without the GIL.
        """
        cdef Wire w
        cdef uint64_t number, unpublishable, sent = 0
        cdef bint enough_memory = True
        cdef Slot* slot
        cdef Buffer skipped          # array of uint64_t
        cdef size_t messages
        memset(&w, 0, sizeof(w))
        memset(&skipped, 0, sizeof(skipped))
        w.digest_subject = text_of(digest_subject)
        w.rejected_subject = text_of(rejected_subject)
        w.reply = text_of(self.reply)
        w.mark = text_of(mark)
        w.max_payload = max_payload
        enter(&self.busy)
        w.out = self.out
        memset(&self.out, 0, sizeof(Buffer))
        try:
            with nogil:
                while (self.line_head * sizeof(uint64_t) < self.line.used and sent < most_messages
                       and w.out.used < most_bytes and enough_memory):
                    number = (<uint64_t*> self.line.data)[self.line_head]
                    self.line_head += 1
                    if number < self.base or self.slot(number).state != READY:
                        continue
                    slot = self.slot(number)
                    unpublishable = w.unpublishable
                    enough_memory = put_message(&w, slot.record, number)
                    if not enough_memory:
                        break
                    if w.unpublishable > unpublishable:
                        slot.state = FAILED
                        self.failed += 1
                        enough_memory = buffer_reserve(&skipped, sizeof(number))
                        if enough_memory:
                            buffer_put(&skipped, &number, sizeof(number))
                        continue
                    self.note_sending(slot)
                    sent += 1
            if not enough_memory:
                raise MemoryError("no memory to frame outgoing messages")
            numbers = [
                (<uint64_t*> skipped.data)[i] for i in range(skipped.used // sizeof(number))
            ]
            return (PyBytes_FromStringAndSize(<char*> w.out.data, w.out.used), sent, numbers,
                    w.largest_digest, len(mark) > 0 and w.mark.length == 0)
        finally:
            self.busy = False
            buffer_clear(&w.out, KEEP_BYTES)
            self.out = w.out
            free(skipped.data)

    def frame_fenced(
        self, bytes digest_subject not None, bytes rejected_subject not None, size_t max_payload,
        uint64_t most_messages, size_t most_bytes, bytes fence not None, bytes batch not None,
        uint64_t batch_from, bytes mark not None=b"",
    ) -> tuple[bytes, int, int, int, list[int], int, bool]:
        """Frame what a leader may send: all rejected messages, and either one digest or, of at
        least ``batch_from``, an atomic batch. No other digest may be under way.

        ``fence`` are the header lines of every digest, ``batch`` those of a batch with the
        beginning of the line that numbers its messages. Returns ``(wire, digests, rejections, last,
        unpublishable, largest, marked)``: ``last`` is the number of the last digest, the rest is as
        ``frame`` has it. Runs without the GIL.
        """
        cdef Wire w
        cdef Fenced how
        cdef uint64_t number, count, last = 0, rejections = 0
        cdef int64_t i
        cdef size_t room, bytes_chosen = 0
        cdef bint enough = True
        cdef Slot* slot
        cdef Buffer chosen, skipped  # arrays of uint64_t
        memset(&w, 0, sizeof(w))
        memset(&how, 0, sizeof(how))
        memset(&chosen, 0, sizeof(chosen))
        memset(&skipped, 0, sizeof(skipped))
        w.digest_subject = text_of(digest_subject)
        w.rejected_subject = text_of(rejected_subject)
        w.reply = text_of(self.reply)
        w.mark = text_of(mark)
        w.max_payload = max_payload
        how.fence = text_of(fence)
        how.batch = text_of(batch)
        # What the headers of a digest take at most, beside its own.
        room = 10 + 2 + how.fence.length + how.batch.length + 8 + COMMIT_BYTES + w.mark.length
        enter(&self.busy)
        w.out = self.out
        memset(&self.out, 0, sizeof(Buffer))
        try:
            with nogil:
                while (enough and self.line_head * sizeof(uint64_t) < self.line.used
                       and chosen.used < most_messages * sizeof(uint64_t)
                       and bytes_chosen + w.out.used < most_bytes):
                    number = (<uint64_t*> self.line.data)[self.line_head]
                    self.line_head += 1
                    if number < self.base or self.slot(number).state != READY:
                        continue
                    slot = self.slot(number)
                    if slot.kind != 0:
                        count = w.unpublishable
                        enough = put_message(&w, slot.record, number)
                        if enough and w.unpublishable == count:
                            self.note_sending(slot)
                            rejections += 1
                            continue
                    elif room + slot.record.headers_len + slot.record.body_len <= max_payload:
                        # And those that wait for it, in their order: a batch is stored whole.
                        while enough:
                            bytes_chosen += slot.record.headers_len + slot.record.body_len
                            enough = buffer_reserve(&chosen, sizeof(number))
                            if enough:
                                buffer_put(&chosen, &number, sizeof(number))
                            number = slot.later
                            if (number < self.base or self.slot(number).state != WAITING
                                    or chosen.used >= most_messages * sizeof(uint64_t)
                                    or bytes_chosen + w.out.used >= most_bytes):
                                break
                            slot = self.slot(number)
                            if (room + slot.record.headers_len + slot.record.body_len
                                    > max_payload):
                                break
                        continue
                    else:
                        w.largest_digest = max(
                            w.largest_digest,
                            room + slot.record.headers_len + slot.record.body_len)
                    slot.state = FAILED
                    self.failed += 1
                    enough = enough and buffer_reserve(&skipped, sizeof(number))
                    if enough:
                        buffer_put(&skipped, &number, sizeof(number))
                count = chosen.used // sizeof(uint64_t)
                if 1 < count < batch_from:
                    # All but the first go back to where the line begins, in order, except those
                    # that were in no line.
                    for i in range(count - 1, 0, -1):
                        number = (<uint64_t*> chosen.data)[i]
                        if self.slot(number).state == READY:
                            self.line_head -= 1
                            (<uint64_t*> self.line.data)[self.line_head] = number
                    count = 1
                for i in range(count):
                    if not enough:
                        break
                    last = (<uint64_t*> chosen.data)[i]
                    slot = self.slot(last)
                    how.commit = i + 1 == count and count > 1
                    enough = put_fenced(&w, slot.record, last, &how, i + 1 if count > 1 else 0)
                    self.note_sending(slot)
            if not enough:
                raise MemoryError("no memory to frame outgoing messages")
            numbers = [
                (<uint64_t*> skipped.data)[i] for i in range(skipped.used // sizeof(number))
            ]
            return (PyBytes_FromStringAndSize(<char*> w.out.data, w.out.used), count, rejections,
                    last, numbers, w.largest_digest, len(mark) > 0 and w.mark.length == 0)
        finally:
            self.busy = False
            buffer_clear(&w.out, KEEP_BYTES)
            self.out = w.out
            free(chosen.data)
            free(skipped.data)

    cdef inline void note_sending(self, Slot* slot) noexcept nogil:
        if slot.sends == 0:
            slot.floor = self.sequences[slot.kind]
        else:
            self.resent += 1
        if slot.sends < 255:
            slot.sends += 1
        self.sendings += 1
        slot.sending = self.sendings
        slot.state = SENT
        self.under_way += 1

    def unsend(self, int kind) -> None:
        """Whatever was sent of a kind and is unconfirmed is to be sent again, in order."""
        self.line.used = self.line_head = 0
        cdef uint64_t number
        cdef Slot* slot
        for number in range(self.base, self.next):
            slot = self.slot(number)
            if slot.state == SENT and slot.kind == kind:
                self.under_way -= 1
                self.list_again(number)
            elif slot.state == READY and not self.line_up(number):
                raise MemoryError("no memory for the line of messages")

    def retry_failed(self) -> None:
        """What failed may be sent again, after what waits already."""
        cdef uint64_t number
        if self.failed == 0:
            return
        for number in range(self.base, self.next):
            if self.slot(number).state == FAILED:
                self.list_again(number)
        self.failed = 0

    cdef int list_again(self, uint64_t number) except -1:
        """It may be sent, or waits for an earlier one of the same user."""
        cdef Slot* slot = self.slot(number)
        if slot.earlier >= self.base and self.slot(slot.earlier).state != CONFIRMED:
            slot.state = WAITING
            return 0
        slot.state = READY
        if not self.line_up(number):
            raise MemoryError("no memory for the line of messages")
        return 0

    # -- answers -----------------------------------------------------------------------------------

    def kind_of(self, uint64_t number) -> int:
        """DIGEST or REJECTION; -1 if the message does not wait."""
        if not self.base <= number < self.next or self.slot(number).state == CONFIRMED:
            return -1
        return self.slot(number).kind

    def kind_of_sent(self, uint64_t number) -> int:
        """Likewise also of one that was confirmed lately; -1 for what nobody knows."""
        return self.slot(number).kind if self.first_slot <= number < self.next else -1

    def is_under_way(self, uint64_t number) -> bool:
        """Whether a message was sent and not answered."""
        return self.base <= number < self.next and self.slot(number).state == SENT

    def numbers_under_way(self, int kind) -> list[int]:
        """The numbers of messages of a kind that were sent and not answered."""
        cdef uint64_t number
        return [number for number in range(self.base, self.next)
                if self.slot(number).state == SENT and self.slot(number).kind == kind]

    def first_under_way(self) -> tuple[int, int]:
        """Two messages that were sent and not answered, each by the count of its sending: the first
        of all, and the first of which a later one of its kind is confirmed already. 0: none.

        A stream answers in order, but for moments.
        """
        cdef uint64_t number, first = 0, overtaken = 0
        cdef Slot* slot
        if self.under_way == 0:
            return 0, 0
        for number in range(self.base, self.next):
            slot = self.slot(number)
            if slot.state != SENT:
                continue
            if first == 0 or slot.sending < first:
                first = slot.sending
            if slot.sending < self.newest_confirmed[slot.kind]:
                if overtaken == 0 or slot.sending < overtaken:
                    overtaken = slot.sending
        return first, overtaken

    def count_answer(self, uint64_t number) -> None:
        """Note one answer to a message, whatever it says."""
        cdef Slot* slot
        if not self.first_slot <= number < self.next:
            return
        slot = self.slot(number)
        if slot.answers < 255:
            slot.answers += 1
        if slot.answers > slot.sends and slot.sends < 255:
            self.second_answers += 1

    def on_publish_error(self, uint64_t number) -> bool:
        """A message was answered with an error: it waits for ``retry_failed``. False if it was not
        under way."""
        if not self.base <= number < self.next or self.slot(number).state != SENT:
            return False
        self.slot(number).state = FAILED
        self.under_way -= 1
        self.failed += 1
        return True

    def confirm_batch(self, uint64_t last, uint64_t sequence) -> None:
        """All digests that are under way are stored, the one numbered ``last`` with ``sequence``
        and the others before it."""
        cdef uint64_t number
        for number in range(self.base, self.next):
            if (number >= self.base and number != last and self.slot(number).kind == 0
                    and self.slot(number).state == SENT):
                self.set_confirmed(number, 0)
        self.confirm(last, sequence)

    def confirm_through(self, int64_t arrival_ns) -> tuple[int, int]:
        """Whatever comes from input that arrived up to then is stored, or given up, by somebody else;
        how many digests and rejected messages these were."""
        cdef uint64_t number, digests = self.digests, rejections = self.rejections
        cdef Slot* slot
        for number in range(self.base, self.next):
            if number < self.base:
                continue
            slot = self.slot(number)
            if slot.state != CONFIRMED and slot.record.arrival_ns <= arrival_ns:
                self.set_confirmed(number, 0)
        return self.digests - digests, self.rejections - rejections

    def confirm(self, uint64_t number, uint64_t sequence=0) -> None:
        """A message is in its stream, or given up. ``sequence`` where the stream has told
        it: whatever is sent for the first time from now on is stored after it."""
        if self.base <= number < self.next:
            self.set_confirmed(number, sequence)

    cdef int set_confirmed(self, uint64_t number, uint64_t sequence) except -1:
        cdef Slot* slot = self.slot(number)
        if slot.state == CONFIRMED:
            return 0
        if slot.state == SENT:
            self.under_way -= 1
        elif slot.state == FAILED:
            self.failed -= 1
        slot.state = CONFIRMED
        if slot.sends == 1:          # else it may be an earlier sending that was answered
            self.newest_confirmed[slot.kind] = max(self.newest_confirmed[slot.kind], slot.sending)
        if slot.kind == OUTGOING_DIGEST:
            self.digests += 1
        else:
            self.rejections += 1
        if sequence > self.sequences[slot.kind]:
            self.sequences[slot.kind] = sequence
            self.ids_known[slot.kind] = slot.record.headers_len >= ID_LINE
            if self.ids_known[slot.kind]:       # the id is the last line
                memcpy(self.ids[slot.kind], <const char*> slot.record + sizeof(OutgoingRecord)
                       + slot.record.headers_len - ID_BYTES - 2, ID_BYTES)
        self.let_next_go(slot)
        slot.record = NULL
        while self.base < self.next and self.slot(self.base).state == CONFIRMED:
            self.base += 1
        return 0

    cdef int let_next_go(self, Slot* slot) except -1:
        """The next message of the user may be sent, unless one before this one still waits."""
        cdef Slot* earlier = NULL
        cdef Slot* later
        if slot.earlier >= self.base and self.slot(slot.earlier).state != CONFIRMED:
            earlier = self.slot(slot.earlier)
            earlier.later = slot.later
        if slot.later < self.base:
            return 0
        later = self.slot(slot.later)
        later.earlier = slot.earlier if earlier != NULL else 0
        if earlier == NULL and later.state == WAITING:
            later.state = READY
            if not self.line_up(slot.later):
                raise MemoryError("no memory for the line of messages")
        return 0

    def scan(self, buffer, Py_ssize_t start, Py_ssize_t end) -> int:
        """Take in all whole frames of ``buffer[start:end]``; the position after the last one.

        Raises ProtocolError at bytes that are no frame.
        """
        cdef Py_buffer view
        cdef Frame frame
        cdef int kind
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            check_bounds(start, end, view.len)
            while start < end:
                kind = scan_frame(<const uint8_t*> view.buf + start, end - start, &frame)
                if kind == FRAME_PARTIAL:
                    break
                if kind == FRAME_BAD:
                    raise ProtocolError(not_a_frame(buffer, start, end))
                if kind != FRAME_MSG or not self.take_plain_ack(&frame):
                    self.other.append((
                        kind, self.number_of(&frame) if frame_is_message(kind) else -1,
                        to_bytes(frame.headers) if kind == FRAME_HMSG else b"",
                        to_bytes(frame.payload) if frame_has_text(kind) else b"",
                    ))
                start += frame.size
            return start
        finally:
            PyBuffer_Release(&view)

    def take_other(self) -> list[tuple[int, int, bytes, bytes]]:
        """``(frame kind, number, headers, text)`` of what was no plain PubAck; number -1: none."""
        cdef list taken = self.other
        if taken:
            self.other = []
        return taken

    cdef long long number_of(self, Frame* frame):
        """The number that an answer is about; -1 for what is no answer to us."""
        cdef size_t length = PyBytes_GET_SIZE(self.reply)
        cdef Span digits
        cdef uint64_t number
        if (frame.sid != THE_ACK_SID or frame.subject.length <= length
                or memcmp(frame.subject.data, PyBytes_AS_STRING(self.reply), length) != 0):
            return -1
        digits.data = frame.subject.data + length
        digits.length = frame.subject.length - length
        if not read_number(digits, &number):
            return -1
        return <long long> number

    cdef bint take_plain_ack(self, Frame* frame):
        """``{"stream":"<name>", "seq":<number>}``, of the stream that the message belongs to."""
        cdef long long number = self.number_of(frame)
        cdef Slot* slot
        cdef bytes begins
        cdef size_t length
        cdef Span digits
        cdef uint64_t sequence
        if number < <long long> self.base or number >= <long long> self.next:
            return False
        slot = self.slot(number)
        if slot.state != SENT or (self.atomic_batch_under_way and slot.kind == OUTGOING_DIGEST):
            return False
        for begins in <tuple> self.plain_acks[slot.kind]:
            length = PyBytes_GET_SIZE(begins)
            if (frame.payload.length < length + 2
                    or memcmp(frame.payload.data, PyBytes_AS_STRING(begins), length) != 0
                    or frame.payload.data[frame.payload.length - 1] != 125):
                continue
            digits.data = frame.payload.data + length
            digits.length = frame.payload.length - length - 1
            if not read_number(digits, &sequence) or sequence == 0:
                return False
            if slot.answers < 255:
                slot.answers += 1
            self.set_confirmed(number, sequence)
            return True
        return False


cdef inline bint frame_is_message(int kind):
    return kind == FRAME_MSG or kind == FRAME_HMSG


cdef inline bint frame_has_text(int kind):
    return frame_is_message(kind) or kind == FRAME_INFO or kind == FRAME_ERR


cdef bytes to_bytes(Span span):
    return PyBytes_FromStringAndSize(<const char*> span.data, span.length)
