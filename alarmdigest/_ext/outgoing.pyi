def pack_rejection(headers: bytes, body: bytes, arrival_ns: int = 0) -> bytes: ...
def published_id(stream: bytes, sequence: int, timestamp_ns: int, payload: bytes) -> bytes: ...

class Framer:
    def to_wire(
        self,
        batch: bytes,
        digest_subject: bytes,
        rejected_subject: bytes,
        id_prefix: bytes,
        max_payload: int,
        tail: bytes = b"",
    ) -> tuple[bytes, int, int, int, int]: ...
