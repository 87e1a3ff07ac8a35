# What the guest does with a disk whose doorbells it may be handed: the test looks at each pause.
count=300
request() { # FROM COUNT: 4 KiB each, one after the other
    dd if=/tmp/data of=$disk bs=4k count=$2 seek=$1 skip=$1 oflag=direct conv=notrunc 2>/dev/null &&
        dd if=$disk bs=4k count=$2 skip=$1 iflag=direct 2>/dev/null | cmp - /tmp/part
}
round() {
    dd if=/tmp/data of=/tmp/part bs=4k count=$count skip=$2 2>/dev/null
    if request $2 $count; then check "$1 ok"; else check "$1 FAILED"; fi
}
dd if=/dev/urandom of=/tmp/data bs=4k count=$((count * 4)) 2>/dev/null
check "queues $(ls /sys/block/vda/mq | wc -l)"
check "packed $(bit 34)"
round warm 0
pause started
round handed-over $count
pause done
round resumed $((count * 2))
device=$(basename "$(readlink /sys/block/vda/device)")
echo "$device" >/sys/bus/virtio/drivers/virtio_blk/unbind
echo "$device" >/sys/bus/virtio/drivers/virtio_blk/bind
pause rebound
round rebound $((count * 3))
dd if=$disk bs=4k count=$((count * 4)) iflag=direct 2>/dev/null | cmp - /tmp/data && check "all ok"
check "end"
