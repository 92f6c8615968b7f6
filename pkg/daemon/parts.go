// Package daemon puts the rooms together for the programs: it opens the adapters that the configuration names
// and runs the loops until the program is asked to stop. The demo uses the same pieces in one process.
package daemon

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/identity"
	idkeystone "github.com/kiln-cloud/kiln/pkg/identity/keystone"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/keystone"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	"github.com/kiln-cloud/kiln/pkg/openstack/placement"
	"github.com/kiln-cloud/kiln/pkg/openstack/zun"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// Parts is everything that a program stands on. Nothing of it needs its outside part to be up: what is away shows
// in the health check and in errors, and comes good when it returns.
type Parts struct {
	Program   string
	Config    config.Config
	Log       *logrus.Logger
	DB        *store.DB
	Bus       bus.Bus
	Cloud     *openstack.Cloud
	Keystone  *keystone.Client
	Glance    *glance.Client
	Nova      *nova.Client
	Zun       *zun.Client
	Providers *placement.Client
	Auth      identity.Authenticator
	Logins    *idkeystone.Logins
	Policy    *policy.Enforcer
	Registry  *prometheus.Registry
	attempts  *prometheus.HistogramVec
	// Owner names this process in leases.
	Owner string
}

// Open makes the parts from a configuration. The error tells every fault of it that can be seen here.
func Open(ctx context.Context, program string, cfg config.Config, log *logrus.Logger) (*Parts, error) {
	p := &Parts{Program: program, Config: cfg, Log: log, Registry: prometheus.NewRegistry()}
	p.attempts = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "kiln_job_attempt_seconds", Help: "Time of the attempts at jobs.", Buckets: prometheus.ExponentialBuckets(0.1, 3, 10),
	}, []string{"kind", "outcome"})
	if err := p.Registry.Register(p.attempts); err != nil {
		return nil, err
	}
	p.Owner = fmt.Sprintf("%s:%s:%d:%s", program, cfg.Default.Host, os.Getpid(), uuid.NewString()[:8])
	var err error
	if p.Policy, err = loadPolicy(cfg.Policy.File, log); err != nil {
		return nil, err
	}
	if err := p.openStore(ctx); err != nil {
		return nil, err
	}
	if p.Bus, err = openBus(cfg.Default.TransportURL, program, log); err != nil {
		return nil, err
	}
	if err := p.openCloud(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Close ends the connections.
func (p *Parts) Close() {
	if err := p.Bus.Close(); err != nil {
		p.Log.WithError(err).Debug("closing the bus")
	}
	if err := p.DB.Close(); err != nil {
		p.Log.WithError(err).Debug("closing the database")
	}
}

func loadPolicy(file string, log logrus.FieldLogger) (*policy.Enforcer, error) {
	if _, err := os.Stat(file); os.IsNotExist(err) {
		return policy.New()
	}
	e, warnings, err := policy.Load(file)
	for _, w := range warnings {
		log.Warning(w)
	}
	return e, err
}

func (p *Parts) openStore(ctx context.Context) error {
	sc, err := store.FromURL(p.Config.Database.Connection)
	if err != nil {
		return err
	}
	sc.MaxOpen, sc.Log = p.Config.Database.MaxPoolSize, p.Log
	p.DB, err = store.Open(ctx, sc)
	return err
}

// Memory is the transport of programs that are one process.
const Memory = "memory://"

func openBus(transport, program string, log logrus.FieldLogger) (bus.Bus, error) {
	if transport == Memory {
		return bus.NewLocal(log), nil
	}
	urls, err := bus.FromTransportURL(transport)
	if err != nil {
		return nil, err
	}
	return bus.NewRabbit(bus.RabbitConfig{URLs: urls, Name: program, Log: log})
}

func (p *Parts) openCloud(ctx context.Context) error {
	k := p.Config.Keystone
	calls := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "kiln_openstack_call_seconds", Help: "Time of calls to other services.", Buckets: prometheus.ExponentialBuckets(0.005, 3, 9),
	}, []string{"service", "operation", "status"})
	if err := p.Registry.Register(calls); err != nil {
		return err
	}
	cloud, err := openstack.Connect(ctx, openstack.Config{
		AuthURL: k.AuthURL, Username: k.Username, Password: k.Password, UserDomain: k.UserDomain, ProjectName: k.Project,
		ProjectDomain: k.ProjectDomain, Region: k.Region, Interface: k.Interface, CACert: k.CAFile, Timeout: k.Timeout, Log: p.Log,
		Observe: func(service, operation string, status int, took time.Duration) {
			calls.WithLabelValues(service, operation, strconv.Itoa(status)).Observe(took.Seconds())
		},
	})
	if err != nil {
		return err
	}
	p.Cloud, p.Keystone, p.Glance = cloud, keystone.New(cloud), glance.New(cloud)
	p.Nova, p.Zun, p.Providers = nova.New(cloud), zun.New(cloud), placement.New(cloud)
	p.Auth = idkeystone.New(p.Keystone, idkeystone.Config{Keep: k.TokenCache})
	p.Logins = idkeystone.NewLogins(cloud, idkeystone.Config{Keep: k.TokenCache})
	return nil
}

// WaitSchema returns once the database has the schema of this program. It says what it waits for; a schema that is
// newer than the program is an error, because an old program could break what a new one wrote.
func (p *Parts) WaitSchema(ctx context.Context) error {
	want, err := store.LatestVersion()
	if err != nil {
		return err
	}
	for said := ""; ; {
		have, err := p.DB.Version(ctx)
		text := ""
		switch {
		case err != nil:
			text = "waiting for the database: " + err.Error()
		case have > want:
			return errs.New(errs.Conflict, "kiln.store.newer", "the database has schema %d and this program knows %d: it is older than the rest", have, want)
		case have < want:
			text = fmt.Sprintf("waiting for `kiln-manage db sync`: the database has schema %d and this program needs %d", have, want)
		default:
			return nil
		}
		if text != said {
			p.Log.Warning(text)
			said = text
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

func (p *Parts) runner(queues []job.Queue, handlers []job.Handler, parallel int) *job.Runner {
	return &job.Runner{
		Store: p.DB, Waker: p.Bus, Events: p.DB, Handlers: handlers, Queues: queues, Owner: p.Owner, Parallel: parallel,
		Lease: p.Config.Worker.Lease, Log: p.Log, Observe: p.observe,
	}
}

func (p *Parts) observe(kind job.Kind, err error, took time.Duration) {
	outcome := "succeeded"
	if err != nil {
		outcome = errs.CodeOf(err)
	}
	p.attempts.WithLabelValues(string(kind), outcome).Observe(took.Seconds())
}
