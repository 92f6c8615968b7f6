// Package demo tells Kiln's main job as one story, through the REST API alone: from a recipe in git to a machine
// that boots the upgraded image from a copy beside it. `kiln demo` tells it on embedded parts, `kiln story` on a
// real cloud.
package demo

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Cluster is one cluster of the story.
type Cluster struct {
	Name  string
	Nodes []string
	Store cache.StoreSpec
}

// Story is what the story is told with.
type Story struct {
	Member *client.Client // a member of the project
	Admin  *client.Client
	// Manager promotes; the member's role is not enough for that.
	Manager   *client.Client
	SourceURL string // the git repository
	Recipe    string
	Clusters  []Cluster
	Cluster   string // where the VM shall run
	Node      string
	Flavor    string
	// Container is the image name of the container; "" where the cloud has no Zun.
	Container string
	// Boots says that the node really boots the VM, so that its console can be read.
	Boots bool
	// Console reads the VM's console.
	Console func(ctx context.Context, serverID string) (string, error)
	// Downloads counts the downloads of the image from Glance so far.
	Downloads func(imageID string) int
	// Held is what Placement says that a consumer holds, by provider.
	Held   func(ctx context.Context, consumerID string) (map[string]placement.Resources, error)
	Screen *Screen
}

// Outcome is what happened, for the closing table.
type Outcome struct {
	Build     build.Build
	From, To  catalog.Version
	FromImage catalog.Image
	ToImage   catalog.Image
	Report    *upgrade.Report
	Pending   int
	Copies    []cache.Copy
	VM        placement.Workload
	Container *placement.Workload
	Lines     []string // of the guest's own console, about upgraded packages
	Downloads int      // from Glance for the VM's start
	Steps     []build.Step
}

const sourceName = "kiln-demo"

// Tell runs the story to its end.
func (s *Story) Tell(ctx context.Context) (*Outcome, error) {
	o := &Outcome{}
	for _, step := range []struct {
		name string
		do   func(context.Context, *Outcome) error
	}{
		{"read the recipes from git", s.source},
		{"build the image", s.build},
		{"find pending updates", s.advisories},
		{"upgrade offline", s.upgrade},
		{"promote to stable", s.promote},
		{"copy to the clusters", s.copies},
		{"start a VM from the copy", s.vm},
		{"start a container beside it", s.container},
		{"hold the ledger against Placement", s.ledger},
	} {
		began := time.Now()
		s.Screen.Begin(step.name)
		if err := step.do(ctx, o); err != nil {
			s.Screen.End("failed")
			return o, fmt.Errorf("%s: %w", step.name, err)
		}
		o.Steps = append(o.Steps, build.Step{Name: step.name, Seconds: time.Since(began).Seconds()})
	}
	return o, nil
}

func (s *Story) wait(ctx context.Context, c *client.Client, jobID string) error {
	_, err := c.WaitJob(ctx, jobID, 300*time.Millisecond, s.Screen.Job)
	return err
}

func (s *Story) source(ctx context.Context, _ *Outcome) error {
	src, err := s.ensureSource(ctx)
	if err != nil {
		return err
	}
	if err := s.wait(ctx, s.Member, src.JobID); err != nil {
		return err
	}
	recipes, err := client.List[build.Recipe](ctx, s.Member, "recipes", url.Values{"source_id": {src.ID}})
	if err != nil {
		return err
	}
	if err := s.Member.Get(ctx, "/v1/sources/"+src.ID, &src); err != nil {
		return err
	}
	s.Screen.End("%d recipes at commit %.12s", len(recipes), src.Commit)
	return nil
}

func (s *Story) ensureSource(ctx context.Context) (build.Source, error) {
	var src build.Source
	found, err := client.List[build.Source](ctx, s.Member, "sources", url.Values{"name": {sourceName}})
	if err != nil {
		return src, err
	}
	if len(found) > 0 && found[0].URL == s.SourceURL {
		return src, s.Member.Post(ctx, "/v1/sources/"+found[0].ID+"/sync", nil, &src)
	}
	if len(found) > 0 {
		if err := s.Member.Delete(ctx, "/v1/sources/"+found[0].ID, nil); err != nil {
			return src, err
		}
	}
	return src, s.Member.Post(ctx, "/v1/sources", build.NewSource{Name: sourceName, URL: s.SourceURL}, &src)
}

func (s *Story) build(ctx context.Context, o *Outcome) error {
	if err := s.Member.Post(ctx, "/v1/builds", map[string]any{"source": sourceName, "recipe": s.Recipe}, &o.Build); err != nil {
		return err
	}
	if err := s.wait(ctx, s.Member, o.Build.JobID); err != nil {
		return err
	}
	if err := s.Member.Get(ctx, "/v1/builds/"+o.Build.ID, &o.Build); err != nil {
		return err
	}
	if err := s.Member.Get(ctx, "/v1/images/"+o.Build.ImageID, &o.FromImage); err != nil {
		return err
	}
	what := "published " + catalog.ImageName(o.Build.Family, o.Build.VersionName)
	if o.Build.State == build.Unchanged {
		what = "nothing changed since " + catalog.ImageName(o.Build.Family, o.Build.VersionName)
	}
	f := o.FromImage.Facts
	if f == nil {
		return errors.New("the built image has no facts")
	}
	s.Screen.End("%s: %s, %d packages, kernel %s", what, f.OS.PrettyName, len(f.Packages), strings.Join(f.Kernels, ", "))
	return nil
}

