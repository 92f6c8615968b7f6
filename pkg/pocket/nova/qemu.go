package nova

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
	"github.com/sirupsen/logrus"
)

// qemuDriver boots guests with QEMU's TCG: a qcow2 overlay over the cached image as virtio disk, no network, and
// the serial line in console.log. A guest's folder is <InstancesPath>/<uuid>, as with libvirt.
type qemuDriver struct {
	program, qemuImg string
	folder           string
	cache            *imageCache
	log              logrus.FieldLogger

	mu     sync.Mutex
	guests map[string]*guest
}

// guest is one QEMU process.
type guest struct {
	process *os.Process
	ended   chan struct{}
}

func (d *qemuDriver) path(i instance, name string) string { return filepath.Join(d.folder, i.ID, name) }

func (d *qemuDriver) spawn(ctx context.Context, _ wire.Images, caller wire.Caller, i instance) error {
	if _, err := exec.LookPath(d.program); err != nil {
		return &buildError{exception: "HypervisorUnavailable", message: d.program + " is not installed on node " + i.Host}
	}
	base, err := d.cache.ensure(ctx, caller, i.Image.ID)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.folder, i.ID), 0o755); err != nil {
		return fmt.Errorf("make the instance's folder: %w", err)
	}
	if err := d.makeDisk(ctx, i, base); err != nil {
		return err
	}
	for _, file := range []string{"kernel_id", "ramdisk_id"} {
		if id := i.Image.Properties[file]; id != "" {
			if _, err := d.cache.ensure(ctx, caller, id); err != nil {
				return err
			}
		}
	}
	return d.start(ctx, i)
}

// makeDisk is qemu-img create with an explicit backing format: the guest writes its first sectors, and a probed
// format would let it name any file of the node.
func (d *qemuDriver) makeDisk(ctx context.Context, i instance, base string) error {
	info, err := os.Stat(base)
	if err != nil {
		return fmt.Errorf("read the cached image: %w", err)
	}
	size := i.Flavor.Disk * gib
	if size > 0 && info.Size() > size {
		return &buildError{exception: "FlavorDiskSmallerThanImage", message: fmt.Sprintf(
			"Flavor's disk is too small for requested image. Flavor disk is %d bytes, image is %d bytes.", size, info.Size())}
	}
	size = max(size, info.Size())
	out, err := exec.CommandContext(ctx, d.qemuImg, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw",
		d.path(i, "disk"), strconv.FormatInt(size, 10)).CombinedOutput()
	if err != nil {
		return &buildError{exception: "ProcessExecutionError", message: fmt.Sprintf("cannot make the disk: %v: %s", err, out)}
	}
	return nil
}

func (d *qemuDriver) arguments(i instance) []string {
	args := []string{
		"-name", i.Label, "-uuid", i.ID, "-accel", "tcg", "-m", strconv.FormatInt(i.Flavor.RAM, 10),
		"-smp", strconv.FormatInt(i.Flavor.VCPUs, 10), "-nodefaults", "-no-user-config", "-nographic", "-monitor", "none",
		"-chardev", "file,id=serial0,append=on,path=" + d.path(i, "console.log"), "-serial", "chardev:serial0",
		"-drive", "if=virtio,format=qcow2,file=" + d.path(i, "disk"),
		"-device", "virtio-rng-pci",
	}
	kernel := i.Image.Properties["kernel_id"]
	if kernel == "" {
		return args
	}
	line := i.Image.Properties["os_command_line"]
	if line == "" {
		line = "root=/dev/vda console=tty0 console=ttyS0 console=hvc0" // libvirt.driver: console=hvc0 comes last
	}
	args = append(args, "-kernel", filepath.Join(d.cache.base, CacheName(kernel)), "-append", line)
	if ramdisk := i.Image.Properties["ramdisk_id"]; ramdisk != "" {
		args = append(args, "-initrd", filepath.Join(d.cache.base, CacheName(ramdisk)))
	}
	return args
}

// start boots the guest. The process gets SIGKILL when this one dies, however it dies: the thread that started it
// stays with it (PDEATHSIG is sent when the starting thread ends).
func (d *qemuDriver) start(_ context.Context, i instance) error {
	cmd := exec.Command(d.program, d.arguments(i)...) //nolint:noctx // it outlives its request; destroy and close end it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	console, err := os.OpenFile(d.path(i, "console.log"), os.O_CREATE|os.O_APPEND, 0o600) // to be read before QEMU makes it
	if err != nil {
		return fmt.Errorf("make console.log: %w", err)
	}
	if err := console.Close(); err != nil {
		return fmt.Errorf("make console.log: %w", err)
	}
	errorLog, err := os.Create(d.path(i, "qemu.log"))
	if err != nil {
		return fmt.Errorf("make qemu.log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = errorLog, errorLog
	g := &guest{ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, after the process
		defer close(g.ended)
		defer func() { _ = errorLog.Close() }()
		err := cmd.Start()
		g.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		if err := cmd.Wait(); err != nil {
			d.log.WithError(err).WithField("instance", i.ID).Debug("QEMU ended")
		}
	}()
	if err := <-started; err != nil {
		return &buildError{exception: "HypervisorUnavailable", message: fmt.Sprintf("cannot start %s: %v", d.program, err)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests[i.ID] = g
	return nil
}

func (d *qemuDriver) stop(i instance) error {
	d.mu.Lock()
	g := d.guests[i.ID]
	delete(d.guests, i.ID)
	d.mu.Unlock()
	if g == nil {
		return errNoGuest
	}
	g.kill()
	return nil
}

func (g *guest) kill() {
	select {
	case <-g.ended:
		return
	default:
	}
	_ = g.process.Kill() // it may have ended by itself
	<-g.ended
}

func (d *qemuDriver) destroy(i instance) {
	if err := d.stop(i); err != nil && !errors.Is(err, errNoGuest) {
		d.log.WithError(err).WithField("instance", i.ID).Warning("cannot stop the guest")
	}
	if err := os.RemoveAll(filepath.Join(d.folder, i.ID)); err != nil {
		d.log.WithError(err).WithField("instance", i.ID).Warning("cannot remove the guest's folder")
	}
}

func (d *qemuDriver) console(i instance) ([]byte, error) {
	return os.ReadFile(d.path(i, "console.log"))
}

func (d *qemuDriver) close() {
	d.mu.Lock()
	guests := d.guests
	d.guests = map[string]*guest{}
	d.mu.Unlock()
	for _, g := range guests {
		g.kill()
	}
}
