package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// capabilities are what dpkg and maintainer scripts need: owners and modes of files, users, file capabilities,
// chroot, and signals to processes of other users in the same sandbox. Not MKNOD: a device node would be a way out.
var capabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETUID", "CAP_SETGID",
	"CAP_SETFCAP", "CAP_SYS_CHROOT", "CAP_KILL"}

// prepare writes the files that we bind into the image.
func (b *box) prepare() error {
	b.binds = append(b.binds, b.spec.Binds...)
	rootfs := b.session.HostPath(b.spec.Rootfs)
	write := func(name, text, target string) error {
		path := filepath.Join(b.bundle, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRuntime, "The sandbox's folder cannot be filled.")
		}
		b.binds = append(b.binds, Bind{Source: path, Target: target, ReadOnly: true})
		return nil
	}
	if !b.spec.StartServices && exists(filepath.Join(rootfs, "usr/sbin")) {
		if err := write("policy-rc.d", "#!/bin/sh\nexit 101\n", "/usr/sbin/policy-rc.d"); err != nil {
			return err
		}
	}
	if d := b.spec.RootDisk; d != nil {
		byUUID := filepath.Join(b.bundle, "disk", "by-uuid")
		if err := os.MkdirAll(byUUID, 0o755); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRuntime, "The sandbox's folder cannot be filled.")
		}
		if err := os.WriteFile(filepath.Join(byUUID, d.UUID), nil, 0o644); err != nil {
			return errs.Wrap(err, errs.Internal, CodeRuntime, "The sandbox's folder cannot be filled.")
		}
		b.binds = append(b.binds, Bind{Source: filepath.Dir(byUUID), Target: "/dev/disk", ReadOnly: true})
		if exists(filepath.Join(rootfs, "usr/sbin/grub-probe")) {
			if err := write("grub-probe", grubProbe(*d), "/usr/sbin/grub-probe"); err != nil {
				return err
			}
		}
		// initramfs-tools would ask the device for its type to find the right fsck. It reads this folder and, unlike
		// conf.d, does not copy it into what it makes.
		if at := "/usr/share/initramfs-tools/conf-hooks.d"; exists(filepath.Join(rootfs, at)) {
			return write("fstype", "[ \"${FSTYPE:-auto}\" != auto ] || FSTYPE="+d.fsType()+"\n", at+"/kiln-root")
		}
	}
	return nil
}

// grubProbe answers what grub-mkconfig asks about the root, which has no device node inside: the real one would
// find the host's loop device and write root=/dev/loop0, which does not boot.
func grubProbe(d RootDisk) string {
	fs := d.fsType()
	if strings.HasPrefix(fs, "ext") {
		fs = "ext2" // GRUB's one name for all of them
	}
	return fmt.Sprintf(`#!/bin/sh
target=fs
while [ $# -gt 0 ]; do
  case "$1" in
    -t) target=$2; shift ;;
    --target=*) target=${1#--target=} ;;
  esac
  shift
done
case "$target" in
  device|disk) echo /dev/disk/by-uuid/%[1]s ;;
  fs_uuid) echo %[1]s ;;
  fs) echo %[2]s ;;
  partmap) echo gpt ;;
esac
`, d.UUID, fs)
}

// fsType is a word that a shell script may have as it is.
func (d RootDisk) fsType() string {
	word := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, d.FSType)
	if word == "" {
		return "ext4"
	}
	return word
}

// config is the OCI runtime configuration (runtime-spec 1.0).
func (b *box) config(grouped bool) *specs.Spec {
	set := &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
	dir := b.spec.Dir
	if dir == "" {
		dir = "/"
	}
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: "kiln",
		Root:     &specs.Root{Path: b.spec.Rootfs},
		Process: &specs.Process{Args: b.spec.Args, Env: b.env(), Cwd: dir, NoNewPrivileges: true, Capabilities: set,
			Rlimits: b.rlimits(grouped)},
		Mounts: b.mounts(),
		Hooks:  noDevices(b.spec.Rootfs),
		Linux: &specs.Linux{
			// No network entry: the namespace that the starting thread made is inherited.
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.IPCNamespace}},
			Seccomp: b.seccomp(),
			MaskedPaths: b.masked("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/kmsg", "/proc/kallsyms", "/proc/interrupts",
				"/proc/partitions", "/proc/diskstats", "/proc/config.gz", "/proc/vmallocinfo", "/proc/slabinfo"),
			ReadonlyPaths: b.masked("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
		},
	}
}