func (s *Story) advisories(ctx context.Context, o *Outcome) error {
	var started struct {
		JobID string `json:"job_id"`
	}
	if err := s.Admin.Post(ctx, "/v1/advisories/refresh", nil, &started); err != nil {
		return err
	}
	if err := s.wait(ctx, s.Admin, started.JobID); err != nil {
		return err
	}
	if err := s.Member.Get(ctx, "/v1/images/"+o.Build.ImageID, &o.FromImage); err != nil {
		return err
	}
	o.Pending = o.FromImage.PendingUpdates
	s.Screen.End("%d packages of %s have a published fix", o.Pending, o.Build.VersionName)
	return nil
}

// upgrade takes the newest version; where a run before this one made it already, nothing is pending for it.
func (s *Story) upgrade(ctx context.Context, o *Outcome) error {
	base := "/v1/families/" + string(o.Build.Family)
	if err := s.Member.Get(ctx, base+"/versions/"+o.Build.VersionName, &o.From); err != nil {
		return err
	}
	newest, err := s.candidate(ctx, o)
	if err != nil {
		return err
	}
	var u upgrade.Upgrade
	var img catalog.Image
	if err := s.Member.Get(ctx, "/v1/images/"+newest.ImageID, &img); err != nil {
		return err
	}
	if newest.Origin == "upgrade" && img.PendingUpdates == 0 {
		o.To = newest
		if err := s.Member.Get(ctx, "/v1/upgrades/"+newest.OriginID, &u); err != nil {
			return err
		}
		if err := s.Member.Get(ctx, base+"/versions/"+newest.ParentVersion, &o.From); err != nil {
			return err
		}
		o.Report, o.ToImage = u.Report, img
		s.Screen.End("nothing is pending for %s, which has %d upgraded packages", newest.Name, len(u.Report.Packages))
		return nil
	}
	o.From = newest
	if err := s.Member.Post(ctx, "/v1/upgrades", map[string]string{"image_id": newest.ImageID}, &u); err != nil {
		return err
	}
	if err := s.wait(ctx, s.Member, u.JobID); err != nil {
		return err
	}
	if err := s.Member.Get(ctx, "/v1/upgrades/"+u.ID, &u); err != nil {
		return err
	}
	o.Report = u.Report
	if o.To, err = s.candidate(ctx, o); err != nil {
		return err
	}
	if err := s.Member.Get(ctx, "/v1/images/"+o.To.ImageID, &o.ToImage); err != nil {
		return err
	}
	s.Screen.End("%s → %s: %d packages, %d CVEs closed", o.From.Name, o.To.Name, len(u.Report.Packages), len(u.Report.CVEs))
	return nil
}

func (s *Story) candidate(ctx context.Context, o *Outcome) (catalog.Version, error) {
	var f catalog.Family
	var v catalog.Version
	base := "/v1/families/" + string(o.Build.Family)
	if err := s.Member.Get(ctx, base, &f); err != nil {
		return v, err
	}
	return v, s.Member.Get(ctx, base+"/versions/"+f.Channels[catalog.Candidate], &v)
}

func (s *Story) promote(ctx context.Context, o *Outcome) error {
	path := "/v1/families/" + string(o.Build.Family) + "/channels/" + catalog.Stable
	if err := s.Manager.Put(ctx, path, map[string]string{"version": o.To.Name}, nil); err != nil {
		return err
	}
	s.Screen.End("%s is stable", o.To.Name)
	return nil
}

func (s *Story) copies(ctx context.Context, o *Outcome) error {
	for _, c := range s.Clusters {
		if err := s.ensureCluster(ctx, c); err != nil {
			return err
		}
	}
	for _, c := range s.Clusters {
		ask := map[string]any{"image_id": o.To.ImageID, "cluster": c.Name}
		if c.Name == s.Cluster {
			ask["nodes"] = []string{s.Node}
		}
		var made struct {
			Copies []cache.Copy `json:"copies"`
		}
		if err := s.Admin.Post(ctx, "/v1/copies", ask, &made); err != nil {
			return err
		}
		// The store first: the node's agent then takes the bytes from it.
		slices.SortStableFunc(made.Copies, func(a, b cache.Copy) int { return strings.Compare(a.Node, b.Node) })
		for _, cp := range made.Copies {
			if err := s.wait(ctx, s.Admin, cp.JobID); err != nil {
				return err
			}
			if err := s.Admin.Get(ctx, "/v1/copies/"+cp.ID, &cp); err != nil {
				return err
			}
			o.Copies = append(o.Copies, cp)
		}
	}
	var bytes int64
	for _, cp := range o.Copies {
		bytes += cp.Bytes
	}
	s.Screen.End("%d verified copies, %s", len(o.Copies), Bytes(bytes))
	return nil
}

func (s *Story) ensureCluster(ctx context.Context, c Cluster) error {
	err := s.Admin.Post(ctx, "/v1/clusters", cache.NewCluster{Name: c.Name, Nodes: c.Nodes, Stores: []cache.StoreSpec{c.Store}}, nil)
	var e *client.Error
	if errors.As(err, &e) && e.Status == 409 {
		return s.Admin.Patch(ctx, "/v1/clusters/"+c.Name, map[string]any{"nodes": c.Nodes, "stores": []cache.StoreSpec{c.Store}}, nil)
	}
	return err
}
