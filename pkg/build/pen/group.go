package pen

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
	groupMount = "/sys/fs/cgroup"
	groupMark  = "kiln-pen-"
)

// group bounds memory and processes of one run by a control group, of version 1 or 2, whichever the host has. A host
// that lets us make none bounds neither.
type group struct {
	v2   bool
	dirs []string
	fd   *os.File // version 2: the folder, for clone3
}

func newGroup(l Limits) *group {
	_, err := os.Stat(filepath.Join(groupMount, "cgroup.controllers"))
	g := &group{v2: err == nil}
	settings := []struct{ parent, file, value string }{
		{"pids", "pids.max", strconv.Itoa(l.Processes)},
		{"memory", "memory.limit_in_bytes", strconv.FormatInt(l.MemoryBytes, 10)},
	}
	if g.v2 {
		settings[0].parent, settings[1].parent, settings[1].file = "", "", "memory.max"
	}
	name := fmt.Sprintf("%s%d-%08x", groupMark, os.Getpid(), rand.Uint32()) //nolint:gosec // a name, not a secret
	for _, s := range settings {
		parent := filepath.Join(groupMount, s.parent)
		sweep(parent)
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err == nil {
			g.dirs = append(g.dirs, dir)
		}
		if err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o600); err != nil {
			g.remove()
			return &group{}
		}
	}
	return g
}

// join makes the next child of the calling thread a member. Under version 1 the thread itself joins, and ends with the
// run; version 2 moves only whole processes, so the child is cloned into the group.
func (g *group) join(attr *syscall.SysProcAttr) error {
	if len(g.dirs) == 0 {
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

func (g *group) outOfMemory() bool {
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

// remove waits for the last member to be gone, at most two seconds; a later run sweeps what stays.
func (g *group) remove() {
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

// sweep removes the groups of Kiln processes that were killed. One with members cannot be removed.
func sweep(parent string) {
	left, err := filepath.Glob(filepath.Join(parent, groupMark+"*-*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupMark), "-")
		if _, err := os.Stat("/proc/" + pid); os.IsNotExist(err) {
			os.Remove(dir) //nolint:errcheck // busy ones stay
		}
	}
}
