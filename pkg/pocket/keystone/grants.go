package keystone

import (
	"net/http"
	"slices"
)

// grant is one role assignment of a user.
type grant struct {
	user, role    string // ids
	scope, target string // project, domain or system; its id, "all" for system
	inherited     bool   // OS-INHERIT: holds on the projects of the domain, not on the domain itself
}

// rolesOn finds a user's roles on a scope, implied ones included, in the order of the role list.
func (s *Service) rolesOn(user, scope, target string) []doc {
	held := map[string]bool{}
	var add func(id string)
	add = func(id string) {
		if held[id] {
			return
		}
		held[id] = true
		for _, implied := range s.implied[id] {
			add(implied)
		}
	}
	for _, g := range s.grants {
		direct := g.scope == scope && g.target == target && !g.inherited
		fromDomain := g.inherited && scope == "project" && g.scope == "domain" && g.target == s.projects.text(target, "domain_id")
		fromParent := g.inherited && scope == "project" && g.scope == "project" && g.target == s.projects.text(target, "parent_id")
		if g.user == user && (direct || fromDomain || fromParent) {
			add(g.role)
		}
	}
	found := []doc{}
	for _, r := range s.roles.list {
		if held[idOf(r)] {
			found = append(found, doc{"id": r["id"], "name": r["name"]})
		}
	}
	return found
}

func (s *Service) projectsOf(user string) []doc {
	found := []doc{}
	for _, p := range s.projects.list {
		if p["enabled"] == true && len(s.rolesOn(user, "project", idOf(p))) > 0 {
			found = append(found, p)
		}
	}
	return found
}

func (s *Service) listOwnProjects(r *http.Request, t *token) (answer, error) {
	return s.page(r, "projects", s.projectsOf(t.userID)), nil
}

func (s *Service) listUserProjects(r *http.Request, _ *token) (answer, error) {
	id := r.PathValue("id")
	if s.users.get(id) == nil {
		return answer{}, notFound("user", id)
	}
	return s.page(r, "projects", s.projectsOf(id)), nil
}

func (s *Service) serveGrants(mux *http.ServeMux) {
	for pattern, scope := range map[string]string{
		"/v3/projects/{target}/users/{user}/roles/{role}":                                  "project",
		"/v3/domains/{target}/users/{user}/roles/{role}":                                   "domain",
		"/v3/system/users/{user}/roles/{role}":                                             "system",
		"/v3/OS-INHERIT/projects/{target}/users/{user}/roles/{role}/inherited_to_projects": "project",
		"/v3/OS-INHERIT/domains/{target}/users/{user}/roles/{role}/inherited_to_projects":  "domain",
	} {
		inherited := len(pattern) > len("/v3/OS-INHERIT/") && pattern[:15] == "/v3/OS-INHERIT/"
		with := func(verb string, act func(grant) (answer, error)) http.HandlerFunc {
			return s.route(s.adminOnly, "identity:"+verb+"_grant", func(r *http.Request, _ *token) (answer, error) {
				g, err := s.readGrant(r, scope, inherited)
				if err != nil {
					return answer{}, err
				}
				return act(g)
			})
		}
		mux.HandleFunc("PUT "+pattern, with("create", s.putGrant))
		mux.HandleFunc("GET "+pattern, with("check", s.checkGrant)) // and HEAD
		mux.HandleFunc("DELETE "+pattern, with("revoke", s.deleteGrant))
	}
	mux.HandleFunc("GET /v3/projects/{target}/users/{user}/roles", s.route(s.adminOnly, "identity:list_grants", s.listGrants))
	mux.HandleFunc("GET /v3/role_assignments", s.route(s.adminOnly, "identity:list_role_assignments", s.listAssignments))
}

