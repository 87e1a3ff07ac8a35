"""`vhostuser net` with TAP devices, in network namespaces of the test's own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading

import pytest
import trio
from control_rig import controlling, guest_at
from namespaces import namespace
from net_rig import BROADCAST, frame
from parts.require import require

pytestmark = pytest.mark.interop

COMMAND = [sys.executable, "-m", "vhostuser", "net"]
SECONDS = 60
GUEST = bytes.fromhex("020000000001")
AMOUNT = 1 << 20


class Program:
    """`vhostuser net` in a namespace."""

    def __init__(self, where, count, *arguments):
        self.lines = []
        self.process = where.start([*COMMAND, *arguments], stderr=subprocess.PIPE)
        while sum("serving port" in line for line in self.lines) < count:
            line = self.process.stderr.readline()
            assert line, self.lines
            self.lines.append(line)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, log
        assert "Traceback" not in log
        return log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self.process:
            self.process.kill()


def transfer(sender, receiver, address):
    """Send bytes by TCP from one namespace to the other; return what came."""
    with receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.settimeout(SECONDS)
        listener.bind((address, 0))
        listener.listen()
        got = []

        def accept():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(SECONDS)
                while data := connection.recv(1 << 16):
                    got.append(data)

        thread = threading.Thread(target=accept)
        thread.start()
        with sender.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(SECONDS)
            sock.connect(listener.getsockname())
            sock.sendall(bytes(range(256)) * (AMOUNT // 256))
        thread.join(SECONDS)
        return b"".join(got)


def test_a_program_of_two_taps_connects_two_hosts():
    require("namespaces")
    taps = ["--tap=left", "--tap=right", "--workers=2"]
    with (
        namespace() as program,
        namespace() as one,
        namespace() as other,
        Program(program, 2, *taps) as net,
    ):
        assert "[port=port1]: serving port 1 with 1 queue pair on TAP right" in net.lines[1]
        one.take("left", program, "10.0.0.1/24")
        other.take("right", program, "10.0.0.2/24")
        for sender, receiver, address in (
            (one, other, "10.0.0.2"),
            (other, one, "10.0.0.1"),
        ):
            assert transfer(sender, receiver, address) == bytes(range(256)) * (AMOUNT // 256)
        net.end()


def test_taps_go_into_a_bridge_and_a_removed_one_ends_its_port_alone(tmp_path):
    require("namespaces")
    with namespace() as program:
        program.ip("link add br0 type bridge")
        arguments = ["--tap=one", "--tap=two", "--bridge=br0", "--mtu=9000", "--queue-pairs=2"]
        with Program(program, 2, *arguments, f"--control={tmp_path}/c") as net:
            assert "with 2 queue pairs on TAP one in bridge br0" in net.lines[0]
            for name in ("one", "two"):
                link = program.link(name)
                assert (link["master"], link["mtu"]) == ("br0", 9000)

            async def watch():
                with trio.fail_after(SECONDS):
                    async with controlling(tmp_path / "c") as client:
                        program.ip("link del dev one")
                        event = await client.read()
                        assert (event["event"], event["data"]["id"]) == ("PORT_REMOVED", "port0")
                        assert event["data"]["reason"] == "ended"
                        (port,) = await client.ask("query-ports")
                        assert (port["id"], port["tap"], port["pairs"]) == ("port1", "two", 2)
                        assert port["mac"] == program.link("two")["address"]
                        assert port["config"]["bridge"] == "br0"
                        await client.ask("port-set-link", id="port1", up=False)
                        assert "NO-CARRIER" in program.link("two")["flags"]

            trio.run(watch)
            assert "ended: its TAP device is gone" in net.end()


def test_a_guest_and_the_host_hear_each_other(tmp_path):
    require("namespaces")
    with namespace() as host, Program(host, 2, f"--socket-path={tmp_path}/s", "--tap=tap0"):
        host.set_up("tap0", "10.0.0.1/24")
        listener = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
        with listener:
            listener.bind(("tap0", 0x88B5))
            listener.settimeout(SECONDS)

            async def talk():
                with trio.fail_after(SECONDS):
                    async with guest_at(tmp_path / "s") as guest:
                        await guest.send(frame(BROADCAST, GUEST, 3))
                        heard = await trio.to_thread.run_sync(listener.recv, 2000)
                        assert heard == frame(BROADCAST, GUEST, 3)
                        answer = frame(GUEST, GUEST[:-1] + b"\x02", 4, 1000)
                        listener.send(answer)
                        while (await guest.receive()).data != answer:
                            pass  # what the host itself has to say, IPv6 for example

            trio.run(talk)


def test_what_the_host_refuses_is_said_by_the_check_and_by_the_program():
    require("namespaces")
    with namespace() as host:
        host.ip("tuntap add dev single mode tap")
        for more, text in (
            (["--check"], "tap: single was made with one queue, not with 4: ask for one"),
            ([], "vhostuser: single was made with one queue, not with 4: ask for one"),
        ):
            command = [*host.enter, *COMMAND, "--tap=single", "--queue-pairs=4", *more]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            assert done.returncode == 1
            assert text in done.stderr
        assert "single" in json.dumps(host.link("single"))
