package inspect_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// protofile describes a folder to mkfs.xfs, which then fills the file system itself (mkfs.xfs.8).
func protofile(t testing.TB, root string) string {
	t.Helper()
	var out strings.Builder
	out.WriteString("none\n0 0\n")
	var dir func(path, name string)
	dir = func(path, name string) {
		fmt.Fprintf(&out, "%s d--755 0 0\n", name)
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			at := filepath.Join(path, e.Name())
			switch {
			case e.IsDir():
				dir(at, e.Name())
			case e.Type()&fs.ModeSymlink != 0:
				target, err := os.Readlink(at)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&out, "%s l--777 0 0 %s\n", e.Name(), target)
			default:
				fmt.Fprintf(&out, "%s ---644 0 0 %s\n", e.Name(), at)
			}
		}
		out.WriteString("$\n")
	}
	dir(root, "")
	file := filepath.Join(t.TempDir(), "proto")
	if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// xfs4 makes an XFS of version 4, which has no checksums and which today's kernels mount no more, of a folder.
func xfs4(t testing.TB, root string, args ...string) string {
	t.Helper()
	image := blank(t, 320)
	run(t, "mkfs.xfs", append(append([]string{"-q", "-m", "crc=0,uuid=" + rootUUID, "-p", protofile(t, root)}, args...), image)...)
	return image
}

// TestXFSVersion4 reads what mkfs.xfs wrote, with and without types in directories.
func TestXFSVersion4(t *testing.T) {
	if testing.Short() {
		t.Skip("needs xfsprogs")
	}
	root := richTree(t)
	for i := range 2000 {
		write(t, root, fmt.Sprintf("large/%s%d", strings.Repeat("n", 100), i), "", 0o644)
	}
	link(t, root, strings.Repeat("t", 1000), "long-target")
	for name, args := range map[string][]string{"types": {"-n", "ftype=1"}, "no types": {"-n", "ftype=0"}} {
		t.Run(name, func(t *testing.T) {
			image := xfs4(t, root, args...)
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := inspect.Manifest(t.Context(), f, 320<<20, "raw")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(treeOf(t, root), got, cmpopts.IgnoreFields(catalog.File{}, "Mode", "UID", "GID")); diff != "" {
				t.Errorf("%.3000s", diff)
			}
			facts, err := inspect.Read(t.Context(), f, 320<<20, "raw")
			if err != nil || facts.FileSystem != "xfs" || facts.RootUUID != rootUUID || len(facts.Packages) != 3 {
				t.Errorf("%+v %v", facts, err)
			}
		})
	}
}

// TestSubvolumes: a system in a subvolume that is not the default one is found by its usual name before snapshots of
// it, and one that is the default needs no name. Subvolumes inside are part of the tree; inside a snapshot only their
// names are, as the kernel has it.
func TestSubvolumes(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root, btrfs-progs and loop mounts")
	}
	for _, name := range []string{"@", "@rootfs", "systems/14/snapshot"} {
		t.Run(name, func(t *testing.T) {
			image := blank(t, 300)
			run(t, "mkfs.btrfs", "-q", image)
			at, end := mount(t, image, "rw")
			run(t, "mkdir", "-p", filepath.Dir(filepath.Join(at, name)))
			run(t, "btrfs", "-q", "subvolume", "create", at+"/a-first")
			run(t, "btrfs", "-q", "subvolume", "create", filepath.Join(at, name))
			run(t, "cp", "-a", richTree(t)+"/.", filepath.Join(at, name))
			run(t, "btrfs", "-q", "subvolume", "create", filepath.Join(at, name, "srv"))
			write(t, filepath.Join(at, name), "srv/inside", "a subvolume", 0o644)
			run(t, "btrfs", "-q", "subvolume", "snapshot", "-r", filepath.Join(at, name), filepath.Join(at, name, ".snap"))
			if !strings.HasPrefix(name, "@") {
				run(t, "btrfs", "subvolume", "set-default", filepath.Join(at, name))
			}
			end()
			at, _ = mount(t, image, "ro,subvol="+name)
			facts := check(t, image, "btrfs", kernelTree(t, at))
			want := name
			if !strings.HasPrefix(name, "@") {
				want = ""
			}
			if facts.Subvolume != want {
				t.Errorf("subvolume %q, want %q", facts.Subvolume, want)
			}
		})
	}
}

