package offline_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/sandbox"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

func TestUpgrade(t *testing.T) {
	original := debian(t)
	t.Parallel()
	before := digest.File(t, original)
	work := t.TempDir()
	output := filepath.Join(t.TempDir(), "new.qcow2")
	var log bytes.Buffer
	var steps []string
	mirrorProxy := proxy(t)
	x := offline.New(offline.Config{Proxy: mirrorProxy, Log: logrus.New()})
	req := upgrade.Request{
		Original: original, OriginalFormat: "raw", Suites: suites(t), WorkDir: work, Output: output, OutputFormat: "qcow2", Log: &log,
		Progress: func(step string, _, _ int64, _ string) {
			if !slices.Contains(steps, step) {
				steps = append(steps, step)
			}
		},
	}
	report, err := x.Upgrade(t.Context(), req)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.Bytes()[max(0, log.Len()-6000):])
	}
	for _, s := range report.Steps {
		t.Logf("%-20s %6.2f s", s.Name, s.Seconds)
	}
	t.Logf("%d packages, %d CVEs, kernel %s to %s, %d bytes, held %v", len(report.Packages), len(report.CVEs), report.KernelFrom, report.KernelTo, report.Downloaded, report.Held)
	if len(report.Strays) > 0 || len(report.Setuid) > 0 || len(report.Conffiles) > 0 {
		t.Errorf("Debian's own packages left %v, made setuid %v and brought %v", report.Strays, report.Setuid, report.Conffiles)
	}
	if digest.File(t, original) != before {
		t.Error("the original was changed")
	}
	if l := left(t, work); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
	if len(steps) < 8 || report.Unchanged {
		t.Errorf("steps %v, unchanged %v", steps, report.Unchanged)
	}
	checkReport(t, report)
	checkOneBootRun(t, log.String(), report)
	raw := filepath.Join(t.TempDir(), "new.raw")
	if err := disk.Convert(t.Context(), disk.Image{Path: output, Format: "qcow2"}, disk.Image{Path: raw, Format: "raw"}, nil); err != nil {
		t.Fatal(err)
	}
	checkImage(t, original, raw, report)
	checkInitrd(t, raw, report.KernelTo)

	t.Run("nothing is pending in the result", func(t *testing.T) {
		again := req
		again.Original, again.OriginalFormat, again.Output = output, "qcow2", filepath.Join(t.TempDir(), "none.raw")
		again.OutputFormat = "raw"
		report, err := x.Upgrade(t.Context(), again)
		if err != nil || !report.Unchanged || len(report.Packages) > 0 {
			t.Errorf("%+v %v", report, err)
		}
		if _, err := os.Stat(again.Output); err == nil {
			t.Error("an output file without a change")
		}
		if l := left(t, work); len(l) > 0 {
			t.Errorf("left behind: %v", l)
		}
	})
}

func checkReport(t *testing.T, report upgrade.Report) {
	t.Helper()
	if len(report.Packages) < 5 || len(report.CVEs) < 5 {
		t.Errorf("%d packages, %d CVEs", len(report.Packages), len(report.CVEs))
	}
	for _, p := range report.Packages {
		if p.To == "" || p.Source == "" {
			t.Errorf("%+v", p)
		}
		if p.Name == "openssl" && (len(p.CVEs) == 0 || p.From == "") {
			t.Errorf("openssl closes no CVE: %+v", p)
		}
	}
}

// checkOneBootRun: packages asked several times, the work was done once.
func checkOneBootRun(t *testing.T, log string, report upgrade.Report) {
	t.Helper()
	if n := strings.Count(log, "update-initramfs: Generating"); n != 1 {
		t.Errorf("initial RAM disks were built %d times", n)
	}
	if report.KernelFrom != report.KernelTo && strings.Count(log, "Generating grub configuration file") != 1 {
		t.Error("the boot menu was not made once")
	}
}

