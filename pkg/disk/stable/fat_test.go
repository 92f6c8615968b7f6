package stable_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/disk/stable"
	"github.com/kiln-cloud/kiln/pkg/testkit/digest"
)

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestEFIPartitionIsStable(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	program := bytes.Repeat([]byte("MZ"), 200_000)
	var sums []string
	for i := range 2 {
		image := filepath.Join(dir, fmt.Sprint("disk", i))
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, 40<<20); err != nil {
			t.Fatal(err)
		}
		f := stable.FAT{Image: image, Offset: 2 << 20, Length: 32 << 20, Serial: 0xcafe1234, Label: "EFI", Epoch: epoch,
			Files: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": program, "EFI/debian/grub.cfg": []byte("x\n")}}
		if err := f.Write(t.Context(), t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if err := stable.Swap(image, 36<<20, 2<<20, id, "swap"); err != nil {
			t.Fatal(err)
		}
		sums = append(sums, digest.File(t, image))
	}
	if sums[0] != sums[1] {
		t.Error("two writes of the same files differ")
	}
	image := filepath.Join(dir, "disk0")
	tool(t, "mcopy", "-i", image+"@@2097152", "::/EFI/BOOT/BOOTX64.EFI", filepath.Join(dir, "back"))
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(back, program) {
		t.Errorf("the program came back as %d bytes: %v", len(back), err)
	}
	for offset, want := range map[string]string{"2097152": "SEC_TYPE=\"msdos\" LABEL_FATBOOT=\"EFI\" LABEL=\"EFI\" UUID=\"CAFE-1234\"", "37748736": "LABEL=\"swap\" UUID=\"" + id + "\""} {
		if got := tool(t, "blkid", "-p", "-O", offset, image); !strings.Contains(got, want) {
			t.Errorf("at %s: %s", offset, got)
		}
	}
	if _, err := exec.LookPath("fsck.vfat"); err == nil {
		part := filepath.Join(dir, "part")
		tool(t, "dd", "if="+image, "of="+part, "bs=1M", "skip=2", "count=32", "status=none")
		tool(t, "fsck.vfat", "-n", part)
	}
}
