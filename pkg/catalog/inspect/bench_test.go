package inspect_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
)

// benchDisk opens the disk named in KILN_BENCH_DISK (raw or qcow2), or a made one.
func benchDisk(b *testing.B) (f *os.File, size int64, format string) {
	b.Helper()
	path, format := os.Getenv("KILN_BENCH_DISK"), "raw"
	if path == "" {
		path = filepath.Join(b.TempDir(), "disk")
		if err := os.WriteFile(path, diskOf(b, richTree(b), "ext4", "64m"), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	if strings.HasSuffix(path, ".qcow2") {
		format = "qcow2"
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	return f, info.Size(), format
}

// counted adds up what is read through it.
type counted struct {
	io.ReaderAt
	reads, bytes atomic.Int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	c.reads.Add(1)
	c.bytes.Add(int64(n))
	return n, err
}

// cpu is what this process has worked so far, in milliseconds: on a shared machine it says more than the clock.
func cpu(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}

// BenchmarkFacts reads the facts that lie together, then with each part that is all over the disk. It prints how many
// packages were found, and how much of the image was read for it.
func BenchmarkFacts(b *testing.B) {
	f, size, format := benchDisk(b)
	cases := []struct {
		name  string
		parts []inspect.Part
	}{{"quick", nil}, {"all", inspect.Parts()}}
	for _, p := range inspect.Parts() {
		cases = append(cases, struct {
			name  string
			parts []inspect.Part
		}{string(p), []inspect.Part{p}})
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			before := cpu(b)
			for b.Loop() {
				r := &counted{ReaderAt: f}
				facts, err := inspect.Quick(b.Context(), r, size, format, c.parts...)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(facts.Packages)), "packages")
				b.ReportMetric(float64(r.bytes.Load())/(1<<20), "MiB-read")
				b.ReportMetric(float64(r.reads.Load()), "reads")
				b.ReportMetric(100*float64(r.bytes.Load())/float64(size), "%read")
			}
			b.ReportMetric((cpu(b)-before)/float64(b.N), "cpu-ms/op")
		})
	}
}
