// Package placement is the placement service of the pocket cloud, microversions 1.0 to 1.39, without nested and
// shared providers in allocation candidates. It answers like Placement 8 (Zed):
// https://docs.openstack.org/api-ref/placement/.
package placement

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// Codes of errors[].code. They never change
// (https://opendev.org/openstack/placement/src/branch/stable/zed/placement/errors.py).
const (
	codeDefault          = "placement.undefined_code"
	codeInventoryInUse   = "placement.inventory.inuse"
	codeConcurrentUpdate = "placement.concurrent_update"
	codeDuplicateName    = "placement.duplicate_name"
	codeProviderInUse    = "placement.resource_provider.inuse"
	codeCannotDelete     = "placement.resource_provider.cannot_delete_parent"
	codeBadValue         = "placement.query.bad_value"
)

var newest = wire.Microversion{Major: 1, Minor: 39}

// Service is the placement service with its state in memory. Safe for many goroutines.
type Service struct {
	kit wire.Kit

	mu        sync.Mutex
	providers map[string]*provider
	order     []string // provider uuids in the order of creation
	consumers map[string]*consumer
	traits    map[string]bool // custom ones
	classes   map[string]bool // custom ones
}

// New makes an empty service.
func New(kit wire.Kit) *Service {
	return &Service{
		kit: kit, providers: map[string]*provider{}, consumers: map[string]*consumer{},
		traits: map[string]bool{}, classes: map[string]bool{},
	}
}

// apiError is an error as Placement answers it.
type apiError struct {
	status int
	code   string
	detail string
}

func (e *apiError) Error() string { return e.detail }

func fail(status int, code, format string, args ...any) *apiError {
	return &apiError{status: status, code: code, detail: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *apiError {
	return fail(http.StatusNotFound, codeDefault, format, args...)
}

func badRequest(format string, args ...any) *apiError {
	return fail(http.StatusBadRequest, codeDefault, format, args...)
}

// call is one request with its microversion.
type call struct {
	*http.Request
	version wire.Microversion
}

func (c call) since(minor int) bool { return c.version.AtLeast(1, minor) }

// decode reads the body into v; fields that the schema does not name are refused.
func (c call) decode(v any) error {
	if media := c.Header.Get("Content-Type"); media != "application/json" {
		if media == "" {
			media = "None"
		}
		return fail(http.StatusUnsupportedMediaType, codeDefault,
			"The media type %s is not supported, use application/json", media)
	}
	dec := json.NewDecoder(io.LimitReader(c.Body, wire.MaxBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return badRequest("Malformed JSON: %v", err)
	}
	return badRequest("JSON does not validate: %v", err)
}

// answer is a successful response; location is a path below the service.
type answer struct {
	status   int
	body     any
	location string
	modified time.Time
}

type handler func(c call) (answer, error)

// route checks the policy rule (admin or service), runs the handler and writes what it answers. Methods that
// came with a later microversion answer missing (404 or 405) below it.
func (s *Service) route(rule string, since, missing int, h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, ok := s.negotiate(w, r)
		if !ok {
			return
		}
		caller := wire.CallerOf(r.Context())
		if !c.since(since) {
			s.fail(w, c, fail(missing, codeDefault, ""))
			return
		}
		if !caller.Admin() && !caller.Is("service") {
			s.fail(w, c, fail(http.StatusForbidden, codeDefault, "Policy does not allow placement:%s to be performed.", rule))
			return
		}
		s.mu.Lock()
		a, err := h(c)
		a.body = wire.Freeze(a.body)
		s.mu.Unlock()
		if err != nil {
			s.fail(w, c, err)
			return
		}
		s.write(w, c, a)
	}
}

func (s *Service) write(w http.ResponseWriter, c call, a answer) {
	if a.location != "" {
		w.Header().Set("Location", s.kit.URL+a.location)
	}
	if c.since(15) && a.body != nil {
		if a.modified.IsZero() {
			a.modified = s.kit.Clock()
		}
		w.Header().Set("Last-Modified", a.modified.UTC().Format(http.TimeFormat))
		w.Header().Set("Cache-Control", "no-cache")
	}
	wire.WriteJSON(w, a.status, a.body)
}

// negotiate finds the microversion: 1.0 without a header.
func (s *Service) negotiate(w http.ResponseWriter, r *http.Request) (call, bool) {
	asked := wire.Asked(r, "placement")
	if asked == "" {
		asked = "1.0"
	}
	version, ok := wire.ParseMicroversion(asked, newest)
	c := call{Request: r, version: version}
	switch {
	case !ok:
		s.failPlain(w, r, http.StatusBadRequest, "Invalid microversion: invalid version string: "+asked, nil)
		return c, false
	case version.Major != 1 || version.Minor > newest.Minor:
		s.failPlain(w, r, http.StatusNotAcceptable, "Invalid microversion: Unacceptable version header: "+asked,
			map[string]any{"max_version": newest.String(), "min_version": "1.0"})
		return c, false
	}
	w.Header().Set("OpenStack-API-Version", "placement "+version.String())
	w.Header().Add("Vary", "OpenStack-API-Version")
	return c, true
}

// failPlain is an error before the microversion is known.
func (s *Service) failPlain(w http.ResponseWriter, r *http.Request, status int, detail string, extra map[string]any) {
	wire.WebobError(w, r, status, detail, func(title, text string) any {
		e := map[string]any{"status": status, "title": title, "detail": text, "request_id": wire.RequestID(r.Context())}
		maps.Copy(e, extra)
		return map[string]any{"errors": []any{e}}
	})
}

func (s *Service) fail(w http.ResponseWriter, c call, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		e = badRequest("%s", err.Error())
	}
	var extra map[string]any
	if c.since(23) {
		extra = map[string]any{"code": e.code}
	}
	s.failPlain(w, c.Request, e.status, e.detail, extra)
}

// Handler is the service's API, below its prefix.
func (s *Service) Handler() http.Handler {
	api := http.NewServeMux()
	s.serveProviders(api)
	s.serveInventories(api)
	s.serveAllocations(api)
	s.serveTraits(api)
	api.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if c, ok := s.negotiate(w, r); ok {
			s.fail(w, c, notFound(""))
		}
	})
	authenticated := s.kit.Authenticate(api)
	root := http.NewServeMux()
	root.Handle("/", authenticated)
	root.HandleFunc("GET /{$}", s.showRoot)
	return root
}

func (s *Service) showRoot(w http.ResponseWriter, r *http.Request) {
	c, ok := s.negotiate(w, r)
	if !ok {
		return
	}
	s.write(w, c, answer{status: http.StatusOK, body: map[string]any{"versions": []any{map[string]any{
		"id": "v1.0", "max_version": newest.String(), "min_version": "1.0", "status": "CURRENT",
		"links": []any{map[string]string{"rel": "self", "href": ""}},
	}}}})
}
