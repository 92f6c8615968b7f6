package cloud_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/cloud"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/placement"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
)

// stored is an image of a project of the double.
type stored struct {
	catalog.GlanceImage
	data []byte
}

// double is a cloud in which a guest's machine is a change to its disk. TestRealGuests has the same run on a real one.
type double struct {
	*fake
	t      *testing.T
	length int64  // of the root file system
	after  string // status of the server when its console was read
	says   string // by the console beside the script's reports
	image  func(raw string) (data []byte, format string)
	change func(i *stored) // of the snapshot's record or data, after Glance looked at it
	served cloud.NewServer

	lock    sync.Mutex
	images  map[string]*stored
	disk    string // raw, of the server
	uploads []string
}

func newDouble(t *testing.T) *double {
	t.Helper()
	if testing.Short() {
		t.Skip("needs qemu-img and genisoimage")
	}
	d := &double{fake: newFake("ACTIVE"), t: t, length: 2 << 20, after: "SHUTOFF", images: map[string]*stored{}}
	d.lines = nil
	d.image = func(raw string) ([]byte, string) { return convert(t, raw, "raw", "qcow2"), "qcow2" }
	return d
}

func convert(t *testing.T, path, from, to string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	if err := disk.Convert(t.Context(), disk.Image{Path: path, Format: from}, disk.Image{Path: out, Format: to}, nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (d *double) Flavor(context.Context, string) (placement.Flavor, error) {
	return placement.Flavor{ID: "f", Resources: placement.Resources{DiskGB: 1}}, nil
}

var nonceIn = regexp.MustCompile(`nonce=([0-9a-f]{32})\n`)

// CreateTestServer is also all that the guest does.
func (d *double) CreateTestServer(ctx context.Context, project string, s cloud.NewServer) (string, error) {
	d.lock.Lock()
	i := d.images[s.ImageID]
	d.served = s
	d.lock.Unlock()
	dir := d.t.TempDir()
	packed := filepath.Join(dir, "packed")
	if err := os.WriteFile(packed, i.data, 0o600); err != nil {
		return "", err
	}
	raw := convert(d.t, packed, "qcow2", "raw")
	nonce := nonceIn.FindSubmatch(raw)
	if nonce == nil || !bytes.Contains(raw, []byte("a package")) || !bytes.Equal(raw[1<<20:3<<20], bytes.Repeat([]byte("old."), 1<<19)) {
		d.t.Error("the disk is not what was asked for")
		return "", errs.New(errs.Invalid, "kiln.nova.invalid", "no disk")
	}
	id := bytes.Clone(nonce[1])
	copy(raw[1<<20:], bytes.Repeat([]byte{0}, 1<<20)) // the first half goes
	copy(raw[2<<20:], "new.")
	copy(raw, bytes.Repeat([]byte("x"), 1<<20)) // with the table
	copy(raw[3<<20:], bytes.Repeat([]byte("x"), 64<<10))
	d.disk = filepath.Join(dir, "disk")
	if err := os.WriteFile(d.disk, raw, 0o600); err != nil {
		return "", err
	}
	d.lines = []string{"\n", d.says}
	if d.says == "" {
		d.lines = append(d.lines, frameOf(id, "hello", "boot"), frameOf(id, "result", "0 1 2\n"), frameOf(id, "end", "\n"))
	}
	return d.fake.CreateTestServer(ctx, project, s)
}

func frameOf(nonce []byte, kind, text string) string {
	body := kind + ":0:1:1:" + base64.StdEncoding.EncodeToString([]byte(text))
	sum := sha256.Sum256([]byte(body))
	return fmt.Sprintf("@kiln:%s:%s:%s@\n", nonce, body, hex.EncodeToString(sum[:4]))
}

func (d *double) Console(ctx context.Context, project, id string, lines int) (string, error) {
	text, err := d.fake.Console(ctx, project, id, lines)
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, ok := d.servers[id]; ok && (d.says == "" || d.after == "ERROR") {
		s.Status = d.after
		d.servers[id] = s
	}
	return text, err
}

func (d *double) Snapshot(_ context.Context, _, _, name string, properties map[string]string) (string, error) {
	i := &stored{GlanceImage: catalog.GlanceImage{ID: uuid.NewString(), Name: name, Owner: "quarantine", Status: "active", HashAlgo: "sha512", Properties: maps.Clone(properties)}}
	i.data, i.DiskFormat = d.image(d.disk)
	sum := sha512.Sum512(i.data)
	i.Size, i.HashValue = int64(len(i.data)), hex.EncodeToString(sum[:])
	if d.change != nil {
		d.change(i)
	}
	d.lock.Lock()
	defer d.lock.Unlock()
	d.images[i.ID] = i
	return i.ID, nil
}

// store is the image service of the double.
type store struct{ *double }

func (s store) Image(_ context.Context, id string) (catalog.GlanceImage, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	i, ok := s.images[id]
	if !ok || i.Status == "deleted" {
		return catalog.GlanceImage{}, errs.New(errs.NotFound, "kiln.glance.not_found", "gone")
	}
	return i.GlanceImage, nil
}

func (s store) Images(_ context.Context, filter map[string]string) (found []catalog.GlanceImage, err error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for _, i := range s.images {
		if i.Owner == filter["owner"] && i.Properties["kiln_guest"] == filter["kiln_guest"] {
			found = append(found, i.GlanceImage)
		}
	}
	return found, nil
}

func (s store) CreateImage(_ context.Context, n catalog.NewGlanceImage) (catalog.GlanceImage, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	i := &stored{GlanceImage: catalog.GlanceImage{ID: n.ID, Name: n.Name, Owner: "quarantine", Status: "queued", DiskFormat: n.DiskFormat, ContainerFormat: n.ContainerFormat,
		Visibility: n.Visibility, Properties: n.Properties}}
	s.images[n.ID] = i
	return i.GlanceImage, nil
}

func (s store) Upload(_ context.Context, id string, r io.Reader, _ int64) error {
	data, err := io.ReadAll(r)
	s.lock.Lock()
	defer s.lock.Unlock()
	i := s.images[id]
	i.data, i.Status = data, "active"
	s.uploads = append(s.uploads, i.DiskFormat+" "+i.Visibility)
	return err
}

func (s store) Download(_ context.Context, id string, _ int64) (io.ReadCloser, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return io.NopCloser(bytes.NewReader(s.images[id].data)), nil
}

func (s store) DeleteImage(_ context.Context, id string) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	delete(s.images, id)
	return nil
}

func (d *double) booter(now time.Time) *cloud.Booter {
	b, err := cloud.New(cloud.Config{Nova: d, Images: d, Projects: d, Store: func(string) cloud.Store { return store{d} }, Project: "q", Flavor: "f", Network: "n", Poll: time.Millisecond,
		Timeouts: testboot.Timeouts{Boot: 5 * time.Second}, Now: func() time.Time { return now }})
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// guest has 2 MiB of "old." as its root file system, between 1 MiB of "head" and 1 MiB of "tail".
func (d *double) guest() build.Guest {
	dir := d.t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			d.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			d.t.Fatal(err)
		}
		return path
	}
	write("packages/x.deb", "a package")
	return build.Guest{Dir: dir, Disk: write("disk", strings.Repeat("head", 1<<18)+strings.Repeat("old.", 1<<19)+strings.Repeat("tail", 1<<18)), Start: 1 << 20, Length: d.length, RootUUID: "u-u-i-d",
		Kernel: write("k", "the kernel"), Initrd: write("i", "the disk"), Script: "true", Packages: filepath.Join(dir, "packages"), Limit: 5 * time.Second}
}

