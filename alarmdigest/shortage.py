"""What the system does not give us any more of, in words for whoever can change that."""

from __future__ import annotations

import errno

NO_THREAD = "can't start new thread"


def shortage(error: BaseException) -> str | None:
    """What there is too little of, and where that is limited; None for any other error."""
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
