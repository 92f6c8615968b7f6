package rpm

import (
	"bytes"
	"encoding/binary"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// CodeDatabase says that a database of packages contradicts itself. It never changes.
const CodeDatabase = "kiln.facts.rpm_database"

// MaxPackages is the most packages that a database may have.
const MaxPackages = 200_000

func corrupt(format string, args ...any) error {
	return errs.New(errs.Invalid, CodeDatabase, "the rpm database is damaged: "+format, args...)
}

// ReadDatabase reads the installed packages out of rpm's database: sqlite (rpm 4.16 and later), ndb (SUSE) or Berkeley DB
// (before). log is sqlite's write-ahead log beside it, which holds what was not yet written into the database; nil where
// there is none. Nothing that the bytes say is trusted: Invalid CodeDatabase where they contradict themselves.
func ReadDatabase(data, log []byte) ([]Package, error) {
	r := &reading{left: len(data) + len(log)}
	var err error
	switch {
	case bytes.HasPrefix(data, []byte(sqliteMagic)):
		err = readSQLite(data, log, r.add)
	case bytes.HasPrefix(data, []byte(ndbMagic)):
		err = readNDB(data, r.add)
	case len(data) >= bdbMeta && (binary.LittleEndian.Uint32(data[12:]) == bdbHash || binary.BigEndian.Uint32(data[12:]) == bdbHash):
		err = readBDB(data, r.add)
	case len(data) == 0:
		err = corrupt("it is empty")
	default:
		err = corrupt("it is neither sqlite, ndb nor Berkeley DB")
	}
	if err != nil {
		return nil, err
	}
	return r.packages, nil
}

// reading collects packages.
type reading struct {
	packages []Package
	// left is how many bytes headers may still have: all together are no longer than the file, but where parts of it are
	// used twice, which only a hostile one does.
	left int
}

func (r *reading) add(blob []byte) error {
	r.left -= len(blob)
	if len(r.packages) >= MaxPackages || r.left < 0 {
		return corrupt("more than %d packages, or more bytes of them than the file has", MaxPackages)
	}
	p, ok, err := parseHeader(blob)
	if err != nil {
		return err
	}
	if ok {
		r.packages = append(r.packages, p)
	}
	return nil
}
