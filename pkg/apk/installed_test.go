package apk_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/apk"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

const twoInstalled = `C:Q1abc=
P:musl
V:1.2.5-r0
A:x86_64
S:407278
T:the musl c library (libc) implementation
L:MIT
o:musl
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755

P:ssl_client
V:1.36.1-r29
A:x86_64
L:GPL-2.0-only
o:busybox
F:usr/bin
R:ssl_client
`

func TestReadInstalled(t *testing.T) {
	got, err := apk.ReadInstalled([]byte(twoInstalled))
	want := []apk.Package{
		{Name: "musl", Version: "1.2.5-r0", Architecture: "x86_64", Origin: "musl", License: "MIT"},
		{Name: "ssl_client", Version: "1.36.1-r29", Architecture: "x86_64", Origin: "busybox", License: "GPL-2.0-only"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := apk.ReadInstalled(nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"no field": "P:a\nV:1\n\nhello\n", "no name": "V:1\n\n", "no version": "P:a\n", "twice": "P:a\nP:b\nV:1\n",
		"long": "P:" + strings.Repeat("a", 5000) + "\nV:1\n", "many": strings.Repeat("P:a\nV:1\n\n", apk.MaxPackages+1),
	} {
		if got, err := apk.ReadInstalled([]byte(bad)); errs.CodeOf(err) != apk.CodeDatabase || got != nil {
			t.Errorf("%s: %d packages, %v", name, len(got), err)
		}
	}
	if _, err := apk.ReadInstalled([]byte("P:a\nV:1\n\nhello\n")); err == nil || !strings.Contains(err.Error(), "line 4") {
		t.Errorf("the place is not named: %v", err)
	}
}

func FuzzReadInstalled(f *testing.F) {
	f.Add([]byte(twoInstalled))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := apk.ReadInstalled(text)
		if err != nil && errs.CodeOf(err) != apk.CodeDatabase {
			t.Fatal(err)
		}
		for _, p := range got {
			if p.Name == "" || p.Version == "" || p.Origin == "" {
				t.Fatalf("%+v", p)
			}
		}
	})
}
