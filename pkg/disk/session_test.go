package disk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// ext4Disk makes a raw disk of 64 MiB with an ext4 file system at 1 MiB.
func ext4Disk(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "mke2fs", "-q", "-t", "ext4", "-E", "offset=1048576", path, "60m").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root, loop devices and e2fsprogs")
	}
}

// traces are what a session could leave on the host: loop devices on the file and visible mounts.
func traces(t *testing.T, file, dir string) string {
	t.Helper()
	loops, err := exec.CommandContext(t.Context(), "losetup", "-j", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	left := string(loops)
	var leftSb59 strings.Builder
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if strings.Contains(line, dir) {
			leftSb59.WriteString(line)
		}
	}
	left += leftSb59.String()
	return left
}

func waitClean(t *testing.T, file, dir string) {
	t.Helper()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := traces(t, file, dir)
		if left == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after 2 s the host still has: %s", left)
		}
	}
}

func TestSessionMountsPrivatelyAndWrites(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	path := ext4Disk(t, dir)
	ctx := t.Context()
	s, err := disk.OpenSession(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.MountRaw(ctx, path, 1<<20, 60<<20, "ext4", "noatime")
	if err != nil {
		t.Fatal(err)
	}
	if left := traces(t, "/nonexistent", dir); left != "" {
		t.Fatalf("the host sees %s", left)
	}
	if names, _ := os.ReadDir(m.Path()); len(names) != 0 {
		t.Fatalf("the host sees the files: %v", names)
	}
	root, err := m.Root()
	if err != nil {
		t.Fatal(err)
	}
	if err := root.WriteFile("hello", []byte("kiln"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := root.Symlink("/etc/passwd", "evil"); err != nil {
		t.Fatal(err)
	}
	if b, err := root.ReadFile("evil"); err == nil {
		t.Fatalf("a symlink led out of the image: %q", b)
	}
	cmd := exec.CommandContext(ctx, "cat", filepath.Join(m.Path(), "hello"))
	var out strings.Builder
	cmd.Stdout = &out
	if err := s.Run(ctx, cmd); err != nil || out.String() != "kiln" {
		t.Fatalf("a command in the session read %q: %v", out.String(), err)
	}
	if b, err := os.ReadFile(filepath.Join(m.HostPath(), "hello")); err != nil || string(b) != "kiln" {
		t.Fatalf("HostPath: %q %v", b, err)
	}
	short, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if err := m.Unmount(short); errs.CodeOf(err) != disk.CodeBusy {
		t.Fatalf("unmounted under an open root: %v", err)
	}
	root.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
	waitClean(t, path, dir)
	if _, err := s.MountTmpfs(ctx, 1<<20); errs.CodeOf(err) != disk.CodeClosed {
		t.Fatalf("mounted in a closed session: %v", err)
	}
	out2, err := exec.CommandContext(ctx, "debugfs", "-R", "cat hello", path+"?offset=1048576").Output()
	if err != nil || string(out2) != "kiln" {
		t.Fatalf("on the disk: %q %v", out2, err)
	}
}

func TestMountRawRefusesGarbage(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	path := ext4Disk(t, dir)
	s, err := disk.OpenSession(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.MountRaw(t.Context(), path, 3<<20, 4<<20, "ext4", "ro"); errs.CodeOf(err) != disk.CodeMount {
		t.Fatal(err)
	}
	if _, err := s.MountRaw(t.Context(), path, 1<<20, 1<<40, "ext4", "ro"); errs.KindOf(err) != errs.Invalid {
		t.Fatal(err)
	}
	waitClean(t, path, dir)
}

// TestKilledProcessLeavesNothing starts itself as a child that mounts and runs a command in the session, kills it
// with -9, and looks at the host.
func TestKilledProcessLeavesNothing(t *testing.T) {
	needRoot(t)
	if dir := os.Getenv("KILN_TEST_MOUNT_DIR"); dir != "" {
		mountAndWait(t, dir)
	}
	dir := t.TempDir()
	path := ext4Disk(t, dir)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledProcessLeavesNothing$")
	child.Env = append(os.Environ(), "KILN_TEST_MOUNT_DIR="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("child said %q: %v", line, err)
	}
	var sleeper int
	if _, err := fmt.Sscanf(line, "ready %d", &sleeper); err != nil {
		t.Fatalf("child said %q", line)
	}
	if loops, _ := exec.CommandContext(t.Context(), "losetup", "-j", path).Output(); len(loops) == 0 {
		t.Fatal("the child has no loop device; the test would prove nothing")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, out)
	child.Wait()
	waitClean(t, path, dir)
	if stat, err := os.ReadFile("/proc/" + strconv.Itoa(sleeper) + "/stat"); !errors.Is(err, os.ErrNotExist) && !strings.Contains(string(stat), ") Z ") {
		t.Fatalf("the session's command is still alive: %s %v", stat, err)
	}
	if n, err := disk.Sweep(dir); err != nil || n != 1 {
		t.Fatalf("swept %d: %v", n, err)
	}
}

func mountAndWait(t *testing.T, dir string) {
	t.Helper()
	work, err := disk.NewWork(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := disk.OpenSession(t.Context(), work.Path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.MountRaw(t.Context(), filepath.Join(dir, "disk.raw"), 1<<20, 60<<20, "ext4", "")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.Dir = m.HostPath() // keeps the mount busy
	if err := s.Start(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("ready %d\n", cmd.Process.Pid)
	cmd.Wait()
}

func TestSweepSparesTheLiving(t *testing.T) {
	dir := t.TempDir()
	w, err := disk.NewWork(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Path, "half"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := disk.Sweep(dir); n != 0 || err != nil {
		t.Fatalf("swept %d living: %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
	if n, err := disk.Sweep(filepath.Join(dir, "none")); n != 0 || err != nil {
		t.Fatalf("a folder that is not there: %d %v", n, err)
	}
}
