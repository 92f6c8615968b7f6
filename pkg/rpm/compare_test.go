package rpm_test

import (
	"testing"

	"github.com/kiln-cloud/kiln/pkg/rpm"
)

// The pairs are those of rpm's own tests (tests/rpmvercmp.at), and some with epochs and releases.
func TestCompare(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0", 0}, {"1.0", "2.0", -1}, {"2.0.1", "2.0.1a", -1}, {"5.5p1", "5.5p2", -1}, {"5.5p10", "5.5p1", 1},
		{"10xyz", "10.1xyz", -1}, {"xyz10", "xyz10.1", -1}, {"xyz.4", "8", -1}, {"5.5p2", "5.6p1", -1}, {"5.6p1", "6.5p1", -1},
		{"6.0.rc1", "6.0", 1}, {"10b2", "10a1", 1}, {"1.0aa", "1.0aa", 0}, {"10.0001", "10.1", 0}, {"10.0001", "10.0039", -1},
		{"4.999.9", "5.0", -1}, {"20101121", "20101122", -1}, {"2_0", "2.0", 0}, {"a+", "a_", 0}, {"+_", "_+", 0},
		{"1.0~rc1", "1.0", -1}, {"1.0~rc1", "1.0~rc2", -1}, {"1.0~rc1~git123", "1.0~rc1", -1},
		{"1.0^", "1.0", 1}, {"1.0^git1", "1.0", 1}, {"1.0^git1", "1.0^git2", -1}, {"1.0^git1", "1.01", -1},
		{"1.0^20160101", "1.0.1", -1}, {"1.0^20160101^git1", "1.0^20160102", -1}, {"1.0~rc1^git1", "1.0~rc1", 1}, {"1.0^git1~pre", "1.0^git1", -1},
		{"1:1.0", "2.0", 1}, {"0:1.0", "1.0", 0}, {"1.0-1", "1.0-2", -1}, {"1.0-1.el9", "1.0", 0}, {"1:3.0.7-25.el9_3", "1:3.0.7-27.el9", -1},
		{"99999999999999999999999", "99999999999999999999998", 1},
	} {
		for _, way := range []struct {
			a, b string
			want int
		}{{c.a, c.b, c.want}, {c.b, c.a, -c.want}} {
			got, err := rpm.Compare(way.a, way.b)
			if err != nil || (got < 0) != (way.want < 0) || (got > 0) != (way.want > 0) {
				t.Errorf("%s against %s: %d, %v, want %d", way.a, way.b, got, err, way.want)
			}
		}
	}
	for _, bad := range []string{"", "1 0", "1\n"} {
		if _, err := rpm.Compare(bad, "1"); err == nil {
			t.Errorf("%q is taken for a version", bad)
		}
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1.0~rc1^git", "1:2-3")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, errX := rpm.Compare(a, b)
		y, errY := rpm.Compare(b, a)
		if (errX == nil) != (errY == nil) || (x < 0) != (y > 0) || (x > 0) != (y < 0) {
			t.Errorf("%q and %q: %d, %d", a, b, x, y)
		}
	})
}
