package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
	"github.com/kiln-cloud/kiln/pkg/upgrade/solve"
)

// keep is what Kiln keeps from upgrade to upgrade: packages, initial RAM disks, records.
func (b *bench) keep() string { return filepath.Join(b.dir, "keep") }

// worker is what a Kiln worker has.
type worker struct {
	*bench
	upgrader *offline.Executor
	suites   []upgrade.Suite
}

func (b *bench) worker() (*worker, error) {
	m, p, err := b.mirrors()
	if err != nil {
		return nil, err
	}
	caches, err := offline.OpenCaches(b.keep(), deb.DefaultKeyring, p, log.Discard())
	if err != nil {
		return nil, err
	}
	return &worker{bench: b, upgrader: offline.New(offline.Config{Proxy: p, Caches: caches}), suites: []upgrade.Suite{
		{Mirror: m.Main, Suite: release, Components: []string{"main"}},
		{Mirror: m.Main, Suite: release + "-updates", Components: []string{"main"}},
		{Mirror: m.Security, Suite: release + "-security", Components: []string{"main"}},
	}}, nil
}

// kiln upgrades one image, and removes the result.
func (b *worker) kiln(ctx context.Context, original string, shares [][]upgrade.PackageRef) (outcome, upgrade.Report, error) {
	work, err := os.MkdirTemp(b.dir, "kiln-*")
	if err != nil {
		return outcome{}, upgrade.Report{}, err
	}
	defer os.RemoveAll(work) //nolint:errcheck // the run's folder goes too
	begin := time.Now()
	report, err := b.upgrader.Upgrade(ctx, upgrade.Request{
		Original: original, OriginalFormat: disk.Qcow2, Suites: b.suites, WorkDir: work,
		Output: filepath.Join(work, "out.qcow2"), OutputFormat: disk.Qcow2, Shares: shares, Log: b.log,
	})
	if err != nil {
		return outcome{}, report, err
	}
	steps := make([]string, len(report.Steps))
	for i, s := range report.Steps {
		steps[i] = fmt.Sprintf("%s %.1f", s.Name, s.Seconds)
	}
	return outcome{Images: 1, Seconds: time.Since(begin).Seconds(), Packages: len(report.Packages), Note: strings.Join(steps, ", ")}, report, nil
}

// oneCold has nothing kept but the package files, which plain has too.
func oneCold(ctx context.Context, b *bench) (outcome, error) {
	f, err := b.fleet()
	if err != nil {
		return outcome{}, err
	}
	if err := os.RemoveAll(b.keep()); err != nil {
		return outcome{}, err
	}
	w, err := b.worker()
	if err != nil {
		return outcome{}, err
	}
	o, _, err := w.kiln(ctx, f.Path(0), nil)
	return o, err
}

// oneKiln is another image than the one that the worker did before it, so that what is kept is of some use but not made for it.
func oneKiln(ctx context.Context, b *bench) (outcome, error) {
	f, err := b.fleet()
	if err != nil {
		return outcome{}, err
	}
	w, err := b.worker()
	if err != nil {
		return outcome{}, err
	}
	if _, _, err := w.kiln(ctx, f.Path(0), nil); err != nil {
		return outcome{}, err
	}
	o, _, err := w.kiln(ctx, f.Path(1), nil)
	return o, err
}

func batchKiln(ctx context.Context, b *bench) (outcome, error) {
	return b.batch(ctx, len(variants), func(context.Context, int) ([]string, error) {
		return b.originals(len(variants))
	})
}

func manyKiln(ctx context.Context, b *bench) (outcome, error) {
	return b.batch(ctx, many, func(ctx context.Context, from int) ([]string, error) {
		return b.layOut(ctx, from, min(from+laidOut, many))
	})
}

// originals are the paths of n images: the eight, again and again.
func (b *bench) originals(n int) ([]string, error) {
	f, err := b.fleet()
	if err != nil {
		return nil, err
	}
	out := make([]string, n)
	for i := range out {
		out[i] = f.Path(i)
	}
	return out, nil
}

// laidOut is how many images lie on the disk at a time: fifty would take as many gigabytes.
const laidOut = 10

