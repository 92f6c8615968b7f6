# Keystone, Placement, Glance, Neutron. Sourced by tools/cloud.
# Everybody waits for Keystone: the schemas of the others are made at a lower priority.
# shellcheck shell=bash

# http_answers URL: any answer below 500 will do, the services want a token for most.
http_answers() {
    local code
    code=$(curl --noproxy '*' -s -o /dev/null -m 10 -w '%{http_code}' "$1") && ((code >= 200 && code < 500))
}

# ini_auth SECTION USER prints how a service logs in to Keystone.
ini_auth() {
    cat <<CONF
[$1]
auth_type = password
auth_url = $AUTH_URL
username = $2
password = $PASSWORD
project_name = service
user_domain_id = default
project_domain_id = default
region_name = $REGION
CONF
}

# ini_token USER prints how a service validates tokens.
ini_token() {
    ini_auth keystone_authtoken "$1"
    cat <<CONF
www_authenticate_uri = $AUTH_URL
memcached_servers = 127.0.0.1:$MEMCACHED_PORT
service_token_roles = service
service_token_roles_required = true
CONF
}

# ini_new_policy: Zed still honours the old policy defaults, with which a reader may write.
ini_new_policy() {
    cat <<CONF
[oslo_policy]
enforce_scope = true
enforce_new_defaults = true
CONF
}

# spawn_uwsgi NAME PORT WSGI_FILE: without "Connection: close" a second call on a kept connection is reset.
spawn_uwsgi() {
    spawn "$1" uwsgi --plugin python3 --http-socket "127.0.0.1:$2" --wsgi-file "$3" --processes 1 --threads 4 \
        --lazy-apps --die-on-term --buffer-size 65535 --add-header "Connection: close"
}

# --- Keystone --------------------------------------------------------------------------------------

write_keystone_conf() {
    write_file "$ETC/keystone.conf" <<CONF
[DEFAULT]
public_endpoint = http://127.0.0.1:$KEYSTONE_PORT
[database]
connection = $(mysql_url keystone)
[cache]
enabled = true
backend = dogpile.cache.memcached
memcache_servers = 127.0.0.1:$MEMCACHED_PORT
[identity]
# The fewest rounds: with the default each login costs a quarter of a second of CPU.
password_hash_rounds = 4
[token]
provider = fernet
[fernet_tokens]
key_repository = $STATE/keystone/fernet
[credential]
key_repository = $STATE/keystone/credential
[oslo_concurrency]
lock_path = $STATE/keystone/lock
CONF
}

keystone_manage() {
    quietly keystone 180 keystone-manage --config-file "$ETC/keystone.conf" "$@"
}

up_keystone() {
    mkdir -p "$STATE/keystone/fernet" "$STATE/keystone/credential" "$STATE/keystone/lock"
    chmod 700 "$STATE/keystone" "$STATE/keystone/fernet" "$STATE/keystone/credential"
    write_keystone_conf
    after mariadb
    if once keystone; then
        stop keystone
        rm -f "$DONE/identity"
        fresh_database keystone
        keystone_manage db_sync
        keystone_manage fernet_setup --keystone-user root --keystone-group root
        keystone_manage credential_setup --keystone-user root --keystone-group root
        keystone_manage bootstrap --bootstrap-password "$PASSWORD" --bootstrap-region-id "$REGION" \
            --bootstrap-public-url "$AUTH_URL" --bootstrap-internal-url "$AUTH_URL" --bootstrap-admin-url "$AUTH_URL"
        did keystone
        say "keystone has its schema"
    fi
    after memcached
    if ! running keystone; then
        export OS_KEYSTONE_CONFIG_FILES=$ETC/keystone.conf
        spawn_uwsgi keystone "$KEYSTONE_PORT" /usr/bin/keystone-wsgi-public
    fi
    await keystone 60 http_answers "$AUTH_URL"
    if once identity; then
        quietly identity 120 /usr/bin/python3 "$HELPERS/openstack_setup.py" "$STATE/clouds.yaml" identity "$PORT_BASE"
        did identity
        say "identity is there: projects, users, roles, catalogue"
    fi
}

down_keystone() {
    stop keystone
}

# --- Placement -------------------------------------------------------------------------------------

up_placement() {
    {
        ini_token placement
        cat <<CONF
[placement_database]
connection = $(mysql_url placement)
CONF
    } | write_file "$ETC/placement/placement.conf"
    after mariadb
    export OS_PLACEMENT_CONFIG_DIR=$ETC/placement
    if once placement; then
        stop placement
        fresh_database placement
        quietly placement 180 nice placement-manage --config-dir "$ETC/placement" db sync
        did placement
        say "placement has its schema"
    fi
    after memcached
    if ! running placement; then
        spawn_uwsgi placement "$PLACEMENT_PORT" /usr/bin/placement-api
    fi
    await placement 60 http_answers "http://127.0.0.1:$PLACEMENT_PORT/"
}

