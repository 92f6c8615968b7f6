package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

type metrics struct {
	gather   prometheus.Gatherer
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	streams  prometheus.Gauge
}

func newMetrics(r *prometheus.Registry, jobs jobLister) *metrics {
	m := &metrics{
		gather: r,
		requests: kept(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_api_requests_total", Help: "Requests that were answered."}, []string{"method", "route", "status"})),
		seconds: kept(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kiln_api_request_seconds", Help: "Time from a request to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"method", "route"})),
		streams: kept(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: "kiln_api_event_streams", Help: "Clients that follow events."})),
	}
	kept(r, &jobCollector{jobs: jobs})
	return m
}

// kept registers a collector; of one that is registered already (two APIs in one process) the first is used.
func kept[T prometheus.Collector](r *prometheus.Registry, c T) T {
	var there prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &there) {
		if first, ok := there.ExistingCollector.(T); ok {
			return first
		}
	}
	return c
}

type jobLister interface {
	ListJobs(ctx context.Context, q listing.Query) ([]job.Job, error)
}

// jobCollector counts the open jobs when somebody asks. Final ones are not counted: there is no end to them.
type jobCollector struct{ jobs jobLister }

var (
	openJobs = prometheus.NewDesc("kiln_jobs_open", "Open jobs; of each state, the oldest 1000 are counted.", []string{"kind", "state"}, nil)
	oldest   = prometheus.NewDesc("kiln_jobs_oldest_pending_timestamp_seconds", "When the oldest pending job was asked for, in Unix time; missing where none is pending.", nil, nil)
)

// Describe names the metrics.
func (c *jobCollector) Describe(ch chan<- *prometheus.Desc) { ch <- openJobs; ch <- oldest }

// Collect asks the store; one that is away leaves the metrics out, and /healthcheck tells.
func (c *jobCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	for _, state := range []job.State{job.Pending, job.Running} {
		q := listing.All().Where("state", string(state))
		q.Sort = []listing.Key{{Field: "created_at"}}
		jobs, err := c.jobs.ListJobs(ctx, q)
		if err != nil {
			return
		}
		counts := map[job.Kind]int{}
		for _, j := range jobs {
			counts[j.Kind]++
		}
		for kind, n := range counts {
			ch <- prometheus.MustNewConstMetric(openJobs, prometheus.GaugeValue, float64(n), string(kind), string(state))
		}
		if state == job.Pending && len(jobs) > 0 {
			ch <- prometheus.MustNewConstMetric(oldest, prometheus.GaugeValue, float64(jobs[0].CreatedAt.UnixNano())/float64(time.Second))
		}
	}
}

func (a *api) showMetrics(_ context.Context, _ *gin.Context) (Response, error) {
	families, err := a.metrics.gather.Gather()
	if err != nil {
		return Response{}, errs.Wrap(err, errs.Internal, "kiln.internal", "the metrics cannot be gathered")
	}
	var out bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			return Response{}, errs.Wrap(err, errs.Internal, "kiln.internal", "the metrics cannot be written")
		}
	}
	return Response{Status: http.StatusOK, Body: text{"text/plain; version=0.0.4; charset=utf-8", out.Bytes()}}, nil
}
