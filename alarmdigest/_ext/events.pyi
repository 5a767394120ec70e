from collections.abc import Callable

EVENT: int
REQUEST: int
EVENT_SIDS: tuple[int, int]
REQUEST_SIDS: tuple[int, int]

STREAM_SID: int
LEADER_SID: int

class DeliveryGap(ValueError): ...

Accepted = tuple[bytes, bytes, int, int]

def last_written(payload: bytes, keys: frozenset[str]) -> str: ...

class Router:
    def __init__(
        self,
        *,
        workers: int,
        buckets: int,
        hash32: Callable[[str | bytes, int, bool], int],
        skew_ns: int,
        read_odd: Callable[[int, bytes, bytes, tuple[int, int] | None], Accepted | None],
        event_subject: bytes = ...,
        request_subject: bytes = ...,
        only_count: Callable[[int, int], bool] | None = None,
    ) -> None: ...
    def scan(
        self,
        buffer: bytes | bytearray,
        start: int,
        end: int,
        now_ns: int,
        most: int = 512,
        drop: bool = False,
    ) -> int: ...
    def take(self, worker: int) -> bytes: ...
    def take_other(self) -> list[tuple[int, bytes]]: ...
    def take_answers(self) -> list[tuple[bytes, bytes]]: ...
    def begin_deliveries(
        self, after: int, gaps_are_deletions: bool = True, pending: int = 0
    ) -> None: ...
    def set_position(self, sequence: int, timestamp_ns: int) -> None: ...

    arrival_ns: int
    pending: int
    @property
    def sequence(self) -> int: ...
    @property
    def timestamp_ns(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def deleted(self) -> int: ...
    @property
    def redelivered(self) -> int: ...
    @property
    def foreign(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def odd(self) -> int: ...
    @property
    def clamped(self) -> int: ...
    @property
    def dropped_events(self) -> int: ...
    @property
    def dropped_requests(self) -> int: ...
    @property
    def wanted(self) -> int: ...
