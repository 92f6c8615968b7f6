package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// version puts a version into the store as a publisher does: the newest is published, the others superseded.
func (w *world) version(family, name string, change func(*catalog.Version)) {
	w.t.Helper()
	f, err := w.db.EnsureFamily(w.t.Context(), "p", catalog.FamilyName(family))
	w.must(err)
	v := catalog.Version{ID: family + name, ProjectID: "p", FamilyID: f.ID, Family: f.Name, Name: name, ImageID: "i-" + family + name,
		Origin: "build", State: catalog.Superseded, CreatedAt: noon}
	if change != nil {
		change(&v)
	}
	w.must(w.db.AddVersion(w.t.Context(), v))
}

func TestChannelHistoryAndRollBack(t *testing.T) {
	w := newWorld(t)
	path := "/v1/families/web"
	for _, name := range []string{"20260301.1", "20260302.1", "20260303.9", "20260303.10"} {
		w.version("web", name, nil)
		w.want(http.StatusOK, "manager@p", http.MethodPut, path+"/channels/stable", map[string]any{"version": name, "reason": "tested " + name})
	}
	told := w.since()
	w.want(http.StatusOK, "manager@p", http.MethodPost, path+"/versions/20260302.1/revoke", nil)
	back := func() (r catalog.RolledBack) {
		w.want(http.StatusOK, "manager@p", http.MethodPost, path+"/channels/stable/rollback", map[string]any{"reason": "no DNS"}).into(t, &r)
		return r
	}
	if r := back(); r.From != "20260303.10" || r.To != "20260303.9" || len(r.Skipped) != 0 || r.JobID == "" {
		t.Errorf("%+v", r)
	}
	// The second goes further back and passes over what is revoked.
	if r := back(); r.From != "20260303.9" || r.To != "20260301.1" || len(r.Skipped) != 1 || r.Skipped[0].Version != "20260302.1" {
		t.Errorf("%+v", r)
	}
	w.refused(http.StatusConflict, "kiln.channel.no_earlier", "", "manager@p", http.MethodPost, path+"/channels/stable/rollback", nil)
	w.refused(http.StatusNotFound, "kiln.channel.not_found", "", "manager@p", http.MethodPost, path+"/channels/none/rollback", nil)
	// What is promoted after that leads back to where it came from.
	w.want(http.StatusOK, "manager@p", http.MethodPut, path+"/channels/stable", map[string]any{"version": "20260303.10"})
	if r := back(); r.To != "20260301.1" {
		t.Errorf("%+v", r)
	}
	var page struct {
		Moves []catalog.ChannelMove `json:"moves"`
	}
	w.want(http.StatusOK, "reader@p", http.MethodGet, path+"/channels/stable/history", nil).into(t, &page)
	var line []string
	for _, m := range page.Moves {
		line = append(line, string(m.Kind)+" "+m.Before+">"+m.Version)
	}
	want := []string{"rollback 20260303.10>20260301.1", "promote 20260301.1>20260303.10", "rollback 20260303.9>20260301.1", "rollback 20260303.10>20260303.9",
		"promote 20260303.9>20260303.10", "promote 20260302.1>20260303.9", "promote 20260301.1>20260302.1", "promote >20260301.1"}
	if !slices.Equal(line, want) {
		t.Errorf("history %q", line)
	}
	if m := page.Moves[3]; m.Reason != "no DNS" || m.UserID == "" || m.Seq != 5 {
		t.Errorf("%+v", m)
	}
	if got := told(); got != "version.revoked family.rolled_back family.rolled_back family.promoted family.rolled_back" {
		t.Errorf("events: %s", got)
	}
	w.want(http.StatusOK, "reader@p", http.MethodGet, path+"/channels/stable/history?kind=rollback&limit=2&sort=seq:asc", nil).into(t, &page)
	if len(page.Moves) != 2 || page.Moves[0].Seq != 5 {
		t.Errorf("%+v", page)
	}
}

// lineageWorld is a base with a child by base name, a grandchild by base image, an upgrade, and versions that only follow.
func lineageWorld(t *testing.T) *world {
	w := newWorld(t)
	w.version("base", "20260301.1", nil)
	w.version("base", "20260302.1", func(v *catalog.Version) { v.ParentVersion = "20260301.1" })
	w.version("base", "20260303.1", func(v *catalog.Version) {
		v.Origin, v.ParentVersion, v.State = "upgrade", "20260302.1", catalog.Published
	})
	w.version("web", "20260301.1", func(v *catalog.Version) { v.Base = "base/20260301.1" })
	w.version("web", "20260302.1", func(v *catalog.Version) { v.Base, v.State = "base/20260302.1", catalog.Published })
	w.version("shop", "20260304.1", func(v *catalog.Version) {
		v.BaseImageID, v.State = "i-web20260302.1", catalog.Published
	})
	for family, version := range map[string]string{"base": "20260303.1", "web": "20260302.1", "shop": "20260304.1"} {
		w.want(http.StatusOK, "manager@p", http.MethodPut, "/v1/families/"+family+"/channels/stable", map[string]any{"version": version})
	}
	return w
}

