"""Which resource of the system has run out, in words for whoever can raise its limit."""

from __future__ import annotations

import errno
import resource

NO_THREAD = "can't start new thread"
# An idle service in stream mode has about 25 files open. With fewer it would start, and fail later.
LEAST_FILES = 32


def too_few_files() -> str | None:
    """Why the service cannot work under this limit of open files; raises the limit where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= LEAST_FILES or soft == resource.RLIM_INFINITY:
        return None
    if hard >= LEAST_FILES or hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST_FILES, hard))
        return None
    return (
        f"this process may have {hard} files open, and needs at least {LEAST_FILES}: raise the "
        "limit (ulimit -n, LimitNOFILE= of the unit)"
    )


def exhausted_resource(error: BaseException) -> str | None:
    """What has run out, and which limit applies; None for any other error."""
    if isinstance(error, MemoryError):
        return (
            "out of memory: more of it is needed, or a higher limit (ulimit -v, MemoryMax= of the "
            "unit, the container's memory)"
        )
    if isinstance(error, RuntimeError) and NO_THREAD in str(error):
        return (
            "no more threads can be started: more memory is needed, or a higher limit (ulimit -u "
            "and -v, TasksMax= of the unit, the container's pids); fewer --workers need fewer"
        )
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return (
            f"{error}: a higher limit of open files is needed (ulimit -n, LimitNOFILE= of the unit)"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EAGAIN):
        return str(error)
    return None
