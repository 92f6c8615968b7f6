package rpm_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // writes what is read here

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/rpm"
)

// header is one as rpm keeps it, with the values of tags: numbers are int32.
func header(values map[uint32]any) []byte {
	var index, data []byte
	for tag, v := range values {
		kind, at := uint32(6), len(data)
		switch v := v.(type) {
		case string:
			data = append(append(data, v...), 0)
		case int:
			kind = 4
			data = binary.BigEndian.AppendUint32(data, uint32(v))
		}
		for _, n := range []uint32{tag, kind, uint32(at), 1} {
			index = binary.BigEndian.AppendUint32(index, n)
		}
	}
	blob := binary.BigEndian.AppendUint32(nil, uint32(len(values)))
	blob = binary.BigEndian.AppendUint32(blob, uint32(len(data)))
	return append(append(blob, index...), data...)
}

// pkg is a header with an epoch and padding, which makes it long.
func pkg(name string, padding int) []byte {
	return header(map[uint32]any{
		1000: name, 1001: "3.0.7", 1002: "24.el9", 1003: 1, 1011: "Example", 1014: "Apache-2.0 AND (MIT OR ISC)", 1022: "x86_64",
		1044: "src-3.0.7-24.el9.src.rpm", 1117: strings.Repeat("x", padding),
	})
}

// sqliteDB is a database as rpm lays it, and its write-ahead log.
func sqliteDB(t testing.TB, wal bool, blobs ...[]byte) (data, log []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rpmdb.sqlite")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	statements := []string{"CREATE TABLE 'Basenames' (key TEXT NOT NULL)", "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)"}
	statements = append([]string{"PRAGMA page_size=512"}, statements...)
	if wal {
		statements = append([]string{"PRAGMA page_size=512", "PRAGMA journal_mode=WAL", "PRAGMA wal_autocheckpoint=0"}, statements...)
	}
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range blobs {
		if _, err := db.ExecContext(t.Context(), "INSERT INTO Packages (blob) VALUES (?)", b); err != nil {
			t.Fatal(err)
		}
	}
	if data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if wal {
		if log, err = os.ReadFile(path + "-wal"); err != nil {
			t.Fatal(err)
		}
	}
	return data, log
}