func (d *double) nothingLeft(g build.Guest) {
	d.t.Helper()
	if len(d.servers) > 0 || len(d.images) > 0 {
		d.t.Errorf("left: %v, %v", d.servers, d.images)
	}
	if left, err := filepath.Glob(filepath.Join(g.Dir, "kiln-work-*")); err != nil || len(left) > 0 {
		d.t.Errorf("left %v %v", left, err)
	}
}

// TestGuestComesBack: the copy gets its root file system, and no byte beside it.
func TestGuestComesBack(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		d := newDouble(t)
		if format == "raw" { // and longer than what went: the flavor's disk is
			d.image = func(raw string) ([]byte, string) {
				data, err := os.ReadFile(raw)
				if err != nil {
					t.Fatal(err)
				}
				return append(data, make([]byte, 1<<20)...), "raw"
			}
		}
		g := d.guest()
		r, err := d.booter(time.Now()).Run(t.Context(), g)
		if err != nil || r.Reports["result"] != "0 1 2\n" || r.Seconds <= 0 {
			t.Fatalf("%v %+v", err, r)
		}
		want := strings.Repeat("head", 1<<18) + strings.Repeat("\x00", 1<<20) + "new." + strings.Repeat("old.", 1<<18-1) + strings.Repeat("tail", 1<<18)
		if got, err := os.ReadFile(g.Disk); err != nil || string(got) != want {
			t.Errorf("%s: %v, the copy has other bytes", format, err)
		}
		if want := []string{"aki private", "ari private", "qcow2 private"}; !slices.Equal(d.uploads, want) {
			t.Errorf("uploaded %v", d.uploads)
		}
		if d.served.NetworkID != "" || len(d.served.UserData) > 0 || d.served.Metadata[cloud.KeyBootTest] == "" {
			t.Errorf("%+v", d.served)
		}
		d.nothingLeft(g)
	}
}

