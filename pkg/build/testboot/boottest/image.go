// Package boottest gives tests disks to boot: a Debian with cloud-init, and small broken ones.
package boottest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Recipe is what Debian builds: as small as an image with cloud-init is, with a file capability (ping's).
const Recipe = `name: boottest
from: {release: bookworm}
packages: [cloud-init, iputils-ping]
disk: {size: 2GiB}
files:
  - path: /etc/boottest
    content: |
      one
  - path: /etc/odd name\ with "all"
    content: |
      odd
cloud_init: {datasources: [NoCloud, ConfigDrive]}
scripts:
  - name: links
    run: |
      ln /etc/boottest /etc/boottest-link
      mkfifo /srv/fifo
      setcap cap_net_raw+ep /bin/ping
`

// Image is one disk with what is known of it.
type Image struct {
	Path   string // qcow2; nobody may write to it
	Facts  *catalog.Facts
	Recipe *recipe.Recipe
}

var (
	once  sync.Once
	image Image
	fault error
)

// Debian gives a bootable Debian: built once by the native builder and kept for later runs as long as the recipe, the
// builder and the mirror's index are the same. Short tests are skipped.
func Debian(t testing.TB) Image {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root, a package mirror and crun")
	}
	once.Do(func() {
		start := time.Now()
		image, fault = ensure(context.WithoutCancel(t.Context()))
		t.Logf("the Debian image was there after %s", time.Since(start).Round(100*time.Millisecond))
	})
	if fault != nil {
		t.Fatal(fault)
	}
	return image
}

func ensure(ctx context.Context) (Image, error) {
	ctx, stop := context.WithTimeout(ctx, 20*time.Minute)
	defer stop()
	cache, err := os.UserCacheDir()
	if err != nil {
		return Image{}, err
	}
	dir := filepath.Join(cache, "kiln-test", "boottest")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Image{}, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return Image{}, err
	}
	defer lock.Close() //nolint:errcheck // closing gives the lock back
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return Image{}, err
	}
	r, err := recipe.Parse("boottest.yaml", []byte(Recipe))
	if err != nil {
		return Image{}, err
	}
	path, err := built(ctx, r, dir)
	if err != nil {
		return Image{}, err
	}
	facts, err := Inspect(ctx, path)
	return Image{Path: path, Facts: facts, Recipe: r}, err
}

func built(ctx context.Context, r *recipe.Recipe, dir string) (string, error) {
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		return "", err
	}
	proxy, err := mirror.New(mirror.Config{Upstreams: []string{mirrors.Main, mirrors.Security}, Dir: filepath.Join(dir, "packages")})
	if err != nil {
		return "", err
	}
	b, err := native.New(native.Config{Mirrors: mirrors, Proxy: proxy, Layers: layer.Config{Dir: filepath.Join(dir, "layers")}})
	if err != nil {
		return "", err
	}
	state, err := b.InputState(ctx, build.Request{Recipe: r})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(state + Recipe))
	path := filepath.Join(dir, hex.EncodeToString(sum[:8])+".qcow2")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	work, err := os.MkdirTemp(dir, "build-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work) //nolint:errcheck // the next run makes its own
	out := filepath.Join(work, "out.qcow2")
	if _, err := b.Build(ctx, build.Request{Recipe: r, Files: fstest.MapFS{}, WorkDir: work, Output: out, Log: io.Discard}); err != nil {
		return "", err
	}
	return path, os.Rename(out, path)
}

// Inspect reads the facts of a qcow2.
func Inspect(ctx context.Context, path string) (*catalog.Facts, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return inspect.Read(ctx, f, info.Size(), "qcow2")
}
