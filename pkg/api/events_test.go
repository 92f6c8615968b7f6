package api_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/api"
)

func newAPI(w *world) http.Handler { return api.New(w.deps) }

// until reads lines up to the one that has the text; the lines come back joined.
func until(t *testing.T, lines <-chan string, text string) string {
	t.Helper()
	var all []string
	limit := time.After(10 * time.Second)
	for {
		select {
		case line, open := <-lines:
			all = append(all, line)
			if strings.Contains(line, text) {
				return strings.Join(all, "\n")
			}
			if !open {
				t.Fatalf("the stream ended before %q:\n%s", text, strings.Join(all, "\n"))
			}
		case <-limit:
			t.Fatalf("%q did not come:\n%s", text, strings.Join(all, "\n"))
		}
	}
}

func TestEventsAreFollowed(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(w.http)
	t.Cleanup(server.Close)
	family := func(token, name string) {
		w.want(http.StatusCreated, token, http.MethodPost, "/v1/families", map[string]any{"name": name})
	}
	family("member@p", "before")

	own, stop := follow(t, server, "reader@p", "")
	until(t, own, ": following")
	all, stopAll := follow(t, server, "admin@p", "?all_projects=true")
	until(t, all, ": following")
	family("member@q", "foreign")
	family("member@p", "mine")
	got := until(t, own, `"name":"mine"`)
	if strings.Contains(got, "foreign") || strings.Contains(got, "before") || !strings.Contains(got, "event: family.created") {
		t.Errorf("a reader of p saw:\n%s", got)
	}
	if got := until(t, all, `"name":"mine"`); !strings.Contains(got, "foreign") {
		t.Errorf("the administrator saw:\n%s", got)
	}
	until(t, own, ": still here")
	stop()
	stopAll()

	// Who comes back names the last event and misses none; the header is newer than the query.
	first := w.events("p", 0)[0]
	for query, headers := range map[string][]string{"?after=" + itoa(first.ID): nil, "?after=0": {"Last-Event-ID", itoa(first.ID)}} {
		back, stop := follow(t, server, "reader@p", query, headers...)
		if got := until(t, back, `"name":"mine"`); strings.Contains(got, "before") || !strings.Contains(got, "id: ") {
			t.Errorf("%s %v:\n%s", query, headers, got)
		}
		stop()
	}
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(w.http)
	t.Cleanup(server.Close)
	lines, stop := follow(t, server, "short", "")
	defer stop()
	limit := time.After(10 * time.Second)
	for {
		select {
		case _, open := <-lines:
			if !open {
				return
			}
		case <-limit:
			t.Fatal("the stream outlived its token")
		}
	}
}

func TestStreamsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	w.refused(http.StatusBadRequest, "kiln.request.query", "after", "reader@p", http.MethodGet, "/v1/events?after=-1", nil)
	w.refused(http.StatusForbidden, "kiln.policy.denied", "", "manager@p", http.MethodGet, "/v1/events?all_projects=true", nil)
	if a := w.do("reader@p", http.MethodGet, "/v1/events", nil, "Last-Event-ID", "x"); a.status != http.StatusBadRequest {
		t.Errorf("%d", a.status)
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
