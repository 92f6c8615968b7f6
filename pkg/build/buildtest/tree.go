package buildtest

import (
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/disk"
)

// openTree opens the root file system of a finished disk, without a mount.
func openTree(t *testing.T, path string) *ext4.FS {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if err := disk.Convert(t.Context(), disk.Image{Path: path, Format: disk.Qcow2}, disk.Image{Path: raw, Format: disk.Raw}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() }) //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	parts, err := disk.Partitions(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	root, err := disk.FindRoot(f, parts)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := ext4.Open(io.NewSectionReader(f, root.Start, root.Length), root.Length)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// checkTree looks for what each step of the suite's recipe asked for, and for what no image should have.
func checkTree(t *testing.T, tree *ext4.FS, more map[string]string) {
	t.Helper()
	if tree.Dirty() {
		t.Error("the file system was not unmounted")
	}
	wanted := map[string]string{
		"/etc/contract/plain":              "it's plain\n",
		"/etc/contract/template":           "hello from contract\n",
		"/etc/contract/interfaces":         "1\n", // scripts have loopback only
		"/etc/contract/stamp":              "(alice) groups=",
		"/etc/contract/tree":               "template",
		"/etc/passwd":                      "alice:",
		"/home/alice/.ssh/authorized_keys": "ssh-ed25519 AAAAC3Nz it's me\n",
		"/etc/machine-id":                  "",
		"/usr/bin/tree":                    "ELF",
	}
	maps.Copy(wanted, more)
	for name, want := range wanted {
		got, err := tree.ReadFile(name, 1<<20)
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s: %v, %.300q has no %q", name, err, got, want)
		}
	}
	if e, err := tree.Stat("/etc/contract/plain"); err != nil || e.Mode.Perm() != 0o750 || e.Mode&os.ModeSetuid == 0 {
		t.Errorf("/etc/contract/plain: %+v, %v", e, err)
	}
	if to, err := tree.ReadLink("/etc/systemd/system/multi-user.target.wants/contract.service"); err != nil {
		t.Errorf("contract.service is not enabled: %q, %v", to, err)
	}
	// What boots by itself has no trace of where it was built.
	if grub, err := tree.ReadFile("/boot/grub/grub.cfg", 1<<20); err != nil || !strings.Contains(string(grub), tree.UUID()) || strings.Contains(string(grub), "loop") {
		t.Errorf("grub.cfg: %v\n%s", err, grub)
	}
	for _, gone := range []string{"/usr/sbin/policy-rc.d", "/var/tmp/kiln-build", "/etc/apt/apt.conf.d/00kiln-build", "/etc/apt/apt.conf.d/60img-build-proxy",
		"/root/.ssh/authorized_keys", "/var/lib/cloud/instance", "/etc/ssh/ssh_host_ed25519_key", "/var/lib/systemd/random-seed"} {
		if _, err := tree.Stat(gone); err == nil {
			t.Errorf("%s stayed in the image", gone)
		}
	}
	for _, empty := range []string{"/var/lib/apt/lists", "/var/cache/apt/archives"} {
		names, err := tree.ReadDir(empty)
		for _, name := range names {
			if strings.Contains(name, "Packages") || strings.HasSuffix(name, ".deb") {
				t.Errorf("%s has %s, %v", empty, name, err)
			}
		}
	}
}

// boots starts the image in QEMU until it asks who is there.
func boots(t *testing.T, path string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Minute)
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
	var console strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(console.String(), "login:") {
		n, err := out.Read(buf)
		console.Write(buf[:n])
		if err != nil || strings.Contains(console.String(), "Failed to boot") {
			t.Errorf("it does not boot: %v\n%s", err, console.String()[max(0, console.Len()-3000):])
			break
		}
	}
	t.Logf("booted in %s", time.Since(start).Round(time.Second))
	stop()
	_ = cmd.Wait()
}