// checkImage compares the new disk with the old one, from outside.
func checkImage(t *testing.T, original, upgraded string, report upgrade.Report) {
	t.Helper()
	oldFacts, oldFS := open(t, original)
	facts, fsys := open(t, upgraded)
	for _, p := range report.Packages {
		if i := slices.IndexFunc(facts.Packages, func(o catalog.Package) bool { return o.Name == p.Name && o.Version == p.To }); i < 0 {
			t.Errorf("%s %s is not in the new image", p.Name, p.To)
		}
	}
	if facts.RootUUID != oldFacts.RootUUID || facts.VirtualSize != oldFacts.VirtualSize || facts.MachineID != oldFacts.MachineID {
		t.Errorf("%s %d %s", facts.RootUUID, facts.VirtualSize, facts.MachineID)
	}
	if !slices.Contains(facts.Initrds, report.KernelTo) {
		t.Errorf("no initrd for %s in %v", report.KernelTo, facts.Initrds)
	}
	for _, name := range []string{"/etc/apt/sources.list", "/etc/ssh/sshd_config", "/etc/machine-id", "/var/lib/dpkg/diversions"} {
		a, errA := oldFS.ReadFile(name, 1<<20)
		b, errB := fsys.ReadFile(name, 1<<20)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s changed: %q %v", name, b, errors.Join(errA, errB))
		}
	}
	for dir, bad := range map[string]string{"/etc/ssh": "ssh_host_", "/usr/sbin": ".kiln", "/usr/sbin/": "policy-rc.d", "/run": "", "/etc": "hostname", "/var/cache/apt/archives": ".deb"} {
		names, err := fsys.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, n := range names {
			if strings.Contains(n, bad) && (dir != "/run" || !containsName(oldFS, dir, n)) {
				t.Errorf("%s/%s is in the new image", dir, n)
			}
		}
	}
	if lists, _ := fsys.ReadDir("/var/lib/apt/lists"); !slices.Equal(lists, mustDir(t, oldFS, "/var/lib/apt/lists")) {
		t.Errorf("apt's lists changed: %v", lists)
	}
	if report.KernelFrom != report.KernelTo {
		menu, err := fsys.ReadFile("/boot/grub/grub.cfg", 1<<20)
		if err != nil || !strings.Contains(string(menu), "vmlinuz-"+report.KernelTo) || !strings.Contains(string(menu), "root=UUID="+rootUUID) || strings.Contains(string(menu), "root=/dev") {
			t.Errorf("the boot menu: %v\n%.2000s", err, menu)
		}
	}
	data, err := os.ReadFile(upgraded)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte(deleted)) {
		t.Error("deleted bytes travelled into the new image")
	}
}

