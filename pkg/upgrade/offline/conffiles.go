package offline

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // dpkg and ucf tell configuration files apart by it; nothing is trusted because of it
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// maxConffile bounds one configuration file, in bytes; a larger one counts as changed by its owner.
const maxConffile = 16 << 20

// conffile is a configuration file at one moment.
type conffile struct {
	pkg     string // "" where ucf does not know
	shipped string // md5 of the package's last text
	have    string // md5 of the file; "" where it is gone
}

// ownerChanged reports whether the file is not as its package shipped it.
func (c conffile) ownerChanged() bool { return c.have != c.shipped }

// leftovers are the names under which dpkg and ucf leave the text that was not taken.
var leftovers = []string{".dpkg-dist", ".dpkg-old", ".ucf-dist", ".ucf-old"}

// readConffiles reads what dpkg and ucf know about configuration files, and the files themselves.
func readConffiles(root *os.Root) (map[string]conffile, error) {
	status, err := readFile(root, "var/lib/dpkg/status", maxStatus)
	if err != nil {
		return nil, cannotRead(err, "var/lib/dpkg/status")
	}
	known, err := deb.ParseConffiles(bytes.NewReader(status))
	if err != nil {
		return nil, err
	}
	all := map[string]conffile{}
	for _, c := range known {
		if !c.Obsolete {
			all[c.Path] = conffile{pkg: c.Package, shipped: c.MD5}
		}
	}
	if err := readUcf(root, all); err != nil {
		return nil, err
	}
	for name, c := range all {
		c.have = fileSum(root, strings.TrimPrefix(name, "/"))
		all[name] = c
	}
	return all, nil
}

// readUcf adds the files that ucf(1) looks after: "md5  path" in its hash file, "package path" in its registry.
func readUcf(root *os.Root, all map[string]conffile) error {
	owners := map[string]string{}
	for _, f := range []struct {
		name string
		line func(first, file string)
	}{
		{"registry", func(pkg, file string) { owners[file] = pkg }},
		{"hashfile", func(sum, file string) { all[file] = conffile{pkg: owners[file], shipped: sum} }},
	} {
		text, err := readFile(root, "var/lib/ucf/"+f.name, maxConffile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return cannotRead(err, "var/lib/ucf/"+f.name)
		}
		for line := range strings.Lines(string(text)) {
			if words := strings.Fields(line); len(words) == 2 && strings.HasPrefix(words[1], "/") {
				f.line(words[0], words[1])
			}
		}
	}
	return nil
}

// fileSum is the md5 of a file; "" where there is none, and the reason where it cannot be read: no sum, so it counts as changed.
func fileSum(root *os.Root, name string) string {
	data, err := readFile(root, name, maxConffile)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	return sumOf(data)
}

func sumOf(data []byte) string {
	sum := md5.Sum(data) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}

// conffileOptions are dpkg's for the policy. Those of the image come before them on the command line, so each is told
// whether it counts. ucfVariable is ucf's.
func conffileOptions(p upgrade.Policy) []string {
	if p.Conffiles == upgrade.ConffilesNew {
		return []string{"--no-force-confold", "--force-confnew"}
	}
	return []string{"--no-force-confnew", "--force-confold"}
}

func ucfVariable(p upgrade.Policy) string {
	if p.Conffiles == upgrade.ConffilesNew {
		return "UCF_FORCE_CONFFNEW=1"
	}
	return "UCF_FORCE_CONFFOLD=1"
}

// refuseConffiles is the policy fail: it looks into the new packages, before anything is installed, for configuration
// files that their owner changed and that they change too.
func (r *run) refuseConffiles(ctx context.Context, before map[string]conffile) error {
	if r.req.Policy.Conffiles != upgrade.ConffilesFail {
		return nil
	}
	asked := map[string][]string{}
	for name, c := range before {
		if c.pkg != "" && c.ownerChanged() {
			asked[c.pkg] = append(asked[c.pkg], name)
		}
	}
	var both []string
	fetched := false
	for _, p := range r.allPackages() {
		names := asked[p.Name]
		if len(names) == 0 {
			continue
		}
		if !fetched {
			if err := r.apt(ctx, nil, r.aptGet("--download-only", "dist-upgrade")); err != nil {
				return err
			}
			fetched = true
		}
		sums, err := r.shippedSums(ctx, p, names)
		if err != nil {
			return errs.Wrap(err, errs.Unavailable, CodeMirror, "the package %s %s cannot be looked into", p.Name, p.Version)
		}
		for name, sum := range sums {
			if sum != before[name].shipped && sum != before[name].have {
				both = append(both, fmt.Sprintf("%s (%s)", name, p.Name))
			}
		}
	}
	return conffilesRefused(both)
}

