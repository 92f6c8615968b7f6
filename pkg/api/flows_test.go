package api_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// code insists on a refusal: its status, its code and the field that it names.
func (w *world) refused(status int, code, field, token, method, path string, body any) {
	w.t.Helper()
	a := w.want(status, token, method, path, body)
	var f faults
	a.into(w.t, &f)
	if f.Errors[0].Code != code || f.Errors[0].Where.Field != field {
		w.t.Errorf("%s %s: %s at %q, want %s at %q", method, path, f.Errors[0].Code, f.Errors[0].Where.Field, code, field)
	}
}

// job reads a job's row and insists on what stands in it.
func (w *world) job(id string, kind job.Kind, queue job.Queue, payload, resource string) job.Job {
	w.t.Helper()
	j, err := w.db.FindJob(w.t.Context(), id)
	w.must(err)
	if j.Kind != kind || j.Queue != queue || string(j.Payload) != payload || j.Resource != resource || j.State != job.Pending ||
		j.ProjectID != "p" || j.MaxAttempts != 5 || !strings.HasPrefix(j.RequestID, "req-") || j.UserID == "" {
		w.t.Errorf("job %s: %+v payload %s", id, j, j.Payload)
	}
	return j
}

// jobs counts the jobs.
func (w *world) jobs() int {
	w.t.Helper()
	var all struct{ Jobs []struct{ ID string } }
	w.want(http.StatusOK, "system", http.MethodGet, "/v1/jobs", nil).into(w.t, &all)
	return len(all.Jobs)
}

func TestASourceFromCreationToDeletion(t *testing.T) {
	w := newWorld(t)
	told := w.since()
	body := map[string]any{"name": "images", "url": "https://git.example.org/images.git", "ref": "main"}
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/sources", body)
	var s build.Source
	a.into(t, &s)
	if a.header.Get("Location") != "http://example.com/v1/sources/"+s.ID || s.State != "syncing" || s.ProjectID != "p" || s.CreatedAt.Before(noon) {
		t.Errorf("%s %s", a.header, a.body)
	}
	j := w.job(s.JobID, job.SyncSource, job.WorkerQueue, `{"source_id":"`+s.ID+`"}`, "sources/"+s.ID)
	if j.RequestID != a.header.Get("X-Openstack-Request-Id") {
		t.Errorf("the job has request id %s", j.RequestID)
	}
	s.Secret = a.get(t, "secret")
	if row, err := w.db.FindSource(t.Context(), s.ID); err != nil || row != s || len(s.Secret) < 40 {
		t.Errorf("the row is %+v (%v), the answer was %+v", row, err, s)
	}

	// Twice: the name is taken, and nothing more was written. In another project it is free.
	w.refused(http.StatusConflict, "kiln.source.exists", "", "member@p", http.MethodPost, "/v1/sources", body)
	w.want(http.StatusAccepted, "member@q", http.MethodPost, "/v1/sources", body)
	if n := w.jobs(); n != 2 {
		t.Errorf("%d jobs", n)
	}

	// A sync while one is open joins it; after its end it is a new one.
	if joined := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/sources/"+s.ID+"/sync", nil); joined.get(t, "job_id") != s.JobID {
		t.Errorf("%s", joined.body)
	}
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/"+s.JobID+"/cancel", nil)
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/sources/"+s.ID, nil); a.get(t, "state") != "new" {
		t.Errorf("after the cancelled sync: %s", a.body)
	}
	if again := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/sources/"+s.ID+"/sync", map[string]any{}); again.get(t, "job_id") == s.JobID {
		t.Errorf("%s", again.body)
	}

	w.want(http.StatusNoContent, "member@p", http.MethodDelete, "/v1/sources/"+s.ID, nil)
	w.refused(http.StatusNotFound, "kiln.source.not_found", "", "member@p", http.MethodDelete, "/v1/sources/"+s.ID, nil)
	if got, want := told(), "source.created source.created source.sync_cancelled job.cancelled source.syncing source.deleted"; got != want {
		t.Errorf("events: %s, want %s", got, want)
	}
}

func TestSourcesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	for url, good := range map[string]bool{
		"https://git.example.org/r.git": true, "ssh://git@git.example.org/r.git": true, "git@git.example.org:team/r.git": true, "http://10.0.0.1:3000/r": true,
		"": false, "r.git": false, "/etc": false, "file:///etc": false, "ext::sh -c id": false, "-uploadpack=id": false, "https:///r": false,
		"https://user:hunter2@git.example.org/r": false, "ssh://-oProxyCommand=id/r": false, "https://a/\nb": false, "ftp://a/b": false,
		"-x@host:path": false, "git@-oProxyCommand=id:path": false, "git@host:-path": false,
	} {
		a := w.do("member@p", http.MethodPost, "/v1/sources", map[string]any{"name": "s" + strings.Repeat("x", len(url)%30), "url": url})
		if good != (a.status == http.StatusAccepted || a.status == http.StatusConflict) || strings.Contains(string(a.body), "hunter2") {
			t.Errorf("%q: %d %s", url, a.status, a.body)
		}
	}
	for _, ref := range []string{"-x", "a..b", "a b", "../x"} {
		w.refused(http.StatusBadRequest, "kiln.source.ref", "ref", "member@p", http.MethodPost, "/v1/sources",
			map[string]any{"name": "r", "url": "https://a.example.org/b", "ref": ref})
	}
	w.refused(http.StatusBadRequest, "kiln.source.name", "name", "member@p", http.MethodPost, "/v1/sources", map[string]any{"name": "a b", "url": "https://a.example.org/b"})
}

func TestARecipeWithFaultsIsTold(t *testing.T) {
	w := newWorld(t)
	w.seed()
	text := "name: web\nfrom: {release: bookworm}\npakages: [a]\ndisk: {size: 7}\n"
	a := w.want(http.StatusBadRequest, "reader@p", http.MethodPost, "/v1/recipes/validate", map[string]any{"path": "recipes/web.yaml", "content": text})
	var f faults
	a.into(t, &f)
	if len(f.Errors) != 2 || f.Errors[0].Where.File != "recipes/web.yaml" || f.Errors[0].Where.Line != 3 || f.Errors[0].Where.Field != "pakages" || f.Errors[1].Where.Line != 4 {
		t.Errorf("%s", a.body)
	}
	a = w.want(http.StatusOK, "reader@p", http.MethodPost, "/v1/recipes/validate", map[string]any{"content": "name: web\nfrom: {release: bookworm}\n"})
	if !strings.Contains(string(a.body), `"family":"web"`) {
		t.Errorf("%s", a.body)
	}

	// A build of such a recipe is refused with every fault, and nothing is written.
	told, before := w.since(), w.jobs()
	for _, body := range []map[string]any{{"recipe_id": "recipe-bad"}, {"source": "seeded", "recipe": "bad", "force": true}} {
		a = w.want(http.StatusBadRequest, "member@p", http.MethodPost, "/v1/builds", body)
		f = faults{}
		a.into(t, &f)
		if len(f.Errors) != 2 || f.Errors[0].Code != "kiln.recipe.unknown_field" || f.Errors[0].Where.File != "recipes/bad.yaml" || f.Errors[0].Where.Line != 3 || f.Errors[1].Where.Field != "files" {
			t.Errorf("%s", a.body)
		}
	}
	if told() != "" || w.jobs() != before {
		t.Errorf("something was built: %s", told())
	}
}

func TestABuildFromRequestToCancel(t *testing.T) {
	w := newWorld(t)
	w.seed()
	told := w.since()
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/builds", map[string]any{"source": "seeded", "recipe": "web", "force": true})
	var b build.Build
	a.into(t, &b)
	if b.State != build.Queued || b.Family != "debian-12-web" || b.Commit != "c0ffee" || !b.Force || a.header.Get("Location") != "http://example.com/v1/builds/"+b.ID {
		t.Errorf("%s", a.body)
	}
	w.job(b.JobID, job.Build, job.WorkerQueue, `{"build_id":"`+b.ID+`"}`, "builds/"+b.ID)
	w.refused(http.StatusConflict, "kiln.build.open", "", "member@p", http.MethodPost, "/v1/builds", map[string]any{"recipe_id": "recipe-1"})

	a = w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/"+b.JobID+"/cancel", nil)
	if a.get(t, "state") != "cancelled" {
		t.Errorf("%s", a.body)
	}
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/builds/"+b.ID, nil); a.get(t, "state") != "cancelled" || a.get(t, "error") == "" {
		t.Errorf("%s", a.body)
	}
	if a := w.do("member@p", http.MethodPost, "/v1/jobs/"+b.JobID+"/cancel", nil); a.status != http.StatusConflict {
		t.Errorf("the second cancel: %d %s", a.status, a.body)
	}
	if got := told(); got != "build.queued build.cancelled job.cancelled" {
		t.Errorf("events: %s", got)
	}
	for field, body := range map[string]map[string]any{
		"recipe_id": {"recipe_id": "nosuch"}, "source": {"source": "nosuch", "recipe": "web"}, "recipe": {"source": "seeded", "recipe": "nosuch"},
	} {
		a := w.want(http.StatusBadRequest, "member@p", http.MethodPost, "/v1/builds", body)
		if !strings.Contains(string(a.body), `"field":"`+field+`"`) {
			t.Errorf("%v: %s", body, a.body)
		}
	}
	w.refused(http.StatusBadRequest, "kiln.recipe.not_found", "recipe_id", "member@q", http.MethodPost, "/v1/builds", map[string]any{"recipe_id": "recipe-1"})
	w.refused(http.StatusBadRequest, "kiln.build.recipe", "recipe_id", "member@p", http.MethodPost, "/v1/builds", map[string]any{"recipe_id": "recipe-1", "source": "seeded"})
}

