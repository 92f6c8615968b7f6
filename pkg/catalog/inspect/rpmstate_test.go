package inspect_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// TestRPMState: what plans need of an rpm system is read from its bytes, and systems are named that nobody can plan for.
func TestRPMState(t *testing.T) {
	release := "ID=example\nVERSION_ID=9\n"
	state := func(tree map[string]string) (upgrade.PackageState, error) {
		tree["/etc/os-release"] = release
		data := makeDisk(t, "ext4", tree)
		return inspect.PackageState(t.Context(), bytes.NewReader(data), int64(len(data)), "raw")
	}
	got, err := state(map[string]string{
		"/usr/lib/sysimage/rpm/rpmdb.sqlite": "database", "/usr/lib/sysimage/rpm/rpmdb.sqlite-wal": "log", "/etc/yum.conf": "[main]\nexclude=x\n",
		"/etc/dnf/modules.d/tools.module": "[tools]\n", "/etc/dnf/modules.d/README": "no module",
	})
	want := upgrade.PackageState{Preferences: map[string][]byte{}, RPM: &upgrade.RPMState{
		Path: "/usr/lib/sysimage/rpm/rpmdb.sqlite", Database: []byte("database"), Log: []byte("log"), OwnerFile: "/etc/yum.conf", Owner: []byte("[main]\nexclude=x\n"),
		OSRelease: []byte(release), Modules: map[string][]byte{"tools.module": []byte("[tools]\n")},
	}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%s %v", diff, err)
	}
	for code, file := range map[string]string{
		inspect.CodeRPMDatabase: "/var/lib/rpm/Packages.db", inspect.CodeNoPackages: "/lib/apk/db/installed",
	} {
		if _, err := state(map[string]string{file: "P:x\n"}); errs.CodeOf(err) != code || !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
