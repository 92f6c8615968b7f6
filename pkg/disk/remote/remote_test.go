package remote_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kiln-cloud/kiln/pkg/disk/remote"
	"github.com/kiln-cloud/kiln/pkg/disk/remote/remotetest"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// asked is a source in memory that writes down what it was asked.
type asked struct {
	mu     sync.Mutex
	data   []byte
	ranges [][2]int64
	fault  func(question int) error
}

func (a *asked) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	a.mu.Lock()
	a.ranges = append(a.ranges, [2]int64{off, int64(len(p))})
	n, fault := len(a.ranges), a.fault
	a.mu.Unlock()
	if fault != nil {
		if err := fault(n); err != nil {
			return copy(p, a.data[off:off+int64(len(p)/2)]), err
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return copy(p, a.data[off:]), nil
}

func TestContract(t *testing.T) {
	t.Run("file", func(t *testing.T) {
		remotetest.Run(t, func(t *testing.T, data []byte) io.ReaderAt {
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		})
	})
	for name, o := range map[string]remote.Options{
		"default": {}, "forgetful": {Block: 4096, Cache: 1, Ahead: 64 << 10}, "odd": {Block: 1000, Cache: 100_000, Ahead: 5000},
	} {
		t.Run(name, func(t *testing.T) {
			remotetest.Run(t, func(t *testing.T, data []byte) io.ReaderAt {
				return remote.New(t.Context(), &asked{data: data}, int64(len(data)), o)
			})
		})
	}
}

// What lies together is asked for together, what was read is not asked for again, and who reads on gets more at once.
func TestFewQuestions(t *testing.T) {
	src := &asked{data: bytes.Repeat(remotetest.Data(), 6)}
	r := remote.New(t.Context(), src, int64(len(src.data)), remote.Options{Block: 4 << 10, Ahead: 256 << 10, Cache: 4 << 20})
	read := func(off, n int64) {
		t.Helper()
		p := make([]byte, n)
		if _, err := r.ReadAt(p, off); err != nil || !bytes.Equal(p, src.data[off:off+n]) {
			t.Fatalf("%d from %d: %v", n, off, err)
		}
	}
	read(100_000, 10)
	if len(src.ranges) != 1 || src.ranges[0] != [2]int64{98_304, 4096} {
		t.Errorf("ten bytes ask for %v", src.ranges)
	}
	read(100_020, 4)
	read(98_304, 4096)
	if len(src.ranges) != 1 {
		t.Errorf("known bytes ask again: %v", src.ranges)
	}
	read(200_000, 60_000)
	if len(src.ranges) != 2 {
		t.Errorf("neighbours ask apart: %v", src.ranges)
	}
	before := len(src.ranges)
	for off := int64(1 << 20); off < 2<<20; off += 512 {
		read(off, 512)
	}
	// 4, 8, 16 … KiB, and then 256 KiB each.
	if n := len(src.ranges) - before; n > 11 {
		t.Errorf("a MiB in small steps asks %d times", n)
	}
	s := r.Stats()
	if s.Questions != int64(len(src.ranges)) || s.Bytes > 1<<20+1<<19 {
		t.Errorf("%+v", s)
	}
}

func TestFaults(t *testing.T) {
	away := errs.New(errs.Unavailable, "kiln.test.away", "away")
	gone := errs.New(errs.NotFound, "kiln.test.gone", "gone")
	for name, c := range map[string]struct {
		fault     func(int) error
		want      string
		questions int
	}{
		"twice away":   {func(n int) error { return when(n <= 2, away) }, "", 3},
		"away":         {func(int) error { return away }, "kiln.test.away", 4},
		"gone":         {func(int) error { return gone }, "kiln.test.gone", 1},
		"gone, second": {func(n int) error { return when(n > 1, gone) }, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &asked{data: remotetest.Data(), fault: c.fault}
				r := remote.New(t.Context(), src, remotetest.Size, remote.Options{})
				p := make([]byte, 1000)
				_, err := r.ReadAt(p, 5000)
				if c.want == "" && (err != nil || r.Err() != nil || !bytes.Equal(p, src.data[5000:6000])) || c.want != "" && (errs.CodeOf(err) != c.want || !errors.Is(r.Err(), err)) {
					t.Errorf("%v, remembered %v", err, r.Err())
				}
				if len(src.ranges) != c.questions {
					t.Errorf("%d questions", len(src.ranges))
				}
				if s := r.Stats(); s.Bytes == 0 {
					t.Error("half answers count, too")
				}
			})
		})
	}
}

// when is err where the condition holds.
func when(holds bool, err error) error {
	if holds {
		return err
	}
	return nil
}

func TestBudgetAndEnd(t *testing.T) {
	src := &asked{data: remotetest.Data()}
	r := remote.New(t.Context(), src, remotetest.Size, remote.Options{Block: 4096, Ahead: 4096, Budget: 10 * 4096})
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = r.ReadAt(make([]byte, 10), int64(n)*8192)
	}
	if n != 11 || errs.CodeOf(err) != remote.CodeBudget {
		t.Errorf("after %d reads: %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r = remote.New(ctx, src, remotetest.Size, remote.Options{})
	cancel()
	if _, err := r.ReadAt(make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

// A question that is not answered ends with its own deadline, and is asked again.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		src := silent{}
		r := remote.New(t.Context(), src, 1000, remote.Options{Tries: 2, Timeout: time.Minute, Pause: time.Second})
		_, err := r.ReadAt(make([]byte, 10), 0)
		if took := time.Since(begin); !errs.Is(err, errs.Timeout) || took != 2*time.Minute+time.Second {
			t.Errorf("%v after %s", err, took)
		}
	})
}

type silent struct{}

func (silent) ReadRange(ctx context.Context, _ []byte, _ int64) (int, error) {
	<-ctx.Done()
	return 0, errs.Wrap(ctx.Err(), errs.Timeout, "kiln.test.timeout", "no answer")
}
