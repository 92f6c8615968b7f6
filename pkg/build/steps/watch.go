package steps

import (
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Watch follows what a tool says about the steps, line by line, from one goroutine.
type Watch struct {
	set    *Set
	begun  time.Time
	at     int // the step that runs; -1 for none
	failed int // -1 for none
	said   []string
	Took   []build.Step
	// Begun is told of each step as it begins, with its number; nil for nobody.
	Begun func(i int, s recipe.Step)
}

// Watch starts to follow.
func (s *Set) Watch() *Watch { return &Watch{set: s, at: -1, failed: -1} }

// sayMost is how many of a step's last lines are kept for its error.
const sayMost = 6

// Line takes one line of the tool's output.
func (w *Watch) Line(text string) {
	_, told, found := strings.Cut(text, w.set.token+" ")
	if !found {
		if w.at >= 0 && strings.TrimSpace(text) != "" {
			w.said = append(w.said, strings.TrimSpace(text))
			w.said = w.said[max(0, len(w.said)-sayMost):]
		}
		return
	}
	words := strings.Fields(told)
	if len(words) < 2 {
		return
	}
	n, err := strconv.Atoi(words[1])
	if i := n - 1; err == nil && i >= 0 && i < len(w.set.Steps) {
		w.tell(words[0], i)
	}
}

func (w *Watch) tell(what string, i int) {
	switch what {
	case "begin":
		w.at, w.begun, w.said = i, time.Now(), nil
		if w.Begun != nil {
			w.Begun(i, w.set.Steps[i])
		}
	case "end", "failed":
		w.Took = append(w.Took, build.Step{Name: w.set.Steps[i].Name, Seconds: time.Since(w.begun).Seconds()})
		w.at = -1
		if what == "failed" {
			w.failed = i
		}
	}
}

// Explain names the step that failed, with its place and what it said last. An error that no step is to blame for
// is given back.
func (w *Watch) Explain(err error) error {
	if err == nil || w.failed < 0 || errs.Is(err, errs.Cancelled) {
		return err
	}
	s := w.set.Steps[w.failed]
	kind := errs.Invalid
	text := strings.Join(w.said, "\n")
	if s.Kind == recipe.StepPackages && temporary(text) {
		kind = errs.Unavailable
	}
	return errs.New(kind, Code(s.Kind), "%s. Its last lines were: %s", failure(s), text).At(s.Where)
}

// temporary tells a mirror that does not answer from a package that does not exist.
func temporary(said string) bool {
	return strings.Contains(said, "Failed to fetch") || strings.Contains(said, "Temporary failure") || strings.Contains(said, "502  Bad Gateway")
}

func failure(s recipe.Step) string {
	switch s.Kind {
	case recipe.StepPackages:
		return "The packages of " + strconv.Quote(s.Name) + " cannot be installed"
	case recipe.StepScript:
		return "The script " + strconv.Quote(s.Name) + " failed"
	}
	return "The step " + strconv.Quote(s.Name) + " failed"
}
