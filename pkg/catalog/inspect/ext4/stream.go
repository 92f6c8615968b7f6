package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrEncrypted says that a file's content needs a key that is not on the disk.
var ErrEncrypted = errors.New("the file is encrypted")

// streamPiece is how much of a file Stream reads at once, in bytes: a multiple of every block size.
const streamPiece = 256 << 10

// Stream writes the content of a regular file to w, from its beginning, in pieces of at most 256 KiB; holes are
// zeros. buf is memory of the caller for these pieces, so that many small files need none of their own.
func (f *FS) Stream(w io.Writer, number uint32, buf []byte) error {
	i, err := f.readInode(number)
	if err != nil {
		return err
	}
	switch {
	case !i.isRegular():
		return corrupt("inode %d is no file", number)
	case i.flags&flagEncrypted != 0:
		return ErrEncrypted
	case i.flags&flagExtents == 0:
		// Block pointers (ext2, ext3) and data inside the inode: the reader of whole files does these. Such files
		// cannot be larger than what their pointers reach, and a file system made today has few of them.
		data, err := f.data(i, min(i.size, maxPointed))
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	if len(buf) < streamPiece {
		buf = make([]byte, streamPiece)
	}
	s := &stream{f: f, w: w, size: i.size, buf: buf[:streamPiece], budget: i.size/f.blockSize + 64}
	if err := s.node(i.block[:], maxDepth); err != nil {
		return err
	}
	return s.zeros(i.size)
}

// maxPointed bounds a file of block pointers, which is read as a whole, in bytes.
const maxPointed = 1 << 30

// stream is a file on its way out, in order.
type stream struct {
	f      *FS
	w      io.Writer
	at     int64 // bytes written so far
	size   int64
	buf    []byte
	budget int64 // extents and nodes that may still come: a tree that needs more is a loop
}

func (s *stream) node(node []byte, depth int) error {
	le := binary.LittleEndian
	if le.Uint16(node) != 0xf30a {
		return corrupt("no extent header")
	}
	entries, level := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	if (entries+1)*12 > len(node) || level > depth {
		return corrupt("an extent node of %d entries at level %d", entries, level)
	}
	for k := range entries {
		if s.budget--; s.budget < 0 {
			return corrupt("an extent tree without end")
		}
		e := node[12*(k+1) : 12*(k+2)]
		if level == 0 {
			if err := s.extent(e); err != nil {
				return err
			}
			continue
		}
		child, err := s.f.block(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return err
		}
		if err := s.node(child, level-1); err != nil {
			return err
		}
	}
	return nil
}

// extent writes one run of blocks, with the hole before it.
func (s *stream) extent(e []byte) error {
	le := binary.LittleEndian
	from, length := int64(le.Uint32(e))*s.f.blockSize, int64(le.Uint16(e[4:]))
	if from < s.at && s.at < s.size {
		return corrupt("extents that overlap")
	}
	if from >= s.size || length > 32768 {
		return nil // allocated beyond the end, or never written: reads as zeros
	}
	if err := s.zeros(from); err != nil {
		return err
	}
	start := int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32
	if start <= 0 || start+length > s.f.blocks {
		return corrupt("an extent of blocks %d to %d", start, start+length)
	}
	off, left := start*s.f.blockSize, min(length*s.f.blockSize, s.size-s.at)
	for left > 0 {
		piece := s.buf[:min(int64(len(s.buf)), left)]
		if _, err := s.f.r.ReadAt(piece, off); err != nil {
			return fmt.Errorf("cannot read block %d: %w", off/s.f.blockSize, err)
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
