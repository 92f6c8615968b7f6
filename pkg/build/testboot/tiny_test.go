package testboot_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/build/testboot"
	"github.com/kiln-cloud/kiln/pkg/build/testboot/boottest"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
)

func TestImagesThatDoNotBoot(t *testing.T) {
	for _, c := range []struct {
		mode, firmware string
		want           []string
	}{
		{"panic", "bios", []string{"the kernel panicked", "Attempted to kill init", "tiny: panic"}},
		{"panic", "uefi", []string{"the kernel panicked", "Attempted to kill init"}},
		{"emergency", "bios", []string{"systemd went into emergency mode"}},
		{"initramfs", "bios", []string{"did not find the system", "UUID=17 does not exist"}},
		{"off", "bios", []string{"switched off"}},
		{"silent", "bios", []string{"the system was not up", "tiny: silent"}},
	} {
		t.Run(c.mode+" "+c.firmware, func(t *testing.T) {
			path := boottest.Tiny(t, c.mode, "")
			limits := testboot.Timeouts{Boot: 5 * time.Minute}
			if c.mode == "silent" {
				limits.Boot = 60 * time.Second
			}
			q, dir := qemu(t, limits)
			start := time.Now()
			report, err := q.Boot(t.Context(), build.BootTest{Disk: build.Artifact{Format: "raw", Path: path}, Firmware: c.firmware})
			if !errs.Is(err, errs.Invalid) || errs.CodeOf(err) != testboot.CodeBoot {
				t.Fatalf("%v\n%s", err, report.Console)
			}
			t.Logf("%s: %v", time.Since(start).Round(100*time.Millisecond), err)
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			nothingLeft(t, dir)
		})
	}
}

// TestDisksWithoutABootLoader: what the firmware and GRUB say.
func TestDisksWithoutABootLoader(t *testing.T) {
	if testing.Short() {
		t.Skip("needs QEMU")
	}
	path := filepath.Join(t.TempDir(), "empty.raw")
	if err := os.WriteFile(path, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, firmware := range []string{"bios", "uefi", "both"} {
		q, dir := qemu(t, testboot.Timeouts{Boot: 6 * time.Minute})
		start := time.Now()
		report, err := q.Boot(t.Context(), build.BootTest{Disk: build.Artifact{Format: "raw", Path: path}, Firmware: firmware})
		if errs.CodeOf(err) != testboot.CodeBoot || !strings.Contains(err.Error(), "firmware found nothing to boot") {
			t.Errorf("%s: %v\n%s", firmware, err, report.Console)
		}
		t.Logf("%s after %s", firmware, time.Since(start).Round(100*time.Millisecond))
		nothingLeft(t, dir)
	}
}

func TestLoginIsUpWithoutCloudInit(t *testing.T) {
	path := boottest.Tiny(t, "login", "")
	q, dir := qemu(t, testboot.Timeouts{Boot: 5 * time.Minute})
	before := digest.File(t, path)
	report, err := q.Boot(t.Context(), build.BootTest{Disk: build.Artifact{Format: "raw", Path: path}, Firmware: "both"})
	if err != nil || report.Seconds <= 0 || report.CloudInit != "" || report.Firmware != "both" {
		t.Errorf("%+v, %v", report, err)
	}
	if strings.Count(report.Console, "tiny login:") != 2 {
		t.Errorf("not two boots:\n%s", report.Console)
	}
	if digest.File(t, path) != before {
		t.Error("the boot wrote to the image")
	}
	nothingLeft(t, dir)
}

func TestSeedAndReports(t *testing.T) {
	facts := &catalog.Facts{CloudInit: true}
	boot := func(t *testing.T, arguments string, limits testboot.Timeouts, tests ...build.BootCommand) (build.BootReport, error) {
		q, dir := qemu(t, limits)
		var log safeLog
		report, err := q.Boot(t.Context(), build.BootTest{Disk: build.Artifact{Format: "raw", Path: boottest.Tiny(t, "cloud", arguments)}, Facts: facts, Tests: tests, Log: &log})
		if t.Failed() || testing.Verbose() {
			t.Log(log.String())
		}
		nothingLeft(t, dir)
		return report, err
	}
	t.Run("failing tests", func(t *testing.T) {
		report, err := boot(t, "", testboot.Timeouts{},
			build.BootCommand{Name: "good", Text: "true", Timeout: time.Minute},
			build.BootCommand{Name: "bad", Text: "echo before\necho 'the web server is away' >&2\nfalse\necho after", Timeout: time.Minute},
			build.BootCommand{Name: "endless", Text: "echo waiting\nsleep 600", Timeout: 2 * time.Second},
			build.BootCommand{Name: "last", Text: "exit 0", Timeout: time.Minute})
		if !errs.Is(err, errs.Invalid) || errs.CodeOf(err) != testboot.CodeBoot {
			t.Fatalf("%v", err)
		}
		for _, want := range []string{"2 of 4 tests failed", "bad ended with 1", "the web server is away", "endless ran longer than 2s", "waiting"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in: %v", want, err)
			}
		}
		if strings.Contains(err.Error(), "after") || len(report.Tests) != 4 || report.Tests[3].Status != 0 || report.Tests[1].Output != "before\nthe web server is away" {
			t.Errorf("%v\n%+v", err, report.Tests)
		}
	})
	t.Run("noise on the console", func(t *testing.T) {
		report, err := boot(t, "noisy loglevel=8", testboot.Timeouts{}, build.BootCommand{Name: "long", Text: "seq 20000", Timeout: time.Minute})
		if err != nil || !strings.HasSuffix(report.Tests[0].Output, "19999\n20000") || report.CloudInit != "done" {
			t.Errorf("%+v, %v", report.Tests, err)
		}
	})
	t.Run("cloud-init fails", func(t *testing.T) {
		_, err := boot(t, "broken", testboot.Timeouts{})
		if errs.CodeOf(err) != testboot.CodeBoot || !strings.Contains(err.Error(), "detail: no data") {
			t.Errorf("%v", err)
		}
	})
	t.Run("the seed is not taken", func(t *testing.T) {
		_, err := boot(t, "deaf", testboot.Timeouts{Seed: 3 * time.Second})
		if errs.CodeOf(err) != testboot.CodeBoot || !strings.Contains(err.Error(), "datasources must include NoCloud or ConfigDrive") {
			t.Errorf("%v", err)
		}
	})
}
