# Nova: api, scheduler, conductor, one libvirt compute and the fakes. Sourced by tools/cloud.
# shellcheck shell=bash

nova_conf=(--config-file "$ETC/nova.conf")
# Only what may touch the databases reads this file: a nova-compute that sees them refuses to start.
nova_db_conf=("${nova_conf[@]}" --config-file "$ETC/nova-db.conf")

write_nova_conf() {
    {
        cat <<CONF
[DEFAULT]
my_ip = 127.0.0.1
state_path = $STATE/nova
transport_url = $(rabbit_url)
enabled_apis = osapi_compute
osapi_compute_listen = 127.0.0.1
osapi_compute_listen_port = $NOVA_PORT
osapi_compute_workers = 1
allow_resize_to_same_host = true
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
shutdown_timeout = 5
resume_guests_state_on_host_boot = true
default_schedule_zone = nova
[wsgi]
api_paste_config = /etc/nova/api-paste.ini
[api]
auth_strategy = keystone
[conductor]
workers = 1
[scheduler]
workers = 1
[quota]
instances = -1
cores = -1
ram = -1
server_groups = -1
server_group_members = -1
[notifications]
notification_format = both
notify_on_state_change = vm_and_task_state
[oslo_messaging_notifications]
driver = messagingv2
[oslo_concurrency]
lock_path = $STATE/nova/lock
[workarounds]
disable_rootwrap = true
[vnc]
enabled = false
[spice]
enabled = false
CONF
        ini_new_policy
        ini_token nova
        ini_auth service_user nova
        echo "send_service_user_token = true"
        ini_auth placement placement
        ini_auth neutron neutron
        ini_auth glance nova
    } | write_file "$ETC/nova.conf"
    write_file "$ETC/nova-db.conf" <<CONF
[api_database]
connection = $(mysql_url nova_api)
[database]
connection = $(mysql_url nova_cell1)
CONF
}

# write_compute_conf HOST: the file of one compute; the caller adds the driver's lines on standard input.
write_compute_conf() {
    local dir=$STATE/nova/$1 file=$ETC/nova-compute-$1.conf context
    mkdir -p "$dir/instances" "$dir/lock"
    {
        cat <<CONF
[DEFAULT]
host = $1
state_path = $dir
instances_path = $dir/instances
CONF
        cat
        cat <<CONF
[oslo_concurrency]
lock_path = $dir/lock
CONF
        for context in nova_sys_admin privsep_osbrick vif_plug_linux_bridge_privileged vif_plug_ovs_privileged; do
            echo "[$context]"
            echo "helper_command = privsep-helper --config-file $ETC/nova.conf --config-file $file"
        done
    } | write_file "$file"
}

write_computes() {
    local host
    # Two cores stand for many nodes: what tests place here mostly sleeps.
    write_compute_conf "$LIBVIRT_HOST" <<CONF
compute_driver = libvirt.LibvirtDriver
cpu_allocation_ratio = 32.0
ram_allocation_ratio = 4.0
disk_allocation_ratio = 8.0
reserved_host_memory_mb = 0
[libvirt]
connection_uri = $LIBVIRT_URI
virt_type = qemu
cpu_mode = none
inject_partition = -2
CONF
    for host in "${FAKE_HOSTS[@]}"; do
        # The plain FakeDriver has no image precache.
        write_compute_conf "$host" <<CONF
compute_driver = fake.FakeDriverWithCaching
cpu_allocation_ratio = 1.0
ram_allocation_ratio = 1.0
disk_allocation_ratio = 1.0
reserved_host_memory_mb = 0
CONF
    done
}

start_nova() {
    running "$1" || spawn "$@"
}

# computes_ready: every compute reported after the start, is mapped into the cell and has its
# inventory in Placement.
computes_ready() {
    [[ $(computes_counted) == "$((${#FAKE_HOSTS[@]} + 1))" ]]
}

computes_counted() {
    sql <<SQL
SELECT COUNT(DISTINCT c.host) FROM nova_cell1.compute_nodes c
  JOIN nova_cell1.services s ON s.host = c.host AND s.binary = 'nova-compute' AND s.deleted = 0
       AND s.last_seen_up > UTC_TIMESTAMP() - INTERVAL 60 SECOND
  JOIN placement.resource_providers p ON p.uuid = c.uuid
  JOIN placement.inventories i ON i.resource_provider_id = p.id
 WHERE c.deleted = 0;
SQL
}

computes_mapped() {
    [[ $(sql <<<"SELECT COUNT(*) FROM nova_api.host_mappings") -gt ${#FAKE_HOSTS[@]} ]]
}

make_nova_schema() {
    down_nova_daemons
    fresh_database nova_api nova_cell0 nova_cell1
    quietly nova-manage 240 nice /usr/bin/python3 "$HELPERS/nova_manage.py" schema "$(mysql_url nova_cell0)" "${nova_db_conf[@]}"
    did nova
    say "nova has its schema"
}

up_nova() {
    local host first
    mkdir -p "$STATE/nova/lock"
    write_nova_conf
    write_computes
    start_libvirt
    after mariadb
    if once nova; then make_nova_schema; fi
    await_libvirt
    after memcached rabbitmq keystone
    start_nova nova-conductor nova-conductor "${nova_db_conf[@]}"
    start_nova nova-api nova-api "${nova_db_conf[@]}"
    start_nova nova-scheduler nova-scheduler "${nova_db_conf[@]}"
    after placement
    for host in "$LIBVIRT_HOST" "${FAKE_HOSTS[@]}"; do
        start_nova "nova-compute-$host" /usr/bin/python3 "$HELPERS/nova_compute.py" "${nova_conf[@]}" \
            --config-file "$ETC/nova-compute-$host.conf"
    done
    await nova-api 90 http_answers "http://127.0.0.1:$NOVA_PORT/"
    if once flavors; then
        quietly nova-api 60 /usr/bin/python3 "$HELPERS/openstack_setup.py" "$STATE/clouds.yaml" flavors "$PORT_BASE"
        did flavors
    fi
    first=nova-compute-$LIBVIRT_HOST
    await "$first" 120 computes_ready
    if ! computes_mapped; then
        quietly nova-manage 120 /usr/bin/python3 "$HELPERS/nova_manage.py" discover - "${nova_db_conf[@]}"
    fi
    after glance neutron
}

down_nova_daemons() {
    local name
    local -a stopping=()
    for name in "${FAKE_HOSTS[@]/#/nova-compute-}" "nova-compute-$LIBVIRT_HOST" nova-scheduler nova-conductor nova-api; do
        stop "$name" 5 &
        stopping+=($!)
    done
    # Not a bare wait: daemons that this shell has started are its children, too.
    wait "${stopping[@]}"
}

down_nova() {
    down_nova_daemons
    down_libvirt
}
