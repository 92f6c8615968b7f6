// Package cachetest is the contract that every cache.Backend keeps.
package cachetest

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Harness makes what the contract needs.
type Harness struct {
	// Open gives a handle on one place, which is empty at first and the same for every call.
	Open func(t *testing.T) cache.Backend
	// Writer is a process that opens the place and calls WriteForever; it is not started yet.
	Writer func(t *testing.T, name string) *exec.Cmd
	// Settle is how long Sweep may still take a killed writer for a living one.
	Settle time.Duration
}

// endless gives bytes until the process dies, and says on standard output when the first of them were taken.
type endless struct {
	n    int
	said bool
}

// Read implements io.Reader.
func (e *endless) Read(p []byte) (int, error) {
	if e.n > 12<<20 && !e.said {
		e.said = true
		if _, err := os.Stdout.WriteString("writing\n"); err != nil {
			return 0, err
		}
	}
	if e.said {
		time.Sleep(20 * time.Millisecond)
	}
	n := min(len(p), 64<<10)
	for i := range n {
		p[i] = byte(e.n + i)
	}
	e.n += n
	return n, nil
}

// WriteForever is what a Writer runs: it puts bytes under the name until it is killed.
func WriteForever(b cache.Backend, name string) error {
	_, err := b.Put(context.Background(), name, &endless{}, 0, "")
	return err
}

func content(seed byte, n int) ([]byte, string) {
	b := make([]byte, n)
	for i := range b {
		if i/(4<<20) != 1 { // the second piece is a hole
			b[i] = byte(i*31>>4) + seed
		}
	}
	sum := sha512.Sum512(b)
	return b, "sha512:" + hex.EncodeToString(sum[:])
}

