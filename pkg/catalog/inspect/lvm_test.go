package inspect_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/lvm"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const extent = 4 << 20

// volumes has LVM2's own tools make physical volumes of 160 MiB and, by the commands, logical volumes on them. They
// run without a device mapper, so whatever lies on the volumes must be written by lay.
type volumes struct {
	t       testing.TB
	files   []string
	devices []string
}

func makeVolumes(t testing.TB, count int, commands ...string) *volumes {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root, LVM2 and loop devices")
	}
	v := &volumes{t: t}
	for range count {
		file := blank(t, 160)
		device := looped(t, "losetup", "-f", "--show", file)
		t.Cleanup(func() {
			if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
				t.Errorf("losetup -d: %v %s", err, out)
			}
		})
		v.files, v.devices = append(v.files, file), append(v.devices, device)
		v.lvm("pvcreate", device)
	}
	v.lvm("vgcreate", append([]string{"-s", "4m", "system"}, v.devices...)...)
	for _, c := range commands {
		words := strings.Fields(c)
		v.lvm(words[0], words[1:]...)
	}
	return v
}

// lvm runs one of the tools on this test's devices alone.
func (v *volumes) lvm(tool string, args ...string) string {
	v.t.Helper()
	var filter strings.Builder
	for _, d := range v.devices {
		fmt.Fprintf(&filter, "%q,", "a|^"+d+"$|")
	}
	config := "devices{use_devicesfile=0 filter=[" + filter.String() + `"r|.*|"]} backup{backup=0 archive=0} activation{udev_sync=0 udev_rules=0}`
	cmd := exec.CommandContext(v.t.Context(), "/usr/sbin/"+tool, append([]string{"--driverloaded", "n", "--config", config}, args...)...)
	cmd.Env = append(os.Environ(), "LVM_SUPPRESS_FD_WARNINGS=1")
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		v.t.Fatalf("%s %v: %v\n%s", tool, args, err, errors.String())
	}
	return string(out)
}

