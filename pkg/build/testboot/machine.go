package testboot

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// nobody is who QEMU runs as where we are root.
const nobody = 65534

// machine is one boot. Its files are handed over open: the process could open none of them itself.
type machine struct {
	*QEMU
	dir      string
	firmware string
	files    []*os.File
	args     []string

	fileBytes uint64 // of the largest file that is written to; 0: an overlay's
}

func (m *machine) closeFiles() {
	for _, f := range m.files {
		f.Close() //nolint:errcheck // QEMU has its own
	}
}

// hand gives an open file to QEMU and names it for its options.
func (m *machine) hand(f *os.File) string {
	m.files = append(m.files, f)
	n := strconv.Itoa(len(m.files))
	m.args = append(m.args, "-add-fd", "fd="+strconv.Itoa(len(m.files)+2)+",set="+n)
	return "/dev/fdset/" + n
}

func sizeArg(n int64) string { return strconv.FormatInt(n, 10) }

// node is one -blockdev.
func (m *machine) node(options map[string]any) error {
	text, err := json.Marshal(options)
	if err != nil {
		return err
	}
	m.args = append(m.args, "-blockdev", string(text))
	return nil
}

func file(name string, readOnly bool) map[string]any {
	return map[string]any{"driver": "file", "filename": name, "read-only": readOnly, "locking": "off", "aio": "threads",
		"cache": map[string]any{"no-flush": true}}
}

// options are those of every machine: no device but a console and a source of randomness.
func (m *machine) options() []string {
	accel := m.cfg.Accelerator
	cpu := "host"
	if accel == "tcg" {
		accel, cpu = "tcg,thread=multi,tb-size=256", "max"
	}
	board := "pc"
	if m.firmware == UEFI {
		board = "q35"
	}
	return []string{
		"-name", "kiln-test-boot", "-nodefaults", "-no-user-config", "-machine", board + ",graphics=off", "-accel", accel, "-cpu", cpu,
		"-m", strconv.Itoa(m.cfg.MemoryMiB), "-smp", strconv.Itoa(m.cfg.CPUs), "-display", "none", "-vga", "none", "-monitor", "none",
		"-no-reboot", "-boot", "strict=on", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-device", "virtio-rng-pci",
	}
}