func TestARunningJobIsAskedToStop(t *testing.T) {
	w := newWorld(t)
	w.seed()
	if _, err := w.db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue}, nil, "worker-1", noon, noon.Add(1e9)); err != nil {
		t.Fatal(err)
	}
	w.must(w.db.AppendJobLog(t.Context(), "job-old", []job.LogLine{{Seq: 1, At: noon, Level: "info", Text: "one"}, {Seq: 2, At: noon, Level: "info", Text: "two"}}))
	told := w.since()
	for range 2 { // asking twice is asking once
		a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/job-old/cancel", nil)
		if a.get(t, "state") != "running" || a.get(t, "cancel_requested") != "true" {
			t.Errorf("%s", a.body)
		}
	}
	if told() != "job.cancel_requested" {
		t.Errorf("events: %s", told())
	}
	a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/jobs/job-old/log?after_seq=1", nil)
	if !strings.Contains(string(a.body), `"two"`) || strings.Contains(string(a.body), `"one"`) || a.get(t, "last_seq") != "2" || a.get(t, "state") != "running" {
		t.Errorf("%s", a.body)
	}
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/jobs/job-old/log?after_seq=2", nil); !strings.Contains(string(a.body), `"log":[]`) || a.get(t, "last_seq") != "2" {
		t.Errorf("%s", a.body)
	}
	w.refused(http.StatusBadRequest, "kiln.request.query", "after_seq", "reader@p", http.MethodGet, "/v1/jobs/job-old/log?after_seq=-1", nil)
}

func TestFamiliesVersionsAndChannels(t *testing.T) {
	w := newWorld(t)
	w.seed()
	told := w.since()
	w.want(http.StatusCreated, "member@p", http.MethodPost, "/v1/families", map[string]any{"name": "debian-12-db", "description": "databases"})
	w.refused(http.StatusConflict, "kiln.family.exists", "", "member@p", http.MethodPost, "/v1/families", map[string]any{"name": "debian-12-db"})
	w.refused(http.StatusBadRequest, "kiln.family.name", "name", "member@p", http.MethodPost, "/v1/families", map[string]any{"name": "Debian 12"})

	path := "/v1/families/debian-12-web"
	for range 2 { // the second changes nothing and tells nothing
		var f catalog.Family
		w.want(http.StatusOK, "manager@p", http.MethodPut, path+"/channels/stable", map[string]any{"version": "20260305.2"}).into(t, &f)
		if f.Channels["stable"] != "20260305.2" || f.Channels["candidate"] != "20260305.1" {
			t.Errorf("%+v", f)
		}
	}
	w.refused(http.StatusBadRequest, "kiln.version.not_found", "version", "manager@p", http.MethodPut, path+"/channels/stable", map[string]any{"version": "nosuch"})
	w.refused(http.StatusBadRequest, "kiln.channel.name", "channel", "manager@p", http.MethodPut, path+"/channels/UP", map[string]any{"version": "20260305.2"})

	for range 2 { // the second changes nothing and tells nothing
		if a := w.want(http.StatusOK, "manager@p", http.MethodPost, path+"/versions/20260305.1/revoke", nil); a.get(t, "state") != "revoked" {
			t.Errorf("%s", a.body)
		}
	}
	w.refused(http.StatusConflict, "kiln.version.revoked", "", "manager@p", http.MethodPut, path+"/channels/stable", map[string]any{"version": "20260305.1"})
	w.refused(http.StatusConflict, "kiln.version.revoked", "", "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"image_id": "image-1"})
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, path+"/versions?state=revoked", nil); strings.Count(string(a.body), `"image_id"`) != 1 {
		t.Errorf("%s", a.body)
	}
	if got, want := told(), "family.created family.promoted version.revoked family.channel_moved"; got != want {
		t.Errorf("events: %s, want %s", got, want)
	}
}

