package output

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// plain is a disk in one of the formats that Kiln itself works on.
func plain(ctx context.Context, j *job) error {
	return disk.Convert(ctx, j.from, disk.Image{Path: j.to, Format: j.format}, nil)
}

// convert writes the formats of other hypervisors. vmdk is streamOptimized, the one that vCenter imports and Glance's
// documentation asks for (vmware_disktype). vhd is dynamic with the disk's exact size: that is what Hyper-V and Xen take; Azure takes
// a fixed one alone, which has every byte of the disk (docs/outputs.md says how).
func convert(ctx context.Context, j *job) error {
	driver, options := "vmdk", "subformat=streamOptimized,adapter_type=lsilogic"
	if j.format == VHD {
		driver, options = "vpc", "subformat=dynamic,force_size=on"
	}
	tmp := filepath.Join(j.work, "disk."+j.format)
	from, err := filepath.Abs(j.from.Path) // an absolute path is never taken for a protocol of qemu
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodeConvert, "The disk's path cannot be resolved.")
	}
	cmd := exec.CommandContext(ctx, "qemu-img", "convert", "-f", j.from.Format, "-O", driver, "-o", options, from, tmp)
	if err := tool(ctx, cmd, disk.StartTied); err != nil {
		return err
	}
	return j.publish(tmp)
}

// publish gives the finished file its name.
func (j *job) publish(tmp string) error {
	err := os.Chmod(tmp, 0o644)
	if err == nil {
		err = disk.SyncFile(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, j.to)
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The artifact cannot be written.")
	}
	return nil
}

// tool runs a program to its end, with what it said in the error.
func tool(ctx context.Context, cmd *exec.Cmd, start func(*exec.Cmd) error) error {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.WaitDelay = 5 * time.Second
	name := filepath.Base(cmd.Args[0])
	err := start(cmd)
	if errors.Is(err, exec.ErrNotFound) {
		return errs.Wrap(err, errs.Internal, CodeHost, "%s is not installed.", name)
	}
	if err == nil {
		err = cmd.Wait()
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeConvert, "%s was stopped.", name)
	}
	text := strings.TrimSpace(strings.ToValidUTF8(said.String(), ""))
	return errs.Wrap(err, errs.Internal, CodeConvert, "%s failed: %s", name, text[max(0, len(text)-500):])
}