// lay writes the bytes of a logical volume where LVM2 says that its segments lie.
func (v *volumes) lay(name string, data []byte) {
	v.t.Helper()
	first := v.lvm("pvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "pe_start", v.devices[0])
	var start int64
	if _, err := fmt.Sscan(first, &start); err != nil {
		v.t.Fatal(err)
	}
	at := int64(0)
	for line := range strings.Lines(v.lvm("lvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "seg_size,seg_pe_ranges,stripes,stripesize", "--sort", "seg_start", "system/"+name)) {
		f := strings.Fields(line)
		var size, stripe int64
		fmt.Sscan(f[0], &size)
		fmt.Sscan(f[len(f)-1], &stripe)
		ranges := f[1 : len(f)-2]
		if len(ranges) == 1 {
			stripe = size
		}
		for off := int64(0); off < size; off += stripe {
			turn := off / stripe
			device, pes, _ := strings.Cut(ranges[turn%int64(len(ranges))], ":")
			var from int64
			fmt.Sscan(strings.Split(pes, "-")[0], &from)
			v.write(device, start+from*extent+turn/int64(len(ranges))*stripe, data[at+off:at+off+stripe])
		}
		at += size
	}
	if at != int64(len(data)) {
		v.t.Fatalf("%s has %d bytes, laid %d", name, at, len(data))
	}
}

func (v *volumes) write(device string, off int64, data []byte) {
	v.t.Helper()
	for k, d := range v.devices {
		if d != device {
			continue
		}
		f, err := os.OpenFile(v.files[k], os.O_WRONLY, 0)
		if err != nil {
			v.t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(data, off); err != nil {
			v.t.Fatal(err)
		}
		return
	}
	v.t.Fatalf("no device %s", device)
}

// parts are the physical volumes as partitions of a disk.
func (v *volumes) parts() []part {
	var out []part
	for _, file := range v.files {
		data, err := os.ReadFile(file)
		if err != nil {
			v.t.Fatal(err)
		}
		out = append(out, part{"E6D6D379-F507-44C2-A23C-238F2A3DF928", data})
	}
	return out
}

// TestLogicalVolumes: a root in two pieces with another volume between them, and one that is striped over two
// partitions.
func TestLogicalVolumes(t *testing.T) {
	root := richTree(t)
	for name, c := range map[string]struct {
		pvs      int
		commands []string
	}{
		"linear":  {1, []string{"lvcreate -an -Zn -Wn -L 8m -n swap system", "lvcreate -an -Zn -Wn -L 60m -n root system", "lvcreate -an -Zn -Wn -L 4m -n var system", "lvextend -L 64m system/root"}},
		"striped": {2, []string{"lvcreate -an -Zn -Wn -L 8m -n swap system", "lvcreate -an -Zn -Wn -i 2 -I 64k -L 64m -n root system"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := makeVolumes(t, c.pvs, c.commands...)
			v.lay("root", diskOf(t, root, "ext4", "64m"))
			data := gptDisk(t, true, append([]part{{disk.TypeBIOSBoot, make([]byte, 1<<20)}}, v.parts()...)...)
			facts, err := read(t, data, "raw")
			if err != nil {
				t.Fatal(err)
			}
			if facts.Volume != "system/root" || facts.FileSystem != "ext4" || facts.RootUUID != rootUUID || len(facts.Packages) != 3 || len(facts.Kernels) != 2 {
				t.Errorf("%+v", facts)
			}
			if p := facts.Partitions[1]; p.FileSystem != "LVM2_member" || !p.Root || facts.Partitions[0].Root {
				t.Errorf("%+v", facts.Partitions)
			}
			got := manifestOf(t, data, "raw")
			got = got[:0:0]
			for _, f := range manifestOf(t, data, "raw") {
				if f.Path != "/lost+found" {
					got = append(got, f)
				}
			}
			if diff := cmp.Diff(treeOf(t, root), got, cmpopts.IgnoreFields(catalog.File{}, "Mode", "UID", "GID")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSpreadSystem: /usr and /var on volumes of their own, as hardened images have them. Paths lead into them, and the
// link /etc/os-release is all that the root has of a system.
func TestSpreadSystem(t *testing.T) {
	v := makeVolumes(t, 1, "lvcreate -an -Zn -Wn -L 16m -n root-fs system", "lvcreate -an -Zn -Wn -L 16m -n usr system", "lvcreate -an -Zn -Wn -L 32m -n var system")
	root, usr, vars := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, root, "etc/fstab", "/dev/mapper/system-root--fs / ext4 defaults 0 1\n# a comment\n/dev/system/usr /usr ext4 ro 0 2\nUUID="+diskUUID+" /var ext4 defaults 0 2\n/dev/vdb1 /srv xfs defaults 0 2\n", 0o644)
	write(t, root, "etc/mine", "hello", 0o644)
	write(t, root, "usr/hidden", "", 0o644)
	write(t, root, "var/hidden", "", 0o644)
	link(t, root, "../usr/lib/os-release", "etc/os-release")
	write(t, usr, "lib/os-release", "ID=debian\nVERSION_CODENAME=bookworm\n", 0o644)
	write(t, vars, "lib/dpkg/status", conffileStatus, 0o644)
	v.lay("root-fs", diskOf(t, root, "ext4", "16m"))
	v.lay("usr", diskOf(t, usr, "ext4", "16m"))
	v.lay("var", diskOf(t, vars, "ext4", "32m", "-U", diskUUID))
	facts, err := read(t, gptDisk(t, true, v.parts()...), "raw")
	if err != nil {
		t.Fatal(err)
	}
	got := []any{facts.OS.Codename, len(facts.Packages), facts.Volume, facts.Mounts, len(facts.ConffilesChanged)}
	if diff := cmp.Diff([]any{"bookworm", 1, "system/root-fs", []string{"/usr", "/var"}, 6}, got); diff != "" {
		t.Error(diff)
	}
}

// TestHalfAGroup: a volume with a part on a disk that is not there is named.
func TestHalfAGroup(t *testing.T) {
	v := makeVolumes(t, 2, "lvcreate -an -Zn -Wn -L 280m -n root system")
	_, err := read(t, gptDisk(t, true, v.parts()[0]), "raw")
	if errs.CodeOf(err) != inspect.CodeFileSystem || !strings.Contains(err.Error(), "not in the image") {
		t.Errorf("half a group: %v", err)
	}
}

// TestDamagedVolumes changes bytes of the label and the metadata, with and without right checksums: it ends soon, and
// never with a panic.
func TestDamagedVolumes(t *testing.T) {
	v := makeVolumes(t, 1, "lvcreate -an -Zn -Wn -L 8m -n root system")
	good, err := os.ReadFile(v.files[0])
	if err != nil {
		t.Fatal(err)
	}
	open := func(b []byte) error {
		_, _, err := lvm.Open([]lvm.Physical{{Disk: bytes.NewReader(b), Size: int64(len(b))}})
		return err
	}
	if err := open(good); err != nil {
		t.Fatal(err)
	}
	r, refused := rand.New(rand.NewPCG(7, 8)), 0
	for range 500 {
		bad := bytes.Clone(good[:1<<20])
		bad[512+r.IntN(4096)] ^= byte(1 + r.IntN(255))
		bad = append(bad, good[1<<20:4<<20]...)
		if open(bad) != nil {
			refused++
		}
	}
	if refused < 30 {
		t.Errorf("only %d of 500 damages were seen", refused)
	}
	for name, size := range map[string]int64{"no label": 100, "no metadata": 2048, "half the metadata": 5000} {
		if err := open(good[:size]); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
