# A guest that does what its test tells it: each line from the console is run here, and a line that says
# how it ended follows what it printed. Each network device has a place of its own, a name space, so that
# what goes between two devices of one guest goes by way of the switch.
device_of() { basename "$(dirname "$(grep -l "$1" /sys/class/net/*/address)")"; }
at() { # PLACE WORDS...
    place=$1
    shift
    nsenter -t "$(cat /tmp/place$place)" -n "$@"
}
# Report what the driver accepted, then move the device there.
settle() { # PLACE MAC NUMBER
    device=$(device_of $2)
    echo "PAIRS $(ls -d /sys/class/net/$device/queues/rx-* | wc -l)"
    echo "FEATURES $(cat /sys/class/net/$device/device/features)"
    unshare -n sleep 100000 &
    echo $! >/tmp/place$1
    while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do usleep 10000; done
    ip link set $device netns $!
    at $1 ip link set $device name eth0
    at $1 ip link set lo up
    at $1 sh -c '! cd /proc/sys/net/ipv6/conf/eth0 || echo 0 >accept_dad' 2>/dev/null
    at $1 ip link set eth0 up
    at $1 ip addr add 10.9.0.$3/24 dev eth0
    [ ! -d /proc/sys/net/ipv6 ] || at $1 ip addr add fd09::$3/64 dev eth0
}
carrier() { at $1 ip link show eth0 | grep -q LOWER_UP; }
until_carrier() { until carrier $1; do usleep 10000; done; }
until_no_carrier() { while carrier $1; do usleep 10000; done; }
listening() { at $1 cat /proc/net/tcp /proc/net/tcp6 | grep -q ":$(printf %04X $2) .* 0A "; }
# Take what comes to a port in a file of the same name, in the background.
receive() { # PLACE PORT
    at $1 nc -l -p $2 -e dd of=/tmp/$2 bs=64k 2>/dev/null &
    echo $! >/tmp/receiver$2
    until listening $1 $2; do usleep 10000; done
}
received() { # PORT
    wait "$(cat /tmp/receiver$1)"
    sha256sum </tmp/$1 | cut -d' ' -f1
}
# Echoes, one after the other, that go on in the background until `steadily` asks how many came back.
steady() { # PLACE ADDRESS SECONDS
    rm -f /tmp/enough
    (
        sent=0 back=0
        until [ -e /tmp/enough ]; do
            sent=$((sent + 1))
            if at $1 ping -q -c 1 -W $3 -s 1000 $2; then back=$((back + 1)); fi
            usleep 20000
        done >/dev/null 2>&1
        echo "$sent $back" >/tmp/steady
    ) &
    echo $! >/tmp/steady.pid
}
steadily() {
    touch /tmp/enough
    wait "$(cat /tmp/steady.pid)"
    cat /tmp/steady
}
stty -echo
echo "AGENT ready"
while read -r words && [ "$words" != power-off ]; do
    eval "$words"
    echo "STATUS $?"
done