// Run holds a backend against the contract.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, h Harness, b cache.Backend)
	}{
		{"whole", whole}, {"missing", missing}, {"refused", refused}, {"replaced", replaced}, {"names", names},
		{"unseen while written", unseen}, {"many at once", atOnce}, {"cancelled", cancelled}, {"killed writer", killed},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := h.Open(t)
			c.run(t, h, b)
			list, err := b.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range list {
				if err := b.Delete(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func put(t *testing.T, b cache.Backend, name string, data []byte, digest string) cache.Stat {
	t.Helper()
	s, err := b.Put(t.Context(), name, bytes.NewReader(data), int64(len(data)), digest)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, b cache.Backend, name string) []byte {
	t.Helper()
	r, err := b.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

// whole: what was put is there, for another handle too, and to put it again changes nothing.
func whole(t *testing.T, h Harness, b cache.Backend) {
	for i, size := range []int{0, 1, 4 << 20, 9<<20 + 12345} {
		name := fmt.Sprintf("image-%d", i)
		data, digest := content(byte(i), size)
		for range 2 {
			if s := put(t, b, name, data, digest); s.Size != int64(size) || s.Digest != digest || s.Path == "" {
				t.Errorf("%d bytes: put said %+v", size, s)
			}
		}
		other := h.Open(t)
		s, err := other.Stat(t.Context(), name)
		if err != nil || s.Size != int64(size) || s.Digest != digest {
			t.Errorf("%d bytes: stat said %+v, %v", size, s, err)
		}
		if !bytes.Equal(read(t, other, name), data) {
			t.Errorf("%d bytes: other bytes came back", size)
		}
	}
	list, err := b.List(t.Context())
	if err != nil || !slices.Equal(list, []string{"image-0", "image-1", "image-2", "image-3"}) {
		t.Errorf("list: %v, %v", list, err)
	}
	for range 2 {
		if err := b.Delete(t.Context(), "image-3"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := b.Stat(t.Context(), "image-3"); !errs.Is(err, errs.NotFound) {
		t.Errorf("after the delete: %v", err)
	}
}

func missing(t *testing.T, _ Harness, b cache.Backend) {
	if _, err := b.Stat(t.Context(), "none"); !errs.Is(err, errs.NotFound) {
		t.Errorf("stat: %v", err)
	}
	if _, err := b.Open(t.Context(), "none"); !errs.Is(err, errs.NotFound) {
		t.Errorf("open: %v", err)
	}
	if err := b.Delete(t.Context(), "none"); err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := b.Sweep(t.Context()); err != nil {
		t.Errorf("sweep: %v", err)
	}
}

// refused: bytes that are not what was promised leave nothing.
func refused(t *testing.T, _ Harness, b cache.Backend) {
	data, digest := content(1, 5<<20)
	_, other := content(2, 5<<20)
	broken := io.MultiReader(bytes.NewReader(data), iotest.ErrReader(errs.New(errs.Unavailable, "kiln.glance.away", "away")))
	for _, c := range []struct {
		name   string
		r      io.Reader
		size   int64
		digest string
		kind   errs.Kind
	}{
		{"other digest", bytes.NewReader(data), int64(len(data)), other, errs.Invalid},
		{"too short", bytes.NewReader(data), int64(len(data)) + 1, "", errs.Invalid},
		{"too long", bytes.NewReader(data), int64(len(data)) - 1, "", errs.Invalid},
		{"source away", broken, 0, digest, errs.Unavailable},
		{"source cut", io.MultiReader(bytes.NewReader(data), iotest.ErrReader(io.ErrUnexpectedEOF)), 0, digest, errs.Internal},
	} {
		if _, err := b.Put(t.Context(), "bad", c.r, c.size, c.digest); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := b.Stat(t.Context(), "bad"); !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: something stayed: %v", c.name, err)
		}
	}
	if list, err := b.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
}

// replaced: a reader keeps what it opened or is told, and a failed Put leaves what was there.
func replaced(t *testing.T, _ Harness, b cache.Backend) {
	first, firstDigest := content(1, 1<<20)
	second, secondDigest := content(2, 2<<20)
	put(t, b, "image", first, firstDigest)
	if _, err := b.Put(t.Context(), "image", bytes.NewReader(second), 0, firstDigest); !errs.Is(err, errs.Invalid) {
		t.Errorf("wrong digest: %v", err)
	}
	if !bytes.Equal(read(t, b, "image"), first) {
		t.Error("a failed put changed the copy")
	}
	put(t, b, "image", second, "")
	if s, err := b.Stat(t.Context(), "image"); err != nil || s.Digest != secondDigest {
		t.Errorf("replaced: %+v, %v", s, err)
	}
	if !bytes.Equal(read(t, b, "image"), second) {
		t.Error("the copy was not replaced")
	}
}

func names(t *testing.T, _ Harness, b cache.Backend) {
	for _, name := range []string{"", "..", "../x", "a/b", ".hidden", "a b", "a~b", "x@snap", "a\x00"} {
		if _, err := b.Put(t.Context(), name, bytes.NewReader(nil), 0, ""); !errs.Is(err, errs.Invalid) {
			t.Errorf("put %q: %v", name, err)
		}
		if err := b.Delete(t.Context(), name); !errs.Is(err, errs.Invalid) {
			t.Errorf("delete %q: %v", name, err)
		}
	}
}

// unseen: a copy that is being written is seen by nobody, and Sweep does not harm its writer.
func unseen(t *testing.T, h Harness, b cache.Backend) {
	data, digest := content(3, 9<<20)
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := b.Put(context.WithoutCancel(t.Context()), "slow", reader, int64(len(data)), digest)
		done <- err
	}()
	if _, err := writer.Write(data[:8<<20]); err != nil {
		t.Fatal(err)
	}
	other := h.Open(t)
	if _, err := other.Stat(t.Context(), "slow"); !errs.Is(err, errs.NotFound) {
		t.Errorf("stat sees a half copy: %v", err)
	}
	if list, err := other.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list sees a half copy: %v, %v", list, err)
	}
	if err := other.Sweep(t.Context()); err != nil {
		t.Errorf("sweep: %v", err)
	}
	if _, err := writer.Write(data[8<<20:]); err != nil {
		t.Error(err)
	}
	if err := errors.Join(writer.Close(), <-done); err != nil {
		t.Fatalf("the writer after a sweep: %v", err)
	}
	if err := b.Sweep(t.Context()); err != nil {
		t.Errorf("sweep: %v", err)
	}
	if !bytes.Equal(read(t, other, "slow"), data) {
		t.Error("other bytes came back")
	}
}

// atOnce: writers of one name do not mix their bytes.
func atOnce(t *testing.T, _ Harness, b cache.Backend) {
	var all sync.WaitGroup
	digests := make([]string, 4)
	for i := range digests {
		data, digest := content(byte(i), 5<<20+i)
		digests[i] = digest
		all.Go(func() {
			if _, err := b.Put(t.Context(), "same", bytes.NewReader(data), int64(len(data)), digest); err != nil && !errs.Is(err, errs.Conflict) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s, err := b.Stat(t.Context(), "same")
	if err != nil || !slices.Contains(digests, s.Digest) {
		t.Fatalf("stat: %+v, %v", s, err)
	}
	sum := sha512.Sum512(read(t, b, "same"))
	if got := "sha512:" + hex.EncodeToString(sum[:]); got != s.Digest {
		t.Errorf("the bytes have %s, the copy says %s", got, s.Digest)
	}
}

func cancelled(t *testing.T, _ Harness, b cache.Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	data, _ := content(1, 24<<20)
	r := io.MultiReader(bytes.NewReader(data[:20<<20]), &canceller{cancel: cancel}, bytes.NewReader(data[20<<20:]))
	if _, err := b.Put(ctx, "image", r, 0, ""); !errs.Is(err, errs.Cancelled) {
		t.Errorf("put: %v", err)
	}
	if _, err := b.Stat(t.Context(), "image"); !errs.Is(err, errs.NotFound) {
		t.Errorf("stat: %v", err)
	}
}

type canceller struct{ cancel func() }

// Read implements io.Reader.
func (c *canceller) Read([]byte) (int, error) {
	c.cancel()
	return 0, io.EOF
}

// killed: kill -9 leaves nothing that is seen, and Sweep removes what it left.
func killed(t *testing.T, h Harness, b cache.Backend) {
	data, digest := content(7, 1<<20)
	put(t, b, "before", data, digest)
	writer := h.Writer(t, "half")
	out, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("writing\n"))); err != nil {
		t.Errorf("the writer did not begin: %v", err)
	}
	if err := writer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Wait() // it was killed
	if _, err := b.Stat(t.Context(), "half"); !errs.Is(err, errs.NotFound) {
		t.Errorf("the half copy is seen: %v", err)
	}
	time.Sleep(h.Settle)
	if err := b.Sweep(t.Context()); err != nil {
		t.Errorf("sweep: %v", err)
	}
	if list, err := b.List(t.Context()); err != nil || !slices.Equal(list, []string{"before"}) {
		t.Errorf("list: %v, %v", list, err)
	}
	if !bytes.Equal(read(t, b, "before"), data) {
		t.Error("a whole copy was harmed")
	}
}
