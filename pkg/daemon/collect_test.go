package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/daemon"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/log"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
	"github.com/kiln-cloud/kiln/pkg/worker"
)

// collector is an engine and a worker on the real cloud, with a database of their own, that read the images of one tag.
type collector struct {
	t     *testing.T
	parts *daemon.Parts
	tag   string
	cfg   config.Config
}

func newCollector(t *testing.T, more ...string) *collector {
	t.Helper()
	real.Cloud(t, append([]string{real.Keystone, real.Glance, real.RabbitMQ}, more...)...)
	loaded, err := config.Load(nil, "keystone_authtoken.auth_url", "keystone_authtoken.password")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{t: t, tag: "collect-" + uuid.NewString()[:8], cfg: loaded.Config}
	c.cfg.Database.Connection = "sqlite:///" + filepath.Join(t.TempDir(), "kiln.sqlite")
	c.cfg.Default.StatePath = t.TempDir()
	c.cfg.Keystone.AuthURL, c.cfg.Keystone.Password, c.cfg.Keystone.Region = os.Getenv("KILN_TEST_AUTH_URL"), os.Getenv("KILN_TEST_PASSWORD"), os.Getenv("KILN_TEST_REGION")
	c.cfg.Policy.File = filepath.Join(t.TempDir(), "policy.yaml")
	c.cfg.Notifications.TransportURL = os.Getenv("KILN_TEST_RABBIT_URL")
	c.cfg.Worker.WorkDir, c.cfg.Worker.CacheDir, c.cfg.Worker.ArchiveDir = t.TempDir(), t.TempDir(), t.TempDir()
	c.cfg.Collect.All, c.cfg.Collect.Tags, c.cfg.Collect.Interval = false, []string{c.tag}, 0
	c.open()
	if err := c.parts.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// open opens the parts anew, with a queue of notifications of their own.
func (c *collector) open() {
	c.t.Helper()
	c.cfg.Notifications.Queue = "kiln." + c.tag + "." + uuid.NewString()[:4]
	parts, err := daemon.Open(c.t.Context(), "kiln-test", c.cfg, log.Discard())
	if err != nil {
		c.t.Fatal(err)
	}
	c.parts = parts
	c.t.Cleanup(parts.Close)
}

// run runs engine and worker until f returns.
func (c *collector) run(f func()) {
	c.t.Helper()
	queue := c.cfg.Notifications.Queue
	work, err := c.parts.Worker()
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(c.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- daemon.Serve(ctx, c.parts.Engine(), work, c.parts.Relay()) }()
	c.t.Cleanup(func() { c.removeQueue(queue) })
	c.bound(queue)
	f()
	stop()
	if err := <-ended; err != nil {
		c.t.Error(err)
	}
}

// bound waits until the engine listens: what Glance says before is lost.
func (c *collector) bound(queue string) {
	c.t.Helper()
	c.until("the engine listens", func() bool {
		found := false
		c.channel(func(ch *amqp.Channel) {
			q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			found = err == nil && q.Consumers > 0
		})
		return found
	})
}

func (c *collector) channel(use func(ch *amqp.Channel)) {
	c.t.Helper()
	conn, err := amqp.Dial(os.Getenv("KILN_TEST_RABBIT_URL"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		c.t.Fatal(err)
	}
	use(ch)
}

func (c *collector) removeQueue(queue string) {
	for _, q := range []string{queue, queue + ".dead"} {
		c.channel(func(ch *amqp.Channel) { _, _ = ch.QueueDelete(q, false, false, false) })
	}
}

func (c *collector) until(what string, holds func() bool) {
	c.t.Helper()
	for begin := time.Now(); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			c.t.Fatalf("after a minute, not yet: %s", what)
		}
	}
}

// system is a disk with a release and a package, beside 48 MiB that nobody has to read.
func system(t *testing.T) []byte {
	t.Helper()
	tree := t.TempDir()
	noise := make([]byte, 48<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	for path, data := range map[string][]byte{
		"usr/lib/os-release":  []byte("ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
		"var/lib/dpkg/status": []byte("Package: openssl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0.11-1~deb12u1\n\n"),
		"srv/noise":           noise,
	} {
		err := os.MkdirAll(filepath.Dir(filepath.Join(tree, path)), 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(tree, path), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.CommandContext(t.Context(), "/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", tree, image, "64m").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// upload gives an image to Glance as anybody would. before is done between the record and the bytes.
func (c *collector) upload(data []byte) string {
	c.t.Helper()
	g := c.parts.Glance
	img, err := g.CreateImage(c.t.Context(), catalog.NewGlanceImage{ID: uuid.NewString(), Name: c.tag, DiskFormat: "raw", ContainerFormat: "bare", Visibility: "private", Tags: []string{c.tag}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := g.DeleteImage(context.WithoutCancel(c.t.Context()), img.ID); err != nil && !errs.Is(err, errs.NotFound) {
			c.t.Error(err)
		}
	})
	if err := g.Upload(c.t.Context(), img.ID, bytes.NewReader(data), int64(len(data))); err != nil {
		c.t.Fatal(err)
	}
	return img.ID
}

// read waits for the facts of an image, and tells what they cost.
func (c *collector) read(id string) worker.Inspected {
	c.t.Helper()
	var i catalog.Image
	c.until("the facts are there", func() bool {
		var err error
		i, err = c.parts.DB.FindImage(c.t.Context(), id)
		return err == nil && i.State == catalog.Inspected
	})
	if i.Facts == nil || i.Facts.OS.Codename != "bookworm" || len(i.Facts.Packages) != 1 {
		c.t.Errorf("%+v", i.Facts)
	}
	jobs, err := c.parts.DB.ListJobs(c.t.Context(), listing.All().Where("kind", string(job.Inspect)).Where("resource", "images/"+id))
	if err != nil || len(jobs) != 1 {
		c.t.Fatalf("%d jobs, %v", len(jobs), err)
	}
	var out worker.Inspected
	if err := json.Unmarshal(jobs[0].Result, &out); err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("%s: %d of %d bytes, %.1f %%", out.Method, out.BytesRead, out.Size, 100*float64(out.BytesRead)/float64(out.Size))
	return out
}

// A notification is enough to know an image, without a download; and where it is lost, the sweep finds the image.
func TestRealCollect(t *testing.T) {
	c := newCollector(t)
	data := system(t)
	var first string
	c.run(func() {
		first = c.upload(data)
		if out := c.read(first); out.Method != "range" || out.BytesRead > out.Size/10 {
			t.Errorf("%+v", out)
		}
	})
	lost := c.upload(data)
	c.cfg.Collect.Interval = time.Second
	c.open()
	c.run(func() {
		if out := c.read(lost); out.Method != "range" {
			t.Errorf("%+v", out)
		}
		if err := c.parts.Glance.DeleteImage(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		c.until("the image is gone for Kiln, too", func() bool {
			i, err := c.parts.DB.FindImage(t.Context(), first)
			return err == nil && i.State == catalog.Gone
		})
	})
}