// noDevices makes the tree's device nodes and setuid bits mean nothing. The session mounts it so, but crun binds the root
// once more without those flags, and a node of the host's disk in a hostile image would be the disk. The hook runs in the
// sandbox's mount namespace before its root is changed; where it fails, the runtime does not start the command.
func noDevices(rootfs string) *specs.Hooks {
	// The runtime writes its state to the hook, and takes it for a failure when nobody reads it.
	script := "cat >/dev/null; exec mount -n -o remount,bind,nosuid,nodev,noatime \"$0\""
	return &specs.Hooks{CreateContainer: []specs.Hook{{
		Path: "/bin/sh", Args: []string{"sh", "-c", script, rootfs}, Env: []string{"PATH=" + defaultPath},
	}}}
}

func (b *box) env() []string {
	env := []string{"PATH=" + defaultPath, "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	if b.spec.Proxy != nil {
		env = append(env, "http_proxy=http://"+ProxyAddress)
	}
	// A name that is there twice has its first value for some programs and its last one for others.
	env = slices.DeleteFunc(env, func(ours string) bool {
		name, _, _ := strings.Cut(ours, "=")
		return slices.ContainsFunc(b.spec.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	})
	return append(env, b.spec.Env...)
}

func (b *box) rlimits(grouped bool) []specs.POSIXRlimit {
	limits := []specs.POSIXRlimit{
		{Type: "RLIMIT_CORE"},
		{Type: "RLIMIT_NOFILE", Hard: 4096, Soft: 1024},
		{Type: "RLIMIT_MEMLOCK", Hard: 64 << 10, Soft: 64 << 10},
	}
	if !grouped {
		n := uint64(b.spec.Limits.MemoryBytes)
		limits = append(limits, specs.POSIXRlimit{Type: "RLIMIT_AS", Hard: n, Soft: n})
	}
	return limits
}

// mounts has no /sys: nothing that installs packages needs it, and a container's would show the host's.
func (b *box) mounts() []specs.Mount {
	tmpfs := func(at, mode, size string, more ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: append([]string{"nosuid", "mode=" + mode, "size=" + size}, more...)}
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec"}},
		tmpfs("/dev", "755", "1m", "noexec", "strictatime"),
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		tmpfs("/dev/shm", "1777", "64m", "nodev", "noexec"),
		tmpfs("/run", "755", "256m", "nodev"),
		tmpfs("/run/lock", "1777", "16m", "nodev", "noexec"),
		tmpfs("/tmp", "1777", "2g", "nodev"),
	}
	for _, bind := range b.binds {
		options := []string{"bind", "nosuid", "nodev"}
		if bind.ReadOnly {
			options = append(options, "ro")
		}
		mounts = append(mounts, specs.Mount{Destination: bind.Target, Type: "bind", Source: bind.Source, Options: options})
		if bind.Target == b.spec.Inner {
			mounts = append(mounts, inner(bind.Target)...)
		}
	}
	return mounts
}

// inner are the mounts of a tree in the tree. Its devices are the host's by a bind each, because the runtime makes none
// there: those that give away nothing.
func inner(at string) []specs.Mount {
	tmpfs := func(dir, mode, size string, more ...string) specs.Mount {
		return specs.Mount{Destination: at + dir, Type: "tmpfs", Source: "tmpfs", Options: append([]string{"nosuid", "mode=" + mode, "size=" + size}, more...)}
	}
	mounts := []specs.Mount{
		{Destination: at + "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec"}},
		tmpfs("/dev", "755", "1m", "noexec", "strictatime"),
		tmpfs("/run", "755", "256m", "nodev"),
		tmpfs("/tmp", "1777", "2g", "nodev"),
	}
	for _, name := range []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"} {
		mounts = append(mounts, specs.Mount{Destination: at + name, Type: "bind", Source: name, Options: []string{"bind", "nosuid", "noexec"}})
	}
	return mounts
}

// masked gives paths of /proc for the inner tree's, too.
func (b *box) masked(paths ...string) []string {
	if b.spec.Inner == "" {
		return paths
	}
	for _, p := range slices.Clone(paths) {
		paths = append(paths, b.spec.Inner+p)
	}
	return paths
}
