// Package inspect reads the facts of an image out of its bytes: in this process, without root, without
// a mount, and without trusting anything that the disk says.
package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Codes of the errors that Read gives beside those of pkg/disk. They never change.
const (
	CodeUnreadable = "kiln.facts.unreadable"  // the disk contradicts itself
	CodeFileSystem = "kiln.facts.file_system" // a file system that Kiln cannot read yet
	CodeNoSystem   = "kiln.facts.no_system"   // no operating system on it
)

// Bounds of the files that are read, in bytes.
const (
	maxText   = 64 << 10
	maxStatus = 64 << 20
)

// Part is one of the facts that need far more reading than the rest: files that lie all over the disk.
type Part string

// The parts. Facts.Skipped has those that were not asked for.
const (
	Conffiles Part = "conffiles" // Facts.ConffilesChanged: reads the configuration files
	Licenses  Part = "licenses"  // Package.Licenses: reads the copyright files
	Setuid    Part = "setuid"    // Facts.Setuid: reads every directory and inode
	Unowned   Part = "unowned"   // Facts.EtcUnowned: reads the packages' lists of files
)

// Parts are all of them.
func Parts() []Part { return []Part{Conffiles, Licenses, Setuid, Unowned} }

// Read finds all facts of an image of the announced format ("qcow2" or "raw") and of size bytes: what is known of an
// image that was built or is to be upgraded. Whoever looks at many images far away takes Collect.
//
// The header is checked before anything else is read (disk.Check). Invalid where the image is damaged, hostile, or
// holds no system that Kiln can read; the detail says which.
func Read(ctx context.Context, r io.ReaderAt, size int64, format string) (*catalog.Facts, error) {
	return Quick(ctx, r, size, format, Parts()...)
}

// Collect is Read of an image that is one of many and far away: without the parts that would fetch much of it. Whoever
// needs these reads a copy that is near.
func Collect(ctx context.Context, r io.ReaderAt, size int64, format string) (*catalog.Facts, error) {
	return Quick(ctx, r, size, format, Conffiles)
}

// Quick is Read of the facts that lie together (system, packages, boot, users, services, layout), which takes a few
// milliseconds and a few of the image's megabytes, and of the parts that are named.
func Quick(ctx context.Context, r io.ReaderAt, size int64, format string, parts ...Part) (facts *catalog.Facts, err error) {
	header, err := disk.Check(r, size, format, disk.Limits{})
	if err != nil {
		return nil, err
	}
	// The qcow2 reader is not ours and was not written for hostile input: its panics end here.
	defer func() {
		if p := recover(); p != nil {
			facts, err = nil, damaged(format, p)
		}
	}()
	s, err := open(ctx, r, header)
	if err != nil {
		return nil, err
	}
	if facts, err = s.facts(ctx, parts); err != nil {
		return nil, unreadable(ctx, err)
	}
	return facts, nil
}

func (s *system) facts(ctx context.Context, parts []Part) (*catalog.Facts, error) {
	const gib = 1 << 30
	facts := &catalog.Facts{
		DiskFormat: s.header.Format, VirtualSize: s.header.VirtualSize, MinDiskGiB: int((s.header.VirtualSize + gib - 1) / gib),
		PartitionTable: tableOf(s.parts), FileSystem: s.root.kind, RootUUID: s.fsys.UUID(), UsedBytes: s.fsys.UsedBytes(),
		Volume: clean(s.root.volume), Subvolume: s.subvol, Mounts: s.mounts, Firmware: s.firmware(), Partitions: s.partitions(),
		Packages: []catalog.Package{}, Kernels: []string{}, Initrds: []string{}, Services: []string{}, Users: []catalog.User{}, Setuid: []catalog.Setuid{},
		ConffilesChanged: []catalog.Conffile{}, Skipped: []string{},
	}
	status, err := readSystem(facts, s.fsys)
	if err != nil {
		return nil, err
	}
	if err := readBoot(facts, s.bootDirs()); err != nil {
		return nil, err
	}
	for _, read := range []func(*catalog.Facts, fileSystem) error{readServices, readUsers} {
		if err := read(facts, s.fsys); err != nil {
			return nil, err
		}
	}
	for _, part := range Parts() {
		if !slices.Contains(parts, part) {
			facts.Skipped = append(facts.Skipped, string(part))
			continue
		}
		if err := s.part(ctx, part, facts, status); err != nil {
			return nil, err
		}
	}
	return facts, nil
}

func (s *system) part(ctx context.Context, part Part, facts *catalog.Facts, status []byte) error {
	switch part {
	case Conffiles:
		return readConffiles(ctx, facts, s.fsys, status)
	case Licenses:
		return readLicenses(facts, s.fsys)
	case Setuid:
		return readSetuid(ctx, facts, s.fsys)
	case Unowned:
		return readUnowned(ctx, facts, s.fsys, status)
	}
	return nil
}

