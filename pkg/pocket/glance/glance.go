// Package glance is the image service of the pocket cloud: the Glance v2 API with several stores, whose images are
// files in a folder. It answers like Glance 25 (Zed) with the secure default policies:
// https://docs.openstack.org/api-ref/image/v2/. web-download, metadata definitions and the image cache are not served.
package glance

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// Options are what an operator would have configured.
type Options struct {
	Stores []string           // store ids, the first is the default one
	Quota  int64              // the most bytes an image may have; 0 for no limit
	Record func(wire.Request) // writes downloads inside the process into the request log
	Keep   bool               // keeps active images in the folder from one service to the next
}

// Service is the image service. Metadata is in memory, the bytes are below the kit's folder:
// stores/<store>/<image id> for what can be seen, staging/ and incoming/ for what cannot. Safe for many goroutines.
type Service struct {
	kit  wire.Kit
	opts Options
	work sync.WaitGroup // import tasks

	mu      sync.Mutex
	images  map[string]*image
	order   []string        // image ids in the order of creation
	gone    map[string]bool // ids of deleted images, which Glance keeps as rows for ever
	tasks   map[string]*task
	uploads int // counts names in incoming/
}

// New makes a service; files that an earlier one left in the folder are removed unless Options.Keep is set.
func New(kit wire.Kit, opts Options) (*Service, error) {
	kit.Refuse = func(w http.ResponseWriter, r *http.Request) {
		wire.WebobExplained(w, r, http.StatusUnauthorized, "", "")
	}
	s := &Service{kit: kit, opts: opts, images: map[string]*image{}, gone: map[string]bool{}, tasks: map[string]*task{}}
	leftovers := []string{kit.Dir}
	if opts.Keep {
		leftovers = []string{s.path("staging"), s.path("incoming")}
	}
	for _, dir := range leftovers {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("pocket glance: %w", err)
		}
	}
	folders := []string{s.path("staging"), s.path("incoming")}
	for _, store := range opts.Stores {
		folders = append(folders, s.path("stores", store))
	}
	for _, folder := range folders {
		if err := os.MkdirAll(folder, 0o750); err != nil {
			return nil, fmt.Errorf("pocket glance: %w", err)
		}
	}
	if opts.Keep {
		return s, s.load(s.path(keptFile))
	}
	return s, nil
}

const keptFile = "images.json"

// Close waits for the import tasks, and writes down what Options.Keep says to keep.
func (s *Service) Close() error {
	s.work.Wait()
	if s.opts.Keep {
		return s.save(s.path(keptFile))
	}
	return nil
}

func (s *Service) path(parts ...string) string {
	return filepath.Join(append([]string{s.kit.Dir}, parts...)...)
}

// apiError is an error as Glance answers it: a text in place of WebOb's sentence, or a detail after it.
type apiError struct {
	status       int
	text, detail string
}

func (e *apiError) Error() string { return e.text + e.detail }

func failDetail(status int, format string, args ...any) *apiError {
	return &apiError{status: status, detail: fmt.Sprintf(format, args...)}
}

func fail(status int, format string, args ...any) *apiError {
	return &apiError{status: status, text: fmt.Sprintf(format, args...)}
}

func noImage(id string) *apiError { return fail(http.StatusNotFound, "No image found with ID %s", id) }

func forbidden(rule string) *apiError {
	return fail(http.StatusForbidden, "You are not authorized to complete %s action.", rule)
}

func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		e = fail(http.StatusBadRequest, "%s", err.Error())
	}
	wire.WebobExplained(w, r, e.status, e.text, e.detail)
}

// call is one request with who makes it.
type call struct {
	*http.Request
	caller wire.Caller
}

func (c call) id() string { return c.PathValue("id") }

// answer is a successful response.
type answer struct {
	status int
	body   any
	header map[string]string
}

