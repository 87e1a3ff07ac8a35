"""Front-ends and accelerators that do the wrong thing, or the right thing at the wrong moment."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace

import pytest
import trio
from accelerators import Entropy, entropy
from passed_rig import (
    WANTED,
    connected,
    random_bytes,
    served,
    started,
    until_broken,
    until_left,
)

from protocol.vhost_user import ProtocolFeatures, SetMemTable, SetVringEnable
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import AcceleratorNews, device_run
from vhostuser.errors import AcceleratorError
from vhostuser.frontend import PROTOCOL_FEATURES, QEMU, RequestRefusedError, RingError
from vhostuser.session import AreaState
from vhostuser.testing import FakeDatapath, FakeDevice, fake_profile

NO_STATUS = PROTOCOL_FEATURES & ~ProtocolFeatures.STATUS


class Lazy(Entropy):
    """Serves as many requests as it is told to, the last first, and interrupts nobody."""

    may_serve = 0
    held: tuple = ()

    async def ring(self, index):
        while chain := self.device_ring.pop():
            self.held = (*self.held, chain)
        while self.held and self.may_serve:
            *rest, chain = self.held
            self.held, self.may_serve = tuple(rest), self.may_serve - 1
            self.device_ring.push(chain, sum(part.length for part in chain.writable))
        self.device_ring.publish()


@contextlib.contextmanager
def lazy(may_serve, **options):
    accelerator = Lazy(**options)
    accelerator.may_serve = may_serve
    with contextlib.closing(accelerator):
        yield accelerator


def software():
    return FakeDevice(profile=fake_profile(queues=1), datapath=FakeDatapath(queues=1))


def calls(device):
    """What a software was asked to do with rings."""
    return [call[0] for call in device.datapath.calls if call[0].endswith("_queue")]


async def never():
    """Reset a device that does not answer."""
    raise AcceleratorError("it does not answer", errno.ETIMEDOUT)


async def a_moment():
    """Let every task run that can."""
    for _ in range(20):
        await trio.lowlevel.checkpoint()


async def share_again(client):
    """Send the memory table again, as front-ends do when one region came."""
    regions = tuple(region.description for region in client.shared)
    files = [region.fd for region in client.shared]
    await client.request(SetMemTable(regions=regions), files, need_reply=True)


async def test_memory_that_is_sent_again_stays_the_devices_and_is_taken_away_in_the_end(tmp_path):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator) as server:
            async with started(tmp_path) as client:
                before = server.connection.carrier.memory.snapshot.mapped
                await share_again(client)
                assert server.connection.carrier.memory.snapshot.mapped == before
                await random_bytes(client)
            await until_left(server)
    assert accelerator.diary.count("map 0x0") == accelerator.diary.count("unmap 0x0") == 1


@pytest.mark.parametrize("enabled_first", [False, True])
async def test_a_device_that_does_not_start_is_reset_and_tried_anew(tmp_path, enabled_first):
    with entropy() as accelerator:
        accelerator.refuse["start"] = "not today"
        async with (
            served(tmp_path, accelerator),
            connected(tmp_path, protocol_features=NO_STATUS) as client,
        ):
            client.setup_queue(0, num=64)
            if enabled_first:
                await client.request(SetVringEnable(index=0, enable=1))
            with pytest.raises(RequestRefusedError):
                await client.start()
            assert accelerator.diary[-1] == "reset"
            accelerator.say(AcceleratorNews.FAILED)  # while nothing runs there
            await a_moment()
            await client.stop()
            client.setup_queue(0, num=64)
            await client.start()
            await random_bytes(client)


async def test_a_device_that_does_not_start_is_refused_by_the_status_or_replaced(tmp_path, caplog):
    beside = software()
    with entropy() as accelerator:
        async with served(tmp_path, accelerator, software=beside):
            accelerator.refuse["start"] = "not today"
            async with started(tmp_path):
                assert calls(beside) == ["start_queue"]
    assert "not today" in caplog.text


async def test_the_status_that_one_session_waited_for_starts_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(device_run, "_STATUS_SECONDS", 0.5)
    silent = replace(QEMU, start=QEMU.start[:-1])
    with entropy() as accelerator:
        async with served(tmp_path, accelerator) as server:
            async with started(tmp_path, order=silent):
                pass
            await until_left(server)
            await trio.sleep(0.1)
            begun = trio.current_time()
            async with started(tmp_path, order=silent):
                while "start" not in accelerator.diary:
                    await trio.lowlevel.checkpoint()
                assert trio.current_time() - begun >= 0.5, "it ran before its time"
    assert accelerator.diary.count("start") == 1


async def test_a_failure_that_a_reset_has_mended_is_not_the_next_sessions(tmp_path):
    with entropy() as accelerator:
        reset = accelerator.reset

        async def fail_and_reset():
            accelerator.say(AcceleratorNews.FAILED)
            await a_moment()
            await reset()

        async with served(tmp_path, accelerator) as server:
            async with started(tmp_path):
                accelerator.reset = fail_and_reset
            await until_left(server)
            accelerator.reset = reset
            async with started(tmp_path) as client:
                await random_bytes(client)


async def test_a_device_that_fails_while_its_front_end_leaves_ends_that_session_only(tmp_path):
    with entropy(area=True, queues=2) as accelerator:
        failing, go_on = trio.Event(), trio.Event()

        async def reset_slowly():
            failing.set()
            await go_on.wait()

        async with served(tmp_path, accelerator) as server:
            async with started(tmp_path, queues=2) as client:
                for index in range(2):
                    await client.areas.wait_mapped(index)
                reset, accelerator.reset = accelerator.reset, reset_slowly
                accelerator.say(AcceleratorNews.FAILED)
                await failing.wait()
            await a_moment()
            accelerator.reset = reset
            go_on.set()
            await until_left(server)
            async with started(tmp_path) as client:
                await random_bytes(client)


async def test_a_kick_that_went_to_a_failed_devices_area_is_looked_for(tmp_path):
    beside = software()
    with entropy(area=True) as accelerator:
        async with (
            served(tmp_path, accelerator, software=beside) as server,
            started(tmp_path) as client,
        ):
            while server.connection.areas.states[0] is not AreaState.HANDED_OVER:
                await trio.lowlevel.checkpoint()
            await a_moment()
            accelerator.say(AcceleratorNews.FAILED)
            while ("look", 0) not in beside.datapath.calls:
                await trio.lowlevel.checkpoint()
            assert client.areas.shown() == ()


async def test_a_device_is_reset_before_the_software_takes_over(tmp_path, caplog):
    beside = software()
    with entropy() as accelerator:
        async with served(tmp_path, accelerator, software=beside), started(tmp_path) as client:
            await random_bytes(client)
            accelerator.say(AcceleratorNews.FAILED)
            while calls(beside) != ["start_queue"]:
                await trio.lowlevel.checkpoint()
            assert accelerator.diary[-1] == "reset"
    assert "the software goes on at 1" in caplog.text


async def test_the_software_leaves_alone_what_a_device_may_still_work_on(tmp_path, caplog):
    beside = software()
    with entropy() as accelerator:
        async with served(tmp_path, accelerator, software=beside), started(tmp_path) as client:
            accelerator.reset = never
            accelerator.say(AcceleratorNews.FAILED)
            with pytest.raises(RingError, match="broken"):
                await until_broken(client)
        assert calls(beside) == []
    assert "it may still work on the ring: it does not answer" in caplog.text


async def test_an_interrupt_that_a_failing_device_did_not_send_is_sent(tmp_path):
    with lazy(1) as accelerator:
        async with (
            served(tmp_path, accelerator, software=software()),
            started(tmp_path) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(random_bytes, client)
            while accelerator.may_serve:
                await trio.lowlevel.checkpoint()
            accelerator.say(AcceleratorNews.FAILED)


async def test_an_interrupt_that_a_stop_cut_off_is_sent(tmp_path):
    with lazy(1) as accelerator:
        async with (
            served(tmp_path, accelerator),
            started(tmp_path) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(random_bytes, client)
            while accelerator.may_serve:
                await trio.lowlevel.checkpoint()
            await client.stop()


async def test_nobody_goes_on_where_requests_out_of_order_were_under_way(tmp_path, caplog):
    beside = software()
    with lazy(0) as accelerator:
        async with (
            served(tmp_path, accelerator, software=beside),
            started(tmp_path) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(2):
                nursery.start_soon(random_bytes, client)
            while len(accelerator.held) < 2:
                await trio.lowlevel.checkpoint()
            accelerator.may_serve = 1
            client.queues[0].notify()
            while accelerator.may_serve:
                await trio.lowlevel.checkpoint()
            await client.stop()
            assert client.bases[0] == 1
            with pytest.raises(RequestRefusedError):
                await client.start()
            nursery.cancel_scope.cancel()
        assert calls(beside) == []
    assert "nobody knows where the ring stands" in caplog.text


@pytest.mark.parametrize("requests", [0, 1, 63, 65, 70, 127, 129, 200])
async def test_a_packed_ring_that_was_used_is_known_in_every_lap(tmp_path, requests):
    packed = WANTED | VirtioFeatures.RING_PACKED
    with entropy() as accelerator:
        async with (
            served(tmp_path, accelerator) as server,
            started(tmp_path, features=packed) as client,
        ):
            for _ in range(requests):
                await random_bytes(client)
            assert server.device.datapath._rings[0].was_used() == bool(requests)


async def test_the_position_of_a_packed_ring_is_lost_with_its_device(tmp_path, caplog):
    packed = WANTED | VirtioFeatures.RING_PACKED
    with entropy() as accelerator:
        async with (
            served(tmp_path, accelerator),
            started(tmp_path, features=packed) as client,
        ):
            await random_bytes(client)
            accelerator.say(AcceleratorNews.FAILED)
            with pytest.raises(RingError, match="broken"):
                await until_broken(client)
            await client.stop()
            with pytest.raises(RequestRefusedError):
                await client.start()
    assert "only start at the beginning" in caplog.text
