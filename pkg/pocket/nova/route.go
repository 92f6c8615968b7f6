package nova

import (
	"maps"
	"net/http"
	"regexp"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// call is one request on its way through a handler.
type call struct {
	*http.Request
	caller  wire.Caller
	version wire.Microversion
}

// at reports whether the request speaks 2.minor or newer.
func (c *call) at(minor int) bool { return c.version.AtLeast(2, minor) }

// may refuses callers that lack a role: "admin", or "member"/"reader" (where an admin may as well).
func (c *call) may(role, rule string) error {
	ok := c.caller.Admin() || c.caller.Is(role) || role == "reader" && c.caller.Is("member")
	if role == "admin" {
		ok = c.caller.Admin()
	}
	if !ok && !strings.HasPrefix(rule, "compute:") {
		rule = "os_compute_api:" + rule
	}
	if !ok {
		return forbidden(rule)
	}
	return nil
}

// answer is a handler's result; a nil body answers none.
type answer struct {
	status int
	body   any
	header http.Header
}

func ok(body any) (answer, error) { return answer{status: http.StatusOK, body: body}, nil }

type handlerFunc func(c *call) (answer, error)

var projectID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// routes are the paths below /compute. Nova takes /v2.1/servers and /v2.1/{project}/servers alike.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range s.table() {
		mux.HandleFunc(pattern, s.serve(h))
	}
	mux.HandleFunc("/", noRoute)
	checked := s.deps.Authenticate(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimSuffix(r.URL.Path, "/")
		switch path {
		case "":
			s.showVersions(w)
			return
		case "/v2.1":
			setVersion(w, oldest.String())
			s.showVersion(w, "v2.1")
			return
		case "/v2":
			s.showVersion(w, "v2.0")
			return
		}
		rest, found := strings.CutPrefix(path, "/v2.1/")
		if !found {
			noRoute(w, r)
			return
		}
		if first, after, more := strings.Cut(rest, "/"); more && projectID.MatchString(first) {
			rest = after
		}
		clone := r.Clone(r.Context())
		clone.URL.Path, clone.URL.RawPath = "/"+rest, ""
		checked.ServeHTTP(w, clone)
	})
}

// table is every route, in Go's pattern language.
func (s *Server) table() map[string]handlerFunc {
	return map[string]handlerFunc{
		"GET /flavors": s.listFlavors, "GET /flavors/detail": s.listFlavorsDetail, "POST /flavors": s.createFlavor,
		"GET /flavors/{id}": s.showFlavor, "DELETE /flavors/{id}": s.deleteFlavor, "GET /flavors/{id}/os-extra_specs": s.showExtraSpecs,

		"POST /servers": s.createServer, "GET /servers": s.listServers, "GET /servers/detail": s.listServersDetail,
		"GET /servers/{id}": s.showServer, "DELETE /servers/{id}": s.deleteServer, "PUT /servers/{id}": s.updateServer,
		"POST /servers/{id}/action": s.actOnServer,

		"GET /servers/{id}/metadata": s.showMetadata, "POST /servers/{id}/metadata": s.addMetadata,
		"PUT /servers/{id}/metadata": s.replaceMetadata, "GET /servers/{id}/metadata/{key}": s.showMetadataItem,
		"PUT /servers/{id}/metadata/{key}": s.setMetadataItem, "DELETE /servers/{id}/metadata/{key}": s.deleteMetadataItem,

		"GET /os-hypervisors": s.listHypervisors, "GET /os-hypervisors/detail": s.listHypervisorsDetail,
		"GET /os-hypervisors/{id}": s.showHypervisor,
		"GET /os-services":         s.listServices, "PUT /os-services/{id}": s.updateService,
		"GET /os-availability-zone": s.listZones,

		"GET /os-aggregates": s.listAggregates, "POST /os-aggregates": s.createAggregate,
		"GET /os-aggregates/{id}": s.showAggregate, "PUT /os-aggregates/{id}": s.updateAggregate,
		"DELETE /os-aggregates/{id}": s.deleteAggregate, "POST /os-aggregates/{id}/action": s.actOnAggregate,
		"POST /os-aggregates/{id}/images": s.cacheImages,

		"GET /limits": s.showLimits, "GET /os-quota-sets/{id}": s.showQuota,
	}
}

// serve agrees on the microversion, runs the handler and writes what it answers.
func (s *Server) serve(h handlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Compute-Request-Id", wire.RequestID(r.Context()))
		version, err := negotiate(r)
		if version != (wire.Microversion{}) { // a version out of range is echoed as well
			setVersion(w, version.String())
		}
		if err != nil {
			writeError(w, err)
			return
		}
		result, err := h(&call{Request: r, caller: wire.CallerOf(r.Context()), version: version})
		if err != nil {
			writeError(w, err)
			return
		}
		maps.Copy(w.Header(), result.header)
		if result.body == nil {
			w.Header().Set("Content-Type", "application/json") // Nova says so of its empty answers too
		}
		wire.WriteJSON(w, result.status, result.body)
	}
}

func setVersion(w http.ResponseWriter, version string) {
	w.Header().Set("OpenStack-API-Version", "compute "+version)
	w.Header().Set("X-OpenStack-Nova-API-Version", version)
	w.Header()["Vary"] = []string{"X-OpenStack-Nova-API-Version", "OpenStack-API-Version"}
}

// noRoute is the web framework's answer to a path that nobody serves, in the form that the client takes.
func noRoute(w http.ResponseWriter, r *http.Request) {
	if wire.Accepts(r, "application/json") {
		wire.WriteJSON(w, http.StatusNotFound, map[string]any{
			"message": "The resource could not be found.<br /><br />\n\n\n", "code": "404 Not Found", "title": "Not Found",
		})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write([]byte("404 Not Found\n\nThe resource could not be found.\n\n   ")) // the client went away
}
