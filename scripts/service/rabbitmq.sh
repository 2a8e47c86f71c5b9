# shellcheck shell=bash
# The private RabbitMQ node. Sourced by scripts/services.

rabbit=$state/rabbitmq
rabbit_bin=/usr/lib/rabbitmq/bin
node=mapx@localhost

# A broker answers the protocol's header with its first frame, which is of type 1.
amqp_answers() (
    exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$amqp_port" || exit
    printf 'AMQP\0\0\x09\x01' >&3
    LC_ALL=C IFS= read -r -d '' -n 1 -t 5 byte <&3 && [[ $byte == $'\x01' ]]
)

management_answers() (
    exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$management_port" || exit
    printf 'GET /api/overview HTTP/1.0\r\nAuthorization: Basic %s\r\n\r\n' "$(printf guest:guest | base64)" >&3
    IFS= read -r -t 5 line <&3 && [[ $line == HTTP/1.?' 200 '* ]]
)

rabbitmq_answers() {
    amqp_answers && management_answers
}

epmd_answers() {
    (: <"/dev/tcp/127.0.0.1/$epmd_port") 2>/dev/null
}

# An authority and a certificate of our own, for tests of amqps. The authority's key isn't kept: it signs nothing else.
make_certificates() {
    local tls=$rabbit/tls key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
    [[ -s $tls/server.pem ]] && return
    need openssl openssl
    rm -rf -- "$tls" && mkdir -p -- "$tls" || return
    cat >"$tls/openssl.cnf" <<'CONF'
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
CONF
    (
        cd -- "$tls" &&
            openssl req -x509 -config openssl.cnf -extensions authority "${key[@]}" -days 3650 \
                -subj '/CN=mapx-embeddings test authority' -keyout authority.key -out authority.pem &&
            openssl req -new -config openssl.cnf "${key[@]}" \
                -subj /CN=localhost -keyout server.key -out server.csr &&
            openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 3650 \
                -extfile openssl.cnf -extensions server -out server.part &&
            rm -f authority.key server.csr && mv server.part server.pem
    ) 2>"$tls/openssl.log" || {
        cat -- "$tls/openssl.log" >&2
        die "the certificates can't be made"
    }
}

# The limits are far from what tests need: neither a full shared disk nor a busy machine may block publishers.
configure_rabbitmq() {
    mkdir -p -m 700 -- "$rabbit" && mkdir -p -- "$rabbit"/{home,log,data} && make_certificates || return
    printf '[rabbitmq_management,rabbitmq_prometheus].\n' >"$rabbit/enabled_plugins"
    cat >"$rabbit/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp_port
listeners.ssl.1 = 127.0.0.1:$amqps_port
ssl_options.cacertfile = $rabbit/tls/authority.pem
ssl_options.certfile = $rabbit/tls/server.pem
ssl_options.keyfile = $rabbit/tls/server.key
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
management.tcp.ip = 127.0.0.1
management.tcp.port = $management_port
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = $prometheus_port
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 2GB
CONF
}

# What the node and rabbitmqctl must agree on: the home holds the cookie. An epmd of our own is ours to stop.
rabbitmq_environment() {
    environment=(HOME="$rabbit/home" ERL_EPMD_PORT="$epmd_port" ERL_EPMD_ADDRESS=127.0.0.1
        RABBITMQ_NODENAME="$node" RABBITMQ_CONF_ENV_FILE=/dev/null)
}

launch_rabbitmq() {
    alive rabbitmq && return
    [[ -x $rabbit_bin/rabbitmq-server ]] || apt_install rabbitmq-server ||
        die 'RabbitMQ is missing: apt-get install rabbitmq-server'
    configure_rabbitmq || die "$rabbit can't be written"
    rabbitmq_environment
    check_port "$amqp_port" RabbitMQ
    if ! alive epmd; then
        check_port "$epmd_port" epmd
        run epmd "$rabbit/log/epmd.log" "${environment[@]}" epmd -address 127.0.0.1 -port "$epmd_port"
        came_up epmd epmd_answers "$rabbit/log/epmd.log"
    fi
    run rabbitmq "$rabbit/log/console.log" "${environment[@]}" \
        RABBITMQ_CONFIG_FILE="$rabbit/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$rabbit/enabled_plugins" \
        RABBITMQ_MNESIA_BASE="$rabbit/data" RABBITMQ_LOG_BASE="$rabbit/log" \
        RABBITMQ_PID_FILE="$rabbit/node.pid" RABBITMQ_DIST_PORT="$distribution_port" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
        "$rabbit_bin/rabbitmq-server"
}

await_rabbitmq() {
    came_up rabbitmq rabbitmq_answers "$rabbit/log/console.log" "$rabbit/log/$node.log"
}

# A node that is still booting passes a signal over.
stop_rabbitmq() {
    if alive rabbitmq && ! amqp_answers; then
        kill_family "$pid"
    fi
    finish rabbitmq TERM
    finish epmd TERM
}

describe_rabbitmq() {
    printf 'RabbitMQ    %s  (management: http://127.0.0.1:%s, guest, guest)\n' "$(url_rabbitmq)" "$management_port"
}

# Without a path: a test adds its virtual host.
url_rabbitmq() {
    printf 'amqp://guest:guest@127.0.0.1:%s' "$amqp_port"
}

addresses_rabbitmq() {
    printf '%s=%q\n' \
        MAPX_TEST_AMQP_URL "$(url_rabbitmq)" \
        MAPX_TEST_AMQPS_URL "amqps://guest:guest@localhost:$amqps_port" \
        MAPX_TEST_AMQPS_CA "$rabbit/tls/authority.pem" \
        MAPX_TEST_RABBITMQ_API "http://guest:guest@127.0.0.1:$management_port"
}

run_ctl() {
    rabbitmq_environment
    env -i PATH="$PATH" LC_ALL=C.UTF-8 "${environment[@]}" \
        RABBITMQ_CTL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' "$rabbit_bin/rabbitmqctl" "$@"
}
