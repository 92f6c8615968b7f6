package testboot

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeGuest says that a guest did not come to the end of its script. It never changes.
const CodeGuest = "kiln.build.guest"

// GuestLimit is that of a script whose guest names none.
const GuestLimit = 30 * time.Minute

// neverInGuest are units that a booting system starts even when only a command is to be run, and that would leave traces of
// this one boot: time, seeds, logs of the boot, first-boot setup, growing of disks, and whatever a timer starts.
var neverInGuest = []string{
	"timers.target", "systemd-journal-flush.service", "systemd-random-seed.service", "systemd-machine-id-commit.service", "systemd-firstboot.service",
	"systemd-update-done.service", "systemd-update-utmp.service", "systemd-timesyncd.service", "systemd-hwdb-update.service", "ldconfig.service",
	"systemd-repart.service", "systemd-growfs-root.service", "systemd-pstore.service", "ssh.socket",
}

// guestCommand is what systemd runs in place of its default target. data is the device with the guest's files.
func guestCommand(data string) string {
	return "/bin/sh -c 'mkdir -p " + build.GuestFiles + " && mount -r -t iso9660 " + data + " " + build.GuestFiles + " && exec /bin/sh " + build.GuestFiles + "/run'"
}

// GuestArguments are the kernel's, of at most 2,000 characters; data is the device with what GuestData made. systemd.run (systemd-run-generator(8), systemd 240) makes the command the only goal of the
// boot: what sysinit.target needs is started, and neither cloud-init nor getty, sshd, sockets, timers or any service of
// multi-user.target.
// fstab is not read, as its other disks are not there; so the root is writable from the beginning.
func GuestArguments(g build.Guest, data string) string {
	args := []string{
		"root=UUID=" + g.RootUUID, "rw", "console=ttyS0,115200", "loglevel=4", "panic=-1", "fstab=no", "cloud-init=disabled", "random.trust_cpu=on",
		"systemd.gpt_auto=no", "systemd.condition-first-boot=no", "systemd.condition-needs-update=no", "systemd.show_status=auto",
		`systemd.run="` + guestCommand(data) + `"`, "systemd.run_success_action=poweroff", "systemd.run_failure_action=poweroff",
	}
	for _, unit := range neverInGuest {
		args = append(args, "systemd.mask="+unit)
	}
	return strings.Join(args, " ")
}

// Run starts a guest and returns when its machine is off. The guest has no network card, and can write nothing but its
// root file system. errs.Invalid with CodeGuest where it fails, hangs beyond its limit or that of boots, or switches off before its script
// has ended; CodeStop where ctx ended. No process and no file of the run stays, also after a kill -9 of this process
// but for files in Dir.
func (q *QEMU) Run(ctx context.Context, g build.Guest) (report build.GuestReport, err error) {
	if g.Limit <= 0 {
		g.Limit = GuestLimit
	}
	plan, err := NewGuestPlan()
	if err != nil {
		return report, err
	}
	work, err := disk.NewWork(g.Dir)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	m := &machine{QEMU: q, dir: work.Path, firmware: BIOS}
	defer m.closeFiles()
	if err := m.prepareGuest(ctx, g, plan); err != nil {
		return report, disk.OrFull(work.Path, err)
	}
	watch := NewWatch(plan, g.Log, nil)
	running, err := m.start(ctx, watch)
	if err != nil {
		return report, err
	}
	err = watch.WaitGuest(ctx, running.ended, q.cfg.Timeouts.OrDefault().Boot, g.Limit)
	said := running.stop()
	report = watch.GuestReport()
	if errs.CodeOf(err) == CodeGuest && watch.silent() && said != "" {
		err = errs.New(errs.Internal, CodeHost, "QEMU did not start: %s", said)
	}
	q.cfg.Log.WithError(err).WithFields(logrus.Fields{"seconds": report.Seconds}).Info("a guest ended")
	return report, err
}

// prepareGuest makes the files and QEMU's options.
func (m *machine) prepareGuest(ctx context.Context, g build.Guest, plan Plan) error {
	m.args, m.fileBytes = m.options(), uint64(g.Start+g.Length)
	f, err := os.OpenFile(g.Disk, os.O_RDWR, 0)
	if err != nil {
		return errs.Wrap(err, errs.NotFound, CodeHost, "The guest's disk cannot be opened.")
	}
	err = m.node(map[string]any{"driver": disk.Raw, "node-name": "disk", "discard": "unmap", "offset": g.Start, "size": g.Length, "file": file(m.hand(f), false)})
	if err != nil {
		return err
	}
	m.args = append(m.args, "-device", "virtio-blk-pci,drive=disk")
	if err := m.addSeed(ctx, "data", plan.guestSeed(g)); err != nil {
		return err
	}
	for _, o := range [][2]string{{"-kernel", g.Kernel}, {"-initrd", g.Initrd}} {
		f, err := os.Open(o[1])
		if err != nil {
			return errs.Wrap(err, errs.NotFound, CodeHost, "The guest's kernel cannot be opened.")
		}
		if err := f.Chmod(0o444); err != nil { // QEMU opens it anew, as nobody
			return errs.Wrap(errors.Join(err, f.Close()), errs.Internal, CodeHost, "The guest's kernel cannot be handed over.")
		}
		m.files = append(m.files, f)
		m.args = append(m.args, o[0], "/proc/self/fd/"+strconv.Itoa(len(m.files)+2))
	}
	m.args = append(m.args, "-append", GuestArguments(g, "/dev/vdb"))
	return nil
}

