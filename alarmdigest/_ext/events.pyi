from collections.abc import Callable

EVENT: int
REQUEST: int
EVENT_SIDS: tuple[int, int]
REQUEST_SIDS: tuple[int, int]

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
        read_odd: Callable[[int, bytes, bytes], Accepted | None],
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
    @property
    def arrival_ns(self) -> int: ...
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
