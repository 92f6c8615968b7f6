package functional

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// moment is when a worker is killed.
type moment struct {
	name string
	here func(ctx context.Context, s *stand, j job.Job, origin string) (bool, error)
}

// unpacking, inSandbox and uploading are moments that leave much behind: a tree that is being unpacked, a
// container on a mounted disk, half an image in Glance.
var (
	unpacking = moment{"while it fetches and unpacks", func(_ context.Context, s *stand, j job.Job, _ string) (bool, error) {
		return s.runs(s.ownerOf(j), "dpkg-deb") || s.runs(s.ownerOf(j), "apt-get"), nil
	}}
	inSandbox = moment{"in the sandbox", func(_ context.Context, s *stand, j job.Job, _ string) (bool, error) {
		return s.runs(s.ownerOf(j), "dpkg"), nil
	}}
	uploading = moment{"while it uploads", func(ctx context.Context, s *stand, _ job.Job, origin string) (bool, error) {
		found, err := s.glance.Images(ctx, map[string]string{catalog.PropOriginID: origin})
		return len(found) == 1 && found[0].Status == "saving", err
	}}
)

func TestRealWorkerKilled(t *testing.T) {
	s := kiln(t)
	src := s.source(t)
	member := s.as(t, "member")

	// By force: what earlier runs kept of its steps would leave nothing to be killed in.
	var b build.Build
	if err := member.Post(t.Context(), "/v1/builds", doc{"source": src.Name, "recipe": "small", "force": true}, &b); err != nil {
		t.Fatal(err)
	}
	s.killAt(t, b.JobID, b.ID, unpacking, inSandbox)
	if err := member.Get(t.Context(), "/v1/builds/"+b.ID, &b); err != nil || b.State != build.Succeeded {
		t.Fatalf("build %+v, error %v", b, err)
	}
	original := s.whole(t, b.ID)
	if original.ID != b.ImageID {
		t.Fatalf("Glance has image %s of the build, Kiln says %s", original.ID, b.ImageID)
	}
	before := s.bytesOf(t, b.ImageID)

	var u upgrade.Upgrade
	if err := member.Post(t.Context(), "/v1/upgrades", map[string]string{"image_id": b.ImageID}, &u); err != nil {
		t.Fatal(err)
	}
	s.killAt(t, u.JobID, u.ID, inSandbox, uploading)
	if err := member.Get(t.Context(), "/v1/upgrades/"+u.ID, &u); err != nil || u.State != upgrade.Succeeded || u.Report == nil || len(u.Report.Packages) == 0 {
		t.Fatalf("upgrade %+v, error %v", u, err)
	}
	if g := s.whole(t, u.ID); g.ID != u.ToImageID || g.ID == b.ImageID {
		t.Errorf("Glance has image %s of the upgrade, Kiln says %s", g.ID, u.ToImageID)
	}
	if after := s.bytesOf(t, b.ImageID); after != before || before != original.HashAlgo+":"+original.HashValue {
		t.Errorf("the original had %s, now it has %s; Glance says %s", before, after, original.HashValue)
	}
	s.checkHalves(t)
	for _, w := range workers {
		left, err := os.ReadDir(s.workDir(w))
		if err != nil || len(left) > 0 {
			t.Errorf("%s left %v in its work folder, error %v", w, left, err)
		}
	}
}

// killAt kills the worker that has the job at each of the moments, starts it anew, and waits for the job's success.
func (s *stand) killAt(t *testing.T, id, origin string, moments ...moment) {
	t.Helper()
	admin := s.as(t, "admin")
	var j job.Job
	for n, m := range moments {
		began := time.Now()
		err := until(t.Context(), 2*time.Minute, "attempt "+strconv.Itoa(n+1)+" is "+m.name, func(ctx context.Context) (bool, error) {
			if err := admin.Get(ctx, "/v1/jobs/"+id, &j); err != nil {
				return false, err
			}
			if j.State.Final() {
				return false, fmt.Errorf("the job is %s before that: %+v", j.State, j.Error)
			}
			if j.State != job.Running || j.Attempt <= n || s.ownerOf(j) == "" {
				return false, nil
			}
			return m.here(ctx, s, j, origin)
		})
		if err != nil {
			t.Fatal(err)
		}
		owner := s.ownerOf(j)
		t.Logf("attempt %d: %s is killed %s, %.1f s after the one before", j.Attempt, owner, m.name, time.Since(began).Seconds())
		family := s.descendants(owner)
		if err := s.kill(owner); err != nil {
			t.Fatal(err)
		}
		s.checkDebris(t, m.name, family)
		if err := s.again(owner); err != nil {
			t.Fatal(err)
		}
	}
	j = finished(t, admin, id)
	if j.Attempt != len(moments)+1 {
		t.Errorf("the job took %d attempts after %d kills", j.Attempt, len(moments))
	}
}