// prepare makes all files and QEMU's options.
func (m *machine) prepare(ctx context.Context, d build.Artifact, plan Plan) error {
	m.args = append(m.options(), "-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile=")
	if err := m.firmwareFiles(); err != nil {
		return err
	}
	if err := m.disks(ctx, d); err != nil {
		return err
	}
	if !plan.CloudInit {
		return nil
	}
	seeds, err := plan.seeds()
	if err != nil {
		return err
	}
	for i, s := range seeds {
		if err := m.addSeed(ctx, "seed"+strconv.Itoa(i), s); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) firmwareFiles() error {
	if m.firmware != UEFI {
		return nil
	}
	code, vars := filepath.Join(m.cfg.OVMF, "OVMF_CODE_4M.fd"), filepath.Join(m.dir, "vars.fd")
	text, err := os.ReadFile(filepath.Join(m.cfg.OVMF, "OVMF_VARS_4M.fd"))
	if err != nil {
		return errs.Wrap(err, errs.NotFound, CodeHost, "There is no UEFI firmware in %s: install ovmf.", m.cfg.OVMF)
	}
	if err := os.WriteFile(vars, text, 0o600); err != nil { //nolint:gosec // in our own work folder
		return errs.Wrap(err, errs.Internal, CodeHost, "The firmware's variables cannot be written.")
	}
	for i, name := range []string{code, vars} {
		flags, readOnly := os.O_RDONLY, true
		if i == 1 {
			flags, readOnly = os.O_RDWR, false
		}
		f, err := os.OpenFile(name, flags, 0)
		if err != nil {
			return errs.Wrap(err, errs.NotFound, CodeHost, "The UEFI firmware cannot be opened.")
		}
		id := "pflash" + strconv.Itoa(i)
		err = m.node(map[string]any{"driver": "raw", "node-name": id, "read-only": readOnly, "file": file(m.hand(f), readOnly)})
		if err != nil {
			return err
		}
		m.args = append(m.args, "-machine", id+"="+id)
	}
	return nil
}

// disks is the image below an overlay.
func (m *machine) disks(ctx context.Context, d build.Artifact) error {
	header, err := disk.CheckFile(disk.Image{Path: d.Path, Format: d.Format}, disk.Limits{})
	if err != nil {
		return err
	}
	f, err := os.Open(d.Path)
	if err != nil {
		return errs.Wrap(err, errs.NotFound, CodeHost, "The image cannot be opened.")
	}
	base := map[string]any{"driver": header.Format, "node-name": "base", "read-only": true, "file": file(m.hand(f), true)}
	if header.Format == disk.Qcow2 {
		base["backing"] = nil
	}
	if err := m.node(base); err != nil {
		return err
	}
	top, err := m.overlay(ctx, header.VirtualSize)
	if err != nil {
		return err
	}
	err = m.node(map[string]any{"driver": disk.Qcow2, "node-name": "disk", "backing": "base", "discard": "unmap", "file": file(m.hand(top), false)})
	m.args = append(m.args, "-device", "virtio-blk-pci,drive=disk,bootindex=1")
	return err
}

func (m *machine) addSeed(ctx context.Context, id string, s seed) error {
	path := filepath.Join(m.dir, id+".iso")
	if err := s.write(ctx, m.seedISO, filepath.Join(m.dir, id), path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The seed cannot be opened.")
	}
	err = m.node(map[string]any{"driver": "raw", "node-name": id, "read-only": true, "file": file(m.hand(f), true)})
	m.args = append(m.args, "-device", "virtio-blk-pci,drive="+id)
	return err
}

// running is a QEMU process.
type running struct {
	cancel context.CancelFunc
	ended  chan struct{}
	said   *bounded
}

// start runs QEMU with its console going to w.
func (m *machine) start(ctx context.Context, w io.Writer) (*running, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "prlimit", m.limited()...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Dir = "/"
	cmd.ExtraFiles = m.files
	cmd.WaitDelay = 5 * time.Second
	r := &running{cancel: cancel, ended: make(chan struct{}), said: &bounded{most: 4 << 10}}
	cmd.Stdout, cmd.Stderr = w, r.said
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Credential: m.credential()}
	}
	if err := disk.StartTied(cmd); err != nil {
		cancel()
		return nil, errs.Wrap(err, errs.Internal, CodeHost, "QEMU cannot be started.")
	}
	go func() {
		defer close(r.ended)
		err := cmd.Wait()
		if err != nil && ctx.Err() == nil {
			m.cfg.Log.WithError(err).WithField("qemu", r.said.String()).Debug("QEMU ended")
		}
	}()
	return r, nil
}

// credential is nobody, who may use KVM where that is asked for.
func (m *machine) credential() *syscall.Credential {
	c := &syscall.Credential{Uid: nobody, Gid: nobody}
	var st unix.Stat_t
	if m.cfg.Accelerator == "kvm" && unix.Stat("/dev/kvm", &st) == nil {
		c.Groups = []uint32{st.Gid}
	}
	return c
}

// limited is the command line of QEMU with bounds on the process itself: its memory by the guest's and room for QEMU, its
// files by the room for an overlay. prlimit(1) of util-linux sets them and becomes QEMU: to set them from outside, a
// capability is needed that not every root has.
func (m *machine) limited() []string {
	const qemuBytes, overlayBytes = 3 << 30, 32 << 30
	return append([]string{
		fmt.Sprintf("--as=%d", m.cfg.MemoryMiB<<20+qemuBytes), fmt.Sprintf("--fsize=%d", max(overlayBytes, m.fileBytes)), "--core=0", m.program,
	}, m.args...)
}

// stop ends the process and gives what it said on standard error. The disk is thrown away, so it is not asked to stop.
func (r *running) stop() string {
	r.cancel()
	<-r.ended
	return strings.TrimSpace(r.said.String())
}

// bounded keeps the beginning of what is written.
type bounded struct {
	mu   sync.Mutex
	most int
	text []byte
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p[:min(len(p), b.most-len(b.text))]...)
	return len(p), nil
}

func (b *bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return printable(string(b.text))
}
