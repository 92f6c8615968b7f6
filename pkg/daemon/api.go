package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/kiln-cloud/kiln/pkg/api"
	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/gitsource/packs"
	"github.com/kiln-cloud/kiln/pkg/store"
)

// API serves the REST API, and sends what the outbox holds to the bus.
func API(ctx context.Context, p *Parts) error {
	address := net.JoinHostPort(p.Config.API.BindHost, strconv.Itoa(p.Config.API.BindPort))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	p.Log.WithField("address", listener.Addr().String()).Info("serving")
	return Serve(ctx, p.HTTP(listener), p.Relay())
}

// HTTP is the API on a listener.
func (p *Parts) HTTP(listener net.Listener) Loop {
	return func(ctx context.Context) error { return serveHTTP(ctx, listener, p.Handler()) }
}

// serveHTTP serves until ctx ends and lets what is under way finish, within a bound.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	// Event streams end with this context: Shutdown would wait for them for ever.
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return streams },
	}
	go func() {
		<-ctx.Done()
		endStreams()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			server.Close() //nolint:errcheck // the program ends
		}
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}

// Handler is the API as an http.Handler.
func (p *Parts) Handler() http.Handler {
	return api.New(api.Deps{
		Store: p.DB, Auth: p.Auth, Logins: p.Logins, Policy: p.Policy, Glance: p.Glance, AuthURI: p.Config.Keystone.PublicURI,
		ProofKeys:  p.proofKeys(),
		AllowLocal: p.Config.Worker.LocalSources, Hosted: p.hostedLimits(), Checks: p.checks(), Registry: p.Registry, Log: p.Log,
	})
}

// hostedLimits bound the repositories that the API keeps.
func (p *Parts) hostedLimits() packs.Limits {
	return packs.Limits{MaxBytes: int64(p.Config.API.RepositoryMiB) << 20, MaxFiles: p.Config.API.RepositoryFiles}
}

func (p *Parts) checks() []api.Check {
	return []api.Check{
		{Name: "database", Run: p.DB.Ping},
		{Name: "schema", Run: p.schemaIsNew},
		{Name: "bus", Run: func(context.Context) error { return p.Bus.Health() }},
	}
}

func (p *Parts) schemaIsNew(ctx context.Context) error {
	want, err := store.LatestVersion()
	if err != nil {
		return err
	}
	have, err := p.DB.Version(ctx)
	if err == nil && have != want {
		err = errors.New("the database has schema " + strconv.FormatUint(uint64(have), 10) + ", this program needs " + strconv.FormatUint(uint64(want), 10))
	}
	return err
}

// Relay sends what was committed to the outbox to the bus. Any number of programs may do it.
func (p *Parts) Relay() Loop {
	r := &bus.Relay{Outbox: p.DB, Bus: p.Bus, Log: p.Log, Every: time.Second}
	return r.Serve
}