const bad = "/v1/families/base/versions/20260302.1"

func TestRevokeTakesDescendantsAlong(t *testing.T) {
	w := lineageWorld(t)
	told := w.since()
	reason := map[string]any{"reason": "a back door in xz"}
	var dry, done catalog.Revocation
	w.want(http.StatusOK, "manager@p", http.MethodPost, bad+"/revoke?dry_run=true", reason).into(t, &dry)
	if told() != "" || !dry.DryRun || dry.JobID != "" {
		t.Errorf("a dry run wrote: %+v", dry)
	}
	w.want(http.StatusOK, "manager@p", http.MethodPost, bad+"/revoke", reason).into(t, &done)
	var names []string
	for _, r := range done.Revoked {
		names = append(names, string(r.Family)+"/"+r.Version+" "+r.Because)
	}
	slices.Sort(names)
	want := []string{"base/20260302.1 named", "base/20260303.1 upgraded from base/20260302.1", "shop/20260304.1 built from web/20260302.1", "web/20260302.1 built from base/20260302.1"}
	if !slices.Equal(names, want) || len(dry.Revoked) != len(done.Revoked) || done.JobID == "" {
		t.Errorf("revoked %q", names)
	}
	wantChannels := []catalog.ChannelChange{{Family: "base", Channel: "stable", From: "20260303.1", To: "20260301.1"},
		{Family: "shop", Channel: "stable", From: "20260304.1", To: ""}, {Family: "web", Channel: "stable", From: "20260302.1", To: "20260301.1"}}
	for _, got := range [][]catalog.ChannelChange{dry.Channels, done.Channels} {
		slices.SortFunc(got, func(a, b catalog.ChannelChange) int { return strings.Compare(string(a.Family), string(b.Family)) })
		if !slices.Equal(got, wantChannels) {
			t.Errorf("channels %+v", got)
		}
	}
	if got := strings.Count(told(), "version.revoked"); got != 4 {
		t.Errorf("%d events of revocations", got)
	}
	a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/families/shop/versions/20260304.1", nil)
	if a.get(t, "note") != "a back door in xz" || a.get(t, "revoked_with") != "base/20260302.1" {
		t.Errorf("%s", a.body)
	}
	// The newest that is left is published again, and nothing of it starts or is upgraded.
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/families/base/versions/20260301.1", nil); a.get(t, "state") != "published" {
		t.Errorf("%s", a.body)
	}
	vm := map[string]any{"name": "x", "kind": "vm", "flavor": "tiny", "image_id": "i-shop20260304.1"}
	w.refused(http.StatusConflict, "kiln.version.revoked", "image_id", "member@p", http.MethodPost, "/v1/workloads", vm)
	vm = map[string]any{"name": "x", "kind": "vm", "flavor": "tiny", "family": "web", "channel": "20260302.1"}
	w.refused(http.StatusConflict, "kiln.version.revoked", "", "member@p", http.MethodPost, "/v1/workloads", vm)
	w.refused(http.StatusConflict, "kiln.version.revoked", "", "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"family": "web", "channel": "20260302.1"})
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/upgrades", map[string]any{"family": "web", "channel": "stable"})
}

func TestUnrevokeTakesBackWhatOneRevocationDid(t *testing.T) {
	w := lineageWorld(t)
	state := func(family, version string) string {
		return w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/families/"+family+"/versions/"+version, nil).get(t, "state")
	}
	web := "/v1/families/web/versions/20260302.1"
	w.refused(http.StatusConflict, "kiln.version.not_revoked", "", "manager@p", http.MethodPost, bad+"/unrevoke", nil)
	w.want(http.StatusOK, "manager@p", http.MethodPost, bad+"/revoke", nil)
	w.refused(http.StatusConflict, "kiln.version.base_revoked", "", "manager@p", http.MethodPost, web+"/unrevoke", nil)
	// web is revoked for a reason of its own, too: it and the shop on it stay so when the base comes back.
	w.want(http.StatusOK, "manager@p", http.MethodPost, web+"/revoke", map[string]any{"reason": "its own"})
	var r catalog.Unrevoked
	w.want(http.StatusOK, "manager@p", http.MethodPost, bad+"/unrevoke", nil).into(t, &r)
	if len(r.Restored) != 2 || len(r.Kept) != 1 || state("base", "20260303.1") != "published" || state("base", "20260302.1") != "superseded" ||
		state("web", "20260302.1") != "revoked" || state("shop", "20260304.1") != "revoked" {
		t.Errorf("%+v", r)
	}
	w.want(http.StatusOK, "manager@p", http.MethodPost, web+"/unrevoke", nil).into(t, &r)
	if len(r.Restored) != 2 || state("web", "20260302.1") != "published" || state("shop", "20260304.1") != "published" {
		t.Errorf("%+v", r)
	}
}

