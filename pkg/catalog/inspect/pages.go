package inspect

import (
	"errors"
	"io"
	"sync"
)

// A page is half a cluster of qcow2 as every tool makes them: what is compressed is unpacked twice at worst and not for
// each inode, and what lies scattered costs a third less of an image that is far away than with whole clusters.
const (
	pageSize  = 32 << 10
	pagesMost = 1024 // 32 MiB
)

// pages keeps the parts of a disk that were read last. Reads of a page and more go through it unkept. It is safe for
// many goroutines.
type pages struct {
	r    io.ReaderAt
	size int64

	mu    sync.Mutex
	kept  map[int64][]byte
	order []int64 // oldest first, from next on
	next  int
}

func newPages(r io.ReaderAt, size int64) *pages {
	return &pages{r: r, size: size, kept: map[int64][]byte{}, order: make([]int64, 0, pagesMost)}
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
	page = make([]byte, max(0, min(pageSize, p.size-number*pageSize)))
	n, err := p.r.ReadAt(page, number*pageSize)
	if err != nil && (n < len(page) || !errors.Is(err, io.EOF)) {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.kept[number]; ok {
		return page, nil
	}
	if len(p.order) < pagesMost {
		p.order = append(p.order, number)
	} else {
		delete(p.kept, p.order[p.next])
		p.order[p.next] = number
		p.next = (p.next + 1) % pagesMost
	}
	p.kept[number] = page
	return page, nil
}
