package inspect

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/kiln-cloud/kiln/pkg/disk"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// CodeNoPackages says that an image's packages cannot be planned for. It never changes.
const CodeNoPackages = "kiln.facts.no_dpkg"

// preferencesMost is how many files of apt's preferences are read.
const preferencesMost = 256

// PackageState reads what the package manager of an image knows, as Quick reads facts. Invalid CodeNoPackages where the
// image has neither dpkg nor rpm, CodeRPMDatabase where its rpm cannot be upgraded, and as Read where it cannot be read.
func PackageState(ctx context.Context, r io.ReaderAt, size int64, format string) (st upgrade.PackageState, err error) {
	header, err := disk.Check(r, size, format, disk.Limits{})
	if err != nil {
		return st, err
	}
	defer func() { // as in Quick
		if p := recover(); p != nil {
			err = damaged(format, p)
		}
	}()
	s, err := open(ctx, r, header)
	if err != nil {
		return st, err
	}
	if st, err = packageState(s.fsys); err != nil {
		return st, unreadable(ctx, err)
	}
	return st, nil
}

func packageState(fsys fileSystem) (st upgrade.PackageState, err error) {
	st.Preferences = map[string][]byte{}
	if st.Status, err = fileIfThere(fsys, "/var/lib/dpkg/status", maxStatus); err != nil {
		return st, err
	}
	if st.Status == nil {
		if st.RPM, err = rpmState(fsys); err == nil && st.RPM == nil {
			err = errs.New(errs.Invalid, CodeNoPackages, "the image has no /var/lib/dpkg/status and no rpm database: only systems with one of these are upgraded")
		}
		return st, err
	}
	if st.Foreign, err = fileIfThere(fsys, "/var/lib/dpkg/arch", maxText); err != nil {
		return st, err
	}
	if st.Extended, err = fileIfThere(fsys, "/var/lib/apt/extended_states", maxStatus); err != nil {
		return st, err
	}
	names := []string{"preferences"}
	inside, err := fsys.ReadDir("/etc/apt/preferences.d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return st, err
	}
	for _, name := range inside[:min(len(inside), preferencesMost)] {
		names = append(names, "preferences.d/"+name)
	}
	for _, name := range names {
		text, err := fileIfThere(fsys, "/etc/apt/"+name, maxText)
		if err != nil {
			return st, err
		}
		if text != nil {
			st.Preferences[name] = text
		}
	}
	return st, nil
}

// fileIfThere reads a file; nil where there is none.
func fileIfThere(fsys fileSystem, name string, limit int64) ([]byte, error) {
	text, err := fsys.ReadFile(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && text == nil {
		text = []byte{}
	}
	return text, err
}
