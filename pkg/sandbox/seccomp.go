package sandbox

import (
	"path/filepath"
	"runtime"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// forbidden system calls answer EPERM. Package installation needs none of them; each one is a way to the host's
// kernel state or a large attack surface. (Docker's default profile forbids the same ones to a container without
// further capabilities, plus what is obsolete.)
var forbidden = []string{
	// mounts and roots
	"mount", "umount", "umount2", "pivot_root", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick",
	"mount_setattr", "swapon", "swapoff", "quotactl", "quotactl_fd", "open_by_handle_at", "name_to_handle_at", "fanotify_init",
	// namespaces
	"unshare", "setns",
	// the kernel itself
	"init_module", "finit_module", "delete_module", "create_module", "kexec_load", "kexec_file_load", "bpf", "perf_event_open",
	"userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "syslog", "reboot", "acct", "lookup_dcookie", "nfsservctl",
	"_sysctl", "vhangup", "iopl", "ioperm", "uselib", "ustat", "sysfs",
	// clocks
	"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime",
	// keys, and other processes' memory
	"add_key", "request_key", "keyctl", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
	"move_pages", "migrate_pages", "mbind", "set_mempolicy",
}

// families of sockets that stay: local, IPv4, IPv6 and netlink (which name resolution uses). All others are either
// not held by a network namespace (vsock, alg) or have been the door of too many kernel exploits.
var families = map[uint64]bool{unix.AF_UNIX: true, unix.AF_INET: true, unix.AF_INET6: true, unix.AF_NETLINK: true}

// lastFamily is the last one of the named families; all above are refused by one rule.
const lastFamily = 20

func (b *box) seccomp() *specs.LinuxSeccomp {
	filter := seccomp(b.spec.NoSync)
	if b.spec.Trace != nil {
		// None of these calls has a rule above: what is forbidden or does nothing stays so.
		filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{Names: tracedNames(), Action: specs.ActNotify})
		filter.ListenerPath = filepath.Join(b.bundle, traceSocket)
	}
	return filter
}

func seccomp(noSync bool) *specs.LinuxSeccomp {
	eperm, enosys, zero := uint(syscall.EPERM), uint(syscall.ENOSYS), uint(0)
	deny := func(errno *uint, args []specs.LinuxSeccompArg, names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: errno, Args: args}
	}
	rules := []specs.LinuxSyscall{
		deny(&eperm, nil, forbidden...),
		deny(&enosys, nil, "clone3"), // its flags are behind a pointer; libc falls back to clone
	}
	for flag := range uint(32) {
		if bit := uint64(1) << flag; bit&newNamespaces != 0 {
			rules = append(rules, deny(&eperm, []specs.LinuxSeccompArg{{Index: 0, Value: bit, ValueTwo: bit, Op: specs.OpMaskedEqual}}, "clone"))
		}
	}
	for family := range uint64(lastFamily + 1) {
		if !families[family] {
			rules = append(rules, deny(&eperm, []specs.LinuxSeccompArg{{Index: 0, Value: family, Op: specs.OpEqualTo}}, "socket"))
		}
	}
	rules = append(rules, deny(&eperm, []specs.LinuxSeccompArg{{Index: 0, Value: lastFamily, Op: specs.OpGreaterThan}}, "socket"))
	// TIOCSTI and TIOCLINUX push input into a terminal.
	for _, request := range []uint64{unix.TIOCSTI, unix.TIOCLINUX} {
		rules = append(rules, deny(&eperm, []specs.LinuxSeccompArg{{Index: 1, Value: request, Op: specs.OpEqualTo}}, "ioctl"))
	}
	if noSync {
		rules = append(rules, deny(&zero, nil, "fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync"))
	}
	arch := specs.ArchX86_64
	if runtime.GOARCH == "arm64" {
		arch = specs.ArchAARCH64
	}
	// Other architectures' calls (32-bit, x32) have other numbers: the filter kills them.
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{arch}, Syscalls: rules}
}

const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID |
	unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
