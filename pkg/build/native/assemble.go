package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/disk/stable"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// fill makes the file systems of the further partitions. What the steps laid where one of them is mounted goes into
// it: on the root nobody would see it.
func (m *making) fill(ctx context.Context) error {
	deepestFirst := slices.Clone(m.note.Parts) // /srv/data before /srv, in whatever order they were asked for
	slices.SortStableFunc(deepestFirst, func(a, b place) int { return strings.Count(b.Mount, "/") - strings.Count(a.Mount, "/") })
	for _, p := range deepestFirst {
		switch p.Filesystem {
		case "swap":
			if err := stable.Swap(m.rawPath(), p.Start, p.Length, p.UUID, p.Label); err != nil {
				return err
			}
		case "ext4":
			if err := m.fillOne(ctx, p); err != nil {
				return m.blamePartition(p, err)
			}
		}
	}
	return nil
}

// blamePartition names the partition whose file system could not be made.
func (m *making) blamePartition(p place, err error) error {
	at := errs.Where{File: m.recipe.Path, Field: "disk.partitions"}
	if errs.CodeOf(err) == disk.CodeFull {
		return errs.Wrap(err, errs.Invalid, CodeDiskSize, "The partition %s of %d MiB is too small for what the steps laid into %s.", p.Label, p.Length>>20, p.Mount).At(at)
	}
	return errs.Wrap(err, errs.KindOf(err), CodeHost, "The partition %s cannot be made.", p.Label).At(at)
}

func (m *making) fillOne(ctx context.Context, p place) error {
	fs := stable.Ext4{Image: m.rawPath(), Offset: p.Start, Length: p.Length, UUID: p.UUID, Label: p.Label, Options: ext4Options, Epoch: m.epoch(), Log: m.log}
	if p.Mount == "" {
		return fs.Write(ctx, "", m.work)
	}
	root, err := m.root.Root()
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // what was done is checked one by one
	rel := strings.TrimPrefix(p.Mount, "/")
	if err := root.MkdirAll(rel, 0o755); err != nil {
		return err
	}
	// By its descriptor: no link of the image leads to another folder.
	dir, err := root.Open(rel)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	if err := fs.Write(ctx, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir.Fd()), m.work); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := root.RemoveAll(filepath.Join(rel, name)); err != nil {
			return err
		}
	}
	return nil
}

// epoch is that of the request, or now.
func (m *making) epoch() time.Time {
	if m.req.Epoch.IsZero() {
		return time.Now()
	}
	return m.req.Epoch
}

// assemble writes the disk anew, so that its bytes follow from what is on it: how the kernel laid the files out
// while steps worked depends on when it wrote them.
func (m *making) assemble(ctx context.Context) error {
	if err := m.mount(ctx, "ro,noload"); err != nil {
		return err
	}
	fresh := filepath.Join(m.work, "fresh.raw")
	if err := m.copyAround(fresh); err != nil {
		return disk.NoSpace(errs.Wrap(err, errs.Internal, CodeHost, "The disk cannot be written anew."), "the worker's disk")
	}
	fs := stable.Ext4{Image: fresh, Offset: m.note.Root.Start, Length: m.note.Root.Length, UUID: m.note.Root.UUID, Label: "root",
		Options: ext4Options, Epoch: m.req.Epoch, Log: m.log}
	if err := fs.Write(ctx, m.root.HostPath(), m.work); err != nil {
		return err
	}
	if err := m.unmount(ctx); err != nil {
		return err
	}
	if err := os.Rename(fresh, m.rawPath()); err != nil {
		return errs.Wrap(err, errs.Internal, CodeHost, "The disk file cannot be replaced.")
	}
	return nil
}

// copyAround copies all of the disk but the root file system. Holes stay holes.
func (m *making) copyAround(to string) (err error) {
	in, err := os.Open(m.rawPath())
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	root := m.note.Root
	for _, part := range [][2]int64{{0, root.Start}, {root.Start + root.Length, info.Size()}} {
		if err := copyData(out, in, part[0], part[1], 0); err != nil {
			return err
		}
	}
	return nil
}

// copyData copies what is stored of a range to the same place plus shift.
func copyData(out, in *os.File, from, to, shift int64) error {
	for from < to {
		data, err := in.Seek(from, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err != nil {
			return err
		}
		if data >= to {
			return nil
		}
		hole, err := in.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		hole = min(hole, to)
		if _, err := io.Copy(io.NewOffsetWriter(out, data+shift), io.NewSectionReader(in, data, hole-data)); err != nil {
			return err
		}
		from = hole
	}
	return nil
}
