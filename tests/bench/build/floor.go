package main

import (
	"bytes"
	"context"
	_ "embed" // the script
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb"
)

// floorScript is the least that makes the same image with Debian's own tools and nothing around them.
//
//go:embed floor.sh
var floorScript string

// base is what Kiln's images have beside the packages that are named.
var base = []string{"apt", "e2fsprogs", "mount", "passwd", "tzdata", "util-linux-extra", "usr-is-merged", "systemd-sysv", "udev", "dbus",
	"initramfs-tools", "zstd", "linux-image-cloud-amd64", "grub2-common", "grub-pc-bin"}

func floor(ctx context.Context, b *bench) (outcome, error) {
	work := filepath.Join(b.dir, "floor")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return outcome{}, err
	}
	out := filepath.Join(b.dir, "floor.qcow2")
	m, _, err := b.mirrors()
	if err != nil {
		return outcome{}, err
	}
	text, err := b.shell(ctx, floorScript, work, out, m.Main, release, strings.Join(append(append([]string{}, base...), packages...), ","))
	return outcome{Image: out, Disk: text}, err
}

// shell runs a script behind a package proxy of its own. What it prints to descriptor 3 is its result.
func (b *bench) shell(ctx context.Context, script string, args ...string) (string, error) {
	_, proxy, err := b.mirrors()
	if err != nil {
		return "", err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute}
	go srv.Serve(l)   //nolint:errcheck // ends with Close
	defer srv.Close() //nolint:errcheck // its clients have ended
	tmp, err := os.CreateTemp(b.dir, "told-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // the run's folder goes too
	defer tmp.Close()           //nolint:errcheck // written by the script
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-eu", "-c", script, "bench"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		"http_proxy=http://" + l.Addr().String(), "KEYRING=" + deb.DefaultKeyring}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stderr, os.Stderr, []*os.File{tmp}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("the script: %w", err)
	}
	told, err := os.ReadFile(tmp.Name())
	return string(bytes.TrimSpace(told)), err
}
