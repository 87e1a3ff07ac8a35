# A guest that is stopped while it writes and compares, and reset: the second boot finds the marker.
# The marker is in the first block; MiB 1 to 4 hold what must be kept, behind is room for the load.
kept_at=1 kept_mib=4 load_at=8 load_mib=8
load() { # CPU: write and compare until told to stop, each time something else
    rounds=0
    at=$(((load_at + $1 * load_mib) * 256))
    while [ ! -e /tmp/enough ]; do
        dd if=/dev/urandom of=/tmp/load$1 bs=4k count=64 2>/dev/null
        dd if=/tmp/load$1 of=$disk bs=4k seek=$at oflag=direct conv=notrunc 2>/dev/null
        if ! dd if=$disk bs=4k skip=$at count=64 iflag=direct 2>/dev/null | cmp - /tmp/load$1; then
            check "stopped-cpu$1 FAILED in round $rounds"
            return
        fi
        rounds=$((rounds + 1)) at=$((at + 64))
        [ $at -lt $(((load_at + ($1 + 1) * load_mib) * 256)) ] || at=$(((load_at + $1 * load_mib) * 256))
    done
    check "rounds-cpu$1 $rounds"
    check "stopped-cpu$1 ok"
}

first_boot() {
    for cpu in 0 1; do load $cpu & done
    pause loaded
    : >/tmp/enough
    wait
    dd if=/dev/urandom of=/tmp/kept bs=1M count=$kept_mib 2>/dev/null
    dd if=/tmp/kept of=$disk bs=64k seek=$((kept_at * 16)) oflag=direct conv=notrunc,fsync 2>/dev/null
    same written "$(sha256sum </tmp/kept | cut -d' ' -f1)" "$(sum $kept_at $kept_mib)"
    echo BOOTED >/tmp/marker
    dd if=/tmp/marker of=$disk bs=512 conv=sync,notrunc,fsync oflag=direct 2>/dev/null
    # Reset while it reads.
    while true; do dd if=$disk of=/dev/null bs=64k iflag=direct 2>/dev/null; done &
    pause verified
}

second_boot() {
    pause booted-again
    check "after-reset ok $(sum $kept_at $kept_mib)"
    check "end"
}

case "$(dd if=$disk bs=512 count=1 iflag=direct 2>/dev/null | head -n 1)" in
BOOTED*) second_boot ;;
*) first_boot ;;
esac
