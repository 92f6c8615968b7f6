package api_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/catalog"
)

// What Glance has no more is not listed, unless it is asked for; it can still be looked at, and no more be read.
func TestDeletedImages(t *testing.T) {
	w := newWorld(t)
	for id, visibility := range map[string]string{"there": "public", "gone": "private"} {
		w.must(w.db.PutImage(t.Context(), catalog.Image{
			ID: id, ProjectID: "p", Name: id, State: catalog.Inspected, Status: "active", Visibility: visibility, Tags: []string{"lts"}, FactsVersion: 1,
			Facts: &catalog.Facts{}, CreatedAt: noon, UpdatedAt: noon,
		}))
	}
	if _, err := w.db.BuryImage(t.Context(), "gone", noon); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string][]string{
		"": {"there"}, "?state=inspected": {"there"}, "?state=deleted": {"gone"}, "?visibility=public": {"there"}, "?visibility=private": {}, "?status=active": {"there"},
	} {
		var list struct{ Images []catalog.Image }
		w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/images"+query, nil).into(t, &list)
		ids := []string{}
		for _, i := range list.Images {
			ids = append(ids, i.ID)
		}
		if !slices.Equal(ids, want) {
			t.Errorf("%s: %v, not %v", query, ids, want)
		}
	}
	var i catalog.Image
	w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/images/gone", nil).into(t, &i)
	if i.State != catalog.Gone || i.Status != "deleted" || i.Facts == nil || !slices.Equal(i.Tags, []string{"lts"}) {
		t.Errorf("%+v", i)
	}
	var f faults
	w.want(http.StatusConflict, "member@p", http.MethodPost, "/v1/images/gone/inspect", nil).into(t, &f)
	if f.Errors[0].Code != "kiln.image.deleted" {
		t.Errorf("%+v", f)
	}
}
