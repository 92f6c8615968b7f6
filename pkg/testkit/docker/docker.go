// Package docker gives a test a Docker of its own (Debian package docker.io).
package docker

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
)

// Start starts a Docker without a network that shares nothing with one of this machine's, and gives what runs its client:
// that answers what the client printed, and fails the test where the client fails. It ends with the test, or with
// this process. It needs root.
func Start(t *testing.T) func(args ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kd") //nolint:usetesting // short: a socket's path may have 107 characters
	if err != nil {
		t.Fatal(err)
	}
	socket := "unix://" + dir + "/s"
	var log bytes.Buffer
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, "dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--host", socket, "--pidfile", dir+"/pid",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs", "--config-file", dir+"/none.json", "--containerd-namespace", "kiln-test")
	if err := os.WriteFile(dir+"/none.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	if err := disk.StartTied(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // it was interrupted
		if t.Failed() {
			t.Log(log.String()[max(0, log.Len()-3000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	client := func(args ...string) (string, error) {
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()
		out, err := exec.CommandContext(ctx, "docker", append([]string{"--host", socket}, args...)...).CombinedOutput()
		return string(out), err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := client("version"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("dockerd does not answer within a minute")
		}
	}
	return func(args ...string) string {
		t.Helper()
		out, err := client(args...)
		if err != nil {
			t.Fatalf("docker %v: %v\n%s", args, err, out)
		}
		return out
	}
}
