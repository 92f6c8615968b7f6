package keystone

import (
	"context"
	"net/http"
	"net/url"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// What Kiln is called in the catalog.
const (
	ServiceType = "provisioning"
	ServiceName = "kiln"
)

// Registration is how Kiln shall stand in Keystone.
type Registration struct {
	User     string // "kiln" where it is empty
	Password string
	Project  string // "service" where it is empty
	Domain   string // name, of user and project; "Default" where it is empty
	Region   string // "RegionOne" where it is empty
	Public   string // endpoint URLs; Internal and Admin are Public where they are empty
	Internal string
	Admin    string
}

func (r *Registration) complete() error {
	for _, o := range []struct{ name, value string }{{"password", r.Password}, {"public_url", r.Public}} {
		if o.value == "" {
			return errs.New(errs.Invalid, "kiln.bootstrap.missing", "%s is needed", o.name).At(errs.Where{Field: o.name})
		}
	}
	for p, fallback := range map[*string]string{
		&r.User: "kiln", &r.Project: "service", &r.Domain: "Default", &r.Region: "RegionOne", &r.Internal: r.Public, &r.Admin: r.Public,
	} {
		if *p == "" {
			*p = fallback
		}
	}
	return nil
}

// Bootstrap makes what is missing: the roles that the policy names, the service's project and user, its roles
// (admin and service in its project, admin inherited by the projects of the domain: Kiln works on tenants' images
// and servers), the catalog entry and its endpoints. It is safe to repeat; changed names what it had to do.
// The client's user must be an admin.
func (c *Client) Bootstrap(ctx context.Context, r Registration) (changed []string, err error) {
	if err := r.complete(); err != nil {
		return nil, err
	}
	b := &bootstrap{service: c.service, r: r, roles: map[string]string{}}
	for _, step := range []func(context.Context) error{
		b.ensureRoles, b.ensureProject, b.ensureUser, b.ensureGrants, b.ensureRegion, b.ensureService, b.ensureEndpoints,
	} {
		if err := step(ctx); err != nil {
			return b.changed, err
		}
	}
	return b.changed, nil
}

// bootstrap is one run, with the ids that its steps found.
type bootstrap struct {
	service *openstack.Service
	r       Registration
	changed []string
	roles   map[string]string // name to id

	domainID, projectID, userID, serviceID string
}

type doc = map[string]any

func (b *bootstrap) say(what string) { b.changed = append(b.changed, what) }

// find answers the id of the first thing in a collection that the query matches; "" for none.
func (b *bootstrap) find(ctx context.Context, plural string, query url.Values) (string, error) {
	var answer map[string]any
	if err := b.service.Get(ctx, "find_"+plural, plural, query, &answer); err != nil {
		return "", err
	}
	list, _ := answer[plural].([]any)
	for _, item := range list {
		if d, ok := item.(doc); ok {
			id, _ := d["id"].(string)
			return id, nil
		}
	}
	return "", nil
}

// create makes a thing, answers its id, and notes what was done.
func (b *bootstrap) create(ctx context.Context, singular string, body doc, what string) (string, error) {
	var answer map[string]struct {
		ID string `json:"id"`
	}
	err := b.service.Do(ctx, openstack.Call{
		Operation: "create_" + singular, Method: http.MethodPost, Path: singular + "s", Body: doc{singular: body}, Out: &answer,
	})
	if err == nil {
		b.say("made the " + singular + " " + what)
	}
	return answer[singular].ID, err
}

func (b *bootstrap) ensureRoles(ctx context.Context) error {
	for _, name := range []string{"reader", "member", "manager", "admin", "service"} {
		id, err := b.find(ctx, "roles", url.Values{"name": {name}})
		if err != nil {
			return err
		}
		if id == "" {
			if id, err = b.create(ctx, "role", doc{"name": name}, name); err != nil {
				return err
			}
		}
		b.roles[name] = id
	}
	return nil
}

func (b *bootstrap) ensureProject(ctx context.Context) (err error) {
	if b.domainID, err = b.find(ctx, "domains", url.Values{"name": {b.r.Domain}}); err != nil {
		return err
	}
	if b.domainID == "" {
		return errs.New(errs.NotFound, "kiln.bootstrap.domain", "keystone has no domain %q", b.r.Domain).At(errs.Where{Field: "domain"})
	}
	b.projectID, err = b.find(ctx, "projects", url.Values{"name": {b.r.Project}, "domain_id": {b.domainID}})
	if err != nil || b.projectID != "" {
		return err
	}
	b.projectID, err = b.create(ctx, "project", doc{"name": b.r.Project, "domain_id": b.domainID}, b.r.Project)
	return err
}

func (b *bootstrap) ensureUser(ctx context.Context) (err error) {
	b.userID, err = b.find(ctx, "users", url.Values{"name": {b.r.User}, "domain_id": {b.domainID}})
	if err != nil {
		return err
	}
	if b.userID == "" {
		b.userID, err = b.create(ctx, "user", doc{
			"name": b.r.User, "domain_id": b.domainID, "password": b.r.Password, "description": "Kiln's own user",
		}, b.r.User)
		return err
	}
	// Setting a password revokes the user's tokens, also where it is the same: so it is tried first.
	err = b.service.Do(ctx, openstack.Call{
		Operation: "try_password", Method: http.MethodPost, Path: "auth/tokens", Body: doc{"auth": doc{"identity": doc{
			"methods": []string{"password"}, "password": doc{"user": doc{"id": b.userID, "password": b.r.Password}},
		}, "scope": "unscoped"}},
	})
	if errs.CodeOf(err) != "kiln.keystone.credentials" {
		return err
	}
	err = b.service.Do(ctx, openstack.Call{
		Operation: "set_password", Method: http.MethodPatch, Path: "users/" + openstack.Segment(b.userID),
		Body: doc{"user": doc{"password": b.r.Password, "enabled": true}},
	})
	if err == nil {
		b.say("set the password of the user " + b.r.User)
	}
	return err
}

// ensureGrants gives the roles; Keystone takes a grant that is there already.
func (b *bootstrap) ensureGrants(ctx context.Context) error {
	user := "/users/" + openstack.Segment(b.userID) + "/roles/"
	project := "projects/" + openstack.Segment(b.projectID) + user
	for _, grant := range []struct{ path, text string }{
		{project + openstack.Segment(b.roles["service"]), "gave the role service in the project " + b.r.Project},
		{project + openstack.Segment(b.roles["admin"]), "gave the role admin in the project " + b.r.Project},
		{"OS-INHERIT/domains/" + openstack.Segment(b.domainID) + user + openstack.Segment(b.roles["admin"]) + "/inherited_to_projects",
			"gave the role admin in all projects of the domain " + b.r.Domain},
	} {
		err := b.service.Do(ctx, openstack.Call{Operation: "check_grant", Method: http.MethodHead, Path: grant.path})
		if err == nil {
			continue
		}
		if !errs.Is(err, errs.NotFound) {
			return err
		}
		if err := b.service.Do(ctx, openstack.Call{Operation: "grant", Method: http.MethodPut, Path: grant.path}); err != nil {
			return err
		}
		b.say(grant.text)
	}
	return nil
}
