package solve_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEqualQuestionsAreSolvedOnce: apt is asked once for images with the same packages, and again for what differs.
func TestEqualQuestionsAreSolvedOnce(t *testing.T) {
	w := fleet(t)
	status := installed("libc 1", "web 1")
	var said bytes.Buffer
	first := w.question(status)
	first.Log = &said
	p := w.plan(first)
	if said.Len() == 0 {
		t.Fatal("apt said nothing")
	}
	said.Reset()
	second := w.question(status)
	second.ImageID, second.Log = "another", &said
	again := w.plan(second)
	if said.Len() != 0 {
		t.Errorf("apt was asked again: %s", said.String())
	}
	if again.ImageID != "another" {
		t.Errorf("the plan is of %s", again.ImageID)
	}
	again.ImageID, again.CreatedAt = p.ImageID, p.CreatedAt
	if diff := cmp.Diff(p, again); diff != "" {
		t.Error(diff)
	}
	second.State.Extended = []byte("Package: web\nArchitecture: amd64\nAuto-Installed: 1\n\n")
	w.plan(second)
	if said.Len() == 0 {
		t.Error("apt was not asked about another state")
	}
}