func TestRetentionOfAFamily(t *testing.T) {
	w := newWorld(t)
	w.version("web", "20260301.1", nil)
	path := "/v1/families/web"
	var f catalog.Family
	w.want(http.StatusOK, "member@p", http.MethodPatch, path, map[string]any{"retention": map[string]any{"keep_count": 2, "keep_days": 0}}).into(t, &f)
	if f.Retention.KeepCount == nil || *f.Retention.KeepCount != 2 || *f.Retention.KeepDays != 0 {
		t.Errorf("%+v", f)
	}
	w.want(http.StatusOK, "member@p", http.MethodPatch, path, map[string]any{"description": "d"}).into(t, &f)
	if f.Retention.KeepCount == nil || f.Description != "d" {
		t.Errorf("%+v", f)
	}
	w.refused(http.StatusBadRequest, "kiln.family.retention", "retention.keep_count", "member@p", http.MethodPatch, path, map[string]any{"retention": map[string]any{"keep_count": -1}})
	told := w.since()
	for range 2 { // the second tells nothing
		a := w.want(http.StatusOK, "member@p", http.MethodPost, path+"/versions/20260301.1/pin", map[string]any{"note": "a customer's contract"})
		if a.get(t, "pinned") != "true" || a.get(t, "note") != "a customer's contract" {
			t.Errorf("%s", a.body)
		}
	}
	if a := w.want(http.StatusOK, "member@p", http.MethodPost, path+"/versions/20260301.1/unpin", nil); a.get(t, "pinned") != "false" {
		t.Errorf("%s", a.body)
	}
	if got := told(); got != "version.pinned version.unpinned" {
		t.Error(got)
	}
	w.refused(http.StatusBadRequest, "kiln.request.query", "dry_run", "manager@p", http.MethodPost, path+"/retention?dry_run=perhaps", nil)
	a := w.want(http.StatusAccepted, "manager@p", http.MethodPost, path+"/retention?dry_run=true", nil)
	if a := w.want(http.StatusOK, "reader@p", http.MethodGet, "/v1/jobs/"+a.get(t, "job_id"), nil); a.get(t, "kind") != "family.retention" || a.get(t, "resource") != "families/web" {
		t.Errorf("%s", a.body)
	}
}

// A build that began before its base was revoked does not publish after it.
func TestWhatIsMadeFromRevokedIsNotPublished(t *testing.T) {
	w := lineageWorld(t)
	f, err := w.db.EnsureFamily(t.Context(), "p", "base")
	w.must(err)
	made := map[string]catalog.Version{
		"by base":    {ProjectID: "p", Family: "new", Name: "20260401.1", Base: "base/20260302.1", Origin: "build"},
		"by image":   {ProjectID: "p", Family: "new", Name: "20260401.1", BaseImageID: "i-base20260302.1", Origin: "build"},
		"by upgrade": {ProjectID: "p", Family: "base", FamilyID: f.ID, Name: "20260401.1", ParentVersion: "20260302.1", Origin: "upgrade"},
	}
	follows := catalog.Version{ProjectID: "p", Family: "base", FamilyID: f.ID, Name: "20260401.1", ParentVersion: "20260302.1", Origin: "build", Base: "release/bookworm"}
	for _, v := range made {
		w.must(catalog.MayPublish(t.Context(), w.db, v))
	}
	w.want(http.StatusOK, "manager@p", http.MethodPost, bad+"/revoke", map[string]any{"reason": "a hole"})
	w.must(catalog.MayPublish(t.Context(), w.db, follows))
	for how, v := range made {
		if err := catalog.MayPublish(t.Context(), w.db, v); errs.CodeOf(err) != "kiln.version.base_revoked" || !strings.Contains(err.Error(), "a hole") {
			t.Errorf("%s: %v", how, err)
		}
	}
}
