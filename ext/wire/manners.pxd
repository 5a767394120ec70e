# What every module of the core asks of its surroundings and of its callers.

cdef extern from *:
    """
    /* Records, rows and ids are read and written as they lie in memory. */
    #if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "alarmdigest's core needs a little-endian machine, and a compiler that says so"
    #endif
    #ifdef ALARMDIGEST_DEBUG
    #define ALARMDIGEST_CHECKS 1
    #else
    #define ALARMDIGEST_CHECKS 0
    #endif
    """
    # In a debug build (ALARMDIGEST_DEBUG=1) what comes from other modules is checked, too; in any
    # other, bytes that are no valid batch may crash the process.
    bint DEBUG_CHECKS "ALARMDIGEST_CHECKS"


cdef inline int enter(bint* busy) except -1:
    """Called first by methods that give up the GIL: a second thread must not come in meanwhile."""
    if busy[0]:
        raise RuntimeError("two threads use the same object of the compiled core at once")
    busy[0] = True
    return 0
