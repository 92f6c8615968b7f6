package keystone

import (
	"slices"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// seed makes the same people as tools/cloud does on the real one: projects admin, service, demo and other;
// admin, kiln (the service's own user), demo, demo-reader, demo-manager and other.
func (s *Service) seed() {
	s.insert(s.domains, doc{"id": "default", "name": "Default", "description": "The default domain"})
	s.insert(s.regions, doc{"id": "RegionOne"})
	for _, name := range []string{"admin", "service", "demo", "other"} {
		s.insert(s.projects, doc{"id": seedID("project", name), "name": name})
	}
	for _, name := range []string{"admin", "manager", "member", "reader", "service"} {
		s.insert(s.roles, doc{"id": seedID("role", name), "name": name})
	}
	for prior, implied := range map[string]string{"admin": "manager", "manager": "member", "member": "reader"} {
		s.implied[s.role(prior)] = []string{s.role(implied)}
	}
	for _, name := range []string{"admin", "kiln", "nova", "zun", "glance", "placement", "demo", "demo-reader", "demo-manager", "other"} {
		s.insert(s.users, doc{"id": seedID("user", name), "name": name, "password": s.opts.Password})
	}
	project := func(user, role, project string) {
		s.grants = append(s.grants, grant{user: s.user(user), role: s.role(role), scope: "project", target: s.project(project)})
	}
	project("admin", "admin", "admin")
	s.grants = append(s.grants, grant{user: s.user("admin"), role: s.role("admin"), scope: "system", target: "all"})
	for _, user := range []string{"kiln", "nova", "zun", "glance", "placement"} {
		project(user, "service", "service")
		project(user, "admin", "service")
	}
	// The service's user works for tenants: warm-ups and upgrades of images that belong to any project.
	s.grants = append(s.grants, grant{user: s.user("kiln"), role: s.role("admin"), scope: "domain", target: "default", inherited: true})
	project("demo", "member", "demo")
	project("demo-reader", "reader", "demo")
	project("demo-manager", "manager", "demo")
	project("other", "member", "other")
	for _, e := range s.opts.Catalog {
		s.setEndpoint(e)
	}
}

// seedID is the same at every start, so that what others wrote down about a project stays true.
func seedID(kind, name string) string {
	return wire.Hex(uuid.NewSHA1(uuid.NameSpaceOID, []byte("pocket "+kind+" "+name)).String())
}

func idOf(d doc) string {
	id, _ := d["id"].(string)
	return id
}

func (s *Service) user(name string) string    { return idOf(s.users.byName(name, "default")) }
func (s *Service) project(name string) string { return idOf(s.projects.byName(name, "default")) }
func (s *Service) role(name string) string    { return idOf(s.roles.byName(name, "")) }

func (s *Service) setEndpoint(e Endpoint) {
	var service doc
	for _, d := range s.services.list {
		if d["type"] == e.Type {
			service = d
		}
	}
	if service == nil {
		service = s.insert(s.services, doc{"type": e.Type, "name": e.Name})
	}
	s.endpoints.list = slices.DeleteFunc(s.endpoints.list, func(d doc) bool { return d["service_id"] == service["id"] })
	for _, face := range []string{"public", "internal", "admin"} {
		s.insert(s.endpoints, doc{"interface": face, "service_id": service["id"], "region_id": "RegionOne", "url": e.URL})
	}
}