down_placement() {
    stop placement
}

# --- Glance ----------------------------------------------------------------------------------------

write_glance_conf() {
    local dir=$STATE/glance
    {
        cat <<CONF
[DEFAULT]
bind_host = 127.0.0.1
bind_port = $GLANCE_PORT
workers = 1
public_endpoint = http://127.0.0.1:$GLANCE_PORT
worker_self_reference_url = http://127.0.0.1:$GLANCE_PORT
transport_url = $(rabbit_url)
enabled_backends = file1:file, file2:file, rbd1:rbd
enabled_import_methods = [glance-direct,web-download,copy-image]
show_image_direct_url = true
show_multiple_locations = true
enforce_secure_rbac = true
[paste_deploy]
flavor = keystone
config_file = /etc/glance/glance-api-paste.ini
[database]
connection = $(mysql_url glance)
[glance_store]
default_backend = file1
[file1]
filesystem_store_datadir = $dir/file1
store_description = files
[file2]
filesystem_store_datadir = $dir/file2
store_description = more files
[rbd1]
rbd_store_pool = images
rbd_store_user = glance
rbd_store_ceph_conf = $CEPH_CONF
rbd_store_chunk_size = 8
store_description = Ceph
[os_glance_staging_store]
filesystem_store_datadir = $dir/staging
[os_glance_tasks_store]
filesystem_store_datadir = $dir/tasks
[import_filtering_opts]
allowed_ports = []
[oslo_messaging_notifications]
driver = messagingv2
[oslo_concurrency]
lock_path = $dir/lock
CONF
        ini_new_policy
        ini_token glance
    } | write_file "$ETC/glance-api.conf"
}

up_glance() {
    local dir=$STATE/glance
    mkdir -p "$dir/file1" "$dir/file2" "$dir/staging" "$dir/tasks" "$dir/lock"
    write_glance_conf
    after mariadb
    if once glance; then
        stop glance
        fresh_database glance
        quietly glance 180 nice glance-manage --config-file "$ETC/glance-api.conf" db_sync
        did glance
        say "glance has its schema"
    fi
    after memcached rabbitmq ceph
    if ! running glance; then
        spawn glance glance-api --config-file "$ETC/glance-api.conf"
    fi
    await glance 60 http_answers "http://127.0.0.1:$GLANCE_PORT/healthcheck"
}

down_glance() {
    stop glance
}

# --- Neutron ---------------------------------------------------------------------------------------

# write_neutron_conf: Nova cannot list or delete servers without a Neutron, but one without drivers and
# agents will do.
write_neutron_conf() {
    {
        cat <<CONF
[DEFAULT]
bind_host = 127.0.0.1
bind_port = $NEUTRON_PORT
api_workers = 0
rpc_workers = 0
rpc_state_report_workers = 0
api_paste_config = /etc/neutron/api-paste.ini
state_path = $STATE/neutron
core_plugin = ml2
service_plugins =
transport_url = $(rabbit_url)
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
[ml2]
type_drivers = local
tenant_network_types = local
mechanism_drivers =
[database]
connection = $(mysql_url neutron)
[oslo_concurrency]
lock_path = $STATE/neutron/lock
CONF
        ini_token neutron
    } | write_file "$ETC/neutron.conf"
}

up_neutron() {
    mkdir -p "$STATE/neutron/lock"
    write_neutron_conf
    after mariadb
    if once neutron; then
        stop neutron
        fresh_database neutron
        quietly neutron 240 nice neutron-db-manage --config-file "$ETC/neutron.conf" upgrade heads
        did neutron
        say "neutron has its schema"
    fi
    after memcached rabbitmq
    if running neutron; then
        await neutron 30 http_answers "http://127.0.0.1:$NEUTRON_PORT/"
    else
        spawn neutron neutron-server --config-file "$ETC/neutron.conf"
        await neutron 90 http_answers "http://127.0.0.1:$NEUTRON_PORT/"
        # The first GET /ports of a fresh Zed process is a 500 unless another query ran before it.
        after keystone
        quietly neutron 60 /usr/bin/python3 "$HELPERS/openstack_setup.py" "$STATE/clouds.yaml" warm-neutron "$PORT_BASE"
    fi
}

down_neutron() {
    stop neutron
}
