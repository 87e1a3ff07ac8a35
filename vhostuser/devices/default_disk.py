"""The disk that is served when none is named: small, in memory, bootable, and easy to check.

Its first sector holds a program that a PC's firmware starts: it prints a greeting and powers the
machine off, so that any QEMU shows in a second that the disk works. Every other sector says its
number.
"""

from __future__ import annotations

import os

from vhostuser.devices.store import SECTOR, Store, memory_store

__all__ = ["DEFAULT_SECTORS", "GREETING", "default_sector", "default_store"]

DEFAULT_SECTORS = 32768
"""Size of the disk: 16 MiB."""

GREETING = "Booted from a disk that vhostuser serves."

_LOADED_AT = 0x7C00
_PROGRAM = (  # 16-bit code, started by the firmware with the sector at 0000:7c00
    ("31 c0", "xor ax, ax"),
    ("8e d8", "mov ds, ax"),
    ("be 3d 7c", "mov si, the text's address"),
    ("fc", "cld"),
    ("ac", "next: lodsb"),
    ("84 c0", "test al, al"),
    ("74 11", "jz end"),
    ("50", "push ax"),
    ("b4 0e", "mov ah, 0x0e: print al on the screen"),
    ("bb 07 00", "mov bx, 7"),
    ("cd 10", "int 0x10"),
    ("58", "pop ax"),
    ("b4 01", "mov ah, 1: send al"),
    ("31 d2", "xor dx, dx: to the first serial port"),
    ("cd 14", "int 0x14"),
    ("eb ea", "jmp next"),
    ("b8 01 53", "end: mov ax, 0x5301: connect to power management"),
    ("31 db", "xor bx, bx"),
    ("cd 15", "int 0x15"),
    ("b8 0e 53", "mov ax, 0x530e: speak version 1.2"),
    ("31 db", "xor bx, bx"),
    ("b9 02 01", "mov cx, 0x0102"),
    ("cd 15", "int 0x15"),
    ("b8 07 53", "mov ax, 0x5307: set the power state"),
    ("bb 01 00", "mov bx, 1: of all devices"),
    ("b9 03 00", "mov cx, 3: off"),
    ("cd 15", "int 0x15"),
    ("f4", "halt: hlt"),
    ("eb fd", "jmp halt"),
)
_SIGNATURE = b"\x55\xaa"


def _boot_sector() -> bytes:
    code = bytes.fromhex("".join(octets for octets, _ in _PROGRAM))
    assert code[5:7] == (_LOADED_AT + len(code)).to_bytes(2, "little")  # the text follows the code
    text = f"\r\n{GREETING}\r\n\0".encode("ascii")
    return (code + text).ljust(SECTOR - len(_SIGNATURE), b"\0") + _SIGNATURE


def default_sector(number: int) -> bytes:
    """Return what a sector holds before anybody has written it.

    Args:
        number: of the sector, from 0.
    """
    if number == 0:
        return _boot_sector()
    return f"sector {number} of the built-in disk\n".encode("ascii").ljust(SECTOR, b"\0")


def default_store(*, read_only: bool = False) -> Store:
    """Make the disk anew, in memory.

    Args:
        read_only: refuse writes.

    Raises:
        StoreError: the host has not that much memory.
    """
    store = memory_store(DEFAULT_SECTORS * SECTOR, read_only=read_only)
    assert store.fd is not None  # a memory store has one
    content = b"".join(map(default_sector, range(DEFAULT_SECTORS)))
    os.pwrite(store.fd.fileno(), content, 0)
    return store
