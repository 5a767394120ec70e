# The fields of an event or a request, decoded by orjson: their plain shape, and why one is rejected
# where that can be told without the reader of all spellings (alarmdigest.wire.messages).

from cpython.dict cimport PyDict_GetItem, PyDict_Next, PyDict_Size
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_CheckExact
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp

from frames cimport Span
from records cimport (
    KIND_EVENT, MAX_ID_BYTES, STATUS_CLEARED, STATUS_CRITICAL, STATUS_NONE, STATUS_WARNING,
)

cdef enum:
    # As alarmdigest.wire.messages.REASONS has them; or the reader must tell.
    REASON_JSON = 0
    REASON_SCHEMA
    REASON_TOO_LONG
    REASON_STATUS
    REASON_CHANGED_AT
    REASON_UNKNOWN


cdef inline bint text_of(PyObject* value, Span* text) except -1:
    """The UTF-8 of a non-empty str; False for anything else."""
    cdef Py_ssize_t length
    if value == NULL or not PyUnicode_CheckExact(<object> value):
        return False
    text.data = <const uint8_t*> PyUnicode_AsUTF8AndSize(<object> value, &length)
    text.length = length
    return length > 0


cdef inline PyObject* user_field(dict fields, Py_ssize_t expected):
    """UserID; or Go's UserId where no third spelling can be there to contend with it."""
    cdef PyObject* value = PyDict_GetItem(fields, "UserID")
    if value == NULL and PyDict_Size(fields) == expected:
        value = PyDict_GetItem(fields, "UserId")
    return value


cdef enum:
    # The fields of an event, as places in `EventFields`.
    USER_FIELD = 0
    ALARM_FIELD
    STATUS_FIELD
    CHANGED_AT_FIELD
    EVENT_FIELDS

ctypedef struct Shape:
    # Messages come with the same fields in the same order, and orjson makes the same strings of
    # their names again. So the strings of the last one are kept, in their order, and a field is
    # known by its name's address; an owned reference keeps another string from having it.
    PyObject* names[EVENT_FIELDS]
    int fields[EVENT_FIELDS]

ctypedef struct EventFields:
    PyObject* values[EVENT_FIELDS]   # borrowed; NULL: not there by this name


cdef inline bint read_shape(const Shape* shape, dict fields, EventFields* found):
    """Whether an object has just the shape that is known; only then all fields are found."""
    cdef PyObject* name
    cdef PyObject* value
    cdef Py_ssize_t position = 0
    cdef int i = 0
    if PyDict_Size(fields) != EVENT_FIELDS:
        return False
    while PyDict_Next(fields, &position, &name, &value):
        if name != shape.names[i]:
            return False
        found.values[shape.fields[i]] = value
        i += 1
    return True


cdef inline void forget_shape(Shape* shape):
    cdef int i
    for i in range(EVENT_FIELDS):
        Py_XDECREF(shape.names[i])
        shape.names[i] = NULL


cdef inline int field_named(PyObject* name) except -1:
    cdef Span text
    if text_of(name, &text):
        if text.length == 7 and memcmp(text.data, b"AlarmID", 7) == 0:
            return ALARM_FIELD
        if text.length == 6 and memcmp(text.data, b"Status", 6) == 0:
            return STATUS_FIELD
        if text.length == 9 and memcmp(text.data, b"ChangedAt", 9) == 0:
            return CHANGED_AT_FIELD
    return USER_FIELD


cdef inline int learn_shape(Shape* shape, dict fields) except -1:
    """Of an object that has all fields of an event and no others."""
    cdef PyObject* name
    cdef PyObject* value
    cdef Py_ssize_t position = 0
    cdef int i = 0
    forget_shape(shape)
    while PyDict_Next(fields, &position, &name, &value):
        shape.fields[i] = field_named(name)
        Py_INCREF(<object> name)
        shape.names[i] = name
        i += 1
    return 0


cdef inline int find_fields(Shape* shape, dict fields, EventFields* found) except -1:
    """The fields of an event by their exact names, UserId included."""
    cdef int i
    if read_shape(shape, fields, found):
        return 0
    found.values[USER_FIELD] = user_field(fields, EVENT_FIELDS)
    found.values[ALARM_FIELD] = PyDict_GetItem(fields, "AlarmID")
    found.values[STATUS_FIELD] = PyDict_GetItem(fields, "Status")
    found.values[CHANGED_AT_FIELD] = PyDict_GetItem(fields, "ChangedAt")
    if PyDict_Size(fields) != EVENT_FIELDS:
        return 0
    for i in range(EVENT_FIELDS):
        if found.values[i] == NULL:
            return 0
    return learn_shape(shape, fields)


cdef inline int status_of(Span text) noexcept:
    if text.length == 7 and memcmp(text.data, b"CLEARED", 7) == 0:
        return STATUS_CLEARED
    if text.length == 7 and memcmp(text.data, b"WARNING", 7) == 0:
        return STATUS_WARNING
    if text.length == 8 and memcmp(text.data, b"CRITICAL", 8) == 0:
        return STATUS_CRITICAL
    return STATUS_NONE


cdef inline bint is_no_json(Span text) noexcept:
    """Whether a glance tells that a payload is no JSON; False says nothing."""
    cdef size_t start = 0, end = text.length
    while start < end and (text.data[start] == 32 or 9 <= text.data[start] <= 13):
        start += 1
    while start < end and (text.data[end - 1] == 32 or 9 <= text.data[end - 1] <= 13):
        end -= 1
    if start == end:
        return True
    if text.data[start] == 123:
        return text.data[end - 1] != 125
    # An array, a string, a number, true, false or null.
    return memchr(b"[\"-0123456789tfn", text.data[start], 16) == NULL


cdef inline int reason_by_name(dict fields, str name, bint is_id) except -1:
    """Why a field of this name is rejected, REASON_UNKNOWN if it is not, or is spelt otherwise."""
    cdef PyObject* value = PyDict_GetItem(fields, name)
    cdef Span text
    if value == NULL:
        for key in fields:
            if len(<str> key) == len(name) and (<str> key).lower() == name.lower():
                return REASON_UNKNOWN
        return REASON_SCHEMA
    if not text_of(value, &text):
        return REASON_SCHEMA
    return REASON_TOO_LONG if is_id and text.length > MAX_ID_BYTES else REASON_UNKNOWN


cdef inline int reason_of(int kind, dict fields) except -1:
    """Why an object is rejected, where it can be told without the reader of all spellings."""
    cdef int alarm, user, status
    cdef Span text
    user = reason_by_name(fields, "UserID", True)
    if kind != KIND_EVENT or user == REASON_SCHEMA:
        return user
    alarm = reason_by_name(fields, "AlarmID", True)
    status = reason_by_name(fields, "Status", False)
    if (alarm == REASON_SCHEMA or status == REASON_SCHEMA
            or reason_by_name(fields, "ChangedAt", False) == REASON_SCHEMA):
        return REASON_SCHEMA
    # From here on all fields must be there by their exact names.
    if not (PyDict_GetItem(fields, "UserID") and PyDict_GetItem(fields, "AlarmID")
            and PyDict_GetItem(fields, "Status") and PyDict_GetItem(fields, "ChangedAt")):
        return REASON_UNKNOWN
    if user == REASON_TOO_LONG or alarm == REASON_TOO_LONG:
        return REASON_TOO_LONG
    text_of(PyDict_GetItem(fields, "Status"), &text)
    return REASON_STATUS if status_of(text) == STATUS_NONE else REASON_CHANGED_AT
