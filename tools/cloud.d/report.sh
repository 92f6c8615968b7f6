# What status and env print. Sourced by tools/cloud.
# shellcheck shell=bash

# service_fresh BINARY HOST: the service reported to Nova's database within the last minute.
service_fresh() {
    [[ $(sql <<SQL
SELECT COUNT(*) FROM nova_cell1.services WHERE \`binary\` = '$1' AND host LIKE '$2' AND deleted = 0
   AND last_seen_up > UTC_TIMESTAMP() - INTERVAL 60 SECOND
SQL
    ) -ge 1 ]]
}

# rows PART prints "process port probe…" for every process of a part.
rows() {
    local host
    case $1 in
        mariadb) echo "mariadb $MYSQL_PORT mariadb_answers" ;;
        rabbitmq)
            echo "epmd $EPMD_PORT epmd_answers"
            echo "rabbitmq $RABBIT_PORT rabbitmq_answers"
            ;;
        memcached) echo "memcached $MEMCACHED_PORT memcached_answers" ;;
        ceph)
            echo "ceph-mon $CEPH_V2_PORT ceph_mon_answers"
            echo "ceph-mgr - running ceph-mgr"
            echo "ceph-osd - ceph_setup usable"
            ;;
        keystone) echo "keystone $KEYSTONE_PORT http_answers $AUTH_URL" ;;
        placement) echo "placement $PLACEMENT_PORT http_answers http://127.0.0.1:$PLACEMENT_PORT/" ;;
        glance) echo "glance $GLANCE_PORT http_answers http://127.0.0.1:$GLANCE_PORT/healthcheck" ;;
        neutron) echo "neutron $NEUTRON_PORT http_answers http://127.0.0.1:$NEUTRON_PORT/" ;;
        nova)
            echo "nova-api $NOVA_PORT http_answers http://127.0.0.1:$NOVA_PORT/"
            echo "nova-conductor - service_fresh nova-conductor %"
            echo "nova-scheduler - service_fresh nova-scheduler %"
            echo "virtlogd - test -S $STATE/libvirt/run/virtlogd-sock"
            echo "libvirtd - its_virsh version"
            for host in "$LIBVIRT_HOST" "${FAKE_HOSTS[@]}"; do
                echo "nova-compute-$host - service_fresh nova-compute $host"
            done
            ;;
    esac
}

status() {
    local part name port probe pid health red=0
    if [[ ! -s $STATE/wanted || ! -r $STATE/password ]]; then
        echo "tools/cloud: nothing is up in $STATE" >&2
        exit 1
    fi
    PASSWORD=$(<"$STATE/password")
    printf '%-36s %8s %6s  %s\n' part pid port health
    for part in "${PARTS[@]}"; do
        grep -qx "$part" "$STATE/wanted" || continue
        while read -r name port probe; do
            pid=$(pid_of "$name") || pid=-
            health=green
            # shellcheck disable=SC2086  # the probe is a command with its arguments
            if [[ $pid == - ]] || ! $probe >/dev/null 2>&1 </dev/null; then
                health=RED
                red=1
            fi
            printf '%-36s %8s %6s  %s\n' "$name" "$pid" "$port" "$health"
        done < <(rows "$part")
    done
    return "$red"
}

# print_env USER prints what tests need, and the user's OS_ variables, quoted for the shell. The openstack
# command lets OS_USERNAME win over --os-cloud: for another user ask for that user's variables.
print_env() {
    local fakes
    [[ -v USERS[$1] ]] || usage
    [[ -r $STATE/password ]] || { echo "tools/cloud: nothing is up in $STATE" >&2; exit 1; }
    PASSWORD=$(<"$STATE/password")
    fakes=$(IFS=,; echo "${FAKE_HOSTS[*]}")
    local -a lines=(
        "OS_AUTH_URL=$AUTH_URL" "OS_USERNAME=$1" "OS_PASSWORD=$PASSWORD" "OS_PROJECT_NAME=${USERS[$1]}"
        OS_USER_DOMAIN_ID=default OS_PROJECT_DOMAIN_ID=default "OS_REGION_NAME=$REGION"
        OS_IDENTITY_API_VERSION=3 OS_COMPUTE_API_VERSION=2.92 "OS_CLIENT_CONFIG_FILE=$STATE/clouds.yaml"
        KILN_TEST_CLOUD=1 "KILN_TEST_AUTH_URL=$AUTH_URL" "KILN_TEST_PASSWORD=$PASSWORD"
        "KILN_TEST_REGION=$REGION"
        "KILN_TEST_RABBIT_URL=amqp://openstack:$PASSWORD@127.0.0.1:$RABBIT_PORT/"
        "KILN_TEST_MYSQL_DSN=root:$PASSWORD@tcp(127.0.0.1:$MYSQL_PORT)/"
        "KILN_TEST_CEPH_CONF=$CEPH_CONF" "KILN_TEST_INSTANCES=$INSTANCES"
        "KILN_TEST_LIBVIRT_HOST=$LIBVIRT_HOST" "KILN_TEST_LIBVIRT_URI=$LIBVIRT_URI"
        "KILN_TEST_FAKE_HOSTS=$fakes" "KILN_TEST_KILN_PORT=$KILN_PORT" "KILN_TEST_STATE=$STATE"
        "no_proxy=127.0.0.1,localhost"
    )
    local line
    for line in "${lines[@]}"; do
        printf 'export %s=%q\n' "${line%%=*}" "${line#*=}"
    done
}
