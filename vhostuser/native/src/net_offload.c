/* SPDX-License-Identifier: Apache-2.0 */
#include "net_offload.h"
bool vhu_net_header_check_offload(struct net_header *header, uint64_t features, uint32_t bytes)
{ (void)header; (void)features; (void)bytes; return false; }
bool vhu_net_receiver_takes_offload(const struct net_header *header, uint64_t features)
{ (void)header; (void)features; return false; }
bool vhu_segments_begin(struct net_segments *segments, const struct net_frame *frame, uint64_t features)
{ (void)segments; (void)frame; (void)features; return false; }
bool vhu_segments_next(struct net_segments *segments, struct net_frame *ret)
{ (void)segments; (void)ret; return false; }
uint32_t vhu_flow_hash(const struct net_frame *frame) { (void)frame; return 0; }
