package glance_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/disk/remote"
	"github.com/kiln-cloud/kiln/pkg/disk/remote/remotetest"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/cloudtest"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
	"github.com/kiln-cloud/kiln/pkg/pocket"
	"github.com/kiln-cloud/kiln/pkg/testkit/real"
)

func TestPocketRanges(t *testing.T) {
	_, cloud := cloudtest.Pocket(t, pocket.Config{})
	rangesOf(t, glance.New(cloud))
}

func TestRealRanges(t *testing.T) {
	rangesOf(t, glance.New(cloudtest.Real(t, "kiln", "service", real.Glance)))
}

// rangesOf holds ranges of an image against the contract, and meets an image that goes away while it is read.
func rangesOf(t *testing.T, c *glance.Client) {
	n := newImage()
	image := create(t, c, n)
	data := remotetest.Data()
	if err := c.Upload(t.Context(), image.ID, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	open := func(t *testing.T, o remote.Options) *remote.Reader {
		return remote.New(t.Context(), c.Ranges(image.ID, int64(len(data))), int64(len(data)), o)
	}
	remotetest.Run(t, func(t *testing.T, _ []byte) io.ReaderAt { return open(t, remote.Options{}) })
	r := open(t, remote.Options{})
	read := func(off int64) error {
		_, err := r.ReadAt(make([]byte, 100), off)
		return err
	}
	if err := read(5000); err != nil {
		t.Fatal(err)
	}
	if s := r.Stats(); s.Questions != 1 || s.Bytes != 64<<10 {
		t.Errorf("a hundred bytes cost %+v", s)
	}
	if err := c.DeleteImage(t.Context(), image.ID); err != nil {
		t.Fatal(err)
	}
	if err := read(5000); err != nil {
		t.Errorf("what is kept: %v", err)
	}
	if err := read(400_000); !errs.Is(err, errs.NotFound) || r.Err() == nil {
		t.Errorf("after the delete: %v", err)
	}
}

// The service user of a real cloud is an administrator, whom a deactivated image does not stop; a plain member is.
func TestPocketDeactivatedInTheMiddle(t *testing.T) {
	pocketCloud, cloud := cloudtest.Pocket(t, pocket.Config{})
	admin, other := glance.New(cloud), glance.New(cloudtest.As(t, openstack.Config{AuthURL: pocketCloud.AuthURL(), Username: "other", ProjectName: "other"}))
	data := remotetest.Data()
	image := create(t, admin, catalog.NewGlanceImage{ID: newImage().ID, Name: "open", DiskFormat: "raw", ContainerFormat: "bare", Visibility: "public"})
	if err := admin.Upload(t.Context(), image.ID, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	r := remote.New(t.Context(), other.Ranges(image.ID, int64(len(data))), int64(len(data)), remote.Options{})
	if _, err := r.ReadAt(make([]byte, 100), 0); err != nil {
		t.Fatal(err)
	}
	if err := admin.Deactivate(t.Context(), image.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(make([]byte, 100), 400_000); !errs.Is(err, errs.Forbidden) {
		t.Errorf("after it was deactivated: %v", err)
	}
}

// scripted is a cloud of one image whose n-th read (from 1) is answered by the script; a script that does nothing
// leaves it to Go's own server of ranges.
type scripted struct {
	*httptest.Server
	data   []byte
	reads  atomic.Int64
	logins atomic.Int64
}

func newScripted(t *testing.T, script func(n int64, w http.ResponseWriter, r *http.Request) (done bool)) (*scripted, *glance.Client) {
	t.Helper()
	s := &scripted{data: remotetest.Data()}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v3/auth/tokens", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Subject-Token", fmt.Sprintf("token-%d", s.logins.Add(1)))
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"token":{"expires_at":%q,"issued_at":%q,"project":{"id":"p","name":"service"},"catalog":[{"type":"image","endpoints":[{"interface":"public","url":%q}]}]}}`,
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339), s.URL)
	})
	mux.HandleFunc("GET /v2/images/{id}/file", func(w http.ResponseWriter, r *http.Request) {
		if n := s.reads.Add(1); script == nil || !script(n, w, r) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.data))
		}
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s, glance.New(cloudtest.As(t, openstack.Config{AuthURL: s.URL, Interface: "public"}))
}

func TestRangesOfAnotherServer(t *testing.T) {
	s, c := newScripted(t, nil)
	remotetest.Run(t, func(t *testing.T, data []byte) io.ReaderAt {
		return remote.New(t.Context(), c.Ranges("i", remotetest.Size), remotetest.Size, remote.Options{Block: 8 << 10})
	})
	if s.logins.Load() != 1 {
		t.Errorf("%d logins", s.logins.Load())
	}
}

func TestRangeFaults(t *testing.T) {
	answer := func(status int) func(int64, http.ResponseWriter, *http.Request) bool {
		return func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			return true
		}
	}
	data := remotetest.Data()
	for name, c := range map[string]struct {
		script func(int64, http.ResponseWriter, *http.Request) bool
		code   string // "" for success
		reads  int64
	}{
		"whole":             {func(_ int64, w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write(data); return true }, glance.CodeNoRange, 1},
		"no random access":  {answer(http.StatusBadRequest), glance.CodeNoRange, 1},
		"not understood":    {answer(http.StatusRequestedRangeNotSatisfiable), glance.CodeNoRange, 1},
		"no bytes":          {answer(http.StatusNoContent), "kiln.glance.no_data", 1},
		"deactivated":       {answer(http.StatusForbidden), "kiln.glance.forbidden", 1},
		"gone":              {answer(http.StatusNotFound), "kiln.glance.not_found", 1},
		"away for ever":     {answer(http.StatusServiceUnavailable), "kiln.glance.unavailable", 4},
		"away for a moment": {until(3, answer(http.StatusBadGateway)), "", 3},
		"another token":     {until(2, answer(http.StatusUnauthorized)), "", 2},
		"cut": {until(2, func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+fmt.Sprintf("/%d", len(data)))
			w.Header().Set("Content-Length", "65536")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[:1000])
			panic(http.ErrAbortHandler)
		}), "", 2},
		"another range": {func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[:10])
			return true
		}, glance.CodeNoRange, 1},
		"more than asked": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+fmt.Sprintf("/%d", len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data)
			return true
		}, glance.CodeNoRange, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := newScripted(t, c.script)
			r := remote.New(t.Context(), client.Ranges("i", int64(len(data))), int64(len(data)), remote.Options{Pause: time.Millisecond})
			p := make([]byte, 500)
			_, err := r.ReadAt(p, 40_000)
			if c.code == "" && (err != nil || !bytes.Equal(p, data[40_000:40_500])) || c.code != "" && errs.CodeOf(err) != c.code {
				t.Errorf("%v", err)
			}
			if n := s.reads.Load(); n != c.reads {
				t.Errorf("%d reads, not %d", n, c.reads)
			}
		})
	}
}

// until lets the script answer the reads before the n-th.
func until(n int64, script func(int64, http.ResponseWriter, *http.Request) bool) func(int64, http.ResponseWriter, *http.Request) bool {
	return func(i int64, w http.ResponseWriter, r *http.Request) bool { return i < n && script(i, w, r) }
}

// A server that says nothing costs a try its time, not for ever.
func TestRangeOfASilentServer(t *testing.T) {
	_, client := newScripted(t, func(n int64, _ http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			<-r.Context().Done()
		}
		return n == 1
	})
	r := remote.New(t.Context(), client.Ranges("i", remotetest.Size), remotetest.Size, remote.Options{Timeout: 200 * time.Millisecond, Pause: time.Millisecond})
	if _, err := r.ReadAt(make([]byte, 10), 0); err != nil {
		t.Error(err)
	}
}
