package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// enterNamespaces moves the calling thread, which must be locked and end soon, into the mount namespace at path and
// into a fresh network namespace with nothing but loopback, and listens there if asked to. The socket stays in that
// namespace whichever thread accepts from it.
func enterNamespaces(path string, listen bool) (net.Listener, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // read only
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("mount namespace: %w", err)
	}
	// A copy of our own, so that what is mounted for the runtime alone does not appear in the session.
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("mount namespace: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	if !listen {
		return nil, nil //nolint:nilnil // no listener was asked for
	}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp4", ProxyAddress)
}

// hideCgroups covers the control groups from crun, which refuses to start where versions 1 and 2 both have
// controllers, even if told not to use them.
func hideCgroups() error {
	err := unix.Mount("tmpfs", cgroupMount, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,mode=0755")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	req, err := unix.NewIfreq("lo")
	if err == nil {
		req.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
	}
	return errors.Join(err, unix.Close(fd))
}
