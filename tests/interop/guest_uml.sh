# What a guest of user-mode Linux does with its disk: one processor, one queue. The test knows the layout
# (in MiB): what the host wrote at 1, what is written here at 4 and 16.
at=4 mib=4 punch_at=16
check "packed $(bit 34)"
check "version-1 $(bit 32)"
check "serial $(cat /sys/block/vda/serial)"
check "sectors $(cat /sys/block/vda/size)"
check "host $(sum 1 1)"

# Several writers at once, in requests of different sizes; then several readers.
dd if=/dev/urandom of=/tmp/data bs=1M count=$mib 2>/dev/null
wanted=$(sha256sum </tmp/data | cut -d' ' -f1)
for part in 0 1 2 3; do
    size=$((4096 << part * 2)) many=$((1048576 / (4096 << part * 2)))
    dd if=/tmp/data of=$disk bs=$size oflag=direct conv=notrunc,fsync \
        skip=$((part * many)) seek=$(((at + part) * many)) count=$many 2>/dev/null &
done
wait
for reader in 0 1 2; do
    sum $at $mib >/tmp/sum$reader &
done
wait
for reader in 0 1 2; do same "read-by-$reader" "$wanted" "$(cat /tmp/sum$reader)"; done

# The middle of three MiB is discarded: its neighbours must not change.
dd if=/tmp/data of=$disk bs=1M count=3 seek=$punch_at oflag=direct conv=notrunc 2>/dev/null
first=$(sum $punch_at 1) last=$(sum $((punch_at + 2)) 1)
blkdiscard -o $(((punch_at + 1) * 1048576)) -l 1048576 $disk || check "discard FAILED"
same discard "$first$last" "$(sum $punch_at 1)$(sum $((punch_at + 2)) 1)"

# Through the page cache, too: written back at the latest when the disk is synchronised.
dd if=/tmp/data of=$disk bs=1M count=1 seek=$((at + mib)) conv=notrunc 2>/dev/null
sync

pause larger
until [ "$(cat /sys/block/vda/size)" = $((new * 2048)) ]; do sleep 0.1; done
dd if=/tmp/data of=$disk bs=1M count=1 seek=$((new - 1)) oflag=direct conv=notrunc,fsync 2>/dev/null
check "end $(cat /sys/block/vda/size)"
