package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// outcome is what a contender tells of itself.
type outcome struct {
	Image string  `json:"image"` // path; "" where none is made
	Disk  string  `json:"disk"`  // what it does of the image after its packages, in words with seconds
	Kept  string  `json:"kept"`  // folder that it keeps for the next time
	Own   float64 `json:"own"`   // seconds, where the process did more than is measured
}

// row is one line of the table.
type row struct {
	contender
	note  string // why there are no figures
	wall  time.Duration
	cpu   time.Duration
	peak  int64 // bytes: resident memory of all its processes together, sampled
	one   int64 // bytes: of its largest process
	image int64 // bytes on the disk
	kept  int64 // bytes on the disk
	disk  string
}

// measure runs one contender in a child.
func (b *bench) measure(ctx context.Context, c contender) row {
	r := row{contender: c}
	ctx, stop := context.WithTimeout(ctx, 40*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-run", c.name, "-dir", b.dir, "-cache", b.cache)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		r.note = err.Error()
		return r
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.peak = watch(cmd.Process.Pid)
	}()
	err := cmd.Wait()
	<-done
	r.wall = time.Since(begin)
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.one = usage.Maxrss << 10
	}
	var o outcome
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &o)
	}
	if err != nil {
		text := strings.TrimSpace(log.String())
		r.note = fmt.Sprintf("failed: %v: %s", err, text[max(0, len(text)-1500):])
		return r
	}
	if o.Own > 0 {
		r.wall = time.Duration(o.Own * float64(time.Second))
	}
	r.image, r.kept, r.disk = onDisk(o.Image), onDisk(o.Kept), o.Disk
	return r
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

// onDisk is what a file or folder takes, in bytes.
func onDisk(path string) (total int64) {
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
