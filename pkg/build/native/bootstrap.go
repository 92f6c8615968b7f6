package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Layout of the disk: a BIOS boot partition for GRUB's core, then the root up to the table's copy.
const (
	bootStart = 1 << 20
	rootStart = 2 << 20
	rootIndex = 1 // as Debian's own cloud images number it, with the boot partition as 14
	bootIndex = 14
)

const hostPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// makeDisk writes the partition table and the file system, and mounts it.
func (m *making) makeDisk(ctx context.Context) error {
	size := int64(m.recipe.Disk.Size)
	f, err := os.OpenFile(m.rawPath(), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The disk file cannot be made.")
	}
	err = f.Truncate(size)
	if err == nil {
		err = disk.WriteGPT(f, size, m.builder.cfg.NewUUID(), []disk.Partition{
			{Index: bootIndex, Type: disk.TypeBIOSBoot, UUID: m.builder.cfg.NewUUID(), Start: bootStart, Length: rootStart - bootStart},
			{Index: rootIndex, Type: disk.TypeRootAMD64, UUID: m.builder.cfg.NewUUID(), Name: "root", Start: rootStart, Length: m.rootLength()},
		})
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errs.Wrap(err, errs.KindOf(err), CodeHost, "The disk file cannot be made.")
	}
	// The inode tables of a fresh file are zeros already: told so, the guest's kernel does not write them at its first boot.
	// GRUB 2.06 does not read checksum seeds and orphan files, which newer e2fsprogs switch on.
	if err := m.host(ctx, "mke2fs", "-q", "-t", "ext4", "-F", "-U", m.rootUUID, "-L", "root", "-m", "1", "-O", "^metadata_csum_seed,^orphan_file",
		"-E", fmt.Sprintf("offset=%d,lazy_itable_init=0,lazy_journal_init=1,nodiscard", rootStart), m.rawPath(), fmt.Sprintf("%dk", m.rootLength()/1024)); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The file system cannot be made; install e2fsprogs.")
	}
	if m.session, err = disk.OpenSession(ctx, m.work); err != nil {
		return err
	}
	// Without its journal: a build that breaks off is thrown away, and what the journal holds would be in the image.
	return m.mount(ctx, "noatime,noload")
}

func (m *making) mount(ctx context.Context, options string) (err error) {
	m.root, err = m.session.MountRaw(ctx, m.rawPath(), rootStart, m.rootLength(), "ext4", options)
	return err
}

func (m *making) rootLength() int64 {
	return (int64(m.recipe.Disk.Size) - rootStart - disk.GPTReserve) >> 20 << 20
}

// bootstrap fetches and unpacks the essential packages and apt. The extract variant runs nothing of the image, so it
// may run outside of the sandbox; it still gets a pid namespace, so that all of it ends with us.
func (m *making) bootstrap(ctx context.Context) error {
	addr, stop, err := serveProxy(ctx, m.proxy)
	if err != nil {
		return err
	}
	defer stop()
	source := fmt.Sprintf("deb [signed-by=%s] %s %s main", m.builder.cfg.Keyring, m.builder.cfg.Mirrors.Main, m.recipe.From.Release)
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		"mmdebstrap", "--mode=root", "--variant=extract", "--include=?essential", "--include=apt", "--skip=cleanup", "--skip=download/empty",
		"--format=directory", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--aptopt=Acquire::Languages none",
		m.recipe.From.Release, m.root.Path(), source)
	cmd.Env = []string{hostPath, "LC_ALL=C.UTF-8", "HOME=/root", "TMPDIR=/tmp", "http_proxy=http://" + addr}
	if err := m.inSession(ctx, cmd); err != nil {
		return errs.Wrap(err, errs.Unavailable, CodeBootstrap, "The base of %s cannot be fetched from the package mirror.", m.recipe.From.Release)
	}
	return nil
}

// host runs a tool of this machine.
func (m *making) host(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{hostPath, "LC_ALL=C.UTF-8"}
	return m.inSession(ctx, cmd)
}

// inSession runs cmd where the tree is mounted, logs its output and puts the last lines into its error.
func (m *making) inSession(ctx context.Context, cmd *exec.Cmd) error {
	var last bytes.Buffer
	cmd.Stdout = io.MultiWriter(m.log, &last)
	cmd.Stderr = cmd.Stdout
	cmd.WaitDelay = 10 * time.Second
	var err error
	if m.session == nil {
		if err = disk.StartTied(cmd); err == nil {
			err = cmd.Wait()
		}
	} else {
		err = m.session.Run(ctx, cmd)
	}
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(last.String()), "\n")
	return fmt.Errorf("%s: %w: %s", cmd.Args[0], err, strings.Join(lines[max(0, len(lines)-5):], "; "))
}

// serveProxy answers for the mirror on a free port of loopback, for the tools that run outside of the sandbox.
func serveProxy(ctx context.Context, h http.Handler) (addr string, stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, errs.Wrap(err, errs.Internal, CodeHost, "The mirror proxy cannot listen on loopback.")
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	return l.Addr().String(), func() {
		srv.Close() //nolint:errcheck // its clients have ended
	}, nil
}
