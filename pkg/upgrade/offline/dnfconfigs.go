package offline

import (
	"context"
	"crypto/md5" //nolint:gosec // old packages name their files' sums so; nothing is trusted because of it
	"crypto/sha256"
	"encoding/hex"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/hostdnf"
)

// Flags of files (https://github.com/rpm-software-management/rpm/blob/rpm-4.19.x/include/rpm/rpmfiles.h).
const (
	fileConfig = 1 << 0
	fileGhost  = 1 << 6
)

// shippedFile is a file as a package ships it.
type shippedFile struct {
	pkg, path, sum string
	flags, mode    uint64
	powers         bool // capabilities
}

// fileFormat makes rpm list the files of packages, in lines of fields. Whoever names a file with a tab hides it only
// from checks of its own image.
const fileFormat = `[%{=NAME}\t%{FILENAMES}\t%{FILEDIGESTS}\t%{FILEFLAGS}\t%{FILEMODES}\t%{FILECAPS}\n]`

func parseFiles(text string) []shippedFile {
	var out []shippedFile
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 6 || !strings.HasPrefix(f[1], "/") {
			continue
		}
		flags, errF := strconv.ParseUint(f[3], 10, 32)
		mode, errM := strconv.ParseUint(f[4], 10, 32)
		if errF == nil && errM == nil {
			out = append(out, shippedFile{pkg: f[0], path: f[1], sum: f[2], flags: flags, mode: mode, powers: f[5] != "" && f[5] != "(none)" && f[5] != "="})
		}
	}
	return out
}

// config is a configuration file that owner and package both changed.
type config struct {
	pkg, path string
	own       string // its owner's sum
}

// Where rpm leaves the text that it did not take: the package's, where the file may not be replaced; else the owner's.
const (
	leftNew  = ".rpmnew"
	leftSave = ".rpmsave"
)

// conflicts finds the configuration files of the plan's packages that their owner changed, and the new version too.
func (d *dnf) conflicts(ctx context.Context, root *os.Root) ([]config, error) {
	var names, files []string
	for _, a := range d.comes {
		files = append(files, a.file)
		if slices.ContainsFunc(d.had, func(p rpm.Package) bool { return p.Name == a.Name }) {
			names = append(names, a.Name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	fresh, err := d.query(ctx, append([]string{"-qp", "--nosignature", "--qf", fileFormat}, files...)...)
	if err != nil {
		return nil, errs.Wrap(err, errs.Unavailable, CodeMirror, "the new packages cannot be read")
	}
	old, err := d.query(ctx, append([]string{"--root", hostdnf.ImageInside, "-q", "--qf", fileFormat}, names...)...)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, CodePackages, "the image's rpm database cannot be asked")
	}
	comes := map[string]string{}
	for _, f := range parseFiles(fresh) {
		comes[f.path] = f.sum
	}
	var out []config
	for _, f := range parseFiles(old) {
		sum, ships := comes[f.path]
		if f.flags&fileConfig == 0 || f.flags&fileGhost != 0 || !ships || sum == f.sum {
			continue
		}
		own := digestOf(root, strings.TrimPrefix(f.path, "/"), len(f.sum))
		if own != "" && own != f.sum && own != sum {
			out = append(out, config{pkg: f.pkg, path: f.path, own: own})
		}
	}
	return out, nil
}

// digestOf is a file's sum in the digits of which there are so many; "" where it is gone or not to be read.
func digestOf(root *os.Root, name string, digits int) string {
	data, err := readFile(root, name, maxConffile)
	if err != nil {
		return ""
	}
	if digits == 2*md5.Size {
		sum := md5.Sum(data) //nolint:gosec // see above
		return hex.EncodeToString(sum[:])
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// decide gives each such file the text that the policy wants, and reports where the other one lies.
func (d *dnf) decide(root *os.Root) error {
	for _, c := range d.configs {
		name := strings.TrimPrefix(c.path, "/")
		ownStays := digestOf(root, name, len(c.own)) == c.own
		report := upgrade.Conffile{Path: c.path, Package: c.pkg, Taken: upgrade.TakenOwner, Left: c.path + leftNew}
		var err error
		switch takeNew := d.req.Policy.Conffiles == upgrade.ConffilesNew; {
		case takeNew:
			report.Taken, report.Left = upgrade.TakenPackage, c.path+leftSave
			if ownStays {
				err = swap(root, name, name+leftSave, name+leftNew)
			}
		case !ownStays:
			err = swap(root, name, name+leftNew, name+leftSave)
		}
		if err != nil {
			return failed("%s cannot be given the text that the policy wants: %v", c.path, err)
		}
		d.report.Conffiles = append(d.report.Conffiles, report)
	}
	return nil
}

// swap keeps a file under another name and puts a third in its place.
func swap(root *os.Root, name, keepAs, take string) error {
	if err := root.Rename(name, keepAs); err != nil {
		return err
	}
	return root.Rename(take, name)
}
