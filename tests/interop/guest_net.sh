# Two network devices of one guest, each the other's peer: one of them goes into a name space of its
# own, so that what is sent between them leaves by the one and comes back by the other.
peer_ip=10.9.0.2
unshare -n sleep 1000 &
other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do usleep 10000; done
there() { nsenter -t $other -n "$@"; }
name_of() { basename "$(dirname "$(grep -l "02:00:00:00:00:$1" /sys/class/net/*/address)")"; }
near=$(name_of 00) far=$(name_of 01)
ip link set "$far" netns $other
ip addr add 10.9.0.1/24 dev "$near"
there ip addr add $peer_ip/24 dev "$far"
ip link set "$near" up
there ip link set "$far" up

# There and back again: 30 echoes, each byte compared by ping.
echoes() {
    if ping -q -c 30 -i 0.01 -W 5 -s 1000 -p a5 $peer_ip | grep -q ' 0% packet loss'; then
        check "$1 ok"
    else
        check "$1 FAILED"
    fi
}
# A file, by TCP, from HERE to a listener at an address of THERE (each: words before a command).
send_file() { # NAME FROM TO ADDRESS
    $3 nc -l -p 7000 -e dd of=/tmp/got bs=64k 2>/dev/null &
    listener=$!
    until $3 cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1B58 .* 0A '; do usleep 10000; done
    $2 nc $4 7000 </tmp/data
    wait $listener
    if cmp /tmp/got /tmp/data; then check "$1 ok"; else check "$1 FAILED"; fi
}

dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null
check "warm $(ping -q -c 1 -W 5 $peer_ip | grep -c ' 0% packet loss')"
pause started
echoes echoes
send_file to-the-other "" there $peer_ip
send_file from-the-other there "" 10.9.0.1
pause done
echoes resumed
send_file resumed-file "" there $peer_ip
check "end"
kill $other
