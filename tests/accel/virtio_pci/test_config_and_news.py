"""The device's own configuration, and what the device has to say of itself."""

from __future__ import annotations

import pytest
import trio
from pci_rig import ModelDevice, Shape

from accel.virtio_pci import accelerator as accelerator_module
from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import CommonRegister, DeviceStatus
from vhostuser.datapath import AcceleratorNews
from vhostuser.errors import AcceleratorError

GUEST = VirtioFeatures.VERSION_1


async def _news(accelerator):
    with trio.fail_after(30):
        return await accelerator.news()


async def test_configuration_is_read_and_is_zero_beyond_its_end(driven):
    async with driven(Shape(config=bytes(range(1, 11)))) as (_, accelerator):
        assert await accelerator.read_config(0, 10) == bytes(range(1, 11))
        assert await accelerator.read_config(8, 6) == bytes((9, 10, 0, 0, 0, 0))
        assert await accelerator.read_config(10, 4) == bytes(4)
        assert await accelerator.read_config(1 << 32, 4) == bytes(4)


async def test_configuration_is_written_inside_its_structure_only(driven):
    async with driven(Shape(config=bytes(10))) as (model, accelerator):
        await accelerator.write_config(9, b"\x07")
        assert model.config[9] == 7
        with pytest.raises(AcceleratorError, match="no configuration at 0x9"):
            await accelerator.write_config(9, b"\x07\x08")
        with pytest.raises(AcceleratorError, match="no configuration at -0x1"):
            await accelerator.write_config(-1, b"\x07")


async def test_a_configuration_that_changes_while_it_is_read_is_read_again(driven):
    async with driven(Shape(config=b"old!")) as (model, accelerator):
        block = model.read_block
        reads = 0

        async def torn(region, offset, size):
            nonlocal reads
            reads += 1
            if reads == 1:
                old = await block(region, offset, size)
                model.change_config(b"new!")
                return old[:2] + b"w!"
            return await block(region, offset, size)

        model.read_block = torn
        assert await accelerator.read_config(0, 4) == b"new!"
        assert reads == 2


async def test_a_configuration_that_never_holds_still_is_given_up(driven):
    async with driven() as (model, accelerator):
        block = model.read_block

        async def restless(region, offset, size):
            model.generation = (model.generation + 1) % 256
            return await block(region, offset, size)

        model.read_block = restless
        with pytest.raises(AcceleratorError, match="changes its configuration faster than"):
            await accelerator.read_config(0, 8)


async def test_a_configuration_interrupt_is_news_once(driven):
    async with driven() as (model, accelerator):
        await accelerator.set_features(GUEST)
        model.interrupt(0)
        assert await _news(accelerator) is AcceleratorNews.CONFIG_CHANGED
        with trio.move_on_after(0.05) as scope:
            await accelerator.news()
        assert scope.cancelled_caught


async def test_on_a_shared_vector_only_a_changed_configuration_is_news(driven):
    async with driven(Shape(vectors=1)) as (model, accelerator):
        await accelerator.set_features(GUEST)
        await accelerator.read_config(0, 4)
        model.interrupt(0)
        with trio.move_on_after(0.1) as scope:
            await accelerator.news()
        assert scope.cancelled_caught
        model.change_config(b"new!")
        model.interrupt(0)
        assert await _news(accelerator) is AcceleratorNews.CONFIG_CHANGED


async def test_a_device_that_needs_a_reset_has_failed(driven, caplog):
    async with driven() as (model, accelerator):
        await accelerator.set_features(GUEST)
        model.status |= DeviceStatus.NEEDS_RESET
        model.interrupt(0)
        assert await _news(accelerator) is AcceleratorNews.FAILED
    assert "model: it met an error and needs a reset" in caplog.text


async def test_a_device_that_is_gone_has_failed(driven, caplog):
    async with driven() as (model, accelerator):
        model.interrupt(0)
        model.depart("somebody pulled it out")
        assert await _news(accelerator) is AcceleratorNews.FAILED
    assert "model: somebody pulled it out" in caplog.text


async def test_a_device_that_answers_nothing_but_ones_has_failed(driven):
    async with driven() as (model, accelerator):
        model.dead = True
        model.interrupt(0)
        assert await _news(accelerator) is AcceleratorNews.FAILED
        with pytest.raises(AcceleratorError, match="does not answer any more"):
            await accelerator.reset()


async def test_failure_is_told_before_anything_else(driven):
    async with driven() as (_, accelerator):
        accelerator._news.tell(AcceleratorNews.CONFIG_CHANGED)
        accelerator.fail("for a test")
        assert await _news(accelerator) is AcceleratorNews.FAILED
        assert await _news(accelerator) is AcceleratorNews.CONFIG_CHANGED


async def test_the_configuration_vector_is_bound_again_after_a_reset(driven):
    async with driven() as (model, accelerator):
        await accelerator.set_features(GUEST)
        await accelerator.reset()
        assert model.config_vector == 0xFFFF
        await accelerator.set_features(GUEST)
        assert model.config_vector == 0
        assert (CommonRegister.CONFIG_MSIX_VECTOR, 0) in model.writes


async def test_a_failure_that_a_reset_has_mended_is_not_told_and_the_next_one_is(driven, caplog):
    async with driven() as (model, accelerator):
        accelerator.fail("for a test")
        await accelerator.reset()
        await accelerator.set_features(GUEST)
        accelerator._news.tell(AcceleratorNews.CONFIG_CHANGED)
        assert await _news(accelerator) is AcceleratorNews.CONFIG_CHANGED
        model.status |= DeviceStatus.NEEDS_RESET
        model.interrupt(0)
        assert await _news(accelerator) is AcceleratorNews.FAILED


async def test_after_an_access_that_failed_the_configuration_is_still_watched(
    driven, monkeypatch, caplog
):
    monkeypatch.setattr(accelerator_module, "_LONG_PAUSE", 0.01)
    async with driven() as (model, accelerator):
        await accelerator.set_features(GUEST)
        model.dead = True
        model.interrupt(0)
        assert await _news(accelerator) is AcceleratorNews.FAILED
        model.dead = False
        model.interrupt(0)
        assert await _news(accelerator) is AcceleratorNews.CONFIG_CHANGED


async def test_the_device_never_has_the_eventfd_on_which_its_driver_waits(driven, monkeypatch):
    given = []
    bind = ModelDevice.set_vectors

    async def noted(model, fds):
        given.extend(fd for fd in fds.values() if fd is not None)
        await bind(model, fds)

    monkeypatch.setattr(ModelDevice, "set_vectors", noted)
    async with driven() as (_, accelerator):
        assert given
        assert accelerator._parts.vectors.config_event not in given
