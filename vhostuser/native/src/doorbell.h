/* SPDX-License-Identifier: Apache-2.0
 *
 * What a relay signals: a register of a device, or fds.
 */
#ifndef VHU_DOORBELL_H
#define VHU_DOORBELL_H

#include "vhu.h"

struct doorbell;

/* Takes the target's fds over, also when it fails. -EINVAL: the target is none. */
int vhu_doorbell_create(const struct vhu_target *target, struct doorbell **ret);
void vhu_doorbell_destroy(struct doorbell *doorbell);
void vhu_doorbell_ring(struct doorbell *doorbell);

#endif
