package native_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/build/native"
	"github.com/kiln-cloud/kiln/pkg/build/repro"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// everything is a disk with all that a layout can have, and steps that write into its partitions.
const everything = `name: both
from: {release: bookworm}
packages: [netbase]
users: [{name: op, groups: [sudo]}]
files:
  - {path: /srv/data/hello, content: "hello\n", owner: op}
scripts:
  - name: clock
    run: date -u -d "@$SOURCE_DATE_EPOCH" >/etc/built; ln /etc/built /etc/built-too
kernel: {arguments: systemd.show_status=yes}
disk:
  size: 2GiB
  firmware: both
  partitions:
    - {label: srv, size: 64MiB, mount: /srv}
    - {label: swap, size: 32MiB, filesystem: swap}
`

func lockedBuilder(t *testing.T) (*native.Builder, *mirror.Proxy) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root, a package mirror, crun and QEMU")
	}
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	cache := os.Getenv("KILN_TEST_MIRROR_CACHE")
	if cache == "" {
		if cache, err = os.UserCacheDir(); err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(cache, "kiln-test")
	}
	// A folder of its own: two proxies on one would sweep away what the other one fetches.
	proxy, err := mirror.New(mirror.Config{Upstreams: []string{mirrors.Main, mirrors.Security}, Dir: filepath.Join(cache, "locked")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	b, err := native.New(native.Config{Mirrors: mirrors, Proxy: proxy, Layers: layer.Config{Dir: t.TempDir()}, ArchiveDir: filepath.Join(cache, "archive")})
	if err != nil {
		t.Fatal(err)
	}
	return b, proxy
}

// TestLockedBuildIsReproducible builds one locked recipe twice, the second time without any layer. The image is
// started with both kinds of firmware, and upgraded.
func TestLockedBuildIsReproducible(t *testing.T) {
	b, proxy := lockedBuilder(t)
	r := parse(t, everything)
	lock, err := b.Lock(t.Context(), build.Request{Recipe: r, WorkDir: t.TempDir(), Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := lock.Find("netbase"); !ok || len(lock.Packages) < 100 {
		t.Errorf("%d packages are locked", len(lock.Packages))
	}
	dir := t.TempDir()
	first := buildLocked(t, b, build.Request{Recipe: r, Lock: lock, WorkDir: dir, Output: filepath.Join(dir, "first.qcow2")})
	checkLayout(t, first)
	t.Run("again", func(t *testing.T) {
		t.Parallel()
		second := buildLocked(t, b, build.Request{Recipe: r, Lock: lock, Fresh: true, WorkDir: dir, Output: filepath.Join(dir, "second.qcow2")})
		if one, two := digest.File(t, first), digest.File(t, second); one != two {
			t.Errorf("two builds of one lock: %s and %s\n%s", one, two, differences(t, first, second))
		}
	})
	const up = "Mounted \x1b[0;1;39msrv.mount" // systemd writes names in bold
	for name, firmware := range map[string][]string{"bios": nil, "uefi": {"-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd"}} {
		t.Run("boot by "+name, func(t *testing.T) {
			t.Parallel()
			if said := bootWith(t, first, up, firmware...); !strings.Contains(said, up) {
				t.Errorf("it does not come up:\n%s", tailOf(said))
			}
		})
	}
	t.Run("a lock that is older than its recipe", func(t *testing.T) {
		t.Parallel()
		more := parse(t, strings.Replace(everything, "[netbase]", "[netbase, nginx]", 1))
		_, err := b.Build(t.Context(), build.Request{Recipe: more, Lock: lock, WorkDir: t.TempDir(), Output: filepath.Join(t.TempDir(), "x")})
		var e *errs.Error
		if !errors.As(err, &e) || e.Code != native.CodeLock || !strings.Contains(err.Error(), "recipes/tls.lock") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a partition that is too small", func(t *testing.T) {
		t.Parallel()
		big := parse(t, strings.Replace(everything, "date -u", "head -c 70M /dev/urandom >/srv/big; date -u", 1))
		_, err := b.Build(t.Context(), build.Request{Recipe: big, Lock: lock, WorkDir: t.TempDir(), Output: filepath.Join(t.TempDir(), "x")})
		var e *errs.Error
		if !errors.As(err, &e) || e.Code != native.CodeDiskSize || e.Kind != errs.Invalid || e.Where.Field != "disk.partitions" || !strings.Contains(e.Detail, "srv") {
			t.Errorf("%v", err)
		}
	})
	t.Run("upgrade", func(t *testing.T) {
		t.Parallel()
		upgradeLocked(t, proxy, first, filepath.Join(dir, "upgraded.qcow2"))
	})
}

// TestLockedStateIsTheLocks: nothing is asked, and a lock of another release is refused.
func TestLockedStateIsTheLocks(t *testing.T) {
	proxy, err := mirror.New(mirror.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	b, err := native.New(native.Config{Mirrors: deb.Mirrors{Main: "http://mirror.example.org/debian"}, Proxy: proxy, Layers: layer.Config{Dir: t.TempDir()},
		Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			t.Errorf("asked for %s", r.URL)
			return nil, io.EOF
		})}})
	if err != nil {
		t.Fatal(err)
	}
	lock := &deb.Lock{Release: "bookworm", Architecture: "amd64", Time: time.Unix(1e9, 0), Packages: []deb.LockedPackage{{Name: "a"}}}
	req := build.Request{Recipe: parse(t, everything), Lock: lock}
	one, err := b.InputState(t.Context(), req)
	if err != nil || !strings.Contains(one, lock.Digest()) {
		t.Errorf("state %q, %v", one, err)
	}
	lock.Packages[0].Version = "2"
	if two, err := b.InputState(t.Context(), req); err != nil || two == one {
		t.Errorf("another lock, the same state %q, %v", two, err)
	}
	lock.Release = "trixie"
	if _, err := b.InputState(t.Context(), req); errs.CodeOf(err) != native.CodeLock {
		t.Errorf("a lock of another release: %v", err)
	}
	onFamily := parse(t, "name: top\nfrom: {family: debian-12}\n")
	if _, err := b.Lock(t.Context(), build.Request{Recipe: onFamily, WorkDir: t.TempDir()}); errs.CodeOf(err) != native.CodeLock {
		t.Errorf("a lock of a recipe on a family: %v", err)
	}
}

// TestABaseKeepsItsDisk: what would need another layout than that of the image below is refused before it is read.
func TestABaseKeepsItsDisk(t *testing.T) {
	b, _ := lockedBuilder(t)
	for field, text := range map[string]string{"disk.partitions": "partitions: [{label: srv, size: 64MiB, mount: /srv}]", "disk.firmware": "firmware: uefi"} {
		r := parse(t, "name: top\nfrom: {family: debian-12}\ndisk: {"+text+"}\n")
		base := &build.Base{Path: "/nonexistent", Format: disk.Raw, Digest: "sha512:x", Family: "debian-12", Version: "1", Facts: &catalog.Facts{Firmware: "bios"}}
		_, err := b.Build(t.Context(), build.Request{Recipe: r, Base: base, WorkDir: t.TempDir(), Output: filepath.Join(t.TempDir(), "x")})
		var e *errs.Error
		if !errors.As(err, &e) || e.Code != native.CodeBase || e.Where.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func buildLocked(t *testing.T, b *native.Builder, req build.Request) string {
	t.Helper()
	var log bytes.Buffer
	req.Log = &log
	start := time.Now()
	res, err := b.Build(t.Context(), req)
	if err != nil {
		t.Fatalf("%v\n%s", err, tailOf(log.String()))
	}
	t.Logf("built in %s: %v", time.Since(start).Round(100*time.Millisecond), res.Steps)
	if len(res.Materials) != len(req.Lock.Packages)+1 {
		t.Errorf("%d materials of %d packages", len(res.Materials), len(req.Lock.Packages))
	}
	return req.Output
}

// upgradeLocked: an image whose EFI program reads its menu from the root is upgraded like one that boots by BIOS.
func upgradeLocked(t *testing.T, proxy *mirror.Proxy, image, to string) {
	t.Helper()
	mirrors, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	report, err := offline.New(offline.Config{Proxy: proxy}).Upgrade(t.Context(), upgrade.Request{
		Original: image, OriginalFormat: disk.Qcow2, WorkDir: t.TempDir(), Output: to, OutputFormat: disk.Qcow2, Log: &log,
		Suites: []upgrade.Suite{{Mirror: mirrors.Security, Suite: "bookworm-security", Components: []string{"main"}}},
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, tailOf(log.String()))
	}
	t.Logf("%d packages upgraded, kernel %s to %s", len(report.Packages), report.KernelFrom, report.KernelTo)
	if report.Unchanged {
		return // the archive has no fix that is newer than its point release
	}
	for path := range strings.SplitSeq(differences(t, image, to), "\n") {
		if !strings.HasPrefix(path, "partition 1 (root): ") {
			t.Errorf("the upgrade changed %s", path)
		}
	}
}

func tailOf(text string) string { return text[max(0, len(text)-4000):] }

func differences(t *testing.T, one, two string) string {
	t.Helper()
	var out []string
	var disks []*repro.Disk
	for _, path := range []string{one, two} {
		d, err := repro.Open(path, disk.Qcow2)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		disks = append(disks, d)
	}
	found, err := repro.Compare(t.Context(), disks[0], disks[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range found {
		out = append(out, d.String())
	}
	return strings.Join(out, "\n")
}

func checkLayout(t *testing.T, image string) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, err := inspect.Read(t.Context(), f, info.Size(), disk.Qcow2)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range facts.Partitions {
		got = append(got, fmt.Sprintf("%d %s %s %d", p.Number, p.Name, p.FileSystem, p.Size>>20))
	}
	if want := "1 root ext4 1885, 2 srv ext4 64, 3 swap swap 32, 14   1, 15 EFI vfat 64"; strings.Join(got, ", ") != want || facts.Firmware != "both" {
		t.Errorf("%s has %q, not %q", facts.Firmware, strings.Join(got, ", "), want)
	}
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s, err := disk.OpenSession(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tree := map[string]string{}
	for _, p := range facts.Partitions {
		if p.FileSystem != "ext4" {
			continue
		}
		if out, err := exec.CommandContext(t.Context(), "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", raw, p.Start)).CombinedOutput(); err != nil {
			t.Errorf("e2fsck of %s: %v\n%s", p.Name, err, out)
		}
		m, err := s.MountRaw(t.Context(), raw, p.Start, p.Size, "ext4", "ro")
		if err != nil {
			t.Fatal(err)
		}
		tree[p.Name] = m.HostPath()
	}
	read := func(part, name string) string {
		data, err := os.ReadFile(filepath.Join(tree[part], name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return string(data)
	}
	if got := read("srv", "data/hello"); got != "hello\n" {
		t.Errorf("the file on the partition is %q", got)
	}
	if left, err := os.ReadDir(filepath.Join(tree["root"], "srv")); err != nil || len(left) > 0 {
		t.Errorf("%v stayed below the mount point: %v", left, err)
	}
	fstab := read("root", "etc/fstab")
	for _, want := range []string{" / ext4 ", " /srv ext4 defaults ", " none swap "} {
		if !strings.Contains(fstab, want) {
			t.Errorf("fstab has no %q:\n%s", want, fstab)
		}
	}
	if sources := read("root", "etc/apt/sources.list.d/debian.sources"); !strings.Contains(sources, "bookworm-security") || strings.Contains(sources, "rusted") {
		t.Errorf("apt sources of the image:\n%s", sources)
	}
}

// bootWith starts the image in QEMU without KVM and gives what the serial console said until text came.
func bootWith(t *testing.T, path, text string, more ...string) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 9*time.Minute)
	defer stop()
	args := append([]string{"-accel", "tcg,thread=multi", "-smp", "2", "-m", "768", "-machine", "q35", "-nographic", "-no-reboot", "-monitor", "none",
		"-serial", "stdio", "-nic", "none", "-snapshot", "-drive", "if=virtio,format=qcow2,file=" + path}, more...)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
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
