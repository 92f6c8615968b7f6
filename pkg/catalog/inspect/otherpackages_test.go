package inspect_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// rpmDatabase is one in the format ndb with one package.
func rpmDatabase(values map[uint32]string) string {
	var index, data []byte
	for tag, v := range values {
		for _, n := range []uint32{tag, 6, uint32(len(data)), 1} { // 6: a string
			index = binary.BigEndian.AppendUint32(index, n)
		}
		data = append(append(data, v...), 0)
	}
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(len(values))), uint32(len(data)))
	header = append(append(header, index...), data...)
	slots := append([]byte("RpmP\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00"), make([]byte, 16)...)
	slots = append(slots, "Slot\x01\x00\x00\x00\x00\x01\x00\x00\x10\x00\x00\x00"...) // at block 256
	slots = append(slots, strings.Repeat("Slot"+strings.Repeat("\x00", 12), 253)...)
	blob := binary.LittleEndian.AppendUint32([]byte("BlbS\x01\x00\x00\x00\x00\x00\x00\x00"), uint32(len(header)))
	return string(slots) + string(append(blob, header...))
}

func TestOtherPackages(t *testing.T) {
	release := "ID=example\nVERSION_ID=9\nPRETTY_NAME=\"Example 9\"\n"
	database := rpmDatabase(map[uint32]string{
		1000: "NetworkManager", 1001: "1.48", 1002: "2.el9", 1011: "Example", 1014: "GPL-2.0-or-later AND (LGPL-2.1-or-later OR MIT)",
		1022: "x86_64", 1044: "nm-1.48-3.el9.src.rpm",
	})
	installed := "P:ssl_client\nV:1.36.1-r29\nA:x86_64\nL:GPL-2.0-only\no:busybox\n\n"
	one := catalog.Package{
		Name: "NetworkManager", Version: "1.48-2.el9", Architecture: "x86_64", Source: "nm", SourceVersion: "1.48-3.el9", Vendor: "Example",
		Licenses: []string{"GPL-2.0-or-later", "LGPL-2.1-or-later", "MIT"},
	}
	two := catalog.Package{Name: "ssl_client", Version: "1.36.1-r29", Architecture: "x86_64", Source: "busybox", Licenses: []string{"GPL-2.0-only"}}
	for _, way := range []struct {
		fileSystem, file, text, kind string
		want                         []catalog.Package
	}{
		{"ext4", "/var/lib/rpm/Packages.db", database, "rpm", []catalog.Package{one}},
		{"ext2", "/usr/lib/sysimage/rpm/Packages.db", database, "rpm", []catalog.Package{one}},
		{"ext4", "/lib/apk/db/installed", installed, "apk", []catalog.Package{two}},
		{"ext4", "/srv/nothing", "", "", []catalog.Package{}},
	} {
		t.Run(way.fileSystem+way.file, func(t *testing.T) {
			facts, err := read(t, makeDisk(t, way.fileSystem, map[string]string{"/etc/os-release": release, way.file: way.text}), "raw")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(way.want, facts.Packages); diff != "" || facts.PackageKind != way.kind {
				t.Errorf("%s: %s", facts.PackageKind, diff)
			}
		})
	}
}

func TestDamagedOtherPackages(t *testing.T) {
	for file, text := range map[string]string{
		"/var/lib/rpm/rpmdb.sqlite": "SQLite format 3\x00 and nothing that follows is one", "/usr/lib/sysimage/rpm/Packages.db": "RpmP????", "/var/lib/rpm/Packages": "garbage", "/lib/apk/db/installed": "garbage",
	} {
		_, err := read(t, makeDisk(t, "ext4", map[string]string{"/etc/os-release": "ID=example\n", file: text}), "raw")
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), file) || !slices.Contains([]string{"kiln.facts.rpm_database", "kiln.facts.apk_database"}, errs.CodeOf(err)) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
