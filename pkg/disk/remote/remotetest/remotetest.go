// Package remotetest is the contract of what reads a disk at offsets: a file, HTTP ranges, a snapshot in Ceph.
package remotetest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"
)

// Size is how long the disk of the contract is: whole blocks and a rest.
const Size = 600<<10 + 4711

// Data is the disk of the contract: bytes that differ everywhere, with a hole.
func Data() []byte {
	data := make([]byte, Size)
	dice := rand.NewChaCha8([32]byte{7})
	_, _ = dice.Read(data)
	clear(data[200<<10 : 400<<10])
	return data
}

// Run holds a reader of Data against the contract of io.ReaderAt.
func Run(t *testing.T, open func(t *testing.T, data []byte) io.ReaderAt) {
	data := Data()
	t.Run("whole", func(t *testing.T) {
		if err := iotest.TestReader(io.NewSectionReader(open(t, data), 0, Size), data); err != nil {
			t.Error(err)
		}
	})
	t.Run("parts", func(t *testing.T) {
		r, dice := open(t, data), rand.New(rand.NewPCG(1, 2))
		for range 200 {
			off := dice.Int64N(Size)
			p := make([]byte, dice.IntN(200<<10))
			n, err := r.ReadAt(p, off)
			want := data[off:min(off+int64(len(p)), Size)]
			if n != len(want) || !bytes.Equal(p[:n], want) {
				t.Fatalf("%d bytes from %d: %d came, %v", len(p), off, n, err)
			}
			if n < len(p) && !errors.Is(err, io.EOF) || n == len(p) && err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("%d bytes from %d: %v", len(p), off, err)
			}
		}
	})
	t.Run("end", func(t *testing.T) { end(t, open(t, data)) })
	t.Run("together", func(t *testing.T) { together(t, open(t, data), data) })
}

func end(t *testing.T, r io.ReaderAt) {
	for _, off := range []int64{Size, Size + 1, 1 << 40} {
		if n, err := r.ReadAt(make([]byte, 1), off); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("a byte from %d: %d, %v", off, n, err)
		}
	}
	if n, err := r.ReadAt(make([]byte, 10), Size-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("over the end: %d, %v", n, err)
	}
	if n, err := r.ReadAt(nil, 5); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a byte before the first")
	}
}

func together(t *testing.T, r io.ReaderAt, data []byte) {
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			dice := rand.New(rand.NewPCG(seed, 1))
			for range 40 {
				off := dice.Int64N(Size - 100<<10)
				p := make([]byte, dice.IntN(100<<10))
				if n, err := r.ReadAt(p, off); err != nil || !bytes.Equal(p[:n], data[off:off+int64(len(p))]) {
					t.Errorf("%d bytes from %d: %d, %v", len(p), off, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
