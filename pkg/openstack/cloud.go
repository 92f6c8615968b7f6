package openstack

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Cloud is a user of one OpenStack cloud. It is safe for many goroutines.
type Cloud struct {
	cfg      Config
	http     http.Client
	own      *session
	mu       sync.Mutex
	projects map[string]*session
}

// Connect prepares a connection. Nothing is sent: the first call logs in, so that Kiln can start before Keystone.
// It fails with errs.Invalid where the configuration is not complete.
func Connect(_ context.Context, cfg Config) (*Cloud, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	c := &Cloud{cfg: cfg, http: http.Client{Transport: transport}, projects: map[string]*session{}}
	c.own = c.newSession(gophercloud.AuthScope{ProjectName: cfg.ProjectName, DomainName: cfg.ProjectDomain})
	return c, nil
}

// ForProject is the same user scoped to another project, by id; "" is the user's own project. Each project's
// session is kept and renewed. It sends nothing; a user without a role there is told by the first call.
func (c *Cloud) ForProject(projectID string) *Project {
	if projectID == "" {
		return &Project{cloud: c, session: c.own}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.projects[projectID]
	if !ok {
		c.forgetIdle()
		s = c.newSession(gophercloud.AuthScope{ProjectID: projectID})
		c.projects[projectID] = s
	}
	return &Project{cloud: c, session: s}
}

// maxProjects bounds the sessions that are kept; a cloud may have tens of thousands of projects.
const maxProjects = 1024

func (c *Cloud) forgetIdle() {
	if len(c.projects) < maxProjects {
		return
	}
	now := c.cfg.Clock()
	for id, s := range c.projects {
		if s.expired(now) {
			delete(c.projects, id)
		}
	}
}

// Project is a user scoped to one project.
type Project struct {
	cloud   *Cloud
	session *session
}

// Token is a valid token of the scope, logging in where that is needed.
func (p *Project) Token(ctx context.Context) (string, error) {
	if err := p.session.ensure(ctx); err != nil {
		return "", p.cloud.fault(ctx, "keystone", err)
	}
	return p.session.client.Token(), nil
}

// ID is the project's id as Keystone told it at the login.
func (p *Project) ID(ctx context.Context) (string, error) {
	if err := p.session.ensure(ctx); err != nil {
		return "", p.cloud.fault(ctx, "keystone", err)
	}
	p.session.mu.Lock()
	defer p.session.mu.Unlock()
	return p.session.projectID, nil
}

// identityURL is the v3 root of Keystone with a slash at its end.
func identityURL(authURL string) string {
	u := strings.TrimRight(authURL, "/")
	if !strings.HasSuffix(u, "/v3") {
		u += "/v3"
	}
	return u + "/"
}

// Description tells a service's client what to look for.
type Description struct {
	Name         string   // in errors, codes and metrics: keystone, glance, nova, zun, placement
	Types        []string // in the catalog, the official one first
	Version      string   // path element that the endpoint gets where it has none: "v2"; "" for none
	Microversion string   // sent with every call; "" for none
}

// Service makes a service's calls in the user's own project.
func (c *Cloud) Service(d Description) *Service { return &Service{cloud: c, session: c.own, about: d} }

// ForProject is the same service called in another project; "" is the user's own.
func (s *Service) ForProject(projectID string) *Service {
	return &Service{cloud: s.cloud, session: s.cloud.ForProject(projectID).session, about: s.about}
}

// Endpoint is the root of the service's API with a slash at its end.
func (s *Service) Endpoint(ctx context.Context) (string, error) {
	if err := s.session.ensure(ctx); err != nil {
		return "", s.cloud.fault(ctx, "keystone", err)
	}
	return s.endpoint()
}

func (s *Service) endpoint() (string, error) {
	if s.about.Name == "keystone" {
		return identityURL(s.cloud.cfg.AuthURL), nil // the catalog's one may be out of reach from here
	}
	u := s.session.lookup(s.about.Types, s.cloud.cfg.Interface, s.cloud.cfg.Region)
	if u == "" {
		return "", errs.New(errs.Unavailable, "kiln."+s.about.Name+".no_endpoint",
			"the service catalog has no %s endpoint of a service %q: see `openstack catalog list`",
			s.cloud.cfg.Interface, s.about.Types[0]).After(time.Minute)
	}
	u = strings.TrimRight(u, "/")
	if v := s.about.Version; v != "" && !strings.HasSuffix(u, "/"+v) {
		u += "/" + v
	}
	return u + "/", nil
}
