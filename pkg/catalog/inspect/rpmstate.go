package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// CodeRPMDatabase says that an image's rpm database is of a kind that is only read. It never changes.
const CodeRPMDatabase = "kiln.facts.rpm_kind"

// modulesMost is how many enabled module streams are read.
const modulesMost = 1024

// rpmState reads what rpm and dnf of an image know; nil where it has no rpm.
func rpmState(fsys fileSystem) (*upgrade.RPMState, error) {
	st := &upgrade.RPMState{Modules: map[string][]byte{}}
	for _, name := range rpmDatabases {
		data, err := fileIfThere(fsys, name, maxDatabase)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if data == nil {
			continue
		}
		if !strings.HasSuffix(name, ".sqlite") {
			return nil, errs.New(errs.Invalid, CodeRPMDatabase, "%s is an rpm database of a kind (ndb or Berkeley DB) that the worker's rpm cannot write: such systems are read, and not upgraded offline", name)
		}
		st.Path, st.Database = name, data
		break
	}
	if st.Database == nil {
		return nil, nil
	}
	var err error
	if st.Log, err = fileIfThere(fsys, st.Path+"-wal", maxDatabase); err != nil {
		return nil, fmt.Errorf("%s-wal: %w", st.Path, err)
	}
	for _, name := range []string{"/etc/dnf/dnf.conf", "/etc/yum.conf"} {
		if st.Owner, err = fileIfThere(fsys, name, maxText); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if st.Owner != nil {
			st.OwnerFile = name
			break
		}
	}
	if st.OSRelease, err = fileIfThere(fsys, "/etc/os-release", maxText); err != nil {
		return nil, fmt.Errorf("/etc/os-release: %w", err)
	}
	const modules = "/etc/dnf/modules.d"
	inside, err := fsys.ReadDir(modules)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, name := range inside[:min(len(inside), modulesMost)] {
		if !strings.HasSuffix(name, ".module") {
			continue
		}
		if st.Modules[name], err = fileIfThere(fsys, modules+"/"+name, maxText); err != nil {
			return nil, fmt.Errorf("%s/%s: %w", modules, name, err)
		}
	}
	return st, nil
}
