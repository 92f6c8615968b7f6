package catalog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Partition is one range of an image's disk.
type Partition struct {
	Number     int    `json:"number"` // as the kernel counts, from 1; 0 for a disk without a table
	Type       string `json:"type"`   // GUID in capitals (GPT), "0x83" (MBR), "whole"
	Name       string `json:"name"`
	FileSystem string `json:"file_system"` // "" for what is none or is not known
	Start      int64  `json:"start"`       // bytes
	Size       int64  `json:"size"`        // bytes
	Root       bool   `json:"root"`        // the facts were read here
}

// User is an account that can have a shell.
type User struct {
	Name     string `json:"name"`
	UID      int64  `json:"uid"`
	Shell    string `json:"shell"`
	Password string `json:"password"` // set, locked, none (anybody may log in), unknown
}

// Setuid is a program that runs as its owner or with its group, whoever starts it.
type Setuid struct {
	Path string `json:"path"`
	Mode string `json:"mode"` // octal, "4755"
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
}

// Conffile is a configuration file of a package that somebody changed.
type Conffile struct {
	Path    string `json:"path"`
	Package string `json:"package"`
	State   string `json:"state"` // changed, missing
}

// File is one name of a root file system. A list of them, in the order of their paths, is the manifest of an image.
type File struct {
	Path   string `json:"path"`
	Type   string `json:"type"` // file, dir, link, char, block, fifo, socket
	Mode   string `json:"mode"` // permissions, octal with four digits: "0755"
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Size   int64  `json:"size,omitempty"`   // bytes of a file
	SHA256 string `json:"sha256,omitempty"` // hex, of a file's content; "" where it is encrypted or larger than its disk
	Target string `json:"target,omitempty"` // of a link
}

// WriteFiles writes a manifest as JSON, one file a line.
func WriteFiles(w io.Writer, files []File) error {
	buf := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	for i := range files {
		if err := enc.Encode(&files[i]); err != nil {
			return err
		}
	}
	return buf.Flush()
}

// maxFileLine bounds one line of a manifest: a path and a target of 4 KiB, escaped.
const maxFileLine = 64 << 10

// ReadFiles reads what WriteFiles wrote and calls fn for each file. Invalid, with its line, for anything else.
func ReadFiles(r io.Reader, fn func(File) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4<<10), maxFileLine)
	for line := 1; s.Scan(); line++ {
		if len(bytes.TrimSpace(s.Bytes())) == 0 {
			continue
		}
		var f File
		if err := json.Unmarshal(s.Bytes(), &f); err != nil || f.Path == "" {
			return errs.Wrap(err, errs.Invalid, "kiln.files.malformed", "the list of files cannot be read").At(errs.Where{Line: line})
		}
		if err := fn(f); err != nil {
			return err
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return errs.Wrap(err, errs.Invalid, "kiln.files.malformed", "a line of the list of files has more than %d bytes", maxFileLine)
	}
	return s.Err()
}
