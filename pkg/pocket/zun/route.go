package zun

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

// at reports whether the request speaks 1.minor or newer.
func (c *call) at(minor int) bool { return c.version.AtLeast(1, minor) }

// adminOnly refuses everybody else by the rule's name.
func (c *call) adminOnly(rule string) error {
	if c.caller.Admin() {
		return nil
	}
	return forbidden(rule)
}

// needs refuses a parameter that is newer than the request (zun.api.utils.version_check).
func (c *call) needs(param string, minor int) error {
	if c.at(minor) {
		return nil
	}
	return fail(http.StatusBadRequest, "invalid-param-in-version",
		"Invalid param %s because current request version is %s. %s is only supported from version 1.%d", param, c.version, param, minor)
}

// answer is a handler's result; null answers the JSON null, which Zun's actions do.
type answer struct {
	status int
	body   any
	header http.Header
}

func ok(body any) (answer, error) { return answer{status: http.StatusOK, body: body}, nil }

// null is the body of an action's 202.
type null struct{}

// MarshalJSON writes null.
func (null) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

type handlerFunc func(c *call) (answer, error)

// since and until bound the microversions 1.N of a route; 0 is no bound.
type route struct {
	handle       handlerFunc
	since, until int
}

var versionHeaders = []string{
	"Openstack-Api-Minimum-Version", "Openstack-Api-Maximum-Version", "Openstack-Api-Version", "Vary",
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, r := range s.table() {
		mux.HandleFunc(pattern, s.serve(r))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { s.writeError(w, bare(http.StatusNotFound)) })
	checked := s.deps.Authenticate(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimSuffix(r.URL.Path, "/")
		switch path {
		case "":
			s.showVersions(w)
			return
		case "/v1":
			s.withVersion(w, r, func(wire.Microversion) { s.showVersion(w) })
			return
		}
		clone := r.Clone(r.Context())
		clone.URL.Path, clone.URL.RawPath = path, ""
		checked.ServeHTTP(w, clone)
	})
}

// table is every route. Pecan finds an unknown action's 404 by itself.
func (s *Server) table() map[string]route {
	table := map[string]route{
		"GET /v1/containers": {handle: s.listContainers}, "POST /v1/containers": {handle: s.createContainer},
		"GET /v1/containers/{id}": {handle: s.showContainer}, "DELETE /v1/containers/{id}": {handle: s.deleteContainer},
		"PATCH /v1/containers/{id}":                        {handle: s.patchContainer},
		"POST /v1/containers/{id}/rename":                  {handle: s.renameContainer, until: 13},
		"POST /v1/containers/{id}/resize_container":        {handle: s.resizeContainer, since: 19},
		"POST /v1/containers/{id}/rebuild":                 {handle: s.rebuildContainer},
		"POST /v1/containers/{id}/execute":                 {handle: s.execute},
		"GET /v1/containers/{id}/logs":                     {handle: s.showLogs},
		"GET /v1/containers/{id}/top":                      {handle: s.showTop},
		"GET /v1/containers/{id}/stats":                    {handle: s.showStats},
		"GET /v1/containers/{id}/network_list":             {handle: s.showNetworks, since: 18},
		"GET /v1/containers/{id}/container_actions":        {handle: s.listActions},
		"GET /v1/containers/{id}/container_actions/{name}": {handle: s.showAction},

		"GET /v1/images": {handle: s.listImages}, "POST /v1/images": {handle: s.pullImage},
		"GET /v1/images/{id}": {handle: s.showImage}, "DELETE /v1/images/{id}": {handle: s.deleteImage},
		"GET /v1/images/{id}/search": {handle: s.searchImages},

		"GET /v1/hosts": {handle: s.listHosts, since: 4}, "GET /v1/hosts/{id}": {handle: s.showHost, since: 4},
		"GET /v1/services": {handle: s.listServices}, "PUT /v1/services/{action}": {handle: s.changeService},
		"GET /v1/availability_zones": {handle: s.listZones},
		"GET /v1/quotas/{id}":        {handle: s.showQuota}, "PUT /v1/quotas/{id}": {handle: s.updateQuota},
		"DELETE /v1/quotas/{id}": {handle: s.deleteQuota},
	}
	for _, power := range []string{"start", "stop", "reboot", "pause", "unpause", "kill"} {
		table["POST /v1/containers/{id}/"+power] = route{handle: func(c *call) (answer, error) { return s.power(c, power) }}
	}
	return table
}

func (s *Server) serve(route route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.withVersion(w, r, func(version wire.Microversion) {
			if version.Minor < route.since || route.until > 0 && version.Minor > route.until {
				s.writeError(w, bare(http.StatusNotAcceptable))
				return
			}
			result, err := route.handle(&call{Request: r, caller: wire.CallerOf(r.Context()), version: version})
			if err != nil {
				s.writeError(w, err)
				return
			}
			maps.Copy(w.Header(), result.header)
			wire.WriteJSON(w, result.status, result.body)
		})
	}
}

var wellFormed = regexp.MustCompile(`^([1-9]\d*)\.([1-9]\d*|0)$`)

// withVersion agrees on the microversion, or answers as Zun does: 406 for what it cannot read and for another
// service's header, a bare 500 for what is out of range (its own error class fails).
func (s *Server) withVersion(w http.ResponseWriter, r *http.Request, then func(wire.Microversion)) {
	version := oldest
	if header := r.Header.Get("OpenStack-API-Version"); header != "" {
		text := wire.Asked(r, "container")
		if text != "latest" && !wellFormed.MatchString(text) {
			s.writeError(w, bare(http.StatusNotAcceptable))
			return
		}
		version, _ = wire.ParseMicroversion(text, newest)
	}
	if version.Major != 1 || version.Minor < oldest.Minor || version.Minor > newest.Minor {
		w.Header().Del("X-Openstack-Request-Id")
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	for n, value := range []string{
		"container " + oldest.String(), "container " + newest.String(), "container " + version.String(), "OpenStack-API-Version",
	} {
		w.Header().Set(versionHeaders[n], value)
	}
	then(version)
}
