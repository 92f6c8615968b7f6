package native_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
)

const web = `name: tls
from:
  release: bookworm
packages: [openssl]
disk:
  size: 3GiB
users:
  - name: kiln
    groups: [sudo]
    ssh_keys: ["ssh-ed25519 AAAAC3Nz it's me"]
files:
  - path: /etc/systemd/system/report.service
    content: |
      [Unit]
      Description=Say which openssl this is
      [Service]
      Type=oneshot
      ExecStart=/usr/local/bin/report
      StandardOutput=tty
      TTYPath=/dev/ttyS0
      [Install]
      WantedBy=multi-user.target
  - path: /usr/local/bin/report
    source: bin/report
    mode: "0755"
  - path: /srv/owned
    content: x
    owner: kiln:kiln
    mode: "4750"
scripts:
  - name: stamp
    run: |
      test -z "$http_proxy"
      id kiln >/etc/stamp
services:
  enable: [report.service]
`

var files = fstest.MapFS{"bin/report": {Data: []byte("#!/bin/sh\necho KILN-REPORT $(openssl version) $(cat /proc/cmdline)\n")}}

func builder(t *testing.T) *native.Builder {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root, a package mirror, mmdebstrap, crun and QEMU")
	}
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	shared.Do(func() {
		cache := os.Getenv("KILN_TEST_MIRROR_CACHE")
		if cache == "" {
			if cache, errProxy = os.UserCacheDir(); errProxy != nil {
				return
			}
			cache = filepath.Join(cache, "kiln-test")
		}
		proxy, errProxy = mirror.New(mirror.Config{Upstreams: []string{mirrors.Main, mirrors.Security}, Dir: filepath.Join(cache, "build")})
	})
	if errProxy != nil {
		t.Fatal(errProxy)
	}
	b, err := native.New(native.Config{Mirrors: mirrors, Proxy: proxy, Layers: layer.Config{Dir: layersDir(t)}, Backoff: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// layersDir is kept from test to test of one run, so that they share one base: what it costs is most of a build.
func layersDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("KILN_TEST_LAYERS"); dir != "" {
		return dir
	}
	return sharedLayers
}

// sharedLayers is made by TestMain.
var sharedLayers string

func TestMain(m *testing.M) {
	if os.Getenv("KILN_TEST_BUILD_DIR") != "" { // a victim of kill -9 uses its parent's
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "kiln-test-layers-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sharedLayers = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// One proxy for all tests of the process, which run at the same time: a second one on its folder would sweep away
// what the first one fetches. What it fetched is kept from run to run.
var (
	shared   sync.Once
	proxy    *mirror.Proxy
	errProxy error
)

func parse(t *testing.T, text string) *recipe.Recipe {
	t.Helper()
	r, err := recipe.Parse("recipes/tls.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBuildBoots(t *testing.T) {
	b := builder(t)
	t.Parallel()
	dir := t.TempDir()
	var log bytes.Buffer
	seen := map[string]bool{}
	start := time.Now()
	res, err := b.Build(t.Context(), build.Request{Recipe: parse(t, web), Files: files, WorkDir: dir, Output: filepath.Join(dir, "out.qcow2"), Log: &log,
		Progress: func(step string, _, _ int64, _ string) { seen[step] = true }})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Logf("built in %s: %+v", time.Since(start).Round(100*time.Millisecond), res)
	if left, _ := os.ReadDir(dir); len(left) != 1 || !seen["convert"] {
		t.Errorf("left %v, steps %v", left, seen)
	}
	checkTree(t, res.Path)
	checkAdopted(t, b, res.Path)
}

// checkAdopted builds on the image that was just made, on a larger disk and with an argument for its kernel, and
// boots that: the boot loader is the one of the image below.
func checkAdopted(t *testing.T, b *native.Builder, path string) {
	t.Helper()
	dir := t.TempDir()
	r := parse(t, "name: top\nfrom: {family: tls}\ndisk: {size: 5GiB}\nkernel: {arguments: kiln.test=1}\npackages: [jq]\nscripts:\n  - name: room\n    run: test $(df --output=size -B1M / | tail -1) -gt 4500\n")
	req := build.Request{Recipe: r, WorkDir: dir, Output: filepath.Join(dir, "out.qcow2"),
		Base: &build.Base{Path: path, Format: disk.Qcow2, Digest: "sha256:" + t.Name(), Family: "tls", Version: "20260101.1", Facts: &catalog.Facts{OS: catalog.OSRelease{Codename: "bookworm"}}}}
	res, err := b.Build(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if res.VirtualSize != 5<<30 || len(res.Materials) != 2 || res.Materials[0].URI != "kiln:tls/20260101.1" {
		t.Errorf("%d bytes of %+v", res.VirtualSize, res.Materials)
	}
	again, err := b.Build(t.Context(), req)
	if err != nil || !allCached(again) {
		t.Errorf("the same on the same image was built again: %+v %v", again.Steps, err)
	}
	serial := boot(t, res.Path, "login:")
	for _, want := range []string{"KILN-REPORT OpenSSL 3.0", "kiln.test=1", "login:"} {
		if !strings.Contains(serial, want) {
			t.Errorf("%q is not on the console:\n%s", want, serial)
		}
	}
}

// allCached: every stage but the conversion.
func allCached(res build.Result) bool {
	for _, s := range res.Steps {
		if !s.Cached && s.Name != "convert" {
			return false
		}
	}
	return len(res.Steps) > 0
}

// checkTree looks at the image's files without booting it.
func checkTree(t *testing.T, path string) {
	t.Helper()
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	if err := disk.Convert(t.Context(), disk.Image{Path: path, Format: disk.Qcow2}, disk.Image{Path: raw, Format: disk.Raw}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	parts, err := disk.Partitions(f, st.Size())
	if err != nil || len(parts) != 2 {
		t.Fatal(parts, err)
	}
	p, err := disk.FindRoot(f, parts)
	if err != nil {
		t.Fatal(err)
	}
	s, err := disk.OpenSession(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.MountRaw(t.Context(), raw, p.Start, p.Length, "ext4", "ro")
	if err != nil {
		t.Fatal(err)
	}
	at := m.HostPath()
	read := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(at, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return string(raw)
	}
	if id := read("etc/machine-id"); id != "" {
		t.Errorf("machine id %q", id)
	}
	for _, want := range []struct{ file, text string }{
		{"boot/grub/grub.cfg", "root=UUID="}, {"boot/grub/grub.cfg", "console=ttyS0"}, {"etc/stamp", "(sudo)"},
		{"home/kiln/.ssh/authorized_keys", "ssh-ed25519 AAAAC3Nz it's me\n"}, {"etc/apt/sources.list.d/debian.sources", "bookworm-security"},
		{"var/lib/dpkg/status", "Package: linux-image-cloud-amd64"}, {"var/lib/dpkg/status", "Package: e2fsprogs"},
	} {
		if got := read(want.file); !strings.Contains(got, want.text) {
			t.Errorf("%s has no %q:\n%.2000s", want.file, want.text, got)
		}
	}
	for _, gone := range []string{"usr/sbin/policy-rc.d", "etc/apt/sources.list", "var/lib/apt/lists/lock", "run/kiln-script", "etc/apt/apt.conf.d/00mmdebstrap"} {
		if _, err := os.Lstat(filepath.Join(at, gone)); err == nil {
			t.Errorf("%s stayed in the image", gone)
		}
	}
	if info, err := os.Stat(filepath.Join(at, "srv/owned")); err != nil || info.Mode() != 0o750|os.ModeSetuid {
		t.Errorf("srv/owned: %v %v", info, err)
	}
	if out, err := exec.CommandContext(t.Context(), "dpkg", "--root="+at, "--audit").CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("dpkg --audit: %v %s", err, out)
	}
	checkInitrd(t, s, m)
	checkSize(t, path, at)
}

// checkInitrd: as on an installed machine it can check the root before it mounts it, and find a disk of QEMU.
func checkInitrd(t *testing.T, s *disk.Session, m *disk.Mount) {
	t.Helper()
	var list bytes.Buffer
	err := sandbox.Run(t.Context(), sandbox.Spec{Session: s, Rootfs: m.Path(), Args: []string{"/bin/sh", "-ec", "TMPDIR=/tmp lsinitramfs /boot/initrd.img-*"},
		Stdout: &list, StartServices: true})
	for _, want := range []string{"sbin/fsck.ext4\n", "sbin/fsck\n", "/virtio_blk.ko", "sbin/logsave\n"} {
		if err != nil || !strings.Contains(list.String(), want) {
			t.Errorf("%s is not in the initrd: %v\n%.300s", want, err, list.String())
		}
	}
}

// checkSize: what the build deleted, and its journal, are not in the image.
func checkSize(t *testing.T, image, tree string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "du", "-sxm", tree).Output()
	if err != nil {
		t.Fatal(err)
	}
	var files int64
	if _, err := fmt.Sscan(string(out), &files); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	if size := st.Size() >> 20; size > files+files/8 {
		t.Errorf("the image has %d MiB for %d MiB of files", size, files)
	}
}

// boot starts the image in QEMU without KVM and gives what the serial console said until text came.
func boot(t *testing.T, path, text string) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "768", "-nographic", "-no-reboot", "-monitor", "none",
		"-serial", "stdio", "-nic", "none", "-snapshot", "-drive", "if=virtio,format=qcow2,file="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := disk.StartTied(cmd); err != nil {
		t.Fatal(err)
	}
	var serial bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(serial.String(), text) {
		n, err := out.Read(buf)
		serial.Write(buf[:n])
		if err != nil {
			break
		}
	}
	t.Logf("booted to %q in %s", text, time.Since(start).Round(100*time.Millisecond))
	stop()
	cmd.Wait()
	return serial.String()
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestInputStateFollowsTheSignedIndex(t *testing.T) {
	body, status := "one", http.StatusOK
	proxy, err := mirror.New(mirror.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	b, err := native.New(native.Config{Mirrors: deb.Mirrors{Main: "http://mirror.example.org/debian"}, Proxy: proxy, Layers: layer.Config{Dir: t.TempDir()}, Backoff: time.Nanosecond,
		Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.String() != "http://mirror.example.org/debian/dists/bookworm/InRelease" {
				t.Errorf("asked for %s", r.URL)
			}
			return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})}})
	if err != nil {
		t.Fatal(err)
	}
	r := &recipe.Recipe{From: recipe.From{Release: "bookworm"}}
	first, err := b.InputState(t.Context(), build.Request{Recipe: r})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.InputState(t.Context(), build.Request{Recipe: r}); err != nil || again != first {
		t.Errorf("equal index, other state: %q %q %v", first, again, err)
	}
	body = "two"
	if other, err := b.InputState(t.Context(), build.Request{Recipe: r}); err != nil || other == first {
		t.Errorf("other index, equal state: %q %v", other, err)
	}
	status = http.StatusNotFound
	if _, err := b.InputState(t.Context(), build.Request{Recipe: r}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("no such release: %v", err)
	}
	status = http.StatusBadGateway
	if _, err := b.InputState(t.Context(), build.Request{Recipe: r}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("mirror broken: %v", err)
	}
}
