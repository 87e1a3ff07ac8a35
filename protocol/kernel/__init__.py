"""Interfaces of the Linux kernel as data: request numbers and structures, without a system call."""

from protocol.kernel import tun, vfio

__all__ = ["tun", "vfio"]
