"""How many digests the input has produced, and the sum of their ids: the same at every replica.

What a worker makes for later requests may come before what another makes for earlier ones. So each
digest is kept here, with 24 bytes, until everything up to its request has been made.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free

from buffers cimport Buffer, buffer_put, buffer_reserve
from frames cimport Span
from manners cimport DEBUG_CHECKS
from message_headers cimport MessageId, find_header, read_message_id
from records cimport OUTGOING_DIGEST, OutgoingRecord, check_outgoing, padded

ctypedef struct Made:
    MessageId id
    int64_t arrival_ns           # of its request

ctypedef struct Sum:
    uint64_t count
    MessageId ids                # modulo 2**128


cdef inline void sum_add(Sum* sum, MessageId id) noexcept nogil:
    sum.count += 1
    sum.ids.low += id.low
    sum.ids.high += id.high + (1 if sum.ids.low < id.low else 0)


cdef class DigestSums:
    """All for input that arrived up to ``through`` is in the sum. Times are arrivals, in ns: they
    rise from message to message, also where a stream begins anew with its sequences."""

    cdef Sum folded
    cdef Buffer later            # array of Made: for requests after `through`
    cdef readonly int64_t through

    def __cinit__(self, int64_t through=0, uint64_t count=0, object ids=0):
        """Goes on from the count and the sum of ids (modulo 2**128) up to ``through``."""
        self.through = through
        self.folded.count = count
        self.folded.ids.low = ids & 0xFFFFFFFFFFFFFFFF
        self.folded.ids.high = (ids >> 64) & 0xFFFFFFFFFFFFFFFF

    def __dealloc__(self):
        free(self.later.data)

    def __len__(self) -> int:
        """Digests for requests after ``through``."""
        return self.later.used // sizeof(Made)

    def add(self, bytes batch not None) -> None:
        """Count the digests of a batch of outgoing records."""
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(batch)
        cdef size_t length = PyBytes_GET_SIZE(batch), position = 0
        cdef const OutgoingRecord* record
        cdef Span headers
        cdef Made made
        if DEBUG_CHECKS:
            check_outgoing(data, length)
        while position < length:
            record = <const OutgoingRecord*> (data + position)
            position += padded(sizeof(OutgoingRecord) + record.headers_len + record.body_len)
            if record.kind != OUTGOING_DIGEST:
                continue
            headers.data = <const uint8_t*> record + sizeof(OutgoingRecord)
            headers.length = record.headers_len
            if not read_message_id(find_header(headers, b"Nats-Msg-Id:", 12), &made.id):
                raise ValueError("a digest without an id")
            made.arrival_ns = record.arrival_ns
            if made.arrival_ns <= self.through:
                sum_add(&self.folded, made.id)
                continue
            if not buffer_reserve(&self.later, sizeof(Made)):
                raise MemoryError("no memory to count another digest")
            buffer_put(&self.later, &made, sizeof(Made))

    def at(self, int64_t arrival_ns) -> tuple[int, int]:
        """Count and sum of ids up to ``arrival_ns``, which must not lie before ``through``."""
        cdef Sum sum = self.folded
        cdef const Made* made = <const Made*> self.later.data
        cdef size_t i
        if arrival_ns < self.through:
            raise ValueError(f"{arrival_ns} lies before {self.through}")
        with nogil:
            for i in range(self.later.used // sizeof(Made)):
                if made[i].arrival_ns <= arrival_ns:
                    sum_add(&sum, made[i].id)
        return sum.count, (<object> sum.ids.high << 64) | sum.ids.low

    def advance(self, int64_t arrival_ns) -> None:
        """Fold what belongs to input up to ``arrival_ns`` into the sum; what comes later for it goes
        there at once."""
        cdef Made* made = <Made*> self.later.data
        cdef size_t i, kept = 0
        if arrival_ns <= self.through:
            return
        with nogil:
            for i in range(self.later.used // sizeof(Made)):
                if made[i].arrival_ns <= arrival_ns:
                    sum_add(&self.folded, made[i].id)
                else:
                    made[kept] = made[i]
                    kept += 1
        self.later.used = kept * sizeof(Made)
        self.through = arrival_ns
