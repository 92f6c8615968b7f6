package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// serviceType is Kiln's type in the service catalog, and its name in OpenStack-API-Version.
const serviceType = "provisioning"

const headerVersion = "OpenStack-API-Version"

// microversion is one version of the API.
type microversion struct{ major, minor int }

// The versions that are served. History: 1.1 is the first one.
var (
	minVersion = microversion{1, 1}
	maxVersion = microversion{1, 1}
)

// String is "1.1".
func (v microversion) String() string { return strconv.Itoa(v.major) + "." + strconv.Itoa(v.minor) }

func (v microversion) less(o microversion) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// version finds which microversion the request asks for, by
// https://specs.openstack.org/openstack/api-wg/guidelines/microversion_specification.html: the lowest where it names
// none, the highest for "latest"; other services' versions in the same header are theirs.
func version(h http.Header) (microversion, error) {
	for item := range strings.SplitSeq(strings.Join(h.Values(headerVersion), ","), ",") {
		words := strings.Fields(item)
		if len(words) == 0 || words[0] != serviceType {
			continue
		}
		if len(words) == 2 && words[1] == "latest" {
			return maxVersion, nil
		}
		v, ok := parseVersion(words)
		if !ok {
			return microversion{}, errs.New(errs.Invalid, "kiln.request.version", "%q is not a version: write %s %s", strings.TrimSpace(item), serviceType, maxVersion)
		}
		if v.less(minVersion) || maxVersion.less(v) {
			return microversion{}, errs.New(errs.NotAcceptable, "kiln.request.version", "version %s is not served: use %s to %s", v, minVersion, maxVersion)
		}
		return v, nil
	}
	return minVersion, nil
}

func parseVersion(words []string) (microversion, bool) {
	if len(words) != 2 {
		return microversion{}, false
	}
	major, minor, ok := strings.Cut(words[1], ".")
	x, err := strconv.ParseUint(major, 10, 15)
	y, err2 := strconv.ParseUint(minor, 10, 15)
	return microversion{int(x), int(y)}, ok && err == nil && err2 == nil
}

// tellVersion names the version that answers; it is told with errors, too.
func tellVersion(c *gin.Context, v microversion) {
	c.Header(headerVersion, serviceType+" "+v.String())
	c.Header("Vary", headerVersion)
}

func (a *api) document(r *http.Request) map[string]any {
	base := a.base(r)
	return map[string]any{
		"id": "v1", "status": "CURRENT", "min_version": minVersion.String(), "max_version": maxVersion.String(), "version": maxVersion.String(),
		"links": []link{{Rel: "self", Href: base + "/v1/"}, {Rel: "describedby", Href: base + "/v1/openapi.yaml"}},
	}
}

func (a *api) showVersions(_ context.Context, c *gin.Context) (Response, error) {
	return ok(map[string]any{"versions": []any{a.document(c.Request)}}), nil
}

func (a *api) showVersion(_ context.Context, c *gin.Context) (Response, error) {
	return ok(map[string]any{"version": a.document(c.Request)}), nil
}

// base is the address of the API without a path.
func (a *api) base(r *http.Request) string {
	if a.PublicURL != "" {
		return strings.TrimSuffix(a.PublicURL, "/")
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}
