"""The hot path of the listener's thread: frames -> orjson -> check -> mmh3 -> a batch per worker.

Messages come from plain subscriptions or from a pull consumer of a stream; a subscription's number
tells which. What a stream delivers tells its sequence in the reply subject
(``$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp>.<pending>``, with
domain and account hash before the stream in newer servers).

One call takes the plain shape of a message only: the exact field names (and Go's ``UserId``), all
values valid. Whatever it does not take goes, at its place in the order, to
``SlowPath.read_or_reject``, which has ``alarmdigest.wire.messages`` parse it: that knows every
spelling and every reason to reject. In core mode, of a flood of them, most are only counted here
(``Rejections.count_if_sampled_out``). What this one takes, that one reads the same; a property test
holds them together.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from buffers cimport KEEP_BYTES, Buffer, buffer_clear, buffer_put, buffer_reserve
from deliveries cimport Delivery, read_delivery
from frames cimport (
    FRAME_BAD, FRAME_ERR, FRAME_HMSG, FRAME_INFO, FRAME_MSG, FRAME_PARTIAL, Frame, Span,
    check_bounds, not_a_frame, scan_frame,
)
from input_fields cimport (
    ALARM_FIELD, CHANGED_AT_FIELD, REASON_JSON, REASON_SCHEMA, REASON_UNKNOWN, STATUS_FIELD,
    USER_FIELD, EventFields, Shape, find_fields, forget_shape, is_no_json, reason_of, status_of,
    text_of, user_field,
)
from records cimport (
    KIND_EVENT, KIND_FORGET, KIND_REQUEST, MAX_ID_BYTES, POSITION_BYTES, STATUS_CLEARED, STATUS_NONE,
    RoutedRecord, padded,
)
from timestamps cimport parse_rfc3339

import orjson

from alarmdigest._ext.frames import ProtocolError
from alarmdigest._ext.timestamps import DAY_NS

EVENT = KIND_EVENT
REQUEST = KIND_REQUEST
FORGET = KIND_FORGET

# How the listener's thread numbers its subscriptions: the router tells by the number what a message is.
EVENT_SIDS = (1, 2)
REQUEST_SIDS = (3, 4)
FORGET_SIDS = (5, 6)
# What a pull consumer delivers, on the original subjects, and the statuses of its pulls.
STREAM_SID = 4000
# Answers to what is asked beside it, see take_answers().
LEADER_SID = 4010

cdef enum:
    LAST_EVENT_SID = 2
    LAST_REQUEST_SID = 4
    LAST_FORGET_SID = 6
    THE_STREAM_SID = 4000
    THE_LEADER_SID = 4010

cdef int64_t A_DAY_NS = DAY_NS

cdef object loads = orjson.loads
cdef object DecodeError = orjson.JSONDecodeError


cdef inline bytes text_of_frame(int kind, Frame* frame):
    """What stands after INFO or -ERR, the headers of a status; nothing for the others."""
    if kind == FRAME_INFO or kind == FRAME_ERR:
        return PyBytes_FromStringAndSize(<const char*> frame.payload.data, frame.payload.length)
    if kind == FRAME_HMSG:
        return PyBytes_FromStringAndSize(<const char*> frame.headers.data, frame.headers.length)
    return b""


cdef inline bint lies_in(Span subject, bytes base):
    """Whether a subject is the base or below it."""
    cdef size_t length = PyBytes_GET_SIZE(base)
    return (subject.length >= length
            and memcmp(subject.data, PyBytes_AS_STRING(base), length) == 0
            and (subject.length == length or subject.data[length] == 46))


cdef inline bint equals(Span text, bytes other):
    return (text.length == <size_t> PyBytes_GET_SIZE(other)
            and memcmp(text.data, PyBytes_AS_STRING(other), text.length) == 0)


def last_written(bytes payload not None, frozenset keys not None) -> str:
    """Which of these keys of the outermost object stands last in the text, a valid JSON object.

    A dict cannot tell: it keeps a repeated key at the place of its first appearance.
    """
    cdef const uint8_t* text = <const uint8_t*> PyBytes_AS_STRING(payload)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(payload)
    cdef Py_ssize_t longest = 2 + 6 * max(map(len, keys))    # all of it written as \u0041
    cdef Py_ssize_t i = 0, start, end
    cdef int depth = 0
    cdef object last = None
    while i < length:
        if text[i] == 34:
            start = i
            i += 1
            while i < length and text[i] != 34:
                i += 2 if text[i] == 92 else 1
            i += 1
            end = i
            while i < length and (text[i] == 32 or 9 <= text[i] <= 13):
                i += 1
            # Only a key has a colon after it.
            if depth == 1 and i < length and text[i] == 58 and end - start <= longest:
                key = loads(payload[start:end])
                if key in keys:
                    last = key
            continue
        if text[i] == 123 or text[i] == 91:
            depth += 1
        elif text[i] == 125 or text[i] == 93:
            depth -= 1
        i += 1
    return last


class DeliveryGap(ValueError):
    """A consumer's deliveries are not contiguous: some were lost on their way to us."""


