# shellcheck shell=bash
# What the servers need of the machine: packages, a folder, ports. Sourced by scripts/services.

# Without autostart: installing RabbitMQ for a test must not open a broker to the network.
apt_install() {
    local root=()
    if [[ $EUID -ne 0 ]]; then
        sudo -n true 2>/dev/null || return 1
        root=(sudo -n)
    fi
    # shellcheck disable=SC2016 # the inner shell expands it
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive bash -c '
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap "rm -f $policy" EXIT
            printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod 755 "$policy"
        fi
        apt-get update -qq && apt-get install -qq -y --no-install-recommends "$@"' bash "$@" >&2 9>&-
}

# need PROGRAM PACKAGE…
need() {
    local program=$1
    shift
    command -v "$program" >/dev/null || apt_install "$@" || die "$program is missing: apt-get install $*"
}

# A folder with a name that others can guess must not be theirs.
own() {
    [[ -O $1 && ! -L $1 ]] || die "$1 is missing or belongs to another user"
}

# free_ports FOLDER NAME…: NAME=PORT lines. Ports lie under those that Linux hands out to clients: a client could sit
# on ours while a server is down. FOLDER has a file for each port that an instance has chosen, with the name of its
# state folder: two that start at once, or one whose server is down, must not meet at a port.
free_ports() {
    python3 - "$state" "$@" <<'PY'
import fcntl, os, random, socket, sys

state, folder, *names = sys.argv[1:]
with open(os.path.join(folder, "lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    ports = iter(random.sample(range(20000, 32000), 2000))
    for name in names:
        for port in ports:
            claim = os.path.join(folder, str(port))
            if os.path.exists(claim) and os.path.isdir(open(claim).read()):
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            with open(claim, "w") as file:
                file.write(state)
            print(f"{name}={port}")
            break
        else:
            sys.exit("no free port")
PY
}

load_ports() {
    # shellcheck source=/dev/null
    [[ -s $state/ports ]] && source "$state/ports"
}

# Chosen once, so that a server that comes back is found where it was.
choose_ports() {
    load_ports && return
    local chosen=$temporary/mapx-embeddings-ports-$EUID
    need python3 python3
    mkdir -m 700 -- "$chosen" 2>/dev/null
    own "$chosen"
    free_ports "$chosen" amqp_port amqps_port management_port prometheus_port distribution_port epmd_port postgres_port \
        >"$state/ports.part" && mv -- "$state/ports.part" "$state/ports" && load_ports ||
        die 'no free ports between 20000 and 32000'
}

# check_port NUMBER WHOSE
check_port() {
    ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null ||
        die "another program has taken port $1 of $2: stop it, or stop these services and delete $state/ports"
}
