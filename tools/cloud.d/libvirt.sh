# libvirtd and virtlogd of the one real compute, in their own mount and UTS namespaces: their /etc/libvirt,
# /var/lib/libvirt and /run/libvirt are folders of the cloud's state. Sourced by tools/cloud.
# shellcheck shell=bash

in_libvirt=(unshare --mount --uts --propagation private /bin/bash "$HELPERS/libvirt_namespace.sh"
    "$STATE/libvirt" "$LIBVIRT_HOST")

# its_virsh talks to the cloud's own libvirtd.
its_virsh() {
    timeout 15 virsh --quiet --connect "$LIBVIRT_URI" "$@"
}

write_libvirt_conf() {
    local dir=$STATE/libvirt
    mkdir -p "$dir/etc" "$dir/lib" "$dir/run" "$dir/cache" "$dir/log"
    write_file "$dir/etc/libvirtd.conf" <<CONF
listen_tls = 0
listen_tcp = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
CONF
    echo 'max_clients = 1024' | write_file "$dir/etc/virtlogd.conf"
    write_file "$dir/etc/qemu.conf" <<CONF
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
CONF
    # libvirt looks for its compiled-in user even when qemu.conf names another one.
    {
        cat /etc/passwd
        getent passwd libvirt-qemu >/dev/null || echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin'
    } >"$dir/passwd"
    {
        cat /etc/group
        getent group libvirt-qemu >/dev/null || echo 'libvirt-qemu:x:64055:'
    } >"$dir/group"
}

# start_libvirt does not wait for libvirtd: its first look at QEMU takes seconds that others can use.
start_libvirt() {
    write_libvirt_conf
    running virtlogd || spawn virtlogd "${in_libvirt[@]}" virtlogd
    await virtlogd 20 test -S "$STATE/libvirt/run/virtlogd-sock"
    running libvirtd || spawn libvirtd "${in_libvirt[@]}" libvirtd
}

await_libvirt() {
    await libvirtd 40 its_virsh version
}

# stop_guests ends the QEMU processes: libvirtd leaves them behind by design.
stop_guests() {
    local name file pid
    if running libvirtd; then
        while read -r name; do
            [[ -z $name ]] || its_virsh destroy "$name" >/dev/null 2>&1 || true
        done < <(its_virsh list --name 2>/dev/null || true)
    fi
    # Those of a libvirtd that died: the pid is believed only when the process runs from our folders.
    for file in "$STATE"/libvirt/run/qemu/*.pid; do
        [[ -e $file ]] || continue
        pid=$(<"$file")
        if tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$INSTANCES/"; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
        rm -f "$file"
    done
}

down_libvirt() {
    stop_guests
    stop libvirtd
    stop virtlogd
}
