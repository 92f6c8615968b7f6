package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// foreign is the formats that qemu-img reads for Kiln, by qemu's names.
var foreign = []string{"vmdk", "vdi", "vhdx", "vpc"}

// infoTime bounds a look at an image's header by qemu-img.
const infoTime = time.Minute

// ConvertForeign writes an image of a format that other hypervisors use (vmdk, vdi, vhdx, vpc) as the raw disk dst.
// qemu-img is told the format and that there is no backing file; images whose data is in another file are refused
// before, and so is one whose disk is larger than the limits or than the free space where dst will be: nobody knows
// what compressed data becomes. A failure or a cancel leaves nothing. Otherwise it is Convert.
func ConvertForeign(ctx context.Context, src Image, dst string, limits Limits, progress func(done, total int64)) error {
	if !slices.Contains(foreign, src.Format) {
		return errs.New(errs.Invalid, CodeUnsupported, "The disk format %q is not supported.", src.Format)
	}
	if err := checkForeign(src, limits.orDefault()); err != nil {
		return err
	}
	from, err := foreignURL(src)
	if err != nil {
		return err
	}
	total, err := foreignSize(ctx, from)
	if err != nil {
		return err
	}
	to, err := filepath.Abs(dst)
	if err != nil {
		return errs.Wrap(err, errs.Invalid, CodeConvert, "The path of the result cannot be resolved.")
	}
	if err := fits(filepath.Dir(to), total, limits.orDefault()); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".part-*")
	if err != nil {
		return fullOr(err, CodeConvert, "The result cannot be created.")
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // after the rename there is nothing to remove
	defer tmp.Close()           //nolint:errcheck // never written through this descriptor
	cmd := exec.CommandContext(ctx, "qemu-img", "convert", "-p", "-m", "8", "-O", Raw, from, tmp.Name())
	if err := runConvert(ctx, cmd, total, progress); err != nil {
		return err
	}
	return publish(tmp.Name(), to)
}

// foreignURL is the image in qemu's words, with nothing left to be guessed.
func foreignURL(src Image) (string, error) {
	path, err := filepath.Abs(src.Path)
	if err != nil {
		return "", errs.Wrap(err, errs.Invalid, CodeConvert, "The path of the image cannot be resolved.")
	}
	options := map[string]any{"driver": src.Format, "file": map[string]any{"driver": "file", "filename": path}}
	if src.Format == "vmdk" { // the one of them that has backing files
		options["backing"] = nil
	}
	text, err := json.Marshal(options)
	return "json:" + string(text), err
}

// foreignSize asks qemu-img for the size of the disk that the guest sees.
func foreignSize(ctx context.Context, url string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, infoTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-img", "info", "--output=json", url)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := StartTied(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	var info struct {
		Size int64 `json:"virtual-size"`
	}
	switch {
	case ctx.Err() != nil:
		return 0, errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), CodeConvert, "Reading the image's header was stopped.")
	case errors.Is(err, exec.ErrNotFound):
		return 0, errs.Wrap(err, errs.Internal, CodeConvert, "qemu-img cannot be started; install qemu-utils.")
	case err != nil:
		return 0, errs.Wrap(err, errs.Invalid, CodeCorrupt, "qemu-img cannot read the image: %s", lastLine(stderr.String()))
	case json.Unmarshal(stdout.Bytes(), &info) != nil || info.Size <= 0:
		return 0, errs.New(errs.Invalid, CodeCorrupt, "The image's header has no size.")
	}
	return info.Size, nil
}

// fits refuses a disk that would not fit where it is to be written.
func fits(dir string, size int64, l Limits) error {
	if size > l.VirtualBytes {
		return errs.New(errs.Invalid, CodeSize, "The disk has %d bytes; the limit is %d.", size, l.VirtualBytes)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return errs.Wrap(err, errs.Internal, CodeConvert, "The free space cannot be asked for.")
	}
	if free := int64(fs.Bavail) * fs.Bsize; size > free {
		return errs.New(errs.TooLarge, CodeFull, "The disk has %d bytes, and %d are free to convert it.", size, free)
	}
	return nil
}

