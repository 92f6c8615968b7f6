package baddays

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// A tenant's qcow2 that names a file of the host is refused by its header: its image is unreadable with the reason,
// an upgrade of it fails, and nobody opened the file.
func TestDisksThatNameFilesOfTheHost(t *testing.T) {
	w := newWorld(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	disks := map[string][]string{
		"kiln.disk.backing_file": {"-b", secret, "-F", "raw", "-u"},
		"kiln.disk.data_file":    {"-o", "data_file=" + secret + ",data_file_raw=on"},
	}
	images := map[string]string{}
	for code, args := range disks {
		path := filepath.Join(t.TempDir(), "disk.qcow2")
		tool(t, "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, args...), path, "1M")...)
		images[code] = w.uploadFile(code, "qcow2", path)
		w.version(catalog.FamilyName(strings.ReplaceAll(code, "_", "-")), images[code])
	}
	opened := watchOpens(t, secret)
	if _, err := os.ReadFile(secret); err != nil || opened() == 0 {
		t.Fatalf("the watch does not see an open: %v", err)
	}

	w.startAPI()
	w.start("kiln-worker")
	for code, image := range images {
		j, log := w.ended(w.inspect(image), 30*time.Second)
		if j.State != job.Succeeded {
			t.Errorf("%s: the inspection %s: %+v %v", code, j.State, j.Error, log)
		}
		var got catalog.Image
		if err := w.member.Get(t.Context(), "/v1/images/"+image, &got); err != nil || got.State != catalog.Unreadable || got.Facts != nil || got.Reason == "" || strings.Contains(got.Reason, secret) {
			t.Errorf("%s: %+v, error %v", code, got, err)
		}
		t.Logf("%s: %s", code, got.Reason)
		w.notUpgraded(image, code)
	}
	if n := opened(); n != 0 {
		t.Errorf("the file of the host was opened %d times", n)
	}
	if all := w.images(); len(all) != len(images) {
		t.Errorf("Glance has %d images", len(all))
	}
	if left := files(t, filepath.Join(w.dir, "state", "work")); len(left) > 0 {
		t.Errorf("the worker left %v", left)
	}
}

func (w *world) notUpgraded(image, code string) {
	w.t.Helper()
	var u upgrade.Upgrade
	if err := w.member.Post(w.t.Context(), "/v1/upgrades", map[string]string{"image_id": image}, &u); err != nil {
		w.t.Fatal(err)
	}
	j, _ := w.ended(u.JobID, 30*time.Second)
	if j.State != job.Failed || j.Attempt != 1 || j.Error == nil || j.Error.Code != code {
		w.t.Errorf("the upgrade's job is %s after %d attempts: %+v", j.State, j.Attempt, j.Error)
	}
	if err := w.member.Get(w.t.Context(), "/v1/upgrades/"+u.ID, &u); err != nil || u.State != upgrade.Failed || u.Error == "" || u.ToImageID != "" {
		w.t.Errorf("upgrade %+v, error %v", u, err)
	}
}

// watchOpens counts the opens of a file by anybody on the machine since the last call.
func watchOpens(t *testing.T, path string) func() int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_ACCESS)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func() int {
		n := 0
		for buf := make([]byte, 4096); ; {
			got, err := unix.Read(fd, buf)
			if err != nil || got <= 0 {
				return n
			}
			n += got / unix.SizeofInotifyEvent // a watched file itself has events without a name
		}
	}
}

// tool runs a program of the machine.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", name)); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%s: %w\n%s", name, err, out))
	}
}
