package keystone

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// doc is one resource as its JSON: Keystone keeps unknown attributes, so the stand-in does too.
type doc = map[string]any

// collection is one kind of resource: /v3/<plural>.
type collection struct {
	plural, singular string
	filters          []string // query keys that list understands
	required         []string
	defaults         func(s *Service, d doc) // fills in what a create leaves out
	unique           string                  // together with domain_id; "" for none
	deleted          func(s *Service, id string)
	list             []doc
}

func (c *collection) get(id string) doc {
	for _, d := range c.list {
		if d["id"] == id {
			return d
		}
	}
	return nil
}

func (c *collection) text(id, key string) string {
	v, _ := c.get(id)[key].(string)
	return v
}

// byName finds a resource by name in a domain (any domain where it is "").
func (c *collection) byName(name, domainID string) doc {
	for _, d := range c.list {
		if d["name"] == name && (domainID == "" || d["domain_id"] == domainID) {
			return d
		}
	}
	return nil
}

func (s *Service) makeCollections() {
	s.domains = &collection{plural: "domains", singular: "domain", filters: []string{"name", "enabled"},
		required: []string{"name"}, unique: "name", defaults: func(_ *Service, d doc) {
			setDefaults(d, doc{"description": "", "enabled": true, "options": doc{}, "tags": []any{}})
		}}
	s.projects = &collection{plural: "projects", singular: "project", required: []string{"name"}, unique: "name",
		filters: []string{"name", "domain_id", "enabled", "parent_id", "is_domain"}, deleted: (*Service).dropProject,
		defaults: func(_ *Service, d doc) {
			setDefaults(d, doc{"description": "", "enabled": true, "is_domain": false, "domain_id": "default",
				"options": doc{}, "tags": []any{}})
			setDefaults(d, doc{"parent_id": d["domain_id"]})
		}}
	s.users = &collection{plural: "users", singular: "user", required: []string{"name"}, unique: "name",
		filters: []string{"name", "domain_id", "enabled"}, deleted: (*Service).dropUser,
		defaults: func(s *Service, d doc) {
			setDefaults(d, doc{"enabled": true, "domain_id": "default", "options": doc{}, "password_expires_at": nil})
			if password, given := d["password"].(string); given {
				s.passwords[d["id"].(string)] = password
				delete(d, "password")
			}
		}}
	s.roles = &collection{plural: "roles", singular: "role", filters: []string{"name", "domain_id"},
		required: []string{"name"}, unique: "name", defaults: func(_ *Service, d doc) {
			setDefaults(d, doc{"description": nil, "domain_id": nil, "options": doc{}})
		}}
	s.services = &collection{plural: "services", singular: "service", filters: []string{"name", "type"},
		required: []string{"type"}, deleted: (*Service).dropService, defaults: func(_ *Service, d doc) {
			setDefaults(d, doc{"enabled": true})
		}}
	s.endpoints = &collection{plural: "endpoints", singular: "endpoint", required: []string{"interface", "service_id", "url"},
		filters: []string{"interface", "service_id", "region_id", "region"}, defaults: func(s *Service, d doc) {
			setDefaults(d, doc{"enabled": true, "region_id": d["region"]})
			d["region"] = d["region_id"]
			if id, _ := d["region_id"].(string); id != "" && s.regions.get(id) == nil {
				s.insert(s.regions, doc{"id": id})
			}
		}}
	s.regions = &collection{plural: "regions", singular: "region", filters: []string{"parent_region_id"},
		defaults: func(_ *Service, d doc) { setDefaults(d, doc{"description": "", "parent_region_id": nil}) }}
}

func setDefaults(d, values doc) {
	for key, v := range values {
		if _, has := d[key]; !has {
			d[key] = v
		}
	}
}

// insert completes a resource and keeps it.
func (s *Service) insert(c *collection, d doc) doc {
	if _, has := d["id"]; !has {
		d["id"] = wire.Hex(s.kit.NewID())
	}
	c.defaults(s, d)
	d["links"] = doc{"self": s.kit.URL + "/v3/" + c.plural + "/" + d["id"].(string)}
	c.list = append(c.list, d)
	return d
}

func (s *Service) serveCollection(mux *http.ServeMux, c *collection) {
	base, one := "/v3/"+c.plural, "/v3/"+c.plural+"/{id}"
	rule := func(verb, noun string) string { return "identity:" + verb + "_" + noun }
	mux.HandleFunc("GET "+base, s.route(s.adminOnly, rule("list", c.plural), c.listAll(s)))
	mux.HandleFunc("POST "+base, s.route(s.adminOnly, rule("create", c.singular), c.create(s)))
	mux.HandleFunc("GET "+one, s.route(c.mayShow(s), rule("get", c.singular), c.show))
	mux.HandleFunc("PATCH "+one, s.route(s.adminOnly, rule("update", c.singular), c.update(s)))
	mux.HandleFunc("DELETE "+one, s.route(s.adminOnly, rule("delete", c.singular), c.remove(s)))
}

func (s *Service) adminOnly(_ *http.Request, t *token) bool { return t.has("admin") }

func (s *Service) selfOrAdmin(r *http.Request, t *token) bool {
	return t.has("admin") || r.PathValue("id") == t.userID
}

// mayShow: everybody may look at itself and at the project of its token.
func (c *collection) mayShow(*Service) func(*http.Request, *token) bool {
	return func(r *http.Request, t *token) bool {
		id := r.PathValue("id")
		return t.has("admin") || c.singular == "user" && id == t.userID || c.singular == "project" && id == t.projectID
	}
}