// bounded ends reading when the context does.
type bounded struct {
	ctx context.Context //nolint:containedctx // io.ReaderAt has no context, and a read may be an HTTP request
	r   io.ReaderAt
}

func (b bounded) ReadAt(p []byte, off int64) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.ReadAt(p, off)
}

// unreadable keeps our own errors, a cancel and a deadline, and blames the image for the rest.
func unreadable(ctx context.Context, err error) error {
	var known *errs.Error
	switch {
	case errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return errs.Wrap(err, errs.Invalid, CodeUnreadable, "the image's file system cannot be read")
}

func tableOf(parts []disk.Partition) string {
	switch {
	case len(parts) == 1 && parts[0].Type == disk.TypeWhole:
		return "none"
	case len(parts) > 0 && strings.HasPrefix(parts[0].Type, "0x"):
		return "mbr"
	}
	return "gpt"
}

// readSystem reads what the root file system says about the operating system. status is the text of dpkg's database,
// nil where there is none.
func readSystem(facts *catalog.Facts, fsys fileSystem) (status []byte, err error) {
	release, err := fsys.ReadFile("/etc/os-release", maxText)
	if errors.Is(err, fs.ErrNotExist) {
		release, err = fsys.ReadFile("/usr/lib/os-release", maxText)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.Invalid, CodeNoSystem, "the root file system has no /etc/os-release: there is no Linux system on the image")
	}
	if err != nil {
		return nil, err
	}
	facts.OS = parseOSRelease(release)
	if facts.MachineID, err = machineID(fsys); err != nil {
		return nil, err
	}
	if status, err = readPackages(facts, fsys); err != nil {
		return nil, err
	}
	if facts.Architecture == "" {
		facts.Architecture = elfArchitecture(fsys)
	}
	if !facts.CloudInit {
		_, err := fsys.Stat("/usr/bin/cloud-init")
		facts.CloudInit = err == nil
	}
	return status, nil
}

func readPackages(facts *catalog.Facts, fsys fileSystem) (status []byte, err error) {
	status, err = fsys.ReadFile("/var/lib/dpkg/status", maxStatus)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, readOtherPackages(facts, fsys)
	}
	if err != nil {
		return nil, err
	}
	all, err := deb.ParseStatus(bytes.NewReader(status))
	if err != nil {
		return nil, fmt.Errorf("/var/lib/dpkg/status: %w", err)
	}
	facts.PackageKind = "deb"
	for _, p := range all {
		if !p.Installed() {
			continue
		}
		known := catalog.Package{Name: p.Name, Version: p.Version, Architecture: p.Architecture, Source: p.Source}
		if p.SourceVersion != p.Version {
			known.SourceVersion = p.SourceVersion
		}
		facts.Packages = append(facts.Packages, known)
		switch p.Name {
		case "dpkg":
			facts.Architecture = p.Architecture
		case "cloud-init":
			facts.CloudInit = true
		}
	}
	return status, nil
}

// machineID tells how /etc/machine-id stands (https://manpages.debian.org/machine-id.5): only a set
// one is harmful in an image, because every clone would have it.
func machineID(fsys fileSystem) (string, error) {
	text, err := fsys.ReadFile("/etc/machine-id", maxText)
	switch id := strings.TrimSpace(string(text)); {
	case errors.Is(err, fs.ErrNotExist):
		return "missing", nil
	case err != nil:
		return "", err
	case id == "":
		return "empty", nil
	case id == "uninitialized":
		return "uninitialized", nil
	}
	return "set", nil
}

// parseOSRelease reads shell-like assignments (https://manpages.debian.org/os-release).
func parseOSRelease(text []byte) catalog.OSRelease {
	var r catalog.OSRelease
	for line := range strings.SplitSeq(string(text), "\n") {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		switch name {
		case "ID":
			r.ID = value
		case "VERSION_ID":
			r.VersionID = value
		case "VERSION_CODENAME":
			r.Codename = value
		case "PRETTY_NAME":
			r.PrettyName = value
		}
	}
	return r
}

// elfArchitecture looks at the shell's ELF header; "" where that is no program that we know.
func elfArchitecture(fsys fileSystem) string {
	head, err := fsys.ReadHead("/bin/sh", 64)
	if err != nil || len(head) < 20 || !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return ""
	}
	return map[byte]string{0x3e: "amd64", 0xb7: "arm64", 0x03: "i386", 0x28: "armhf", 0xf3: "riscv64"}[head[18]]
}

// SortVersions sorts kernel versions, newest last.
func SortVersions(versions []string) {
	slices.SortFunc(versions, func(a, b string) int {
		if c, err := deb.Compare(a, b); err == nil && c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
}
