package pen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// loops is how many loop devices the tool can name. The kernel makes nodes of new ones in the host's /dev only.
const loops = 256

// mount builds what the tool sees, on the calling thread, which has a mount namespace of its own: the work folder at
// Work, its tmp at /tmp, and a /dev with nothing of the host's disks. All of it goes with the namespace.
func (s *Spec) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	for _, name := range []string{"tmp", "home", "bin"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, name), 0o755); err != nil {
			return err
		}
	}
	// Held open, because any of them may be below what Work covers.
	sources := make([]*os.File, len(s.Binds))
	for i, b := range s.Binds {
		f, err := os.OpenFile(b.Source, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // a path, no data
		sources[i] = f
	}
	if err := unix.Mount(s.Dir, Work, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("the work folder: %w", err)
	}
	for i, b := range s.Binds {
		if err := bindReadOnly(sources[i], s.inWork(b.Target)); err != nil {
			return fmt.Errorf("%s: %w", b.Target, err)
		}
	}
	if err := unix.Mount(s.inWork("tmp"), "/tmp", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("/tmp: %w", err)
	}
	if err := s.devices(); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	return nil
}

// unmount drops the mounts that hold the work folder now, not when the thread has ended.
func (s *Spec) unmount() error {
	var all error
	for _, at := range []string{"/tmp", Work} {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			all = errors.Join(all, fmt.Errorf("unmounting %s: %w", at, err))
		}
	}
	return all
}

func bindReadOnly(source *os.File, target string) error {
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", source.Fd()), target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// devices mounts a /dev of our own.
func (s *Spec) devices() error {
	// Made beside the old one, because /dev/pts comes from there.
	dev := filepath.Join(Work, "dev")
	if err := os.MkdirAll(dev, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=16m,mode=0755"); err != nil {
		return err
	}
	nodes := []Node{
		{"null", unix.S_IFCHR | 0o666, unix.Mkdev(1, 3)}, {"zero", unix.S_IFCHR | 0o666, unix.Mkdev(1, 5)},
		{"full", unix.S_IFCHR | 0o666, unix.Mkdev(1, 7)}, {"random", unix.S_IFCHR | 0o666, unix.Mkdev(1, 8)},
		{"urandom", unix.S_IFCHR | 0o666, unix.Mkdev(1, 9)}, {"tty", unix.S_IFCHR | 0o666, unix.Mkdev(5, 0)},
	}
	for _, n := range append(nodes, s.Nodes...) {
		path := filepath.Join(dev, n.Name)
		if err := unix.Mknod(path, n.Mode|0o600, int(n.Dev)); err != nil {
			return err
		}
		if err := os.Chmod(path, os.FileMode(n.Mode&0o777|0o600)); err != nil { // whatever the umask is
			return err
		}
	}
	for _, name := range []string{"pts", "shm", "mapper"} {
		if err := os.Mkdir(filepath.Join(dev, name), 0o755); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", filepath.Join(dev, "shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return err
	}
	return unix.Mount(dev, "/dev", "", unix.MS_MOVE, "")
}

// LoopNodes are the loop devices, for a tool that makes disks.
func LoopNodes() []Node {
	out := []Node{{"loop-control", unix.S_IFCHR, unix.Mkdev(10, 237)}}
	for i := range loops {
		out = append(out, Node{fmt.Sprintf("loop%d", i), unix.S_IFBLK, unix.Mkdev(7, uint32(i))})
	}
	return out
}

// loopbackUp switches on the only interface of a fresh network namespace.
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
