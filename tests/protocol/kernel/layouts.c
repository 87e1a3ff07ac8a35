/* Prints what <linux/vfio.h> says: numbers as decimals, structures with known values as hex. */
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>

#define NUMBER(name) printf(#name " %llu\n", (unsigned long long)(name))

static void show(const char *name, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    printf("%s ", name);
    for (size_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
}

static void numbers(void)
{
    NUMBER(VFIO_API_VERSION);
    NUMBER(VFIO_GET_API_VERSION);
    NUMBER(VFIO_CHECK_EXTENSION);
    NUMBER(VFIO_SET_IOMMU);
    NUMBER(VFIO_GROUP_GET_STATUS);
    NUMBER(VFIO_GROUP_SET_CONTAINER);
    NUMBER(VFIO_GROUP_UNSET_CONTAINER);
    NUMBER(VFIO_GROUP_GET_DEVICE_FD);
    NUMBER(VFIO_DEVICE_GET_INFO);
    NUMBER(VFIO_DEVICE_GET_REGION_INFO);
    NUMBER(VFIO_DEVICE_GET_IRQ_INFO);
    NUMBER(VFIO_DEVICE_SET_IRQS);
    NUMBER(VFIO_DEVICE_RESET);
    NUMBER(VFIO_DEVICE_IOEVENTFD);
    NUMBER(VFIO_IOMMU_GET_INFO);
    NUMBER(VFIO_IOMMU_MAP_DMA);
    NUMBER(VFIO_IOMMU_UNMAP_DMA);
    NUMBER(VFIO_TYPE1_IOMMU);
    NUMBER(VFIO_TYPE1v2_IOMMU);
    NUMBER(VFIO_NOIOMMU_IOMMU);
    NUMBER(VFIO_GROUP_FLAGS_VIABLE);
    NUMBER(VFIO_GROUP_FLAGS_CONTAINER_SET);
    NUMBER(VFIO_DEVICE_FLAGS_RESET);
    NUMBER(VFIO_DEVICE_FLAGS_PCI);
    NUMBER(VFIO_DEVICE_FLAGS_CAPS);
    NUMBER(VFIO_REGION_INFO_FLAG_READ);
    NUMBER(VFIO_REGION_INFO_FLAG_WRITE);
    NUMBER(VFIO_REGION_INFO_FLAG_MMAP);
    NUMBER(VFIO_REGION_INFO_FLAG_CAPS);
    NUMBER(VFIO_IRQ_INFO_EVENTFD);
    NUMBER(VFIO_IRQ_INFO_MASKABLE);
    NUMBER(VFIO_IRQ_INFO_AUTOMASKED);
    NUMBER(VFIO_IRQ_INFO_NORESIZE);
    NUMBER(VFIO_IOMMU_INFO_PGSIZES);
    NUMBER(VFIO_IOMMU_INFO_CAPS);
    NUMBER(VFIO_PCI_BAR0_REGION_INDEX);
    NUMBER(VFIO_PCI_BAR5_REGION_INDEX);
    NUMBER(VFIO_PCI_ROM_REGION_INDEX);
    NUMBER(VFIO_PCI_CONFIG_REGION_INDEX);
    NUMBER(VFIO_PCI_VGA_REGION_INDEX);
    NUMBER(VFIO_PCI_INTX_IRQ_INDEX);
    NUMBER(VFIO_PCI_MSI_IRQ_INDEX);
    NUMBER(VFIO_PCI_MSIX_IRQ_INDEX);
    NUMBER(VFIO_PCI_ERR_IRQ_INDEX);
    NUMBER(VFIO_PCI_REQ_IRQ_INDEX);
}

static void arguments(void)
{
    __s32 container = 17;
    show("container_argument", &container, sizeof(container));

    struct vfio_iommu_type1_dma_map map = {
        .argsz = sizeof(map),
        .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        .vaddr = 0x7f0000001000,
        .iova = 0x100000000,
        .size = 0x200000,
    };
    show("dma_map", &map, sizeof(map));
    struct vfio_iommu_type1_dma_unmap unmap = {
        .argsz = sizeof(unmap), .iova = 0x100000000, .size = 0x200000};
    show("dma_unmap", &unmap, sizeof(unmap));

    union {
        struct vfio_irq_set set;
        char room[sizeof(struct vfio_irq_set) + 3 * sizeof(__s32)];
    } irqs = {.set = {.argsz = sizeof(irqs),
                      .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                      .index = VFIO_PCI_MSIX_IRQ_INDEX,
                      .start = 2,
                      .count = 3}};
    __s32 fds[3] = {8, -1, 9};
    memcpy(irqs.set.data, fds, sizeof(fds));
    show("irq_eventfds", &irqs, sizeof(irqs));
    struct vfio_irq_set off = {.argsz = sizeof(off),
                               .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
                               .index = VFIO_PCI_MSIX_IRQ_INDEX};
    show("irqs_off", &off, sizeof(off));

    struct vfio_device_ioeventfd doorbell = {.argsz = sizeof(doorbell),
                                             .flags = VFIO_DEVICE_IOEVENTFD_16,
                                             .offset = 0x40000003000,
                                             .data = 1,
                                             .fd = 5};
    show("ioeventfd", &doorbell, sizeof(doorbell));
}

static void answers(void)
{
    struct vfio_group_status group = {.argsz = sizeof(group), .flags = VFIO_GROUP_FLAGS_VIABLE};
    show("group", &group, sizeof(group));
    struct vfio_device_info device = {.argsz = sizeof(device),
                                      .flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
                                      .num_regions = VFIO_PCI_NUM_REGIONS,
                                      .num_irqs = VFIO_PCI_NUM_IRQS};
    show("device", &device, sizeof(device));
    struct vfio_irq_info irq = {.argsz = sizeof(irq),
                                .flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
                                .index = VFIO_PCI_MSIX_IRQ_INDEX,
                                .count = 3};
    show("irq", &irq, sizeof(irq));

    struct {
        struct vfio_region_info info;
        struct vfio_info_cap_header mappable;
        struct vfio_region_info_cap_sparse_mmap sparse;
        struct vfio_region_sparse_mmap_area areas[2];
    } region = {
        .info = {.argsz = sizeof(region),
                 .flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
                          VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS,
                 .index = 4,
                 .cap_offset = sizeof(region.info),
                 .size = 0x10000,
                 .offset = 0x40000000000},
        .mappable = {.id = VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
                     .version = 1,
                     .next = sizeof(region.info) + sizeof(region.mappable)},
        .sparse = {.header = {.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1},
                   .nr_areas = 2},
        .areas = {{0, 0x1000}, {0x4000, 0xc000}},
    };
    show("region", &region, sizeof(region));

    struct {
        struct vfio_iommu_type1_info info;
        struct vfio_iommu_type1_info_cap_iova_range iova;
        struct vfio_iova_range ranges[2];
        struct vfio_iommu_type1_info_cap_migration migration;
        struct vfio_iommu_type1_info_dma_avail avail;
    } iommu = {
        .info = {.argsz = sizeof(iommu),
                 .flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
                 .iova_pgsizes = 0x40201000},
        .iova = {.header = {.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, .version = 1},
                 .nr_iovas = 2},
        .ranges = {{0, 0xfedfffff}, {0xfef00000, 0xffffffffffff}},
        .migration = {.header = {.id = VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, .version = 1}},
        .avail = {.header = {.id = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, .version = 1},
                  .avail = 65535},
    };
    iommu.info.cap_offset = (char *)&iommu.iova - (char *)&iommu;
    iommu.iova.header.next = (char *)&iommu.migration - (char *)&iommu;
    iommu.migration.header.next = (char *)&iommu.avail - (char *)&iommu;
    show("iommu", &iommu, sizeof(iommu));
}

int main(void)
{
    numbers();
    arguments();
    answers();
    return 0;
}
