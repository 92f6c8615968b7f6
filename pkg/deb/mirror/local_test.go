package mirror_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/deb/mirror"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// TestHave: whoever asks for a file has it, though it has its name only after its last byte came.
func TestHave(t *testing.T) {
	u := newUpstream(t)
	text := strings.Repeat("package ", 1<<10)
	u.answers(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "none") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = io.WriteString(w, text)
	})
	p, _ := start(t, mirror.Config{Upstreams: []string{u.URL + "/debian"}, Dir: t.TempDir()})
	var group sync.WaitGroup
	for n := range 200 {
		address := fmt.Sprintf("%s/debian/pool/%d_1_amd64.deb", u.URL, n%100) // each by two at once
		group.Go(func() {
			f, err := p.View().Fetch(t.Context(), address)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if b, err := io.ReadAll(f); err != nil || string(b) != text {
				t.Errorf("%s: %d bytes, %v", address, len(b), err)
			}
		})
	}
	group.Wait()
	if n := u.requests.Load(); n < 100 || n > 200 {
		t.Errorf("the mirror was asked %d times", n)
	}
	for address, kind := range map[string]errs.Kind{
		u.URL + "/debian/pool/none_1_amd64.deb": errs.Unavailable, u.URL + "/other/pool/a_1_amd64.deb": errs.Forbidden, u.URL + "/debian/dists/x/Release": errs.Invalid,
	} {
		if _, err := p.Have(t.Context(), address); !errs.Is(err, kind) {
			t.Errorf("%s: %v", address, err)
		}
	}
	u.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := p.Have(ctx, u.URL+"/debian/pool/slow_1_amd64.deb"); err == nil || ctx.Err() == nil {
		t.Errorf("a mirror that says nothing: %v", err)
	}
}
