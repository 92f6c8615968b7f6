package nova

import (
	"context"
	"crypto/sha1" //nolint:gosec // Nova names cache files by SHA-1; nothing is protected by it
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func baseFolder(node wire.Node) string { return filepath.Join(node.InstancesPath, "_base") }

// CacheName is the name of an image's file in a node's _base folder: SHA-1 of the image's id in hex
// (nova.virt.imagecache.get_cache_fname).
func CacheName(imageID string) string {
	sum := sha1.Sum([]byte(imageID)) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

// imageCache is one node's cache of raw disks, as nova.virt.libvirt.imagecache keeps it.
type imageCache struct {
	base    string
	images  wire.Images
	qemuImg string
	clock   func() time.Time

	mu    sync.Mutex
	locks map[string]*sync.Mutex // by file name: one download at a time
}

// ensure answers the path of an image's cached disk. A file that is there already is used as it is: no download,
// no checksum, no look at its size. Otherwise the image is downloaded from Glance, converted to raw where it is
// not, and renamed into place.
func (k *imageCache) ensure(ctx context.Context, caller wire.Caller, id string) (string, error) {
	name := CacheName(id)
	lock := k.lockOf(name)
	lock.Lock()
	defer lock.Unlock()
	path := filepath.Join(k.base, name)
	if _, err := os.Stat(path); err == nil {
		now := k.clock()
		_ = os.Chtimes(path, now, now) // Nova's touch; a cache that cannot be touched still serves
		return path, nil
	}
	if err := os.MkdirAll(k.base, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	part := path + ".part"
	defer func() { _ = os.Remove(part) }() // gone already after the rename
	image, err := k.download(ctx, caller, id, part)
	if err != nil {
		return "", err
	}
	if image.DiskFormat == "qcow2" {
		if part, err = k.toRaw(ctx, image, part, path); err != nil {
			return "", err
		}
	}
	if err := os.Rename(part, path); err != nil {
		return "", fmt.Errorf("publish the cached image: %w", err)
	}
	return path, nil
}

func (k *imageCache) lockOf(name string) *sync.Mutex {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks[name] == nil {
		k.locks[name] = &sync.Mutex{}
	}
	return k.locks[name]
}

func (k *imageCache) download(ctx context.Context, caller wire.Caller, id, part string) (wire.Image, error) {
	image, body, err := k.images.Open(caller, id)
	switch {
	case errors.Is(err, wire.ErrImageNotFound):
		return image, &buildError{exception: "ImageNotFound", message: fmt.Sprintf("Image %s could not be found.", id)}
	case errors.Is(err, wire.ErrImageNotActive):
		return image, &buildError{exception: "ImageUnacceptable", message: fmt.Sprintf("Image %s is unacceptable: Image has no associated data", id)}
	case err != nil:
		return image, fmt.Errorf("download image %s: %w", id, err)
	}
	defer func() { _ = body.Close() }() // only read
	out, err := os.Create(part)
	if err != nil {
		return image, fmt.Errorf("make the cache file: %w", err)
	}
	_, err = io.Copy(out, &untilDone{ctx: ctx, r: body})
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return image, fmt.Errorf("download image %s: %w", id, err)
	}
	return image, nil
}

func (k *imageCache) toRaw(ctx context.Context, image wire.Image, part, path string) (string, error) {
	unacceptable := func(format string, args ...any) error {
		return &buildError{exception: "ImageUnacceptable", message: fmt.Sprintf("Image %s is unacceptable: ", image.ID) + fmt.Sprintf(format, args...)}
	}
	if err := checkQcow2(part); err != nil {
		return part, unacceptable("%v", err)
	}
	converted := path + ".converted"
	cmd := exec.CommandContext(ctx, k.qemuImg, "convert", "-t", "none", "-O", "raw", "-f", "qcow2", part, converted)
	out, err := cmd.CombinedOutput()
	if err == nil {
		_ = os.Remove(part)
		return converted, nil
	}
	_ = os.Remove(converted)
	if errors.Is(err, exec.ErrNotFound) {
		return part, &buildError{exception: "ProcessExecutionError", message: k.qemuImg + " is not installed"}
	}
	return part, unacceptable("Unable to convert image to raw: %v: %s", err, out)
}

// checkQcow2 refuses what a hostile image could use to read other files of the node: a backing file or an
// external data file (https://gitlab.com/qemu-project/qemu/-/blob/v7.2.0/docs/interop/qcow2.txt).
func checkQcow2(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	header := make([]byte, 80)
	if _, err := io.ReadFull(file, header); err != nil || string(header[:4]) != "QFI\xfb" {
		return errors.New("Converted to raw, but format is not qcow2") //nolint:staticcheck // Nova's sentence
	}
	const dataFile = 1 << 2
	switch {
	case binary.BigEndian.Uint64(header[8:]) != 0:
		return errors.New("fmt=qcow2 backed by: a backing file")
	case binary.BigEndian.Uint32(header[4:]) >= 3 && binary.BigEndian.Uint64(header[72:])&dataFile != 0:
		return errors.New("Image has an external data file") //nolint:staticcheck // Nova's manner
	}
	return nil
}

// untilDone stops a copy when the context ends.
type untilDone struct {
	ctx context.Context //nolint:containedctx // lives for one copy
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
