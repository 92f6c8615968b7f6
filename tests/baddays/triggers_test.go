package baddays

import (
	"fmt"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Two engines look at the same triggers and one of them is killed in the middle: each recipe is built once.
func TestEngineKilledWhileTriggering(t *testing.T) {
	const recipes = 40
	w := newWorld(t)
	w.moved(recipes)
	fast := "[engine]\ntrigger_interval = 1\n"
	first := w.start("kiln-engine", fast)
	w.start("kiln-engine", fast)
	builds := func() int { return w.count("SELECT COUNT(*) FROM builds WHERE `trigger` = 'base'") }
	eventually(t, 30*time.Second, func() error {
		if builds() == 0 {
			return fmt.Errorf("no build yet")
		}
		return nil
	})
	first.kill()
	eventually(t, 60*time.Second, func() error {
		if n := builds(); n != recipes {
			return fmt.Errorf("%d builds of %d recipes", n, recipes)
		}
		return nil
	})
	w.start("kiln-engine", fast)
	time.Sleep(4 * time.Second) // some rounds of both
	if n := w.count("SELECT COUNT(*) FROM builds"); n != recipes {
		t.Errorf("%d builds of %d recipes", n, recipes)
	}
	for what, query := range map[string]string{
		"recipes that are built":  "SELECT COUNT(DISTINCT recipe_id) FROM builds WHERE reason = 'base debian moved to 20260301.2' AND state = 'queued'",
		"jobs":                    "SELECT COUNT(*) FROM jobs WHERE kind = 'build' AND state = 'pending'",
		"marks":                   "SELECT COUNT(*) FROM trigger_marks WHERE kind = 'base' AND `key` = 'debian/20260301.2'",
		"events that tell of one": "SELECT COUNT(DISTINCT resource) FROM events WHERE type = 'build.queued'",
	} {
		if n := w.count(query); n != recipes {
			t.Errorf("%d %s, want %d", n, what, recipes)
		}
	}
}

// moved writes recipes that stand on a family whose channel has moved since their newest versions were built.
func (w *world) moved(n int) {
	w.t.Helper()
	ctx, db, now := w.t.Context(), w.store(), time.Now()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	version := func(family catalog.FamilyName, name, base string) catalog.Family {
		f, err := db.EnsureFamily(ctx, w.project, family)
		must(err)
		must(db.AddVersion(ctx, catalog.Version{ID: string(family) + name, ProjectID: w.project, FamilyID: f.ID, Family: family, Name: name,
			ImageID: string(family) + name, Origin: "build", State: catalog.Published, Base: base, CreatedAt: now}))
		return f
	}
	version("debian", "20260301.1", "")
	must(db.SetChannel(ctx, version("debian", "20260301.2", "").ID, catalog.Stable, "20260301.2"))
	must(db.CreateSource(ctx, build.Source{ID: "s", ProjectID: w.project, Name: "s", State: build.SourceReady, CreatedAt: now, UpdatedAt: now}))
	var rows []build.Recipe
	for i := range n {
		name := fmt.Sprintf("web%02d", i)
		r, err := recipe.Parse(name+".yaml", []byte("name: "+name+"\nfrom: {family: debian}\ntriggers: {base: true}\n"))
		must(err)
		rows = append(rows, build.Recipe{ID: name, ProjectID: w.project, SourceID: "s", Name: name, Path: r.Path, Commit: "c1", Spec: r, Problems: []build.Problem{}, UpdatedAt: now})
		version(catalog.FamilyName(name), "20260301.1", "debian/20260301.1")
	}
	must(db.ReplaceRecipes(ctx, "s", rows))
}
