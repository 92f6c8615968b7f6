// Package api is the REST API of Kiln: routes, policy, and the shapes of what goes in and out. It holds no
// rules (they are in the domain's services) and no SQL.
package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/githost"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
	"github.com/kiln-cloud/kiln/pkg/identity"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/proof"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// Store is everything that the API reads and its services write; *store.DB is one.
type Store interface {
	build.Store
	build.Workers
	catalog.Store
	upgrade.Store
	upgrade.PlanStore
	campaign.Store
	advisory.Store
	advisory.Asker
	cache.Store
	placement.Store
	proof.Store
	job.Store
	job.LogStore
	job.Transactor
	event.Recorder
	event.Log
}

// Policy says whether a caller may do a thing; *policy.Enforcer is one.
type Policy interface {
	Enforce(caller *identity.Caller, rule string, target map[string]string) error
}

// Logins gets a token for an application credential; *identity/keystone.Logins is one. errs.Unauthenticated where
// Keystone does not know it.
type Logins interface {
	Login(ctx context.Context, id, secret string) (token string, err error)
}

// Deps is what the API stands on. Store, Auth and Policy are needed; the rest has defaults.
type Deps struct {
	Store  Store
	Auth   identity.Authenticator
	Policy Policy
	Logins Logins              // takes application credentials from git programs; nil: only tokens
	Glance catalog.ImageFinder // finds images that Kiln does not know yet; nil: only known ones

	AuthURI       string             // Keystone's public address, told with 401
	PublicURL     string             // of this API, without a path, for links; "" takes the request's host
	AllowLocal    bool               // file:// sources
	Hosted        packs.Limits       // of the repositories that the API hosts
	ProofKeys     []proof.Key        // that statements about images are checked with
	DefaultFamily catalog.FamilyName // stands in for what a workload asks for and does not exist

	Checks    []Check // of /healthcheck
	Registry  *prometheus.Registry
	Log       logrus.FieldLogger
	Now       func() time.Time
	NewID     func() string // random UUIDs
	Timeout   time.Duration // of one request, 30 s; streams end with their token instead
	Heartbeat time.Duration // between comments on an idle stream, 15 s
	Poll      time.Duration // of the event log for a stream, 1 s
}

type api struct {
	Deps
	builds    *build.Service
	catalog   *catalog.Service
	upgrades  *upgrade.Service
	plans     *upgrade.Planning
	campaigns *campaign.Service
	advisory  *advisory.Service
	cache     *cache.Service
	placement *placement.Service
	jobs      *job.Service
	git       *githost.Host
	webhooks  *limiter
	metrics   *metrics
}

// New is the whole API. Streams of events end when the context of their request ends: give the server a
// BaseContext that ends before Shutdown waits for them.
//
// The order of the layers, outermost first, each for a reason:
//
//	requestID   everything after it can name the request
//	observe     counts and logs every answer, also those of recovered panics
//	recovered   no panic of what follows reaches a user
//	deadline    bounds all work below it
//	then for routes of the table, in handle.go:
//	microversion → authenticate → policy → query → body → handler → answer
//
// Policy stands before query and body, so that a stranger learns nothing of what a call would take, and the
// handler asks it again for the thing that it found (owned), before anything tells that the thing exists.
func New(d Deps) http.Handler {
	d.defaults()
	a := &api{Deps: d, metrics: newMetrics(d.Registry, d.Store)}
	a.services()
	kept(d.Registry, &campaignCollector{d.Store})

	gin.SetMode(gin.ReleaseMode) // gin's debug mode prints to standard output
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false
	engine.UseRawPath, engine.UnescapePathValues = true, true // advisory ids hold slashes, sent as %2F
	engine.Use(a.requestID, a.observe, a.recovered, a.deadline)
	engine.NoRoute(a.noRoute)
	engine.NoMethod(a.noMethod)
	for _, r := range append(a.public(), a.routes()...) {
		engine.Handle(r.Method, ginPath(r.Path), r.serve(a, r))
	}
	return engine
}

func (d *Deps) defaults() {
	if d.Registry == nil {
		d.Registry = prometheus.NewRegistry()
	}
	if d.Log == nil {
		d.Log = log.Discard()
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.NewID == nil {
		d.NewID = uuid.NewString
	}
	for _, v := range []struct {
		d     *time.Duration
		value time.Duration
	}{{&d.Timeout, 30 * time.Second}, {&d.Heartbeat, 15 * time.Second}, {&d.Poll, time.Second}} {
		if *v.d <= 0 {
			*v.d = v.value
		}
	}
}

func (a *api) services() {
	s := a.Store
	desk := job.Desk{Jobs: s, Tx: s, Events: s, Now: a.Now, NewID: a.NewID}
	a.builds = &build.Service{Desk: desk, Store: s, AllowLocal: a.AllowLocal}
	a.git = githost.New(githost.Config{Builds: a.builds, Limits: a.Hosted, Log: a.Log})
	a.webhooks = newLimiter(webhookRate, a.Now)
	a.catalog = &catalog.Service{Desk: desk, Store: s, Glance: a.Glance}
	a.upgrades = &upgrade.Service{Desk: desk, Store: s}
	a.plans = &upgrade.Planning{Desk: desk, Plans: s}
	a.advisory = &advisory.Service{Desk: desk}
	a.cache = &cache.Service{Desk: desk, Store: s}
	a.placement = &placement.Service{Desk: desk, Store: s, Catalog: s, DefaultFamily: a.DefaultFamily}
	a.jobs = &job.Service{Desk: desk, Cancelled: map[job.Kind]func(context.Context, job.By, job.Job) error{
		job.SyncSource: a.builds.SyncCancelled,
		job.Build:      a.builds.BuildCancelled,
		job.Inspect:    a.catalog.InspectCancelled,
		job.Upgrade:    a.upgrades.Cancelled,
		job.WarmUp:     a.cache.Cancelled,
		job.Plant:      a.cache.Cancelled,
		job.Evict:      a.cache.Cancelled,
		job.Place:      a.placement.PlaceCancelled,
		job.Remove:     a.placement.RemoveCancelled,
	}}
	a.campaigns = &campaign.Service{Desk: desk, Store: s, Upgrades: s, StopJob: func(ctx context.Context, by job.By, id string) error {
		_, err := a.jobs.Cancel(ctx, by, id)
		return err
	}}
}

// ginPath writes /v1/builds/{id} as gin does: /v1/builds/:id.
func ginPath(path string) string {
	return strings.NewReplacer("{", ":", "}", "").Replace(path)
}
