package solve_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
	"github.com/kiln-cloud/kiln/pkg/upgrade/solve"
)

func TestTryReal(t *testing.T) {
	images, _ := filepath.Glob(os.Getenv("HOME") + "/.cache/kiln-test/bookworm-*.raw")
	f, err := os.Open(images[0])
	if err != nil {
		t.Fatal(err)
	}
	st, _ := f.Stat()
	t0 := time.Now()
	state, err := inspect.PackageState(t.Context(), f, st.Size(), "raw")
	if err != nil {
		t.Fatal(err)
	}
	t.Log("state", time.Since(t0), len(state.Status), state.Preferences, string(state.Foreign))
	m, err := deb.MachineMirrors()
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := mirror.New(mirror.Config{Upstreams: []string{m.Main, m.Security}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	p, err := solve.New(solve.Config{Dir: "/tmp/plan-try", Proxy: proxy})
	if err != nil {
		t.Fatal(err)
	}
	for _, sec := range []bool{false, false, true} {
		t0 := time.Now()
		plan, err := p.Plan(t.Context(), upgrade.Question{Release: "bookworm", Architecture: "amd64", State: state, WorkDir: "/tmp/plan-try/w", Policy: upgrade.Policy{Security: sec},
			Suites: []upgrade.Suite{{m.Main, "bookworm", []string{"main"}}, {m.Main, "bookworm-updates", []string{"main"}}, {m.Security, "bookworm-security", []string{"main"}}}})
		t.Log(time.Since(t0), err)
		for _, c := range plan.Changes {
			t.Log(c.PackageRef, c.Suite, c.Security, c.Bytes, c.Source, c.Needs)
		}
		t.Log(plan.Held, plan.Download, plan.Grows, plan.Kernel, plan.BootLoader)
	}
}
