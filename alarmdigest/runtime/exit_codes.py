"""Exit codes of all commands, for scripts."""

from __future__ import annotations

CLEAN = 0
INTERNAL_ERROR = 1  # and, of the tools: what they checked did not hold
USAGE = 2
NATS_NOT_REACHABLE = 3
STORE_UNUSABLE = 4
DRAIN_TIMED_OUT = 5  # also when a second signal cut the drain short
