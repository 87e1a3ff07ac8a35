"""The address spaces of a vhost-user session, as distinct types.

A number that is an address says whose address it is; mixing them up is a typing error. The host
addresses of this process are no business of the protocol and live elsewhere. Specification:
vhost-user, "Memory access".
"""

from typing import NewType

__all__ = ["Gpa", "Iova", "Uva"]

Gpa = NewType("Gpa", int)
"""A guest physical address, in bytes."""

Uva = NewType("Uva", int)
"""A user address of the front-end's process, in bytes."""

Iova = NewType("Iova", int)
"""An address that the guest's IOMMU translates (or a ring address whose kind is negotiated)."""
