package layer_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build/layer"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

func key(c string) string { return strings.Repeat(c, 64) }

func open(t *testing.T, cfg layer.Config) *layer.Store {
	t.Helper()
	s, err := layer.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// disks are successive states of one disk with an odd size: data, changed data, data that became zeros, growth.
func disks() [][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	fill := func(b []byte) {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}
	one := make([]byte, 9<<20+512)
	fill(one[:100_000])
	fill(one[4<<20-5000 : 5<<20])
	fill(one[9<<20:])
	two := bytes.Clone(one)
	fill(two[50_000:50_010])
	fill(two[8<<20 : 8<<20+1])
	three := bytes.Clone(two)
	clear(three[4<<20 : 5<<20])
	four := append(bytes.Clone(three), make([]byte, 3<<20)...)
	fill(four[11<<20:])
	return [][]byte{one, two, three, four}
}

func write(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func put(t *testing.T, s *layer.Store, key string, parent *layer.State, b []byte, note any) *layer.State {
	t.Helper()
	st, err := s.Put(t.Context(), key, parent, write(t, b), note)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Release)
	return st
}

func TestEveryStateComesBack(t *testing.T) {
	dir := t.TempDir()
	s := open(t, layer.Config{Dir: dir})
	var parent *layer.State
	for i, b := range disks() {
		parent = put(t, s, key(string("abcd"[i])), parent, b, map[string]int{"step": i})
	}
	again := open(t, layer.Config{Dir: dir})
	for i, want := range disks() {
		path := filepath.Join(t.TempDir(), "out")
		st, err := again.Get(t.Context(), key(string("abcd"[i])), path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("disk %d came back different: %d of %d bytes, %v", i, len(got), len(want), err)
		}
		var note map[string]int
		if err := json.Unmarshal(st.Note, &note); err != nil || note["step"] != i {
			t.Errorf("note %s", st.Note)
		}
		// What is put on a state that was got is as good as on one that was put.
		up := put(t, again, key("e"), st, disks()[3], nil)
		if other := filepath.Join(t.TempDir(), "out"); up.Kept() {
			up.Release()
			if _, err := again.Get(t.Context(), key("e"), other); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(other); err != nil || !bytes.Equal(got, disks()[3]) {
				t.Errorf("the layer on disk %d came back different: %v", i, err)
			}
		}
	}
}

func TestALayerHoldsOnlyWhatChanged(t *testing.T) {
	s := open(t, layer.Config{Dir: t.TempDir()})
	d := disks()
	one := put(t, s, key("a"), nil, d[0], nil)
	first, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, key("b"), one, d[1], nil)
	second, err := s.Stats()
	if err != nil || second.Layers != 2 || second.Bytes-first.Bytes > 64<<10 {
		t.Errorf("11 changed bytes became %d: %+v %v", second.Bytes-first.Bytes, second, err)
	}
}

func TestSweepKeepsWhatIsUsed(t *testing.T) {
	now := time.Now()
	s := open(t, layer.Config{Dir: t.TempDir(), MaxBytes: 1, MaxAge: time.Hour, Now: func() time.Time { return now }})
	d := disks()
	one := put(t, s, key("a"), nil, d[0], nil)
	two := put(t, s, key("b"), one, d[1], nil)
	put(t, s, key("c"), nil, d[2], nil).Release()
	if swept, err := s.Sweep(); err != nil || swept.Layers != 1 || s.Has(key("c")) || !s.Has(key("b")) {
		t.Errorf("%+v %v", swept, err)
	}
	two.Release()
	if swept, err := s.Sweep(); err != nil || swept.Layers != 2 || s.Has(key("a")) {
		t.Errorf("%+v %v", swept, err)
	}
	if stats, err := s.Stats(); err != nil || stats != (layer.Stats{}) {
		t.Errorf("%+v %v", stats, err)
	}
}

func TestSweepTakesTheOldestLeafFirst(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	s := open(t, layer.Config{Dir: dir, Now: func() time.Time { return now }})
	d := disks()
	one := put(t, s, key("a"), nil, d[0], nil)
	put(t, s, key("b"), one, d[1], nil).Release()
	small := put(t, s, key("c"), nil, d[0][:100_000], nil)
	small.Release()
	now = now.Add(time.Minute)
	st, err := s.Get(t.Context(), key("b"), filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	st.Release()
	stats, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	bounded := open(t, layer.Config{Dir: dir, MaxBytes: stats.Bytes - 1, Now: func() time.Time { return now }})
	if _, err := bounded.Sweep(); err != nil || bounded.Has(key("c")) || !bounded.Has(key("b")) {
		t.Errorf("by size: %v", err)
	}
	now = now.Add(15 * 24 * time.Hour)
	if _, err := bounded.Sweep(); err != nil || bounded.Has(key("a")) || bounded.Has(key("b")) {
		t.Errorf("by age: %v", err)
	}
}

func TestDamageIsFoundAfterAReboot(t *testing.T) {
	dir := t.TempDir()
	put(t, open(t, layer.Config{Dir: dir, BootID: "one"}), key("a"), nil, disks()[0], nil).Release()
	data := filepath.Join(dir, "layers", key("a"), "data")
	raw, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	raw[70_000] ^= 1
	if err := os.WriteFile(data, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, layer.Config{Dir: dir, BootID: "two"})
	out := filepath.Join(t.TempDir(), "out")
	if _, err := s.Get(t.Context(), key("a"), out); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a damaged layer was used: %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) || s.Has(key("a")) {
		t.Errorf("left: %v, has: %v", err, s.Has(key("a")))
	}
	if st := put(t, s, key("a"), nil, disks()[0], nil); !st.Kept() {
		t.Error("the damaged layer stays in the way")
	}
}

func TestAReplacedParentTakesItsChildrenWithIt(t *testing.T) {
	s := open(t, layer.Config{Dir: t.TempDir()})
	d := disks()
	one := put(t, s, key("a"), nil, d[0], nil)
	two := put(t, s, key("b"), one, d[1], nil)
	if st := put(t, s, key("a"), nil, d[2], nil); st.Kept() {
		t.Error("a layer in use was replaced")
	}
	two.Release()
	if st := put(t, s, key("a"), nil, d[2], nil); !st.Kept() || s.Has(key("b")) || !s.Has(key("a")) {
		t.Errorf("kept %v, child %v", st.Kept(), s.Has(key("b")))
	}
}

func TestOneClaimAtATime(t *testing.T) {
	dir := t.TempDir()
	s, other := open(t, layer.Config{Dir: dir}), open(t, layer.Config{Dir: dir})
	release, err := s.Claim(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		r, err := other.Claim(t.Context(), key("a"))
		if err == nil {
			r()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("two builds claim one layer: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	release()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if _, err := s.Claim(t.Context(), "../x"); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}
