# MariaDB, RabbitMQ, memcached. Sourced by tools/cloud.
# shellcheck shell=bash

# sql runs the statements on standard input as root.
sql() {
    MYSQL_PWD=$PASSWORD timeout 60 mariadb --no-defaults --socket="$MYSQL_SOCKET" --user=root \
        --batch --skip-column-names
}

mariadb_answers() {
    sql <<<"SELECT 1"
}

up_mariadb() {
    local data=$STATE/mariadb
    if once mariadb; then
        ! running mariadb || stop mariadb 20
        rm -rf "$data"
        mkdir -p "$data"
        quietly mariadb 120 mariadb-install-db --no-defaults --user=root --datadir="$data" \
            --auth-root-authentication-method=normal --skip-test-db
        did mariadb
    fi
    # Without names the root of 127.0.0.1 is another user than the one of the socket.
    write_file "$ETC/mariadb-init.sql" <<SQL
CREATE USER IF NOT EXISTS root@'127.0.0.1';
ALTER USER root@'127.0.0.1' IDENTIFIED BY '$PASSWORD';
GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
ALTER USER root@localhost IDENTIFIED BY '$PASSWORD';
SQL
    if ! running mariadb; then
        # A test cloud may lose its last second in a crash of the machine: no flush at each commit.
        spawn mariadb mariadbd --no-defaults --user=root --datadir="$data" --socket="$MYSQL_SOCKET" \
            --bind-address=127.0.0.1 --port="$MYSQL_PORT" --pid-file="$RUN/mariadbd.own.pid" --tmpdir="$data" \
            --init-file="$ETC/mariadb-init.sql" --max-connections=600 \
            --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0 --performance-schema=OFF \
            --skip-log-bin --skip-name-resolve --character-set-server=utf8mb3
    fi
    await mariadb 60 mariadb_answers
}

down_mariadb() {
    stop mariadb 30
}

# fresh_database NAME… drops and makes databases: what an interrupted migration left cannot be continued.
fresh_database() {
    local name
    for name in "$@"; do
        echo "DROP DATABASE IF EXISTS $name; CREATE DATABASE $name CHARACTER SET utf8mb3;"
    done | sql || fail mariadb "could not make the databases $*"
}

# rabbitmq_answers does the first step of the AMQP handshake: an open port alone proves little.
rabbitmq_answers() {
    timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$RABBIT_PORT && printf 'AMQP\0\0\11\1' >&3 &&
        [[ \$(head -c 1 <&3 | od -An -tu1) -eq 1 ]]"
}

epmd_answers() {
    timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$EPMD_PORT"
}

up_rabbitmq() {
    local home=$STATE/rabbitmq
    mkdir -p "$home/home" "$home/mnesia" "$home/log"
    write_file "$home/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$RABBIT_PORT
default_user = openstack
default_pass = $PASSWORD
loopback_users = none
vm_memory_high_watermark.relative = 0.2
disk_free_limit.absolute = 200MB
log.file.level = info
CONF
    echo '[].' | write_file "$home/enabled_plugins"
    if ! running epmd; then
        # A node would start its own epmd, detached: nobody would find it again.
        spawn epmd epmd -address 127.0.0.1 -port "$EPMD_PORT"
    fi
    await epmd 15 epmd_answers
    if ! running rabbitmq; then
        # With RABBITMQ_ALLOW_INPUT the script becomes the Erlang machine instead of its parent, and
        # the machine ends properly on TERM.
        spawn rabbitmq env HOME="$home/home" RABBITMQ_NODENAME=kiln@localhost RABBITMQ_ALLOW_INPUT=1 \
            RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" RABBITMQ_CONF_ENV_FILE=/dev/null \
            RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins" RABBITMQ_MNESIA_BASE="$home/mnesia" \
            RABBITMQ_LOG_BASE="$home/log" RABBITMQ_PID_FILE="$RUN/rabbitmq.own.pid" \
            RABBITMQ_DIST_PORT="$RABBIT_DIST_PORT" \
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-noinput -kernel inet_dist_use_interface {127,0,0,1}" \
            ERL_EPMD_PORT="$EPMD_PORT" ERL_EPMD_ADDRESS=127.0.0.1 \
            /usr/lib/rabbitmq/bin/rabbitmq-server
    fi
    await rabbitmq 90 rabbitmq_answers
}

down_rabbitmq() {
    stop rabbitmq 20
    stop epmd
}

memcached_answers() {
    timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$MEMCACHED_PORT && printf 'version\r\n' >&3 && read -r -t 3 <&3"
}

up_memcached() {
    if ! running memcached; then
        spawn memcached memcached -u root -l 127.0.0.1 -p "$MEMCACHED_PORT" -U 0 -m 64
    fi
    await memcached 15 memcached_answers
}

down_memcached() {
    stop memcached
}
