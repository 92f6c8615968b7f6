package solve_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEqualQuestionsAreSolvedOnce: apt is asked once for images with the same packages, and again for what differs.
func TestEqualQuestionsAreSolvedOnce(t *testing.T) {
	w := fleet(t)
	status := installed("libc 1", "web 1")
	p := w.plan(w.question(status))
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := w.question(status)
	second.ImageID, second.WorkDir = "another", filepath.Join(file, "no folder") // apt could not run there
	again := w.plan(second)
	if again.ImageID != "another" {
		t.Errorf("the plan is of %s", again.ImageID)
	}
	again.ImageID, again.CreatedAt = p.ImageID, p.CreatedAt
	if diff := cmp.Diff(p, again); diff != "" {
		t.Error(diff)
	}
	second.State.Extended = []byte("Package: web\nArchitecture: amd64\nAuto-Installed: 1\n\n")
	if _, err := w.plans.Plan(t.Context(), second); err == nil {
		t.Error("apt was not asked about another state")
	}
}
