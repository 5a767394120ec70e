# The two packed forms in which messages go from thread to thread.
#
# A *routed* record is one accepted message on its way from the listener's thread to a worker; an
# *outgoing* record is one message on its way to the publisher. Both begin at a multiple of 8
# bytes in their batch and are padded to the next one. They never leave the process.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    KIND_EVENT = 0
    KIND_REQUEST = 1
    KIND_FORGET = 2

cdef enum:
    STATUS_CLEARED = 0
    STATUS_WARNING = 1
    STATUS_CRITICAL = 2
    STATUS_NONE = 3              # only as "never sent"

cdef enum:
    MAX_ID_BYTES = 1024

ctypedef struct RoutedRecord:    # followed by UserID, then AlarmID or position
    int64_t time_ns              # an event's ChangedAt, clamped to arrival + skew; of a user to forget:
                                 # what arrived up to then is forgotten; 0: everything
    int64_t arrival_ns
    uint16_t user_len
    uint16_t alarm_len
    uint8_t kind
    uint8_t status
    uint16_t bucket              # of the user; it fills what would be padding

cdef enum:
    # In place of an AlarmID a request may carry its position in a stream, which then decides
    # the ids of its digests: sequence (u64) and the stream's timestamp in ns (i64), little-endian.
    POSITION_BYTES = 16

cdef enum:
    OUTGOING_DIGEST = 0
    OUTGOING_REJECTION = 1

ctypedef struct OutgoingRecord:  # followed by headers, then the body
    uint32_t headers_len         # "Key: value\r\n" lines, without version line and final CRLF
    uint32_t body_len
    uint32_t kind
    uint32_t user                # of a digest: equal for all digests of one user, seldom for others
    int64_t arrival_ns           # of the input message that it comes from; 0: of no stream


cdef inline size_t padded(size_t length) noexcept nogil:
    return (length + 7) & ~(<size_t> 7)


cdef inline size_t record_bytes(const RoutedRecord* record) noexcept nogil:
    """How far it is from one routed record to the next."""
    return padded(sizeof(RoutedRecord) + record.user_len + record.alarm_len)


cdef inline int check_routed(const uint8_t* data, size_t length, size_t start) except -1:
    """Raises ValueError unless the bytes from ``start`` on are whole routed records."""
    cdef const RoutedRecord* record
    cdef size_t position = start
    while position < length:
        record = <const RoutedRecord*> (data + position)
        if (length - position < sizeof(RoutedRecord) or record.kind > KIND_FORGET
                or record.status > STATUS_NONE or record.user_len > MAX_ID_BYTES
                or record.alarm_len > MAX_ID_BYTES):
            raise ValueError(f"no routed record at byte {position} of {length}")
        position += record_bytes(record)
    if position != length:
        raise ValueError(f"the last routed record ends at byte {position}, the batch at {length}")
    return 0


cdef inline int check_outgoing(const uint8_t* data, size_t length) except -1:
    """Raises ValueError unless the bytes are whole outgoing records."""
    cdef const OutgoingRecord* record
    cdef size_t position = 0
    while position < length:
        record = <const OutgoingRecord*> (data + position)
        if length - position < sizeof(OutgoingRecord) or record.kind > OUTGOING_REJECTION:
            raise ValueError(f"no outgoing record at byte {position} of {length}")
        position += padded(sizeof(OutgoingRecord) + <size_t> record.headers_len + record.body_len)
    if position != length:
        raise ValueError(f"the last outgoing record ends at byte {position}, the batch at {length}")
    return 0