// ndb is a database as rpm of SUSE lays it.
func ndb(blobs ...[]byte) []byte {
	word := func(b []byte, words ...uint32) []byte {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	slots := word([]byte("RpmP"), 0, 1, 1, 0, 0, 0, 0)
	var tail []byte
	for i, b := range blobs {
		slots = word(append(slots, "Slot"...), uint32(i+1), uint32(4096+len(tail))/16, uint32(len(b))/16+2)
		tail = append(word(append(tail, "BlbS"...), uint32(i+1), 1, uint32(len(b))), b...)
		tail = append(tail, make([]byte, 32-len(tail)%16)...)
	}
	for len(slots) < 4096 {
		slots = word(append(slots, "Slot"...), 0, 0, 0)
	}
	return append(slots, tail...)
}

// bdb is a hash of Berkeley DB 5.3 with pages of 4096 bytes, as rpm's Packages is.
func bdb(order binary.AppendByteOrder, blobs ...[]byte) []byte {
	const size = 4096
	page := func(number, next uint32, entries, used uint16, kind byte) []byte {
		p := order.AppendUint32(make([]byte, 8, size), number)
		p = order.AppendUint32(order.AppendUint32(p, 0), next)
		return append(order.AppendUint16(order.AppendUint16(p, entries), used), 0, kind)
	}
	var chains [][]byte
	hash := page(1, 0, uint16(2*len(blobs)), 0, 13)
	var items []byte
	first := size - 20*len(blobs)
	for i, b := range blobs {
		at := uint16(first + 20*i)
		hash = order.AppendUint16(order.AppendUint16(hash, at), at+8) // key, value
		items = append(append(items, 1), make([]byte, 7)...)
		items = order.AppendUint32(order.AppendUint32(append(items, 3, 0, 0, 0), uint32(2+len(chains))), uint32(len(b)))
		for len(b) > 0 {
			part := b[:min(len(b), size-26)]
			b = b[len(part):]
			number, next := uint32(2+len(chains)), uint32(0)
			if len(b) > 0 {
				next = number + 1
			}
			p := append(page(number, next, 1, uint16(len(part)), 7), part...)
			chains = append(chains, append(p, make([]byte, size-len(p))...))
		}
	}
	hash = append(append(hash, make([]byte, first-len(hash))...), items...)
	meta := order.AppendUint32(make([]byte, 12), 0x061561)
	meta = append(order.AppendUint32(order.AppendUint32(meta, 9), size), 0, 8, 0, 0, 0, 0, 0, 0)
	meta = order.AppendUint32(meta, uint32(1+len(chains)))
	meta = append(meta, make([]byte, size-len(meta))...)
	return bytes.Join(append([][]byte{meta, hash}, chains...), nil)
}

func TestReadDatabase(t *testing.T) {
	key := header(map[uint32]any{1000: "gpg-pubkey", 1001: "1", 1002: "2"})
	blobs := [][]byte{pkg("a", 10), key, pkg("b", 300), pkg("c", 70_000), pkg("d", 5_000)}
	for i := range 300 { // more pages than the root has cells for
		blobs = append(blobs, pkg("n"+strconv.Itoa(i), 2000))
	}
	sqlite, _ := sqliteDB(t, false, blobs...)
	before, log := sqliteDB(t, true, blobs...)
	for _, way := range []struct {
		name      string
		data, log []byte
		packages  int
	}{
		{"sqlite", sqlite, nil, 304},
		{"sqlite with its log", before, log, 304},
		{"ndb", ndb(blobs[:100]...), nil, 99},
		{"Berkeley DB", bdb(binary.LittleEndian, blobs[:100]...), nil, 99},
		{"Berkeley DB of another machine", bdb(binary.BigEndian, blobs[:5]...), nil, 4},
	} {
		t.Run(way.name, func(t *testing.T) {
			got, err := rpm.ReadDatabase(way.data, way.log)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != way.packages {
				t.Fatalf("%d packages", len(got))
			}
			want := rpm.Package{Name: "c", Version: "1:3.0.7-24.el9", Architecture: "x86_64", Source: "src", Vendor: "Example", License: "Apache-2.0 AND (MIT OR ISC)"}
			if got[2] != want {
				t.Errorf("%+v", got[2])
			}
		})
	}
}

// TestRealDatabase reads what rpm itself wrote, and holds it against what rpm says.
func TestRealDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("runs rpm")
	}
	dir := t.TempDir()
	spec := "Name: tool\nEpoch: 2\nVersion: 1.0~rc1\nRelease: 3\nSummary: s\nLicense: MIT\nVendor: Example\nBuildArch: noarch\n%description\nd\n%files\n"
	if err := os.WriteFile(filepath.Join(dir, "tool.spec"), []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	runIt(t, "rpmbuild", "--quiet", "-bb", "--define", "_topdir "+dir, filepath.Join(dir, "tool.spec"))
	found, err := filepath.Glob(filepath.Join(dir, "RPMS/noarch/*.rpm"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	runIt(t, "rpm", "--dbpath", dir+"/db", "--nodeps", "--justdb", "-i", found[0])
	data, err := os.ReadFile(filepath.Join(dir, "db", "rpmdb.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := rpm.ReadDatabase(data, nil)
	want := rpm.Package{Name: "tool", Version: "2:1.0~rc1-3", Architecture: "noarch", Source: "tool", Vendor: "Example", License: "MIT"}
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func runIt(t *testing.T, args ...string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func TestDamagedDatabase(t *testing.T) {
	whole, _ := sqliteDB(t, false, pkg("a", 5000))
	loop := bdb(binary.LittleEndian, pkg("a", 9000))
	binary.LittleEndian.PutUint32(loop[2*4096+16:], 2) // the chain bites its tail
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("hello, this is no database of packages at all, and it is long enough to be looked at as one"),
		"short sqlite": whole[:200], "cut sqlite": whole[:len(whole)-4096], "loop": loop, "header": ndb([]byte{0, 0, 0, 9, 0, 0, 0, 0}), "nameless": ndb(header(map[uint32]any{1001: "1"})),
		"no table": func() []byte {
			d, _ := sqliteDB(t, false)
			return bytes.ReplaceAll(d, []byte("Packages"), []byte("Luggages"))
		}(),
	} {
		if got, err := rpm.ReadDatabase(data, nil); errs.CodeOf(err) != rpm.CodeDatabase || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzReadDatabase(f *testing.F) {
	whole, _ := sqliteDB(f, false, pkg("a", 600), pkg("b", 10))
	before, log := sqliteDB(f, true, pkg("a", 10))
	f.Add(whole, []byte(nil))
	f.Add(before, log)
	f.Add(ndb(pkg("a", 10)), []byte(nil))
	f.Add(bdb(binary.LittleEndian, pkg("a", 5000)), []byte(nil))
	f.Fuzz(func(t *testing.T, data, log []byte) {
		got, err := rpm.ReadDatabase(data, log)
		if err != nil && errs.CodeOf(err) != rpm.CodeDatabase {
			t.Fatal(err)
		}
		for _, p := range got {
			if p.Name == "" || p.Version == "" {
				t.Fatalf("%+v", p)
			}
		}
	})
}
