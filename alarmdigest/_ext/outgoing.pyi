def pack_rejection(headers: bytes, body: bytes) -> bytes: ...
def to_wire(
    batch: bytes,
    digest_subject: bytes,
    rejected_subject: bytes,
    id_prefix: bytes,
    max_payload: int,
) -> tuple[bytes, int, int, int, int]: ...
