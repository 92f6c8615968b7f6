package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// AttachLoop binds a range of a file to a free loop device that frees itself with its last user (autoclear). The
// returned device must stay open until it is mounted. The ioctls are those of the kernel's linux/loop.h.
func AttachLoop(path string, offset, length int64, readOnly bool) (*os.File, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	back, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeMount, "The disk file cannot be opened.")
	}
	defer back.Close() //nolint:errcheck // the loop device holds its own reference
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, CodeMount, "This host has no loop devices.")
	}
	defer control.Close() //nolint:errcheck // nothing is written
	config := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{
		Offset: uint64(offset), Sizelimit: uint64(length), Flags: unix.LO_FLAGS_AUTOCLEAR,
	}}
	if readOnly {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
	for range 64 { // between asking and taking, somebody else may take the device
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, errs.Wrap(err, errs.Unavailable, CodeMount, "There is no free loop device.")
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
		if err != nil {
			return nil, errs.Wrap(err, errs.Internal, CodeMount, "The loop device cannot be opened.")
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return dev, nil
		}
		dev.Close() //nolint:errcheck // nothing was bound
		if !errors.Is(err, unix.EBUSY) {
			return nil, errs.Wrap(err, errs.Internal, CodeMount, "The disk file cannot be bound to a loop device.")
		}
	}
	return nil, errs.New(errs.Unavailable, CodeMount, "All loop devices are being taken by others.")
}

// MoveLoop makes a loop device show another range of its file, as it is now. Nothing may be mounted from it.
func MoveLoop(dev *os.File, offset, length int64) error {
	info := unix.LoopInfo64{Offset: uint64(offset), Sizelimit: uint64(length), Flags: unix.LO_FLAGS_AUTOCLEAR}
	copy(info.File_name[:len(info.File_name)-1], dev.Name())
	err := unix.IoctlLoopSetStatus64(int(dev.Fd()), &info)
	if err == nil {
		_, err = unix.IoctlRetInt(int(dev.Fd()), unix.BLKFLSBUF) // what was read when the file was another one
	}
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeMount, "The loop device cannot be moved.")
	}
	return nil
}
