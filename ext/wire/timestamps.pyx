"""RFC 3339 and integer nanoseconds since 1970 UTC: the one reading that all of the service uses."""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset
from cpython.unicode cimport PyUnicode_AsUTF8AndSize

from timestamps cimport TIMESTAMP_LEN, Clock, format_rfc3339, parse_rfc3339

# A clock that is wrong by more than this is reported.
DAY_NS = 86_400 * 10**9


def to_ns(str text not None) -> int:
    """Nanoseconds since 1970 UTC of an RFC 3339 time with a zone; ValueError where it is rejected.

    Later than 2262-04-10 gives ``2**63 - 1``, which is always further ahead than any clock skew.
    """
    cdef Py_ssize_t length
    cdef const char* utf8 = PyUnicode_AsUTF8AndSize(text, &length)
    cdef int64_t ns
    if not parse_rfc3339(<const uint8_t*> utf8, length, &ns):
        raise ValueError(
            "not an RFC 3339 time with a zone, such as 2021-06-07T20:40:15Z, from 1677-09-22 on"
        )
    return ns


def to_text(int64_t ns) -> str:
    """``2021-06-07T20:40:15.598765212Z`` for nanoseconds since 1970 UTC."""
    cdef uint8_t text[TIMESTAMP_LEN]
    cdef Clock clock
    memset(&clock, 0, sizeof(clock))
    format_rfc3339(ns, text, &clock)
    return (<char*> text)[:TIMESTAMP_LEN].decode("ascii")
