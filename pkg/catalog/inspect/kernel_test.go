package inspect_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
)

// mount has the kernel show an image until the test, or the function that it gives, ends it.
func mount(t testing.TB, image, options string) (at string, end func()) {
	t.Helper()
	at = t.TempDir()
	looped(t, "mount", "-o", "loop,"+options, image, at)
	done := false
	end = func() {
		if !done {
			done = true
			// A mount namespace that was cloned meanwhile keeps the file system mounted, so umount alone may not write it.
			for _, words := range [][]string{{"sync", "-f", at}, {"umount", at}} {
				if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
					t.Errorf("%v: %v %s", words, err, out)
				}
			}
		}
	}
	t.Cleanup(end)
	return at, end
}

// looped runs a command that takes a free loop device: another process may take the same one between its question for a
// free one and its use.
func looped(t testing.TB, name string, args ...string) string {
	t.Helper()
	for try := 1; ; try++ {
		var said bytes.Buffer
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err == nil {
			return strings.TrimSpace(string(out))
		}
		if try == 5 || !strings.Contains(said.String(), "loop device") {
			t.Fatalf("%s %v: %v %s", name, args, err, said.String())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// fill lays a tree that exercises every form in which a file system keeps directories, contents and links.
func fill(t testing.TB, at string) {
	t.Helper()
	run(t, "cp", "-a", richTree(t)+"/.", at)
	for i := range 3000 {
		write(t, at, fmt.Sprintf("large/%s%d", strings.Repeat("n", 150), i), strconv.Itoa(i), 0o640)
	}
	for _, name := range []string{"", strings.Repeat("m", 200)} {
		for i := range 40 {
			write(t, at, fmt.Sprintf("block%d/%s%d", len(name), name, i), strings.Repeat("z", i*100), 0o600)
		}
	}
	write(t, at, strings.Repeat("deep/", 60)+"file", "deep", 0o644)
	pieces(t, filepath.Join(at, "pieces"), 2500)
	big := []byte(strings.Repeat("what can be packed well, and again; ", 60_000))
	r := rand.New(rand.NewPCG(5, 6))
	for i := 1_000_000; i < 1_300_000; i++ { // and what can not
		big[i] = byte(r.Uint32())
	}
	write(t, at, "packed", string(big), 0o644)
	write(t, at, "small-packed", string(big[:1500]), 0o644)
	link(t, at, strings.Repeat("t", 1000), "long-target")
	run(t, "fallocate", "-l", "300000", filepath.Join(at, "reserved"))
	run(t, "mknod", filepath.Join(at, "null"), "c", "1", "3")
	run(t, "mkfifo", filepath.Join(at, "fifo"))
	if err := os.Lchown(filepath.Join(at, "packed"), 70_000, 80_000); err != nil {
		t.Fatal(err)
	}
}

// pieces writes a file of many extents: each second block is left out.
func pieces(t testing.TB, path string, count int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for i := range count {
		for k := range block {
			block[k] = byte(i + k)
		}
		if _, err := f.WriteAt(block, int64(i)*8192); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// kernelTree is what Manifest must say, by what the kernel shows.
func kernelTree(t testing.TB, root string) []catalog.File {
	t.Helper()
	types := map[fs.FileMode]string{0: "file", fs.ModeDir: "dir", fs.ModeSymlink: "link", fs.ModeNamedPipe: "fifo", fs.ModeSocket: "socket", fs.ModeDevice: "block", fs.ModeDevice | fs.ModeCharDevice: "char"}
	var out []catalog.File
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		f := catalog.File{Path: "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/"), Type: types[info.Mode().Type()], Mode: fmt.Sprintf("%04o", st.Mode&0o7777), UID: st.Uid, GID: st.Gid}
		switch f.Type {
		case "link":
			f.Target, err = os.Readlink(path)
		case "file":
			var data []byte
			data, err = os.ReadFile(path)
			sum := sha256.Sum256(data)
			f.Size, f.SHA256 = info.Size(), hex.EncodeToString(sum[:])
		}
		out = append(out, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// check holds facts and manifest of an image against a tree that somebody else read.
func check(t *testing.T, image, kind string, want []catalog.File) *catalog.Facts {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, err := inspect.Read(t.Context(), f, info.Size(), "raw")
	if err != nil {
		t.Fatal(err)
	}
	if facts.FileSystem != kind || len(facts.Packages) != 3 || facts.OS.Codename != "bookworm" || len(facts.Kernels) != 2 || facts.UsedBytes < 1<<20 || facts.UsedBytes > info.Size() {
		t.Errorf("%+v", facts)
	}
	got, err := inspect.Manifest(t.Context(), f, info.Size(), "raw")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%d files and %d: %.4000s", len(want), len(got), diff)
	}
	return facts
}

// blank makes an empty image of a size in MiB.
func blank(t testing.TB, mib int64) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(mib << 20); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestAsTheKernelShows: what is read out of an image is what a mount of it shows, file by file.
func TestAsTheKernelShows(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root, mkfs and loop mounts")
	}
	for name, c := range map[string]struct {
		kind    string
		mkfs    []string
		options string
	}{
		"xfs":              {"xfs", []string{"mkfs.xfs", "-q", "-m", "uuid=" + rootUUID}, "rw"},
		"xfs small blocks": {"xfs", []string{"mkfs.xfs", "-q", "-m", "uuid=" + rootUUID, "-b", "size=1024", "-n", "size=8192", "-i", "size=512"}, "rw"},
		"xfs nrext64":      {"xfs", []string{"mkfs.xfs", "-q", "-m", "uuid=" + rootUUID, "-i", "nrext64=1"}, "rw"},
		"btrfs":            {"btrfs", []string{"mkfs.btrfs", "-q", "-U", rootUUID}, "rw"},
		"btrfs zstd":       {"btrfs", []string{"mkfs.btrfs", "-q", "-U", rootUUID, "--csum", "sha256"}, "compress-force=zstd"},
		"btrfs lzo":        {"btrfs", []string{"mkfs.btrfs", "-q", "-U", rootUUID, "--csum", "xxhash", "-n", "4096"}, "compress-force=lzo"},
		"btrfs zlib":       {"btrfs", []string{"mkfs.btrfs", "-q", "-U", rootUUID, "--mixed", "-d", "single", "-m", "single"}, "compress-force=zlib"},
		"ext4":             {"ext4", []string{"mke2fs", "-q", "-t", "ext4", "-U", rootUUID}, "rw"},
	} {
		t.Run(name, func(t *testing.T) {
			image := blank(t, 400)
			id := uuid.NewString()
			for k, arg := range c.mkfs {
				c.mkfs[k] = strings.ReplaceAll(arg, rootUUID, id)
			}
			run(t, c.mkfs[0], append(c.mkfs[1:], image)...)
			at, end := mount(t, image, c.options)
			fill(t, at)
			end()
			at, _ = mount(t, image, "ro")
			if facts := check(t, image, c.kind, kernelTree(t, at)); facts.RootUUID != id || facts.Volume != "" {
				t.Errorf("UUID %s, volume %q", facts.RootUUID, facts.Volume)
			}
		})
	}
}
