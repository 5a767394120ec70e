"""The signals that are blocked from the very start until a command has set its handlers.

A module of its own, so that the signals can be blocked before anything slow is imported.
"""

import signal

BLOCKED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