func TestImagesAndAdvisories(t *testing.T) {
	w := newWorld(t)
	w.seed()
	a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/images/image-1", nil)
	if !strings.Contains(string(a.body), `"packages":[{"name":"openssl"`) || !strings.Contains(string(a.body), `"kernels":[]`) {
		t.Errorf("%s", a.body)
	}
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/images/image-1/advisories", nil); !strings.Contains(string(a.body), advisoryID) {
		t.Errorf("%s", a.body)
	}
	a = w.want(http.StatusOK, "reader@q", http.MethodGet, "/v1/advisories/bookworm-security%2Fopenssl%2F3.0.2~deb12u1%2Famd64", nil)
	if a.get(t, "id") != advisoryID {
		t.Errorf("%s", a.body)
	}

	// An image that Kiln does not know and Glance does is kept when it is inspected first.
	told := w.since()
	a = w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/images/in-glance/inspect", nil)
	w.job(a.get(t, "job_id"), job.Inspect, job.WorkerQueue, `{"image_id":"in-glance","all":true}`, "images/in-glance")
	if i, err := w.db.FindImage(t.Context(), "in-glance"); err != nil || i.State != catalog.Waiting || i.Digest != "sha512:ab" || i.ProjectID != "p" {
		t.Errorf("%+v %v", i, err)
	}
	w.refused(http.StatusNotFound, "kiln.image.not_found", "", "member@q", http.MethodPost, "/v1/images/in-glance/inspect", nil)

	// A refresh while one is open joins it.
	first := w.want(http.StatusAccepted, "manager@p", http.MethodPost, "/v1/advisories/refresh", nil)
	second := w.want(http.StatusAccepted, "manager@p", http.MethodPost, "/v1/advisories/refresh", nil)
	w.job(first.get(t, "job_id"), job.Advisories, job.WorkerQueue, `{}`, "advisories")
	if first.get(t, "job_id") != second.get(t, "job_id") || first.header.Get("Location") != "http://example.com/v1/jobs/"+first.get(t, "job_id") {
		t.Errorf("%s %s", first.body, second.body)
	}
	if got := told(); got != "image.inspecting advisory.refreshing" {
		t.Errorf("events: %s", got)
	}
}

func TestUpgrades(t *testing.T) {
	w := newWorld(t)
	w.seed()
	told := w.since()
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"image_id": "image-1"})
	if a.get(t, "from_version") != "20260305.1" || a.get(t, "state") != "queued" {
		t.Errorf("%s", a.body)
	}
	w.job(a.get(t, "job_id"), job.Upgrade, job.WorkerQueue, `{"upgrade_id":"`+a.get(t, "id")+`"}`, "upgrades/"+a.get(t, "id"))
	// The same version by its channel (stable is missing, so candidate): one upgrade at a time.
	w.refused(http.StatusConflict, "kiln.upgrade.open", "", "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"family": "debian-12-web"})
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/"+a.get(t, "job_id")+"/cancel", nil)
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"family": "debian-12-web", "channel": "candidate"})
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"family": "debian-12-web", "channel": "20260305.2"})

	w.refused(http.StatusBadRequest, "kiln.image.not_found", "image_id", "member@q", http.MethodPost, "/v1/upgrades", map[string]any{"image_id": "image-1"})
	w.refused(http.StatusBadRequest, "kiln.version.not_found", "family", "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"family": "debian-12-web", "channel": "nosuch"})
	w.refused(http.StatusBadRequest, "kiln.request.image", "image_id", "member@p", http.MethodPost, "/v1/upgrades", map[string]any{})
	// An image of no family begins one, and is upgraded from then on like every other.
	w.refused(http.StatusConflict, "kiln.image.adopted", "adopt_into", "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"image_id": "image-2", "adopt_into": "other"})
	a = w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"image_id": "in-glance", "adopt_into": "plain"})
	if a.get(t, "family") != "plain" || a.get(t, "from_version") != "20260305.1" {
		t.Errorf("%s", a.body)
	}
	if got, want := told(), "upgrade.queued upgrade.cancelled job.cancelled upgrade.queued upgrade.queued image.adopted upgrade.queued"; got != want {
		t.Errorf("events: %s, want %s", got, want)
	}
}