// checkForeign refuses what is not the announced format, and what reaches outside the file.
func checkForeign(src Image, l Limits) error {
	f, err := os.Open(src.Path)
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRead, "The image cannot be opened.")
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return errs.Wrap(err, errs.Internal, CodeRead, "The image cannot be read.")
	}
	if !st.Mode().IsRegular() {
		return errs.New(errs.Invalid, CodeRead, "The image is not a regular file.")
	}
	if st.Size() > l.FileBytes {
		return errs.New(errs.Invalid, CodeSize, "The image file has %d bytes; the limit is %d.", st.Size(), l.FileBytes)
	}
	if st.Size() < sectorSize {
		return errs.New(errs.Invalid, CodeTruncated, "The image has only %d bytes.", st.Size())
	}
	found, err := sniff(f, st.Size())
	if err != nil {
		return err
	}
	if found == Raw && src.Format == "vpc" { // a disk of fixed size has its magic at the end only
		return checkFixedVPC(f, st.Size())
	}
	if found != src.Format {
		return errs.New(errs.Invalid, CodeFormat, "The image is announced as %s, but its first bytes are those of %s.", src.Format, found)
	}
	if src.Format == "vmdk" {
		return checkVMDK(f, st.Size())
	}
	return nil
}

func checkFixedVPC(r io.ReaderAt, size int64) error {
	footer := make([]byte, 8)
	if err := readAt(r, footer, size-sectorSize); err != nil {
		return err
	}
	if string(footer) != "conectix" {
		return errs.New(errs.Invalid, CodeFormat, "The image is announced as vpc, but neither its begin nor its end says so.")
	}
	return nil
}

// maxDescriptor is what qemu reads of a descriptor (block/vmdk.c).
const maxDescriptor = 64 << 10

// checkVMDK takes sparse files with all data inside. qemu takes the data of others from the files that a text names:
// a descriptor alone, a header without a capacity, a parent. A stream-optimised file repeats its header at the end, and
// qemu believes that one (https://gitlab.com/qemu-project/qemu/-/blob/v7.2.0/block/vmdk.c, vmdk_open_vmdk4).
func checkVMDK(r io.ReaderAt, size int64) error {
	headers := []int64{0}
	head := make([]byte, sectorSize)
	if err := readAt(r, head, 0); err != nil {
		return err
	}
	if string(head[:4]) != "KDMV" {
		return errs.New(errs.Invalid, CodeDataFile, "The vmdk is a description of other files, or of ESX: only one with its data inside is read.")
	}
	if binary.LittleEndian.Uint64(head[56:]) == ^uint64(0) && size >= 3*sectorSize { // gdOffset: at the end
		headers = append(headers, size-2*sectorSize)
	}
	for _, at := range headers {
		if err := readAt(r, head, at); err != nil {
			return err
		}
		if string(head[:4]) != "KDMV" || binary.LittleEndian.Uint64(head[12:]) == 0 {
			return errs.New(errs.Invalid, CodeDataFile, "The vmdk's header has no size: its data would be in other files.")
		}
		if err := checkDescriptor(r, size, head); err != nil {
			return err
		}
	}
	return nil
}

// checkDescriptor refuses a parent and extents in other files.
func checkDescriptor(r io.ReaderAt, size int64, head []byte) error {
	off, length := binary.LittleEndian.Uint64(head[28:]), binary.LittleEndian.Uint64(head[36:])
	if off == 0 || length == 0 {
		return nil
	}
	if off > uint64(size)/sectorSize || length > maxDescriptor/sectorSize {
		return errs.New(errs.Invalid, CodeCorrupt, "The vmdk's description is outside of the file.")
	}
	// qemu reads a fixed length from there, whatever the header says.
	text := make([]byte, min(int64(maxDescriptor), size-int64(off)*sectorSize))
	if err := readAt(r, text, int64(off)*sectorSize); err != nil {
		return err
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	if bytes.Contains(text, []byte("parentFileNameHint")) {
		return errs.New(errs.Invalid, CodeBackingFile, "The vmdk names another file as its parent.")
	}
	return nil
}
