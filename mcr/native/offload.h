/* SPDX-License-Identifier: MIT */
/* What the kernel says of offloads before a frame (PACKET_VNET_HDR, packet(7)), and what older headers lack of it. */
#ifndef MCR_OFFLOAD_H
#define MCR_OFFLOAD_H

#include <linux/virtio_net.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* from kernel 6.2 on */
#endif

#endif
