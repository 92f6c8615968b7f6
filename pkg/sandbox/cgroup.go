package sandbox

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupMount = "/sys/fs/cgroup"
	cgroupMark  = "kiln-"
)

// cgroup limits memory and processes of one run, in cgroup version 1 or 2, whichever the host has. Making it by hand
// instead of through the runtime works under both, and without systemd.
type cgroup struct {
	v2   bool
	dirs []string // v1: pids, memory; v2: one; none: the host does not let us
	fd   *os.File // v2: the folder, for clone3
}

// newCgroup makes the group; on a host that does not allow it the result limits nothing and says so by ok.
func newCgroup(l Limits) *cgroup {
	g := &cgroup{v2: exists(filepath.Join(cgroupMount, "cgroup.controllers"))}
	settings := []struct{ parent, file, value string }{
		{"pids", "pids.max", strconv.Itoa(l.Processes + 2)}, // unshare and the runtime
		{"memory", "memory.limit_in_bytes", strconv.FormatInt(l.MemoryBytes, 10)},
	}
	if g.v2 {
		settings[0].parent, settings[1].parent, settings[1].file = "", "", "memory.max"
	}
	name := fmt.Sprintf("%s%d-%08x", cgroupMark, os.Getpid(), rand.Uint32()) //nolint:gosec // a name, not a secret
	for _, s := range settings {
		parent := filepath.Join(cgroupMount, s.parent)
		sweepCgroups(parent)
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err == nil {
			g.dirs = append(g.dirs, dir)
		}
		if err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o600); err != nil {
			g.remove()
			g.dirs = nil
			return g
		}
	}
	return g
}

func (g *cgroup) ok() bool { return len(g.dirs) > 0 }

// join makes the next child of the calling thread a member. Under version 1 the thread itself joins (it ends with
// the run); version 2 moves only whole processes, so the child is cloned into the group.
func (g *cgroup) join(attr *syscall.SysProcAttr) error {
	if !g.ok() {
		return nil
	}
	if g.v2 {
		f, err := os.Open(g.dirs[0])
		if err != nil {
			return err
		}
		g.fd, attr.UseCgroupFD, attr.CgroupFD = f, true, int(f.Fd())
		return nil
	}
	for _, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte(strconv.Itoa(unix.Gettid())), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// outOfMemory reports whether the kernel killed a member for memory.
func (g *cgroup) outOfMemory() bool {
	for _, dir := range g.dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			raw, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue
			}
			for line := range strings.SplitSeq(string(raw), "\n") {
				if n, found := strings.CutPrefix(line, "oom_kill "); found && n != "0" {
					return true
				}
			}
		}
	}
	return false
}

// outOfProcesses reports whether a member was refused a process or thread.
func (g *cgroup) outOfProcesses() bool {
	for _, dir := range g.dirs {
		raw, err := os.ReadFile(filepath.Join(dir, "pids.events"))
		if err != nil {
			continue
		}
		if n, found := strings.CutPrefix(strings.TrimSpace(string(raw)), "max "); found && n != "0" {
			return true
		}
	}
	return false
}

// remove waits for the last member to be gone, at most two seconds; sweepCgroups takes what stays.
func (g *cgroup) remove() {
	if g.fd != nil {
		g.fd.Close() //nolint:errcheck // a folder
	}
	for _, dir := range g.dirs {
		for range 200 {
			if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// sweepCgroups removes the groups of Kiln processes that were killed. A group with members cannot be removed.
func sweepCgroups(parent string) {
	left, err := filepath.Glob(filepath.Join(parent, cgroupMark+"*-*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupMark), "-")
		if _, err := strconv.Atoi(pid); err == nil && !exists("/proc/"+pid) {
			os.Remove(dir) //nolint:errcheck // busy ones stay
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
