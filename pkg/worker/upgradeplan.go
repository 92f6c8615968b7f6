package worker

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// PackageState reads what the package manager of an image knows out of the image's bytes.
type PackageState func(ctx context.Context, r io.ReaderAt, size int64, format string) (upgrade.PackageState, error)

// upgradePlanHandler finds out what upgrades of images would do. The images are only read.
type upgradePlanHandler struct {
	Deps
	images *imageCache
}

func (h *upgradePlanHandler) Kind() job.Kind { return job.UpgradePlan }

// plansAtOnce bounds the images of one job that are read and solved at the same time.
const plansAtOnce = 2

// Planned is the result of a job.UpgradePlan: sums over its images.
type Planned struct {
	ImageIDs  []string `json:"image_ids"` // that have a plan now
	Images    int      `json:"images"`
	Pending   int      `json:"pending"` // images with changes
	Refused   int      `json:"refused"`
	Gone      int      `json:"gone"` // no longer known
	Changes   int      `json:"changes"`
	Held      int      `json:"held"`
	Kernels   int      `json:"kernels"` // images whose kernel changes
	Download  int64    `json:"download_bytes"`
	Batches   int      `json:"batches"`    // of images that share a part of their upgrades
	ToReplay  int      `json:"to_replay"`  // of Changes, those that need not be made by the package manager again
	ToRunning int      `json:"to_running"` // of Changes and Held, those that need a running system
}

