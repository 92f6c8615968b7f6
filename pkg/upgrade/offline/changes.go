package offline

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

const (
	maxStatus    = 64 << 20
	maxChangelog = 64 << 20 // unpacked
)

func readStatus(root *os.Root) ([]deb.Package, error) {
	text, err := readFile(root, "var/lib/dpkg/status", maxStatus)
	if err != nil {
		return nil, cannotRead(err, "var/lib/dpkg/status")
	}
	all, err := deb.ParseStatus(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p deb.Package) bool { return !p.Installed() }), nil
}

// findChanges compares dpkg's status with that before, and reads from the changelogs which CVEs the
// new versions close.
func (r *run) findChanges(ctx context.Context, root *os.Root) error {
	after, err := readStatus(root)
	if err != nil {
		return err
	}
	old, sources := map[string]deb.Package{}, map[string]deb.Package{}
	for _, p := range r.before {
		old[p.Name+":"+p.Architecture] = p
		if c, err := deb.Compare(p.SourceVersion, sources[p.Source].SourceVersion); err != nil || c > 0 {
			sources[p.Source] = p
		}
	}
	all := map[string]bool{}
	known := map[string][]string{} // CVEs by source and versions: packages of one source share their changelog
	for _, p := range after {
		key := p.Name + ":" + p.Architecture
		was, had := old[key]
		delete(old, key)
		if had && was.Version == p.Version {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		from := was
		if !had {
			from = sources[p.Source] // a new kernel package is new by name only: its source was there before
		}
		id := p.Source + " " + from.Version + " " + p.Version
		if len(known[id]) == 0 {
			known[id] = r.closedBy(ctx, root, p, from)
		}
		for _, cve := range known[id] {
			all[cve] = true
		}
		r.report.Packages = append(r.report.Packages, upgrade.PackageChange{Name: p.Name, From: was.Version, To: p.Version, Source: p.Source, CVEs: known[id]})
	}
	for _, p := range old {
		r.report.Packages = append(r.report.Packages, upgrade.PackageChange{Name: p.Name, From: p.Version, Source: p.Source, CVEs: []string{}})
	}
	slices.SortFunc(r.report.Packages, func(a, b upgrade.PackageChange) int { return strings.Compare(a.Name, b.Name) })
	r.report.CVEs = sortCVEs(all)
	return nil
}

// sortCVEs sorts by year and number.
func sortCVEs(ids map[string]bool) []string {
	var text strings.Builder
	for id := range ids {
		text.WriteString(id + "\n")
	}
	return deb.CVEs([]deb.Entry{{Text: text.String()}})
}

// closed gives the CVEs that a changelog names since a package. Signed packages (kernels, boot
// loaders) carry the entries of the source that was signed too, and those count as the binary
// package does (6.1.176-1), not as the signing source does (6.1.176+1).
func closed(entries []deb.Entry, source string, from deb.Package) []string {
	var own, signed []deb.Entry
	for _, e := range entries {
		if e.Source == source {
			own = append(own, e)
		} else {
			signed = append(signed, e)
		}
	}
	return deb.CVEs(slices.Concat(deb.Since(own, from.SourceVersion), deb.Since(signed, from.Version)))
}

// closedBy gives the CVEs that a package closes, by its changelog: the one in the image, else (images may leave out documentation) the
// one in the package file that the proxy has kept. Where there is none the change names no CVE: a missing text must not fail
// an upgrade that is otherwise good.
func (r *run) closedBy(ctx context.Context, root *os.Root, p, from deb.Package) []string {
	for _, name := range []string{"changelog.Debian.gz", "changelog.gz", "changelog.Debian." + p.Architecture + ".gz"} {
		packed, err := readFile(root, "usr/share/doc/"+p.Name+"/"+name, maxChangelog)
		if err != nil {
			continue
		}
		key := fmt.Sprintf("%x %s %s %s", sha256.Sum256(packed), p.Source, from.SourceVersion, from.Version)
		if cves, read := r.changelogs.find(key); read {
			return cves
		}
		if entries := unpackChangelog(bytes.NewReader(packed)); entries != nil {
			cves := closed(entries, p.Source, from)
			r.changelogs.keep(key, cves)
			return cves
		}
	}
	entries, err := r.packagedChangelog(ctx, p)
	if err != nil {
		r.cfg.Log.WithError(err).Infof("no changelog of %s %s", p.Name, p.Version)
	}
	return closed(entries, p.Source, from)
}

// changelogs remember what was read: images of a fleet get the same packages.
type changelogs struct {
	mu   sync.Mutex
	read map[string][]string
}

// maxRead bounds them; then they begin anew.
const maxRead = 4096

func (c *changelogs) find(key string) (cves []string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cves, ok = c.read[key]
	return cves, ok
}

func (c *changelogs) keep(key string, cves []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.read) >= maxRead || c.read == nil {
		c.read = map[string][]string{}
	}
	c.read[key] = cves
}

func unpackChangelog(r io.Reader) []deb.Entry {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil
	}
	entries, err := deb.ParseChangelog(io.LimitReader(z, maxChangelog))
	if err != nil {
		return nil
	}
	return entries
}

func (r *run) packagedChangelog(ctx context.Context, p deb.Package) (entries []deb.Entry, err error) {
	err = r.inPackage(ctx, p, func(t *tar.Reader) error {
		entries, err = findChangelog(t, p.Name)
		return err
	})
	return entries, err
}

// fileName is how apt names the file of a package.
func fileName(p deb.Package) string {
	return p.Name + "_" + strings.NewReplacer(":", "%3a", "_", "%5f").Replace(p.Version) + "_" + p.Architecture + ".deb"
}

// inPackage lets read see the files of a package that was fetched. dpkg-deb unpacks it, without dpkg's database.
func (r *run) inPackage(ctx context.Context, p deb.Package, read func(*tar.Reader) error) error {
	file, err := r.packageFile(ctx, p)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", "/dev/stdin")
	cmd.Stdin = file
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := disk.StartTied(cmd); err != nil {
		return err
	}
	err = read(tar.NewReader(out))
	stop() // the rest of the package is not needed
	_ = cmd.Wait()
	return err
}

func findChangelog(t *tar.Reader, name string) ([]deb.Entry, error) {
	for {
		h, err := t.Next()
		if err != nil {
			return nil, err
		}
		base := strings.TrimPrefix(h.Name, "./usr/share/doc/"+name+"/changelog.")
		if base == "Debian.gz" || base == "gz" {
			if entries := unpackChangelog(t); entries != nil {
				return entries, nil
			}
		}
	}
}
