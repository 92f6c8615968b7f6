package testboot_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
	"github.com/kiln-cloud/kiln/pkg/disk"
)

// killEnv makes this test program the worker that is killed: it boots the image that the variable names, in the folder
// after the colon.
const killEnv = "KILN_TEST_BOOT_AND_BE_KILLED"

func TestMain(m *testing.M) {
	image, dir, ok := strings.Cut(os.Getenv(killEnv), ":")
	if !ok {
		os.Exit(m.Run())
	}
	q, err := testboot.New(testboot.Config{Dir: dir})
	if err == nil {
		_, err = q.Boot(context.Background(), build.BootTest{Disk: build.Artifact{Format: "raw", Path: image}})
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKilledWorkerLeavesNothing: kill -9, and the machine ends with it; the next start removes the folder.
func TestKilledWorkerLeavesNothing(t *testing.T) {
	image, dir := boottest.Tiny(t, "silent", ""), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), killEnv+"="+image+":"+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	qemu := ""
	for deadline := time.Now().Add(time.Minute); qemu == ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("QEMU did not start")
		}
		qemu = child(cmd.Process.Pid)
	}
	limits, err := os.ReadFile(filepath.Join(qemu, "limits"))
	if err != nil || !regexp.MustCompile(`(?m)^Max address space +[0-9]+ `).Match(limits) || !regexp.MustCompile(`(?m)^Max file size +[0-9]+ `).Match(limits) {
		t.Errorf("QEMU runs without bounds: %v\n%s", err, limits)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if text, err := os.ReadFile(filepath.Join(qemu, "cmdline")); err != nil || len(text) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s runs on", qemu)
		}
	}
	if n, err := disk.Sweep(dir); err != nil || n != 1 {
		t.Errorf("swept %d, %v", n, err)
	}
	nothingLeft(t, dir)
}

// child finds the QEMU that the process started.
func child(parent int) string {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return ""
	}
	for _, p := range all {
		status, err := os.ReadFile(filepath.Join(p, "status"))
		if err == nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", parent)) && strings.HasPrefix(string(status), "Name:\tqemu-system") {
			return p
		}
	}
	return ""
}
