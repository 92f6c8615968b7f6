package functional

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/kiln-cloud/kiln/pkg/bus"
	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/demo"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/openstack/nova"
	"github.com/kiln-cloud/kiln/pkg/openstack/placement"
)

// sends counts Glance's image.send: one for each download. It has a queue of its own.
type sends struct {
	mu     sync.Mutex
	images []string
}

func (w *sends) count(image string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, id := range w.images {
		if id == image {
			n++
		}
	}
	return n
}

func watchSends(t *testing.T) *sends {
	t.Helper()
	conn, err := amqp.Dial(os.Getenv("KILN_TEST_RABBIT_URL"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = ch.QueueBind(q.Name, "notifications.info", "glance", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	messages, err := ch.ConsumeWithContext(t.Context(), q.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &sends{}
	go func() {
		for m := range messages {
			n, err := bus.OpenEnvelope(m.Body)
			if err != nil || n.EventType != "image.send" {
				continue
			}
			var about struct {
				ID string `json:"image_id"`
			}
			if json.Unmarshal(n.Payload, &about) == nil {
				w.mu.Lock()
				w.images = append(w.images, about.ID)
				w.mu.Unlock()
			}
		}
	}()
	return w
}

func TestRealStory(t *testing.T) {
	s := kiln(t)
	watch := watchSends(t)
	node := os.Getenv("KILN_TEST_LIBVIRT_HOST")
	compute := nova.New(s.login(t, "member"))
	var console string
	story := &demo.Story{
		Member: s.as(t, "member"), Manager: s.as(t, "manager"), Admin: s.as(t, "admin"), SourceURL: s.repository(), Recipe: "debian-12-web",
		Clusters: []demo.Cluster{
			{Name: "cluster-a", Nodes: []string{node}, Store: cache.StoreSpec{Name: "ceph", Type: "ceph", Pool: "cluster-a"}},
			{Name: "cluster-b", Nodes: fakes(), Store: cache.StoreSpec{Name: "ceph", Type: "ceph", Pool: "cluster-b"}},
		},
		Cluster: "cluster-a", Node: node, Flavor: "kiln.small", Boots: true, Screen: demo.NewScreen(t.Output()),
		Console: func(ctx context.Context, id string) (text string, err error) {
			console, err = compute.Console(ctx, "", id, 0)
			return console, err
		},
		Downloads: watch.count, Held: placement.New(s.admin).Allocation,
	}
	o, err := story.Tell(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("downloads", func(t *testing.T) {
		time.Sleep(2 * time.Second) // for a notification that is late
		// Both stores took the image from Glance, and the node its copy from its store or from Glance: that many are
		// seen, so the notifications do come.
		if all := watch.count(o.To.ImageID); o.Downloads != 0 || all < 2 || all > 3 {
			t.Errorf("%d downloads of the image, %d of them for the start of the VM", all, o.Downloads)
		}
	})
	t.Run("guest", func(t *testing.T) { checkGuest(t, o, console) })
	t.Run("versions", func(t *testing.T) { s.checkVersions(t, o) })
	t.Run("copies", func(t *testing.T) { s.checkCopies(t, o) })
	t.Run("disk", func(t *testing.T) { s.checkDisk(t, o) })
}

// checkGuest reads what the guest said of itself, line by line, without the code that the story itself uses.
func checkGuest(t *testing.T, o *demo.Outcome, console string) {
	t.Helper()
	if o.Report == nil || o.Report.KernelTo == "" || o.Report.KernelTo == o.Report.KernelFrom || len(o.Report.Packages) < 2 {
		t.Fatalf("the upgrade changed no kernel: %+v", o.Report)
	}
	lines := strings.Split(strings.ReplaceAll(console, "\r", ""), "\n")
	if want := "kiln-kernel " + o.Report.KernelTo; !slices.Contains(lines, want) {
		t.Errorf("the console has no line %q", want)
	}
	for _, p := range o.Report.Packages {
		if p.To == "" {
			continue // removed
		}
		if want := "kiln-package " + p.Name + " " + p.To; !slices.Contains(lines, want) {
			t.Errorf("the console has no line %q", want)
		}
		if old := "kiln-package " + p.Name + " " + p.From; p.From != "" && slices.Contains(lines, old) {
			t.Errorf("the console has the line %q", old)
		}
	}
}

func (s *stand) checkVersions(t *testing.T, o *demo.Outcome) {
	t.Helper()
	for _, v := range []struct {
		what   string
		image  catalog.Image
		hidden bool
	}{{"the original", o.FromImage, true}, {"the upgraded", o.ToImage, false}} {
		g, err := s.glance.Image(t.Context(), v.image.ID)
		if err != nil {
			t.Fatal(err)
		}
		if g.Hidden != v.hidden || g.Status != "active" || glance.Digest(g) != v.image.Digest {
			t.Errorf("%s image is hidden %t, %s, with %s; Kiln noted %s", v.what, g.Hidden, g.Status, glance.Digest(g), v.image.Digest)
		}
		if got := s.bytesOf(t, g.ID); got != v.image.Digest {
			t.Errorf("%s image's bytes have %s, Kiln noted %s when it was made", v.what, got, v.image.Digest)
		}
	}
	if o.To.ParentVersion != o.From.Name || o.FromImage.Digest == o.ToImage.Digest {
		t.Errorf("version %s has the parent %s", o.To.Name, o.To.ParentVersion)
	}
}

// bytesOf is the digest of what Glance gives out.
func (s *stand) bytesOf(t *testing.T, image string) string {
	t.Helper()
	body, err := s.glance.Download(t.Context(), image, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	return digest(t, body)
}

func digest(t *testing.T, r io.Reader) string {
	t.Helper()
	sum := sha512.New()
	if _, err := io.Copy(sum, r); err != nil {
		t.Fatal(err)
	}
	return "sha512:" + hex.EncodeToString(sum.Sum(nil))
}

func (s *stand) checkCopies(t *testing.T, o *demo.Outcome) {
	t.Helper()
	places := map[string]bool{}
	for _, c := range o.Copies {
		places[c.Cluster+"/"+c.Store] = c.State == cache.CopyVerified && c.ImageID == o.To.ImageID
	}
	for _, p := range []string{"cluster-a/ceph", "cluster-a/" + cache.NovaCache, "cluster-b/ceph"} {
		if !places[p] {
			t.Errorf("no verified copy in %s: %+v", p, o.Copies)
		}
	}
	for _, pool := range []string{"cluster-a", "cluster-b"} {
		// Glance's layout: the image's name is its id, the snapshot is called snap.
		export := exec.CommandContext(t.Context(), "rbd", "--conf", os.Getenv("KILN_TEST_CEPH_CONF"), "--id", pool, "export", "--no-progress", pool+"/"+o.To.ImageID+"@snap", "-")
		out, err := export.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := export.Start(); err != nil {
			t.Fatal(err)
		}
		got := digest(t, out)
		if err := export.Wait(); err != nil {
			t.Fatal(err)
		}
		if got != o.ToImage.Digest {
			t.Errorf("the copy in pool %s has %s, Glance says %s", pool, got, o.ToImage.Digest)
		}
	}
}

// checkDisk looks at the server's disk on the node: it must stand on the file that Kiln planted.
func (s *stand) checkDisk(t *testing.T, o *demo.Outcome) {
	t.Helper()
	instances := os.Getenv("KILN_TEST_INSTANCES")
	planted := cache.NovaCachePath(instances, o.To.ImageID)
	out, err := command(t.Context(), nil, "qemu-img", "info", "-U", "--output=json", filepath.Join(instances, o.VM.ExternalID, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Backing string `json:"backing-filename"`
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil || info.Backing != planted {
		t.Errorf("the server's disk stands on %q, error %v; planted was %q", info.Backing, err, planted)
	}
	// The note names the file by its inode: one that Nova fetched would have another.
	note, err := os.ReadFile(filepath.Join(filepath.Dir(planted), ".kiln-planted-"+filepath.Base(planted)))
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Stat(planted)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s %d %d\n", o.ToImage.Digest, file.Sys().(*syscall.Stat_t).Ino, file.Size())
	if string(note) != want || time.Since(file.ModTime()) > time.Hour {
		t.Errorf("beside the planted file stands %q, want %q; it is of %s", note, want, file.ModTime())
	}
	// The bytes, compared block by block with the image as Glance has it.
	body, err := s.glance.Download(t.Context(), o.To.ImageID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	whole, err := os.Create(filepath.Join(t.TempDir(), "image.qcow2"))
	if err == nil {
		_, err = io.Copy(whole, body)
	}
	if err == nil {
		err = whole.Close()
	}
	if err == nil {
		_, err = command(t.Context(), nil, "qemu-img", "compare", "-U", "-f", "qcow2", "-F", "raw", whole.Name(), planted)
	}
	if err != nil {
		t.Error(err)
	}
}
