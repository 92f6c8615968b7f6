//go:build ceph

package ceph_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/cache/cachetest"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/ceph"
	"github.com/kiln-cloud/kiln/pkg/disk/remote"
	"github.com/kiln-cloud/kiln/pkg/disk/remote/remotetest"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

const writerEnv = "KILN_TEST_CEPH_WRITER"

// TestMain is also the process that the contract kills.
func TestMain(m *testing.M) {
	namespace, name, ok := strings.Cut(os.Getenv(writerEnv), "|")
	if !ok {
		os.Exit(m.Run())
	}
	b, err := ceph.Open(context.Background(), config(namespace))
	if err == nil {
		err = cachetest.WriteForever(b, name)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func config(namespace string) ceph.Config {
	return ceph.Config{
		Conf: os.Getenv("KILN_TEST_CEPH_CONF"), User: "cluster-a", Pool: "cluster-a", Namespace: namespace, MinAge: time.Nanosecond,
	}
}

// place makes a namespace of the test's own in the pool of the real Ceph.
func place(t testing.TB) (namespace string, ioctx *rados.IOContext) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the real Ceph: tools/cloud up, then run without -short")
	}
	if os.Getenv("KILN_TEST_CEPH_CONF") == "" {
		t.Fatal(`KILN_TEST_CEPH_CONF is not set: run tools/cloud up and eval "$(tools/cloud env)"`)
	}
	real.Uses(t, real.Ceph)
	conn, err := rados.NewConnWithUser("cluster-a")
	if err == nil {
		err = conn.ReadConfigFile(os.Getenv("KILN_TEST_CEPH_CONF"))
	}
	if err == nil {
		err = conn.Connect()
	}
	if err != nil {
		t.Fatal(err)
	}
	if ioctx, err = conn.OpenIOContext("cluster-a"); err != nil {
		t.Fatal(err)
	}
	namespace = fmt.Sprintf("kiln-test-%d", time.Now().UnixNano())
	if err := rbd.NamespaceCreate(ioctx, namespace); err != nil {
		t.Fatal(err)
	}
	ioctx.SetNamespace(namespace)
	t.Cleanup(func() {
		empty(t, namespace, ioctx)
		ioctx.SetNamespace("")
		if err := rbd.NamespaceRemove(ioctx, namespace); err != nil {
			t.Errorf("something is left in the namespace: %v", err)
		}
		ioctx.Destroy()
		conn.Shutdown()
	})
	return namespace, ioctx
}

