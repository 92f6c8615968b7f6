package api_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/build"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// pushed is a push of GitHub's, signed with the secret.
func (w *world) pushed(source, secret, delivery, body string) answer {
	w.t.Helper()
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(body))
	return w.do("", http.MethodPost, "/v1/webhooks/"+source, body,
		"X-GitHub-Event", "push", "X-GitHub-Delivery", delivery, "X-Hub-Signature-256", "sha256="+hex.EncodeToString(h.Sum(nil)))
}

func pushOf(ref, commit string) string {
	return fmt.Sprintf(`{"ref":%q,"after":%q,"repository":{"default_branch":"main"}}`, ref, commit)
}

func TestWebhookStartsASyncOnce(t *testing.T) {
	w := newWorld(t)
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/sources", map[string]any{"name": "images", "url": "https://git.example.org/r", "ref": "main"})
	id, secret := a.get(t, "id"), a.get(t, "secret")
	if a.get(t, "webhook_url") != "http://example.com/v1/webhooks/"+id || !strings.HasPrefix(secret, "whsec_") {
		t.Fatalf("%s", a.body)
	}
	w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/jobs/"+a.get(t, "job_id")+"/cancel", nil)

	first := w.pushed(id, secret, "1", pushOf("refs/heads/main", "c1"))
	if first.status != http.StatusAccepted {
		t.Fatalf("%d %s", first.status, first.body)
	}
	j, err := w.db.FindJob(t.Context(), first.get(t, "job_id"))
	if err != nil || j.Kind != job.SyncSource || string(j.Payload) != `{"source_id":"`+id+`","why":"announced by github"}` || j.ProjectID != "p" {
		t.Errorf("%+v %v", j, err)
	}
	// The same again, also under another name, does nothing.
	for _, delivery := range []string{"1", "2"} {
		if a := w.pushed(id, secret, delivery, pushOf("refs/heads/main", "c1")); a.status != http.StatusOK || !strings.Contains(a.get(t, "ignored"), "before") {
			t.Errorf("%s: %d %s", delivery, a.status, a.body)
		}
	}
	// A burst joins the job that waits; one that runs may have looked already, and is followed by another.
	if a := w.pushed(id, secret, "3", pushOf("refs/heads/main", "c2")); a.status != http.StatusAccepted || a.get(t, "job_id") != j.ID {
		t.Errorf("%d %s", a.status, a.body)
	}
	if _, err := w.db.LeaseJob(t.Context(), []job.Queue{job.WorkerQueue}, nil, "worker", noon.AddDate(0, 0, 1), noon.AddDate(0, 0, 2)); err != nil {
		t.Fatal(err)
	}
	if a := w.pushed(id, secret, "4", pushOf("refs/heads/main", "c3")); a.status != http.StatusAccepted || a.get(t, "job_id") == j.ID {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.pushed(id, secret, "5", pushOf("refs/heads/other", "c4")); a.status != http.StatusOK || !strings.Contains(a.get(t, "ignored"), "refs/heads/other") {
		t.Errorf("%d %s", a.status, a.body)
	}
	jobs, err := w.db.ListJobs(t.Context(), listing.All().Where("kind", string(job.SyncSource)))
	if err != nil || len(jobs) != 3 {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
}

func TestWebhookSecrets(t *testing.T) {
	w := newWorld(t)
	mine := "a-secret-of-our-own"
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/sources", map[string]any{"name": "images", "url": "https://git.example.org/r", "secret": mine})
	id := a.get(t, "id")
	hosted := w.want(http.StatusCreated, "member@p", http.MethodPost, "/v1/sources", map[string]any{"name": "hosted", "hosted": true})
	body := pushOf("refs/heads/main", "c1")
	wrong := w.pushed(id, "wrong", "1", body)
	for name, a := range map[string]answer{"no source": w.pushed("none", mine, "1", body), "hosted": w.pushed(hosted.get(t, "id"), mine, "1", body), "wrong": wrong} {
		var f, g faults
		a.into(t, &f)
		wrong.into(t, &g)
		if a.status != http.StatusUnauthorized || f.Errors[0].Detail != g.Errors[0].Detail || f.Errors[0].Code != g.Errors[0].Code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	// The secret is in no other answer, no event and no log.
	for _, path := range []string{"/v1/sources", "/v1/sources/" + id} {
		if a := w.want(http.StatusOK, "admin@p", http.MethodGet, path, nil); strings.Contains(string(a.body), mine) || strings.Contains(string(a.body), "secret") {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	renewed := w.want(http.StatusOK, "member@p", http.MethodPost, "/v1/sources/"+id+"/secret", map[string]any{})
	fresh := renewed.get(t, "secret")
	w.refused(http.StatusBadRequest, "kiln.source.hosted", "", "member@p", http.MethodPost, "/v1/sources/"+hosted.get(t, "id")+"/secret", map[string]any{})
	if fresh == mine || w.pushed(id, mine, "1", body).status != http.StatusUnauthorized || w.pushed(id, fresh, "1", body).status != http.StatusAccepted {
		t.Errorf("the old secret is taken, or the new one is not: %s", renewed.body)
	}
	for _, e := range w.events("p", 0) {
		if text, err := json.Marshal(e); err != nil || strings.Contains(string(text), mine) || strings.Contains(string(text), fresh) {
			t.Errorf("event %s: %s %v", e.Type, text, err)
		}
	}
	if log := w.log.String(); strings.Contains(log, mine) || strings.Contains(log, fresh) {
		t.Error("the log has a secret")
	}
	w.refused(http.StatusBadRequest, "kiln.source.secret", "secret", "member@p", http.MethodPost, "/v1/sources/"+id+"/secret", map[string]any{"secret": "short"})
	if a := w.pushed(id, fresh, "9", strings.Repeat(" ", 5<<20)); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d", a.status)
	}
	for range 130 {
		a = w.pushed(id, "wrong", "1", body)
	}
	if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") != "60" {
		t.Errorf("after many: %d", a.status)
	}
}

func TestSourceFields(t *testing.T) {
	w := newWorld(t)
	for field, body := range map[string]map[string]any{
		"interval": {"name": "a", "url": "https://git.example.org/r", "interval": "10s"},
		"url":      {"name": "a", "hosted": true, "url": "https://git.example.org/r"},
		"secret":   {"name": "a", "url": "https://git.example.org/r", "secret": "with spaces in it, which no header takes"},
	} {
		code := "kiln.source." + map[string]string{"interval": "interval", "url": "hosted", "secret": "secret"}[field]
		w.refused(http.StatusBadRequest, code, field, "member@p", http.MethodPost, "/v1/sources", body)
	}
	w.refused(http.StatusBadRequest, "kiln.source.interval", "interval", "member@p", http.MethodPost, "/v1/sources", map[string]any{"name": "a", "url": "https://git.example.org/r", "interval": "often"})
	a := w.want(http.StatusAccepted, "member@p", http.MethodPost, "/v1/sources", map[string]any{"name": "a", "url": "https://git.example.org/r", "interval": "15m"})
	var s build.Source
	if a.into(t, &s); s.Interval != "15m" || s.NextSync == nil || s.NextSync.Sub(s.CreatedAt).Minutes() != 15 {
		t.Errorf("%s", a.body)
	}
}
