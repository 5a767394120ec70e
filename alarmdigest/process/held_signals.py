"""The signals that wait from the first moment on, until a command says what they are to do."""

import signal

HELD_BACK = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
