package nova

import (
	"net/http"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// negotiate reads the asked microversion; OpenStack-API-Version wins over the older header of Nova alone.
func negotiate(r *http.Request) (wire.Microversion, error) {
	text := wire.Asked(r, "compute")
	if text == "" {
		text = r.Header.Get("X-OpenStack-Nova-API-Version")
	}
	if text == "" {
		return oldest, nil
	}
	version, valid := wire.ParseMicroversion(text, newest)
	if !valid {
		return version, badRequest("API Version String %s is of invalid format. Must be of format MajorNum.MinorNum.", text)
	}
	if !version.AtLeast(oldest.Major, oldest.Minor) || version != newest && version.AtLeast(newest.Major, newest.Minor) {
		return version, fail(http.StatusNotAcceptable,
			"Version %s is not supported by the API. Minimum is %s and maximum is %s.", text, oldest, newest)
	}
	return version, nil
}

func (s *Server) versionDocument(id string) map[string]any {
	self := []map[string]any{{"rel": "self", "href": s.deps.URL + "/v2.1/"}}
	if id == "v2.0" {
		self[0]["href"] = s.deps.URL + "/v2/"
		return map[string]any{"id": id, "status": "SUPPORTED", "version": "", "min_version": "", "updated": "2011-01-21T11:33:21Z", "links": self}
	}
	return map[string]any{
		"id": id, "status": "CURRENT", "version": newest.String(), "min_version": oldest.String(), "updated": "2013-07-23T11:33:21Z",
		"links": self,
	}
}

// showVersions is GET /; no token.
func (s *Server) showVersions(w http.ResponseWriter) {
	wire.WriteJSON(w, http.StatusOK, map[string]any{
		"versions": []any{s.versionDocument("v2.0"), s.versionDocument("v2.1")},
	})
}

// showVersion is GET /v2.1/; no token.
func (s *Server) showVersion(w http.ResponseWriter, id string) {
	doc := s.versionDocument(id)
	links, _ := doc["links"].([]map[string]any)
	doc["links"] = append(links, map[string]any{"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"})
	media := "application/vnd.openstack.compute+json;version=2.1"
	if id == "v2.0" {
		media = "application/vnd.openstack.compute+json;version=2"
	}
	doc["media-types"] = []any{map[string]any{"base": "application/json", "type": media}}
	wire.WriteJSON(w, http.StatusOK, map[string]any{"version": doc})
}
