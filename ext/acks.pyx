"""Messages on their way into streams, and which of them JetStream has confirmed.

Every message gets a number and asks for its PubAck on ``<inbox>.<number>``. One answer that is as
the server usually writes it is read here; all others are kept for Python (``take_other``).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memmove, memset

from buffers cimport Buffer, buffer_put, buffer_reserve
from frames cimport (
    FRAME_BAD, FRAME_HMSG, FRAME_INFO, FRAME_ERR, FRAME_MSG, FRAME_PARTIAL, Frame, Span, read_number, scan_frame,
)
from outgoing cimport Text, Wire, put_message
from records cimport OUTGOING_DIGEST, OutgoingRecord, padded

from alarmdigest._ext.frames import ProtocolError

ACK_SID = 1
DIGEST = OUTGOING_DIGEST

cdef enum:
    THE_ACK_SID = 1
    COMPACT_AT = 65536
    ID_LINE = 47                 # "Nats-Msg-Id: ", 32 hex digits, CR LF

ctypedef struct Waiting:
    uint64_t seq                 # in its stream; NOT_CONFIRMED, or UNKNOWN_SEQ
    uint32_t kind

cdef enum:
    NOT_CONFIRMED = 0
    # Confirmed, but not by a PubAck for what this process sent: such a place in the stream may lie
    # behind messages of requests that come later.
    UNKNOWN_SEQ = 1


cdef Text text_of(bytes text):
    cdef Text found
    found.data = <const uint8_t*> PyBytes_AS_STRING(text)
    found.length = PyBytes_GET_SIZE(text)
    return found


cdef class AckWindow:
    """Numbers ``base`` … ``next - 1`` are in it; all below ``base`` are confirmed."""

    cdef Buffer slots            # array of Waiting, the first for number `origin`
    cdef uint64_t origin
    cdef readonly uint64_t base
    cdef readonly uint64_t next
    cdef bytes reply
    cdef tuple plain_acks        # by kind: how a plain PubAck of its stream begins
    cdef uint64_t last_seq[2]    # the greatest place of a message below `base`
    cdef readonly uint64_t digests
    cdef readonly uint64_t refusals
    cdef list other

    def __cinit__(self, bytes digest_stream not None, bytes rejected_stream not None):
        self.plain_acks = tuple(
            b'{"stream":"%b", "seq":' % name for name in (digest_stream, rejected_stream))
        self.reply = b""
        self.other = []

    def __dealloc__(self):
        free(self.slots.data)

    def set_inbox(self, bytes inbox not None) -> None:
        """A new connection has a new inbox; answers to the old one are lost."""
        self.reply = inbox + b"."
        self.other = []

    def set_last_seq(self, int kind, uint64_t seq) -> None:
        self.last_seq[1 if kind else 0] = seq

    def get_last_seq(self, int kind) -> int:
        """The place, in the stream of this kind of message, of the last one below ``base``."""
        return self.last_seq[1 if kind else 0]

    cdef Waiting* slot(self, uint64_t number) noexcept nogil:
        return <Waiting*> self.slots.data + (number - self.origin)

    def enter(self, bytes batch not None) -> tuple:
        """Give numbers to a batch of outgoing records; the first one and how many."""
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch), position = 0
        cdef const OutgoingRecord* record
        cdef Waiting* waiting
        cdef uint64_t first = self.next
        if self.base - self.origin > COMPACT_AT:
            memmove(self.slots.data, self.slot(self.base),
                    (self.next - self.base) * sizeof(Waiting))
            self.origin = self.base
            self.slots.used = (self.next - self.base) * sizeof(Waiting)
        while position < length:
            record = <const OutgoingRecord*> (data + position)
            if not buffer_reserve(&self.slots, sizeof(Waiting)):
                raise MemoryError("no memory for another outgoing message")
            waiting = self.slot(self.next)
            waiting.seq = NOT_CONFIRMED
            waiting.kind = 0 if record.kind == OUTGOING_DIGEST else 1
            self.slots.used += sizeof(Waiting)
            self.next += 1
            position += padded(sizeof(OutgoingRecord) + record.headers_len + record.body_len)
        return first, self.next - first

    def recognise(self, bytes batch not None, uint64_t first, dict stored not None,
                  bint ours) -> int:
        """Confirm the records of a batch whose id ``stored`` (id -> place in its stream) holds, and
        take these ids out of it; how many. ``ours``: this process has sent them.
        """
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch), position = 0
        cdef const OutgoingRecord* record
        cdef const char* headers
        cdef uint64_t number = first
        cdef int found = 0
        while position < length:
            record = <const OutgoingRecord*> (data + position)
            headers = <const char*> data + position + sizeof(OutgoingRecord)
            # The id is always the last line.
            if record.headers_len >= ID_LINE:
                headers += record.headers_len - ID_LINE
                seq = stored.pop(headers[13:45].decode("ascii"), None)
                if seq is not None:
                    self.confirm(number, seq if ours else UNKNOWN_SEQ)
                    found += 1
            number += 1
            position += padded(sizeof(OutgoingRecord) + record.headers_len + record.body_len)
        return found

    def to_wire(
        self, bytes batch not None, uint64_t first, bytes digest_subject not None,
        bytes rejected_subject not None, size_t max_payload,
    ) -> tuple:
        """Frame the records of a batch that are not confirmed:
        ``(wire, messages, largest, left_out)``.

        ``largest`` is the size of the largest digest as the server counts it; ``left_out`` are the
        numbers of refusals that are too large to be sent at all. Runs without the GIL.
        """
        cdef Wire w
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch), position = 0
        cdef uint64_t number = first, unpublishable
        cdef bint enough_memory = True
        cdef Buffer skipped          # array of uint64_t
        cdef const OutgoingRecord* record
        memset(&w, 0, sizeof(w))
        memset(&skipped, 0, sizeof(skipped))
        w.digest_subject = text_of(digest_subject)
        w.rejected_subject = text_of(rejected_subject)
        w.reply = text_of(self.reply)
        w.max_payload = max_payload
        try:
            with nogil:
                while position < length and enough_memory:
                    record = <const OutgoingRecord*> (data + position)
                    if number >= self.base and self.slot(number).seq == NOT_CONFIRMED:
                        unpublishable = w.unpublishable
                        enough_memory = put_message(&w, record, number)
                        if w.unpublishable > unpublishable and enough_memory:
                            enough_memory = buffer_reserve(&skipped, sizeof(number))
                            if enough_memory:
                                buffer_put(&skipped, &number, sizeof(number))
                    number += 1
                    position += padded(
                        sizeof(OutgoingRecord) + record.headers_len + record.body_len)
            if not enough_memory:
                raise MemoryError("no memory to frame outgoing messages")
            left_out = [
                (<uint64_t*> skipped.data)[i] for i in range(skipped.used // sizeof(number))
            ]
            return (PyBytes_FromStringAndSize(<char*> w.out.data, w.out.used),
                    w.digests + w.refusals, w.largest_digest, left_out)
        finally:
            free(w.out.data)
            free(skipped.data)

    def kind_of(self, uint64_t number) -> int:
        """Whether a message is a digest (0) or a refusal (1); -1 if it no longer waits."""
        if not self.base <= number < self.next or self.slot(number).seq != NOT_CONFIRMED:
            return -1
        return self.slot(number).kind

    def confirm(self, uint64_t number, uint64_t seq=UNKNOWN_SEQ) -> None:
        """A message is in its stream, or given up; ``seq`` only for a PubAck without "duplicate"."""
        if self.base <= number < self.next:
            self.set_confirmed(number, seq)

    cdef void set_confirmed(self, uint64_t number, uint64_t seq):
        cdef Waiting* waiting = self.slot(number)
        if waiting.seq != NOT_CONFIRMED:
            return
        waiting.seq = seq if seq else UNKNOWN_SEQ
        if waiting.kind == 0:
            self.digests += 1
        else:
            self.refusals += 1
        while self.base < self.next:
            waiting = self.slot(self.base)
            if waiting.seq == NOT_CONFIRMED:
                return
            if waiting.seq != UNKNOWN_SEQ and waiting.seq > self.last_seq[waiting.kind]:
                self.last_seq[waiting.kind] = waiting.seq
            self.base += 1

    def scan(self, buffer, Py_ssize_t start, Py_ssize_t end) -> int:
        """Take in all whole frames of ``buffer[start:end]``; the position behind the last one.

        Raises ProtocolError at bytes that are no frame.
        """
        cdef Py_buffer view
        cdef Frame frame
        cdef int kind
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            if start < 0 or end > view.len or start > end:
                raise IndexError("start and end must lie within the buffer")
            while start < end:
                kind = scan_frame(<const uint8_t*> view.buf + start, end - start, &frame)
                if kind == FRAME_PARTIAL:
                    break
                if kind == FRAME_BAD:
                    raise ProtocolError(
                        f"not a NATS frame: {bytes(buffer[start:min(end, start + 80)])!r}")
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

    def take_other(self) -> list:
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
        cdef Waiting* waiting
        cdef bytes begins
        cdef size_t length
        cdef Span digits
        cdef uint64_t seq
        if number < <long long> self.base or number >= <long long> self.next:
            return False
        waiting = self.slot(number)
        begins = self.plain_acks[waiting.kind]
        length = PyBytes_GET_SIZE(begins)
        if (frame.payload.length < length + 2
                or memcmp(frame.payload.data, PyBytes_AS_STRING(begins), length) != 0
                or frame.payload.data[frame.payload.length - 1] != 125):
            return False
        digits.data = frame.payload.data + length
        digits.length = frame.payload.length - length - 1
        if not read_number(digits, &seq) or seq < 2:
            return False
        self.set_confirmed(number, seq)
        return True


cdef inline bint frame_is_message(int kind):
    return kind == FRAME_MSG or kind == FRAME_HMSG


cdef inline bint frame_has_text(int kind):
    return frame_is_message(kind) or kind == FRAME_INFO or kind == FRAME_ERR


cdef bytes to_bytes(Span span):
    return PyBytes_FromStringAndSize(<const char*> span.data, span.length)
