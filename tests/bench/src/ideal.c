/* SPDX-License-Identifier: Apache-2.0
 *
 * ideal SOCKET... - the disk that no back-end can beat: it gives every request back as it finds it.
 */
#include "back_end.h"
#include "load.h"

enum { DISK_BYTES = 1 << 30, STATUS_BYTES = 1 };

static void pass(struct served *disks, int count)
{
    for (int i = 0; i < count; i++) {
        if (disks[i].rings[0].running)
            ring_flip(&disks[i].rings[0], UINT32_MAX, STATUS_BYTES);
    }
}

int main(int argc, char **argv)
{
    const struct back_end disks = {
        .features = F_PROTOCOL_FEATURES | F_VERSION_1 | F_RING_PACKED | F_INDIRECT | F_EVENT_IDX,
        .protocol_features = P_MQ | P_REPLY_ACK | P_CONFIG | P_CONFIGURE_MEM_SLOTS,
        .rings = 1,
        .sectors = DISK_BYTES / 512,
        .pass = pass,
    };

    if (argc < 2) {
        fprintf(stderr, "usage: ideal SOCKET...\n");
        return 2;
    }
    back_end_run(&disks, argv + 1, argc - 1);
}
