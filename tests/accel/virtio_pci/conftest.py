from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from pci_rig import ModelDevice

from accel.virtio_pci import open_virtio
from vhostuser.testing import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pci_rig import Shape

    from accel.virtio_pci.accelerator import VirtioPciAccelerator


@contextlib.asynccontextmanager
async def _driven(
    shape: Shape | None = None, *, patience: float = 5.0, **wrongs: object
) -> AsyncIterator[tuple[ModelDevice, VirtioPciAccelerator]]:
    before = held()
    model = ModelDevice(shape)
    for name, value in wrongs.items():
        assert hasattr(model, name)
        setattr(model, name, value)
    try:
        async with open_virtio(model, patience=patience) as accelerator:
            yield model, accelerator
    finally:
        model.close()
        assert not held().more_than(before)


@pytest.fixture
def driven():
    """Open a driver on a model and see that nothing is left; keywords set what is wrong with it."""
    return _driven
