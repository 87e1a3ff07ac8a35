/* SPDX-License-Identifier: Apache-2.0
 *
 * Regions, snapshots and the translation of addresses.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "guest.h"

static void a_region_is_refused_with_the_reason(void)
{
    const uint64_t page = 4096, top = UINT64_MAX - page + 1;
    int memfd = memfd_create("memory", MFD_CLOEXEC), device = open("/dev/zero", O_RDWR | O_CLOEXEC);
    int folder = open("/", O_RDONLY | O_CLOEXEC), path = open("/dev/null", O_PATH | O_CLOEXEC);
    const struct {
        int fd;
        uint64_t gpa, uva, size, offset;
        int want;
    } rows[] = {
        {memfd, 0, 0, 0, 0, -EINVAL},
        {memfd, 1, 0, page, 0, -EINVAL},
        {memfd, 0, 512, page, 0, -EINVAL},
        {memfd, 0, 0, page, 2048, -EINVAL},
        {memfd, top, 0, page, 0, -EINVAL},
        {memfd, 0, top, page * 2, 0, -EINVAL},
        {memfd, 0, 0, page * 2, top, -EINVAL},
        {memfd, 0, 0, page, top, -EINVAL},
        {memfd, 0, 0, page * 4 + 1, 0, -ERANGE},
        {memfd, 0, 0, page, page * 4, -ERANGE},
        {memfd, 0, 0, 1ULL << 62, 0, -ERANGE},
        {device, 0, 0, page, 0, -ENODEV},
        {folder, 0, 0, page, 0, -ENODEV},
        {path, 0, 0, page, 0, -ENODEV},
        {-1, 0, 0, page, 0, -EBADF},
    };

    CHECK_EQUAL(ftruncate(memfd, (off_t)page * 4), 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct vhu_region *region = NULL;

        CHECK_EQUAL(vhu_region_map(rows[i].fd, rows[i].gpa, rows[i].uva, rows[i].size,
                                   rows[i].offset, &region),
                    rows[i].want);
        CHECK(region == NULL);
    }
    close(memfd);
    close(device);
    close(folder);
    close(path);
}

static void a_sparse_terabyte_is_mapped_without_being_filled(void)
{
    int fd = memfd_create("huge", MFD_CLOEXEC);
    struct vhu_region *region;

    CHECK_EQUAL(ftruncate(fd, (off_t)1 << 40), 0);
    CHECK_EQUAL(vhu_region_map(fd, 1ULL << 52, 0, 1ULL << 40, 0, &region), 0);
    vhu_region_unref(region);
    close(fd);
}

static void regions_that_overlap_make_no_snapshot(void)
{
    const struct {
        uint64_t gpa, uva;
        int want;
    } rows[] = {
        {0x1000, 0x9000, -EEXIST}, /* both share the guest page 0x1000 */
        {0x9000, 0x1000, -EEXIST}, /* both share the user page 0x1000 */
        {0x0000, 0x0000, -EEXIST},
        {0x2000, 0x2000, 0}, /* adjacent */
    };
    int fd = memfd_create("memory", MFD_CLOEXEC);

    CHECK_EQUAL(ftruncate(fd, 0x4000), 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct vhu_region *regions[2];
        struct vhu_mem *mem = NULL;

        CHECK_EQUAL(vhu_region_map(fd, 0, 0, 0x2000, 0, &regions[0]), 0);
        CHECK_EQUAL(vhu_region_map(fd, rows[i].gpa, rows[i].uva, 0x2000, 0, &regions[1]), 0);
        CHECK_EQUAL(vhu_mem_create(regions, 2, &mem), rows[i].want);
        vhu_mem_unref(mem);
        vhu_region_unref(regions[0]);
        vhu_region_unref(regions[1]);
    }
    close(fd);
}

static void a_range_is_translated_only_when_one_region_holds_all_of_it(void)
{
    const struct {
        uint64_t gpa, length;
        int region; /* -1: none */
        uint64_t offset;
    } rows[] = {
        {LOW, 1, 0, 0},
        {LOW, REGION_SIZE, 0, 0},
        {LOW + REGION_SIZE - 1, 1, 0, REGION_SIZE - 1},
        {LOW + 5, REGION_SIZE - 5, 0, 5},
        {LOW, REGION_SIZE + 1, -1, 0}, /* the rest lies in HIGH, elsewhere in the host */
        {LOW - 1, 2, -1, 0},
        {HIGH, 16, 1, 0},
        {HIGH + REGION_SIZE, 1, -1, 0},
        {FAR + REGION_SIZE - 1, 2, -1, 0},
        {FAR + 7, UINT64_MAX, -1, 0},
        {FAR + 7, UINT64_MAX - FAR - 6, -1, 0}, /* wraps to exactly 0 */
        {0, 0, -1, 0},
        {UINT64_MAX, 1, -1, 0},
    };
    struct guest guest;

    guest_create(&guest);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t *want = rows[i].region < 0 ? NULL : vhu_region_hva(guest.regions[rows[i].region]);

        if (want)
            want += rows[i].offset;
        CHECK(vhu_mem_gpa_to_hva(guest.mem, rows[i].gpa, rows[i].length) == want);
        CHECK(vhu_mem_uva_to_hva(guest.mem, rows[i].gpa + UVA_SHIFT, rows[i].length) == want);
    }
    guest_destroy(&guest);
}

static void an_empty_snapshot_holds_nothing(void)
{
    struct vhu_mem *mem;

    CHECK_EQUAL(vhu_mem_create(NULL, 0, &mem), 0);
    CHECK(vhu_mem_gpa_to_hva(mem, 0, 0) == NULL);
    vhu_mem_unref(mem);
}

static void a_snapshot_keeps_its_regions_and_counts_its_users(void)
{
    struct guest guest;

    guest_create(&guest);
    uint8_t *hva = vhu_region_hva(guest.regions[2]);
    vhu_mem_ref(guest.mem);
    CHECK_EQUAL(vhu_mem_pins(guest.mem), 1);
    vhu_region_unref(guest.regions[2]);
    guest.regions[2] = NULL;
    *hva = 0x5a; /* still mapped */
    CHECK_EQUAL(guest.shadow[REGION_SIZE * 4], 0x5a);
    vhu_mem_unref(guest.mem);
    guest_destroy(&guest);
}

static const struct test tests[] = {
    {"a region is refused with the reason", a_region_is_refused_with_the_reason},
    {"a sparse terabyte is mapped without being filled",
     a_sparse_terabyte_is_mapped_without_being_filled},
    {"regions that overlap make no snapshot", regions_that_overlap_make_no_snapshot},
    {"a range is translated only when one region holds all of it",
     a_range_is_translated_only_when_one_region_holds_all_of_it},
    {"an empty snapshot holds nothing", an_empty_snapshot_holds_nothing},
    {"a snapshot keeps its regions and counts its users",
     a_snapshot_keeps_its_regions_and_counts_its_users},
};

CHECK_MAIN(tests)
