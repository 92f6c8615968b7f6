package tree

import (
	"errors"
	"fmt"
	"io"
)

// ReadAll reads the content of an inode of at most limit bytes. ErrCorrupt where it is larger.
func ReadAll(r io.ReaderAt, fsys Reader, i *Inode, limit int64) ([]byte, error) {
	if i.Size < 0 || i.Size > limit {
		return nil, Corrupt("a file of %d bytes where at most %d are sensible", i.Size, limit)
	}
	out := make([]byte, i.Size)
	return out, fill(r, fsys, i, out)
}

// fill reads the first bytes of an inode's content.
func fill(r io.ReaderAt, fsys Reader, i *Inode, out []byte) error {
	if len(out) == 0 {
		return nil
	}
	end := int64(0)
	err := fsys.Extents(i, func(e Extent) error {
		if err := inOrder(e, end); err != nil {
			return err
		}
		if end = e.At + e.Length; e.At >= int64(len(out)) {
			return ErrStop
		}
		part := out[e.At:min(end, int64(len(out)))]
		if e.Data == nil {
			return readAt(r, part, e.Disk)
		}
		data, err := e.Data()
		copy(part, data)
		return err
	})
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

func inOrder(e Extent, end int64) error {
	if e.At < end || e.Length <= 0 || e.At > 1<<62 || e.Length > 1<<62 {
		return Corrupt("extents that overlap or have no sensible size")
	}
	return nil
}

func readAt(r io.ReaderAt, p []byte, off int64) error {
	if _, err := r.ReadAt(p, off); err != nil {
		return fmt.Errorf("cannot read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}

// streamPiece is how much of a file Stream reads at once, in bytes.
const streamPiece = 256 << 10

// Stream writes the content of a regular file to w, from its beginning, in pieces of at most 256 KiB; holes are
// zeros. buf is memory of the caller for these pieces, so that many small files need none of their own.
func (t *Tree) Stream(w io.Writer, number uint64, buf []byte) error {
	i, err := t.fs.Inode(number)
	if err != nil {
		return err
	}
	if !i.Is(TypeFile) {
		return Corrupt("inode %d is no file", number)
	}
	if len(buf) < streamPiece {
		buf = make([]byte, streamPiece)
	}
	s := &stream{r: t.r, w: w, size: i.Size, buf: buf[:streamPiece]}
	if err := t.fs.Extents(i, s.extent); err != nil && !errors.Is(err, ErrStop) {
		return err
	}
	return s.zeros(i.Size)
}

// stream is a file on its way out, in order.
type stream struct {
	r    io.ReaderAt
	w    io.Writer
	at   int64 // bytes written so far
	size int64
	buf  []byte
}

// extent writes one run, with the hole before it.
func (s *stream) extent(e Extent) error {
	if e.At >= s.size {
		return ErrStop // allocated beyond the end
	}
	if err := inOrder(e, s.at); err != nil {
		return err
	}
	if err := s.zeros(e.At); err != nil {
		return err
	}
	left := min(e.Length, s.size-s.at)
	if e.Data != nil {
		data, err := e.Data()
		if err != nil {
			return err
		}
		return s.write(data[:min(left, int64(len(data)))])
	}
	for off := e.Disk; left > 0; {
		piece := s.buf[:min(int64(len(s.buf)), left)]
		if err := readAt(s.r, piece, off); err != nil {
			return err
		}
		if err := s.write(piece); err != nil {
			return err
		}
		off, left = off+int64(len(piece)), left-int64(len(piece))
	}
	return nil
}

// zeros writes the hole up to an offset.
func (s *stream) zeros(to int64) error {
	if s.at >= to {
		return nil
	}
	clear(s.buf)
	for s.at < to {
		if err := s.write(s.buf[:min(int64(len(s.buf)), to-s.at)]); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) write(p []byte) error {
	n, err := s.w.Write(p)
	s.at += int64(n)
	return err
}
