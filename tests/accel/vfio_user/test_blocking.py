"""The client without an event loop, on our server and on servers that answer as they like."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from vfio_user_rig import BAR, CONFIG, RecordingDevice, message

from accel.vfio_user import BlockingClient, serve_connection
from protocol import vfio_user as wire
from protocol.vfio_user import Header, hot
from vhostuser.errors import AcceleratorError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 30.0
READ, WRITE, DMA_READ = 9, 10, 11
VERSION_REPLY = b"\0\0\2\0" + b'{"capabilities":{"max_data_xfer_size":1024}}\0'


async def using(device: RecordingDevice, use: Callable[[BlockingClient], None]) -> None:
    """Serve a device to a client that a thread uses."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def be_client() -> None:
        with BlockingClient(ours, "the device", seconds=SECONDS) as client:
            use(client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, trio.socket.from_stdlib_socket(theirs), device)
        await trio.to_thread.run_sync(be_client)


def hear(sock: socket.socket) -> tuple[Header, bytes]:
    head = sock.recv(16, socket.MSG_WAITALL)
    if len(head) < 16:
        raise EOFError
    header = Header.parse(head)
    return header, sock.recv(header.size - 16, socket.MSG_WAITALL) if header.size > 16 else b""


@contextlib.contextmanager
def served_by(
    play: Callable[[socket.socket], Any], *, seconds: float = SECONDS
) -> Iterator[BlockingClient]:
    """Be the client of a server that agrees on a version and then plays its part in a thread."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            with theirs:
                header, _ = hear(theirs)
                theirs.sendall(message(1, VERSION_REPLY, number=header.id, flags=1))
                play(theirs)
        except BaseException as error:  # noqa: BLE001 - told where it can be seen
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with BlockingClient(ours, "the server", seconds=seconds) as client:
            yield client
    finally:
        thread.join(SECONDS)
    assert failures == []


def answer_to(header: Header, payload: bytes, data: bytes = b"", *, number: int = 0) -> bytes:
    return message(header.command, payload[:16] + data, number=header.id + number, flags=1)


def raises(number: int, text: str) -> Any:
    return pytest.raises(AcceleratorError, match=rf"^\[Errno {number}\] {text}")


async def test_registers_are_read_and_written(device):
    def use(client):
        assert client.read(CONFIG, 4, 4) == bytes([4, 5, 6, 7])
        client.write(BAR, 0x10, b"abcd")
        assert client.read(BAR, 0x10, 4) == b"abcd"
        client.post(BAR, 0x10, b"efgh")
        assert client.read(BAR, 0x10, 4) == b"efgh"
        assert client.read(BAR, 0, 0) == b""

    await using(device, use)
    assert device.calls[1:3] == [("read", CONFIG, 4, 4), ("write", BAR, 0x10, b"abcd")]


async def test_what_does_not_fit_into_one_read_goes_the_longer_way(device):
    everything = bytes(range(256)) * 64

    def use(client):
        client.write(BAR, 0, everything)
        assert client.read(BAR, 0, len(everything)) == everything

    await using(device, use)


async def test_a_refusal_leaves_the_connection_as_it_was(device):
    def use(client):
        with raises(errno.EINVAL, r"the device refused RegionRead: Invalid argument$"):
            client.read(BAR, 1 << 40, 4)
        with raises(errno.EINVAL, r"the device refused RegionWrite: Invalid argument$"):
            client.write(CONFIG, 0, b"\0")
        with raises(errno.EINVAL, r"the device cannot be asked: "):
            client.read(BAR, -1, 4)
        with raises(errno.EINVAL, r"the device cannot be asked: "):
            client.write(1 << 32, 0, b"\0")
        assert client.read(CONFIG, 9, 1) == b"\x09"

    await using(device, use)


async def test_any_command_can_be_asked_and_its_fds_are_the_callers(device):
    def use(client):
        reply = client.ask(wire.DeviceGetRegionInfo(index=BAR, argsz=4096))
        assert isinstance(reply.message, wire.RegionInfo)
        assert len(reply.fds) == 1
        for fd in reply.fds:
            fd.close()
        client.ask(wire.DeviceReset())
        assert client.read(CONFIG, 1, 1) == b"\1"

    await using(device, use)
    assert ("reset",) in device.calls


def test_answers_may_come_in_pieces():
    def play(sock):
        header, payload = hear(sock)
        for byte in answer_to(header, payload, b"data"):
            sock.sendall(bytes([byte]))

    with served_by(play) as client:
        assert client.read(0, 0, 4) == b"data"


def test_a_long_access_takes_as_many_messages_as_the_server_wants():
    counts = []

    def play(sock):
        for _ in range(3):
            header, payload = hear(sock)
            counts.append(int.from_bytes(payload[12:16], "little"))
            sock.sendall(answer_to(header, payload, bytes(counts[-1])))
        for _ in range(2):
            header, payload = hear(sock)
            counts.append(len(payload) - 16)
            sock.sendall(answer_to(header, payload))

    with served_by(play) as client:
        assert client.read(0, 0, 2500) == bytes(2500)
        client.write(0, 0, bytes(1025))
    assert counts == [1024, 1024, 452, 1024, 1]


async def test_accesses_go_on_beside_other_commands_and_in_any_number(device):
    def use(client):
        for offset in range(1, 3000):
            assert client.read(BAR, offset, 1) == b"\0"
        client.post(BAR, 1, b"x")
        assert client.read(BAR, 1, 1) == b"x"
        client.ask(wire.DeviceReset())
        client.write(BAR, 2, b"y")
        assert client.read(BAR, 1, 1) + client.read(BAR, 2, 1) == b"xy"
        with raises(errno.EINVAL, "the device refused"):
            client.read(BAR, 1 << 20, 1)
        assert client.read(BAR, 1, 1) == b"x"

    await using(device, use)


def test_what_comes_right_behind_an_answer_is_found_later():
    def play(sock):
        header, payload = hear(sock)
        command = message(DMA_READ, bytes(8) + b"\4" + bytes(7), number=77)
        sock.sendall(answer_to(header, payload, b"data") + command)
        header, payload = hear(sock)
        sock.sendall(answer_to(header, payload, b"more"))
        refused, _ = hear(sock)
        assert (refused.id, refused.error) == (77, errno.EFAULT)

    with served_by(play) as client:
        assert client.read(0, 0, 4) == b"data"
        assert client.read(0, 0, 4) == b"more"


def test_commands_of_the_server_are_refused_and_the_answer_is_found():
    def play(sock):
        header, payload = hear(sock)
        command = message(DMA_READ, bytes(8) + b"\4" + bytes(7), number=77)
        sock.sendall(command + answer_to(header, payload, b"data"))
        refused, _ = hear(sock)
        assert (refused.id, refused.is_error, refused.error) == (77, True, errno.EFAULT)

    with served_by(play) as client:
        assert client.read(0, 0, 4) == b"data"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda header, payload: answer_to(header, payload, b"data", number=1),
        lambda header, payload: answer_to(header, payload, b"date" * 2),
        lambda header, payload: answer_to(header, b"\1" + payload[1:], b"data"),
        lambda header, payload: message(WRITE, payload, number=header.id, flags=1),
        lambda _header, _payload: message(READ, size=1 << 30),
    ],
    ids=["other-id", "too-much", "other-offset", "other-command", "huge"],
)
def test_an_answer_that_breaks_the_protocol_ends_the_connection(spoil):
    def play(sock):
        sock.sendall(spoil(*hear(sock)))
        with contextlib.suppress(EOFError, ConnectionResetError):
            hear(sock)

    with served_by(play) as client:
        with raises(errno.EPROTO, r"the server broke the protocol: "):
            client.read(0, 0, 4)
        with raises(errno.ENODEV, r"the server broke the protocol: "):
            client.write(0, 0, b"\0")


def test_a_server_that_says_nothing_is_left():
    over = threading.Event()
    with served_by(lambda _: over.wait(SECONDS), seconds=0.05) as client:
        try:
            with raises(errno.ETIMEDOUT, r"the server did not answer within 0.05 s$"):
                client.read(0, 0, 4)
            with raises(errno.ENODEV, r"the server did not answer within 0.05 s$"):
                client.read(0, 0, 4)
        finally:
            over.set()


def test_a_server_that_never_finishes_its_answer_is_left():
    over = threading.Event()

    def play(sock):
        header, payload = hear(sock)
        with contextlib.suppress(BrokenPipeError):
            for byte in answer_to(header, payload, bytes(1000)):
                sock.sendall(bytes([byte]))
                if over.wait(0.02):
                    return

    with served_by(play, seconds=0.1) as client:
        try:
            with raises(errno.ETIMEDOUT, r"the server did not answer within 0.1 s$"):
                client.read(0, 0, 1000)
        finally:
            over.set()


def test_a_server_that_leaves_is_told():
    with served_by(hear) as client:
        with raises(errno.ENODEV, r"the server (closed the connection|is gone: .*)$"):
            client.read(0, 0, 4)
        with raises(errno.ENODEV, r"the server (closed the connection|is gone: .*)$"):
            client.ask(wire.DeviceReset())


def test_a_closed_client_says_so():
    with served_by(lambda _: None) as client:
        client.close()
        with raises(errno.ENODEV, r"the connection was closed here$"):
            client.read(0, 0, 4)


def test_a_path_at_which_nobody_listens_is_a_mistake_of_the_user(tmp_path: Path):
    with pytest.raises(UsageError, match="start its server first"):
        BlockingClient.connect(tmp_path / "nothing")


@given(
    number=st.integers(0, 0xFFFF),
    region=st.integers(0, 0xFFFF_FFFF),
    offset=st.integers(0, (1 << 64) - 65),
    data=st.binary(max_size=64),
)
def test_prepared_answers_are_those_of_the_protocol(number, region, offset, data):
    server = wire.Connection(wire.Role.SERVER, negotiated=wire.Negotiated(minor=0))
    count = len(data)
    sent = hot.pack_region_read(number, region, offset, count)
    sent += hot.pack_region_write(number, region, offset, data)
    read, write = server.receive(sent)
    answer = server.reply(read, wire.RegionReadReply(region=region, offset=offset, data=data))
    assert answer.data == hot.pack_region_read_answer(number, region, offset, count) + data
    answer = server.reply(write, wire.RegionWriteReply(region=region, offset=offset, count=count))
    assert answer.data == hot.pack_region_write_answer(number, region, offset, count)
