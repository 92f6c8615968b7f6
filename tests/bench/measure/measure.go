// Package measure is what the benchmarks share: each contender is a child process whose time, memory and disk are taken.
package measure

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what a child took.
type Usage struct {
	Wall time.Duration
	CPU  time.Duration
	Peak int64 // bytes: resident memory of all its processes together, sampled
	One  int64 // bytes: of its largest process
	// Stolen is the part of the machine's processor time, 0 to 1, that its host gave to other machines meanwhile: what was
	// measured while much of it was stolen says little.
	Stolen float64
}

// Child runs this program again with the arguments and gives what it printed and took. What it says on its standard error goes to
// progress, which may be nil; the error of a child that fails holds the last of it.
func Child(ctx context.Context, limit time.Duration, progress io.Writer, args ...string) ([]byte, Usage, error) {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if progress != nil {
		cmd.Stderr = io.MultiWriter(&log, progress)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	all, stolen := ticks()
	if err := cmd.Start(); err != nil {
		return nil, Usage{}, err
	}
	peak := make(chan int64, 1)
	go func() { peak <- watch(cmd.Process.Pid) }()
	err := cmd.Wait()
	u := Usage{Peak: <-peak, Wall: time.Since(begin), CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.One = usage.Maxrss << 10
	}
	if allNow, stolenNow := ticks(); allNow > all {
		u.Stolen = (stolenNow - stolen) / (allNow - all)
	}
	if err != nil {
		text := strings.TrimSpace(log.String())
		return nil, u, fmt.Errorf("%w: %s", err, text[max(0, len(text)-1500):])
	}
	return out.Bytes(), u, nil
}

// ticks are the machine's processor time so far and what of it was stolen (proc_stat(5)).
func ticks() (all, stolen float64) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, word := range strings.Fields(line) {
		n, err := strconv.ParseFloat(word, 64)
		if err != nil || i > 8 { // the guests' time is in the user's too
			continue
		}
		all += n
		if i == 8 {
			stolen = n
		}
	}
	return all, stolen
}

// Machine says on what it was measured.
func Machine() string {
	load, _ := os.ReadFile("/proc/loadavg")
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	return fmt.Sprintf("%d processors, load %.14s", strings.Count(string(cpus), "processor\t"), load)
}

// watch samples the resident memory of a process and all below it until it ends, and gives the most.
func watch(pid int) (most int64) {
	for {
		total := resident(pid)
		if total == 0 {
			return most
		}
		most = max(most, total)
		time.Sleep(500 * time.Millisecond) // a look at all processes is not free
	}
}

// resident sums the resident memory of a process and its descendants, in bytes. It is 0 for one that has ended.
func resident(root int) int64 {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	children, size := map[int][]int{}, map[int]int64{}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// proc(5): after the name in parentheses come state, ppid, and as 24th field rss in pages.
		fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		if len(fields) < 22 {
			continue
		}
		parent, err1 := strconv.Atoi(fields[1])
		pages, err2 := strconv.ParseInt(fields[21], 10, 64)
		if err1 == nil && err2 == nil {
			children[parent] = append(children[parent], pid)
			size[pid] = pages * int64(os.Getpagesize())
		}
	}
	if size[root] == 0 {
		return 0
	}
	total := int64(0)
	for queue := []int{root}; len(queue) > 0; queue = append(queue[1:], children[queue[0]]...) {
		total += size[queue[0]]
	}
	return total
}

// OnDisk is what a file or folder takes, in bytes.
func OnDisk(path string) (total int64) {
	if path == "" {
		return 0
	}
	filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error { //nolint:errcheck // what vanishes counts nothing
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512
			}
		}
		return nil
	})
	return total
}
