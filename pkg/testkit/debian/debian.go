// Package debian makes Debian systems for tests and benchmarks: packages come from the machine's mirrors through a proxy
// that keeps them, and a tree becomes a disk that boots. It stands for images that somebody else made: nothing of Kiln's
// builders is in it. It needs root, mmdebstrap, e2fsprogs, GRUB's tools and qemu-img.
package debian

import (
	"context"
	"crypto/sha256"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
)

// DiskScript defines make_disk TREE RAW WORK: a GPT disk of 4 GiB with the tree as ext4 and GRUB for BIOS, without a device
// or a mount.
//
//go:embed disk.sh
var DiskScript string

//go:embed images.sh
var imagesScript string

// Fleet are images of one release as its last point left it, so that every later fix is pending.
type Fleet struct {
	Release  string
	Common   []string // packages of all images, with a kernel, GRUB and what else a system needs to boot
	Variants []string // "name:package,package": what each has beside them
	Setup    string   // shell text that changes the tree $1, which all images stand on
	Dir      string   // where <name>.qcow2 are kept; those that are there are not made again
	Work     string   // on a disk with room for two trees
	Mirrors  deb.Mirrors
	Proxy    http.Handler
}

// Make makes the images that are missing.
func (f Fleet) Make(ctx context.Context) error {
	args := append([]string{filepath.Join(f.Work, "trees"), f.folder(), f.Mirrors.Main, f.Release, strings.Join(f.Common, ","), f.Setup}, f.Variants...)
	if err := os.MkdirAll(f.Work, 0o755); err != nil {
		return err
	}
	_, err := Shell(ctx, f.Proxy, f.Work, DiskScript+imagesScript, args...)
	return errors.Join(err, os.RemoveAll(filepath.Join(f.Work, "trees")))
}

// folder is named after all that goes into the images, but for what the mirror has on the day.
func (f Fleet) folder() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q %q %q", f.Release, f.Common, f.Variants, f.Setup))
	return filepath.Join(f.Dir, hex.EncodeToString(sum[:6]))
}

// Path is where the image of a variant is.
func (f Fleet) Path(i int) string {
	name, _, _ := strings.Cut(f.Variants[i%len(f.Variants)], ":")
	return filepath.Join(f.folder(), name+".qcow2")
}

// System are packages that an image needs to boot and to be one of a cloud.
func System() []string {
	return []string{"apt", "e2fsprogs", "mount", "passwd", "tzdata", "util-linux-extra", "usr-is-merged", "systemd-sysv", "udev", "dbus", "iproute2",
		"initramfs-tools", "zstd", "linux-image-cloud-amd64", "grub2-common", "grub-pc-bin", "cloud-init", "openssh-server", "python3", "ca-certificates", "sudo"}
}

// Mirrors are the machine's, and a proxy that keeps their packages in a folder.
func Mirrors(dir string) (deb.Mirrors, *mirror.Proxy, error) {
	m, err := deb.MachineMirrors()
	if err != nil {
		return m, nil, err
	}
	p, err := mirror.New(mirror.Config{Upstreams: []string{m.Main, m.Security}, Dir: dir})
	return m, p, err
}

// Shell runs a script whose http_proxy is the proxy. What it prints to descriptor 3 is its result; what it says goes to
// standard error.
func Shell(ctx context.Context, proxy http.Handler, dir, script string, args ...string) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute}
	go srv.Serve(l)   //nolint:errcheck // ends with Close
	defer srv.Close() //nolint:errcheck // its clients have ended
	told, err := os.CreateTemp(dir, "told-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(told.Name()) //nolint:errcheck // the run's folder goes too
	defer told.Close()           //nolint:errcheck // written by the script
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-eu", "-c", script, "bench"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		"http_proxy=http://" + l.Addr().String(), "KEYRING=" + deb.DefaultKeyring}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stderr, os.Stderr, []*os.File{told}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("the script: %w", err)
	}
	text, err := os.ReadFile(told.Name())
	return strings.TrimSpace(string(text)), errors.Join(err, ctx.Err())
}