// batch plans all images and upgrades them as a campaign does, with nothing kept but the package files. The images come
// in groups, and laying them out is not counted. What is planned with is in the originals.
func (b *bench) batch(ctx context.Context, n int, lay func(ctx context.Context, from int) ([]string, error)) (outcome, error) {
	if err := os.RemoveAll(b.keep()); err != nil {
		return outcome{}, err
	}
	originals, err := b.originals(n)
	if err != nil {
		return outcome{}, err
	}
	begin := time.Now()
	w, err := b.worker()
	if err != nil {
		return outcome{}, err
	}
	shares, plans, err := w.plans(ctx, originals)
	if err != nil {
		return outcome{}, err
	}
	planned := time.Since(begin).Seconds()
	var t totals
	out := outcome{Images: n, Seconds: planned}
	for from := 0; from < n; {
		images, err := lay(ctx, from)
		if err != nil {
			return outcome{}, err
		}
		part, err := inParallel(ctx, len(images), func(ctx context.Context, i int) (outcome, error) {
			o, report, err := w.kiln(ctx, images[i], shares[from+i])
			if err == nil {
				t.add(report)
				fmt.Fprintf(os.Stderr, "%s  image %d: %.1f s, %s (%s)\n", time.Now().Format(time.TimeOnly), from+i, o.Seconds, report.Record, o.Note)
			}
			o.Note = ""
			return o, err
		})
		if err != nil {
			return outcome{}, err
		}
		out.Seconds, out.Packages, from = out.Seconds+part.Seconds, part.Packages, from+len(images)
	}
	out.Note = fmt.Sprintf("planning %.1f s; %s; %s", planned, running(plans), t.text())
	return out, nil
}

// plans answers what each image shares with others of its batch.
func (b *worker) plans(ctx context.Context, images []string) ([][][]upgrade.PackageRef, []upgrade.Plan, error) {
	planner, err := solve.New(solve.Config{Dir: filepath.Join(b.dir, "lists"), Proxy: b.proxy})
	if err != nil {
		return nil, nil, err
	}
	plans := make([]upgrade.Plan, len(images))
	_, err = inParallel(ctx, len(images), func(ctx context.Context, i int) (outcome, error) {
		work, err := os.MkdirTemp(b.dir, "plan-*")
		if err != nil {
			return outcome{}, err
		}
		defer os.RemoveAll(work) //nolint:errcheck // the run's folder goes too
		state, err := stateOf(ctx, images[i])
		if err != nil {
			return outcome{}, err
		}
		plans[i], err = planner.Plan(ctx, upgrade.Question{
			ImageID: strconv.Itoa(i), Release: release, Architecture: "amd64", State: state, Suites: b.suites, WorkDir: work, Log: io.Discard,
		})
		return outcome{}, err
	})
	if err != nil {
		return nil, nil, err
	}
	shares := make([][][]upgrade.PackageRef, len(images))
	for _, batch := range upgrade.Batches(plans) {
		for _, id := range batch.ImageIDs {
			i, err := strconv.Atoi(id)
			if err != nil {
				return nil, nil, err
			}
			shares[i] = batch.Shares(id)
		}
	}
	return shares, plans, planner.Close()
}

func stateOf(ctx context.Context, path string) (upgrade.PackageState, error) {
	f, err := os.Open(path)
	if err != nil {
		return upgrade.PackageState{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return upgrade.PackageState{}, err
	}
	return inspect.PackageState(ctx, f, st.Size(), disk.Qcow2)
}

// totals count what came from records.
type totals struct {
	mu                          sync.Mutex
	recorded, replayed, refused int
	files, changed              int
	why                         map[string]int
}

func (t *totals) add(r upgrade.Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.files += r.Replayed
	t.changed += r.Changed
	switch r.Record {
	case "":
	case "recorded":
		t.recorded++
	case "replayed":
		t.replayed++
	default:
		t.refused++
		if t.why == nil {
			t.why = map[string]int{}
		}
		t.why[r.Record]++
	}
}

func (t *totals) text() string {
	out := []string{fmt.Sprintf("%d recorded, %d replayed, %d refused; %d of %d changed files came from records", t.recorded, t.replayed, t.refused, t.files, t.changed)}
	for why, n := range t.why {
		out = append(out, fmt.Sprintf("%d × %s", n, why))
	}
	return strings.Join(out, "; ")
}

// running tells which part of the packages needs a running system.
func running(plans []upgrade.Plan) string {
	all, need := 0, 0
	for _, p := range plans {
		for _, c := range p.Changes {
			all++
			if c.Script == upgrade.ScriptRunning {
				need++
			}
		}
	}
	return fmt.Sprintf("%d of %d package changes need a running system", need, all)
}
