# shellcheck shell=bash
# Processes that outlive the script and are found again. Sourced by scripts/services.

# The fields of /proc/PID/stat after the name, which may hold spaces: state, parent, group, session, …
process() {
    local line
    { IFS= read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -ra fields <<<"${line##*) }"
    # A zombie runs no more; in a container without an init it stays one.
    [[ ${fields[0]} != [ZX] ]]
}

# remember NAME: this process is that server. The time of its start tells it from a later one of the same number.
remember() {
    process "$BASHPID" && printf '%s %s\n' "$BASHPID" "${fields[19]}" >"$state/$1.pid"
}

# alive NAME: sets `pid`.
alive() {
    local started
    { read -r pid started <"$state/$1.pid"; } 2>/dev/null && process "$pid" && [[ ${fields[19]} == "$started" ]]
}

# Everything below a process; RabbitMQ's and PostgreSQL's children have sessions and groups of their own.
family() {
    local folder each grown=1
    local -A parent=() member=(["$1"]=1)
    for folder in /proc/[0-9]*; do
        process "${folder#/proc/}" && parent[${folder#/proc/}]=${fields[1]}
    done
    while ((grown)); do
        grown=0
        for each in "${!parent[@]}"; do
            if [[ ${member[${parent[$each]}]:-} && ! ${member[$each]:-} ]]; then
                member[$each]=1 grown=1
                printf '%s\n' "$each"
            fi
        done
    done
}

# within SECONDS COMMAND…: until it succeeds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

gone() {
    local each
    for each in "$@"; do
        ! process "$each" || return 1
    done
}

# Stopped first, so that it starts nothing new while its children are counted.
kill_family() {
    local all
    kill -STOP "$1" 2>/dev/null
    mapfile -t all < <(family "$1")
    kill -KILL "$1" "${all[@]}" 2>/dev/null
    within 20 gone "$1" "${all[@]}" || die "process $1 doesn't end"
}

# finish NAME SIGNAL
finish() {
    local all
    if alive "$1"; then
        mapfile -t all < <(family "$pid")
        kill "-$2" "$pid" 2>/dev/null
        if ! within "$stop_deadline" gone "$pid" "${all[@]}"; then
            printf 'scripts/services: %s has not ended within %s s and is killed\n' "$1" "$stop_deadline" >&2
            kill_family "$pid"
        fi
    fi
    rm -f -- "$state/$1.pid"
}

# run NAME LOG COMMAND…: in a session of its own, with nothing of this shell: no terminal, lock or variables.
run() {
    local name=$1 log=$2
    shift 2
    rm -f -- "$state/$name.pid"
    (remember "$name" && exec setsid env -i PATH="$PATH" LC_ALL=C.UTF-8 "$@") </dev/null >>"$log" 2>&1 9>&- &
    within 20 test -s "$state/$name.pid" || die "$name can't be started: see $log"
}

# came_up NAME PROBE LOG…
came_up() {
    local name=$1 probe=$2 end=$((SECONDS + start_deadline)) reason="has not answered within $start_deadline s"
    shift 2
    until "$probe"; do
        alive "$name" || reason='has ended'
        if alive "$name" && ((SECONDS < end)); then
            sleep 0.1
            continue
        fi
        tail -n 20 -- "$@" >&2
        die "$name $reason; its log is above"
    done
}
