package api_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestLockIsAJob: asking twice joins the open job; who may only read, and another project, are refused.
func TestLockIsAJob(t *testing.T) {
	w := newWorld(t)
	w.seed()
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/recipes/recipe-1/lock", nil)
	id := a.get(t, "id")
	if a.get(t, "kind") != "lock" || a.get(t, "resource") != "recipes/recipe-1" || !strings.HasSuffix(a.header.Get("Location"), "/v1/jobs/"+id) {
		t.Errorf("%s at %s", a.body, a.header.Get("Location"))
	}
	if again := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/recipes/recipe-1/lock", map[string]any{}); again.get(t, "id") != id {
		t.Errorf("asked twice: %s", again.body)
	}
	w.want(http.StatusForbidden, "reader@p", http.MethodPost, "/v1/recipes/recipe-1/lock", nil)
	w.refused(http.StatusNotFound, "kiln.recipe.not_found", "", "member@q", http.MethodPost, "/v1/recipes/recipe-1/lock", nil)
	if a := w.want(http.StatusBadRequest, "member@p", http.MethodPost, "/v1/recipes/recipe-bad/lock", nil); !strings.Contains(string(a.body), "pakages") {
		t.Errorf("%s", a.body)
	}
}
