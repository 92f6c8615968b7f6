package inspect

import (
	"errors"
	"io"
	"sync"
)

// A page is half a cluster of qcow2 as every tool makes them: what lies scattered costs a third less of an image that is
// far away than with whole clusters. What is compressed is unpacked, and kept, as a whole.
const (
	pageSize  = 32 << 10
	pagesMost = 1024 // 32 MiB
)

// pages keeps the parts of a disk that were read last. Reads of a page and more go through it unkept. It is safe for
// many goroutines.
type pages struct {
	r    io.ReaderAt
	size int64
	unit func(off int64) (start, length int64) // the piece around a byte that can only be read as a whole; 0, 0: none

	mu    sync.Mutex
	kept  map[int64][]byte
	order []int64 // oldest first, from next on
	next  int
}

func newPages(r io.ReaderAt, size int64, unit func(off int64) (start, length int64)) *pages {
	return &pages{r: r, size: size, unit: unit, kept: map[int64][]byte{}, order: make([]int64, 0, pagesMost)}
}

// ReadAt implements io.ReaderAt.
func (p *pages) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || len(b) >= pageSize {
		return p.r.ReadAt(b, off)
	}
	n := 0
	for n < len(b) {
		at := off + int64(n)
		page, err := p.page(at / pageSize)
		if err != nil {
			return n, err
		}
		from := int(at % pageSize)
		if from >= len(page) {
			return n, io.EOF
		}
		n += copy(b[n:], page[from:])
	}
	return n, nil
}

func (p *pages) page(number int64) ([]byte, error) {
	p.mu.Lock()
	page, ok := p.kept[number]
	p.mu.Unlock()
	if ok {
		return page, nil
	}
	start, length := number*pageSize, int64(pageSize)
	if p.unit != nil {
		if from, n := p.unit(start); n > pageSize {
			start, length = from/pageSize*pageSize, n
		}
	}
	piece := make([]byte, max(0, min(length, p.size-start)))
	n, err := p.r.ReadAt(piece, start)
	if err != nil && (n < len(piece) || !errors.Is(err, io.EOF)) {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := start / pageSize; len(piece) > 0; at++ {
		part := piece[:min(pageSize, len(piece))]
		piece = piece[len(part):]
		p.keep(at, part)
		if at == number {
			page = part
		}
	}
	return page, nil
}

// keep takes a page in, for the oldest one where there are enough.
func (p *pages) keep(number int64, page []byte) {
	if _, ok := p.kept[number]; ok {
		return
	}
	if len(p.order) < pagesMost {
		p.order = append(p.order, number)
	} else {
		delete(p.kept, p.order[p.next])
		p.order[p.next] = number
		p.next = (p.next + 1) % pagesMost
	}
	p.kept[number] = page
}
