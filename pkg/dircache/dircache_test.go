package dircache_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/cache/cachetest"
	"github.com/kiln-cloud/kiln/pkg/dircache"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const writerEnv = "KILN_TEST_DIRCACHE_WRITER"

// TestMain is also the process that the contract kills.
func TestMain(m *testing.M) {
	dir, name, ok := strings.Cut(os.Getenv(writerEnv), "|")
	if !ok {
		os.Exit(m.Run())
	}
	b, err := dircache.Open(dir)
	if err == nil {
		err = cachetest.WriteForever(b, name)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func open(t *testing.T, dir string) *dircache.Backend {
	t.Helper()
	b, err := dircache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestContract(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	cachetest.Run(t, cachetest.Harness{
		Open: func(t *testing.T) cache.Backend { return open(t, dir) },
		Writer: func(t *testing.T, name string) *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), writerEnv+"="+dir+"|"+name)
			return cmd
		},
	})
	open(t, dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("after all is deleted and swept: %v, %v", left, err)
	}
}

func TestBytesThatAreCutAreNoCopy(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	s, err := b.Put(t.Context(), "image", strings.NewReader("hello"), 5, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.Path, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stat(t.Context(), "image"); !errs.Is(err, errs.NotFound) {
		t.Errorf("stat: %v", err)
	}
	if _, err := b.Put(t.Context(), "image", strings.NewReader("hello"), 5, ""); err != nil {
		t.Errorf("put again: %v", err)
	}
	if _, err := b.Stat(t.Context(), "image"); err != nil {
		t.Errorf("after it was put again: %v", err)
	}
}

func TestForeignFilesStay(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	for _, name := range []string{"README", "lost+found", ".nfs0001", "~x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if list, err := b.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 4 {
		t.Errorf("sweep took foreign files: %v, %v", left, err)
	}
}

// TestFullDisk needs root for a small file system of its own.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	b, err := dircache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, size := range []int64{8 << 20, 0} { // announced, and found out in the middle
		if _, err := b.Put(t.Context(), "big", strings.NewReader(strings.Repeat("x", 8<<20)), size, ""); !errs.Is(err, errs.TooLarge) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if _, err := b.Put(t.Context(), "small", strings.NewReader("it works again"), 0, ""); err != nil {
		t.Errorf("after that: %v", err)
	}
}
