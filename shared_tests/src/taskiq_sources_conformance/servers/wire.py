"""Just enough of three wire protocols to ask a server whether it is ready and to configure it: no driver is needed.

Connections are made to the Unix socket in a server's own directory, so that no other server can answer in its place.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_PATIENCE_SECONDS = 5.0


class WireError(Exception):
    """The server answered, and said no (or: not yet)."""


class Connection:
    """A blocking connection to a Unix socket, as a context manager.

    Args:
        path: The socket.
        patience: How many seconds to wait for an answer.
    """

    def __init__(self, path: Path, patience: float = _PATIENCE_SECONDS) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(patience)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._reader = self._socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self._socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        data = self._reader.read(size)
        if len(data) < size:
            raise ConnectionError("the server closed the connection")
        return data

    def line(self) -> bytes:
        """Return what comes before the next CR LF."""
        data = self._reader.readline()
        if not data.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        return data[:-2]


# -- Redis -----------------------------------------------------------------------------------------------------------------------


def redis_command(path: Path, *words: str | int, login: Sequence[str] = ()) -> Any:
    """Send one Redis command, after AUTH with `login` (password, or user and password), and return its answer."""
    with Connection(path) as connection:
        if login:
            _redis_send(connection, "AUTH", *login)
        return _redis_send(connection, *words)


def _redis_send(connection: Connection, *words: str | int) -> Any:
    parts = [str(word).encode() for word in words]
    connection.send(b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)]))
    return _redis_answer(connection)


def _redis_answer(connection: Connection) -> Any:
    line = connection.line()
    kind, rest = line[:1], line[1:].decode()
    if kind == b"+":
        return rest
    if kind == b"-":
        raise WireError(rest)
    if kind == b":":
        return int(rest)
    if int(rest) < 0:
        return None
    if kind == b"$":
        return connection.read(int(rest) + 2)[:-2].decode()
    return [_redis_answer(connection) for _ in range(int(rest))]


# -- PostgreSQL ------------------------------------------------------------------------------------------------------------------


def postgres_query(path: Path, user: str, database: str, sql: str) -> list[list[str | None]]:
    """Log in, where no password is asked for, run statements and return their rows.

    Raises:
        WireError: The server refused.
        OSError: It cannot be reached.
    """
    parameters = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
    statements = sql.encode() + b"\0"
    with Connection(path) as connection:
        connection.send(struct.pack("!ii", len(parameters) + 8, 3 << 16) + parameters)
        _postgres_rows(connection)
        connection.send(struct.pack("!ci", b"Q", len(statements) + 4) + statements)
        rows = _postgres_rows(connection)
        connection.send(struct.pack("!ci", b"X", 4))
    return rows


def _postgres_rows(connection: Connection) -> list[list[str | None]]:
    """Read until the server is ready for a query; return the rows on the way."""
    rows: list[list[str | None]] = []
    while True:
        kind, size = struct.unpack("!ci", connection.read(5))
        body = connection.read(size - 4)
        if kind == b"E":
            fields = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\0")}
            raise WireError(fields.get(b"M", "refused"))
        if kind == b"R" and struct.unpack_from("!i", body)[0] != 0:
            raise WireError("a password is asked for")
        if kind == b"D":
            rows.append(_postgres_row(body))
        if kind == b"Z":
            return rows


def _postgres_row(body: bytes) -> list[str | None]:
    row: list[str | None] = []
    position = 2
    for _ in range(struct.unpack_from("!h", body)[0]):
        size = struct.unpack_from("!i", body, position)[0]
        position += 4
        row.append(None if size < 0 else body[position : position + size].decode())
        position += max(size, 0)
    return row


# -- MongoDB ---------------------------------------------------------------------------------------------------------------------

_OP_MSG = 2013
_request_ids = itertools.count(1)


def mongo_command(path: Path, command: Mapping[str, Any], database: str = "admin") -> dict[str, Any]:
    """Run a MongoDB command and return its answer.

    Raises:
        WireError: The server refused.
        OSError: It cannot be reached.
    """
    body = struct.pack("<iB", 0, 0) + encode_bson({**command, "$db": database})
    with Connection(path) as connection:
        connection.send(struct.pack("<iiii", len(body) + 16, next(_request_ids), 0, _OP_MSG) + body)
        size = struct.unpack("<iiii", connection.read(16))[0]
        answer = decode_bson(connection.read(size - 16)[5:])
    if answer.get("ok") != 1:
        raise WireError(str(answer.get("errmsg", answer)))
    return answer


def encode_bson(document: Mapping[str, Any]) -> bytes:
    """Return the BSON of a document made of strings, numbers, booleans, lists and documents."""
    body = b"".join(_encode_element(name, value) for name, value in document.items())
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def _encode_element(name: str, value: Any) -> bytes:
    key = name.encode() + b"\0"
    if isinstance(value, bool):
        return b"\x08" + key + struct.pack("<?", value)
    if isinstance(value, int):
        return b"\x10" + key + struct.pack("<i", value)
    if isinstance(value, str):
        text = value.encode() + b"\0"
        return b"\x02" + key + struct.pack("<i", len(text)) + text
    if isinstance(value, Mapping):
        return b"\x03" + key + encode_bson(value)
    if isinstance(value, Sequence):
        return b"\x04" + key + encode_bson({str(index): item for index, item in enumerate(value)})
    raise TypeError(f"{name}: {value!r} is not a kind of value that this module needs")


#: Kinds of a fixed size: how to read them. What nobody looks at (object ids, time stamps) stays bytes or numbers.
_FIXED = {0x01: "<d", 0x07: "<12s", 0x08: "<?", 0x09: "<q", 0x0A: "<0s", 0x10: "<i", 0x11: "<Q", 0x12: "<q"}


def decode_bson(data: bytes) -> dict[str, Any]:
    """Return the document whose BSON is `data`."""
    document: dict[str, Any] = {}
    position, end = 4, struct.unpack_from("<i", data)[0] - 1
    while position < end:
        kind = data[position]
        name_end = data.index(b"\0", position)
        name = data[position + 1 : name_end].decode()
        document[name], position = _decode_value(kind, data, name_end + 1)
    return document


def _decode_value(kind: int, data: bytes, position: int) -> tuple[Any, int]:
    if kind in _FIXED:
        layout = _FIXED[kind]
        return struct.unpack_from(layout, data, position)[0], position + struct.calcsize(layout)
    size = struct.unpack_from("<i", data, position)[0]
    if kind == 0x02:
        return data[position + 4 : position + 4 + size - 1].decode(), position + 4 + size
    if kind == 0x03:
        return decode_bson(data[position : position + size]), position + size
    if kind == 0x04:
        return list(decode_bson(data[position : position + size]).values()), position + size
    if kind == 0x05:
        return data[position + 5 : position + 5 + size], position + 5 + size
    raise WireError(f"an answer holds BSON of kind {kind:#x}, which this module does not read")
