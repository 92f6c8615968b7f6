# Where everything is: paths, ports, names. Sourced by tools/cloud.
# shellcheck shell=bash disable=SC2034  # the variables are used by the other files

STATE=$(realpath -m "${KILN_CLOUD_STATE:-/var/lib/kiln-cloud}")
LOGS=$STATE/log
RUN=$STATE/run
ETC=$STATE/etc
DONE=$STATE/done

PORT_BASE=${KILN_CLOUD_PORT_BASE:-15000}
KEYSTONE_PORT=$((PORT_BASE + 0))
MEMCACHED_PORT=$((PORT_BASE + 211))
GLANCE_PORT=$((PORT_BASE + 292))
MYSQL_PORT=$((PORT_BASE + 306))
CEPH_V2_PORT=$((PORT_BASE + 330))
CEPH_V1_PORT=$((PORT_BASE + 331))
RABBIT_PORT=$((PORT_BASE + 671))
RABBIT_DIST_PORT=$((PORT_BASE + 672))
EPMD_PORT=$((PORT_BASE + 673))
NEUTRON_PORT=$((PORT_BASE + 696))
NOVA_PORT=$((PORT_BASE + 774))
PLACEMENT_PORT=$((PORT_BASE + 778))
KILN_PORT=$((PORT_BASE + 789))
CEPH_DAEMON_PORTS=$((PORT_BASE + 800))

AUTH_URL=http://127.0.0.1:$KEYSTONE_PORT/v3
REGION=RegionOne
MYSQL_SOCKET=$RUN/mariadb.sock
CEPH_CONF=$STATE/ceph/ceph.conf

# Names with a dot: libvirt asks the resolver about names without one, which may block for long.
LIBVIRT_HOST=libvirt1.kiln.test
FAKE_HOSTS=(fake1.kiln.test fake2.kiln.test fake3.kiln.test)
# Users that tests act as, each with its project.
declare -A USERS=([admin]=admin [kiln]=service [demo]=demo [demo-reader]=demo [demo-manager]=demo [other]=other)
INSTANCES=$STATE/nova/$LIBVIRT_HOST/instances
LIBVIRT_URI="qemu+unix:///system?socket=$STATE/libvirt/run/libvirt-sock"

# The programs of OpenStack are Debian's and want Debian's python3; another one may come first in the
# caller's PATH, and a proxy or a scrap of the caller's environment must not reach them.
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin
export no_proxy=127.0.0.1,localhost NO_PROXY=127.0.0.1,localhost LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME TMPDIR "${!OS_@}"

# prepare_state makes the folders and the one password of all users.
prepare_state() {
    local tool
    for tool in mariadbd rabbitmq-server memcached ceph-osd keystone-manage nova-conductor libvirtd; do
        command -v "$tool" >/dev/null || { echo "tools/cloud: $tool is missing: run tools/deps cloud" >&2; exit 1; }
    done
    mkdir -p "$STATE" "$LOGS" "$RUN" "$ETC" "$DONE"
    chmod 755 "$STATE"
    touch "$STATE/.kiln-cloud" "$STATE/wanted"
    if [[ ! -s $STATE/password ]]; then
        (umask 077 && od -An -tx1 -N12 /dev/urandom | tr -d ' \n' >"$STATE/password")
    fi
    PASSWORD=$(<"$STATE/password")
    write_clouds_yaml
}

# mysql_url DATABASE prints an SQLAlchemy URL.
mysql_url() {
    echo "mysql+pymysql://root:$PASSWORD@127.0.0.1:$MYSQL_PORT/$1?charset=utf8"
}

rabbit_url() {
    echo "rabbit://openstack:$PASSWORD@127.0.0.1:$RABBIT_PORT/"
}

# write_file PATH: standard input becomes PATH, by rename, readable by root only.
write_file() {
    mkdir -p "$(dirname "$1")"
    (umask 077 && cat >"$1.new")
    mv -f "$1.new" "$1"
}

# write_clouds_yaml writes one entry for each user that tests act as.
write_clouds_yaml() {
    local user
    {
        echo "clouds:"
        for user in "${!USERS[@]}"; do
            cat <<YAML
  $user:
    region_name: $REGION
    identity_api_version: "3"
    auth:
      auth_url: $AUTH_URL
      username: $user
      password: "$PASSWORD"
      project_name: ${USERS[$user]}
      user_domain_id: default
      project_domain_id: default
YAML
        done
    } | write_file "$STATE/clouds.yaml"
}