// Run implements job.Handler. Each plan is kept as soon as it is made: it is a finding about its image, whatever becomes
// of the others, and an attempt after a failure makes it again.
func (h *upgradePlanHandler) Run(ctx context.Context, r *job.Run) (job.Result, error) {
	var p upgrade.PlanPayload
	if err := r.Decode(&p); err != nil {
		return job.Result{}, err
	}
	if h.Planner == nil || h.PackageState == nil {
		return job.Result{}, errs.New(errs.Unavailable, "kiln.plan.worker", "this worker makes no plans")
	}
	var mu sync.Mutex
	var plans []upgrade.Plan
	done, gone := 0, 0
	var unplanned error // of images whose upgrades need no plan
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(plansAtOnce)
	for _, id := range p.ImageIDs {
		g.Go(func() error {
			plan, err := h.plan(ctx, r, id, p.Policy)
			mu.Lock()
			defer mu.Unlock()
			if done++; err == nil {
				plans = append(plans, plan)
			} else if errs.Is(err, errs.NotFound) {
				gone++
				r.Warnf("image %s is not known any more", id)
				err = nil
			} else if errs.CodeOf(err) == upgrade.CodeNoPlanner {
				r.Warnf("image %s: %v", id, err)
				unplanned, err = err, nil
			}
			r.Progress("plan", int64(done), int64(len(p.ImageIDs)), "images")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return job.Result{}, err
	}
	if len(plans) == 0 && unplanned != nil {
		return job.Result{}, unplanned
	}
	sum := sumOf(plans)
	sum.Gone = gone
	r.Logf("%d images: %d with pending changes, %d cannot be upgraded offline; %d changes in %d batches", sum.Images, sum.Pending, sum.Refused, sum.Changes, sum.Batches)
	return job.Result{Value: sum, Apply: func(ctx context.Context) error {
		return h.Store.Record(ctx, event.Event{Type: "upgrade.planned", Resource: "upgrades/plans", ProjectID: r.Job.ProjectID, RequestID: r.Job.RequestID})
	}}, nil
}

// plan makes and keeps the plan of one image. What is wrong with the image becomes the plan's Refused. Where this worker is
// what lacks something (upgrade.CodeNoPlanner), none is kept: one that refuses would keep campaigns from upgrading it.
func (h *upgradePlanHandler) plan(ctx context.Context, r *job.Run, id string, policy upgrade.Policy) (upgrade.Plan, error) {
	img, err := h.Store.FindImage(ctx, id)
	if err != nil {
		return upgrade.Plan{}, err
	}
	plan, err := h.solve(ctx, r, img, policy)
	if err != nil && (!errs.Is(err, errs.Invalid) || errs.CodeOf(err) == upgrade.CodeNoPlanner) {
		return plan, err
	}
	if err != nil {
		plan = upgrade.Plan{Changes: []upgrade.PlannedChange{}, Held: []upgrade.Held{}, CVEs: []string{}, Refused: err.Error(), CreatedAt: h.Now().UTC()}
		r.Warnf("image %s: %v", img.ID, err)
	}
	plan.ImageID, plan.ProjectID, plan.Policy = img.ID, img.ProjectID, policy
	if f := img.Facts; f != nil {
		plan.PackageKind, plan.Release, plan.Architecture = advisory.KindOfFacts(f), releaseOf(f), f.Architecture
	}
	return plan, h.Store.PutPlan(ctx, plan)
}

// releaseOf is a release's codename; rpm systems mostly have none.
func releaseOf(f *catalog.Facts) string {
	if f.OS.Codename != "" || advisory.KindOfFacts(f) == advisory.Deb {
		return f.OS.Codename
	}
	name := []rune(f.OS.ID + "-" + f.OS.VersionID)
	return string(name[:min(len(name), 64)]) // what the store keeps
}

func (h *upgradePlanHandler) solve(ctx context.Context, r *job.Run, img catalog.Image, policy upgrade.Policy) (plan upgrade.Plan, err error) {
	if img.Facts == nil {
		return plan, errs.New(errs.Invalid, "kiln.plan.not_inspected", "the image has no facts (%s %s): only what can be read is upgraded", img.State, img.Reason)
	}
	f := img.Facts
	q := upgrade.Question{ImageID: img.ID, Release: f.OS.Codename, Architecture: f.Architecture, Policy: policy, Log: r}
	q.Suites, q.Repositories = h.sources(f)
	switch advisory.KindOfFacts(f) {
	case advisory.RPM:
		q.Release = f.OS.VersionID
		if len(q.Repositories) == 0 {
			return plan, errs.New(errs.Invalid, "kiln.plan.no_suites", "%s: there are no rpm repositories for it ([upgrade] rpm_repositories of the worker)", f.OS.PrettyName)
		}
	case advisory.APK:
		return plan, errs.New(errs.Invalid, "kiln.plan.no_manager", "%s: systems with packages of apk are read, and not upgraded offline", f.OS.PrettyName)
	default:
		if f.OS.Codename == "" || len(q.Suites) == 0 {
			return plan, errs.New(errs.Invalid, "kiln.plan.no_suites", "%s: there are no repositories for it", f.OS.PrettyName)
		}
	}
	if q.State, err = h.state(ctx, r, img); err != nil {
		return plan, err
	}
	err = h.work(func(dir string) error {
		q.WorkDir = dir
		plan, err = h.Planner.Plan(ctx, q)
		return err
	})
	return plan, err
}

// state reads an image where it is, and fetches it where that does not work.
func (h *upgradePlanHandler) state(ctx context.Context, r *job.Run, img catalog.Image) (upgrade.PackageState, error) {
	var none upgrade.PackageState
	g, err := h.Glance.Image(ctx, img.ID)
	if err != nil {
		return none, err
	}
	how := catalog.ReadingOf(g)
	switch {
	case how.Refused != "":
		return none, errs.New(errs.Invalid, "kiln.image.no_disk", "%s", how.Refused)
	case how.Convert != "":
		return none, errs.New(errs.Invalid, "kiln.plan.format", "an image of the format %s is not upgraded: import it as qcow2 or raw", g.DiskFormat)
	}
	if _, here := h.images.has(g); !here && g.Status == "active" {
		for _, way := range h.Remotes {
			state, err := h.remoteState(ctx, way, g, how.Format)
			if err == nil || errs.Is(err, errs.Invalid) || ctx.Err() != nil {
				return state, err
			}
			r.Logf("%s: the image is read in another way: %v", way.Method(), err)
		}
	}
	path, err := h.images.get(ctx, r, g)
	if err != nil {
		return none, err
	}
	file, err := os.Open(path)
	if err != nil {
		return none, fmt.Errorf("open the image: %w", err)
	}
	defer file.Close() //nolint:errcheck // only read
	return h.PackageState(ctx, file, g.Size, how.Format)
}

func (h *upgradePlanHandler) remoteState(ctx context.Context, way Remote, g catalog.GlanceImage, format string) (state upgrade.PackageState, err error) {
	remote, err := way.Open(ctx, g)
	if err != nil {
		return state, err
	}
	defer remote.Close() //nolint:errcheck // only read
	state, err = h.PackageState(ctx, remote, g.Size, format)
	if broken := remote.Err(); broken != nil {
		return state, errs.Wrap(broken, errs.Unavailable, "kiln.plan.remote", "the image cannot be read by %s", way.Method())
	}
	return state, err
}

func sumOf(plans []upgrade.Plan) Planned {
	sum := Planned{Images: len(plans), ImageIDs: []string{}}
	for _, p := range plans {
		sum.ImageIDs = append(sum.ImageIDs, p.ImageID)
		if p.Refused != "" {
			sum.Refused++
		}
		if len(p.Changes) > 0 {
			sum.Pending++
		}
		if p.Kernel {
			sum.Kernels++
		}
		sum.Changes += len(p.Changes)
		sum.Held += len(p.Held)
		sum.Download += p.Download
		for _, c := range p.Changes {
			if c.Script == upgrade.ScriptRunning {
				sum.ToRunning++
			}
		}
	}
	for _, b := range upgrade.Batches(plans) {
		sum.Batches++
		sum.ToReplay += b.Saved()
	}
	slices.Sort(sum.ImageIDs)
	return sum
}
