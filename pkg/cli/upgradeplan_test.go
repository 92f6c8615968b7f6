package cli_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Plans of upgrades are asked for, made by a worker, and shown with what stays and why.
func TestUpgradePlansOnTheCommandLine(t *testing.T) {
	k := start(t)
	ctx, db := t.Context(), k.parts.DB
	var f catalog.Family
	if err := json.Unmarshal([]byte(k.run("family", "create", "--name", "web", "-f", "json")), &f); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	openssl := upgrade.PlannedChange{PackageRef: upgrade.PackageRef{Name: "openssl", Architecture: "amd64", From: "1", To: "2"}, Suite: "bookworm-security",
		CVEs: []string{"CVE-2026-1", "CVE-2026-2", "CVE-2026-3"}, Bytes: 1_500_000, SHA256: "ab", Script: upgrade.ScriptDivert}
	for _, id := range []string{"i1", "i2"} {
		now := time.Now()
		must(db.PutImage(ctx, catalog.Image{ID: id, ProjectID: f.ProjectID, Name: "debian " + id, State: catalog.Inspected, Facts: &catalog.Facts{}, CreatedAt: now, UpdatedAt: now}))
		must(db.PutPlan(ctx, upgrade.Plan{ImageID: id, ProjectID: f.ProjectID, Release: "bookworm", Architecture: "amd64", Changes: []upgrade.PlannedChange{openssl}, CVEs: openssl.CVEs,
			Held: []upgrade.Held{{Name: "db", Version: "1", To: "2", Reason: "held by the image's owner"}}, Download: 1_500_000, Grows: -2048, Kernel: true, CreatedAt: now}))
	}
	// work ends the next job as a worker would that planned these images.
	done := make(chan error, 1)
	work := func(ids ...string) {
		go func() {
			var j *job.Job
			var err error
			for j == nil && err == nil && ctx.Err() == nil {
				time.Sleep(20 * time.Millisecond)
				j, err = db.LeaseJob(ctx, []job.Queue{job.WorkerQueue}, nil, "w", time.Now(), time.Now().Add(time.Minute))
			}
			if err == nil && j != nil {
				out, _ := json.Marshal(map[string]any{"image_ids": ids})
				err = db.FinishJob(ctx, j.ID, "w", time.Now(), job.Outcome{State: job.Succeeded, Result: out}, nil)
			}
			done <- err
		}()
	}
	work("i1")
	out := k.run("upgrade", "plan", "--image-id", "i1", "--security")
	must(<-done)
	for _, want := range []string{"openssl:amd64", "bookworm-security", "CVE-2026-1 CVE-2026-2 +1", "1.5 MB", "-2.0 kB", "diverted", "held: db stays 1 although 2 is published: held by the image's owner", "images: 1; changes: 1; CVEs closed: 3", "new kernels: 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("missing %q in\n%s", want, out)
		}
	}
	work("i1", "i2")
	out = k.run("upgrade", "plan", "--image-id", "i1", "--image-id", "i2")
	must(<-done)
	for _, want := range []string{"i1", "i2", "images: 2; changes: 2; CVEs closed: 3; 1.5 MB to fetch once", "batches: 1; 1 of 2 changes need not be made"} {
		if !strings.Contains(out, want) {
			t.Errorf("missing %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "openssl") {
		t.Errorf("many images with every change:\n%s", out)
	}
	if _, err := k.try("upgrade", "plan"); err == nil || !strings.Contains(err.Error(), "image_ids") {
		t.Errorf("no image: %v", err)
	}
}