cdef class Router:
    """Turns what the socket read into one packed batch per worker. Used by one thread.

    ``sequence`` and ``timestamp_ns`` tell the last message of a stream that was read, or that its
    consumer passed over; ``pending`` how many the stream holds after it, as the
    last delivery said (0 while the stream's leader is read), ``delivered`` how many all
    its consumers have sent us so far.

    A stream may have to be read again by books that know it already. Its events merge to what is
    there; its requests were answered, and would get what came since then. So those that may have
    been read before (see ``begin_reread``) are counted in ``not_answered`` and not routed, and such
    events count as having arrived at the greatest of the stream's times among those reread so far. Whom to forget is routed again: else
    the events before it would bring back what was forgotten. ``stepped_back_ns`` is how much
    earlier, at most, a message's time was than that of one before it; ``arrival_steps`` how often one was
    more than a day ahead of both our clock and all earlier ones.
    """

    cdef Buffer* batches
    cdef uint32_t workers
    cdef uint32_t buckets
    cdef object hash32
    cdef object read_or_reject
    cdef object count_if_sampled_out
    cdef int64_t skew_ns
    cdef int64_t now_ns
    cdef list other
    cdef list answers
    cdef bytes event_subject
    cdef bytes request_subject
    cdef bytes forget_subject
    cdef Shape shape
    cdef bytearray payload       # of the message that is being decoded
    cdef bint only_traced
    cdef public bytes traced
    cdef list places
    cdef uint64_t consumer_seq
    cdef bint in_stream
    cdef bint read_before
    cdef uint64_t gap_first
    cdef uint64_t gap_last
    cdef uint64_t gap_count
    cdef int64_t message_arrival_ns
    cdef public int64_t arrival_ns
    cdef public int64_t stepped_back_ns
    cdef readonly uint64_t arrival_steps
    cdef readonly uint64_t reread_seq
    cdef readonly int64_t reread_ns
    cdef readonly int64_t reread_stepped_back_ns
    cdef int64_t reread_newest_ns
    cdef readonly uint64_t not_answered
    cdef readonly uint64_t sequence
    cdef readonly int64_t timestamp_ns
    cdef public uint64_t pending
    cdef readonly uint64_t delivered
    cdef readonly uint64_t deleted
    cdef readonly uint64_t redelivered
    cdef readonly uint64_t foreign
    cdef readonly uint64_t events
    cdef readonly uint64_t requests
    cdef readonly uint64_t forgets
    cdef readonly uint64_t slow_path
    cdef readonly uint64_t clamped
    cdef readonly uint64_t dropped_events
    cdef readonly uint64_t dropped_requests
    cdef readonly uint64_t dropped_forgets
    cdef readonly size_t wanted

    def __cinit__(
        self, *, uint32_t workers, uint32_t buckets, hash32, int64_t skew_ns, read_or_reject,
        bytes event_subject=b"AlarmStatusChanged", bytes request_subject=b"SendAlarmDigest",
        bytes forget_subject=b"ForgetUser", count_if_sampled_out=None, bytes only_user=None,
    ):
        """``hash32(user, 0, False)`` is mmh3; ``read_or_reject(kind, payload, subject, stored_at)``
        gives ``(user, alarm, status, time_ns)`` with ids as bytes, or None for what it has rejected.
        ``stored_at`` is ``(sequence, timestamp_ns, arrival_ns)`` of a stream's message, else None.

        ``count_if_sampled_out(kind, reason)`` is asked before that where a plain subscription's
        message is certainly rejected, for the reason of that place in ``messages.REASONS``: true if
        it has been counted and nobody need read it.

        With ``only_user`` no other user's messages are routed, and they are traced.
        """
        if not 1 <= buckets <= 65536:
            raise ValueError("buckets must be from 1 to 65536, so that 16 bits hold a bucket")
        if workers < 1:
            raise ValueError("workers must be at least 1")
        self.batches = <Buffer*> calloc(workers, sizeof(Buffer))
        if self.batches == NULL:
            raise MemoryError("no memory for the workers' batches")
        self.workers = workers
        self.buckets = buckets
        self.hash32 = hash32
        self.skew_ns = skew_ns
        self.read_or_reject = read_or_reject
        self.count_if_sampled_out = count_if_sampled_out
        self.event_subject = event_subject
        self.request_subject = request_subject
        self.forget_subject = forget_subject
        self.traced = only_user
        self.only_traced = only_user is not None
        self.places = []
        self.other = []
        self.answers = []
        self.payload = bytearray()

    def __dealloc__(self):
        cdef uint32_t i
        forget_shape(&self.shape)
        if self.batches != NULL:
            for i in range(self.workers):
                free(self.batches[i].data)
            free(self.batches)

    def scan(
        self, buffer, Py_ssize_t start, Py_ssize_t end, int64_t now_ns, int most=512,
        bint drop=False,
    ) -> int:
        """Route up to ``most`` frames of ``buffer[start:end]``; the position after the last one.

        ``most`` bounds how long the GIL is held: 512 plain messages take about 0.4 ms. With
        ``drop``, messages are counted and thrown away instead. Frames that are no input messages
        wait for take_other(). When it stops at an unfinished frame, ``wanted`` is the size of that
        frame as far as it is known, else 0. Raises ProtocolError at bytes that are no frame, and
        DeliveryGap where a consumer's message is missing; what came before has been routed then.
        """
        cdef Py_buffer view
        cdef Frame frame
        cdef int kind
        self.wanted = 0
        self.now_ns = now_ns
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            check_bounds(start, end, view.len)
            while start < end and most > 0:
                kind = scan_frame(<const uint8_t*> view.buf + start, end - start, &frame)
                if kind == FRAME_PARTIAL:
                    self.wanted = frame.size
                    break
                if kind == FRAME_BAD:
                    raise ProtocolError(not_a_frame(buffer, start, end))
                if kind != FRAME_MSG and kind != FRAME_HMSG:
                    self.other.append((kind, text_of_frame(kind, &frame)))
                elif 0 < frame.sid <= LAST_FORGET_SID:
                    if drop:
                        self.drop(&frame)
                    else:
                        self.in_stream = self.read_before = False
                        self.arrival_ns = max(self.arrival_ns + 1, self.now_ns)
                        self.message_arrival_ns = self.arrival_ns
                        if frame.sid <= LAST_EVENT_SID:
                            self.route_event(&frame)
                        elif frame.sid <= LAST_REQUEST_SID:
                            self.requests += 1
                            self.route_about_user(KIND_REQUEST, &frame)
                        else:
                            self.forgets += 1
                            self.route_about_user(KIND_FORGET, &frame)
                elif frame.sid == THE_STREAM_SID and frame.reply.length:
                    self.route_delivery(&frame)
                elif frame.sid == THE_LEADER_SID:
                    self.answers.append((
                        PyBytes_FromStringAndSize(
                            <const char*> frame.subject.data, frame.subject.length),
                        PyBytes_FromStringAndSize(
                            <const char*> frame.payload.data, frame.payload.length)))
                else:
                    self.other.append((kind, text_of_frame(kind, &frame)))
                start += frame.size
                most -= 1
            return start
        finally:
            PyBuffer_Release(&view)

    def take(self, uint32_t worker) -> bytes:
        """What has gathered for a worker, as one batch of routed records; empties it."""
        if worker >= self.workers:
            raise IndexError("no such worker")
        cdef Buffer* batch = &self.batches[worker]
        if batch.used == 0:
            return b""
        cdef bytes taken = PyBytes_FromStringAndSize(<char*> batch.data, batch.used)
        buffer_clear(batch, KEEP_BYTES)
        return taken

    def take_all(self) -> list:
        """``(worker, batch)`` for each worker for whom something has gathered; empties them all."""
        cdef uint32_t worker
        return [
            (worker, self.take(worker)) for worker in range(self.workers)
            if self.batches[worker].used
        ]

    def give_back(self) -> None:
        """Give back the memory of batches and of a large message, for when nothing comes."""
        cdef uint32_t worker
        for worker in range(self.workers):
            if self.batches[worker].used == 0:
                buffer_clear(&self.batches[worker], 0)
        if PyByteArray_GET_SIZE(self.payload) > KEEP_BYTES:
            self.payload = bytearray()

    def take_places(self) -> list:
        """``(sequence, timestamp_ns, clamped, offset)`` of each message of the user ``traced`` that
        was routed, and is in the batch of that user's worker at this offset; empties the list."""
        cdef list taken = self.places
        if taken:
            self.places = []
        return taken

    def take_other(self) -> list:
        """``(kind, text)`` of the frames that were no input messages, in order; empties the list."""
        cdef list taken = self.other
        if taken:
            self.other = []
        return taken

    def take_answers(self) -> list:
        """``(subject, payload)`` of what came on LEADER_SID, in order; empties the list."""
        cdef list taken = self.answers
        if taken:
            self.answers = []
        return taken

    def begin_deliveries(
        self, uint64_t after, int64_t timestamp_ns=0, *, uint64_t pending=0
    ) -> None:
        """A new consumer delivers from now on, all subjects of the stream; what is at or before
        sequence ``after``, whose message has this timestamp, is known. So many messages are
        ``pending``. Sequences that it skips are counted as deleted.
        """
        self.consumer_seq = 0
        self.sequence = after
        self.timestamp_ns = timestamp_ns
        self.pending = pending

    def begin_reread(
        self, uint64_t sequence, int64_t timestamp_ns, int64_t stepped_back_ns
    ) -> None:
        """What is at or before both of these may have been read before, whatever its sequence was
        then; unless its time is earlier than that of one before it by more than any was then."""
        self.reread_seq = sequence
        self.reread_ns = timestamp_ns
        self.reread_stepped_back_ns = stepped_back_ns
        self.reread_newest_ns = 0

    def take_gap(self) -> tuple | None:
        """``(first, last, count)``: the sequences that deliveries have skipped since the last call,
        from the first to the last of them; None if there were none."""
        if self.gap_count == 0:
            return None
        gap = (self.gap_first, self.gap_last, self.gap_count)
        self.gap_count = 0
        return gap

    cdef int route_delivery(self, Frame* frame) except -1:
        cdef Delivery delivery
        if not read_delivery(frame.reply, &delivery):
            raise ProtocolError("a delivery of a stream whose reply subject tells no sequence")
        if delivery.consumer_seq != self.consumer_seq + 1:
            raise DeliveryGap(
                f"delivery {delivery.consumer_seq} came after {self.consumer_seq}: "
                "what belongs in between was lost on its way")
        self.consumer_seq = delivery.consumer_seq
        self.delivered += 1
        self.pending = delivery.pending
        if delivery.stream_seq <= self.sequence:
            self.redelivered += 1
            return 0
        if delivery.stream_seq > self.sequence + 1:
            self.note_gap(delivery.stream_seq)
        self.sequence = delivery.stream_seq
        self.timestamp_ns = <int64_t> delivery.timestamp_ns
        self.read_before = self.sequence <= self.reread_seq and self.may_be_known()
        self.in_stream = True
        if lies_in(frame.subject, self.event_subject):
            self.arrive()
            return self.route_event(frame)
        if lies_in(frame.subject, self.request_subject):
            self.arrive()
            self.requests += 1
            return self.route_about_user(KIND_REQUEST, frame)
        if lies_in(frame.subject, self.forget_subject):
            self.arrive()
            self.forgets += 1
            return self.route_about_user(KIND_FORGET, frame)
        self.foreign += 1
        return 0

    cdef bint may_be_known(self) noexcept:
        """Whether a message of the part that is read again may have been read before."""
        cdef int64_t earlier_ns = self.reread_newest_ns - self.timestamp_ns
        self.reread_newest_ns = max(self.reread_newest_ns, self.timestamp_ns)
        return self.timestamp_ns <= self.reread_ns and earlier_ns <= self.reread_stepped_back_ns

    cdef void note_gap(self, uint64_t next_seq) noexcept:
        if self.gap_count == 0:
            self.gap_first = self.sequence + 1
        self.gap_last = next_seq - 1
        self.gap_count += next_seq - self.sequence - 1
        self.deleted += next_seq - self.sequence - 1

    cdef void arrive(self) noexcept:
        """Set the arrival of a stream's message; of one that was read before it is the greatest
        timestamp of these so far, which is not later than its arrival was then."""
        if self.read_before:
            self.message_arrival_ns = self.reread_newest_ns
        else:
            if self.timestamp_ns > max(self.arrival_ns, self.now_ns) + A_DAY_NS:
                self.arrival_steps += 1
            self.stepped_back_ns = max(self.stepped_back_ns, self.arrival_ns - self.timestamp_ns)
            self.arrival_ns = max(self.arrival_ns + 1, self.timestamp_ns)
            self.message_arrival_ns = self.arrival_ns

    cdef void drop(self, Frame* frame) noexcept:
        if frame.sid <= LAST_EVENT_SID:
            self.dropped_events += 1
        elif frame.sid <= LAST_REQUEST_SID:
            self.dropped_requests += 1
        else:
            self.dropped_forgets += 1

    cdef int route_event(self, Frame* frame) except -1:
        cdef object fields
        cdef EventFields found
        cdef Span user_id, alarm_id, status_text, changed_at
        cdef int status
        cdef int64_t time_ns
        self.events += 1
        if is_no_json(frame.payload) and self.is_only_counted(KIND_EVENT, REASON_JSON):
            return 0
        try:
            fields = self.decode(frame)
        except DecodeError:
            return self.route_slow_path(KIND_EVENT, frame, REASON_JSON)
        if not PyDict_CheckExact(fields):
            return self.route_slow_path(KIND_EVENT, frame, REASON_SCHEMA)
        find_fields(&self.shape, <dict> fields, &found)
        if not (text_of(found.values[USER_FIELD], &user_id) and user_id.length <= MAX_ID_BYTES
                and text_of(found.values[ALARM_FIELD], &alarm_id)
                and alarm_id.length <= MAX_ID_BYTES
                and text_of(found.values[STATUS_FIELD], &status_text)
                and text_of(found.values[CHANGED_AT_FIELD], &changed_at)):
            return self.route_slow_path(
                KIND_EVENT, frame, self.reason_if_sampling(KIND_EVENT, <dict> fields))
        status = status_of(status_text)
        if status == STATUS_NONE or not parse_rfc3339(changed_at.data, changed_at.length, &time_ns):
            return self.route_slow_path(
                KIND_EVENT, frame, self.reason_if_sampling(KIND_EVENT, <dict> fields))
        return self.append(
            KIND_EVENT, <object> found.values[USER_FIELD], user_id, alarm_id, status, time_ns)

    cdef object decode(self, Frame* frame):
        """By orjson, from one object for all payloads; it keeps nothing of it."""
        if PyByteArray_GET_SIZE(self.payload) != <Py_ssize_t> frame.payload.length:
            PyByteArray_Resize(self.payload, frame.payload.length)
        memcpy(PyByteArray_AS_STRING(self.payload), frame.payload.data, frame.payload.length)
        return loads(self.payload)

    cdef int route_about_user(self, int kind, Frame* frame) except -1:
        """A message that holds a UserID and nothing else: a request, or whom to forget."""
        cdef object fields
        cdef PyObject* user
        cdef Span user_id
        if is_no_json(frame.payload) and self.is_only_counted(kind, REASON_JSON):
            return 0
        try:
            fields = self.decode(frame)
        except DecodeError:
            return self.route_slow_path(kind, frame, REASON_JSON)
        if not PyDict_CheckExact(fields):
            return self.route_slow_path(kind, frame, REASON_SCHEMA)
        user = user_field(<dict> fields, 1)
        if not (text_of(user, &user_id) and user_id.length <= MAX_ID_BYTES):
            return self.route_slow_path(
                kind, frame, self.reason_if_sampling(kind, <dict> fields))
        return self.append_about_user(kind, <object> user, user_id)

    cdef int append_about_user(self, int kind, object user, Span user_id) except -1:
        cdef uint64_t position[2]
        cdef Span place
        if kind == KIND_REQUEST and self.read_before:
            self.not_answered += 1
            return 0
        place.data = <const uint8_t*> position
        place.length = 0
        if kind == KIND_REQUEST and self.in_stream:
            position[0] = self.sequence
            position[1] = <uint64_t> self.timestamp_ns
            place.length = POSITION_BYTES
        # To be forgotten again is what came by then: what came later is there already.
        return self.append(
            kind, user, user_id, place, STATUS_CLEARED,
            self.message_arrival_ns if kind == KIND_FORGET and self.read_before else 0)

    cdef bint is_only_counted(self, int kind, int reason) except -1:
        """Whether a message that is rejected needs no more attention; if so it has been counted.

        Never one of a stream: there nobody is cut off, and a replay must reject the same again.
        """
        return (not self.in_stream and self.count_if_sampled_out is not None
                and bool(self.count_if_sampled_out(kind, reason)))

    cdef int reason_if_sampling(self, int kind, dict fields) except -1:
        """Why the slow path will reject it, where count_if_sampled_out is to be asked (core mode); else,
        or where only the slow path can tell, REASON_UNKNOWN."""
        if self.in_stream or self.count_if_sampled_out is None:
            return REASON_UNKNOWN
        return reason_of(kind, fields)

    cdef int route_slow_path(self, int kind, Frame* frame, int reason) except -1:
        """Not the plain shape: ask the reader that knows them all. ``reason`` is why it will
        reject this one, or REASON_UNKNOWN."""
        cdef Span user_id, alarm_id
        if reason != REASON_UNKNOWN and self.is_only_counted(kind, reason):
            return 0
        self.slow_path += 1
        accepted = self.read_or_reject(
            kind,
            PyBytes_FromStringAndSize(<const char*> frame.payload.data, frame.payload.length),
            PyBytes_FromStringAndSize(<const char*> frame.subject.data, frame.subject.length),
            (self.sequence, self.timestamp_ns, self.message_arrival_ns) if self.in_stream else None)
        if accepted is None:
            return 0
        user, alarm, status, time_ns = accepted
        user_id.data = <const uint8_t*> PyBytes_AS_STRING(user)
        user_id.length = PyBytes_GET_SIZE(user)
        if kind != KIND_EVENT:
            return self.append_about_user(kind, user, user_id)
        alarm_id.data = <const uint8_t*> PyBytes_AS_STRING(alarm)
        alarm_id.length = PyBytes_GET_SIZE(alarm)
        return self.append(kind, user, user_id, alarm_id, status, time_ns)

    cdef int append(
        self, int kind, object user, Span user_id, Span id_or_position, int status, int64_t time_ns
    ) except -1:
        """Put one accepted message at the end of its worker's batch. In place of an AlarmID a request
        has its position in the stream."""
        cdef bint is_ahead
        cdef bint is_traced = self.traced is not None and equals(user_id, self.traced)
        if self.only_traced and not is_traced:
            return 0
        cdef uint32_t hashed = self.hash32(user, 0, False)
        cdef uint32_t bucket = hashed % self.buckets
        cdef Buffer* batch = &self.batches[bucket % self.workers]
        cdef size_t length = sizeof(RoutedRecord) + user_id.length + id_or_position.length
        cdef RoutedRecord* record
        if not buffer_reserve(batch, padded(length)):
            raise MemoryError("no memory for another message")
        is_ahead = time_ns > self.message_arrival_ns + self.skew_ns
        if is_ahead:
            time_ns = self.message_arrival_ns + self.skew_ns
            self.clamped += 1
        if is_traced:
            self.places.append((self.sequence, self.timestamp_ns, bool(is_ahead), batch.used))
        record = <RoutedRecord*> (batch.data + batch.used)
        memset(record, 0, sizeof(RoutedRecord))
        record.time_ns = time_ns
        record.arrival_ns = self.message_arrival_ns
        record.user_len = <uint16_t> user_id.length
        record.alarm_len = <uint16_t> id_or_position.length
        record.kind = <uint8_t> kind
        record.status = <uint8_t> status
        record.bucket = <uint16_t> bucket
        batch.used += sizeof(RoutedRecord)
        buffer_put(batch, user_id.data, user_id.length)
        if id_or_position.length:
            buffer_put(batch, id_or_position.data, id_or_position.length)
        memset(batch.data + batch.used, 0, padded(length) - length)
        batch.used += padded(length) - length
        return 0
