MSG: int
HMSG: int
PING: int
PONG: int
OK: int
ERR: int
INFO: int

class ProtocolError(ValueError): ...

Frame = tuple[int, int, bytes, bytes, bytes, bytes]

def scan(buffer: bytes | bytearray, start: int, end: int) -> tuple[list[Frame], int]: ...
def divide(
    buffer: bytes | bytearray, start: int, end: int, sid: int
) -> tuple[list[Frame], bytes, int]: ...
def skim(buffer: bytes | bytearray, start: int, end: int) -> tuple[int, list[Frame], int]: ...
