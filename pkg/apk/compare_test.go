package apk_test

import (
	"testing"

	"github.com/kiln-cloud/kiln/pkg/apk"
)

// The pairs are from apk-tools' own tests (test/version.data).
func TestCompare(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"2.34", "0.1.0_alpha", 1}, {"0.1.0_alpha", "0.1.0_alpha", 0}, {"0.1.0_alpha", "0.1.3_alpha", -1}, {"0.1.0_beta", "0.1.0_alpha", 1},
		{"1.0_pre1", "1.0_rc1", -1}, {"1.0_rc1", "1.0", -1}, {"1.0", "1.0_p1", -1}, {"1.0_git20240101", "1.0_p1", -1}, {"1.0_p9", "1.0_p10", -1},
		{"0.12a", "0.12b", -1}, {"0.12", "0.12a", -1}, {"3.1.4-r0", "3.1.4-r1", -1}, {"3.1.4-r10", "3.1.4-r9", 1}, {"1.2.3", "1.2", 1},
		{"8.2.0", "8.2.001", -1}, {"8.2.0015", "8.2.002", -1}, {"5.0.08", "5.0.5", -1}, {"10", "9", 1}, {"1.0-r0", "1.0", 0},
	} {
		for _, way := range []struct {
			a, b string
			want int
		}{{c.a, c.b, c.want}, {c.b, c.a, -c.want}} {
			got, err := apk.Compare(way.a, way.b)
			if err != nil || (got < 0) != (way.want < 0) || (got > 0) != (way.want > 0) {
				t.Errorf("%s against %s: %d, %v, want %d", way.a, way.b, got, err, way.want)
			}
		}
	}
	for _, bad := range []string{"", "x", "1.0_wrong", "1.0-1", "1..2"} {
		if _, err := apk.Compare(bad, "1"); err == nil {
			t.Errorf("%q is taken for a version", bad)
		}
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1.0_rc1", "1.0-r3")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, errX := apk.Compare(a, b)
		y, errY := apk.Compare(b, a)
		if (errX == nil) != (errY == nil) || (x < 0) != (y > 0) || (x > 0) != (y < 0) {
			t.Errorf("%q and %q: %d, %d", a, b, x, y)
		}
	})
}
