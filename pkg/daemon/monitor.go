package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Monitor serves /metrics and /healthcheck of a program that has no API, where [DEFAULT] monitor_bind says so.
func (p *Parts) Monitor() Loop {
	return func(ctx context.Context) error {
		if p.Config.Default.MonitorBind == "" {
			<-ctx.Done()
			return ctx.Err()
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.Config.Default.MonitorBind)
		if err != nil {
			return fmt.Errorf("[DEFAULT] monitor_bind: %w", err)
		}
		p.Log.WithField("address", listener.Addr().String()).Info("serving metrics and health")
		return serveHTTP(ctx, listener, p.monitorHandler())
	}
}

func (p *Parts) monitorHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthcheck", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		for _, check := range p.checks() {
			if err := check.Run(ctx); err != nil {
				p.Log.WithError(err).WithField("check", check.Name).Warning("a health check is red")
				w.Header().Set("Retry-After", "5")
				http.Error(w, check.Name+": away", http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "OK") //nolint:errcheck // the caller is gone
	})
	return mux
}
