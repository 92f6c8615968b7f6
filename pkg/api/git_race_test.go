package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// runner builds what is queued, one after the other, and notes the commits in the order of their ends.
type runner struct {
	commits []string
	stop    chan struct{}
	done    chan struct{}
}

func (w *gitWorld) runner() *runner {
	r := &runner{stop: make(chan struct{}), done: make(chan struct{})}
	service := build.Service{Store: w.db, Desk: job.Desk{Jobs: w.db, Tx: w.db, Events: w.db, Now: w.deps.Now, NewID: w.deps.NewID}}
	go func() {
		defer close(r.done)
		for stopping := false; ; {
			bs, err := w.db.ListBuilds(w.t.Context(), listing.All().Where("source_id", w.source).Where("state", string(build.Queued)))
			if err != nil {
				w.t.Error(err)
				return
			}
			for _, b := range bs {
				b, err := w.db.BeginBuild(w.t.Context(), b.ID, "worker", w.deps.Now())
				if err != nil {
					w.t.Error(err)
					return
				}
				time.Sleep(150 * time.Millisecond) // pushes come meanwhile
				b.State = build.Succeeded
				err = w.db.InTx(w.t.Context(), func(ctx context.Context) error {
					if err := w.db.UpdateBuild(ctx, b); err != nil {
						return err
					}
					return service.Ended(ctx, b.RecipeID)
				})
				if err != nil {
					w.t.Error(err)
					return
				}
				r.commits = append(r.commits, b.Commit)
			}
			if stopping && len(bs) == 0 {
				return
			}
			select {
			case <-r.stop:
				stopping = true
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return r
}

// Two people push to one family at once: none of what they wrote is lost, the builds follow the history, and the last
// one built is what the branch holds.
func TestTwoPushesAtOnce(t *testing.T) {
	w := newGitWorld(t)
	seed := w.clone("member@p")
	seed.commit("base", map[string]string{"recipes/base.yaml": baseRecipe, "files/a": "", "files/b": ""})
	seed.must("push", "-q", "origin", "main")
	r := w.runner()
	people := []clone{w.clone("member@p"), w.clone("manager@p")}
	var wg sync.WaitGroup
	for n, c := range people {
		wg.Go(func() {
			for round := range 3 {
				text := fmt.Sprintf("name: base\nfrom: {release: bookworm}\nvalues: {by: \"%d-%d\"}\npackages: [curl]\n", n, round)
				c.commit(fmt.Sprintf("person %d, round %d", n, round), map[string]string{"recipes/base.yaml": text, fmt.Sprintf("files/%d-%d", n, round): text})
				c.pushUntilItPasses()
			}
		})
	}
	wg.Wait()
	close(r.stop)
	<-r.done

	last := w.clone("reader@p")
	history := strings.Fields(last.must("log", "--reverse", "--format=%H"))
	if subjects := last.must("log", "--format=%s"); strings.Count(subjects, "person 0") != 3 || strings.Count(subjects, "person 1") != 3 {
		t.Errorf("pushes are lost:\n%s", subjects)
	}
	if len(r.commits) < 2 || r.commits[len(r.commits)-1] != history[len(history)-1] {
		t.Errorf("the last build is of %v, the branch is at %s", r.commits, history[len(history)-1])
	}
	place := -1
	for _, commit := range r.commits {
		at := slices.Index(history, commit)
		if at <= place {
			t.Errorf("the builds are not in the order of the history: %v of %v", r.commits, history)
		}
		place = at
	}
}

// pushUntilItPasses does what people do: fetch what came first, lay the own change over it, push again.
func (c clone) pushUntilItPasses() {
	for range 20 {
		out, err := c.in(c.dir, "push", "-q", "origin", "main")
		if err == nil {
			return
		}
		if !strings.Contains(out, "rejected") {
			c.t.Errorf("a push failed: %s", out)
			return
		}
		if out, err := c.in(c.dir, "pull", "-q", "--rebase", "-X", "theirs", "origin", "main"); err != nil {
			c.t.Errorf("git pull: %v\n%s", err, out)
			return
		}
	}
	c.t.Error("20 pushes came too late")
}
