"""NATS frames as Python objects: for control lines, tools and tests. The hot path is router.pyx."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t

from frames cimport (
    FRAME_BAD, FRAME_ERR, FRAME_HMSG, FRAME_INFO, FRAME_MSG, FRAME_OK, FRAME_PARTIAL, FRAME_PING,
    FRAME_PONG, Frame, Span, check_bounds, not_a_frame, scan_frame,
)

MSG = FRAME_MSG
HMSG = FRAME_HMSG
PING = FRAME_PING
PONG = FRAME_PONG
OK = FRAME_OK
ERR = FRAME_ERR
INFO = FRAME_INFO


class ProtocolError(ValueError):
    """What arrived is not the NATS protocol; the connection has lost its place."""


cdef bytes to_bytes(Span span):
    return PyBytes_FromStringAndSize(<const char*> span.data, span.length)


cdef tuple to_tuple(int kind, Frame* f):
    if kind == FRAME_MSG or kind == FRAME_HMSG:
        return (kind, f.sid, to_bytes(f.subject), to_bytes(f.reply), to_bytes(f.headers),
                to_bytes(f.payload))
    if kind == FRAME_ERR or kind == FRAME_INFO:
        return (kind, 0, b"", b"", b"", to_bytes(f.payload))
    return (kind, 0, b"", b"", b"", b"")


def scan(buffer, Py_ssize_t start, Py_ssize_t end) -> tuple:
    """All whole frames in ``buffer[start:end]`` and the position after the last of them.

    A frame is ``(kind, sid, subject, reply, headers, payload)``; the text of INFO and -ERR is its
    payload. Raises ProtocolError when the first frame is none; when a later one is none, returns
    those before it, so that nothing that arrived well is lost.
    """
    cdef Py_buffer view
    cdef Frame frame
    cdef int kind
    cdef list frames = []
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        check_bounds(start, end, view.len)
        while start < end:
            kind = scan_frame(<const uint8_t*> view.buf + start, end - start, &frame)
            if kind == FRAME_PARTIAL or (kind == FRAME_BAD and frames):
                break
            if kind == FRAME_BAD:
                raise ProtocolError(not_a_frame(buffer, start, end))
            frames.append(to_tuple(kind, &frame))
            start += frame.size
        return frames, start
    finally:
        PyBuffer_Release(&view)


def divide(buffer, Py_ssize_t start, Py_ssize_t end, uint64_t sid) -> tuple:
    """As ``scan``, for one reader of several: ``(frames, others, position)``.

    ``frames`` are the messages of subscription ``sid`` and what is no message; ``others`` are the
    messages of all other subscriptions as they came, in one piece.
    """
    cdef Py_buffer view
    cdef Frame frame
    cdef int kind
    cdef list frames = [], others = []
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        check_bounds(start, end, view.len)
        while start < end:
            kind = scan_frame(<const uint8_t*> view.buf + start, end - start, &frame)
            if kind == FRAME_PARTIAL or (kind == FRAME_BAD and (frames or others)):
                break
            if kind == FRAME_BAD:
                raise ProtocolError(not_a_frame(buffer, start, end))
            if (kind == FRAME_MSG or kind == FRAME_HMSG) and frame.sid != sid:
                others.append(PyBytes_FromStringAndSize(
                    <const char*> view.buf + start, frame.size))
            else:
                frames.append(to_tuple(kind, &frame))
            start += frame.size
        return frames, b"".join(others), start
    finally:
        PyBuffer_Release(&view)


def skim(buffer, Py_ssize_t start, Py_ssize_t end) -> tuple:
    """Count the messages without headers in ``buffer[start:end]`` and do nothing else with them.

    Returns their number, all other frames as ``scan`` does, and the position after the last whole
    one. It is what the benchmarks compare the service with: no reader can be faster than this.
    """
    cdef Py_buffer view
    cdef Frame frame
    cdef int kind
    cdef Py_ssize_t messages = 0
    cdef list others = []
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        check_bounds(start, end, view.len)
        while start < end:
            kind = scan_frame(<const uint8_t*> view.buf + start, end - start, &frame)
            if kind == FRAME_PARTIAL:
                break
            if kind == FRAME_BAD:
                raise ProtocolError(not_a_frame(buffer, start, end))
            if kind == FRAME_MSG:
                messages += 1
            else:
                others.append(to_tuple(kind, &frame))
            start += frame.size
        return messages, others, start
    finally:
        PyBuffer_Release(&view)
