package baddays

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Without a database every program starts, says what it waits for, and works once it is there.
func TestDatabaseAwayAtStart(t *testing.T) {
	w := newWorld(t)
	token, err := w.conn.ForProject("").Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	image := w.small()
	if err := w.mysql.Stop(); err != nil {
		t.Fatal(err)
	}
	api := w.startAPI()
	others := []*program{w.start("kiln-engine"), w.start("kiln-worker"), w.startAgent("node1")}
	w.red("database")
	api.says("a health check is red")
	api.says("check=database")
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		resp := w.ask(method, "/v1/sources/b4cf5f0b-18b0-4e1c-8a1f-7a8c1d2e3f40", token)
		wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if resp.StatusCode != http.StatusServiceUnavailable || err != nil || wait < 1 {
			t.Errorf("%s without a database: %s, Retry-After %q", method, resp.Status, resp.Header.Get("Retry-After"))
		}
	}
	for _, p := range others {
		p.says("waiting for the database")
	}

	if err := w.mysql.Start(); err != nil {
		t.Fatal(err)
	}
	w.green()
	w.nodesKnown()
	jobs := w.place(image, 3)
	if j, log := w.ended(w.inspect(image), 30*time.Second); j.State != job.Succeeded || j.Attempt != 1 {
		t.Errorf("the inspection: %+v\n%v", j, log)
	}
	w.allPlaced(jobs)
	stillRun(t, append(others, api)...)
}

// The database is killed in the middle of placements, of copies and of an upload, and comes back: everything is
// finished, once.
func TestDatabaseKilled(t *testing.T) {
	w := newWorld(t)
	debianImage := w.uploadFile("debian", "qcow2", debian(t))
	w.version("debian", debianImage)
	before, err := w.glance.Image(t.Context(), debianImage)
	if err != nil {
		t.Fatal(err)
	}
	programs := []*program{w.startAPI(), w.start("kiln-engine"), w.start("kiln-worker"), w.startAgent("node1")}
	w.nodesKnown()
	w.cluster("node1")

	u := w.upgrade(debianImage)
	w.valve.holdUploads(1 << 20)
	w.valve.waitHeld(t, 1, 3*time.Minute) // the upload of the upgrade
	w.valve.holdDownloads(1 << 20)
	copies := w.warmUp(debianImage, "node1")
	w.valve.waitHeld(t, 2, time.Minute) // and the download of its original into the cluster's store
	w.slowly(400 * time.Millisecond)
	jobs := w.place(debianImage, 9)
	eventually(t, 30*time.Second, func() error {
		if n := len(w.instances()); n < 3 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	if n := w.count("SELECT COUNT(*) FROM jobs WHERE state = 'running'"); n < 4 {
		t.Errorf("only %d jobs are under way", n)
	}
	if err := w.mysql.Kill(); err != nil {
		t.Fatal(err)
	}
	w.valve.release() // the upload and the download end while nobody can write it down
	w.red("database")
	time.Sleep(2 * time.Second)
	if err := w.mysql.Start(); err != nil {
		t.Fatal(err)
	}
	w.green()
	w.allPlaced(jobs)
	if j, log := w.ended(u.JobID, 3*time.Minute); j.State != job.Succeeded {
		t.Errorf("the upgrade is %s after %d attempts: %+v\n%v", j.State, j.Attempt, j.Error, log)
	}
	w.upgradedOnce(u, before)
	for _, c := range copies {
		if j, log := w.ended(c.JobID, 60*time.Second); j.State != job.Succeeded {
			t.Errorf("the copy in %s is %s: %+v\n%v", c.Store, j.State, j.Error, log)
		}
		var got cache.Copy
		if err := w.admin.Get(t.Context(), "/v1/copies/"+c.ID, &got); err != nil || got.State != cache.CopyVerified {
			t.Errorf("copy %+v, error %v", got, err)
		}
	}
	w.toldOnce("copy.verified", len(copies))
	w.toldOnce("workload.active", len(jobs))
	stillRun(t, programs...)
}

// cluster makes a cluster of nodes with one store.
func (w *world) cluster(nodes ...string) {
	w.t.Helper()
	ask := cache.NewCluster{Name: "c1", Nodes: nodes, Stores: []cache.StoreSpec{{Name: "disk", Type: "directory"}}}
	if err := w.admin.Post(w.t.Context(), "/v1/clusters", ask, nil); err != nil {
		w.t.Fatal(err)
	}
}

// warmUp asks for copies of an image in the store of the cluster and on nodes.
func (w *world) warmUp(image string, nodes ...string) []cache.Copy {
	w.t.Helper()
	var out struct{ Copies []cache.Copy }
	ask := map[string]any{"image_id": image, "cluster": "c1", "nodes": nodes}
	if err := w.manager.Post(w.t.Context(), "/v1/copies", ask, &out); err != nil {
		w.t.Fatal(err)
	}
	return out.Copies
}

// noise is bytes that no file system makes smaller, the same for each seed.
func noise(n int, seed uint64) []byte {
	data := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= n; i += 8 {
		v := r.Uint64()
		for k := range 8 {
			data[i+k] = byte(v >> (8 * k))
		}
	}
	return data
}