// TestGuestKernel: Nova is told to start the image's kernel with the same arguments as on a worker.
func TestGuestKernel(t *testing.T) {
	d := newDouble(t)
	d.status = "ERROR" // it goes no further
	var of map[string]string
	texts := map[string]string{}
	b, err := cloud.New(cloud.Config{Nova: d, Images: d, Projects: d, Project: "q", Flavor: "f", Poll: time.Millisecond, Store: func(string) cloud.Store {
		return watching{store{d}, func(i *stored) {
			texts[i.ID] = string(i.data)
			if i.DiskFormat == "qcow2" {
				of = i.Properties
			}
		}}
	}})
	if err != nil {
		t.Fatal(err)
	}
	g := d.guest()
	if _, err := b.Run(t.Context(), g); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	if texts[of["kernel_id"]] != "the kernel" || texts[of["ramdisk_id"]] != "the disk" || of["hw_disk_bus"] != "virtio" {
		t.Errorf("%v", of)
	}
	line := of["os_command_line"]
	for _, want := range []string{"root=UUID=u-u-i-d rw ", "fstab=no", "mount -r -t iso9660 /dev/vda2 /run/kiln-disk", "systemd.run_failure_action=poweroff"} {
		if !strings.Contains(line, want) || len(line) > 2000 {
			t.Errorf("%q is not in %q", want, line)
		}
	}
}

type watching struct {
	store
	see func(*stored)
}

func (w watching) Upload(ctx context.Context, id string, r io.Reader, size int64) error {
	err := w.store.Upload(ctx, id, r, size)
	w.see(w.images[id])
	return err
}