// route runs a handler under the lock.
func (s *Service) route(h func(c call) (answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		a, err := h(call{Request: r, caller: wire.CallerOf(r.Context())})
		a.body = wire.Freeze(a.body)
		s.mu.Unlock()
		s.finish(w, r, a, err)
	}
}

// slow runs a handler that moves bytes and takes the lock by itself.
func (s *Service) slow(h func(c call) (answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := h(call{Request: r, caller: wire.CallerOf(r.Context())})
		s.finish(w, r, a, err)
	}
}

func (s *Service) finish(w http.ResponseWriter, r *http.Request, a answer, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	wire.WriteJSON(w, a.status, a.body)
}

// Handler is the service's API, below its prefix.
func (s *Service) Handler() http.Handler {
	api := http.NewServeMux()
	api.HandleFunc("GET /v2/images", s.route(s.list))
	api.HandleFunc("POST /v2/images", s.route(s.create))
	api.HandleFunc("GET /v2/images/{id}", s.route(s.show))
	api.HandleFunc("PATCH /v2/images/{id}", s.route(s.patch))
	api.HandleFunc("DELETE /v2/images/{id}", s.route(s.remove))
	api.HandleFunc("PUT /v2/images/{id}/file", s.slow(s.upload))
	api.HandleFunc("GET /v2/images/{id}/file", s.download)
	api.HandleFunc("PUT /v2/images/{id}/stage", s.slow(s.stage))
	api.HandleFunc("POST /v2/images/{id}/import", s.route(s.importImage))
	api.HandleFunc("GET /v2/images/{id}/tasks", s.route(s.listImageTasks))
	api.HandleFunc("POST /v2/images/{id}/actions/deactivate", s.route(s.deactivate))
	api.HandleFunc("POST /v2/images/{id}/actions/reactivate", s.route(s.reactivate))
	api.HandleFunc("PUT /v2/images/{id}/tags/{tag}", s.route(s.putTag))
	api.HandleFunc("DELETE /v2/images/{id}/tags/{tag}", s.route(s.deleteTag))
	api.HandleFunc("DELETE /v2/stores/{store}/{id}", s.route(s.removeFromStore))
	api.HandleFunc("GET /v2/tasks", s.route(s.listTasks))
	api.HandleFunc("GET /v2/tasks/{task}", s.route(s.showTask))
	api.HandleFunc("GET /v2/info/stores", s.route(s.listStores))
	api.HandleFunc("GET /v2/info/stores/detail", s.route(s.detailStores))
	api.HandleFunc("GET /v2/info/import", s.route(s.showImportMethods))
	api.HandleFunc("GET /v2/schemas/{kind}", s.route(s.showSchema))
	s.serveMembers(api)
	api.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, fail(http.StatusNotFound, "")) })

	root := http.NewServeMux()
	root.Handle("/", s.kit.Authenticate(api))
	root.HandleFunc("GET /{$}", s.versions(http.StatusMultipleChoices))
	root.HandleFunc("GET /versions", s.versions(http.StatusOK))
	root.HandleFunc("GET /healthcheck", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK")) })
	return root
}

func (s *Service) versions(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		list := []any{}
		for v := range strings.FieldsSeq("2.15 2.13 2.12 2.11 2.10 2.9 2.8 2.7 2.6 2.5 2.4 2.3 2.2 2.1 2.0") {
			state := "SUPPORTED"
			if v == "2.15" {
				state = "CURRENT"
			}
			list = append(list, map[string]any{"id": "v" + v, "status": state,
				"links": []any{map[string]string{"rel": "self", "href": s.kit.URL + "/v2/"}}})
		}
		wire.WriteJSON(w, status, map[string]any{"versions": list})
	}
}

// decode reads a JSON body into v.
func (c call) decode(v any) error {
	if err := wire.ReadJSON(c.Request, v); err != nil {
		return fail(http.StatusBadRequest, "%s", err.Error())
	}
	return nil
}

var _ json.Marshaler = (*image)(nil)