func TestClusters(t *testing.T) {
	w := newWorld(t)
	w.seed()
	told := w.since()
	rack := map[string]any{"name": "rack-2", "nodes": []string{"node-3"}, "stores": []cache.StoreSpec{{Name: "disk", Type: "directory"}}}
	w.want(http.StatusCreated, "admin@p", http.MethodPost, "/v1/clusters", rack)
	if a := w.do("admin@p", http.MethodPost, "/v1/clusters", rack); a.status != http.StatusConflict {
		t.Errorf("twice: %d %s", a.status, a.body)
	}
	if a := w.do("admin@p", http.MethodPatch, "/v1/clusters/rack-2", map[string]any{"nodes": []string{"node-1"}}); a.status != http.StatusConflict {
		t.Errorf("a node in two clusters: %d %s", a.status, a.body)
	}
	a := w.want(http.StatusOK, "admin@p", http.MethodPatch, "/v1/clusters/rack-2", map[string]any{"nodes": []string{"node-3", "node-4"}})
	if !strings.Contains(string(a.body), `"nodes":["node-3","node-4"]`) || !strings.Contains(string(a.body), `"disk"`) {
		t.Errorf("%s", a.body)
	}
	w.refused(http.StatusConflict, "kiln.cluster.copies", "", "admin@p", http.MethodPatch, "/v1/clusters/rack-1", map[string]any{"stores": []cache.StoreSpec{}})
	if a := w.do("admin@p", http.MethodDelete, "/v1/clusters/rack-1", nil); a.status != http.StatusConflict {
		t.Errorf("a cluster with copies was deleted: %d", a.status)
	}
	w.want(http.StatusNoContent, "admin@p", http.MethodDelete, "/v1/clusters/rack-2", nil)
	w.want(http.StatusNotFound, "admin@p", http.MethodDelete, "/v1/clusters/rack-2", nil)
	for field, body := range map[string]map[string]any{
		"name": {"name": "no name"}, "nodes[1]": {"name": "a", "nodes": []string{"x", "x"}}, "stores[0].type": {"name": "a", "stores": []map[string]any{{"name": "s", "type": "tape"}}},
		"stores[0].pool": {"name": "a", "stores": []map[string]any{{"name": "s", "type": "ceph"}}}, "stores[0].name": {"name": "a", "stores": []map[string]any{{"name": "nova-cache", "type": "directory"}}},
	} {
		if a := w.want(http.StatusBadRequest, "admin@p", http.MethodPost, "/v1/clusters", body); !strings.Contains(string(a.body), `"field":"`+field+`"`) {
			t.Errorf("%v: %s", body, a.body)
		}
	}
	if got := told(); got != "cluster.created cluster.updated cluster.deleted" {
		t.Errorf("events: %s", got)
	}
}