// TestGuestsThatDoNotComeBack: whoever is at fault, the copy is as it was and nothing stays.
func TestGuestsThatDoNotComeBack(t *testing.T) {
	backed := func(string) ([]byte, string) {
		path := filepath.Join(t.TempDir(), "backed")
		if out, err := exec.CommandContext(t.Context(), "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", path, "16M").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data, "qcow2"
	}
	for name, c := range map[string]struct {
		prepare    func(*double)
		kind       errs.Kind
		code, want string
	}{
		"does not start":      {func(d *double) { d.status = "ERROR" }, errs.Unavailable, testboot.CodeCloud, "No valid host"},
		"answer is lost":      {func(d *double) { d.createErr = errs.New(errs.Timeout, "kiln.nova.timeout", "lost") }, errs.Timeout, "kiln.nova.timeout", "lost"},
		"flavor is too small": {func(d *double) { d.length = 2 << 30 }, errs.Invalid, testboot.CodeCloud, "needs a disk of 3 GiB"},
		"panics":              {func(d *double) { d.says = "Kernel panic - not syncing: no init\n" }, errs.Invalid, testboot.CodeGuest, "the kernel panicked"},
		"host fails":          {func(d *double) { d.after, d.says = "ERROR", "booting\n" }, errs.Unavailable, testboot.CodeCloud, "was lost"},
		"host fails late":     {func(d *double) { d.after = "ERROR" }, errs.Unavailable, testboot.CodeCloud, "is ERROR and not off"},
		"snapshot fails":      {func(d *double) { d.change = func(i *stored) { i.Status = "killed" } }, errs.Unavailable, testboot.CodeCloud, "could not make the image"},
		"snapshot vanishes":   {func(d *double) { d.change = func(i *stored) { i.Status = "deleted" } }, errs.Unavailable, testboot.CodeCloud, "could not make the image"},
		"other bytes come":    {func(d *double) { d.change = func(i *stored) { i.data[len(i.data)-1] ^= 1 } }, errs.Unavailable, testboot.CodeCloud, "sha512"},
		"names a huge size":   {func(d *double) { d.change = func(i *stored) { i.Size = 1 << 40 } }, errs.Invalid, testboot.CodeGuest, "at most"},
		"has a backing file":  {func(d *double) { d.image = backed }, errs.Invalid, disk.CodeBackingFile, ""},
		"is raw and a qcow2": {func(d *double) {
			d.image = func(raw string) ([]byte, string) { return convert(t, raw, "raw", "qcow2"), "raw" }
		}, errs.Invalid, "", ""},
		"has another format": {func(d *double) { d.change = func(i *stored) { i.DiskFormat = "vmdk" } }, errs.Invalid, "", ""},
		"is too short": {func(d *double) {
			d.image = func(string) ([]byte, string) { return make([]byte, 2<<20), "raw" }
		}, errs.Invalid, testboot.CodeGuest, "came back with"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			c.prepare(d)
			g := d.guest()
			was := digest.File(t, g.Disk)
			_, err := d.booter(time.Now()).Run(t.Context(), g)
			if !errs.Is(err, c.kind) || c.code != "" && errs.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("%v %v: %v", errs.KindOf(err), errs.CodeOf(err), err)
			}
			if digest.File(t, g.Disk) != was {
				t.Error("the copy was changed")
			}
			d.nothingLeft(g)
		})
	}
}

// TestWhatAKilledWorkerLeft: while somebody could wait for it, it stays.
func TestWhatAKilledWorkerLeft(t *testing.T) {
	d := newDouble(t)
	d.says = "still booting\n"
	now := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	left := map[string]*stored{}
	var server placement.Server
	ended, g := make(chan struct{}), d.guest()
	go func() {
		defer close(ended)
		d.booter(now).Run(ctx, g)
	}()
	for len(left) < 3 || server.ID == "" {
		d.lock.Lock()
		left = maps.Clone(d.images)
		d.lock.Unlock()
		d.mu.Lock()
		server = d.servers["1"]
		d.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	stop()
	<-ended
	d.images, d.servers["1"] = left, server // as if nothing had been done at its end
	d.images["of somebody"] = &stored{GlanceImage: catalog.GlanceImage{ID: "of somebody", Owner: "quarantine", Properties: map[string]string{}}}
	if n, err := d.booter(now.Add(20 * time.Minute)).Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := d.booter(now.Add(2 * time.Hour)).Sweep(t.Context()); n != 4 || err != nil || len(d.servers) > 0 || len(d.images) != 1 {
		t.Errorf("%d, %v, %v %v", n, err, d.servers, d.images)
	}
}
