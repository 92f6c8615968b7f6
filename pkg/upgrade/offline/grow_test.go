package offline_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/testkit/aptrepo"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline"
)

// heavy is a package that says that it needs more than the small image has.
func heavy(version string, kib string) aptrepo.Package {
	p := simple("heavy", version)
	p.Fields = "Installed-Size: " + kib + "\n"
	return p
}

// TestFullDiskByPolicy: too small a disk is refused with what is missing, or grows as far as it may.
func TestFullDiskByPolicy(t *testing.T) {
	image := installed(t, []aptrepo.Package{heavy("1", "10")}, nil)
	t.Parallel()
	s := newShop(t)
	s.sell(heavy("2", "600000"))
	grow := func(gib int) func(*upgrade.Request, *offline.Config) {
		return func(r *upgrade.Request, _ *offline.Config) { r.Policy.GrowGiB = gib }
	}
	refusal{offline.CodeDiskFull, errs.TooLarge, "bytes are missing; rebuild the image with a larger disk, or let it grow"}.check(t, s.upgradeIt(t, image, nil))
	t.Run("mbr", func(t *testing.T) { grows(t, s, image, "ext4") })
	t.Run("gpt", func(t *testing.T) { grows(t, s, withGPT(t, image), "ext4") })
	t.Run("too far", func(t *testing.T) {
		far := newShop(t)
		far.sell(heavy("2", "9000000"))
		refusal{offline.CodeDiskFull, errs.TooLarge, "the policy lets the disk grow by 1 GiB, which is less"}.check(t, far.upgradeIt(t, image, grow(1)))
	})
	t.Run("inodes", func(t *testing.T) {
		full := onFileSystem(t, image, "ext4", "mke2fs -q -t ext4 -N 4600 -U "+rootUUID, func(root *os.Root) error {
			for n := 0; ; n++ {
				f, err := root.Create(fmt.Sprintf("srv/%d", n))
				if errors.Is(err, syscall.ENOSPC) {
					return nil
				}
				if err != nil || n > 5000 {
					return fmt.Errorf("%d files are not all: %w", n, err)
				}
				if err := f.Close(); err != nil {
					return err
				}
			}
		})
		light := newShop(t)
		light.sell(heavy("2", "10"))
		refusal{offline.CodeDiskFull, errs.TooLarge, "inodes are missing"}.check(t, light.upgradeIt(t, full, nil))
		light.upgradeIt(t, full, grow(1)).good(t)
	})
}

// grows upgrades with one GiB to grow by, and looks at the disk.
func grows(t *testing.T, s *shop, image, kind string) {
	t.Helper()
	const gib = 1 << 30
	a := s.upgradeIt(t, image, func(r *upgrade.Request, _ *offline.Config) { r.Policy.GrowGiB = 1 }).good(t)
	st, err := os.Stat(a.output)
	if err != nil || st.Size() != gib || a.report.GrownTo != gib || !slices.Contains(a.steps, "grow") {
		t.Errorf("grown to %d, the file has %d: %v", a.report.GrownTo, st.Size(), err)
	}
	if versionIn(t, a.output, "heavy") != "2" {
		t.Error("nothing was upgraded")
	}
	f, err := os.Open(a.output)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parts, err := disk.Partitions(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	root, err := disk.FindRoot(f, parts)
	if err != nil || root.Start+root.Length < gib-2<<20 || disk.Filesystem(f, root.Start, root.Length) != kind {
		t.Errorf("%+v %v", root, err)
	}
	inside(t, a.output, func(root *os.Root) {
		if free := freeBytes(t, root); free < 600<<20 {
			t.Errorf("%d bytes are free", free)
		}
	})
}

// withGPT is a small image with another table.
func withGPT(t *testing.T, image string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "gpt.raw")
	script := `set -e; cp --sparse=always "$0" "$1"; truncate -s +1M "$1"; dd if=/dev/zero of="$1" bs=512 count=1 conv=notrunc status=none
printf 'label: gpt\nstart=1MiB, size=%s, type=L\n' "$2" | sfdisk -q "$1"`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script, image, out, "288MiB")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, said)
	}
	return out
}

// TestOtherFileSystems: xfs and btrfs are upgraded, grown and checked too.
func TestOtherFileSystems(t *testing.T) {
	image := installed(t, []aptrepo.Package{heavy("1", "10")}, nil)
	t.Parallel()
	s := newShop(t)
	s.sell(heavy("2", "600000"))
	for kind, mkfs := range map[string]string{"xfs": "mkfs.xfs -q", "btrfs": "mkfs.btrfs -q"} {
		t.Run(kind, func(t *testing.T) {
			grows(t, s, onFileSystem(t, image, kind, mkfs, func(root *os.Root) error { return root.Remove("boot/grub/grub.cfg") }), kind)
		})
	}
}

// onFileSystem copies the tree of a small image to a disk without a table.
func onFileSystem(t *testing.T, image, kind, mkfs string, edit func(*os.Root) error) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), kind+".raw")
	const length = 512 << 20
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `truncate -s 512M "$0" && `+mkfs+` "$0"`, out)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, said)
	}
	sess, err := disk.OpenSession(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	from, err := sess.MountRaw(t.Context(), image, partStart, tinyLength, "ext4", "ro")
	if err != nil {
		t.Fatal(err)
	}
	to, err := sess.MountRaw(t.Context(), out, 0, length, kind, "")
	if err != nil {
		t.Fatal(err)
	}
	if said, err := exec.CommandContext(t.Context(), "cp", "-a", from.HostPath()+"/.", to.HostPath()).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, said)
	}
	if edit != nil {
		root, err := to.Root()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(edit(root), root.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