// checkInitrd: it can check the root before it mounts it, as one that was made on a running machine.
func checkInitrd(t *testing.T, raw, kernel string) {
	t.Helper()
	s, err := disk.OpenSession(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.MountRaw(t.Context(), raw, partStart, partLength, "ext4", "ro")
	if err != nil {
		t.Fatal(err)
	}
	var list bytes.Buffer
	err = sandbox.Run(t.Context(), sandbox.Spec{Session: s, Rootfs: m.Path(), Args: []string{"lsinitramfs", "/boot/initrd.img-" + kernel}, Env: []string{"TMPDIR=/tmp"},
		Stdout: &list, StartServices: true})
	for _, want := range []string{"sbin/fsck.ext4\n", "sbin/fsck\n", "/virtio_blk.ko"} {
		if err != nil || !strings.Contains(list.String(), want) {
			t.Errorf("%s is not in the initrd: %v\n%.300s", want, err, list.String())
		}
	}
	if strings.Contains(list.String(), "kiln") {
		t.Error("something of Kiln is in the initrd")
	}
}

func containsName(fsys *ext4.FS, dir, name string) bool {
	names, err := fsys.ReadDir(dir)
	return err == nil && slices.Contains(names, name)
}

func mustDir(t *testing.T, fsys *ext4.FS, dir string) []string {
	t.Helper()
	names, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func open(t *testing.T, raw string) (*catalog.Facts, *ext4.FS) {
	t.Helper()
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, err := inspect.Read(t.Context(), f, st.Size(), "raw")
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := ext4.Open(section{f}, partLength)
	if err != nil {
		t.Fatal(err)
	}
	return facts, fsys
}

type section struct{ f *os.File }

func (s section) ReadAt(p []byte, off int64) (int, error) { return s.f.ReadAt(p, off+partStart) }

func TestCancelLeavesNothing(t *testing.T) {
	original := debian(t)
	t.Parallel()
	before := digest.File(t, original)
	work, out := t.TempDir(), filepath.Join(t.TempDir(), "new")
	for _, at := range []string{"copy", "packages"} {
		ctx, cancel := context.WithCancel(t.Context())
		x := offline.New(offline.Config{Proxy: proxy(t)})
		_, err := x.Upgrade(ctx, upgrade.Request{
			Original: original, OriginalFormat: "raw", Suites: suites(t), WorkDir: work, Output: out, OutputFormat: "qcow2",
			Progress: func(step string, done, total int64, _ string) {
				if step == at && (total == 0) == (at == "copy") && done*2 >= total {
					cancel()
				}
			},
		})
		cancel()
		if !errs.Is(err, errs.Cancelled) {
			t.Errorf("cancelled at %s: %v", at, err)
		}
		if l := left(t, work); len(l) > 0 {
			t.Errorf("cancelled at %s: left %v", at, l)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("cancelled at %s: there is an output", at)
		}
	}
	if digest.File(t, original) != before {
		t.Error("the original was changed")
	}
}

// TestKill ends the process in the middle of the packages with kill -9, and looks at what is left.
func TestKill(t *testing.T) {
	if work := os.Getenv("KILN_TEST_WORK"); work != "" {
		victim(t, work)
		return
	}
	original := debian(t)
	before := digest.File(t, original)
	work := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$", "-test.v")
	child.Env = append(os.Environ(), "KILN_TEST_WORK="+work)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	ready := false
	for !ready && s.Scan() {
		ready = strings.Contains(s.Text(), "in the middle")
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = child.Wait()
	if !ready {
		t.Fatal("the upgrade did not come to its middle")
	}
	deadline := time.Now().Add(60 * time.Second)
	for len(leftInKernel(t, work)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("mounted or looped after a kill: %v", leftInKernel(t, work))
		}
		time.Sleep(100 * time.Millisecond)
	}
	if n, err := disk.Sweep(work); err != nil || n != 1 || len(left(t, work)) > 0 {
		t.Errorf("swept %d, %v, left %v", n, err, left(t, work))
	}
	if digest.File(t, original) != before {
		t.Error("the original was changed")
	}
}

func victim(t *testing.T, work string) {
	_, err := offline.New(offline.Config{Proxy: proxy(t)}).Upgrade(t.Context(), upgrade.Request{
		Original: debian(t), OriginalFormat: "raw", Suites: suites(t), WorkDir: work, Output: filepath.Join(work, "out"), OutputFormat: "raw",
		Progress: func(step string, done, total int64, _ string) {
			if step == "packages" && total > 0 && done*2 >= total {
				fmt.Println("in the middle")
			}
		},
	})
	t.Log("was not killed: ", err)
}

// TestBrokenImages: what goes wrong is named, and nobody gets the image.
func TestBrokenImages(t *testing.T) {
	script := func(name, text string) func(*os.Root) error {
		return func(root *os.Root) error {
			return errors.Join(root.WriteFile(name, []byte(text), 0o755), root.Chmod(name, 0o755))
		}
	}
	for name, c := range map[string]struct {
		code, text string
		spoil      func(*os.Root) error
	}{
		"full":             {offline.CodeDiskFull, "bytes are missing", fill},
		"a failing script": {offline.CodePackages, "could not be upgraded", script("etc/kernel/postinst.d/zzz", "#!/bin/sh\nexit 1\n")},
		"no initrd comes":  {offline.CodeGate, "has no initrd", script("usr/sbin/update-initramfs", "#!/bin/sh\nexit 0\n")},
		"root by device":   {offline.CodeGate, "root=/dev/vda1", script("etc/grub.d/41_own", "#!/bin/sh\necho linux /boot/vmlinuz-x root=/dev/vda1\n")},
	} {
		t.Run(name, func(t *testing.T) {
			original := edited(t, debian(t), c.spoil)
			t.Parallel()
			work, out := t.TempDir(), filepath.Join(t.TempDir(), "new")
			_, err := offline.New(offline.Config{Proxy: proxy(t)}).Upgrade(t.Context(), upgrade.Request{
				Original: original, OriginalFormat: "raw", Suites: suites(t), WorkDir: work, Output: out, OutputFormat: "raw",
			})
			if errs.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Error(err)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("there is an output")
			}
			if l := left(t, work); len(l) > 0 {
				t.Errorf("left %v", l)
			}
		})
	}
}

// TestLayoutsThatAreRefused: before anything is fetched, and naming what is in the way.
func TestLayoutsThatAreRefused(t *testing.T) {
	fstab := func(line string) func(*os.Root) error {
		return func(root *os.Root) error {
			return root.WriteFile("etc/fstab", []byte("UUID="+rootUUID+" / ext4 defaults 0 1\n"+line+"\n"), 0o644)
		}
	}
	for name, c := range map[string]struct {
		want  string
		spoil func(*os.Root) error
	}{
		"boot": {"/boot of the image", fstab("UUID=0b6cd3d1-9a1f-4d56-9d0f-2f1d0a6c0001 /boot ext4 defaults 0 2")},
		"efi": {"grub-efi-amd64 keeps its files on the EFI system partition at /boot/efi", func(root *os.Root) error {
			status, err := root.ReadFile("var/lib/dpkg/status")
			status = append(status, "Package: grub-efi-amd64\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.06-13\n\n"...)
			return errors.Join(err, root.WriteFile("var/lib/dpkg/status", status, 0o644), fstab("UUID=1234-ABCD /boot/efi vfat umask=0077 0 1")(root))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			original := edited(t, debian(t), c.spoil)
			work, out := t.TempDir(), filepath.Join(t.TempDir(), "new")
			var steps []string
			report, err := offline.New(offline.Config{Proxy: proxy(t)}).Upgrade(t.Context(), upgrade.Request{
				Original: original, OriginalFormat: "raw", Suites: suites(t), WorkDir: work, Output: out, OutputFormat: "raw",
				Progress: func(step string, _, _ int64, _ string) { steps = append(steps, step) },
			})
			if errs.CodeOf(err) != offline.CodeLayout || errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), c.want) {
				t.Error(err)
			}
			if slices.Contains(steps, "lists") || report.Downloaded != 0 {
				t.Errorf("it went as far as %v, %d bytes", steps, report.Downloaded)
			}
			if l := left(t, work); len(l) > 0 {
				t.Errorf("left %v", l)
			}
		})
	}
}

