"""Sets up the test cluster in one process: ceph_setup.py CONF ping|keys DIR|pools|usable.

The ceph command costs half a second a call; a Rados handle sends the same monitor commands at once.
"""

import json
import os
import sys
import time
import uuid

import rados

POOLS = ("images", "cluster-a", "cluster-b")
CLUSTER_OSD_CAPS = "profile rbd pool=%s, profile rbd-read-only pool=images"


class Cluster:
    """The monitor commands of a cluster, as client.admin."""

    def __init__(self, conf):
        self.rados = rados.Rados(conffile=conf, name="client.admin",
                                 conf={"client_mount_timeout": "10", "rados_mon_op_timeout": "30"})
        self.rados.connect(timeout=10)

    def run(self, prefix, inbuf=b"", **args):
        command = json.dumps(dict(args, prefix=prefix, format="json"))
        code, out, status = self.rados.mon_command(command, inbuf)
        if code < 0:
            raise SystemExit("ceph %s: %s %s" % (prefix, code, status))
        return json.loads(out) if out.strip() else None

    def key(self, entity, **caps):
        flat = [word for pair in caps.items() for word in pair]
        return self.run("auth get-or-create", entity=entity, caps=flat)[0]["key"]


def write_keyring(path, entity, key):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as ring:
        ring.write("[%s]\n\tkey = %s\n" % (entity, key))


def keys(cluster, folder):
    """Keys of the manager, the OSD and the clients; registers the OSD."""
    key = cluster.key("mgr.kiln", mon="allow profile mgr", osd="allow *", mds="allow *")
    write_keyring(folder + "/mgr/keyring", "mgr.kiln", key)
    path = folder + "/osd-uuid"
    if not os.path.exists(path):
        with open(path, "w", encoding="ascii") as target:
            target.write(str(uuid.uuid4()))
    with open(path, encoding="ascii") as source:
        number = cluster.run("osd new", uuid=source.read().strip())["osdid"]
    if number != 0:
        raise SystemExit("the OSD got the number %s instead of 0" % number)
    key = cluster.key("osd.0", mon="allow profile osd", mgr="allow profile osd", osd="allow *")
    write_keyring(folder + "/osd/keyring", "osd.0", key)
    osd_caps = {"client.glance": "profile rbd pool=images"}
    for pool in POOLS[1:]:
        osd_caps["client." + pool] = CLUSTER_OSD_CAPS % pool
    for entity, caps in osd_caps.items():
        key = cluster.key(entity, mon="profile rbd", mgr="profile rbd", osd=caps)
        write_keyring("%s/ceph.%s.keyring" % (folder, entity), entity, key)


def pools(cluster):
    """The pools, each with its application, and clone v2 for the clients."""
    cluster.run("osd set-require-min-compat-client", version="mimic")
    have = {entry["poolname"] for entry in cluster.run("osd lspools")}
    for pool in POOLS:
        if pool not in have:
            cluster.run("osd pool create", pool=pool, pg_num=8, pgp_num=8)
        cluster.run("osd pool application enable", pool=pool, app="rbd")


def usable(cluster):
    """Fails until every pool takes a write."""
    for pool in POOLS:
        with cluster.rados.open_ioctx(pool) as ioctx:
            done = ioctx.aio_write_full("kiln-cloud-probe", b"1")
            deadline = time.monotonic() + 5
            while not done.is_complete():
                if time.monotonic() > deadline:
                    # The handle cannot be closed while a write hangs.
                    os._exit(1)
                time.sleep(0.02)
            ioctx.remove_object("kiln-cloud-probe")


def main():
    conf, action, *rest = sys.argv[1:]
    cluster = Cluster(conf)
    try:
        if action == "keys":
            keys(cluster, rest[0])
        elif action == "pools":
            pools(cluster)
        elif action == "usable":
            usable(cluster)
    finally:
        # Left to the end of the interpreter, librados now and then dies of a segmentation fault.
        cluster.rados.shutdown()


if __name__ == "__main__":
    main()
