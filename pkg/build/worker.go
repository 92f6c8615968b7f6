package build

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// Worker is one kiln-worker as it last told about itself.
type Worker struct {
	Name      string    `json:"name"`
	Host      string    `json:"host"`
	Arch      string    `json:"arch"`      // Debian's name: amd64
	Builders  []string  `json:"builders"`  // that it has the tools for
	Labels    []string  `json:"labels"`    // what a build's needs are held against
	FreeDisk  int64     `json:"free_disk"` // bytes, of its work folder
	Parallel  int       `json:"parallel"`  // jobs that it runs at once
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	SeenAt    time.Time `json:"seen_at"`
}

// Times of the workers' register.
const (
	WorkerBeat    = 15 * time.Second    // how often a worker tells about itself
	WorkerSilence = 3 * WorkerBeat      // it is down after that
	WorkerForget  = 14 * 24 * time.Hour // its row goes after that
)

// Up tells whether the worker was heard of lately.
func (w Worker) Up(now time.Time) bool { return now.Sub(w.SeenAt) <= WorkerSilence }

// Workers keeps the register.
type Workers interface {
	PutWorker(ctx context.Context, w Worker) error // in the place of the row of that name
	FindWorker(ctx context.Context, name string) (Worker, error)
	ListWorkers(ctx context.Context, q listing.Query) ([]Worker, error)
	// ForgetWorkers removes those that were not seen since then.
	ForgetWorkers(ctx context.Context, before time.Time) error
}

// Labels are what a worker has, for a job's needs: its own, and what everybody may ask for.
func Labels(arch string, builders []string, freeDisk int64, own []string) []string {
	out := []string{"arch=" + arch}
	for _, b := range builders {
		out = append(out, "builder="+b)
	}
	out = append(out, fmt.Sprintf("disk_gib=%d", freeDisk>>30))
	return append(out, own...)
}

// WaitingFor says in words why a job with the needs is not begun: which need no worker meets that is up. It is ""
// where one does, and the job only waits for its turn.
func WaitingFor(ctx context.Context, store Workers, needs []string, now time.Time) (string, error) {
	all, err := store.ListWorkers(ctx, listing.All())
	if err != nil {
		return "", err
	}
	up := slices.DeleteFunc(slices.Clone(all), func(w Worker) bool { return !w.Up(now) })
	if slices.ContainsFunc(up, func(w Worker) bool { return job.Fits(needs, w.Labels) }) {
		return "", nil
	}
	if len(up) == 0 {
		return "no worker is up" + seen(all, "seen before"), nil
	}
	var unmet []string
	for _, need := range needs {
		if !slices.ContainsFunc(up, func(w Worker) bool { return job.Fits([]string{need}, w.Labels) }) {
			unmet = append(unmet, need)
		}
	}
	if len(unmet) == 0 { // each is met by somebody, and all by nobody
		unmet = needs
	}
	return "no worker with " + strings.Join(unmet, " and ") + " is up" + seen(up, "workers seen"), nil
}

func seen(ws []Worker, what string) string {
	if len(ws) == 0 {
		return ""
	}
	const most = 8
	var names []string
	for _, w := range ws[:min(most, len(ws))] {
		names = append(names, w.Name)
	}
	if len(ws) > most {
		names = append(names, fmt.Sprintf("and %d more", len(ws)-most))
	}
	return " (" + what + ": " + strings.Join(names, ", ") + ")"
}
