package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Whatever fails beside a full disk failed because of it; beside a disk with room it keeps its own name.
func TestOrFull(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "size=4m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	broken := errs.New(errs.Invalid, "kiln.test.broken", "input/output error")
	if err := disk.OrFull(dir, broken); !errors.Is(err, broken) || errs.CodeOf(err) != "kiln.test.broken" {
		t.Errorf("with room: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	err := disk.OrFull(dir, broken)
	if !errors.Is(err, broken) || errs.CodeOf(err) != disk.CodeFull || !errs.Is(err, errs.TooLarge) {
		t.Errorf("without room: %v", err)
	}
	if err := disk.OrFull(dir, nil); err != nil {
		t.Errorf("no fault: %v", err)
	}
}