// empty sweeps until nothing is in the trash: a copy that was deleted while its last reader or writer went away
// stays there until their watches end (osd_client_watch_timeout, 30 s).
func empty(t testing.TB, namespace string, ioctx *rados.IOContext) {
	t.Helper()
	ctx := context.Background() // the test's own has ended
	b, err := ceph.Open(ctx, config(namespace))
	if err != nil {
		t.Error(err)
		return
	}
	for until := time.Now().Add(45 * time.Second); ; time.Sleep(time.Second) {
		err = b.Sweep(ctx)
		trash, listErr := rbd.GetTrashList(ioctx)
		if err = errors.Join(err, listErr); err != nil || len(trash) == 0 || time.Now().After(until) {
			if err != nil || len(trash) > 0 {
				t.Errorf("left in the trash after sweeping: %+v, %v", trash, err)
			}
			break
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func open(t testing.TB, namespace string) ceph.Backend {
	t.Helper()
	b, err := ceph.Open(t.Context(), config(namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestRealContract(t *testing.T) {
	namespace, ioctx := place(t)
	cachetest.Run(t, cachetest.Harness{
		Open: func(t *testing.T) cache.Backend { return open(t, namespace) },
		Writer: func(t *testing.T, name string) *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), writerEnv+"="+namespace+"|"+name)
			return cmd
		},
		Settle: 35 * time.Second, // osd_client_watch_timeout is 30 s
	})
	if err := open(t, namespace).Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := rbd.GetImageNames(ioctx); err != nil || len(left) != 0 {
		t.Errorf("after all is deleted and swept: %v, %v", left, err)
	}
}

// TestRealClones starts a volume from a copy, as Nova does, and deletes the copy under it.
func TestRealClones(t *testing.T) {
	namespace, ioctx := place(t)
	b := open(t, namespace)
	data := bytes.Repeat([]byte("kiln"), 3<<20)
	for range 2 {
		if _, err := b.Put(t.Context(), "image", bytes.NewReader(data), int64(len(data)), ""); err != nil {
			t.Fatal(err)
		}
	}
	options := rbd.NewRbdImageOptions()
	defer options.Destroy()
	if err := options.SetUint64(rbd.ImageOptionCloneFormat, 2); err != nil {
		t.Fatal(err)
	}
	if err := rbd.CloneImage(ioctx, "image", ceph.Snapshot, ioctx, "volume", options); err != nil {
		t.Fatalf("clone: %v", err)
	}
	counter, ok := b.(cache.ChildCounter)
	if !ok {
		t.Fatal("a pool counts clones")
	}
	if n, err := counter.Children(t.Context(), "image"); n != 1 || err != nil {
		t.Errorf("%d clones of the copy: %v", n, err)
	}
	if n, err := counter.Children(t.Context(), "none"); n != 0 || err != nil {
		t.Errorf("%d clones of no copy: %v", n, err)
	}
	if err := b.Delete(t.Context(), "image"); err != nil {
		t.Fatalf("delete under a clone: %v", err)
	}
	if _, err := b.Stat(t.Context(), "image"); !errs.Is(err, errs.NotFound) {
		t.Errorf("stat: %v", err)
	}
	if err := b.Sweep(t.Context()); err != nil {
		t.Errorf("sweep under a clone: %v", err)
	}
	volume, err := rbd.OpenImageReadOnly(ioctx, "volume", rbd.NoSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	_, err = volume.ReadAt(got, 0)
	if err = errors.Join(err, volume.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the volume lost its bytes: %v", err)
	}
	if err := rbd.RemoveImage(ioctx, "volume"); err != nil {
		t.Fatal(err)
	}
	if err := b.Sweep(t.Context()); err != nil {
		t.Errorf("sweep: %v", err)
	}
	if trash, err := rbd.GetTrashList(ioctx); err != nil || len(trash) != 0 {
		t.Errorf("trash: %+v, %v", trash, err)
	}
}

// BenchmarkRealPut writes, reads back and removes a copy of 256 MiB.
func BenchmarkRealPut(b *testing.B) {
	namespace, _ := place(b)
	backend := open(b, namespace)
	const size = 256 << 20
	b.SetBytes(size)
	for b.Loop() {
		if _, err := backend.Put(b.Context(), "image", io.LimitReader(&noise{}, size), size, ""); err != nil {
			b.Fatal(err)
		}
	}
	if err := backend.Delete(b.Context(), "image"); err != nil {
		b.Error(err)
	}
}

type noise struct{ n uint64 }

// Read implements io.Reader.
func (r *noise) Read(p []byte) (int, error) {
	for i := range p {
		r.n = r.n*6364136223846793005 + 1442695040888963407
		p[i] = byte(r.n >> 33)
	}
	return len(p), nil
}

func TestRealOpenSaysWhatIsWrong(t *testing.T) {
	namespace, _ := place(t)
	other := config(namespace)
	other.Pool = "none"
	if _, err := ceph.Open(t.Context(), other); !errs.Is(err, errs.Invalid) && !errs.Is(err, errs.Unavailable) {
		t.Errorf("no such pool: %v", err)
	}
	other = config(namespace)
	other.Conf = "/nowhere/ceph.conf"
	if _, err := ceph.Open(t.Context(), other); errs.CodeOf(err) != "kiln.ceph.config" {
		t.Errorf("no such file: %v", err)
	}
	foreign := config("")
	foreign.Pool = "cluster-b"
	b, err := ceph.Open(t.Context(), foreign)
	if err == nil {
		_, err = b.Put(t.Context(), "image", strings.NewReader("x"), 1, "")
		err = errors.Join(err, b.Close())
	}
	if errs.CodeOf(err) != "kiln.ceph.denied" {
		t.Errorf("another cluster's pool: %v", err)
	}
}

// What Glance keeps in this Ceph is read as any disk is: its own layout, a pool that is only read.
func TestRealLocations(t *testing.T) {
	g := glance.New(cloudtest.Real(t, "kiln", "service", real.Glance, real.Ceph))
	data := remotetest.Data()
	image, err := g.CreateImage(t.Context(), catalog.NewGlanceImage{ID: uuid.NewString(), Name: "collect-rbd", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "private"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.DeleteImage(context.WithoutCancel(t.Context()), image.ID); err != nil {
			t.Error(err)
		}
	})
	if err := g.Upload(t.Context(), image.ID, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if err := g.CopyToStores(t.Context(), image.ID, []string{"rbd1"}); err != nil {
		t.Fatal(err)
	}
	at := ""
	for until := time.Now().Add(time.Minute); at == "" && time.Now().Before(until); time.Sleep(200 * time.Millisecond) {
		all, err := g.Locations(t.Context(), image.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range all {
			if strings.HasPrefix(l.URL, "rbd://") {
				at = l.URL
			}
		}
	}
	cfg := config("")
	l, err := ceph.OpenLocations(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	remotetest.Run(t, func(t *testing.T, _ []byte) io.ReaderAt {
		d, err := l.Open(t.Context(), at)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		if d.Size() != int64(len(data)) {
			t.Errorf("%d bytes", d.Size())
		}
		r := remote.New(t.Context(), d, d.Size(), remote.Options{})
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		return r
	})
	where, err := ceph.ParseLocation(at)
	if err != nil {
		t.Fatal(err)
	}
	for text, code := range map[string]string{
		"rbd://" + where.FSID + "/images/" + uuid.NewString() + "/snap":  "kiln.ceph.not_found",
		"rbd://" + where.FSID + "/images/" + where.Image + "/other":      "kiln.ceph.not_found",
		"rbd://" + where.FSID + "/none/" + where.Image + "/snap":         ceph.CodeElsewhere,
		"rbd://" + where.FSID + "/cluster-b/" + where.Image + "/snap":    ceph.CodeElsewhere,
		"rbd://" + uuid.NewString() + "/images/" + where.Image + "/snap": ceph.CodeElsewhere,
	} {
		if _, err := l.Open(t.Context(), text); errs.CodeOf(err) != code {
			t.Errorf("%s: %v", text, err)
		}
	}
}
