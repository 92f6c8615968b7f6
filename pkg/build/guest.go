package build

import (
	"io"
	"time"
)

// Guest is one start of a file system with its own kernel to run a script in it. Unlike a BootTest it changes the disk: give
// it a copy.
type Guest struct {
	Dir      string            // for files of this run, which are gone when it returns
	Disk     string            // a raw image
	Start    int64             // where in it the root file system begins, in bytes. It is the guest's only disk: what is beside it, the partition table too, is out of reach
	Length   int64             // of the root file system, in bytes
	RootUUID string            // of the root file system
	Kernel   string            // file
	Initrd   string            // file
	Script   string            // POSIX shell. `report KIND` sends its standard input, of at most 7,000 bytes; a KIND is of small letters
	Files    map[string][]byte // by their paths below GuestFiles
	Packages string            // a folder that is seen as GuestFiles/packages; "" for none
	Limit    time.Duration     // from the script's beginning until the machine is off; the boot has a limit of its own
	Log      io.Writer         // the console's lines; may be nil
}

// GuestFiles is where the guest sees what it is given, read-only.
const GuestFiles = "/run/kiln-disk"

// GuestReport is what the script said.
type GuestReport struct {
	Reports map[string]string // by KIND
	Seconds float64           // from the start until the machine was off
}
