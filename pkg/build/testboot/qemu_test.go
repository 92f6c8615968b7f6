package testboot_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
)

// safeLog is a log that a test may read while it is written.
type safeLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func qemu(t *testing.T, limits testboot.Timeouts) (*testboot.QEMU, string) {
	t.Helper()
	dir := t.TempDir()
	q, err := testboot.New(testboot.Config{Dir: dir, Timeouts: limits})
	if err != nil {
		t.Fatal(err)
	}
	return q, dir
}

// nothingLeft: no file in the work folder, and no QEMU that has one of it open.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the work folder: %v, %v", left, err)
	}
}

func TestDebianPassesItsTests(t *testing.T) {
	image := boottest.Debian(t)
	q, dir := qemu(t, testboot.Timeouts{Boot: 20 * time.Minute})
	before := digest.File(t, image.Path)
	var log safeLog
	start := time.Now()
	report, err := q.Boot(t.Context(), build.BootTest{
		Disk: build.Artifact{Format: "qcow2", Path: image.Path}, Firmware: "bios", Facts: image.Facts, Log: &log,
		Tests: []build.BootCommand{
			{Name: "who", Text: "id -u\ngrep one /etc/boottest", Timeout: time.Minute},
			{Name: "long output", Text: "seq 20000", Timeout: time.Minute},
			{Name: "alone", Text: "! ping -c1 -W1 10.0.2.2\n! timeout 5 bash -c '</dev/tcp/10.0.2.2/15000'\necho alone", Timeout: time.Minute},
		},
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Logf("booted and tested in %s: %+v", time.Since(start).Round(time.Second), report)
	if report.Method != "qemu" || report.Firmware != "bios" || report.CloudInit != "done" || report.Seconds < 1 || len(report.Tests) != 3 {
		t.Errorf("report: %+v", report)
	}
	for i, want := range []string{"0\none", "19999\n20000", "alone"} {
		if c := report.Tests[i]; c.Status != 0 || !strings.HasSuffix(c.Output, want) || c.Seconds <= 0 || len(c.Output) > 4096 {
			t.Errorf("test %d: %+v", i, c)
		}
	}
	for _, want := range []string{"Loading Linux", "test who: exit status 0", "cloud-init: done"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "@kiln:") || strings.Contains(log.String(), "\x1b") || !strings.Contains(report.Console, "Loading Linux") {
		t.Errorf("the log is not fit for people:\n%s", log.String())
	}
	if after := digest.File(t, image.Path); after != before {
		t.Error("the boot wrote to the image")
	}
	nothingLeft(t, dir)
}

func TestTestsNeedCloudInit(t *testing.T) {
	q, dir := qemu(t, testboot.Timeouts{})
	_, err := q.Boot(t.Context(), build.BootTest{Disk: build.Artifact{Format: "raw", Path: "/nowhere"}, Facts: &catalog.Facts{},
		Tests: []build.BootCommand{{Name: "web answers", Text: "true", Timeout: time.Minute}}})
	if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "tests need cloud-init in the image") || !strings.Contains(err.Error(), "web answers") {
		t.Errorf("%v", err)
	}
	nothingLeft(t, dir)
}

func TestCancelEndsTheMachine(t *testing.T) {
	image := boottest.Debian(t)
	q, dir := qemu(t, testboot.Timeouts{})
	ctx, stop := context.WithCancel(t.Context())
	var log safeLog
	go func() {
		for !strings.Contains(log.String(), "Loading Linux") && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond)
		}
		stop()
	}()
	start := time.Now()
	_, err := q.Boot(ctx, build.BootTest{Disk: build.Artifact{Format: "qcow2", Path: image.Path}, Facts: image.Facts, Log: &log})
	if !errs.Is(err, errs.Cancelled) || time.Since(start) > 5*time.Minute {
		t.Errorf("%v after %s", err, time.Since(start))
	}
	nothingLeft(t, dir)
}