// whole is the one image that Glance has of a build or an upgrade.
func (s *stand) whole(t *testing.T, origin string) catalog.GlanceImage {
	t.Helper()
	var all []catalog.GlanceImage
	for _, hidden := range []string{"false", "true"} {
		found, err := s.glance.Images(t.Context(), map[string]string{catalog.PropOriginID: origin, "os_hidden": hidden})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	if len(all) != 1 || all[0].Status != "active" {
		t.Fatalf("Glance has %+v", all)
	}
	return all[0]
}

// checkHalves wants no half image of the project in Glance.
func (s *stand) checkHalves(t *testing.T) {
	t.Helper()
	images, err := s.images(t.Context(), s.project)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range images {
		if g.Status != "active" {
			t.Errorf("image %s is %s: %v", g.ID, g.Status, g.Properties)
		}
	}
}

// ownerOf is the worker that has the job; "" where that is none that runs.
func (s *stand) ownerOf(j job.Job) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range workers {
		if p := s.procs[w]; p != nil && strings.Contains(j.LeaseOwner, fmt.Sprintf(":%d:", p.cmd.Process.Pid)) {
			return w
		}
	}
	return ""
}

// proc is a process of the kernel's: the start time tells it from a later one with the same pid.
type proc struct {
	pid, parent int
	start, name string
	state       string
}

func processes() map[int]proc {
	all := map[int]proc{}
	entries, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, path := range entries {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		head, rest, ok := strings.Cut(string(data), "(")
		end := strings.LastIndex(rest, ")")
		if !ok || end < 0 {
			continue
		}
		fields := strings.Fields(rest[end+1:])
		if len(fields) < 20 {
			continue
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(head))
		parent, _ := strconv.Atoi(fields[1])
		all[pid] = proc{pid: pid, parent: parent, state: fields[0], start: fields[19], name: rest[:end]}
	}
	return all
}

// descendants are the processes below one of the stand's programs.
func (s *stand) descendants(name string) []proc {
	s.mu.Lock()
	above := map[int]bool{s.procs[name].cmd.Process.Pid: true}
	s.mu.Unlock()
	all := processes()
	var out []proc
	for found := true; found; {
		found = false
		for pid, p := range all {
			if above[p.parent] && !above[pid] {
				above[pid], found = true, true
				out = append(out, p)
			}
		}
	}
	return out
}

// runs reports whether a program runs below one of the stand's programs.
func (s *stand) runs(owner, program string) bool {
	if owner == "" {
		return false
	}
	for _, p := range s.descendants(owner) {
		if p.name == program {
			return true
		}
	}
	return false
}

// checkDebris wants that a killed worker took everything with it: its processes, mounts and loop devices.
func (s *stand) checkDebris(t *testing.T, when string, family []proc) {
	t.Helper()
	if len(family) == 0 && when != uploading.name {
		t.Errorf("%s the worker had no processes below it", when)
	}
	left := ""
	err := until(t.Context(), 5*time.Second, "nothing is left", func(ctx context.Context) (bool, error) {
		left = s.debris(ctx, family)
		return left == "", nil
	})
	if err != nil {
		t.Errorf("5 s after the worker was killed %s there is still:\n%s", when, left)
	}
}

func (s *stand) debris(ctx context.Context, family []proc) string {
	var left []string
	now := processes()
	for _, p := range family {
		if q, there := now[p.pid]; there && q.start == p.start && q.state != "Z" {
			left = append(left, fmt.Sprintf("process %d %s", q.pid, q.name))
		}
	}
	for pid, p := range now {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // ended meanwhile
		text := strings.ReplaceAll(string(line), "\x00", " ")
		for _, tool := range []string{"crun", "runc", "qemu-img", "qemu-system", "mmdebstrap"} {
			if strings.HasPrefix(p.name, tool) && strings.Contains(text, s.dir) && p.state != "Z" {
				left = append(left, fmt.Sprintf("process %d %s", pid, text))
			}
		}
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		left = append(left, err.Error())
	}
	loops, err := command(ctx, nil, "/sbin/losetup", "-a")
	if err != nil {
		left = append(left, err.Error())
	}
	for line := range strings.SplitSeq(string(mounts)+loops, "\n") {
		if strings.Contains(line, s.dir) {
			left = append(left, line)
		}
	}
	return strings.Join(left, "\n")
}
