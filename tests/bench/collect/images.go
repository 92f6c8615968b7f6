package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// set is many images that are few files: each image is a file with a few other bytes, so that its facts differ.
type set struct {
	files             []*file
	count             int
	smallest, largest int64
}

// file is an image on disk, and where in it the version of a package is.
type file struct {
	*os.File
	size int64
	at   []int64 // of the version's text, and of older copies of it
	was  []byte
}

// mark is followed by the version of the package that makes the variants differ.
var mark = []byte("Package: tzdata\nStatus: install ok installed\n")

func openSet(dir string, count int) (*set, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.qcow2"))
	if err != nil || len(paths) == 0 {
		return nil, errors.Join(err, fmt.Errorf("there are no images in %s", dir))
	}
	slices.Sort(paths)
	s := &set{count: count}
	for _, path := range paths {
		f, err := openFile(path)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		s.files = append(s.files, f)
		if s.largest = max(s.largest, f.size); s.smallest == 0 || f.size < s.smallest {
			s.smallest = f.size
		}
	}
	return s, nil
}

func (s *set) close() {
	for _, f := range s.files {
		f.Close() //nolint:errcheck // only read
	}
}

func openFile(path string) (*file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	out := &file{File: f, size: info.Size()}
	if out.at, out.was, err = version(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return out, nil
}

// version finds the text of the package's version in dpkg's status, with the copies that its writing left.
func version(r io.Reader) (at []int64, text []byte, err error) {
	buf := make([]byte, 8<<20)
	const over = 64 << 10
	base, kept := int64(0), 0
	for {
		n, err := io.ReadFull(r, buf[kept:])
		part := buf[:kept+n]
		for i := bytes.Index(part, mark); i >= 0 && i+over <= len(part); {
			if j := bytes.Index(part[i:i+over], []byte("\nVersion: ")); j >= 0 {
				begin := i + j + len("\nVersion: ")
				line, _, _ := bytes.Cut(part[begin:begin+100], []byte("\n"))
				if text == nil || bytes.Equal(text, line) {
					at, text = append(at, base+int64(begin)), bytes.Clone(line)
				}
			}
			next := bytes.Index(part[i+1:], mark)
			if next < 0 {
				break
			}
			i += 1 + next
		}
		if err != nil {
			break
		}
		base += int64(len(part) - over)
		kept = copy(buf, part[len(part)-over:])
	}
	if text == nil {
		return nil, nil, errors.New("the version of tzdata is not to be found: are its clusters compressed?")
	}
	return at, text, nil
}

// image is the i-th of the set.
type image struct {
	*file
	version []byte // of its tzdata
}

func (s *set) image(i int) image {
	f := s.files[i%len(s.files)]
	text := bytes.Clone(f.was)
	copy(text, fmt.Sprintf("%04d", i%10000)) // as long as before: "2024a-0+deb12u1" begins with four digits
	return image{f, text}
}

// ReadAt implements io.ReaderAt.
func (m image) ReadAt(p []byte, off int64) (int, error) {
	n, err := m.File.ReadAt(p, off)
	for _, at := range m.at {
		if from, to := max(off, at), min(off+int64(n), at+int64(len(m.version))); from < to {
			copy(p[from-off:to-off], m.version[from-at:])
		}
	}
	return n, err
}