// TestTwoDevices: half of a btrfs is refused by name.
func TestTwoDevices(t *testing.T) {
	if testing.Short() {
		t.Skip("needs btrfs-progs")
	}
	a, b := blank(t, 300), blank(t, 300)
	run(t, "mkfs.btrfs", "-q", a, b)
	data, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, data, "raw"); errs.CodeOf(err) != inspect.CodeUnreadable || !strings.Contains(err.Error(), "2 devices") {
		t.Errorf("%v", err)
	}
}

const conffileStatus = `Package: dpkg
Status: install ok installed
Architecture: amd64
Version: 1
Conffiles:
 /etc/same 5d41402abc4b2a76b9719d911017c592
 /etc/edited 5d41402abc4b2a76b9719d911017c592
 /etc/removed 5d41402abc4b2a76b9719d911017c592
 /etc/old 5d41402abc4b2a76b9719d911017c592 obsolete
 /etc/moved 5d41402abc4b2a76b9719d911017c592
 /etc/linked 5d41402abc4b2a76b9719d911017c592
 /etc/folder 5d41402abc4b2a76b9719d911017c592
 /etc/new newconffile
Description: none

Package: gone
Status: deinstall ok config-files
Version: 1
Conffiles:
 /etc/rest 5d41402abc4b2a76b9719d911017c592
`

// TestConffiles: 5d41… is the MD5 of "hello".
func TestConffiles(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/os-release": "ID=debian\n", "var/lib/dpkg/status": conffileStatus, "var/lib/dpkg/diversions": "/etc/moved\n/etc/moved.distrib\nlocal\n",
		"etc/same": "hello", "etc/edited": "Hello", "etc/moved": "of the administrator", "etc/moved.distrib": "hello", "etc/target": "hello",
		"etc/folder/file": "", "etc/of-a-list": "", "etc/mine": "", "etc/deep/mine": "", "etc/rest": "",
		"var/lib/dpkg/info/dpkg.list": "/.\n/etc\n/etc/of-a-list\n/etc/os-release\n/usr/bin/dpkg\n", "var/lib/dpkg/info/dpkg.md5sums": "/etc/mine\n",
	} {
		write(t, root, name, text, 0o644)
	}
	link(t, root, "target", "etc/linked")
	data := diskOf(t, root, "ext4", "32m")
	facts, err := read(t, data, "raw")
	if err != nil {
		t.Fatal(err)
	}
	want := []catalog.Conffile{{Path: "/etc/edited", Package: "dpkg", State: "changed"}, {Path: "/etc/folder", Package: "dpkg", State: "changed"}, {Path: "/etc/removed", Package: "dpkg", State: "missing"}}
	if diff := cmp.Diff(want, facts.ConffilesChanged); diff != "" {
		t.Error(diff)
	}
	// moved.distrib, target, folder/file, mine, deep/mine, rest; /etc/moved has an owner by its name.
	if facts.EtcUnowned != 6 || len(facts.Skipped) != 0 {
		t.Errorf("%d unowned, skipped %v", facts.EtcUnowned, facts.Skipped)
	}
	quick, err := inspect.Quick(t.Context(), strings.NewReader(string(data)), int64(len(data)), "raw", inspect.Conffiles)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{want, 0, []string{"licenses", "setuid", "unowned"}}, []any{quick.ConffilesChanged, quick.EtcUnowned, quick.Skipped}); diff != "" {
		t.Error(diff)
	}
}
