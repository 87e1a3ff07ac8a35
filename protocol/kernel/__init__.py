"""Interfaces of the Linux kernel as data: request numbers and structures, without a system call."""

from protocol.kernel import vfio

__all__ = ["vfio"]