func (c *collection) listAll(s *Service) handler {
	return func(r *http.Request, _ *token) (answer, error) {
		found := []doc{}
		for _, d := range c.list {
			if matches(d, c.filters, r) {
				found = append(found, d)
			}
		}
		return s.page(r, c.plural, found), nil
	}
}

func matches(d doc, filters []string, r *http.Request) bool {
	query := r.URL.Query()
	for _, key := range filters {
		if !query.Has(key) {
			continue
		}
		want := query.Get(key)
		switch have := d[key].(type) {
		case string:
			if have != want {
				return false
			}
		case bool:
			if b, err := strconv.ParseBool(want); err == nil && b != have {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// page is a list's body; Keystone never pages here.
func (s *Service) page(r *http.Request, plural string, list []doc) answer {
	self := s.kit.URL + r.URL.Path
	if r.URL.RawQuery != "" {
		self += "?" + r.URL.RawQuery
	}
	return answer{status: http.StatusOK, body: doc{plural: list, "links": doc{"self": self, "next": nil, "previous": nil}}}
}

func (c *collection) read(r *http.Request) (doc, error) {
	var body map[string]json.RawMessage
	if err := wire.ReadJSON(r, &body); err != nil {
		return nil, fail(http.StatusBadRequest, "%s", err.Error())
	}
	var d doc
	if err := json.Unmarshal(body[c.singular], &d); err != nil || d == nil {
		return nil, fail(http.StatusBadRequest, "None is not of type 'object'")
	}
	return d, nil
}

func (c *collection) create(s *Service) handler {
	return func(r *http.Request, _ *token) (answer, error) {
		d, err := c.read(r)
		if err != nil {
			return answer{}, err
		}
		for _, key := range c.required {
			if _, has := d[key]; !has {
				return answer{}, fail(http.StatusBadRequest, "'%s' is a required property", key)
			}
		}
		if c.singular != "region" {
			delete(d, "id")
		}
		if id, _ := d["service_id"].(string); c.singular == "endpoint" && s.services.get(id) == nil {
			return answer{}, fail(http.StatusBadRequest, "Could not find service: %s.", id)
		}
		if err := c.checkUnique(d); err != nil {
			return answer{}, err
		}
		return answer{status: http.StatusCreated, body: doc{c.singular: s.insert(c, d)}}, nil
	}
}

func (c *collection) checkUnique(d doc) error {
	if c.unique == "" {
		return nil
	}
	domain, _ := d["domain_id"].(string)
	if domain == "" && (c.singular == "user" || c.singular == "project") {
		domain = "default"
	}
	name, _ := d[c.unique].(string)
	other := c.byName(name, domain)
	switch {
	case other == nil:
		return nil
	case c.singular == "project":
		return fail(http.StatusConflict, "Conflict occurred attempting to store project - it is not permitted to have two projects "+
			"with either the same name or same id in the same domain: name is %s, project id %s.", name, idOf(other))
	case domain != "":
		return fail(http.StatusConflict, "Conflict occurred attempting to store %s - Duplicate entry found with name %s at domain ID %s.",
			c.singular, name, domain)
	}
	return fail(http.StatusConflict, "Conflict occurred attempting to store %s - Duplicate entry found with name %s.", c.singular, name)
}

func (c *collection) show(r *http.Request, _ *token) (answer, error) {
	d := c.get(r.PathValue("id"))
	if d == nil {
		return answer{}, notFound(c.singular, r.PathValue("id"))
	}
	return answer{status: http.StatusOK, body: doc{c.singular: d}}, nil
}

func (c *collection) update(s *Service) handler {
	return func(r *http.Request, _ *token) (answer, error) {
		d := c.get(r.PathValue("id"))
		if d == nil {
			return answer{}, notFound(c.singular, r.PathValue("id"))
		}
		changes, err := c.read(r)
		if err != nil {
			return answer{}, err
		}
		delete(changes, "id")
		delete(changes, "links")
		if password, given := changes["password"].(string); given && c.singular == "user" {
			s.passwords[r.PathValue("id")] = password
			delete(changes, "password")
		}
		maps.Copy(d, changes)
		return answer{status: http.StatusOK, body: doc{c.singular: d}}, nil
	}
}

func (c *collection) remove(s *Service) handler {
	return func(r *http.Request, _ *token) (answer, error) {
		id := r.PathValue("id")
		if c.get(id) == nil {
			return answer{}, notFound(c.singular, id)
		}
		c.list = slices.DeleteFunc(c.list, func(d doc) bool { return d["id"] == id })
		if c.deleted != nil {
			c.deleted(s, id)
		}
		return answer{status: http.StatusNoContent}, nil
	}
}

func (s *Service) dropUser(id string) {
	s.grants = slices.DeleteFunc(s.grants, func(g grant) bool { return g.user == id })
	for key, t := range s.tokens {
		if t.userID == id {
			delete(s.tokens, key)
		}
	}
	for key, a := range s.appCreds {
		if a.userID == id {
			delete(s.appCreds, key)
		}
	}
}

func (s *Service) dropProject(id string) {
	s.grants = slices.DeleteFunc(s.grants, func(g grant) bool { return g.scope == "project" && g.target == id })
	for key, t := range s.tokens {
		if t.projectID == id {
			delete(s.tokens, key)
		}
	}
}

func (s *Service) dropService(id string) {
	s.endpoints.list = slices.DeleteFunc(s.endpoints.list, func(d doc) bool { return d["service_id"] == id })
}
