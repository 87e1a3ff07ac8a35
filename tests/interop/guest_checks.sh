# What the guest does with its disk. The test knows the layout below (in MiB, see test_qemu.py).
queue=/sys/block/vda/queue
host_at=1 host_mib=1 marker_at=2 share_at=4 share_mib=4 punch_at=16 punch_mib=3
# One queue's share of the disk: FROM, in MiB.
share_of() { echo $((share_at + $1 * share_mib)); }

first_boot() {
    check "queues $(ls /sys/block/vda/mq | wc -l)"
    check "packed $(bit 34)"
    check "version-1 $(bit 32)"
    check "serial $(cat /sys/block/vda/serial)"
    check "sectors $(cat /sys/block/vda/size)"
    check "host $(sum $host_at $host_mib)"

    # Both processors write at once, each to its own queue, in requests of different sizes.
    for cpu in 0 1; do
        dd if=/dev/urandom of=/tmp/$cpu bs=1M count=$share_mib 2>/dev/null
        sha256sum </tmp/$cpu | cut -d' ' -f1 >/tmp/sum$cpu
    done
    for cpu in 0 1; do
        at=$(share_of $cpu)
        for part in 0 1 2 3; do
            size=$((4096 << part * 2))
            taskset $((1 << cpu)) dd if=/tmp/$cpu of=$disk bs=$size oflag=direct conv=notrunc,fsync \
                skip=$((part * 1048576 / size)) seek=$(((at + part) * 1048576 / size)) \
                count=$((1048576 / size)) 2>/dev/null &
        done
    done
    wait
    for cpu in 0 1; do
        got=$(taskset $((2 >> cpu)) dd if=$disk bs=64k skip=$(($(share_of $cpu) * 16)) \
            count=$((share_mib * 16)) iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1)
        same "written-by-cpu$cpu" "$(cat /tmp/sum$cpu)" "$got"
    done

    # Discard the middle of three MiB: its neighbours must not change.
    if [ "$(cat $queue/discard_max_bytes)" != 0 ]; then
        dd if=/tmp/0 of=$disk bs=1M count=$punch_mib seek=$punch_at oflag=direct 2>/dev/null
        first=$(sum $punch_at 1) last=$(sum $((punch_at + 2)) 1)
        blkdiscard -o $(((punch_at + 1) * 1048576)) -l 1048576 $disk || check "discard FAILED"
        same discard "$first$last" "$(sum $punch_at 1)$(sum $((punch_at + 2)) 1)"
    else
        check "discard not-offered"
    fi

    # The driver goes and comes back: the device is reset and started anew.
    device=$(basename "$(readlink /sys/block/vda/device)")
    echo "$device" >/sys/bus/virtio/drivers/virtio_blk/unbind
    [ -e $disk ] && check "unbind FAILED"
    echo "$device" >/sys/bus/virtio/drivers/virtio_blk/bind
    for cpu in 0 1; do
        same "rebound-cpu$cpu" "$(cat /tmp/sum$cpu)" "$(sum "$(share_of $cpu)" $share_mib)"
    done

    # What the second boot compares with, read back through a file system of one line.
    echo "BOOTED $(cat /tmp/sum0) $(cat /tmp/sum1)" >/tmp/marker
    dd if=/tmp/marker of=$disk bs=1M seek=$marker_at conv=notrunc,fsync 2>/dev/null
    sync
    check "rebooting"
    reboot -f
}

second_boot() {
    for cpu in 0 1; do
        wanted=$(echo "$marker" | cut -d' ' -f$((2 + cpu)))
        same "after-reboot-cpu$cpu" "$wanted" "$(sum "$(share_of $cpu)" $share_mib)"
    done
    check "end"
}

marker=$(dd if=$disk bs=1M skip=$marker_at count=1 2>/dev/null | head -n 1)
case "$marker" in
BOOTED*) second_boot ;;
*) first_boot ;;
esac
