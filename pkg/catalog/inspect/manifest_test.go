package inspect_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/ext4"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// diskOf makes a file system of a folder.
func diskOf(t testing.TB, root, kind, size string, args ...string) []byte {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	run(t, "mke2fs", append(append([]string{"-q", "-t", kind, "-U", rootUUID, "-d", root}, args...), image, size)...)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t testing.TB, root, name, text string, mode fs.FileMode) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, root, target, name string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
}

// treeOf is what Manifest must say of a folder, found with the machine's own calls.
func treeOf(t testing.TB, root string) []catalog.File {
	t.Helper()
	var out []catalog.File
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f := catalog.File{Path: "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")}
		switch {
		case info.IsDir():
			f.Type = "dir"
		case info.Mode()&fs.ModeSymlink != 0:
			f.Type = "link"
			if f.Target, err = os.Readlink(path); err != nil {
				return err
			}
		default:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			f.Type, f.Size, f.SHA256 = "file", info.Size(), hex.EncodeToString(sum[:])
		}
		out = append(out, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// richTree has what a tree can have.
func richTree(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 3<<20+17)
	for i := range big {
		big[i] = byte(r.Uint32())
	}
	for name, text := range debianTree() {
		if target, ok := strings.CutPrefix(text, "->"); ok {
			link(t, root, target, name)
			continue
		}
		write(t, root, name, text, 0o644)
	}
	write(t, root, "big", string(big), 0o600)
	write(t, root, "empty", "", 0o644)
	write(t, root, "usr/bin/sudo", "s", 0o755|fs.ModeSetuid)
	write(t, root, "usr/bin/wall", "w", 0o755|fs.ModeSetgid)
	write(t, root, "usr/share/not-a-program", "n", 0o644|fs.ModeSetgid)
	for i := range 300 {
		write(t, root, "many/"+string(rune('a'+i%26))+strings.Repeat("x", i/26), strings.Repeat("text\n", i*7), 0o644)
	}
	link(t, root, strings.Repeat("long/", 30)+"target", "long-link")
	link(t, root, "short", "link")
	if err := os.Link(filepath.Join(root, "big"), filepath.Join(root, "zz-hard-link")); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(filepath.Join(root, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	for _, at := range []int64{100 << 10, 3 << 20} {
		if _, err := sparse.WriteAt([]byte("island"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := sparse.Truncate(5 << 20); err != nil {
		t.Fatal(err)
	}
	return root
}

func manifestOf(t testing.TB, data []byte, format string) []catalog.File {
	t.Helper()
	files, err := inspect.Manifest(t.Context(), bytes.NewReader(data), int64(len(data)), format)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// without drops what mke2fs adds.
func without(files []catalog.File, path string) []catalog.File {
	var out []catalog.File
	for _, f := range files {
		if f.Path != path {
			out = append(out, f)
		}
	}
	return out
}

func TestManifest(t *testing.T) {
	root := richTree(t)
	want := treeOf(t, root)
	for name, d := range map[string]struct {
		kind string
		args []string
	}{
		"ext4": {"ext4", nil}, "ext4 small blocks": {"ext4", []string{"-b", "1024"}}, "ext2": {"ext2", nil}, "ext3": {"ext3", []string{"-b", "1024"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := without(manifestOf(t, diskOf(t, root, d.kind, "64m", d.args...), "raw"), "/lost+found")
			byPath := cmpopts.SortSlices(func(a, b catalog.File) bool { return a.Path < b.Path })
			if diff := cmp.Diff(want, got, byPath, cmpopts.IgnoreFields(catalog.File{}, "Mode", "UID", "GID")); diff != "" {
				t.Error(diff)
			}
			modes := map[string]string{}
			for _, f := range got {
				modes[f.Path] = f.Mode
				if int(f.UID) != os.Getuid() && f.Path != "/" {
					t.Errorf("%s belongs to %d", f.Path, f.UID)
				}
			}
			for path, mode := range map[string]string{"/big": "0600", "/usr/bin/sudo": "4755", "/usr/bin/wall": "2755", "/usr/bin": "0755", "/link": "0777"} {
				if modes[path] != mode {
					t.Errorf("%s has mode %s, want %s", path, modes[path], mode)
				}
			}
		})
	}
}

func TestManifestOfQcow2(t *testing.T) {
	if testing.Short() {
		t.Skip("needs qemu-img")
	}
	root := richTree(t)
	raw := filepath.Join(t.TempDir(), "raw")
	data := diskOf(t, root, "ext4", "64m")
	if err := os.WriteFile(raw, data, 0o600); err != nil {
		t.Fatal(err)
	}
	want := manifestOf(t, data, "raw")
	for name, args := range map[string][]string{"plain": nil, "compressed": {"-c"}, "zstd": {"-c", "-o", "compression_type=zstd"}} {
		out := filepath.Join(t.TempDir(), "q")
		run(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, out)...)
		q, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, manifestOf(t, q, "qcow2")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestManifestIsStable: the same tree twice is the same text, and reading gives back what was written.
func TestManifestIsStable(t *testing.T) {
	data := diskOf(t, richTree(t), "ext4", "64m")
	var a, b bytes.Buffer
	files := manifestOf(t, data, "raw")
	if err := catalog.WriteFiles(&a, files); err != nil {
		t.Fatal(err)
	}
	if err := catalog.WriteFiles(&b, manifestOf(t, data, "raw")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) || a.Len() == 0 {
		t.Error("two readings of one disk differ")
	}
	var back []catalog.File
	if err := catalog.ReadFiles(&a, func(f catalog.File) error { back = append(back, f); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, back); diff != "" {
		t.Error(diff)
	}
	err := catalog.ReadFiles(strings.NewReader("{\"path\":\"/a\"}\nnot json\n"), func(catalog.File) error { return nil })
	if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a malformed list: %v", err)
	}
}

// TestManifestOfDamage flips bytes of the metadata: whatever comes out, it comes out soon, without a panic.
func TestManifestOfDamage(t *testing.T) {
	good := diskOf(t, richTree(t), "ext4", "32m", "-b", "1024")
	r := rand.New(rand.NewPCG(3, 4))
	begin, whole := time.Now(), 0
	for range 150 {
		head := bytes.Clone(good[:2<<20])
		for range 1 + r.IntN(60) {
			head[2048+r.IntN(1<<20)] = byte(r.Uint32())
		}
		d := overlay{head: head, rest: good}
		if _, err := inspect.Manifest(t.Context(), d, int64(len(good)), "raw"); err == nil {
			whole++
		} else if !errs.Is(err, errs.Invalid) {
			t.Fatalf("damage is the image's fault: %v", err)
		}
	}
	if took := time.Since(begin); took > 2*time.Minute {
		t.Errorf("150 damaged disks took %s", took)
	}
	if whole == 150 {
		t.Error("nothing was damaged")
	}
}

// TestHostileTree: a directory that is its own child, and a file that says that it is larger than any disk.
func TestHostileTree(t *testing.T) {
	root := t.TempDir()
	write(t, root, "etc/os-release", "ID=x\n", 0o644)
	write(t, root, "dir/sub/file", "x", 0o644)
	data := diskOf(t, root, "ext4", "16m", "-b", "1024", "-O", "^metadata_csum,^dir_index")
	fsys, err := ext4.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	inodes := map[string]uint64{}
	if err := fsys.Walk(t.Context(), 100, func(n ext4.Node) error { inodes[n.Path] = n.Inode; return nil }); err != nil {
		t.Fatal(err)
	}
	entry := append(binary.LittleEndian.AppendUint32(nil, uint32(inodes["/dir/sub"])), 0, 0, 3, 2, 's', 'u', 'b')
	at := -1
	for off := 0; off+11 <= len(data) && at < 0; off += 4 {
		if bytes.Equal(data[off:off+4], entry[:4]) && bytes.Equal(data[off+6:off+11], entry[6:]) {
			at = off
		}
	}
	if at < 0 {
		t.Fatal("the entry of /dir/sub was not found")
	}
	loop := bytes.Clone(data)
	binary.LittleEndian.PutUint32(loop[at:], uint32(inodes["/dir"]))
	if _, err := inspect.Manifest(t.Context(), bytes.NewReader(loop), int64(len(loop)), "raw"); errs.CodeOf(err) != inspect.CodeUnreadable {
		t.Errorf("a directory inside itself: %v", err)
	}
	if err := fsys.Walk(t.Context(), 3, func(ext4.Node) error { return nil }); err == nil {
		t.Error("a walk went beyond its limit")
	}
}

func TestManifestEndsWithItsContext(t *testing.T) {
	data := diskOf(t, richTree(t), "ext4", "64m")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inspect.Manifest(ctx, bytes.NewReader(data), int64(len(data)), "raw"); err == nil || errs.Is(err, errs.Invalid) {
		t.Errorf("after a cancel: %v", err)
	}
}

// BenchmarkManifest lists and hashes everything on benchDisk.
func BenchmarkManifest(b *testing.B) {
	f, size, format := benchDisk(b)
	for b.Loop() {
		files, err := inspect.Manifest(b.Context(), f, size, format)
		if err != nil {
			b.Fatal(err)
		}
		var bytes int64
		for _, f := range files {
			bytes += f.Size
		}
		b.ReportMetric(float64(len(files)), "files")
		b.ReportMetric(float64(bytes)/(1<<20), "MiB")
	}
}
