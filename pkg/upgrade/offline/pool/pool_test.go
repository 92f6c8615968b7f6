package pool_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade/offline/pool"
)

// build makes a package with dpkg-deb, compressed in a way of its own.
func build(t *testing.T, name, compression string, size int) string {
	t.Helper()
	dir := t.TempDir()
	control := "Package: " + name + "\nVersion: 1:2-3\nArchitecture: all\nMaintainer: a <a@example.org>\nSHA256: lie\n of two lines\nDescription: test\n text\n"
	for file, text := range map[string]string{"DEBIAN/control": control, "DEBIAN/postinst": "#!/bin/sh\nexit 0\n", "usr/share/x/" + name: strings.Repeat("x", size)} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(t.TempDir(), name+".deb")
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--root-owner-group", "-Z"+compression, "--build", dir, deb).CombinedOutput(); err != nil {
		t.Fatalf("install dpkg: %v %s", err, out)
	}
	return deb
}

func source(t *testing.T, deb string, opened *atomic.Int32) pool.Source {
	t.Helper()
	data, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return pool.Source{Name: strings.TrimSuffix(filepath.Base(deb), ".deb") + "_1%3a2-3_all.deb", SHA256: hex.EncodeToString(sum[:]), Open: func(context.Context) (io.ReadCloser, error) {
		if opened != nil {
			opened.Add(1)
		}
		return os.Open(deb)
	}}
}

func part(t *testing.T, option, deb string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dpkg-deb", option, deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPackagesKeepEveryByte(t *testing.T) {
	s, err := pool.Open(pool.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, compression := range []string{"xz", "gzip", "zstd", "none"} {
		deb := build(t, "p-"+compression, compression, 100_001)
		var opened atomic.Int32
		p := source(t, deb, &opened)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := s.Bring(t.Context(), p); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if opened.Load() != 1 {
			t.Errorf("fetched %d times", opened.Load())
		}
		plan, index, err := s.Lay([]pool.Source{p})
		if err != nil {
			t.Fatal(err)
		}
		made := filepath.Join(plan.Dir, p.Name)
		for _, option := range []string{"--fsys-tarfile", "--ctrl-tarfile"} {
			if !bytes.Equal(part(t, option, deb), part(t, option, made)) {
				t.Errorf("%s: %s differs", compression, option)
			}
		}
		members, err := exec.CommandContext(t.Context(), "ar", "t", made).Output()
		if err != nil || string(members) != "debian-binary\ncontrol.tar\ndata.tar\n" {
			t.Errorf("%q %v", members, err)
		}
		info, err := os.Stat(made)
		if err != nil || !strings.Contains(string(index), "Filename: ./"+p.Name+"\n") || strings.Contains(string(index), "lie") || strings.Count(string(index), "Size:") != 1 ||
			!strings.Contains(string(index), "Package: p-"+compression+"\nVersion: 1:2-3\n") || info.Size() < 100_000 {
			t.Errorf("%v %s", err, index)
		}
		if err := plan.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOnlyWhatTheIndexNames(t *testing.T) {
	dir := t.TempDir()
	s, err := pool.Open(pool.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	good := source(t, build(t, "good", "xz", 10), nil)
	other := source(t, build(t, "other", "xz", 10), nil)
	noPackage := filepath.Join(t.TempDir(), "no.deb")
	if err := os.WriteFile(noPackage, []byte("no package"), 0o644); err != nil {
		t.Fatal(err)
	}
	swapped := good
	swapped.Open = other.Open
	away := good
	away.Open = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("away") }
	short := good
	short.SHA256 = "../../x"
	for name, p := range map[string]pool.Source{"another package": swapped, "a mirror that is away": away, "no checksum": short, "no package": source(t, noPackage, nil)} {
		if err := s.Bring(t.Context(), p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, _, err := s.Lay([]pool.Source{good}); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	for _, sub := range []string{"packages", "work"} {
		if left, err := os.ReadDir(filepath.Join(dir, sub)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v %v", sub, left, err)
		}
	}
	if err := s.Bring(t.Context(), good); err != nil {
		t.Error(err)
	}
}

func TestStoreIsBounded(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	s, err := pool.Open(pool.Config{Dir: dir, MaxBytes: 250_000, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	var all []pool.Source
	for _, name := range []string{"aa", "bb", "cc"} {
		p := source(t, build(t, name, "xz", 100_000), nil)
		now = now.Add(time.Minute)
		if err := s.Bring(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if _, _, err := s.Lay(all[:1]); !errs.Is(err, errs.NotFound) {
		t.Errorf("the oldest one stayed: %v", err)
	}
	plan, _, err := s.Lay(all[1:])
	if err != nil {
		t.Fatal(err)
	}
	// A plan that is in use outlives what is removed, and a store that is opened beside it.
	now = now.Add(365 * 24 * time.Hour)
	if s, err = pool.Open(pool.Config{Dir: dir, MaxAge: time.Hour, Now: func() time.Time { return now }}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Lay(all[1:]); !errs.Is(err, errs.NotFound) {
		t.Errorf("old ones stayed: %v", err)
	}
	if info, err := os.Stat(filepath.Join(plan.Dir, all[1].Name)); err != nil || info.Size() < 100_000 {
		t.Error(err)
	}
}
