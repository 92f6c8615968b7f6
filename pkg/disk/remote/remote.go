// Package remote reads parts of a disk that is elsewhere (behind HTTP, in Ceph) as an io.ReaderAt: whole blocks that
// are kept, neighbours in one question, more at once where somebody reads on, and a bound on all of it.
package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Source answers for a range of bytes. It is called by many goroutines.
type Source interface {
	// ReadRange fills p from off, which never reaches beyond the end, and tells how many bytes came, also where it
	// fails. Errors are *errs.Error; Unavailable and Timeout are tried again.
	ReadRange(ctx context.Context, p []byte, off int64) (int, error)
}

// CodeBudget is the code of reads beyond Options.Budget. It never changes.
const CodeBudget = "kiln.remote.budget"

// Options bound a reader. A zero field takes the default.
type Options struct {
	Block   int           // bytes that are read and kept together; 64 KiB
	Cache   int           // bytes that are kept; 16 MiB
	Ahead   int           // most bytes of one question; 1 MiB
	Budget  int64         // bytes that may be read from the source, after them reads are TooLarge; no bound
	Tries   int           // of one question; 4
	Timeout time.Duration // of one try; 30 s
	Pause   time.Duration // before the second try, doubled for each further one; 200 ms
}

func (o Options) orDefault() Options {
	set := func(field *int, value int) {
		if *field <= 0 {
			*field = value
		}
	}
	set(&o.Block, 64<<10)
	set(&o.Cache, 16<<20)
	set(&o.Ahead, 1<<20)
	set(&o.Tries, 4)
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Pause <= 0 {
		o.Pause = 200 * time.Millisecond
	}
	return o
}

// Stats is what a reader cost.
type Stats struct {
	Bytes     int64 // that came from the source, those of tries that failed included
	Questions int64
}

// Reader is an io.ReaderAt over a source. It is safe for many goroutines.
type Reader struct {
	ctx  context.Context //nolint:containedctx // io.ReaderAt has none, and each read may be a request
	src  Source
	size int64
	opts Options

	mu    sync.Mutex
	known map[int64]*block
	kept  lru
	stats Stats
	err   error
}

// block is one that is kept or on its way.
type block struct {
	number     int64
	data       []byte
	run        int64 // how many were asked for together
	done       chan struct{}
	err        error
	prev, next *block // in the order of their last use
}

// New reads a disk of size bytes. All reads end with ctx.
func New(ctx context.Context, src Source, size int64, o Options) *Reader {
	r := &Reader{ctx: ctx, src: src, size: size, opts: o.orDefault(), known: map[int64]*block{}}
	r.kept.init()
	return r
}

// Size is the disk's length in bytes.
func (r *Reader) Size() int64 { return r.size }

// Stats tells what was read so far.
func (r *Reader) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Err is the first error of the source. Who reads a file system may take a file that it cannot read for one that is
// not there: look here before what was found is believed.
func (r *Reader) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Close closes the source where that can be closed.
func (r *Reader) Close() error {
	if c, ok := r.src.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errs.New(errs.Invalid, "kiln.remote.offset", "there is no byte %d", off)
	}
	if off >= r.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.size-off)]
	size, last := int64(r.opts.Block), (off+int64(len(want))-1)/int64(r.opts.Block)
	for n := 0; n < len(want); {
		at := off + int64(n)
		data, err := r.block(at/size, last)
		if err != nil {
			return n, r.failed(err)
		}
		n += copy(want[n:], data[at%size:])
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

func (r *Reader) failed(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	return err
}

// block gives one block's bytes; last is the last one that the caller wants.
func (r *Reader) block(number, last int64) ([]byte, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	b := r.known[number]
	if b == nil {
		run, err := r.plan(number, last)
		r.mu.Unlock()
		if err != nil {
			return nil, err
		}
		r.fetch(run)
		return run[0].data, run[0].err
	}
	r.kept.use(b)
	r.mu.Unlock()
	select {
	case <-b.done:
		return b.data, b.err
	case <-r.ctx.Done():
		return nil, r.ctx.Err()
	}
}

// plan takes the blocks that are asked for together: what the caller wants of those that are not known, or twice the
// run that this one continues. The lock is held.
func (r *Reader) plan(number, last int64) ([]*block, error) {
	size := int64(r.opts.Block)
	want := last - number + 1
	if before := r.known[number-1]; before != nil {
		want = max(want, 2*before.run)
	}
	want = max(1, min(want, int64(r.opts.Ahead)/size, (r.size+size-1)/size-number))
	if r.opts.Budget > 0 && r.stats.Bytes >= r.opts.Budget {
		return nil, errs.New(errs.TooLarge, CodeBudget, "%d bytes were read of a disk of %d: the whole costs less", r.stats.Bytes, r.size)
	}
	var run []*block
	for i := number; i < number+want && r.known[i] == nil; i++ {
		run = append(run, &block{number: i, done: make(chan struct{})})
	}
	for _, b := range run {
		b.run = int64(len(run))
		r.known[b.number] = b
	}
	return run, nil
}

// fetch asks for a run of blocks. One that fails is forgotten, so that a later read asks again.
func (r *Reader) fetch(run []*block) {
	size := int64(r.opts.Block)
	start := run[0].number * size
	data := make([]byte, min(int64(len(run))*size, r.size-start))
	err := r.ask(data, start)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, b := range run {
		if b.err = err; err != nil {
			delete(r.known, b.number)
		} else {
			from := int64(i) * size
			// A copy, since one block that is kept would keep the whole run with it.
			b.data = bytes.Clone(data[from:min(from+size, int64(len(data)))])
			r.keep(b)
		}
		close(b.done)
	}
}

// keep remembers a block and forgets those that were used longest ago. The lock is held.
func (r *Reader) keep(b *block) {
	r.kept.add(b)
	for most := max(1, r.opts.Cache/r.opts.Block); r.kept.n > most; {
		delete(r.known, r.kept.oldest().number)
		r.kept.drop()
	}
}

// ask tries until the bytes are there.
func (r *Reader) ask(p []byte, off int64) error {
	pause := r.opts.Pause
	for try := 1; ; try++ {
		err := r.once(p, off)
		switch {
		case err == nil, r.ctx.Err() != nil && errors.Is(err, r.ctx.Err()):
			return err
		case r.ctx.Err() != nil:
			return r.ctx.Err()
		case try >= r.opts.Tries, !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Timeout):
			return err
		}
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
}

func (r *Reader) once(p []byte, off int64) error {
	ctx, cancel := context.WithTimeout(r.ctx, r.opts.Timeout)
	defer cancel()
	n, err := r.src.ReadRange(ctx, p, off)
	r.mu.Lock()
	r.stats.Bytes += int64(n)
	r.stats.Questions++
	r.mu.Unlock()
	if err == nil && n < len(p) {
		return errs.New(errs.Unavailable, "kiln.remote.short", "%d bytes came where %d were asked for", n, len(p))
	}
	return err
}
