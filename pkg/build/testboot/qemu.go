package testboot

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

// Config is what QEMU needs. Zero fields take the default.
type Config struct {
	Dir         string // overlays and seeds, removed at the end of each boot and by disk.Sweep; required
	Accelerator string // "tcg" (the default) or "kvm"
	MemoryMiB   int    // of the guest; default 1024
	CPUs        int    // of the guest; default 2, at most those of this machine
	OVMF        string // folder of the UEFI firmware; default /usr/share/OVMF
	Timeouts    Timeouts
	Log         logrus.FieldLogger // default: none
}

// QEMU boots images on this machine. It is safe for several boots at the same time.
//
// The disk is never written: what the guest writes goes to an overlay that nobody can find by name. The guest has a
// network card and an address, as in a cloud, and nothing behind it. QEMU itself runs as nobody under its seccomp filter, in a
// network namespace without a network, with bounded memory and files, and dies with this process.
type QEMU struct {
	cfg     Config
	program string
	seedISO []string
}

var _ build.Booter = (*QEMU)(nil)

// New finds the programs. errs.NotFound where QEMU or what makes seeds is not installed.
func New(cfg Config) (*QEMU, error) {
	if cfg.Accelerator == "" {
		cfg.Accelerator = "tcg"
	}
	if cfg.Accelerator != "tcg" && cfg.Accelerator != "kvm" {
		return nil, errs.New(errs.Invalid, CodeHost, "%q is no accelerator; use tcg or kvm.", cfg.Accelerator)
	}
	if cfg.Dir == "" {
		return nil, errs.New(errs.Invalid, CodeHost, "Test boots need a folder.")
	}
	if cfg.MemoryMiB <= 0 {
		cfg.MemoryMiB = 1024
	}
	if cfg.CPUs <= 0 {
		cfg.CPUs = min(2, runtime.NumCPU())
	}
	if cfg.OVMF == "" {
		cfg.OVMF = "/usr/share/OVMF"
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, errs.Wrap(err, errs.NotFound, CodeHost, "qemu-system-x86_64 is not installed.")
	}
	iso, err := seedTool()
	if err != nil {
		return nil, err
	}
	return &QEMU{cfg: cfg, program: program, seedISO: iso}, nil
}

// Firmware names of BootTest.
const (
	BIOS = "bios"
	UEFI = "uefi"
	Both = "both"
)

// Boot implements build.Booter. Where the image has both firmwares it is booted twice; the tests run in the first boot,
// by BIOS, and Seconds is that of the slower one.
func (q *QEMU) Boot(ctx context.Context, t build.BootTest) (build.BootReport, error) {
	switch t.Firmware {
	case "", BIOS, UEFI:
		return q.boot(ctx, t, t.Firmware)
	case Both:
		first, err := q.boot(ctx, t, BIOS)
		if err != nil {
			first.Firmware = Both
			return first, err
		}
		t.Tests = nil
		second, err := q.boot(ctx, t, UEFI)
		first.Firmware, first.Seconds = Both, max(first.Seconds, second.Seconds)
		first.Console += "\n" + second.Console
		return first, err
	}
	return build.BootReport{}, errs.New(errs.Invalid, CodeHost, "%q is no firmware; use bios, uefi or both.", t.Firmware)
}

func (q *QEMU) boot(ctx context.Context, t build.BootTest, firmware string) (report build.BootReport, err error) {
	if firmware == "" {
		firmware = BIOS
	}
	plan, err := NewPlan(t)
	if err != nil {
		return report, err
	}
	work, err := disk.NewWork(q.cfg.Dir)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	m := &machine{QEMU: q, dir: work.Path, firmware: firmware}
	defer m.closeFiles()
	if err := m.prepare(ctx, t.Disk, plan); err != nil {
		return report, disk.OrFull(work.Path, err)
	}
	tell := t.Progress
	if tell == nil {
		tell = func(string, int64, int64) {}
	}
	tell("boot by "+firmware, 0, int64(len(plan.Tests)))
	watch := NewWatch(plan, t.Log, tell)
	running, err := m.start(ctx, watch)
	if err != nil {
		return report, err
	}
	err = watch.Wait(ctx, running.ended, q.cfg.Timeouts)
	said := running.stop()
	report = watch.Report("qemu", firmware)
	if errs.CodeOf(err) == CodeBoot && report.Console == "" && said != "" {
		// QEMU never ran the machine: that is nothing to blame the image for.
		err = errs.New(errs.Internal, CodeHost, "QEMU did not start: %s", said)
	}
	q.cfg.Log.WithError(err).WithFields(logrus.Fields{"firmware": firmware, "seconds": report.Seconds}).Info("a test boot ended")
	return report, err
}

// overlay makes the file that takes what the guest writes. It has no name of its backing file in it, and loses its own
// name at once.
func (m *machine) overlay(ctx context.Context, size int64) (*os.File, error) {
	path := filepath.Join(m.dir, "overlay.qcow2")
	if err := m.image(ctx, "create", "-q", "-f", "qcow2", path, sizeArg(size)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeHost, "The overlay cannot be opened.")
	}
	return f, os.Remove(path)
}

// image is qemu-img.
func (m *machine) image(ctx context.Context, args ...string) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	said := &bounded{most: 4 << 10}
	cmd.Stdout, cmd.Stderr = said, said
	err := disk.StartTied(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return errs.Wrap(errors.Join(err, ctx.Err()), errs.Internal, CodeHost, "qemu-img failed: %s", said)
	}
	return nil
}