func TestCopies(t *testing.T) {
	w := newWorld(t)
	w.seed()
	told := w.since()
	body := map[string]any{"family": "debian-12-web", "channel": "20260305.1", "cluster": "rack-1", "nodes": "all"}
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/copies", body)
	var out struct{ Copies []cache.Copy }
	a.into(t, &out)
	if len(out.Copies) != 4 || a.header.Get("Location") != "http://example.com/v1/copies?cluster=rack-1&image_id=image-1" {
		t.Fatalf("%s %s", a.header, a.body)
	}
	if p := out.Copies[0]; p.ID != "copy-1" || p.State != cache.CopyVerified {
		t.Errorf("a verified copy is made again: %+v", p)
	}
	disk, node := out.Copies[1], out.Copies[3]
	w.job(disk.JobID, job.WarmUp, job.ClusterQueue("rack-1"), `{"copy_id":"`+disk.ID+`"}`, "copies/"+disk.ID)
	w.job(node.JobID, job.Plant, job.NodeQueue("node-2"), `{"copy_id":"`+node.ID+`"}`, "copies/"+node.ID)
	if disk.Store != "disk" || node.Store != cache.NovaCache || node.Node != "node-2" {
		t.Errorf("%+v %+v", disk, node)
	}

	before := w.jobs()
	var again struct{ Copies []cache.Copy }
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/copies", body).into(t, &again)
	if w.jobs() != before || again.Copies[1].JobID != disk.JobID {
		t.Errorf("the same request started work again: %+v", again)
	}
	w.refused(http.StatusConflict, "kiln.copy.busy", "", "member@p", http.MethodDelete, "/v1/copies/"+disk.ID, nil)
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/"+disk.JobID+"/cancel", nil)
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/copies/"+disk.ID, nil); a.get(t, "state") != "failed" {
		t.Errorf("%s", a.body)
	}
	// A failed one is started again, with only one node this time.
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/copies", map[string]any{"image_id": "image-1", "cluster": "rack-1", "nodes": []string{"node-1"}}).into(t, &again)
	if len(again.Copies) != 3 || again.Copies[1].JobID == disk.JobID || again.Copies[1].State != cache.CopyQueued {
		t.Errorf("%+v", again)
	}

	evicting := w.want(http.StatusAccepted, "member@p", http.MethodDelete, "/v1/copies/copy-1", nil)
	w.job(evicting.get(t, "job_id"), job.Evict, job.ClusterQueue("rack-1"), `{"copy_id":"copy-1"}`, "copies/copy-1")
	if twice := w.want(http.StatusAccepted, "member@p", http.MethodDelete, "/v1/copies/copy-1", nil); twice.get(t, "job_id") != evicting.get(t, "job_id") {
		t.Errorf("%s", twice.body)
	}
	w.refused(http.StatusConflict, "kiln.copy.evicting", "", "member@p", http.MethodPost, "/v1/copies", body)
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/"+evicting.get(t, "job_id")+"/cancel", nil)
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/copies/copy-1", nil); a.get(t, "state") != "verified" {
		t.Errorf("%s", a.body)
	}

	w.refused(http.StatusBadRequest, "kiln.copy.image", "image_id", "reader@p", http.MethodGet, "/v1/copies", nil)
	w.refused(http.StatusBadRequest, "kiln.image.not_found", "image_id", "reader@q", http.MethodGet, "/v1/copies?image_id=image-1", nil)
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/copies?image_id=image-1&store=pool", nil); !strings.Contains(string(a.body), "copy-1") {
		t.Errorf("%s", a.body)
	}
	w.refused(http.StatusBadRequest, "kiln.cluster.not_found", "cluster", "member@p", http.MethodPost, "/v1/copies", map[string]any{"image_id": "image-1", "cluster": "nosuch"})
	w.refused(http.StatusBadRequest, "kiln.cluster.node", "nodes[0]", "member@p", http.MethodPost, "/v1/copies", map[string]any{"image_id": "image-1", "cluster": "rack-1", "nodes": []string{"node-9"}})
	if got, want := told(), "copy.queued copy.queued copy.queued copy.cancelled job.cancelled copy.queued copy.evicting copy.cancelled job.cancelled"; got != want {
		t.Errorf("events: %s, want %s", got, want)
	}
}

