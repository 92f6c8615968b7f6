package ext4

import (
	"encoding/binary"
	"io/fs"
	"slices"
	"strings"
)

const (
	maxDir   = 32 << 20 // bytes of one directory
	maxLinks = 40       // symbolic links on one path, as in the kernel
	maxParts = 4096     // components of one path with its links put in
)

// Entry is one name in a directory.
type Entry struct {
	Name string
	Mode fs.FileMode // only the type where Stat was not asked
	Size int64       // of regular files, bytes
}

// ReadFile reads a file of at most limit bytes. Symbolic links are followed and never leave the file
// system. fs.ErrNotExist where it is not there, ErrCorrupt where it is larger.
func (f *FS) ReadFile(name string, limit int64) ([]byte, error) {
	i, err := f.lookup(name)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	if !i.isRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	data, err := f.data(i, limit)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// Stat describes what a path leads to, links followed.
func (f *FS) Stat(name string) (Entry, error) {
	i, err := f.lookup(name)
	if err != nil {
		return Entry{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return Entry{Name: name[strings.LastIndexByte(name, '/')+1:], Mode: i.fileMode(), Size: i.size}, nil
}

// ReadDir names what is in a directory, sorted, without "." and "..".
func (f *FS) ReadDir(name string) ([]string, error) {
	i, err := f.lookup(name)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	var names []string
	err = f.scanDir(i, func(name string, _ uint32) bool {
		if name != "." && name != ".." {
			names = append(names, name)
		}
		return true
	})
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	slices.Sort(names)
	return names, nil
}

func (f *FS) lookup(name string) (*inode, error) {
	n, err := f.lookupNumber(name)
	if err != nil {
		return nil, err
	}
	return f.readInode(n)
}

// lookupNumber walks a path from the root. ".." of the root is the root.
func (f *FS) lookupNumber(name string) (uint32, error) {
	todo := split(name)
	trail := []uint32{rootInode}
	links, steps := 0, 0
	for len(todo) > 0 {
		if steps++; steps > maxParts {
			return 0, corrupt("a path of more than %d parts", maxParts)
		}
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		n, i, err := f.child(trail[len(trail)-1], part)
		if err != nil {
			return 0, err
		}
		if !i.isLink() {
			trail = append(trail, n)
			continue
		}
		if links++; links > maxLinks {
			return 0, corrupt("more than %d symbolic links", maxLinks)
		}
		target, err := f.target(i)
		if err != nil {
			return 0, err
		}
		if strings.HasPrefix(target, "/") {
			trail = trail[:1]
		}
		todo = append(split(target), todo...)
		if len(todo) > maxParts {
			return 0, corrupt("a path of more than %d parts", maxParts)
		}
	}
	return trail[len(trail)-1], nil
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// child finds a name in a directory.
func (f *FS) child(dir uint32, name string) (uint32, *inode, error) {
	d, err := f.readInode(dir)
	if err != nil {
		return 0, nil, err
	}
	var found uint32
	err = f.scanDir(d, func(entry string, n uint32) bool {
		if entry == name {
			found = n
		}
		return found == 0
	})
	if err != nil {
		return 0, nil, err
	}
	if found == 0 {
		return 0, nil, fs.ErrNotExist
	}
	i, err := f.readInode(found)
	return found, i, err
}

// target is where a symbolic link points. Short ones are in the inode itself.
func (f *FS) target(i *inode) (string, error) {
	if i.size > 4096 {
		return "", corrupt("a symbolic link of %d bytes", i.size)
	}
	if i.size < int64(len(i.block)) && i.flags&flagExtents == 0 && (i.secs == 0 || i.acl != 0) {
		return string(i.block[:i.size]), nil
	}
	data, err := f.data(i, 4096)
	return string(data), err
}

// scanDir calls fn for each entry until it gives false. Hashed directories read the same: their
// inner nodes look like empty entries to old readers.
func (f *FS) scanDir(d *inode, fn func(name string, inode uint32) bool) error {
	if !d.isDir() {
		return fs.ErrNotExist
	}
	data, err := f.data(d, maxDir)
	if err != nil {
		return err
	}
	if d.flags&flagInline != 0 {
		return corrupt("a directory inside its inode") // its entries have no block layout; Linux distributions do not use it
	}
	for len(data) >= 8 {
		block := data[:min(f.blockSize, int64(len(data)))]
		data = data[len(block):]
		for len(block) >= 8 {
			n := binary.LittleEndian.Uint32(block)
			length := int(binary.LittleEndian.Uint16(block[4:]))
			if length == 0 && f.blockSize == 65536 || length == 65535 {
				length = len(block)
			}
			size := int(block[6])
			if length < 8 || length > len(block) || size > length-8 {
				return corrupt("a directory entry of %d bytes with a name of %d", length, size)
			}
			if n != 0 && size > 0 && !fn(string(block[8:8+size]), n) {
				return nil
			}
			block = block[length:]
		}
	}
	return nil
}

// ReadLink is where a symbolic link points; the link itself is not followed. fs.ErrInvalid where it is no link.
func (f *FS) ReadLink(name string) (string, error) {
	at := strings.LastIndexByte(name, '/')
	dir, err := f.lookupNumber(name[:max(0, at)])
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	_, i, err := f.child(dir, name[at+1:])
	if err == nil && !i.isLink() {
		err = fs.ErrInvalid
	}
	var target string
	if err == nil {
		target, err = f.target(i)
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}
