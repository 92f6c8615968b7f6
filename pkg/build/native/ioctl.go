package native

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl asks the kernel with a number by address; x/sys has no call for it.
func ioctl(f *os.File, request uintptr, value *uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(value))); errno != 0 {
		return errno
	}
	return nil
}