// edited copies an image and changes files in it.
func edited(t *testing.T, original string, edit func(*os.Root) error) string {
	t.Helper()
	return editedPart(t, original, partLength, edit)
}

// editedPart is edited for a root partition of another length.
func editedPart(t *testing.T, original string, length int64, edit func(*os.Root) error) string {
	t.Helper()
	dir := t.TempDir()
	image := disk.Image{Path: filepath.Join(dir, "edited.raw"), Format: "raw"}
	if err := disk.Convert(t.Context(), disk.Image{Path: original, Format: "raw"}, image, nil); err != nil {
		t.Fatal(err)
	}
	s, err := disk.OpenSession(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.MountRaw(t.Context(), image.Path, partStart, length, "ext4", "")
	if err != nil {
		t.Fatal(err)
	}
	root, err := m.Root()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(edit(root), root.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return image.Path
}

// fill leaves some 40 MiB of the file system.
func fill(root *os.Root) error {
	f, err := root.Create("filler")
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bfree)*st.Bsize-40<<20), f.Close())
}

func TestBadRequests(t *testing.T) {
	good := func() upgrade.Request {
		return upgrade.Request{Original: "/nowhere/a", OriginalFormat: "raw", WorkDir: t.TempDir(), Output: "/nowhere/b", OutputFormat: "raw",
			Suites: []upgrade.Suite{{Mirror: "http://mirror.example.org/debian", Suite: "bookworm", Components: []string{"main"}}}}
	}
	p, err := mirror.New(mirror.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for name, spoil := range map[string]func(*upgrade.Request){
		"no suites":         func(r *upgrade.Request) { r.Suites = nil },
		"no components":     func(r *upgrade.Request) { r.Suites[0].Components = nil },
		"file mirror":       func(r *upgrade.Request) { r.Suites[0].Mirror = "file:/etc" },
		"options in mirror": func(r *upgrade.Request) { r.Suites[0].Mirror = "http://x.example.org/ [trusted=yes]" },
		"two lines":         func(r *upgrade.Request) { r.Suites[0].Suite = "bookworm main\ndeb [trusted=yes]" },
		"output is input":   func(r *upgrade.Request) { r.Output = r.Original },
		"no such original":  func(*upgrade.Request) {},
	} {
		req := good()
		spoil(&req)
		if _, err := offline.New(offline.Config{Proxy: p}).Upgrade(t.Context(), req); errs.CodeOf(err) != offline.CodeRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}