func (s *Service) readGrant(r *http.Request, scope string, inherited bool) (grant, error) {
	g := grant{user: r.PathValue("user"), role: r.PathValue("role"), scope: scope, target: r.PathValue("target"), inherited: inherited}
	switch {
	case scope == "system":
		g.target = "all"
	case scope == "project" && s.projects.get(g.target) == nil:
		return g, notFound("project", g.target)
	case scope == "domain" && s.domains.get(g.target) == nil:
		return g, notFound("domain", g.target)
	}
	if s.roles.get(g.role) == nil {
		return g, notFound("role", g.role)
	}
	if s.users.get(g.user) == nil {
		return g, notFound("user", g.user)
	}
	return g, nil
}

func (s *Service) putGrant(g grant) (answer, error) {
	if !slices.Contains(s.grants, g) {
		s.grants = append(s.grants, g)
	}
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) checkGrant(g grant) (answer, error) {
	if !slices.Contains(s.grants, g) {
		return answer{}, s.noGrant(g)
	}
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) deleteGrant(g grant) (answer, error) {
	if !slices.Contains(s.grants, g) {
		return answer{}, s.noGrant(g)
	}
	s.grants = slices.DeleteFunc(s.grants, func(have grant) bool { return have == g })
	// Keystone revokes the tokens that the grant backed.
	for key, t := range s.tokens {
		if t.userID == g.user && t.projectID != "" && len(s.rolesOn(g.user, "project", t.projectID)) == 0 {
			delete(s.tokens, key)
		}
	}
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) noGrant(g grant) error {
	return fail(http.StatusNotFound, "Could not find role assignment with role: %s, user or group: %s, project, domain, or system: %s.",
		g.role, g.user, g.target)
}

func (s *Service) listGrants(r *http.Request, _ *token) (answer, error) {
	found := []doc{}
	for _, g := range s.grants {
		if g.user == r.PathValue("user") && g.scope == "project" && g.target == r.PathValue("target") && !g.inherited {
			found = append(found, s.roles.get(g.role))
		}
	}
	return s.page(r, "roles", found), nil
}

func (s *Service) listAssignments(r *http.Request, _ *token) (answer, error) {
	query := r.URL.Query()
	names := query.Has("include_names")
	effective := query.Has("effective")
	found := []doc{}
	for _, g := range s.assignments(effective) {
		wanted := func(key, have string) bool { return !query.Has(key) || query.Get(key) == have }
		if !wanted("user.id", g.user) || !wanted("role.id", g.role) ||
			query.Has("scope.project.id") && (g.scope != "project" || g.target != query.Get("scope.project.id")) ||
			query.Has("scope.domain.id") && (g.scope != "domain" || g.target != query.Get("scope.domain.id")) {
			continue
		}
		found = append(found, s.assignment(g, names))
	}
	return s.page(r, "role_assignments", found), nil
}

// assignments are the grants as made, or, effective, what they come to.
func (s *Service) assignments(effective bool) []grant {
	if !effective {
		return s.grants
	}
	var all []grant
	for _, u := range s.users.list {
		for _, p := range s.projects.list {
			for _, role := range s.rolesOn(idOf(u), "project", idOf(p)) {
				all = append(all, grant{user: idOf(u), role: idOf(role), scope: "project", target: idOf(p)})
			}
		}
	}
	return all
}

func (s *Service) assignment(g grant, names bool) doc {
	named := func(c *collection, id string) doc {
		d := doc{"id": id}
		if names {
			d["name"] = c.text(id, "name")
			if c == s.users || c == s.projects {
				d["domain"] = doc{"id": "default", "name": "Default"}
			}
		}
		return d
	}
	scope := doc{}
	switch g.scope {
	case "project":
		scope["project"] = named(s.projects, g.target)
	case "domain":
		scope["domain"] = named(s.domains, g.target)
	default:
		scope["system"] = doc{"all": true}
	}
	if g.inherited {
		scope["OS-INHERIT:inherited_to"] = "projects"
	}
	return doc{"scope": scope, "user": named(s.users, g.user), "role": named(s.roles, g.role),
		"links": doc{"assignment": s.kit.URL + "/v3/" + g.scope + "s/" + g.target + "/users/" + g.user + "/roles/" + g.role}}
}
