package main

import (
	"context"
	_ "embed" // the script
	"os"
	"path/filepath"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/testkit/debian"
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
	m, p, err := b.mirrors()
	if err != nil {
		return outcome{}, err
	}
	text, err := debian.Shell(ctx, p, b.dir, debian.DiskScript+floorScript, work, out, m.Main, release, strings.Join(append(append([]string{}, base...), packages...), ","))
	return outcome{Image: out, Disk: text}, err
}