func TestWorkloads(t *testing.T) {
	w := newWorld(t)
	w.seed()
	told := w.since()
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/workloads", map[string]any{"name": "web-1", "kind": "vm", "family": "debian-12-web", "flavor": "m1.small"})
	var vm placement.Workload
	a.into(t, &vm)
	if vm.Version != "20260305.1" || vm.ImageID != "image-1" || !strings.Contains(vm.Note, "candidate was used") || vm.UserID != "user-member" {
		t.Errorf("%s", a.body)
	}
	w.job(vm.JobID, job.Place, job.EngineQueue, `{"workload_id":"`+vm.ID+`"}`, "workloads/"+vm.ID)
	a = w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/workloads",
		map[string]any{"name": "c1", "kind": "container", "image_ref": "nginx:1.25", "command": []string{"nginx"}, "resources": map[string]any{"vcpus": 1, "memory_mb": 64, "disk_gb": 0}})
	if a.get(t, "state") != "requested" {
		t.Errorf("%s", a.body)
	}

	// Deleting stops the placing that nobody began, and twice is once.
	first := w.want(http.StatusAccepted, "member@p", http.MethodDelete, "/v1/workloads/"+vm.ID, nil)
	second := w.want(http.StatusAccepted, "member@p", http.MethodDelete, "/v1/workloads/"+vm.ID, nil)
	if first.get(t, "state") != "deleting" || first.get(t, "job_id") != second.get(t, "job_id") {
		t.Errorf("%s %s", first.body, second.body)
	}
	w.job(first.get(t, "job_id"), job.Remove, job.EngineQueue, `{"workload_id":"`+vm.ID+`"}`, "workloads/"+vm.ID)
	if j, err := w.db.FindJob(t.Context(), vm.JobID); err != nil || j.State != job.Cancelled {
		t.Errorf("the placing is %v (%v)", j.State, err)
	}
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/"+first.get(t, "job_id")+"/cancel", nil)
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/workloads/"+vm.ID, nil); a.get(t, "state") != "error" {
		t.Errorf("%s", a.body)
	}
	if got, want := told(), "workload.requested workload.requested workload.deleting workload.error job.cancelled"; got != want {
		t.Errorf("events: %s, want %s", got, want)
	}
	gone := placement.Workload{ID: "gone", ProjectID: "p", Name: "gone", Kind: placement.VM, State: placement.Deleted, CreatedAt: noon, UpdatedAt: noon}
	w.must(w.db.CreateWorkload(t.Context(), gone))
	w.refused(http.StatusConflict, "kiln.workload.deleted", "", "member@p", http.MethodDelete, "/v1/workloads/gone", nil)

	for field, change := range map[string]map[string]any{
		"name": {"name": ""}, "kind": {"kind": "pod"}, "family": {"image_id": "image-1"}, "flavor": {"flavor": ""}, "image_ref": {"family": "", "image_ref": "nginx"},
		"command": {"command": []string{"x"}}, "resources": {"resources": map[string]any{"vcpus": 1, "memory_mb": 1, "disk_gb": 1}},
	} {
		body := map[string]any{"name": "a", "kind": "vm", "family": "debian-12-web", "flavor": "m1"}
		maps.Copy(body, change)
		if a := w.want(http.StatusBadRequest, "member@p", http.MethodPost, "/v1/workloads", body); !strings.Contains(string(a.body), `"field":"`+field+`"`) {
			t.Errorf("%s: %s", field, a.body)
		}
	}
	lost := map[string]any{"name": "a", "kind": "vm", "family": "nosuch", "flavor": "m1"}
	w.refused(http.StatusBadRequest, "kiln.workload.family", "family", "member@p", http.MethodPost, "/v1/workloads", lost)
	w.deps.DefaultFamily = "debian-12-web"
	w.http = newAPI(w)
	a = w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/workloads", lost)
	if a.get(t, "version") != "20260305.1" || !strings.Contains(a.get(t, "note"), "nosuch") {
		t.Errorf("%s", a.body)
	}
}

func TestNodesAndLedger(t *testing.T) {
	w := newWorld(t)
	w.seed()
	a := w.want(http.StatusOK, "admin@p", http.MethodGet, "/v1/nodes/node-1", nil)
	var n placement.Node
	a.into(t, &n)
	if n.Cluster != "rack-1" || n.Held.VCPUs != 1 {
		t.Errorf("%s", a.body)
	}
	var l struct{ Claims []placement.Claim }
	w.want(http.StatusOK, "system", http.MethodGet, "/v1/ledger?node=node-1", nil).into(t, &l)
	if len(l.Claims) != 1 || l.Claims[0].WorkloadID != "workload-1" {
		t.Errorf("%+v", l)
	}
}

// An event that is written with a change is gone with it: here the outbox of a refused request is empty.
func TestRefusedRequestsWriteNothing(t *testing.T) {
	w := newWorld(t)
	w.seed()
	told, before := w.since(), w.jobs()
	for _, c := range []struct{ path, body string }{
		{"/v1/sources", `{"name":"seeded","url":"https://git.example.org/r.git"}`},
		{"/v1/copies", `{"image_id":"image-1","cluster":"rack-1","nodes":["node-1","node-9"]}`},
		{"/v1/upgrades", `{"image_id":"image-1","adopt_into":"other"}`},
		{"/v1/upgrades", `{"image_id":"in-glance","policy":{"conffiles":"perhaps"}}`},
		{"/v1/workloads", `{"name":"a","kind":"vm","family":"nosuch","flavor":"x"}`},
	} {
		if a := w.do("member@p", http.MethodPost, c.path, json.RawMessage(c.body)); a.status < 400 {
			t.Errorf("%s: %d", c.path, a.status)
		}
	}
	if told() != "" || w.jobs() != before {
		t.Errorf("events %q, jobs %d before and %d after", told(), before, w.jobs())
	}
}
