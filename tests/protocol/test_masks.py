"""Sets of features: bits without a name are neither lost nor invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import BlkFeatures, VirtioFeatures

KINDS = [BlkFeatures, ProtocolFeatures, VirtioFeatures]
BITS = st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize("kind", KINDS)
@given(one=BITS, other=BITS)
def test_a_mask_without_another_keeps_every_bit_that_is_not_in_it(kind, one, other):
    assert int(kind(one) & ~kind(other)) == one & ~other


@pytest.mark.parametrize("kind", KINDS)
@given(bits=BITS)
def test_the_complement_of_the_complement_is_the_mask_itself(kind, bits):
    assert ~~kind(bits) == kind(bits)
    assert isinstance(~kind(bits), kind)