func conffilesRefused(both []string) error {
	if len(both) == 0 {
		return nil
	}
	slices.Sort(both)
	return errs.New(errs.Conflict, CodeConffiles, "the image's owner and its packages both changed %s, and the policy is to fail then: choose keep or new", strings.Join(both, ", "))
}

// shippedSums gives the md5 of files as a package file has them.
func (r *run) shippedSums(ctx context.Context, p deb.Package, names []string) (map[string]string, error) {
	sums := map[string]string{}
	err := r.inPackage(ctx, p, func(t *tar.Reader) error {
		for len(sums) < len(names) {
			h, err := t.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(h.Name, ".")
			if h.Typeflag != tar.TypeReg || !slices.Contains(names, name) {
				continue
			}
			data, err := io.ReadAll(io.LimitReader(t, maxConffile))
			if err != nil {
				return err
			}
			sums[name] = sumOf(data)
		}
		return nil
	})
	return sums, err
}

// reportConffiles says which configuration files owner and package both changed, which text was taken, and where the
// other one lies. What only ucf's scripts could know before is refused here, where the policy is to fail.
func (r *run) reportConffiles(root *os.Root, before map[string]conffile, old, now tree) error {
	after, err := readConffiles(root)
	if err != nil {
		return err
	}
	left := map[string]string{} // by configuration file
	for name, n := range now {
		if base, ok := leftover(name); ok && n != old[name] {
			left["/"+base] = "/" + name
		}
	}
	found := map[string]upgrade.Conffile{}
	for name, was := range before {
		is, still := after[name]
		_, beside := left[name]
		if !was.ownerChanged() || !beside && (!still || is.shipped == was.shipped) {
			continue
		}
		c := upgrade.Conffile{Path: name, Package: is.pkg, Taken: upgrade.TakenPackage, Left: left[name]}
		if is.have == was.have {
			c.Taken = upgrade.TakenOwner
		}
		found[name] = c
	}
	for name, beside := range left {
		_, told := found[name]
		is, known := after[name]
		isDist := strings.HasSuffix(beside, "-dist")
		if told || !known && !isDist {
			continue // a copy that a script made of a file of its own
		}
		c := upgrade.Conffile{Path: name, Package: is.pkg, Taken: upgrade.TakenPackage, Left: beside}
		if isDist {
			c.Taken = upgrade.TakenOwner
		}
		found[name] = c
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		r.report.Conffiles = append(r.report.Conffiles, found[name])
	}
	if r.req.Policy.Conffiles != upgrade.ConffilesFail {
		return nil
	}
	var both []string
	for _, c := range r.report.Conffiles {
		both = append(both, fmt.Sprintf("%s (%s)", c.Path, c.Package))
	}
	return conffilesRefused(both)
}

// leftover gives the configuration file that a name is the other text of.
func leftover(name string) (string, bool) {
	for _, end := range leftovers {
		if base, ok := strings.CutSuffix(name, end); ok {
			return base, true
		}
	}
	return "", false
}

// cannotRead names a file of the image that is needed and cannot be read.
func cannotRead(err error, name string) error {
	if errors.Is(err, syscall.ELOOP) || strings.Contains(err.Error(), "escapes") {
		return errs.Wrap(err, errs.Invalid, CodePackages, "/%s of the image lies behind a symbolic link that leads out of it or in circles", name)
	}
	return errs.Wrap(err, errs.Invalid, CodePackages, "/%s of the image cannot be read", name)
}
