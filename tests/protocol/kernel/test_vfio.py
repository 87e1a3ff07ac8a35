"""VFIO as data: numbers and structures are the header's, and no answer leads out of itself."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.kernel import vfio

_NAMES = {
    vfio.Request: "VFIO_{}",
    vfio.GroupFlags: "VFIO_GROUP_FLAGS_{}",
    vfio.DeviceFlags: "VFIO_DEVICE_FLAGS_{}",
    vfio.RegionFlags: "VFIO_REGION_INFO_FLAG_{}",
    vfio.IrqFlags: "VFIO_IRQ_INFO_{}",
    vfio.IommuFlags: "VFIO_IOMMU_INFO_{}",
    vfio.RegionIndex: "VFIO_PCI_{}_REGION_INDEX",
    vfio.IrqIndex: "VFIO_PCI_{}_IRQ_INDEX",
}
_NUMBERS = [
    (template.format(member.name), member) for kind, template in _NAMES.items() for member in kind
] + [
    ("VFIO_API_VERSION", vfio.API_VERSION),
    ("VFIO_TYPE1_IOMMU", vfio.Extension.TYPE1_IOMMU),
    ("VFIO_TYPE1v2_IOMMU", vfio.Extension.TYPE1V2_IOMMU),
    ("VFIO_NOIOMMU_IOMMU", vfio.Extension.NOIOMMU_IOMMU),
]
ANSWERS = (vfio.GroupStatus, vfio.DeviceInfo, vfio.RegionInfo, vfio.IrqInfo, vfio.IommuInfo)


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """What <linux/vfio.h> says: by name."""
    program = tmp_path_factory.mktemp("vfio") / "layouts"
    source = Path(__file__).with_name("layouts.c")
    subprocess.run(["gcc", "-Wall", "-Werror", source, "-o", program], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return dict(line.split() for line in lines.splitlines())


@pytest.mark.parametrize(("name", "number"), _NUMBERS, ids=[name for name, _ in _NUMBERS])
def test_a_number_is_the_headers(name, number, header):
    assert int(header[name]) == number


@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("container_argument", vfio.container_argument(17)),
        ("dma_map", vfio.dma_map(iova=1 << 32, address=0x7F0000001000, size=0x200000)),
        ("dma_unmap", vfio.dma_unmap(iova=1 << 32, size=0x200000)),
        ("irq_eventfds", vfio.irq_eventfds(vfio.IrqIndex.MSIX, 2, [8, vfio.NO_FD, 9])),
        ("irqs_off", vfio.irqs_off(vfio.IrqIndex.MSIX)),
        ("ioeventfd", vfio.ioeventfd(0x40000003000, 2, 1, 5)),
    ],
)
def test_an_argument_is_the_headers_structure(name, built, header):
    assert built.hex() == header[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("group", vfio.GroupStatus(flags=vfio.GroupFlags.VIABLE)),
        (
            "device",
            vfio.DeviceInfo(flags=vfio.DeviceFlags.PCI | vfio.DeviceFlags.RESET, regions=9, irqs=5),
        ),
        ("irq", vfio.IrqInfo(flags=vfio.IrqFlags.EVENTFD | vfio.IrqFlags.NORESIZE, count=3)),
        (
            "region",
            vfio.RegionInfo(
                flags=vfio.RegionFlags.READ
                | vfio.RegionFlags.WRITE
                | vfio.RegionFlags.MMAP
                | vfio.RegionFlags.CAPS,
                size=0x10000,
                offset=4 << 40,
                sparse=(vfio.SparseArea(0, 0x1000), vfio.SparseArea(0x4000, 0xC000)),
                msix_mappable=True,
            ),
        ),
        (
            "iommu",
            vfio.IommuInfo(
                page_sizes=0x40201000,
                iova_ranges=(
                    vfio.IovaRange(0, 0xFEDFFFFF),
                    vfio.IovaRange(0xFEF00000, 0xFFFFFFFFFFFF),
                ),
                dma_avail=65535,
            ),
        ),
    ],
)
def test_an_answer_is_understood_as_the_header_lays_it_out(name, expected, header):
    answer = bytes.fromhex(header[name])
    assert type(expected).parse(answer) == expected
    assert vfio.answer_size(answer) == len(answer)


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_asked_with_has_room_for_the_fixed_part(kind):
    buffer = vfio.request_buffer(kind.SIZE, 7 if kind in {vfio.RegionInfo, vfio.IrqInfo} else 0)
    assert len(buffer) == vfio.answer_size(buffer) == kind.SIZE
    kind.parse(bytes(buffer))


def test_the_shorter_answers_of_old_kernels_are_understood():
    device = struct.pack("=IIII", 16, 2, 9, 5)
    assert vfio.DeviceInfo.parse(device) == vfio.DeviceInfo(
        flags=vfio.DeviceFlags.PCI, regions=9, irqs=5
    )
    iommu = struct.pack("=IIQ", 16, 1, 0x1000)
    assert vfio.IommuInfo.parse(iommu) == vfio.IommuInfo(page_sizes=0x1000)
    # What lies behind the size that the kernel names is none of its words.
    assert vfio.IommuInfo.parse(iommu + b"\xff" * 8) == vfio.IommuInfo(page_sizes=0x1000)


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("size", [0, 3, 7])
def test_an_answer_that_is_cut_off_is_refused(kind, size):
    with pytest.raises(ValueError, match=f"has {size if size > 3 else 0} bytes of at least"):
        kind.parse(struct.pack("=II", size, 0)[:size])


def region(capabilities: bytes, *, first: int = 32, size: int = 0x10000) -> bytes:
    """Return an answer with a chain of capabilities."""
    flags = vfio.RegionFlags.MMAP | vfio.RegionFlags.CAPS
    head = struct.pack("=IIIIQQ", 32 + len(capabilities), flags, 4, first, size, 4 << 40)
    return head + capabilities


def sparse(*areas: tuple[int, int], count: int | None = None, following: int = 0) -> bytes:
    number = len(areas) if count is None else count
    return struct.pack("=HHIII", 1, 1, following, number, 0) + b"".join(
        struct.pack("=QQ", *area) for area in areas
    )


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (region(b"", first=32), "no capability at byte 32"),
        (region(b"", first=31), "no capability at byte 31"),
        (region(sparse((0, 0x1000)), first=8), "no capability at byte 8"),
        (region(sparse((0, 0x1000)), first=2**32 - 1), "no capability at byte 4294967295"),
        (region(sparse((0, 0x1000), following=32)), "no capability at byte 32"),
        (region(sparse((0, 0x1000), following=60)), "no capability at byte 60"),
        (region(sparse((0, 0x1000), count=2)), "no room for 2 entries"),
        (region(sparse(count=2**32 - 1)), "no room for 4294967295 entries"),
        (region(sparse((0, 0x1000))[:12]), "is cut off"),
        (region(sparse((0xF000, 0x1001))), "not inside a region of 0x10000"),
        (region(sparse((2**64 - 0x1000, 0x2000))), "not inside a region of 0x10000"),
    ],
)
def test_a_chain_that_leads_out_of_the_answer_is_refused(answer, rule):
    with pytest.raises(ValueError, match=rule):
        vfio.RegionInfo.parse(answer)


def test_a_chain_counts_only_where_the_flag_says_so():
    answer = bytearray(region(sparse((0, 0x1000))))
    struct.pack_into("=I", answer, 4, vfio.RegionFlags.MMAP)
    assert vfio.RegionInfo.parse(bytes(answer)).sparse is None


def test_capabilities_that_mean_nothing_here_are_passed_over():
    unknown = struct.pack("=HHI", 77, 1, 40)
    found = vfio.RegionInfo.parse(region(unknown + sparse((0, 0x1000))))
    assert found.sparse == (vfio.SparseArea(0, 0x1000),)


@given(st.sampled_from(ANSWERS), st.binary(max_size=128))
def test_any_bytes_are_refused_or_understood_without_leading_astray(kind, data):
    try:
        found = kind.parse(struct.pack("=I", len(data) + 4) + data)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - other bytes raise nothing
        return
    if isinstance(found, vfio.RegionInfo):
        assert all(area.offset + area.size <= found.size for area in found.sparse or ())
    if isinstance(found, vfio.IommuInfo):
        assert len(found.iova_ranges or ()) * 16 <= len(data)
