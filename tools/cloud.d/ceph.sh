# Ceph: one monitor, one manager, one bluestore OSD on a sparse file. Sourced by tools/cloud.
# shellcheck shell=bash

ceph_setup() {
    /usr/bin/python3 "$HELPERS/ceph_setup.py" "$CEPH_CONF" "$@"
}

ceph_mon_answers() {
    timeout 20 /usr/bin/python3 "$HELPERS/ceph_setup.py" "$CEPH_CONF" ping
}

# write_ceph_conf: the intervals and the caches are small because the cluster is; pools have one copy.
write_ceph_conf() {
    local dir=$STATE/ceph
    [[ -s $dir/fsid ]] || cat /proc/sys/kernel/random/uuid >"$dir/fsid"
    cat >"$CEPH_CONF" <<CONF
[global]
fsid = $(<"$dir/fsid")
mon initial members = kiln
mon host = [v2:127.0.0.1:$CEPH_V2_PORT,v1:127.0.0.1:$CEPH_V1_PORT]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind port min = $CEPH_DAEMON_PORTS
ms bind port max = $((CEPH_DAEMON_PORTS + 50))
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
run dir = $RUN
crash dir = $dir/crash
log file =
mon cluster log file =
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false

[mon]
mon data = $dir/mon
mon allow pool delete = true
mon data avail warn = 3
mon data avail crit = 1
mon max pg per osd = 1000
paxos propose interval = 0.02
paxos min wait = 0.01
mon memory target = 268435456
log to stderr = true

[mgr]
mgr data = $dir/mgr
keyring = $dir/mgr/keyring
log to stderr = true

[osd]
osd data = $dir/osd
keyring = $dir/osd/keyring
osd objectstore = bluestore
bluestore block create = true
bluestore block size = 34359738368
bluestore cache autotune = false
bluestore cache size = 134217728
osd memory target = 939524096
osd max pg log entries = 500
log to stderr = true

[client]
rados mon op timeout = 30
rados osd op timeout = 60
admin socket =

[client.admin]
keyring = $dir/ceph.client.admin.keyring
[client.glance]
keyring = $dir/ceph.client.glance.keyring
[client.cluster-a]
keyring = $dir/ceph.client.cluster-a.keyring
[client.cluster-b]
keyring = $dir/ceph.client.cluster-b.keyring
CONF
}

# make_mon makes the monitor's store and the first keys.
make_mon() {
    local dir=$STATE/ceph ring=$STATE/ceph/mon.keyring
    rm -rf "$dir/mon" "$dir/osd" "$dir/mgr" "$ring" "$dir/ceph.client.admin.keyring"
    mkdir -p "$dir/mon" "$dir/mgr" "$dir/osd" "$dir/crash"
    quietly ceph-mon 20 ceph-authtool --create-keyring "$ring" --gen-key -n mon. --cap mon 'allow *'
    quietly ceph-mon 20 ceph-authtool --create-keyring "$dir/ceph.client.admin.keyring" --gen-key \
        -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mds 'allow *' --cap mgr 'allow *'
    quietly ceph-mon 20 ceph-authtool "$ring" --import-keyring "$dir/ceph.client.admin.keyring"
    quietly ceph-mon 20 monmaptool --create --clobber --fsid "$(<"$dir/fsid")" \
        --addv kiln "[v2:127.0.0.1:$CEPH_V2_PORT,v1:127.0.0.1:$CEPH_V1_PORT]" "$dir/monmap"
    quietly ceph-mon 60 ceph-mon -c "$CEPH_CONF" --mkfs -i kiln --monmap "$dir/monmap" --keyring "$ring"
    did ceph-mon
}

start_ceph_daemon() {
    running "$1" || spawn "$1" "$1" -c "$CEPH_CONF" -f -i "$2"
}

up_ceph() {
    local dir=$STATE/ceph
    mkdir -p "$dir"
    write_ceph_conf
    if once ceph-mon; then
        down_ceph
        rm -f "$DONE/ceph-osd" "$DONE/ceph-pools"
        make_mon
    fi
    start_ceph_daemon ceph-mon kiln
    await ceph-mon 60 ceph_mon_answers
    if once ceph-osd; then
        stop ceph-osd
        rm -rf "$dir/osd"
        mkdir -p "$dir/osd"
        quietly ceph-mon 60 /usr/bin/python3 "$HELPERS/ceph_setup.py" "$CEPH_CONF" keys "$dir"
        quietly ceph-osd 120 ceph-osd -c "$CEPH_CONF" --mkfs -i 0 --osd-uuid "$(<"$dir/osd-uuid")"
        did ceph-osd
    fi
    start_ceph_daemon ceph-mgr kiln
    start_ceph_daemon ceph-osd 0
    if once ceph-pools; then
        quietly ceph-mon 120 /usr/bin/python3 "$HELPERS/ceph_setup.py" "$CEPH_CONF" pools
        did ceph-pools
    fi
    await ceph-osd 120 ceph_setup usable
    await ceph-mgr 10 running ceph-mgr
}

down_ceph() {
    stop ceph-osd 20
    stop ceph-mgr 3
    stop ceph-mon
}
