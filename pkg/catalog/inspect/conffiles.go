package inspect

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // dpkg's own sums; nothing is trusted because of them
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect/tree"
	"github.com/kiln-cloud/kiln/pkg/deb"
)

const (
	maxConffiles     = 100_000
	maxConffile      = 16 << 20  // bytes of one; a larger one is told as changed without a look
	maxConffileBytes = 256 << 20 // of all
	maxList          = 16 << 20  // bytes of a package's list of files
)

// conffilesOf lists the configuration files of the packages that are installed and still ship them.
func conffilesOf(facts *catalog.Facts, status []byte) ([]deb.Conffile, error) {
	all, err := deb.ParseConffiles(bytes.NewReader(status))
	if err != nil {
		return nil, err
	}
	installed := make(map[string]bool, len(facts.Packages))
	for _, p := range facts.Packages {
		installed[p.Name] = true
	}
	all = slices.DeleteFunc(all, func(c deb.Conffile) bool { return c.Obsolete || len(c.MD5) != 2*md5.Size || !installed[c.Package] })
	if len(all) > maxConffiles {
		return nil, fmt.Errorf("%w: more than %d configuration files", tree.ErrCorrupt, maxConffiles)
	}
	return all, nil
}

// readConffiles holds the configuration files against the sums that dpkg keeps. They are read in the order in which
// they lie on the disk.
func readConffiles(ctx context.Context, facts *catalog.Facts, fsys fileSystem, status []byte) error {
	diverted, err := diversions(fsys)
	if err != nil {
		return err
	}
	all, err := conffilesOf(facts, status)
	if err != nil {
		return err
	}
	type found struct {
		deb.Conffile
		at tree.Entry
	}
	var files []found
	for _, c := range all {
		at, err := fsys.Stat(diverted.path(c.Path, c.Package))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			facts.ConffilesChanged = append(facts.ConffilesChanged, catalog.Conffile{Path: clean(c.Path), Package: clean(c.Package), State: "missing"})
		case err != nil:
			return err
		default:
			files = append(files, found{c, at})
		}
	}
	slices.SortStableFunc(files, func(a, b found) int { return int(min(1, max(-1, a.at.Place-b.at.Place))) })
	buf, left := make([]byte, 256<<10), int64(maxConffileBytes)
	sum := md5.New() //nolint:gosec // as above
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.at.Mode.IsRegular() && f.at.Size <= maxConffile {
			if left -= f.at.Size; left < 0 {
				return fmt.Errorf("%w: configuration files of more than %d bytes", tree.ErrCorrupt, maxConffileBytes)
			}
			sum.Reset()
			if err := fsys.Copy(sum, diverted.path(f.Path, f.Package), buf); err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
			if hex.EncodeToString(sum.Sum(nil)) == f.MD5 {
				continue
			}
		}
		facts.ConffilesChanged = append(facts.ConffilesChanged, catalog.Conffile{Path: clean(f.Path), Package: clean(f.Package), State: "changed"})
	}
	slices.SortFunc(facts.ConffilesChanged, func(a, b catalog.Conffile) int {
		return strings.Compare(a.Path+"\x00"+a.Package, b.Path+"\x00"+b.Package)
	})
	return nil
}

// diverted says which paths dpkg lays elsewhere (https://manpages.debian.org/dpkg-divert.1): by path, where to and for
// whose sake. The one package for which it is done keeps the path.
type diverted map[string]struct{ to, by string }

func (d diverted) path(path, pkg string) string {
	if v, ok := d[path]; ok && v.by != pkg {
		return v.to
	}
	return path
}

// diversions reads dpkg's list: three lines each.
func diversions(fsys fileSystem) (diverted, error) {
	text, err := optional(fsys, "/var/lib/dpkg/diversions", 4<<20)
	if err != nil {
		return nil, err
	}
	out := diverted{}
	lines := strings.Split(text, "\n")
	for ; len(lines) >= 3; lines = lines[3:] {
		out[lines[0]] = struct{ to, by string }{lines[1], lines[2]}
	}
	return out, nil
}

// readUnowned counts the files below /etc that are in no package's list.
func readUnowned(ctx context.Context, facts *catalog.Facts, fsys fileSystem, status []byte) error {
	if len(facts.Packages) == 0 {
		return nil
	}
	all, err := conffilesOf(facts, status)
	if err != nil {
		return err
	}
	owned := map[string]bool{}
	for _, c := range all {
		owned[c.Path] = true
	}
	const info = "/var/lib/dpkg/info"
	names, err := list(fsys, info)
	if err != nil {
		return err
	}
	left := int64(maxStatus)
	for _, name := range names {
		if !strings.HasSuffix(name, ".list") {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		text, err := optional(fsys, info+"/"+name, min(left, maxList))
		if err != nil {
			return err
		}
		left -= int64(len(text))
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "/etc/") {
				owned[strings.TrimRight(line, "\n")] = true
			}
		}
	}
	err = fsys.WalkFrom(ctx, "/etc", MaxFiles, func(n tree.Node) error {
		if n.Mode&tree.TypeMask == tree.TypeFile && !owned[n.Path] {
			facts.EtcUnowned++
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