// NewGuestPlan makes the plan of a guest: only its script decides.
func NewGuestPlan() (Plan, error) {
	plan, err := NewPlan(build.BootTest{})
	plan.CloudInit = true // a login prompt decides nothing
	return plan, err
}

// GuestData writes the ISO 9660 file system with the guest's script, files and packages to path; dir is for files on the way
// to it. errs.NotFound where nothing is installed that makes one.
func (p Plan) GuestData(ctx context.Context, g build.Guest, dir, path string) error {
	tool, err := seedTool()
	if err != nil {
		return err
	}
	return p.guestSeed(g).write(ctx, tool, dir, path)
}

func (p Plan) guestSeed(g build.Guest) seed {
	files := map[string][]byte{"run": guestScript(p.Nonce, g.Script)}
	maps.Copy(files, g.Files)
	return seed{label: "KILN", files: files, packages: g.Packages}
}

// guestScript runs the caller's. The machine goes off when it has ended. It says hello with the boot's id: where a restart
// begins it anew, that is another one.
func guestScript(nonce, script string) []byte {
	return []byte("#!/bin/sh\nexport HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8\numask 022\ncd /\n" +
		"dir=$(mktemp -d /run/kiln-guest.XXXXXX)\nnonce=" + nonce + "\n" + scriptFrame + "report() { frame $1 0; }\nreport hello </proc/sys/kernel/random/boot_id\n" + script + "\n" + scriptEnd)
}

// WaitGuest returns nil when the script has ended and the machine is off, which closes ended. boot bounds the time until the
// script begins, script that from there until the machine is off. Errors as of QEMU.Run.
func (w *Watch) WaitGuest(ctx context.Context, ended <-chan struct{}, boot, script time.Duration) error {
	deadline, limit := time.NewTimer(boot), boot
	defer deadline.Stop()
	for runs := true; runs; {
		select {
		case <-w.changed:
			if hello, _ := w.reached(); hello && limit == boot {
				limit = script
				deadline.Reset(script)
			}
			continue
		case <-ended:
		case <-w.decided: // only a failure is, here
			select { // the lines after it tell the cause
			case <-time.After(settle):
			case <-ended:
			case <-ctx.Done():
			}
		case <-ctx.Done():
			return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeStop, "The guest was stopped.")
		case <-deadline.C:
			return w.guestFailed(w.late() + " after " + limit.String())
		}
		runs = false
	}
	w.mu.Lock()
	wrong := w.wrong
	w.mu.Unlock()
	_, done := w.reached()
	switch {
	case wrong != "":
		return w.guestFailed(wrong)
	case !done:
		return w.guestFailed("the machine switched off or restarted before its script had ended")
	}
	return nil
}

// reached reports whether the script began, and whether it ended.
func (w *Watch) reached() (hello, end bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, hello = w.frames.get("hello", 0)
	_, end = w.frames.get("end", 0)
	return hello, end
}

// late says what had not happened.
func (w *Watch) late() string {
	switch hello, end := w.reached(); {
	case !hello:
		return "the system was not up"
	case !end:
		return "the script had not ended"
	}
	return "the machine was not off"
}

func (w *Watch) guestFailed(what string) error {
	return errs.New(errs.Invalid, CodeGuest, "%s. %s", what, w.lastLines())
}

// silent reports whether the console said nothing.
func (w *Watch) silent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.head.Len() == 0
}

// GuestReport is what the script has said so far.
func (w *Watch) GuestReport() build.GuestReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := build.GuestReport{Reports: map[string]string{}, Seconds: time.Since(w.start).Seconds()}
	for key, text := range w.frames.whole {
		if kind, ok := strings.CutSuffix(key, ":0"); ok {
			r.Reports[kind] = text
		}
	}
	return r
}

// graft is how a folder is named for the programs that make ISO 9660 file systems, when it is to lie at a place.
func graft(at, dir string) string {
	return at + "=" + strings.NewReplacer(`\`, `\\`, "=", `\=`).Replace(filepath.Clean(dir))
}
