package api_test

import (
	"net/url"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/proof"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// seeded names one thing of each kind, all of project p.
type seeded struct{ byKind map[string]string }

// seed puts one thing of each kind into project p, as the worker, the engine and the agents would.
func (w *world) seed() seeded {
	w.t.Helper()
	ctx, db := w.t.Context(), w.db
	finished := job.Job{ID: "job-old", Kind: job.Build, Queue: job.WorkerQueue, State: job.Pending, ProjectID: "p", MaxAttempts: 5,
		Payload: []byte(`{"build_id":"build-1"}`), Resource: "builds/build-1", RunAfter: noon, CreatedAt: noon, UpdatedAt: noon}
	w.must(db.AddJob(ctx, finished))
	w.must(db.CreateSource(ctx, build.Source{ID: "source-1", ProjectID: "p", Name: "seeded", URL: "https://git.example.org/r.git", State: "ready", CreatedAt: noon, UpdatedAt: noon}))
	w.must(db.CreateSource(ctx, build.Source{ID: "source-2", ProjectID: "p", Name: "hosted", URL: build.HostedURL("source-2"), Hosted: true, State: "new", CreatedAt: noon, UpdatedAt: noon}))
	w.must(db.ReplaceRecipes(ctx, "source-1", []build.Recipe{
		{ID: "recipe-1", ProjectID: "p", SourceID: "source-1", Name: "web", Path: "recipes/web.yaml", Commit: "c0ffee", Digest: "sha256:1", UpdatedAt: noon,
			Spec: &recipe.Recipe{Name: "web", Family: "debian-12-web", From: recipe.From{Release: "bookworm"}, Path: "recipes/web.yaml"}},
		{ID: "recipe-bad", ProjectID: "p", SourceID: "source-1", Name: "bad", Path: "recipes/bad.yaml", Commit: "c0ffee", UpdatedAt: noon,
			Problems: []build.Problem{
				{Code: "kiln.recipe.unknown_field", Detail: "there is no field pakages", Where: errs.Where{File: "recipes/bad.yaml", Line: 3, Field: "pakages"}},
				{Code: "kiln.recipe.type", Detail: "a list is needed", Where: errs.Where{File: "recipes/bad.yaml", Line: 7, Field: "files"}},
			}},
	}))
	w.must(db.CreateBuild(ctx, build.Build{ID: "build-1", ProjectID: "p", SourceID: "source-1", RecipeID: "recipe-0", Recipe: "web", State: build.Queued, JobID: "job-old", CreatedAt: noon, UpdatedAt: noon}))
	w.must(db.CreateFamily(ctx, catalog.Family{ID: "family-1", ProjectID: "p", Name: "debian-12-web", Channels: map[string]string{}, CreatedAt: noon, UpdatedAt: noon}))
	for i, name := range []string{"20260305.1", "20260305.2"} {
		image := []string{"image-1", "image-2"}[i]
		w.must(db.AddVersion(ctx, catalog.Version{ID: "version-" + name, ProjectID: "p", FamilyID: "family-1", Family: "debian-12-web", Name: name,
			ImageID: image, Origin: "build", OriginID: "build-1", State: catalog.Published, CreatedAt: noon}))
		w.must(db.PutImage(ctx, catalog.Image{ID: image, ProjectID: "p", Name: "debian-12-web-" + name, State: catalog.Inspected, Digest: "sha512:00", Size: 1 << 30,
			Facts: &catalog.Facts{OS: catalog.OSRelease{ID: "debian"}, Packages: []catalog.Package{{Name: "openssl", Version: "3.0.1", Architecture: "amd64", Source: "openssl"}}}, CreatedAt: noon, UpdatedAt: noon}))
	}
	w.must(db.PutDocuments(ctx, "image-1", []proof.Document{w.document(proof.KindFiles, `{"path":"/","type":"dir","mode":"0755","uid":0,"gid":0}`)}))
	w.must(db.SetChannel(ctx, "family-1", catalog.Candidate, "20260305.1"))
	w.must(db.PutAdvisories(ctx, []advisory.Advisory{{ID: advisoryID, Package: "openssl", Source: "openssl", Version: "3.0.2~deb12u1", Suite: "bookworm-security",
		Security: true, CVEs: []string{"CVE-2026-1"}, CreatedAt: noon, UpdatedAt: noon}}))
	w.must(db.ReplacePending(ctx, "image-1", []advisory.Pending{{ImageID: "image-1", AdvisoryID: advisoryID, Package: "openssl", Architecture: "amd64", Source: "openssl", Installed: "3.0.1",
		Fixed: "3.0.2~deb12u1", Suite: "bookworm-security", Security: true, Urgency: "high", Gap: "gap-1"}}))
	w.must(db.PutGaps(ctx, []advisory.Gap{{ID: "gap-1", Source: "openssl", From: "3.0.1", To: "3.0.2~deb12u1", Urgency: "high", CVEs: []advisory.CVE{{ID: "CVE-2026-1000", Urgency: "high"}}}}))
	w.must(db.PutPlan(ctx, upgrade.Plan{ImageID: "image-1", ProjectID: "p", Release: "bookworm", Architecture: "amd64", Changes: []upgrade.PlannedChange{}, Held: []upgrade.Held{}, CVEs: []string{}, CreatedAt: noon}))
	w.must(db.CreateUpgrade(ctx, upgrade.Upgrade{ID: "upgrade-1", ProjectID: "p", Family: "debian-12-web", FromVersion: "20260305.0", FromImageID: "image-0", State: upgrade.Succeeded,
		Report: &upgrade.Report{Packages: []upgrade.PackageChange{{Name: "openssl", From: "1", To: "2"}}}, CreatedAt: noon, UpdatedAt: noon}))
	w.must(db.CreateCampaign(ctx, campaign.Campaign{ID: "campaign-1", ProjectID: "p", Name: "march", State: campaign.Running, Open: true, Chosen: true, MaxParallel: 1, CreatedAt: noon, UpdatedAt: noon}))
	w.must(db.AddCampaignItems(ctx, []campaign.Item{{ID: "item-1", CampaignID: "campaign-1", ImageID: "image-1", ProjectID: "p", Name: "web", State: campaign.Pending, CreatedAt: noon, UpdatedAt: noon}}))
	w.must(db.CreateUpgradePolicy(ctx, campaign.Policy{ID: "policy-1", ProjectID: "p", Name: "urgent", MinSeverity: "high", EnabledAt: noon, CreatedAt: noon, UpdatedAt: noon}))
	w.must(db.CreateCluster(ctx, cache.Cluster{ID: "cluster-1", Name: "rack-1", Nodes: []string{"node-1", "node-2"},
		Stores: []cache.StoreSpec{{Name: "pool", Type: "ceph", Pool: "cluster-a"}, {Name: "disk", Type: "directory"}}, CreatedAt: noon, UpdatedAt: noon}))
	if _, err := db.EnsureCopy(ctx, cache.Copy{ID: "copy-1", Cluster: "rack-1", Store: "pool", ImageID: "image-1", State: cache.CopyVerified, VerifiedAt: &noon, CreatedAt: noon, UpdatedAt: noon}); err != nil {
		w.t.Fatal(err)
	}
	w.must(db.PutWorker(ctx, build.Worker{Name: "worker-1", Host: "h", Arch: "amd64", Builders: []string{"native"}, Labels: build.Labels("amd64", []string{"native"}, 50<<30, nil),
		FreeDisk: 50 << 30, Parallel: 1, Version: "1", StartedAt: noon, SeenAt: noon}))
	w.must(db.PutNode(ctx, placement.Node{Name: "node-1", ProviderID: "rp-1", Up: true, Capacity: placement.Resources{VCPUs: 8, MemoryMB: 8192, DiskGB: 100}, UpdatedAt: noon}))
	w.must(db.CreateWorkload(ctx, placement.Workload{ID: "workload-1", ProjectID: "p", Name: "shop", Kind: placement.VM, State: placement.Active, Node: "node-1", CreatedAt: noon, UpdatedAt: noon}))
	w.must(db.Hold(ctx, placement.Claim{ID: "workload-1", WorkloadID: "workload-1", Node: "node-1", ProviderID: "rp-1", Resources: placement.Resources{VCPUs: 1, MemoryMB: 512, DiskGB: 2}, State: placement.ClaimHeld, UpdatedAt: noon}))
	return seeded{map[string]string{
		"sources": "source-1", "recipes": "recipe-1", "builds": "build-1", "images": "image-1", "advisories": url.PathEscape(advisoryID),
		"campaigns": "campaign-1", "upgrade-policies": "policy-1", "upgrades": "upgrade-1", "copies": "copy-1", "workloads": "workload-1", "jobs": "job-old",
		"families": "debian-12-web", "clusters": "rack-1", "nodes": "node-1", "git": "hosted", "cves": "CVE-2026-1000", "workers": "worker-1",
	}}
}

// document is a text about an image.
func (w *world) document(kind, text string) proof.Document {
	w.t.Helper()
	d, err := proof.NewDocument(kind, proof.MediaFiles, []byte(text), noon)
	w.must(err)
	return d
}

const advisoryID = "bookworm-security/openssl/3.0.2~deb12u1/amd64"

// fill writes the seeded names into a path of the route table.
func (s seeded) fill(path string) string {
	parts := strings.Split(path, "/")
	path = strings.ReplaceAll(path, "{channel}/rollback", "candidate/rollback") // a channel that exists
	return strings.NewReplacer("{project_id}", "p", "{id}", s.byKind[parts[2]], "{name}", s.byKind[parts[2]], "{version}", "20260305.2", "{channel}", "stable", "{kind}", proof.KindFiles).Replace(path)
}

// missing is the same with names that nothing has.
func (s seeded) missing(path string) string {
	path = strings.ReplaceAll(path, "{channel}/rollback", "candidate/rollback") // a channel that exists
	return strings.NewReplacer("{project_id}", "p", "{id}", "nothing-has-this-id", "{name}", "nothing-has-this", "{version}", "20260305.2", "{channel}", "stable", "{kind}", proof.KindFiles).Replace(path)
}
