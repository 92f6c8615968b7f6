"""Fills the cloud over its APIs: openstack_setup.py CLOUDS_YAML identity|warm-neutron|flavors PORT_BASE.

Every action looks before it creates, so it may be run again. One process does what would be some sixty
calls of the openstack command at 1.5 s each.
"""

import sys

import yaml
from keystoneauth1 import session
from keystoneauth1.identity import v3

# Type, name, port offset, path.
CATALOGUE = (
    ("identity", "keystone", 0, "/v3"),
    ("image", "glance", 292, ""),
    ("network", "neutron", 696, ""),
    ("compute", "nova", 774, "/v2.1"),
    ("placement", "placement", 778, ""),
    ("provisioning", "kiln", 789, "/"),
)
PROJECTS = ("admin", "service", "demo", "other")
SERVICE_USERS = ("glance", "placement", "neutron", "nova", "kiln")
# User, project, role.
TEST_USERS = (
    ("demo", "demo", "member"),
    ("demo-reader", "demo", "reader"),
    ("demo-manager", "demo", "manager"),
    ("other", "other", "member"),
)
# Newer Keystones bring manager and service by themselves; Zed does not.
ROLES = ("admin", "manager", "member", "reader", "service")
IMPLIED = (("admin", "manager"), ("manager", "member"), ("member", "reader"))
# Name, vCPU, RAM in MiB, disk in GiB.
FLAVORS = (("kiln.tiny", 1, 128, 1), ("kiln.small", 1, 512, 4))


class Setup:
    """The admin's session, with the port numbers of this cloud."""

    def __init__(self, clouds, port_base):
        with open(clouds, encoding="utf-8") as source:
            auth = yaml.safe_load(source)["clouds"]["admin"]["auth"]
        self.password = auth["password"]
        self.port_base = port_base
        self.keystone = auth["auth_url"]
        self.session = session.Session(auth=v3.Password(**auth))

    def get(self, url):
        return self.session.get(url, timeout=60).json()

    def ensure(self, kind, want):
        """The id of the thing named want["name"], made when it is not there."""
        plural = {"identity": "identities"}.get(kind, kind + "s")
        url = "%s/%s" % (self.keystone, plural)
        for have in self.get(url)[plural]:
            if have.get("name") == want["name"]:
                return have["id"]
        return self.session.post(url, json={kind: want}, timeout=60).json()[kind]["id"]

    def put(self, path):
        """Grants and implications: PUT is safe to repeat for the first, not for the second."""
        url = self.keystone + path
        if self.session.head(url, raise_exc=False, timeout=60).status_code == 404:
            self.session.put(url, timeout=60)

    def identity(self):
        roles = {name: self.ensure("role", {"name": name}) for name in ROLES}
        for prior, implied in IMPLIED:
            self.put("/roles/%s/implies/%s" % (roles[prior], roles[implied]))
        projects = {name: self.ensure("project", {"name": name, "domain_id": "default"}) for name in PROJECTS}

        def grant(user, project, role):
            self.put("/projects/%s/users/%s/roles/%s" % (projects[project], user, roles[role]))

        for name in SERVICE_USERS:
            user = self.user(name)
            grant(user, "service", "service")
            grant(user, "service", "admin")
            if name == "kiln":
                # Kiln acts in the project of whoever asked.
                self.put("/OS-INHERIT/domains/default/users/%s/roles/%s/inherited_to_projects"
                         % (user, roles["admin"]))
        for name, project, role in TEST_USERS:
            grant(self.user(name), project, role)
        self.catalogue()

    def user(self, name):
        return self.ensure("user", {"name": name, "domain_id": "default", "password": self.password})

    def catalogue(self):
        have = {(entry["service_id"], entry["interface"]): entry
                for entry in self.get(self.keystone + "/endpoints")["endpoints"]}
        for kind, name, offset, path in CATALOGUE:
            service = self.ensure("service", {"name": name, "type": kind})
            url = "http://127.0.0.1:%d%s" % (self.port_base + offset, path)
            for interface in ("public", "internal", "admin"):
                if (service, interface) not in have:
                    self.session.post(self.keystone + "/endpoints", timeout=60, json={"endpoint": {
                        "service_id": service, "interface": interface, "url": url, "region_id": "RegionOne"}})

    def warm_neutron(self):
        base = "http://127.0.0.1:%d/v2.0" % (self.port_base + 696)
        self.get(base + "/networks")
        self.get(base + "/ports")

    def flavors(self):
        url = "http://127.0.0.1:%d/v2.1/flavors" % (self.port_base + 774)
        have = {flavor["name"] for flavor in self.get(url)["flavors"]}
        for name, vcpus, ram, disk in FLAVORS:
            if name not in have:
                self.session.post(url, timeout=60, json={"flavor": {
                    "name": name, "vcpus": vcpus, "ram": ram, "disk": disk}})


def main():
    clouds, action, port_base = sys.argv[1:]
    setup = Setup(clouds, int(port_base))
    {"identity": setup.identity, "warm-neutron": setup.warm_neutron, "flavors": setup.flavors}[action]()


if __name__ == "__main__":
    main()
